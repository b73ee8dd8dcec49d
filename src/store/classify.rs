//! MongoDB's errors → [`Kind`], once, here.
//!
//! Codes and their names stand in the server's source, `src/mongo/base/error_codes.yml`. Labels come first: the server and
//! the driver set them where another try is known to be right. Texts of the server may quote a document (a validator's
//! verdict does), so only code, name and, for commands, the message are passed on; never `errInfo`.

use bson::{Bson, Document};
use mongodb::error::{
    Error as DriverError, ErrorKind, RETRYABLE_WRITE_ERROR, TRANSIENT_TRANSACTION_ERROR,
    UNKNOWN_TRANSACTION_COMMIT_RESULT, WriteFailure,
};

use crate::error::{Error, Kind};
use crate::tls::{self, Fault};

/// A duplicate key; carries no label inside a transaction and aborts it.
const DUPLICATE_KEY: i32 = 11000;

/// Codes that pass by themselves: elections, shutdown, network, lock and write conflicts, time limits, a full disk (an
/// operator makes room, the daemon waits), and too much dirty cache.
const TRANSIENT_CODES: &[i32] = &[
    6, 7, 24, 50, 64, 79, 89, 91, 100, 112, 133, 134, 189, 202, 246, 251, 262, 290, 317, 358, 384,
    388, 9001, 10107, 11600, 11601, 11602, 13388, 13435, 13436, 14031,
];

/// The user is known, and may not do it.
const UNAUTHORIZED: i32 = 13;

/// Unauthorized, AuthenticationFailed, and Atlas' own.
const PRIVILEGE_CODES: &[i32] = &[UNAUTHORIZED, 18, 8000];

/// IllegalOperation ("Transaction numbers are only allowed on a replica set member or mongos"), NoReplicationEnabled,
/// NotAReplicaSet, WriteConcern not satisfiable.
const SETTING_CODES: &[i32] = &[20, 76, 123];

/// Why an insert of several documents was refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A document with this `_id` (or this `n`) is there already.
    Duplicate,
    /// The document at this index is refused for its content.
    Content { index: usize, error: Error },
    /// It is not about one of its documents.
    Other(Error),
}

/// What the answer to an insert says; the first refusal, since inserts are ordered. (Manual: "insert", output.)
pub(super) fn refusal(doing: &str, answer: &Document) -> Option<Refusal> {
    let errors = answer.get_array("writeErrors").ok()?;
    let first = errors.first().and_then(Bson::as_document);
    let number = |name| first.and_then(|first| first.get_i32(name).ok());
    let told = |kind| {
        let code = number("code").map_or_else(String::new, |code| format!(" {code}"));
        Error::new(kind, format!("mongodb: {doing}: write error{code}"))
    };
    let index = number("index").and_then(|index| usize::try_from(index).ok());
    Some(match (number("code"), index) {
        (Some(DUPLICATE_KEY), _) => Refusal::Duplicate,
        (Some(code), _) if TRANSIENT_CODES.contains(&code) => {
            Refusal::Other(told(Kind::StoreUnavailable))
        }
        (Some(code), _) if PRIVILEGE_CODES.contains(&code) => Refusal::Other(told(Kind::Privilege)),
        (Some(_), Some(index)) => Refusal::Content {
            index,
            error: told(Kind::StoreRefused),
        },
        _ => Refusal::Other(told(Kind::StoreRefused)),
    })
}

/// Whether a single insert failed because its `_id` is there already.
pub(super) fn is_duplicate(error: &DriverError) -> bool {
    code(error) == Some(DUPLICATE_KEY)
}

/// Whether it is unknown if the transaction was committed.
pub(super) fn is_commit_unknown(error: &DriverError) -> bool {
    error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT)
}

fn is_transient_label(error: &DriverError) -> bool {
    [
        TRANSIENT_TRANSACTION_ERROR,
        UNKNOWN_TRANSACTION_COMMIT_RESULT,
        RETRYABLE_WRITE_ERROR,
    ]
    .iter()
    .any(|label| error.contains_label(label))
}

fn code(error: &DriverError) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => Some(concern.code),
        _ => None,
    }
}

/// What the failure says, without anything that may quote a document.
fn describe(error: &DriverError) -> String {
    match &*error.kind {
        // This message quotes the command, and that may hold documents.
        ErrorKind::Command(command) if command.code == UNAUTHORIZED => {
            format!("{} ({})", command.code_name, command.code)
        }
        ErrorKind::Command(command) => format!(
            "{} ({}): {}",
            command.code_name, command.code, command.message
        ),
        // Their texts may quote a document.
        ErrorKind::Write(_) | ErrorKind::InsertMany(_) | ErrorKind::BulkWrite(_) => {
            match code(error) {
                Some(code) => format!("write error {code}"),
                None => "write error".to_owned(),
            }
        }
        // Its whole text has labels and the server's answer as well.
        kind => kind.to_string(),
    }
}

