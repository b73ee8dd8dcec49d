//! Dates and times as MySQL prints them.
//!
//! Where the formats come from: `my_time_packed_to_binary`, `TIME_from_longlong_datetime_packed` and their kin in the
//! server's mysys/my_time.cc; the manual's "Date and Time Data Type Representation" (MySQL Internals). Guarantees: all of the
//! column's fractional digits are there, zero dates and the sign of a negative TIME are kept. Only TIMESTAMP is an instant:
//! it is written in UTC as RFC 3339; its zero is no instant and stays MySQL's '0000-00-00 00:00:00'. What a text could not say
//! exactly, no server stores: a year past 9999, an hour past 838, a fraction with more digits than the column has. It is an
//! error, never another date.

use super::error::DecodeError;
use super::wire::{Reader, big_endian};

/// Fractional digits of dates and times inside JSON.
const JSON_FRACTION_DIGITS: u8 = 6;

#[cold]
fn out_of_range(what: &'static str, found: u64, expected: &'static str) -> DecodeError {
    DecodeError::Unexpected {
        what,
        found,
        expected,
    }
}

#[inline]
fn two_digits(out: &mut Vec<u8>, value: u64) {
    let value = value % 100;
    out.extend_from_slice(&[b'0' + (value / 10) as u8, b'0' + (value % 10) as u8]);
}

#[inline]
fn date(out: &mut Vec<u8>, year: u64, month: u64, day: u64) -> Result<(), DecodeError> {
    if year > 9999 {
        return Err(out_of_range("year", year, "0 to 9999"));
    }
    two_digits(out, year / 100);
    two_digits(out, year);
    out.push(b'-');
    two_digits(out, month);
    out.push(b'-');
    two_digits(out, day);
    Ok(())
}

#[inline]
fn clock(out: &mut Vec<u8>, hour: u64, minute: u64, second: u64) {
    if hour > 99 {
        out.push(b'0' + (hour / 100 % 10) as u8);
    }
    two_digits(out, hour);
    out.push(b':');
    two_digits(out, minute);
    out.push(b':');
    two_digits(out, second);
}

#[inline]
fn fraction(out: &mut Vec<u8>, microseconds: u64, digits: u8) {
    if digits > 0 {
        let all = [
            b'.',
            b'0' + (microseconds / 100_000 % 10) as u8,
            b'0' + (microseconds / 10_000 % 10) as u8,
            b'0' + (microseconds / 1_000 % 10) as u8,
            b'0' + (microseconds / 100 % 10) as u8,
            b'0' + (microseconds / 10 % 10) as u8,
            b'0' + (microseconds % 10) as u8,
        ];
        out.extend_from_slice(all.get(..=usize::from(digits)).unwrap_or(&all));
    }
}

/// How many bytes the fraction takes.
#[inline]
pub(crate) fn fraction_length(digits: u8) -> usize {
    usize::from(digits.div_ceil(2))
}

/// A fraction in hundredths, ten-thousandths or millionths of a second, as microseconds.
#[inline]
fn microseconds(stored: u64, digits: u8) -> Result<u64, DecodeError> {
    let (in_microseconds, place_of_the_last_digit) = match digits {
        0 => (0, 1),
        1 => (stored * 10_000, 100_000),
        2 => (stored * 10_000, 10_000),
        3 => (stored * 100, 1_000),
        4 => (stored * 100, 100),
        5 => (stored, 10),
        _ => (stored, 1),
    };
    if in_microseconds > 999_999 || in_microseconds % place_of_the_last_digit != 0 {
        let expected = "no more digits than the column has";
        return Err(out_of_range("fraction of a second", stored, expected));
    }
    Ok(in_microseconds)
}

/// A fraction, big-endian, as microseconds.
#[inline]
fn read_fraction(reader: &mut Reader<'_>, digits: u8) -> Result<u64, DecodeError> {
    let bytes = reader.bytes(fraction_length(digits), "fraction of a second")?;
    microseconds(big_endian(bytes), digits)
}

