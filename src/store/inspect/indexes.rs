//! The indexes: what a start would find, make, or stumble over.
//!
//! MongoDB takes a request for an index that is there; it refuses one with the same keys or the same name that is otherwise different
//! (IndexOptionsConflict, IndexKeySpecsConflict), and then sdl does not start. A TTL that is none of sdl's would delete what is recorded.

use bson::Document;
use futures_util::TryStreamExt;
use mongodb::options::IndexOptions;
use mongodb::{Database, IndexModel};

use super::super::{bounded, change_indexes, classify, is_code, staging_indexes};
use crate::config::Config;
use crate::error::{Kind, Result};
use crate::finding::{Finding, Level};

/// NamespaceNotFound: there is no such collection.
const NO_COLLECTION: i32 = 26;

pub(super) async fn look(database: &Database, config: &Config, findings: &mut Vec<Finding>) {
    let names = &config.collections;
    for (check, name, wanted) in [
        ("indexes", &names.changes, &change_indexes()[..]),
        ("staging_ttl", &names.staging, &staging_indexes()[..]),
        ("indexes", &names.offsets, &[]),
        ("indexes", &names.schemas, &[]),
        ("indexes", &names.values, &[]),
    ] {
        match list(database, name).await {
            Ok(found) => findings.extend(judge(check, name, wanted, found.as_deref())),
            Err(error) if error.kind() == Kind::Privilege => {
                if wanted.is_empty() {
                    continue;
                }
                let what = format!(
                    "of {name}: the user may not list them (listIndexes); a start makes those that are missing, and says what is in \
                     the way"
                );
                findings.push(Finding::skipped(check, what));
            }
            Err(error) => findings.push(Finding::of(check, Level::Fail, &error)),
        }
    }
}

/// The indexes that are there; `None` without the collection.
async fn list(database: &Database, name: &str) -> Result<Option<Vec<IndexModel>>> {
    let doing = format!("list the indexes of {name}");
    let collection = database.collection::<Document>(name);
    let listed = bounded(&doing, async {
        collection.list_indexes().await?.try_collect().await
    })
    .await?;
    match listed {
        Ok(indexes) => Ok(Some(indexes)),
        Err(error) if is_code(&error, NO_COLLECTION) => Ok(None),
        Err(error) => Err(classify::classify(&doing, &error)),
    }
}

fn judge(
    check: &'static str,
    collection: &str,
    wanted: &[IndexModel],
    found: Option<&[IndexModel]>,
) -> Vec<Finding> {
    let Some(found) = found else {
        return match wanted.is_empty() {
            true => Vec::new(),
            false => vec![Finding::ok(
                check,
                format!("{collection} is made with its indexes at the next start"),
            )],
        };
    };
    let mut findings = Vec::new();
    let mut missing = Vec::new();
    let mut is_in_the_way = vec![false; found.len()];
    for wanted in wanted {
        let name = name_of(wanted);
        match found.iter().position(|there| is_rival(there, wanted)) {
            None => missing.push(name),
            Some(place) if is_same(&found[place], wanted) => {}
            Some(place) => {
                is_in_the_way[place] = true;
                let there = &found[place];
                let finding = Finding::fail(
                    check,
                    format!("{collection}: {} is {}", name_of(there), describe(there)),
                );
                findings.push(
                    finding
                        .expected(format!(
                            "{}; with another one of the same name or keys sdl does not start",
                            describe(wanted)
                        ))
                        .remedy(drop_statement(collection, there)),
                );
            }
        }
    }
    for (place, there) in found.iter().enumerate() {
        let is_wanted = wanted.iter().any(|wanted| is_same(there, wanted));
        if expiry(there).is_some() && !is_wanted && !is_in_the_way[place] {
            let finding = Finding::fail(
                check,
                format!("{collection}: {} is {}", name_of(there), describe(there)),
            );
            findings.push(
                finding
                    .expected("no TTL: it deletes what is recorded")
                    .remedy(drop_statement(collection, there)),
            );
        }
    }
    if findings.is_empty() && !wanted.is_empty() {
        findings.push(match missing.is_empty() {
            true => Finding::ok(check, format!("{collection} has its {}", wanted.len())),
            false => Finding::ok(
                check,
                format!(
                    "{collection}: {} made at the next start",
                    missing.join(", ")
                ),
            ),
        });
    }
    findings
}

/// Whether MongoDB takes one for the other, or has no room for both.
fn is_rival(there: &IndexModel, wanted: &IndexModel) -> bool {
    shown(&there.keys) == shown(&wanted.keys) || name_of(there) == name_of(wanted)
}

