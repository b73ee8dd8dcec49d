//! Numbers, dates and texts: what is written says exactly what was read, or it is an error.

use bson::Decimal128;

use super::super::wire::Reader;
use super::super::{Charset, DecodeError, decimal, temporal};
use crate::fuzz::{Choices, Target, choices};
use crate::position::Flavor;

/// The numbers in a text such as `-838:59:59.12`, without signs.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|character: char| !character.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse().unwrap())
        .collect()
}

/// The fraction's bytes, as the server stores `digits` digits.
fn fraction(value: u64, digits: u8) -> u64 {
    if digits % 2 == 1 { value * 10 } else { value }
}

fn big_endian(value: u64, width: usize) -> Vec<u8> {
    value.to_be_bytes()[8 - width..].to_vec()
}

type Append = fn(&mut Reader<'_>, u8, &mut Vec<u8>) -> Result<(), DecodeError>;

/// Writes the text of a date or time, and makes its bytes from the text again.
fn temporal_text(input: &[u8]) -> bool {
    let mut choices = Choices(input);
    let kind = choices.below(7);
    let digits = match kind {
        0..=2 => choices.below(7) as u8,
        _ => 0,
    };
    let fraction_bytes = usize::from(digits.div_ceil(2));
    let (append, width): (Append, usize) = match kind {
        0 => (temporal::append_time, 3 + fraction_bytes),
        1 => (temporal::append_datetime, 5 + fraction_bytes),
        2 => (temporal::append_timestamp, 4 + fraction_bytes),
        3 => (|reader, _, out| temporal::append_date(reader, out), 3),
        4 => (|reader, _, out| temporal::append_old_time(reader, out), 3),
        5 => (
            |reader, _, out| temporal::append_old_datetime(reader, out),
            8,
        ),
        _ => (
            |reader, _, out| temporal::append_old_timestamp(reader, out),
            4,
        ),
    };
    let bytes = choices.take(width);
    let mut text = Vec::new();
    let mut reader = Reader::new(&bytes);
    if append(&mut reader, digits, &mut text).is_err() {
        return false;
    }
    assert!(reader.is_empty());
    let text = String::from_utf8(text).unwrap();
    let negative = text.starts_with('-');
    let fields = numbers(&text);
    let part = |index: usize| fields.get(index).copied().unwrap_or(0);
    let again = match kind {
        0 => {
            let whole = part(0) << 12 | part(1) << 6 | part(2);
            let bits = 8 * fraction_bytes as u32;
            let magnitude = (whole << bits | fraction(part(3), digits)).cast_signed();
            let middle = 0x80_0000_i64 << bits;
            let value = if negative {
                middle - magnitude
            } else {
                middle + magnitude
            };
            big_endian(value.cast_unsigned(), width)
        }
        1 => {
            let days = (part(0) * 13 + part(1)) << 5 | part(2);
            let whole = days << 17 | part(3) << 12 | part(4) << 6 | part(5);
            let mut bytes = big_endian(whole + 0x80_0000_0000, 5);
            bytes.extend(big_endian(fraction(part(6), digits), fraction_bytes));
            bytes
        }
        2 | 6 => {
            let seconds = match text.ends_with('Z') {
                true => bson::DateTime::parse_rfc3339_str(&text)
                    .unwrap()
                    .timestamp_millis()
                    .div_euclid(1000),
                false => 0,
            };
            let seconds = seconds.cast_unsigned();
            let mut bytes = if kind == 6 {
                seconds.to_le_bytes()[..4].to_vec()
            } else {
                big_endian(seconds, 4)
            };
            bytes.extend(big_endian(fraction(part(6), digits), fraction_bytes));
            bytes
        }
        3 => (part(0) << 9 | part(1) << 5 | part(2)).to_le_bytes()[..3].to_vec(),
        4 => {
            let value = (part(0) * 10_000 + part(1) * 100 + part(2)).cast_signed();
            let value = if negative { -value } else { value };
            value.to_le_bytes()[..3].to_vec()
        }
        _ => {
            let date = part(0) * 10_000 + part(1) * 100 + part(2);
            (date * 1_000_000 + part(3) * 10_000 + part(4) * 100 + part(5))
                .to_le_bytes()
                .to_vec()
        }
    };
    assert_eq!(
        again, bytes,
        "kind {kind} with {digits} digits is written as {text}"
    );
    true
}

#[test]
fn dates_and_times() {
    Target {
        name: "source::decode::fuzz::values::dates_and_times",
        make: choices,
        check: temporal_text,
        memory: 256,
    }
    .run(50_000);
}

fn decimal_text(input: &[u8]) -> bool {
    let mut choices = Choices(input);
    let precision = 1 + choices.below(65) as u8;
    let scale = choices.below(usize::from(precision.min(30)) + 1) as u8;
    let bytes = match choices.below(2) {
        0 => choices.take(decimal::length(precision, scale)),
        _ => {
            let sign = ["", "-"][choices.below(2)];
            let mut digit = || char::from(b'0' + choices.below(10) as u8);
            let whole: String = (0..precision - scale).map(|_| digit()).collect();
            let fraction: String = (0..scale).map(|_| digit()).collect();
            decimal::tests::encode(&format!("{sign}{whole}.{fraction}"), precision, scale)
        }
    };
    let mut text = Vec::new();
    let read = decimal::append_text(precision, scale, &bytes, &mut text);
    let text = String::from_utf8(text).unwrap();
    if precision <= decimal::DECIMAL128_DIGITS {
        let number = decimal::to_decimal128(precision, scale, &bytes);
        assert_eq!(number.as_ref().err(), read.as_ref().err());
        if let Ok(number) = number {
            assert_eq!(
                number,
                text.parse::<Decimal128>().unwrap().bytes(),
                "{text}"
            );
        }
    }
    if read.is_err() {
        return false;
    }
    // A zero with a sign, which no server keeps, has none behind it.
    if text.bytes().any(|byte| (b'1'..=b'9').contains(&byte)) {
        let again = decimal::tests::encode(&text, precision, scale);
        assert_eq!(again, bytes, "{text}");
    }
    true
}

#[test]
fn decimals() {
    Target {
        name: "source::decode::fuzz::values::decimals",
        make: choices,
        check: decimal_text,
        memory: 256,
    }
    .run(50_000);
}

fn text(input: &[u8]) -> bool {
    let Some((collation, bytes)) = input.split_first_chunk::<2>() else {
        return false;
    };
    let [low, high] = *collation;
    let flavor = [Flavor::Mysql, Flavor::Mariadb][usize::from(high >> 7)];
    let charset = Charset::of_collation(
        flavor,
        u64::from(u16::from_le_bytes([low, high & 0x7f])) % 4000,
    );
    let mut out = b"before".to_vec();
    let complete = charset.append_utf8(bytes, &mut out);
    let added = out.strip_prefix(b"before").expect("what was there stays");
    match charset.decode(bytes) {
        Some(text) => {
            assert!(complete && text.as_bytes() == added);
            assert!(text.chars().count() <= bytes.len());
        }
        None => assert!(!complete && added.is_empty()),
    }
    if let Some(text) = charset.as_utf8(bytes) {
        assert!(complete && text.as_bytes() == added && text.as_bytes() == bytes);
    }
    complete
}

#[test]
fn texts_of_every_character_set() {
    Target {
        name: "source::decode::fuzz::values::texts_of_every_character_set",
        make: choices,
        check: text,
        memory: 256,
    }
    .run(50_000);
}