/// DATE.
#[inline]
pub(crate) fn append_date(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let value = reader.unsigned(3, "date")?;
    date(out, value >> 9, value >> 5 & 15, value & 31)
}

/// TIME(n).
#[inline]
pub(crate) fn append_time(
    reader: &mut Reader<'_>,
    digits: u8,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    // Integer and fractional part form one number, shifted so that it is never negative: the two cannot be read apart.
    let fraction_bits = 8 * fraction_length(digits) as u32;
    let whole = big_endian(reader.bytes(3, "time")?);
    let rest = big_endian(reader.bytes(fraction_length(digits), "fraction of a second")?);
    let shifted = (whole << fraction_bits | rest) as i64;
    let value = shifted - (0x80_0000_i64 << fraction_bits);
    let magnitude = value.unsigned_abs();
    let whole = magnitude >> fraction_bits;
    let rest = magnitude & ((1 << fraction_bits) - 1);
    append_signed_time(value < 0, whole, microseconds(rest, digits)?, digits, out)
}

#[inline]
fn append_signed_time(
    negative: bool,
    whole: u64,
    microseconds: u64,
    digits: u8,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let hour = whole >> 12;
    if hour > 838 {
        return Err(out_of_range("hour", hour, "0 to 838"));
    }
    if negative {
        out.push(b'-');
    }
    clock(out, hour, whole >> 6 & 0x3f, whole & 0x3f);
    fraction(out, microseconds, digits);
    Ok(())
}

/// DATETIME(n).
#[inline]
pub(crate) fn append_datetime(
    reader: &mut Reader<'_>,
    digits: u8,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let value = big_endian(reader.bytes(5, "datetime")?);
    let Some(value) = value.checked_sub(0x80_0000_0000) else {
        let expected = "a date that is not negative";
        return Err(out_of_range("datetime", value, expected));
    };
    let microseconds = read_fraction(reader, digits)?;
    append_packed_datetime(value, microseconds, digits, out)
}

#[inline]
fn append_packed_datetime(
    value: u64,
    microseconds: u64,
    digits: u8,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let (days, clock_part) = (value >> 17, value & 0x1_ffff);
    let months = days >> 5;
    date(out, months / 13, months % 13, days & 31)?;
    out.push(b' ');
    clock(
        out,
        clock_part >> 12,
        clock_part >> 6 & 0x3f,
        clock_part & 0x3f,
    );
    fraction(out, microseconds, digits);
    Ok(())
}

/// TIMESTAMP(n).
#[inline]
pub(crate) fn append_timestamp(
    reader: &mut Reader<'_>,
    digits: u8,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let seconds = big_endian(reader.bytes(4, "timestamp")?);
    let microseconds = read_fraction(reader, digits)?;
    append_instant(seconds, microseconds, digits, out)
}

