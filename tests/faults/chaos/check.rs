//! Exactness of a long run: the documents are read once, in order, and none is kept; what is kept are the rows of the fold and a
//! number for each document.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use mongodb::bson::{Bson, Document, doc};

use crate::common::fold::{Ddl, Fold, Table, table_now};
use crate::common::{Mongod, Mysqld, mongo, values};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Documents.
    pub(crate) events: u64,
    /// Transactions of the source that have a document.
    pub(crate) transactions: u64,
    /// Transactions that MySQL has executed and that have none.
    pub(crate) lost: u64,
    /// Documents of a (gtid, row) that another one has too.
    pub(crate) doubled: u64,
    /// Anything else that does not hold, the first few of each kind.
    pub(crate) problems: Vec<String>,
}

/// How many examples of a kind are named.
const EXAMPLES: usize = 10;

/// As [`crate::common::fold::check`], and that every transaction of the server has a document.
pub(crate) async fn check(
    mysqld: &Mysqld,
    mongod: &Mongod,
    database: &str,
    tables: &[&str],
    ddl: Ddl<'_>,
) -> Verdict {
    let database = mongod.database(database).await;
    let mut verdict = Verdict::default();
    let mut fold = Fold::default();
    let mut rows = HashSet::new();
    let mut transactions = HashSet::new();
    let mut cursor = database
        .collection::<Document>(mongo::CHANGES)
        .find(doc! {})
        .sort(doc! { "n": 1 })
        .allow_disk_use(true)
        .await
        .expect("the documents can be read");
    while cursor.advance().await.expect("the documents can be read") {
        let change = Document::try_from(cursor.current()).expect("a BSON document");
        verdict.events += 1;
        if change.get("n") != Some(&Bson::Int64(verdict.events as i64))
            && verdict.problems.len() < EXAMPLES
        {
            let expected = verdict.events;
            verdict
                .problems
                .push(format!("{expected} should stand in place of n: {change}"));
        }
        let meta = change.get_document("meta").expect("meta");
        let gtid = meta.get_str("gtid").expect("meta.gtid");
        if !rows.insert(number(&(
            gtid,
            values::canonical(meta.get("row").expect("meta.row")),
        ))) {
            verdict.doubled += 1;
        }
        transactions.insert(number(&gtid));
        fold.apply(&change, ddl);
    }
    verdict.transactions = transactions.len() as u64;
    verdict
        .problems
        .extend(fold.problems.iter().take(EXAMPLES).cloned());

    let empty = Table::default();
    for name in tables {
        let now = table_now(mysqld, name).await;
        let differences = fold.tables.get(*name).unwrap_or(&empty).differences(&now);
        let named = differences.into_iter().take(EXAMPLES);
        verdict
            .problems
            .extend(named.map(|difference| format!("{name}: {difference}")));
    }

    let staged = database.collection::<Document>(mongo::STAGING);
    let pending = mongo::find(&staged, doc! { "status": "pending" }, doc! { "batch": 1 }).await;
    for mut batch in pending.into_iter().take(EXAMPLES) {
        batch.remove("events");
        verdict
            .problems
            .push(format!("pending in staging: {batch}"));
    }
    let executed = mysqld.executed_gtid().await;
    let offset = mongo::offset(&database).await.expect("an offset");
    let saved = offset.get_str("gtid").expect("gtid");
    if !(mysqld.gtid_subset(saved, &executed).await && mysqld.gtid_subset(&executed, saved).await) {
        verdict.problems.push(format!(
            "the saved offset is {saved:?}, MySQL has executed {executed:?}"
        ));
    }
    if offset.get("n") != Some(&Bson::Int64(verdict.events as i64)) {
        verdict.problems.push(format!(
            "there are {} documents, the offset is {offset}",
            verdict.events
        ));
    }
    // Everything was written through one server: `uuid:1-N`, of MariaDB `0-1-N`.
    let last = executed
        .rsplit_once("1-")
        .map(|(_, last)| last.parse::<u64>());
    match last
        .and_then(Result::ok)
        .filter(|_| !executed.contains(','))
    {
        Some(last) => verdict.lost = last.abs_diff(verdict.transactions),
        None => verdict
            .problems
            .push(format!("not a single interval: {executed}")),
    }
    verdict
}

fn number(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
