//! MongoDB's errors → [`Kind`], once, here.
//!
//! Codes and their names stand in the server's source, `src/mongo/base/error_codes.yml`. Labels come first: the server and
//! the driver set them where another try is known to be right. Texts of the server may quote a document (a validator's
//! verdict does), so only code, name and, for commands, the message are passed on; never `errInfo`.

use mongodb::error::{
    Error as DriverError, ErrorKind, RETRYABLE_WRITE_ERROR, TRANSIENT_TRANSACTION_ERROR,
    UNKNOWN_TRANSACTION_COMMIT_RESULT, WriteFailure,
};

use crate::error::{Error, Kind};

/// A duplicate key; carries no label inside a transaction and aborts it.
const DUPLICATE_KEY: i32 = 11000;

/// Codes that pass by themselves: elections, shutdown, network, lock and write conflicts, time limits, a full disk (an
/// operator makes room, the daemon waits), and too much dirty cache.
const TRANSIENT_CODES: &[i32] = &[
    6, 7, 24, 50, 64, 79, 89, 91, 100, 112, 133, 134, 189, 202, 246, 251, 262, 290, 317, 358, 384,
    388, 9001, 10107, 11600, 11601, 11602, 13388, 13435, 13436, 14031,
];

/// Unauthorized, AuthenticationFailed, and Atlas' own.
const PRIVILEGE_CODES: &[i32] = &[13, 18, 8000];

/// IllegalOperation ("Transaction numbers are only allowed on a replica set member or mongos"), NoReplicationEnabled,
/// NotAReplicaSet, WriteConcern not satisfiable.
const SETTING_CODES: &[i32] = &[20, 76, 123];

/// Why a write of one document was refused, where the document itself is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A document with this `_id` (or this `n`) is there already.
    Duplicate,
    /// The document at this index of the batch is refused for its content.
    Content { index: usize },
}

/// Whether the failure of an insert is about one of its documents.
pub(super) fn refusal(error: &DriverError) -> Option<Refusal> {
    let first = match &*error.kind {
        ErrorKind::InsertMany(failure) => failure.write_errors.as_ref()?.first()?,
        _ => return None,
    };
    if first.code == DUPLICATE_KEY {
        Some(Refusal::Duplicate)
    } else if TRANSIENT_CODES.contains(&first.code)
        || PRIVILEGE_CODES.contains(&first.code)
        || is_transient_label(error)
    {
        None
    } else {
        Some(Refusal::Content { index: first.index })
    }
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
        ErrorKind::InsertMany(failure) => failure
            .write_errors
            .as_ref()
            .and_then(|errors| errors.first())
            .map(|first| first.code)
            .or_else(|| {
                failure
                    .write_concern_error
                    .as_ref()
                    .map(|concern| concern.code)
            }),
        _ => None,
    }
}

/// What the failure says, without anything that may quote a document.
fn describe(error: &DriverError) -> String {
    match &*error.kind {
        ErrorKind::Command(command) => format!(
            "{} ({}): {}",
            command.code_name, command.code, command.message
        ),
        ErrorKind::Write(_) | ErrorKind::InsertMany(_) | ErrorKind::BulkWrite(_) => {
            match code(error) {
                Some(code) => format!("write error {code}"),
                None => "write error".to_owned(),
            }
        }
        _ => error.to_string(),
    }
}

/// Classifies a failure of the driver; `doing` says what was attempted, as in "commit batch 7".
pub(super) fn classify(doing: &str, error: &DriverError) -> Error {
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
        Kind::Privilege => {
            "; the user of MONGO_URI needs the role readWrite on MONGO_DB and a correct password: \
             db.grantRolesToUser(USER, [{role: 'readWrite', db: MONGO_DB}])"
        }
        _ => "",
    };
    Error::new(kind, format!("mongodb: {doing}: {text}{advice}"))
}
