//! Text of any of MySQL's character sets as UTF-8.
//!
//! Guarantees: what is decoded is exactly what `CONVERT(column USING utf8mb4)` gives; a value of which one byte has no
//! character in MySQL's own table is not decoded at all, so that no '?' or U+FFFD ever stands for lost bytes. The
//! single-byte sets have tables dumped from the server. The East Asian sets are decoded by encoding_rs, with the codes where
//! MySQL and the web's tables differ listed in `charset_tables`. A set that is not known here has no decoder: such a
//! column is stored as Binary, always.
//!
//! Where it comes from: the ids and names are those of `SHOW COLLATION` (mysql_common's table has all 286 of MySQL 9.7;
//! MariaDB's own ids follow the rules of its include/m_ctype.h); the lengths of multi-byte characters are those of
//! strings/ctype-*.cc in the server's source. Both servers convert every code alike, which tests/values/charsets.rs and
//! tests/recording/mariadb_types.rs ask them.

use mysql_common::collations::{Collation, CollationId};

use super::charset_tables as tables;
use super::charset_tables::{Exceptions, HighHalf};
use crate::position::Flavor;

/// The character set of a column.
#[derive(Debug, Clone, Copy)]
pub struct Charset {
    name: &'static str,
    max_bytes_per_character: u8,
    encoding: Encoding,
}

/// How a character set is decoded.
#[derive(Debug, Clone, Copy)]
enum Encoding {
    Utf8,
    Ascii,
    SingleByte {
        low: &'static [(u8, u16)],
        high: &'static HighHalf,
    },
    EastAsian {
        lengths: CharacterLengths,
        encoding: &'static encoding_rs::Encoding,
        exceptions: &'static Exceptions,
    },
    Ucs2,
    Utf16,
    Utf16LittleEndian,
    Utf32,
    /// Bytes: `binary`, or a set that is not known.
    None,
}

/// How long a character is, told from its first bytes.
#[derive(Debug, Clone, Copy)]
enum CharacterLengths {
    /// big5, gbk, gb2312, euckr: from 0x81 on two bytes.
    TwoBytes,
    /// sjis, cp932: 0xa1 to 0xdf are single half-width kana.
    ShiftJis,
    /// ujis, eucjpms: 0x8f begins three bytes.
    ExtendedUnix,
    /// gb18030: a digit in second place makes it four bytes.
    Gb18030,
}

/// A set is known by its name.
impl PartialEq for Charset {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Charset {}

/// The highest collation id of MySQL 9.7.
const LAST_SHARED_COLLATION: u64 = 323;

impl Charset {
    /// The character set of a collation id, as a table map or `SHOW COLLATION` of that flavor gives it. An id that is not
    /// known (a collation compiled in later, or defined by the user) gives a set without a decoder.
    pub fn of_collation(flavor: Flavor, id: u64) -> Self {
        let known = match flavor {
            Flavor::Mysql => shared_collation(id),
            Flavor::Mariadb => mariadb_collation(id),
        };
        known.unwrap_or_else(Self::unknown)
    }

    /// The set of a column whose table map tells none: bytes.
    pub fn unknown() -> Self {
        Self {
            name: "unknown",
            max_bytes_per_character: 1,
            encoding: Encoding::None,
        }
    }

    /// The set of that name, as information_schema gives it.
    pub(crate) fn of_name(name: &str) -> Self {
        let name = if name == "utf8" { "utf8mb3" } else { name };
        (1..=LAST_SHARED_COLLATION)
            .filter_map(shared_collation)
            .find(|charset| charset.name == name)
            .unwrap_or_else(Self::unknown)
    }

    fn named(name: &'static str, max_bytes_per_character: u8) -> Self {
        Self {
            name,
            max_bytes_per_character,
            encoding: encoding_of(name),
        }
    }

    /// MySQL's name of the set, or `unknown`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many bytes the longest character takes; at least 1.
    pub fn max_bytes_per_character(&self) -> u32 {
        u32::from(self.max_bytes_per_character.max(1))
    }

    /// Whether this is MySQL's `binary`, which makes CHAR, VARCHAR and TEXT into BINARY, VARBINARY and BLOB.
    pub fn is_binary(&self) -> bool {
        self.name == "binary"
    }