/// Classifies a failure of the driver; `doing` says what was attempted, as in "commit batch 7".
pub(super) fn classify(doing: &str, error: &DriverError) -> Error {
    if let ErrorKind::Io(error) = &*error.kind
        && let Some(refusal) = tls::refusal_in(error)
    {
        return Error::new(
            Kind::StoreSetting,
            format!("mongodb: {doing}: {}", tls_advice(&refusal)),
        );
    }
    let text = describe(error);
    let kind = if is_transient_label(error) {
        Kind::StoreUnavailable
    } else {
        match (&*error.kind, code(error)) {
            (_, Some(code)) if TRANSIENT_CODES.contains(&code) => Kind::StoreUnavailable,
            (ErrorKind::Authentication { .. }, _) => Kind::Privilege,
            (_, Some(code)) if PRIVILEGE_CODES.contains(&code) => Kind::Privilege,
            (_, Some(code)) if SETTING_CODES.contains(&code) => Kind::StoreSetting,
            (ErrorKind::InvalidTlsConfig { .. } | ErrorKind::SessionsNotSupported, _) => {
                Kind::StoreSetting
            }
            (
                ErrorKind::Io(_)
                | ErrorKind::ConnectionPoolCleared { .. }
                | ErrorKind::ServerSelection { .. }
                | ErrorKind::DnsResolve { .. },
                _,
            ) => Kind::StoreUnavailable,
            _ => Kind::StoreRefused,
        }
    };
    let advice = match kind {
        Kind::Privilege => privilege_advice(error),
        _ => String::new(),
    };
    Error::new(kind, format!("mongodb: {doing}: {text}{advice}"))
}

/// What would make the server accept the user, or the right that was missed.
fn privilege_advice(error: &DriverError) -> String {
    let ErrorKind::Command(command) = &*error.kind else {
        return "; check user and password of MONGO_URI, and the database that knows the user (authSource=admin)".to_owned();
    };
    match missing_right(&command.message) {
        Some((action, database, collection)) => format!(
            "; the user of MONGO_URI lacks {action} on {database}.{collection}: grant it a role that has it, the one of \
             docs/operations.md (Accounts), or db.grantPrivilegesToRole('sdl_writer', [{{resource: {{db: '{database}', \
             collection: '{collection}'}}, actions: ['{action}']}}]); or db.grantRolesToUser(USER, [{{role: 'readWrite', db: \
             '{database}'}}])"
        ),
        None if command.message.contains("requires authentication") => {
            "; MONGO_URI names no user, and the server asks for one: mongodb://USER:PASSWORD@HOST/?authSource=admin".to_owned()
        }
        None => String::new(),
    }
}

/// Action, database and collection in "not authorized on DATABASE to execute command { insert: "COLLECTION", …".
fn missing_right(message: &str) -> Option<(&'static str, &str, &str)> {
    let (_, rest) = message.split_once("not authorized on ")?;
    let (database, command) = rest.split_once(" to execute command { ")?;
    let (name, rest) = command.split_once(": \"")?;
    let (collection, _) = rest.split_once('"')?;
    // The privilege action of each command that sdl sends (manual: "Privilege Actions").
    let action = match name {
        // `create` is content with insert, which sdl needs as well.
        "create" | "insert" => "insert",
        "createIndexes" => "createIndex",
        "find" | "aggregate" | "getMore" => "find",
        "update" | "findAndModify" => "update",
        "delete" => "remove",
        _ => return None,
    };
    Some((action, database, collection))
}

fn tls_advice(refusal: &tls::Refusal) -> String {
    let advice = match refusal.fault {
        Fault::Authority => {
            "set tlsCAFile in MONGO_URI to a copy of the authority that signed the server's certificate (without it the web's \
             authorities are trusted), unless it is another server that answers"
        }
        Fault::Name => {
            "name the hosts in MONGO_URI, and the members in rs.conf(), as their certificates do, or give them certificates with \
             these names (subjectAltName), unless it is another server that answers"
        }
        Fault::Certificate => {
            "give the server a new certificate (net.tls.certificateKeyFile), then: db.rotateCertificates()"
        }
        Fault::Client => {
            "set tlsCertificateKeyFile in MONGO_URI to a file with a certificate that the server's authority \
             (net.tls.CAFile) signed, not expired, and its key"
        }
        Fault::Protocol => "let the server offer TLS 1.2 or 1.3 (net.tls.disabledProtocols)",
    };
    format!("TLS: {}; {advice}", refusal.found)
}
