//! The rights of the account of MYSQL_USER, as the server states them (SHOW GRANTS), those of its active roles too.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::error::Result;
use crate::finding::Finding;
use crate::source::connect::classify_after_login;

/// The account, as the server found it.
#[derive(Debug)]
pub(super) struct Account {
    /// `user@host`, where the host may be a pattern.
    pub(super) name: String,
    is_mariadb: bool,
    /// Its rights on all databases.
    rights: Vec<String>,
}

/// Asks who is logged in, and with which rights.
pub(super) async fn account(connection: &mut Conn) -> Result<Account> {
    let failed = |error| classify_after_login("ask for the account's rights", &error);
    let login: Option<(String, String)> = connection
        .query_first("SELECT CURRENT_USER(), @@global.version")
        .await
        .map_err(failed)?;
    let (name, version) = login.unwrap_or_default();
    let grants: Vec<String> = connection.query("SHOW GRANTS").await.map_err(failed)?;
    let mut rights = on_everything(&grants);
    // MySQL: what comes by a role is shown only when the role is named. MariaDB shows it, and knows no such form.
    let active: mysql_async::Result<Option<Option<String>>> =
        connection.query_first("SELECT CURRENT_ROLE()").await;
    if let Ok(Some(Some(roles))) = active
        && !roles.eq_ignore_ascii_case("none")
    {
        let query = format!("SHOW GRANTS FOR CURRENT_USER() USING {roles}");
        let grants: mysql_async::Result<Vec<String>> = connection.query(query).await;
        rights.extend(on_everything(&grants.unwrap_or_default()));
    }
    Ok(Account {
        name,
        is_mariadb: version.to_ascii_lowercase().contains("mariadb"),
        rights,
    })
}

/// The rights that are granted `ON *.*`.
fn on_everything(grants: &[String]) -> Vec<String> {
    grants
        .iter()
        .filter_map(|grant| grant.strip_prefix("GRANT ")?.split_once(" ON *.* TO "))
        .flat_map(|(rights, _)| rights.split(','))
        .map(|right| right.trim().to_ascii_uppercase())
        .collect()
}

impl Account {
    fn has(&self, right: &str) -> bool {
        self.rights
            .iter()
            .any(|granted| granted == right || granted.starts_with("ALL PRIVILEGES"))
    }

    fn grant(&self, right: &str) -> String {
        let (user, host) = self.name.rsplit_once('@').unwrap_or((&self.name, "%"));
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        format!("GRANT {right} ON *.* TO {}@{}", quoted(user), quoted(host))
    }
}

/// One row for each right.
pub(super) fn judge(account: &Account) -> Vec<Finding> {
    let is_mariadb = account.is_mariadb;
    let granted = "granted";
    let slave = match account.has("REPLICATION SLAVE") {
        true => Finding::ok("replication_slave", granted),
        false => Finding::fail("replication_slave", "not granted")
            .expected("REPLICATION SLAVE: it is the right to read the binlog")
            .remedy(account.grant("REPLICATION SLAVE")),
    };
    // What MariaDB made of the right, from 10.5 on; it takes both names.
    let sees_binlogs = account.has("REPLICATION CLIENT") || account.has("BINLOG MONITOR");
    let missing = |reason: &str| {
        let finding = match is_mariadb {
            true => Finding::fail("replication_client", "not granted"),
            false => Finding::warn("replication_client", "not granted"),
        };
        finding
            .expected(format!("REPLICATION CLIENT: {reason}"))
            .remedy(account.grant("REPLICATION CLIENT"))
    };
    let client = match (sees_binlogs, is_mariadb) {
        (true, _) => Finding::ok("replication_client", granted),
        (false, true) => missing("without it, it cannot be told where the oldest binlog begins"),
        (false, false) => missing("without it, nobody is told before a needed binlog is purged"),
    };
    let sees_definitions = account.has("REFERENCES") || (account.has("SELECT") && !is_mariadb);
    let references = match sees_definitions {
        true => Finding::ok("references", granted),
        false => Finding::warn("references", "not granted")
            .expected("REFERENCES: it shows how tables are defined, and no row")
            .remedy(account.grant("REFERENCES")),
    };
    vec![slave, client, references]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    fn account(is_mariadb: bool, grants: &[&str]) -> Account {
        let grants: Vec<String> = grants.iter().map(ToString::to_string).collect();
        Account {
            is_mariadb,
            name: "o'neil@10.%".to_owned(),
            rights: on_everything(&grants),
        }
    }

    fn levels(is_mariadb: bool, grants: &[&str]) -> Vec<Level> {
        let findings = judge(&account(is_mariadb, grants));
        findings.iter().map(|finding| finding.status).collect()
    }

    #[test]
    fn rights_on_all_databases_count_and_no_others() {
        use Level::{Fail, Ok, Warn};
        let all = ["GRANT ALL PRIVILEGES ON *.* TO `root`@`%` WITH GRANT OPTION"];
        assert_eq!(levels(true, &all), [Ok; 3]);
        let some = [
            "GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO `sdl`@`%`",
            "GRANT REFERENCES ON `shop`.* TO `sdl`@`%`",
            "GRANT `reader`@`%` TO `sdl`@`%`",
        ];
        assert_eq!(levels(true, &some), [Ok, Ok, Warn]);
        let none = ["GRANT USAGE ON *.* TO `sdl`@`%`"];
        assert_eq!(levels(false, &none), [Fail, Warn, Warn]);
        assert_eq!(levels(true, &none), [Fail, Fail, Warn]);
    }

    #[test]
    fn the_statement_names_the_account_as_the_server_does() {
        assert_eq!(
            judge(&account(false, &[]))[0].remedy.as_deref(),
            Some("GRANT REPLICATION SLAVE ON *.* TO 'o''neil'@'10.%'")
        );
    }
}
