//! Who is logged in to MongoDB, and whether the daemon's rights are among theirs. Manual: "connectionStatus", "Resource Document".

use bson::{Bson, Document, doc};
use mongodb::Database;
use mongodb::options::ClientOptions;

use super::super::settle;
use super::is_local;
use crate::config::Config;
use crate::finding::{Finding, Level};

/// The role of docs/operations.md, "Accounts".
const ROLE: &str = "sdl_writer";

pub(super) async fn look(
    admin: &Database,
    config: &Config,
    options: &ClientOptions,
    findings: &mut Vec<Finding>,
) {
    let command = doc! { "connectionStatus": 1, "showPrivileges": true };
    let status = match settle("ask who is logged in", admin.run_command(command)).await {
        Ok(status) => status,
        Err(error) => {
            findings.push(Finding::of("login", Level::Fail, &error));
            findings.push(Finding::skipped(
                "privileges",
                "it is not known who is logged in",
            ));
            return;
        }
    };
    let info = status.get_document("authInfo").cloned().unwrap_or_default();
    let users = names(&info, "authenticatedUsers", "user");
    let Some(user) = users.first() else {
        findings.push(match is_local(options) {
            true => Finding::ok("login", "nobody: the server is on this host and asks for no login"),
            false => Finding::warn("login", "nobody: the server asks for no login")
                .expected("a user of its own: whoever reaches the server can change the audit")
                .remedy("security.authorization: enabled in mongod.conf, and the user of docs/operations.md (Accounts)"),
        });
        findings.push(Finding::ok(
            "privileges",
            "all: the server asks for no login",
        ));
        return;
    };
    findings.push(Finding::ok("login", user.clone()));
    let privileges = documents(&info, "authenticatedUserPrivileges");
    let has_role = names(&info, "authenticatedUserRoles", "role").contains(&ROLE.to_owned());
    findings.extend(judge(config, user, has_role, &privileges));
}

fn documents<'a>(info: &'a Document, key: &str) -> Vec<&'a Document> {
    let array = info.get_array(key).map(Vec::as_slice).unwrap_or_default();
    array.iter().filter_map(Bson::as_document).collect()
}

fn names(info: &Document, key: &str, name: &str) -> Vec<String> {
    documents(info, key)
        .into_iter()
        .filter_map(|document| document.get_str(name).ok().map(str::to_owned))
        .collect()
}

/// What the daemon does with each collection.
fn needed(config: &Config) -> [(&str, &'static [&'static str]); 5] {
    let names = &config.collections;
    [
        (&names.changes, &["createIndex", "insert", "find"]),
        (&names.schemas, &["insert"]),
        (&names.values, &["insert"]),
        (&names.offsets, &["find", "insert", "update"]),
        (
            &names.staging,
            &["createIndex", "find", "insert", "update", "remove"],
        ),
    ]
}

fn judge(config: &Config, user: &str, has_role: bool, privileges: &[&Document]) -> Vec<Finding> {
    let database = config.mongo_database.as_str();
    let may = |collection: &str, action: &str| {
        privileges.iter().any(|privilege| {
            let covers = privilege
                .get_document("resource")
                .is_ok_and(|resource| covers(resource, database, collection));
            let actions = privilege.get_array("actions");
            covers
                && actions.is_ok_and(|actions| {
                    let is = |name: &str| name == action || name == "anyAction";
                    actions.iter().filter_map(Bson::as_str).any(is)
                })
        })
    };
    let mut missing: Vec<(&str, Vec<&str>)> = Vec::new();
    for (collection, actions) in needed(config) {
        let lacks: Vec<&str> = actions
            .iter()
            .copied()
            .filter(|action| !may(collection, action))
            .collect();
        if !lacks.is_empty() {
            missing.push((collection, lacks));
        }
    }
    if !missing.is_empty() {
        let found: Vec<String> = missing
            .iter()
            .map(|(collection, actions)| {
                format!("{} on {database}.{collection}", actions.join(", "))
            })
            .collect();
        let privileges: Vec<String> = missing
            .iter()
            .map(|(collection, actions)| {
                format!("{{ resource: {{ db: {database:?}, collection: {collection:?} }}, actions: {actions:?} }}")
            })
            .collect();
        let remedy = match has_role {
            true => format!(
                "db.getSiblingDB(\"admin\").grantPrivilegesToRole({ROLE:?}, [{}])",
                privileges.join(", ")
            ),
            false => format!(
                "the role {ROLE} of docs/operations.md (Accounts), then: db.getSiblingDB(\"admin\").grantRolesToUser({user:?}, [{{ role: \
                 {ROLE:?}, db: \"admin\" }}])"
            ),
        };
        let finding = Finding::fail("privileges", format!("missing: {}", found.join("; ")));
        return vec![finding.expected("what the daemon does").remedy(remedy)];
    }
    let changes = &config.collections.changes;
    if may(changes, "update") || may(changes, "remove") {
        let finding = Finding::warn(
            "privileges",
            format!(
                "more than needed: the user may change or delete what is recorded in {database}.{changes}"
            ),
        );
        return vec![
            finding
                .expected(format!("the role {ROLE}: it can only add to the audit"))
                .remedy(format!(
                    "the role {ROLE} of docs/operations.md (Accounts) in place of the one that the user has"
                )),
        ];
    }
    vec![Finding::ok(
        "privileges",
        "what the daemon does, and no more on what is recorded",
    )]
}

/// Whether a resource is, or holds, a collection. An empty name stands for all.
fn covers(resource: &Document, database: &str, collection: &str) -> bool {
    if resource.get_bool("anyResource").unwrap_or(false) {
        return true;
    }
    let is = |key: &str, wanted: &str| {
        resource
            .get_str(key)
            .is_ok_and(|name| name.is_empty() || name == wanted)
    };
    is("db", database) && is("collection", collection)
}