fn append_instant(
    seconds: u64,
    microseconds: u64,
    digits: u8,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    if seconds == 0 {
        if microseconds > 0 {
            let expected = "0, as in every zero timestamp";
            return Err(out_of_range("fraction of a second", microseconds, expected));
        }
        out.extend_from_slice(b"0000-00-00 00:00:00");
        fraction(out, 0, digits);
        return Ok(());
    }
    let (year, month, day) = civil_date(seconds / 86_400);
    date(out, year, month, day)?;
    out.push(b'T');
    clock(out, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    fraction(out, microseconds, digits);
    out.push(b'Z');
    Ok(())
}

/// Year, month and day of a day since 1970-01-01 (Howard Hinnant's `civil_from_days`, for days that are not negative).
#[inline]
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// TIME of a table made before MySQL 5.6.
pub(crate) fn append_old_time(
    reader: &mut Reader<'_>,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let value = reader.unsigned(3, "time")? as i64;
    let value = if value >= 0x80_0000 {
        value - 0x100_0000
    } else {
        value
    };
    if value < 0 {
        out.push(b'-');
    }
    let value = value.unsigned_abs();
    clock(out, value / 10_000, value / 100 % 100, value % 100);
    Ok(())
}

/// DATETIME of a table made before MySQL 5.6.
pub(crate) fn append_old_datetime(
    reader: &mut Reader<'_>,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let value = reader.u64("datetime")?;
    let (days, clock_part) = (value / 1_000_000, value % 1_000_000);
    date(out, days / 10_000, days / 100 % 100, days % 100)?;
    out.push(b' ');
    clock(
        out,
        clock_part / 10_000,
        clock_part / 100 % 100,
        clock_part % 100,
    );
    Ok(())
}

/// TIMESTAMP of a table made before MySQL 5.6.
pub(crate) fn append_old_timestamp(
    reader: &mut Reader<'_>,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    append_instant(u64::from(reader.u32("timestamp")?), 0, 0, out)
}

/// A date or time inside JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonTemporal {
    Date,
    Time,
    DateTime,
}

