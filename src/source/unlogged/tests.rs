//! What the facts about a server mean.

use super::*;

/// MySQL 9.7 with nothing to warn of.
fn healthy() -> Facts {
    Facts {
        variables: variables(&[
            ("binlog_error_action", "ABORT_SERVER"),
            ("innodb_native_foreign_keys", "OFF"),
            ("log_replica_updates", "ON"),
            ("sync_binlog", "1"),
        ]),
        rights: vec!["SELECT".to_owned(), "REPLICATION SLAVE".to_owned()],
        is_replica: Some(false),
        ..Facts::default()
    }
}

/// MariaDB with nothing to warn of.
fn mariadb() -> Facts {
    Facts {
        is_mariadb: true,
        variables: variables(&[
            ("gtid_slave_pos", ""),
            ("log_slave_updates", "ON"),
            ("sync_binlog", "1"),
        ]),
        rights: vec!["REFERENCES".to_owned()],
        ..healthy()
    }
}

fn variables(values: &[(&str, &str)]) -> HashMap<String, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    values.iter().map(owned).collect()
}

fn tables(count: usize) -> Tables {
    let mut tables = Tables::default();
    for number in 0..count {
        tables.add(format!("shop.t{number}"));
    }
    tables
}

fn set(mut facts: Facts, name: &str, value: &str) -> Facts {
    facts.variables.insert(name.to_owned(), value.to_owned());
    facts
}

/// The only warning.
fn warning(facts: &Facts) -> String {
    match &judge(facts)[..] {
        [warning] => warning.clone(),
        other => panic!("{other:#?}"),
    }
}

fn none(facts: &Facts) {
    assert_eq!(judge(facts), Vec::<String>::new());
}

#[test]
fn there_is_nothing_to_say_of_a_server_that_logs_everything() {
    none(&healthy());
    none(&mariadb());
    // Cascades that are logged are no matter.
    none(&Facts {
        cascading: tables(3),
        ..healthy()
    });
}

#[test]
fn cascades_below_the_binlog_are_told_with_their_tables() {
    let below = Facts {
        cascading: tables(2),
        ..healthy()
    };
    let switched = warning(&set(below.clone(), "innodb_native_foreign_keys", "ON"));
    assert!(
        switched.contains("in shop.t0, shop.t1; start mysqld"),
        "{switched}"
    );
    let mut older = below;
    older.variables.remove("innodb_native_foreign_keys");
    let older = warning(&older);
    assert!(older.contains("MySQL logs them from 9.6 on"), "{older}");
    let maria = warning(&Facts {
        cascading: tables(13),
        ..mariadb()
    });
    assert!(maria.contains("shop.t8, shop.t9 and 3 more;"), "{maria}");
}

#[test]
fn a_table_with_several_foreign_keys_is_one_table() {
    let mut tables = Tables::default();
    for name in ["a.t", "a.t", "a.u"] {
        tables.add(name.to_owned());
    }
    assert_eq!(
        (tables.to_string(), tables.count),
        ("a.t, a.u".to_owned(), 2)
    );
}

#[test]
fn what_the_account_may_not_see_is_told() {
    let blind = warning(&Facts {
        rights: vec!["REPLICATION SLAVE".to_owned()],
        ..healthy()
    });
    assert!(blind.contains("GRANT REFERENCES ON *.*"), "{blind}");
    // MariaDB hides foreign keys from who may only SELECT.
    let selects = warning(&Facts {
        rights: vec!["SELECT".to_owned()],
        ..mariadb()
    });
    assert_eq!(selects, blind);
    let mut older = healthy();
    older.variables.remove("innodb_native_foreign_keys");
    none(&older);
}

#[test]
fn engines_say_what_is_missing_of_them() {
    let engines = ["MEMORY", "BLACKHOLE"].map(|engine| (engine.to_owned(), tables(1)));
    let warnings = judge(&Facts {
        engines: BTreeMap::from(engines),
        ..healthy()
    });
    let [blackhole, memory] = &warnings[..] else {
        panic!("{warnings:#?}")
    };
    assert!(
        blackhole.starts_with("of BLACKHOLE tables only what is inserted"),
        "{blackhole}"
    );
    assert!(memory.ends_with("emptied: shop.t0"), "{memory}");
}

#[test]
fn databases_that_are_not_logged_are_named() {
    let only = warning(&Facts {
        logged_databases: "a,b".to_owned(),
        ..healthy()
    });
    assert!(
        only.contains("logs the databases a,b and no others"),
        "{only}"
    );
    let ignored = warning(&Facts {
        ignored_databases: "c".to_owned(),
        ..mariadb()
    });
    assert!(
        ignored.contains("does not log the databases c"),
        "{ignored}"
    );
}

#[test]
fn a_replica_that_passes_nothing_on_is_told_and_a_source_is_not() {
    let off = set(healthy(), "log_replica_updates", "OFF");
    none(&off);
    for (is_replica, start) in [
        (Some(true), "the server is a replica and does not log"),
        (None, "if the server is a replica, it does not log"),
    ] {
        let found = warning(&Facts {
            is_replica,
            ..off.clone()
        });
        assert!(found.starts_with(start), "{found}");
    }
    let filtered = Facts {
        replication_filters: vec!["replicate_do_db=a".to_owned()],
        ..healthy()
    };
    none(&filtered);
    let filtered = warning(&Facts {
        is_replica: Some(true),
        ..filtered
    });
    assert!(filtered.contains("(replicate_do_db=a)"), "{filtered}");
}

#[test]
fn filters_are_those_that_leave_something_out() {
    let settings = [
        ("Replicate_Do_DB", "a"),
        ("Replicate_Ignore_Server_Ids", "4"),
        ("Replicate_Wild_Ignore_Table", "b.%"),
        ("Replicate_Ignore_DB", ""),
        ("replicate_annotate_row_events", "ON"),
        ("Source_Host", "h"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(
        filters_among(settings.iter().map(|(name, value)| (name, value))),
        ["replicate_do_db=a", "replicate_wild_ignore_table=b.%"]
    );
}

#[test]
fn a_binlog_that_a_crash_or_an_error_may_shorten_is_told() {
    for value in ["0", "100"] {
        let found = warning(&set(healthy(), "sync_binlog", value));
        assert!(
            found.starts_with(&format!("sync_binlog is {value}:")),
            "{found}"
        );
    }
    let found = warning(&set(healthy(), "binlog_error_action", "IGNORE_ERROR"));
    assert!(found.contains("ABORT_SERVER"), "{found}");
}
