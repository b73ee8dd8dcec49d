//! What can be wrong with the text of a position, and how much of it an error repeats.

use super::mysql::{MAX_TAG_LENGTH, MAX_TRANSACTION_NUMBER};

/// How much of a wrong text an error repeats, in characters: enough to find it, short enough for a log line.
const SHOWN_CHARACTERS: usize = 80;

/// What is wrong with a text that should be a GTID or a GTID set; each shows the offending part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GtidParseError {
    /// The server's identifier is not 8-4-4-4-12 hexadecimal digits.
    #[error("`{0}` is not a server uuid such as 3e11fa47-71ca-11e1-9e33-c80aa9429562")]
    Uuid(String),
    /// Neither a transaction number nor a tag.
    #[error(
        "`{0}` is neither a number nor a tag (a letter or `_`, then letters, digits and `_`, at most {MAX_TAG_LENGTH})"
    )]
    Tag(String),
    /// Not a transaction number, or out of the server's range.
    #[error("`{0}` is not a transaction number from 1 to {MAX_TRANSACTION_NUMBER}")]
    Number(String),
    /// The interval's last number is smaller than its first.
    #[error("the interval `{0}` ends before it begins")]
    Reversed(String),
    /// A server or a tag that is followed by no number.
    #[error("`{0}` has no transaction number")]
    NoNumber(String),
    /// More than one transaction where one is wanted.
    #[error("`{0}` is not one transaction")]
    NotOne(String),
    /// Not three numbers, or one of them out of MariaDB's range.
    #[error("`{0}` is not a MariaDB transaction such as 0-1-100 (domain, server, sequence)")]
    Mariadb(String),
    /// Two positions in one domain: which of them was meant is not to be guessed.
    #[error("`{0}` and `{1}` are of one domain: a position has one transaction for each")]
    TwoOfOneDomain(String, String),
    /// Nothing between two commas, or behind the last: the text was probably cut off, so it is not taken as it is.
    #[error("nothing stands beside a comma of `{0}`: is the text complete?")]
    Empty(String),
}

/// The part of a wrong text that an error repeats.
pub(super) fn shown(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use crate::position::parse_uuid;

    #[test]
    fn an_error_repeats_little_of_a_long_text() {
        let error = parse_uuid(&"é".repeat(5000)).unwrap_err().to_string();
        assert!(error.chars().count() < 200, "{error}");
    }
}