/// Appends a date or time inside JSON as MySQL prints it there, always with six fractional digits (`Json_datetime`).
pub(crate) fn append_json(
    kind: JsonTemporal,
    data: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let Some(bytes) = data.first_chunk::<8>().filter(|_| data.len() == 8) else {
        return Err(DecodeError::Json("a date or time that is not 8 bytes long"));
    };
    let packed = i64::from_le_bytes(*bytes);
    if packed < 0 && kind != JsonTemporal::Time {
        return Err(DecodeError::Json("a date that is negative"));
    }
    let magnitude = packed.unsigned_abs();
    let whole = magnitude >> 24;
    let microseconds = microseconds(magnitude & 0xff_ffff, JSON_FRACTION_DIGITS)?;
    match kind {
        JsonTemporal::Time => {
            append_signed_time(packed < 0, whole, microseconds, JSON_FRACTION_DIGITS, out)
        }
        JsonTemporal::DateTime => {
            append_packed_datetime(whole, microseconds, JSON_FRACTION_DIGITS, out)
        }
        JsonTemporal::Date => {
            let days = whole >> 17;
            date(out, (days >> 5) / 13, (days >> 5) % 13, days & 31)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(
        append: impl Fn(&mut Reader<'_>, &mut Vec<u8>) -> Result<(), DecodeError>,
        bytes: &[u8],
    ) -> String {
        let mut out = Vec::new();
        let mut reader = Reader::new(bytes);
        append(&mut reader, &mut out).unwrap();
        assert!(reader.is_empty());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_of_both_signs_with_fractions() {
        // From the manual's page on the representation: -00:00:01.10 is 0x7ffffe and 0xf6.
        let time = |digits| {
            move |reader: &mut Reader<'_>, out: &mut Vec<u8>| append_time(reader, digits, out)
        };
        assert_eq!(text(time(2), &[0x7f, 0xff, 0xfe, 0xf6]), "-00:00:01.10");
        assert_eq!(text(time(2), &[0x7f, 0xff, 0xff, 0xff]), "-00:00:00.01");
        assert_eq!(text(time(0), &[0x80, 0, 0]), "00:00:00");
        assert_eq!(text(time(1), &[0x80, 0, 1, 90]), "00:00:01.9");
        let lowest = 0x80_0000_u32 - (838 << 12 | 59 << 6 | 59);
        assert_eq!(text(time(0), &lowest.to_be_bytes()[1..]), "-838:59:59");
        assert_eq!(
            text(time(6), &[0x80, 0, 0, 0x01, 0xe2, 0x40]),
            "00:00:00.123456"
        );
    }

    #[test]
    fn dates_with_zeros_stay() {
        assert_eq!(text(append_date, &[0, 0, 0]), "0000-00-00");
        assert_eq!(text(append_date, &[0x21, 0x00, 0x00]), "0000-01-01");
        let value = 9999_u32 << 9 | 12 << 5 | 31;
        assert_eq!(text(append_date, &value.to_le_bytes()[..3]), "9999-12-31");
    }

    #[test]
    fn datetimes_and_timestamps() {
        let packed = ((2026_u64 * 13 + 11) << 5 | 21) << 17 | 2 << 12 | 36 << 6 | 7;
        let mut bytes = (packed + 0x80_0000_0000).to_be_bytes()[3..].to_vec();
        bytes.extend([0x04, 0xd2]);
        let datetime = |reader: &mut Reader<'_>, out: &mut Vec<u8>| append_datetime(reader, 4, out);
        assert_eq!(text(datetime, &bytes), "2026-11-21 02:36:07.1234");
        assert_eq!(
            text(datetime, &[0x80, 0, 0, 0, 0, 0, 0]),
            "0000-00-00 00:00:00.0000"
        );
        assert!(
            append_datetime(&mut Reader::new(&[0x7f, 0, 0, 0, 0]), 0, &mut Vec::new()).is_err()
        );
        let timestamp =
            |reader: &mut Reader<'_>, out: &mut Vec<u8>| append_timestamp(reader, 3, out);
        assert_eq!(
            text(timestamp, &[0, 0, 0, 0, 0, 0]),
            "0000-00-00 00:00:00.000"
        );
        assert_eq!(
            text(timestamp, &[0, 0, 0, 1, 0x13, 0x88]),
            "1970-01-01T00:00:01.500Z"
        );
        assert_eq!(
            text(timestamp, &[0x7f, 0xff, 0xff, 0xff, 0, 0]),
            "2038-01-19T03:14:07.000Z"
        );
        let leap = |reader: &mut Reader<'_>, out: &mut Vec<u8>| append_timestamp(reader, 0, out);
        assert_eq!(
            text(leap, &1_709_164_800_u32.to_be_bytes()),
            "2024-02-29T00:00:00Z"
        );
        assert_eq!(text(leap, &u32::MAX.to_be_bytes()), "2106-02-07T06:28:15Z");
    }

    #[test]
    fn what_a_text_cannot_say_exactly_is_an_error() {
        let mut out = Vec::new();
        let refused = |result: Result<(), DecodeError>| assert!(result.is_err());
        // A second bit in front of the hour; a fraction of 1.00 s; of 0.95 s in a TIME(1).
        refused(append_time(&mut Reader::new(&[0, 0, 0]), 0, &mut out));
        refused(append_time(
            &mut Reader::new(&[0x80, 0, 0, 100]),
            2,
            &mut out,
        ));
        refused(append_time(
            &mut Reader::new(&[0x80, 0, 0, 95]),
            1,
            &mut out,
        ));
        refused(append_date(&mut Reader::new(&[0xff; 3]), &mut out));
        refused(append_datetime(&mut Reader::new(&[0xff; 5]), 0, &mut out));
        refused(append_timestamp(
            &mut Reader::new(&[0, 0, 0, 0, 10]),
            1,
            &mut out,
        ));
        refused(append_old_datetime(&mut Reader::new(&[0xff; 8]), &mut out));
        for (kind, packed) in [
            (JsonTemporal::DateTime, -1_i64),
            (JsonTemporal::Date, i64::MAX),
            (JsonTemporal::Time, 1_000_000),
        ] {
            refused(append_json(kind, &packed.to_le_bytes(), &mut out));
        }
    }

    #[test]
    fn types_from_before_5_6() {
        assert_eq!(
            text(append_old_time, &(-123_456_i32).to_le_bytes()[..3]),
            "-12:34:56"
        );
        assert_eq!(
            text(append_old_datetime, &20_260_102_030_405_u64.to_le_bytes()),
            "2026-01-02 03:04:05"
        );
        assert_eq!(text(append_old_timestamp, &[0; 4]), "0000-00-00 00:00:00");
    }
}
