//! What is recorded in another form than its column promises is counted, so that somebody hears of it.

use crate::common::audit::Audit;
use crate::health::page;

const COUNT: &str = "sdl_undecodable_values_total";

#[tokio::test]
async fn text_that_is_no_text_in_its_character_set_is_counted() {
    let mut audit = Audit::of("undecodable").await;
    let address = page::address(&audit.daemon).await;
    audit
        .run(&[
            "CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(9) CHARACTER SET ucs2, b VARCHAR(9) CHARACTER SET ucs2)",
            "INSERT INTO t VALUES (1, _ucs2 X'0061', '')",
        ])
        .await;
    audit.rows().await;
    assert_eq!(page::metrics(&address).await[COUNT], 0.0);
    // A lone surrogate is a code, and no character; an update has it in both of its images.
    audit
        .run(&[
            "INSERT INTO t VALUES (2, _ucs2 X'D800', _ucs2 X'D801')",
            "UPDATE t SET b = 'b' WHERE id = 2",
        ])
        .await;
    audit.rows().await;
    assert_eq!(page::metrics(&address).await[COUNT], 2.0 + 3.0);
}