    /// Whether nothing is known of this set.
    pub(crate) fn is_unknown(&self) -> bool {
        self.name == "unknown"
    }

    /// Whether there is a decoder for this set.
    pub fn is_text(&self) -> bool {
        !matches!(self.encoding, Encoding::None)
    }

    /// The bytes themselves where they are UTF-8 already; None when they have to be converted, or cannot be.
    #[inline]
    pub(crate) fn as_utf8<'a>(&self, bytes: &'a [u8]) -> Option<&'a str> {
        match self.encoding {
            Encoding::Utf8 => std::str::from_utf8(bytes).ok(),
            Encoding::Ascii if bytes.is_ascii() => std::str::from_utf8(bytes).ok(),
            Encoding::SingleByte { low: [], .. } | Encoding::EastAsian { .. }
                if bytes.is_ascii() =>
            {
                std::str::from_utf8(bytes).ok()
            }
            _ => None,
        }
    }

    /// Appends the text as UTF-8. False, with `out` as it was, when a byte has no character.
    pub(crate) fn append_utf8(&self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let complete = match self.encoding {
            Encoding::Utf8 | Encoding::Ascii => match self.as_utf8(bytes) {
                Some(text) => {
                    out.extend_from_slice(text.as_bytes());
                    true
                }
                None => false,
            },
            Encoding::SingleByte { low, high } => append_single_byte(bytes, low, high, out),
            Encoding::EastAsian {
                lengths,
                encoding,
                exceptions,
            } => append_east_asian(bytes, lengths, encoding, exceptions, out),
            // MySQL's ucs2 has no surrogate pairs: a surrogate is a code without a character.
            Encoding::Ucs2 => append_units::<2>(bytes, out, |unit| {
                char::from_u32(u32::from(u16::from_be_bytes(unit)))
            }),
            Encoding::Utf16 => append_utf16(bytes, out, u16::from_be_bytes),
            Encoding::Utf16LittleEndian => append_utf16(bytes, out, u16::from_le_bytes),
            Encoding::Utf32 => {
                append_units::<4>(bytes, out, |unit| char::from_u32(u32::from_be_bytes(unit)))
            }
            Encoding::None => false,
        };
        if !complete {
            out.truncate(start);
        }
        complete
    }

    /// The text as a string, or None when a byte has no character.
    pub fn decode(&self, bytes: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        if self.append_utf8(bytes, &mut out) {
            String::from_utf8(out).ok()
        } else {
            None
        }
    }
}

/// The set of one of MySQL's collations. MariaDB has most of them under the same ids.
fn shared_collation(id: u64) -> Option<Charset> {
    let id = CollationId::from(u16::try_from(id).ok()?);
    let collation = Collation::resolve(id);
    (id != CollationId::UNKNOWN_COLLATION_ID)
        .then(|| Charset::named(collation.charset, collation.max_len))
}

/// The set of one of MariaDB's collations.
fn mariadb_collation(id: u64) -> Option<Charset> {
    match id {
        // MySQL's, as far as MariaDB has them; those from 255 on stand for a newer collation of MariaDB's.
        1..=75 | 77..=247 | 255..=LAST_SHARED_COLLATION => shared_collation(id),
        // MariaDB's further languages: a page for each of the Unicode sets.
        0x240..=0x25f => Some(Charset::named("utf8mb3", 3)),
        0x260..=0x27f => Some(Charset::named("utf8mb4", 4)),
        0x280..=0x29f => Some(Charset::named("ucs2", 2)),
        0x2a0..=0x2bf => Some(Charset::named("utf16", 4)),
        0x2c0..=0x2df => Some(Charset::named("utf16le", 4)),
        0x2e0..=0x2ff => Some(Charset::named("utf32", 4)),
        // NO PAD: 1024 more than the collation that pads. What else lies here is free for a user's own collations.
        0x400..=0x7ff if is_no_pad(id) => shared_collation(id - 0x400),
        // UCA 14.0.0, named by language and strength in the lower bits.
        0x800..=0x8ff => Some(Charset::named("utf8mb3", 3)),
        0x900..=0x9ff => Some(Charset::named("utf8mb4", 4)),
        0xa00..=0xaff => Some(Charset::named("ucs2", 2)),
        0xb00..=0xbff => Some(Charset::named("utf16", 4)),
        0xc00..=0xcff => Some(Charset::named("utf32", 4)),
        _ => None,
    }
}