fn is_same(there: &IndexModel, wanted: &IndexModel) -> bool {
    shown(&there.keys) == shown(&wanted.keys)
        && is_unique(there) == is_unique(wanted)
        && expiry(there) == expiry(wanted)
        && partial(there) == partial(wanted)
        && there
            .options
            .as_ref()
            .and_then(|options| options.sparse)
            .unwrap_or(false)
            == wanted
                .options
                .as_ref()
                .and_then(|options| options.sparse)
                .unwrap_or(false)
}

fn options(index: &IndexModel) -> Option<&IndexOptions> {
    index.options.as_ref()
}

fn is_unique(index: &IndexModel) -> bool {
    options(index)
        .and_then(|options| options.unique)
        .unwrap_or(false)
}

fn expiry(index: &IndexModel) -> Option<u64> {
    options(index)?.expire_after.map(|time| time.as_secs())
}

fn partial(index: &IndexModel) -> Option<String> {
    Some(shown(options(index)?.partial_filter_expression.as_ref()?))
}

/// Its own name, or the one that MongoDB gives it.
fn name_of(index: &IndexModel) -> String {
    if let Some(name) = options(index).and_then(|options| options.name.clone()) {
        return name;
    }
    let parts: Vec<String> = index
        .keys
        .iter()
        .map(|(key, direction)| format!("{key}_{}", number(direction)))
        .collect();
    parts.join("_")
}

fn number(value: &bson::Bson) -> String {
    match value {
        bson::Bson::Double(value) => value.to_string(),
        other => other.to_string(),
    }
}

/// With numbers of any width alike: a shell's are doubles.
fn shown(document: &Document) -> String {
    let parts: Vec<String> = document
        .iter()
        .map(|(key, value)| format!("{key}: {}", number(value)))
        .collect();
    format!("{{ {} }}", parts.join(", "))
}

fn describe(index: &IndexModel) -> String {
    let mut text = shown(&index.keys);
    if is_unique(index) {
        text.push_str(", unique");
    }
    if let Some(seconds) = expiry(index) {
        text.push_str(&format!(", expireAfterSeconds {seconds}"));
    }
    if let Some(partial) = partial(index) {
        text.push_str(&format!(", partialFilterExpression {partial}"));
    }
    text
}

fn drop_statement(collection: &str, index: &IndexModel) -> String {
    format!(
        "db.getCollection({collection:?}).dropIndex({:?})",
        name_of(index)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bson::doc;

    use super::*;

    fn index(keys: Document, options: IndexOptions) -> IndexModel {
        IndexModel::builder().keys(keys).options(options).build()
    }

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(|finding| finding.status).collect()
    }

    #[test]
    fn what_is_there_and_what_is_missing_is_well() {
        let wanted = change_indexes();
        for found in [&wanted[..], &wanted[..1], &[]] {
            let findings = judge("indexes", "row_changes", &wanted, Some(found));
            assert_eq!(levels(&findings), [Level::Ok], "{findings:?}");
        }
        let findings = judge("indexes", "row_changes", &wanted, None);
        assert_eq!(levels(&findings), [Level::Ok]);
    }

    #[test]
    fn the_ttl_of_the_earlier_guide_is_in_the_way_and_would_delete_pending_batches() {
        let week = IndexOptions::builder()
            .name("createdAt_1".to_owned())
            .expire_after(Duration::from_secs(604_800))
            .build();
        let found = [index(doc! { "createdAt": 1.0 }, week)];
        let findings = judge(
            "staging_ttl",
            "row_changes_staging",
            &staging_indexes(),
            Some(&found),
        );
        assert_eq!(levels(&findings), [Level::Fail]);
        assert_eq!(
            findings[0].remedy.as_deref(),
            Some(r#"db.getCollection("row_changes_staging").dropIndex("createdAt_1")"#)
        );
    }

    #[test]
    fn a_ttl_on_what_is_recorded_is_never_right() {
        let ttl = IndexOptions::builder()
            .expire_after(Duration::from_secs(60))
            .build();
        let mut found = change_indexes().to_vec();
        found.push(index(doc! { "recordedAt": 1 }, ttl));
        let findings = judge("indexes", "row_changes", &change_indexes(), Some(&found));
        assert_eq!(levels(&findings), [Level::Fail], "{findings:?}");
    }

    #[test]
    fn an_index_that_should_be_unique_and_is_not_is_in_the_way() {
        let found = [index(
            doc! { "meta.source": 1, "n": 1 },
            IndexOptions::default(),
        )];
        let findings = judge("indexes", "row_changes", &change_indexes(), Some(&found));
        assert_eq!(levels(&findings), [Level::Fail], "{findings:?}");
    }
}
