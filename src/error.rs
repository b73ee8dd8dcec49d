//! What can go wrong, and the one table that says what to do about it.
//!
//! An error is classified once, at the edge where it is met (`source/`, `store/`), into a [`Kind`]; from there on nobody
//! looks at driver errors again. [`Kind::reaction`] is the whole policy: try again, wait for room, or leave it to an operator.
//! Messages are lower case, name file, position and GTID where they matter, and carry the statement that mends what they
//! tell of. They never hold a row value or a secret: they end up in the journal.

use std::fmt;

/// The process exit code for a clean stop.
pub const EXIT_CLEAN: u8 = 0;
/// The process exit code for anything that has no better one.
pub const EXIT_FAILURE: u8 = 1;
/// The process exit code when an operator must decide; the unit does not restart on it.
pub const EXIT_OPERATOR: u8 = 3;
/// The process exit code for a wrong setting (`EX_USAGE` of sysexits.h); the unit does not restart on it.
pub const EXIT_CONFIGURATION: u8 = 64;

/// What kind of trouble it is. One kind, one reaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// MySQL does not answer, or cut the connection: it will be back.
    SourceUnavailable,
    /// What came over the binlog connection contradicts itself: a bad CRC, a cut payload, a group without its end. The
    /// network may have done it, so it is read again; the same failure at the same place is [`Kind::SourceCorrupt`].
    SourceDamaged,
    /// The same damage twice: it stands in the binlog itself.
    SourceCorrupt,
    /// MongoDB does not answer, has no primary, or asks for another try.
    StoreUnavailable,
    /// Binlogs that hold transactions not yet recorded were purged.
    Gap,
    /// The server lacks transactions that were already recorded: another server, or a restored one.
    WrongServer,
    /// A setting of the MySQL server does not let its binlog be an audit trail.
    SourceSetting,
    /// MySQL or MongoDB refuses the user or a right that sdl needs.
    Privilege,
    /// MongoDB is no replica set, or otherwise not fit for transactions.
    StoreSetting,
    /// Another replica reads the source under this daemon's MYSQL_SERVER_ID; each would throw the other out.
    DuplicateReplica,
    /// Another daemon took this source over.
    Fenced,
    /// MongoDB refuses a write that another try will not change, or holds something else than what was written.
    StoreRefused,
    /// The spool takes no more: SPOOL_MAX_BYTES is reached, or its disk is full, read-only, or fails.
    SpoolUnavailable,
    /// The spool holds something else than was written to it.
    SpoolDamaged,
    /// A defect in sdl: an invariant does not hold.
    Internal,
}

/// What the daemon does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Try again, backing off, for as long as it takes.
    Retry,
    /// Keep what is in hand, read nothing more, and go on when there is room again.
    Wait,
    /// Set aside what is damaged, and read it again from the binlog.
    SetAside,
    /// Stop and leave the decision to an operator: exit 3.
    Operator,
    /// Stop: exit 1, and systemd may start it again.
    Stop,
}

impl Kind {
    /// The one table: kind of error → what is done about it.
    pub fn reaction(self) -> Reaction {
        match self {
            Self::SourceUnavailable | Self::SourceDamaged | Self::StoreUnavailable => {
                Reaction::Retry
            }
            Self::SpoolUnavailable => Reaction::Wait,
            Self::SpoolDamaged => Reaction::SetAside,
            Self::SourceCorrupt
            | Self::Gap
            | Self::WrongServer
            | Self::SourceSetting
            | Self::Privilege
            | Self::StoreSetting
            | Self::DuplicateReplica
            | Self::Fenced
            | Self::StoreRefused => Reaction::Operator,
            Self::Internal => Reaction::Stop,
        }
    }
}

/// Any failure of the daemon after its configuration was accepted.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    message: String,
}

/// The result of anything that can fail with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind`; `message` is lower case and says what was found, what was expected, what to do.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// What kind of trouble it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether another try can mend it.
    pub fn is_transient(&self) -> bool {
        self.kind.reaction() == Reaction::Retry
    }

    /// The same error, seen again at the same place: what looked like a bad connection is the data itself.
    pub fn repeated(self) -> Self {
        match self.kind {
            Kind::SourceDamaged => Self::new(
                Kind::SourceCorrupt,
                format!(
                    "{}; read again with the same result, so it is not the network: check the binlog with mysqlbinlog \
                     --verify-binlog-checksum, or read from a replica that has it whole",
                    self.message
                ),
            ),
            _ => self,
        }
    }

    /// The exit code of a process that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self.kind.reaction() {
            Reaction::Operator => EXIT_OPERATOR,
            Reaction::Retry | Reaction::Wait | Reaction::SetAside | Reaction::Stop => EXIT_FAILURE,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_read_again_once_and_then_left_to_an_operator() {
        let first = Error::new(Kind::SourceDamaged, "bad checksum");
        assert!(first.is_transient());
        let second = first.repeated();
        assert_eq!(second.kind(), Kind::SourceCorrupt);
        assert_eq!(second.exit_code(), EXIT_OPERATOR);
        assert!(second.to_string().starts_with("bad checksum; read again"));
    }

    #[test]
    fn an_outage_is_never_a_reason_to_exit() {
        for kind in [Kind::SourceUnavailable, Kind::StoreUnavailable] {
            assert_eq!(kind.reaction(), Reaction::Retry);
        }
    }
}