fn is_no_pad(id: u64) -> bool {
    tables::MARIADB_NO_PAD
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&id))
}

fn encoding_of(name: &str) -> Encoding {
    let single = |high| Encoding::SingleByte { low: &[], high };
    let east_asian = |lengths, encoding, exceptions| Encoding::EastAsian {
        lengths,
        encoding,
        exceptions,
    };
    match name {
        "utf8mb4" | "utf8mb3" | "utf8" => Encoding::Utf8,
        "ascii" => Encoding::Ascii,
        "ucs2" => Encoding::Ucs2,
        "utf16" => Encoding::Utf16,
        "utf16le" => Encoding::Utf16LittleEndian,
        "utf32" => Encoding::Utf32,
        "armscii8" => single(&tables::ARMSCII8),
        "cp1250" => single(&tables::CP1250),
        "cp1251" => single(&tables::CP1251),
        "cp1256" => single(&tables::CP1256),
        "cp1257" => single(&tables::CP1257),
        "cp850" => single(&tables::CP850),
        "cp852" => single(&tables::CP852),
        "cp866" => single(&tables::CP866),
        "dec8" => single(&tables::DEC8),
        "geostd8" => single(&tables::GEOSTD8),
        "greek" => single(&tables::GREEK),
        "hebrew" => single(&tables::HEBREW),
        "hp8" => single(&tables::HP8),
        "keybcs2" => single(&tables::KEYBCS2),
        "koi8r" => single(&tables::KOI8R),
        "koi8u" => single(&tables::KOI8U),
        "latin1" => single(&tables::LATIN1),
        "latin2" => single(&tables::LATIN2),
        "latin5" => single(&tables::LATIN5),
        "latin7" => single(&tables::LATIN7),
        "macce" => single(&tables::MACCE),
        "macroman" => single(&tables::MACROMAN),
        "swe7" => Encoding::SingleByte {
            low: &tables::SWE7_LOW,
            high: &tables::SWE7,
        },
        "tis620" => single(&tables::TIS620),
        "big5" => east_asian(CharacterLengths::TwoBytes, encoding_rs::BIG5, tables::BIG5),
        "cp932" => east_asian(CharacterLengths::ShiftJis, encoding_rs::SHIFT_JIS, &[]),
        "sjis" => east_asian(
            CharacterLengths::ShiftJis,
            encoding_rs::SHIFT_JIS,
            tables::SJIS,
        ),
        "eucjpms" => east_asian(
            CharacterLengths::ExtendedUnix,
            encoding_rs::EUC_JP,
            tables::EUCJPMS,
        ),
        "ujis" => east_asian(
            CharacterLengths::ExtendedUnix,
            encoding_rs::EUC_JP,
            tables::UJIS,
        ),
        "euckr" => east_asian(CharacterLengths::TwoBytes, encoding_rs::EUC_KR, &[]),
        "gb18030" => east_asian(
            CharacterLengths::Gb18030,
            encoding_rs::GB18030,
            tables::GB18030,
        ),
        "gb2312" => east_asian(CharacterLengths::TwoBytes, encoding_rs::GBK, tables::GB2312),
        "gbk" => east_asian(CharacterLengths::TwoBytes, encoding_rs::GBK, tables::GBK),
        _ => Encoding::None,
    }
}

