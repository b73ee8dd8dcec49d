//! MariaDB: what differs from MySQL. What does not is tested on both, in the tests of the pipeline.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Flavor, Mysqld};

/// The harness itself: another version or another option would make every test of this file mean something else.
#[tokio::test]
async fn the_servers_of_these_tests_are_what_they_say() {
    for (flavor, branches) in [
        (Flavor::Mariadb10, 1006..1100),
        (Flavor::Mariadb11, 1104..10_000),
    ] {
        let mysqld = Mysqld::start_as(flavor, &["--gtid-domain-id=7"]).await;
        let version: String = mysqld.query_one("SELECT VERSION()").await;
        let mut numbers = version
            .split('.')
            .map_while(|part| part.parse::<u32>().ok());
        let branch = numbers.next().unwrap() * 100 + numbers.next().unwrap();
        assert!(
            version.contains("MariaDB") && branches.contains(&branch),
            "{version}"
        );

        mysqld
            .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)")
            .await;
        assert_eq!(mysqld.executed_gtid().await, "7-1-2");
        mysqld.exec("INSERT INTO shop.t VALUES (1)").await;
        mysqld.kill();
        mysqld.start_again().await;
        assert_eq!(mysqld.executed_gtid().await, "7-1-3");
        mysqld.restart().await;
        assert_eq!(mysqld.query_one::<u32>("SELECT id FROM shop.t").await, 1);
        assert!(mysqld.gtid_subset("7-1-2", "7-1-3").await);
        assert!(!mysqld.gtid_subset("7-1-4", "7-1-3").await);
        assert!(!mysqld.gtid_subset("7-1-2,8-1-1", "7-1-3").await);
        assert!(
            mysqld
                .connect(common::mysql::USER, common::mysql::PASSWORD)
                .await
                .is_ok()
        );
    }
}
