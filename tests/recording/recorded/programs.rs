//! Programs stored in the server: triggers, procedures, functions, events. Their rows are recorded as everybody's rows.

use std::time::Duration;

use crate::common::wait_until;
use crate::recorded::notation::{Recorded, on_both_flavors};

on_both_flavors! {
    rows_of_triggers_stand_in_the_statement_that_fired_them: "triggers",
    statements_of_a_procedure_are_recorded_one_by_one: "procedures",
    rows_of_a_function_belong_to_the_statement_that_called_it: "functions",
    an_event_is_recorded_as_what_it_does: "events",
}

async fn rows_of_triggers_stand_in_the_statement_that_fired_them(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
                "CREATE TABLE log (n INT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(40))",
                "CREATE TRIGGER before_insert BEFORE INSERT ON t FOR EACH ROW SET NEW.v = NEW.v * 2",
                "CREATE TRIGGER after_insert AFTER INSERT ON t FOR EACH ROW INSERT INTO log (what) VALUES (CONCAT('ins ', NEW.id))",
                "CREATE TRIGGER after_delete AFTER DELETE ON t FOR EACH ROW INSERT INTO log (what) VALUES (CONCAT('del ', OLD.id))",
            ],
            &[
                "INSERT INTO t VALUES (1, 10), (2, 20)",
                "DELETE FROM t",
                // No rows, no triggers.
                "INSERT INTO t VALUES (3, 30)",
                "TRUNCATE TABLE t",
            ],
            "
            --
            0.0 insert t 1 + {id: 1, v: 20} | INSERT INTO t VALUES (1, 10), (2, 20)
            0.1 insert log 1 + {n: 1, what: 'ins 1'}
            0.2 insert t 2 + {id: 2, v: 40}
            0.3 insert log 2 + {n: 2, what: 'ins 2'}
            --
            0.0 delete t 1 - {id: 1, v: 20} | DELETE FROM t
            0.1 insert log 3 + {n: 3, what: 'del 1'}
            0.2 delete t 2 - {id: 2, v: 40}
            0.3 insert log 4 + {n: 4, what: 'del 2'}
            --
            0.0 insert t 3 + {id: 3, v: 60} | INSERT INTO t VALUES (3, 30)
            0.1 insert log 5 + {n: 5, what: 'ins 3'}
            --
            0.0 ddl t | TRUNCATE TABLE t
            ",
        )
        .await;
}

async fn statements_of_a_procedure_are_recorded_one_by_one(mut recorded: Recorded) {
    // The texts are those of the procedure, its parameters by name. Without BEGIN each is a transaction of its own.
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
                "CREATE PROCEDURE p(IN a INT) BEGIN INSERT INTO t VALUES (a, 1); UPDATE t SET v = v + 1 WHERE id = a; END",
                "CREATE PROCEDURE dynamic() BEGIN SET @s = 'INSERT INTO t VALUES (?, 5)'; PREPARE q FROM @s; SET @a = 9; EXECUTE q USING @a; END",
            ],
            &[
                "CALL p(7)",
                "BEGIN",
                "CALL p(8)",
                "COMMIT",
                "CALL dynamic()",
            ],
            "
            --
            0.0 insert t 7 + {id: 7, v: 1} | INSERT INTO t VALUES (a, 1)
            --
            0.0 update t 7 {id: 7, v: 1} → {id: 7, v: 2} (v) | UPDATE t SET v = v + 1 WHERE id = a
            --
            0.0 insert t 8 + {id: 8, v: 1} | INSERT INTO t VALUES (a, 1)
            1.1 update t 8 {id: 8, v: 1} → {id: 8, v: 2} (v) | UPDATE t SET v = v + 1 WHERE id = a
            --
            0.0 insert t 9 + {id: 9, v: 5} | INSERT INTO t VALUES (9, 5)
            ",
        )
        .await;
    recorded.assert_exact(&["t"]).await;
}

async fn rows_of_a_function_belong_to_the_statement_that_called_it(mut recorded: Recorded) {
    // MySQL gives the text that was running when the first row changed: the function's own, not its caller's.
    recorded
        .records(
            &[
                "SET GLOBAL log_bin_trust_function_creators = ON",
                "CREATE TABLE t (id INT PRIMARY KEY)",
                "CREATE TABLE log (n INT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(9))",
                "CREATE FUNCTION f(a INT) RETURNS INT BEGIN INSERT INTO log (what) VALUES ('f'); UPDATE log SET what = 'g' WHERE what = 'f'; RETURN a; END",
            ],
            &[
                "SELECT f(1)",
                "INSERT INTO t VALUES (f(50))",
                "SET @x = f(3)",
            ],
            "
            --
            0.0 insert log 1 + {n: 1, what: 'f'} | INSERT INTO log (what) VALUES ('f')
            0.1 update log 1 {n: 1, what: 'f'} → {n: 1, what: 'g'} (what)
            --
            0.0 insert log 2 + {n: 2, what: 'f'} | INSERT INTO log (what) VALUES ('f')
            0.1 update log 2 {n: 2, what: 'f'} → {n: 2, what: 'g'} (what)
            0.2 insert t 50 + {id: 50}
            --
            0.0 insert log 3 + {n: 3, what: 'f'} | INSERT INTO log (what) VALUES ('f')
            0.1 update log 3 {n: 3, what: 'f'} → {n: 3, what: 'g'} (what)
            ",
        )
        .await;
}

async fn an_event_is_recorded_as_what_it_does(mut recorded: Recorded) {
    recorded
        .run(&["CREATE TABLE log (n INT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(9))"])
        .await;
    let from = recorded.mark().await;
    recorded
        .run(&["SET GLOBAL event_scheduler = ON", "CREATE EVENT once ON SCHEDULE AT CURRENT_TIMESTAMP DO INSERT INTO log (what) VALUES ('event')"])
        .await;
    // The server drops an event that will not run again, and logs that too, in words of its own.
    let schema = recorded.schema;
    wait_until("the event is done", Duration::from_secs(30), async || {
        let left: i64 = recorded
            .server
            .query_one(format!(
                "SELECT COUNT(*) FROM information_schema.events WHERE event_schema = '{schema}'"
            ))
            .await;
        left == 0
    })
    .await;
    recorded
        .expect_from(
            from,
            recorded.pick(
                "
                --
                0.0 ddl | CREATE DEFINER=`root`@`%` EVENT once ON SCHEDULE AT CURRENT_TIMESTAMP DO INSERT INTO log (what) VALUES ('event')
                --
                0.0 insert log 1 + {n: 1, what: 'event'} | INSERT INTO log (what) VALUES ('event')
                --
                0.0 ddl | DROP EVENT IF EXISTS`events`.`once`
                ",
                "
                --
                0.0 ddl | CREATE DEFINER=`root`@`127.0.0.1` EVENT once ON SCHEDULE AT CURRENT_TIMESTAMP DO INSERT INTO log (what) VALUES ('event')
                --
                0.0 insert log 1 + {n: 1, what: 'event'}
                --
                0.0 ddl | DROP EVENT `events`.`once`
                ",
            ),
        )
        .await;
}