#[inline]
fn push_char(out: &mut Vec<u8>, character: char) {
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

fn append_single_byte(bytes: &[u8], low: &[(u8, u16)], high: &HighHalf, out: &mut Vec<u8>) -> bool {
    out.reserve(bytes.len() * 2);
    for &byte in bytes {
        let code = match high.get(usize::from(byte).wrapping_sub(0x80)) {
            Some(code) => *code,
            None => match low.iter().find(|(from, _)| *from == byte) {
                Some((_, code)) => *code,
                None => {
                    out.push(byte);
                    continue;
                }
            },
        };
        match char::from_u32(u32::from(code)) {
            Some(character) if code != 0 => push_char(out, character),
            _ => return false,
        }
    }
    true
}

/// What the exceptions say about a code.
enum Exception {
    NoCharacter,
    Character(char),
}

fn exception(exceptions: &Exceptions, code: u32) -> Option<Exception> {
    let after = exceptions.partition_point(|(first, _, _)| *first <= code);
    let (first, count, character) = *exceptions.get(after.checked_sub(1)?)?;
    let offset = code - first;
    if offset >= count {
        return None;
    }
    Some(match char::from_u32(character + offset) {
        Some(character_of_code) if character != 0 => Exception::Character(character_of_code),
        _ => Exception::NoCharacter,
    })
}

impl CharacterLengths {
    /// The length of the first character of `bytes`, 1 to 4; None when no character begins like that.
    fn first(self, bytes: &[u8]) -> Option<usize> {
        let (&lead, rest) = bytes.split_first()?;
        let length = match (self, lead) {
            (_, 0..=0x7f) | (Self::ShiftJis, 0xa1..=0xdf) => 1,
            (_, 0x80 | 0xff) => return None,
            (Self::TwoBytes | Self::Gb18030, 0x81..=0xfe) => match (self, rest.first()) {
                (Self::Gb18030, Some(b'0'..=b'9')) => 4,
                _ => 2,
            },
            (Self::ShiftJis, 0x81..=0xa0 | 0xe0..=0xfc) => 2,
            (Self::ExtendedUnix, 0x8f) => 3,
            (Self::ExtendedUnix, 0x8e | 0xa1..=0xfe) => 2,
            _ => return None,
        };
        (length <= bytes.len()).then_some(length)
    }
}

/// Decodes in runs: encoding_rs gets all that lies between two exceptions at once.
fn append_east_asian(
    bytes: &[u8],
    lengths: CharacterLengths,
    encoding: &'static encoding_rs::Encoding,
    exceptions: &Exceptions,
    out: &mut Vec<u8>,
) -> bool {
    let mut run = bytes;
    let mut run_length = 0;
    while let Some(rest) = run.get(run_length..).filter(|rest| !rest.is_empty()) {
        let Some(length) = lengths.first(rest) else {
            return false;
        };
        let character = rest.get(..length).unwrap_or_default();
        let found = match length {
            2 | 3 => exception(
                exceptions,
                character
                    .iter()
                    .fold(0, |code, byte| code << 8 | u32::from(*byte)),
            ),
            _ => None,
        };
        match found {
            None => run_length += length,
            Some(Exception::NoCharacter) => return false,
            Some(Exception::Character(replacement)) => {
                let (before, after) = run.split_at_checked(run_length).unwrap_or((run, &[]));
                if !append_run(before, encoding, out) {
                    return false;
                }
                push_char(out, replacement);
                run = after.get(length..).unwrap_or_default();
                run_length = 0;
            }
        }
    }
    append_run(run, encoding, out)
}

fn append_run(bytes: &[u8], encoding: &'static encoding_rs::Encoding, out: &mut Vec<u8>) -> bool {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let Some(room) = decoder.max_utf8_buffer_length_without_replacement(bytes.len()) else {
        return false;
    };
    let start = out.len();
    out.resize(start + room, 0);
    let Some(target) = out.get_mut(start..) else {
        return false;
    };
    let (result, _, written) = decoder.decode_to_utf8_without_replacement(bytes, target, true);
    out.truncate(start + written);
    result == encoding_rs::DecoderResult::InputEmpty
}

fn append_units<const N: usize>(
    bytes: &[u8],
    out: &mut Vec<u8>,
    character: impl Fn([u8; N]) -> Option<char>,
) -> bool {
    let (units, rest) = bytes.as_chunks::<N>();
    out.reserve(bytes.len() * 2);
    for unit in units {
        match character(*unit) {
            Some(character) => push_char(out, character),
            None => return false,
        }
    }
    rest.is_empty()
}

