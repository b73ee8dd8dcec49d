//! One MySQL transaction identifier: `source-uuid:number`, or `source-uuid:tag:number` since MySQL 8.3.
//!
//! A [`Gtid`] that exists is valid: its number lies in the range the server itself allows and its tag obeys the
//! server's rules, so nothing that takes one has to check again. Limits: `GNO_END` in `sql/rpl_gtid.h`, the tag's in
//! `libs/mysql/gtid/gtid_constants.h`.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use super::super::GtidParseError;
use super::super::text::shown;
use crate::hex::hex_into;

/// The largest transaction number a server gives out: 2^63 − 2. The server keeps 2^63 − 1 as its exclusive end.
pub const MAX_TRANSACTION_NUMBER: u64 = i64::MAX as u64 - 1;

/// The longest tag, in characters.
pub const MAX_TAG_LENGTH: usize = 32;

/// A transaction tag, in lower case: `[a-z_][a-z0-9_]{0,31}`. Cloning it allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Arc<str>);

impl Tag {
    /// Checks a tag and puts it into lower case, as the server does.
    pub fn new(text: &str) -> Result<Self, GtidParseError> {
        let mut bytes = text.bytes();
        let starts = bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
        let continues = bytes.all(|next| next.is_ascii_alphanumeric() || next == b'_');
        if !starts || !continues || text.len() > MAX_TAG_LENGTH {
            return Err(GtidParseError::Tag(shown(text)));
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The tag's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One MySQL source transaction. Cloning it allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gtid {
    uuid: [u8; 16],
    tag: Option<Tag>,
    number: u64,
}

impl Gtid {
    /// The transaction `number` (1 to [`MAX_TRANSACTION_NUMBER`]) of the server `uuid`.
    pub fn new(uuid: [u8; 16], tag: Option<Tag>, number: u64) -> Result<Self, GtidParseError> {
        if number == 0 || number > MAX_TRANSACTION_NUMBER {
            return Err(GtidParseError::Number(number.to_string()));
        }
        Ok(Self { uuid, tag, number })
    }

    /// The server the transaction was first committed on.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The tag, where the transaction has one.
    #[must_use]
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The transaction's number among those of its server and tag; never 0.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_uuid(formatter, &self.uuid)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        write!(formatter, ":{}", self.number)
    }
}

impl FromStr for Gtid {
    type Err = GtidParseError;

    fn from_str(text: &str) -> Result<Self, GtidParseError> {
        let mut parts = text.split(':').map(str::trim);
        let uuid = parse_uuid(parts.next().unwrap_or_default())?;
        let parts = [parts.next(), parts.next(), parts.next()];
        match parts {
            [Some(number), None, None] => Self::new(uuid, None, parse_number(number)?),
            [Some(tag), Some(number), None] => {
                Self::new(uuid, Some(Tag::new(tag)?), parse_number(number)?)
            }
            [None, _, _] => Err(GtidParseError::NoNumber(shown(text))),
            _ => Err(GtidParseError::NotOne(shown(text))),
        }
    }
}

/// A server's UUID in the server's own form: lower case, 8-4-4-4-12.
#[must_use]
pub fn format_uuid(uuid: &[u8; 16]) -> String {
    struct Shown<'a>(&'a [u8; 16]);
    impl fmt::Display for Shown<'_> {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write_uuid(formatter, self.0)
        }
    }
    Shown(uuid).to_string()
}

/// Reads a server's UUID: hexadecimal digits of either case, 8-4-4-4-12.
pub fn parse_uuid(text: &str) -> Result<[u8; 16], GtidParseError> {
    let wrong = || GtidParseError::Uuid(shown(text));
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return Err(wrong());
    }
    let mut uuid = [0_u8; 16];
    let mut nibbles = 0;
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 8 | 13 | 18 | 23) {
            if *byte != b'-' {
                return Err(wrong());
            }
            continue;
        }
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => return Err(wrong()),
        };
        uuid[nibbles / 2] = uuid[nibbles / 2] << 4 | digit;
        nibbles += 1;
    }
    Ok(uuid)
}

/// Writes a UUID in the server's form, in one piece and without an allocation.
pub(super) fn write_uuid(formatter: &mut fmt::Formatter<'_>, uuid: &[u8; 16]) -> fmt::Result {
    // Which bytes stand where. Written for every transaction, as `meta.gtid`.
    const GROUPS: [(Range<usize>, Range<usize>); 5] = [
        (0..4, 0..8),
        (4..6, 9..13),
        (6..8, 14..18),
        (8..10, 19..23),
        (10..16, 24..36),
    ];
    let mut text = [b'-'; 36];
    for (bytes, digits) in GROUPS {
        hex_into(&uuid[bytes], &mut text[digits]);
    }
    formatter.write_str(std::str::from_utf8(&text).unwrap_or_default())
}

/// Reads a transaction number in the server's range. A sign is not part of one, though `u64::from_str` takes it.
pub(super) fn parse_number(text: &str) -> Result<u64, GtidParseError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && (1..=MAX_TRANSACTION_NUMBER).contains(&number) => Ok(number),
        _ => Err(GtidParseError::Number(shown(text))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn one_transaction_reads_and_prints() {
        for text in [
            format!("{UUID}:1"),
            format!("{UUID}:tag1:77"),
            format!("{UUID}:_:9223372036854775806"),
        ] {
            assert_eq!(text.parse::<Gtid>().unwrap().to_string(), text);
        }
        let upper: Gtid = format!("{}:TAG1:5", UUID.to_uppercase()).parse().unwrap();
        assert_eq!(upper.to_string(), format!("{UUID}:tag1:5"));
        assert_eq!(upper.tag().map(Tag::as_str), Some("tag1"));
        assert_eq!(upper.number(), 5);
        assert_eq!(format_uuid(&upper.uuid()), UUID);
    }

    #[test]
    fn wrong_transactions_show_the_part() {
        let long = "t".repeat(33);
        for (text, part) in [
            (String::new(), "``"),
            (UUID.to_owned(), UUID),
            (format!("{UUID}:"), "``"),
            (format!("{UUID}:0"), "`0`"),
            (format!("{UUID}:+1"), "`+1`"),
            (format!("{UUID}:-1"), "`-1`"),
            (format!("{UUID}:1-2"), "`1-2`"),
            (
                format!("{UUID}:9223372036854775807"),
                "`9223372036854775807`",
            ),
            (
                format!("{UUID}:18446744073709551616"),
                "`18446744073709551616`",
            ),
            (format!("{UUID}:1:2"), "`1`"),
            (format!("{UUID}:tag"), "`tag`"),
            (format!("{UUID}:tag:1:2"), "tag:1:2"),
            (format!("{UUID}:ta-g:1"), "`ta-g`"),
            (format!("{UUID}:{long}:1"), &long),
            ("3e11fa47x71ca-11e1-9e33-c80aa9429562:1".to_owned(), "47x71"),
            ("3g11fa47-71ca-11e1-9e33-c80aa9429562:1".to_owned(), "3g11"),
            ("3e11fa47-71ca-11e1-9e33-c80aa942956é:1".to_owned(), "956é"),
            ("0-1-100".to_owned(), "0-1-100"),
        ] {
            let error = text.parse::<Gtid>().expect_err(&text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Gtid::new([0; 16], None, 0).is_err());
        assert!(Gtid::new([0; 16], None, MAX_TRANSACTION_NUMBER + 1).is_err());
    }
}