fn append_utf16(bytes: &[u8], out: &mut Vec<u8>, unit: fn([u8; 2]) -> u16) -> bool {
    let (units, rest) = bytes.as_chunks::<2>();
    out.reserve(bytes.len() * 2);
    for character in char::decode_utf16(units.iter().map(|bytes| unit(*bytes))) {
        match character {
            Ok(character) => push_char(out, character),
            Err(_) => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(name: &'static str, bytes: &[u8]) -> Option<String> {
        Charset::named(name, 1).decode(bytes)
    }

    #[test]
    fn latin1_is_cp1252_with_its_holes_as_control_characters() {
        assert_eq!(
            decode("latin1", b"\x80\x81\xe9z").unwrap(),
            "\u{20ac}\u{81}éz"
        );
    }

    #[test]
    fn a_hole_in_a_single_byte_set_is_not_decoded() {
        assert_eq!(decode("cp1251", b"\xcf\xf0").unwrap(), "Пр");
        assert_eq!(decode("cp1251", b"\xcf\x98"), None);
    }

    #[test]
    fn swe7_differs_below_0x80() {
        assert_eq!(decode("swe7", b"A[").unwrap(), "AÄ");
    }

    #[test]
    fn east_asian_sets_follow_mysql_where_the_web_differs() {
        assert_eq!(decode("sjis", b"\x83\x65\x81\x60a\xb1").unwrap(), "テ〜aｱ");
        assert_eq!(decode("cp932", b"\x81\x60").unwrap(), "～");
        assert_eq!(decode("gbk", b"\xc4\xe3\xba\xc3!").unwrap(), "你好!");
        assert_eq!(decode("gbk", b"\xfe\xfe"), None);
        assert_eq!(decode("gbk", b"\x80"), None);
        assert_eq!(
            decode("gb18030", b"\x81\x30\x81\x30\x81\x39\xef\x30")
                .unwrap()
                .chars()
                .count(),
            2
        );
        assert_eq!(decode("ujis", b"\x8f\xf5\xa1").unwrap(), "\u{e3ac}");
        assert_eq!(decode("big5", b"\xa1"), None);
    }

    #[test]
    fn unicode_forms() {
        assert_eq!(decode("ucs2", b"\x04\x1f\x00a").unwrap(), "Пa");
        assert_eq!(decode("ucs2", b"\xd8\x3d\xde\x00"), None);
        assert_eq!(decode("utf16", b"\xd8\x3d\xde\x00").unwrap(), "😀");
        assert_eq!(decode("utf16le", b"\x3d\xd8\x00\xde").unwrap(), "😀");
        assert_eq!(decode("utf32", b"\x00\x01\xf6\x00").unwrap(), "😀");
        assert_eq!(decode("utf16", b"\xd8\x3d\xde"), None);
        assert_eq!(decode("utf8mb4", b"\xed\xa0\x80"), None);
        assert_eq!(decode("ascii", "é".as_bytes()), None);
    }

    #[test]
    fn collation_ids() {
        for flavor in [Flavor::Mysql, Flavor::Mariadb] {
            let name = |id| Charset::of_collation(flavor, id).name();
            assert_eq!(name(255), "utf8mb4");
            assert_eq!(name(8), "latin1");
            assert!(Charset::of_collation(flavor, 63).is_binary());
            assert_eq!(name(9_999), "unknown");
            assert_eq!(name(1 << 40), "unknown");
        }
        let own = [
            (1032, "latin1"),
            (1270, "utf8mb4"),
            (2048, "utf8mb3"),
            (3271, "utf32"),
        ];
        for (id, name) in own {
            assert_eq!(Charset::of_collation(Flavor::Mariadb, id).name(), name);
            // In MySQL these ids are for a user's own collations, which may be of any set.
            assert_eq!(Charset::of_collation(Flavor::Mysql, id).name(), "unknown");
        }
        assert_eq!(
            Charset::of_collation(Flavor::Mariadb, 1029).name(),
            "unknown"
        );
    }

    #[test]
    fn any_bytes_in_any_set_decode_to_utf8_or_not_at_all() {
        let mut random = fastrand::Rng::with_seed(7);
        for id in (0..330).chain(0x400..0xd00) {
            let charset = Charset::of_collation(Flavor::Mariadb, id);
            for _ in 0..100 {
                let bytes: Vec<u8> = (0..random.usize(0..9)).map(|_| random.u8(..)).collect();
                let mut out = b"kept".to_vec();
                let complete = charset.append_utf8(&bytes, &mut out);
                assert!(std::str::from_utf8(&out).is_ok() && out.starts_with(b"kept"));
                assert!(complete || out.len() == 4);
            }
        }
    }
}
