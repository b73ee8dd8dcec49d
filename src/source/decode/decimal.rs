//! MySQL's DECIMAL as a BSON Decimal128, or as text beyond 34 digits.
//!
//! Where the formats come from: `bin2decimal` and `decimal2string` in the server's strings/decimal.cc; the binary integer
//! form of IEEE 754-2008 decimal128, which is BSON's (<https://github.com/mongodb/specifications>, bson-decimal128).
//! Guarantees: the column's scale is kept (1.50 stays 1.50), every digit too.

use super::error::DecodeError;

/// The most digits that a Decimal128 holds.
pub(crate) const DECIMAL128_DIGITS: u8 = 34;

/// What is added to a Decimal128's exponent.
const EXPONENT_BIAS: u64 = 6176;

/// Bytes that a group of 0 to 9 digits takes.
const GROUP_BYTES: [u8; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// How many bytes a DECIMAL of this precision and scale takes.
#[inline]
pub(crate) fn length(precision: u8, scale: u8) -> usize {
    let whole = precision.saturating_sub(scale);
    let partial = |digits: u8| {
        GROUP_BYTES
            .get(usize::from(digits % 9))
            .copied()
            .unwrap_or(0)
    };
    usize::from(whole / 9 * 4 + partial(whole) + scale / 9 * 4 + partial(scale))
}

/// Calls `group` with each group's digits (1 to 9) and value, the most significant first. Gives back whether the number is
/// negative.
#[inline]
fn groups(
    precision: u8,
    scale: u8,
    bytes: &[u8],
    mut group: impl FnMut(u8, u32),
) -> Result<bool, DecodeError> {
    let whole = precision.saturating_sub(scale);
    // The sign is the first bit, inverted; a negative number has all its bits inverted.
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 == 0);
    let inverted = if negative { 0xff_u8 } else { 0 };
    let mut rest = bytes;
    let mut sign = 0x80_u8;
    let mut take = |digits: u8| -> Result<(), DecodeError> {
        if digits == 0 {
            return Ok(());
        }
        let width = usize::from(GROUP_BYTES.get(usize::from(digits)).copied().unwrap_or(4));
        let Some((head, tail)) = rest.split_at_checked(width) else {
            return Err(DecodeError::Truncated {
                what: "decimal",
                needed: width,
                left: rest.len(),
            });
        };
        rest = tail;
        let mut value = 0_u32;
        for &byte in head {
            value = value << 8 | u32::from(byte ^ inverted ^ sign);
            sign = 0;
        }
        if value >= 10_u32.pow(u32::from(digits)) {
            let expected = "a group of no more decimal digits than its place allows";
            return Err(DecodeError::Unexpected {
                what: "decimal",
                found: u64::from(value),
                expected,
            });
        }
        group(digits, value);
        Ok(())
    };
    take(whole % 9)?;
    for _ in 0..whole / 9 {
        take(9)?;
    }
    for _ in 0..scale / 9 {
        take(9)?;
    }
    take(scale % 9)?;
    Ok(negative)
}

/// A DECIMAL of at most 34 digits as the 16 bytes of a Decimal128.
#[inline]
pub(crate) fn to_decimal128(
    precision: u8,
    scale: u8,
    bytes: &[u8],
) -> Result<[u8; 16], DecodeError> {
    let mut coefficient = 0_u128;
    // A coefficient below 10^18 needs no 128-bit arithmetic; most are.
    let mut small = 0_u64;
    let mut digits_seen = 0_u8;
    let negative = groups(precision, scale, bytes, |digits, value| {
        let power = 10_u64.pow(u32::from(digits));
        digits_seen += digits;
        if digits_seen <= 18 {
            small = small * power + u64::from(value);
            coefficient = u128::from(small);
        } else {
            coefficient = coefficient * u128::from(power) + u128::from(value);
        }
    })?;
    Ok(decimal128(negative && coefficient != 0, coefficient, scale))
}

/// The Decimal128 of `coefficient` (below 10^34) with `scale` digits behind the point.
#[inline]
pub(crate) fn decimal128(negative: bool, coefficient: u128, scale: u8) -> [u8; 16] {
    let exponent = EXPONENT_BIAS - u64::from(scale);
    let sign = u128::from(negative) << 127;
    (sign | u128::from(exponent) << 113 | coefficient).to_le_bytes()
}

/// Appends a DECIMAL as MySQL prints it.
pub(crate) fn append_text(
    precision: u8,
    scale: u8,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    // 65 digits at most; the sign of a zero is not printed.
    let mut digits = [0_u8; 81];
    let mut count = 0;
    let negative = groups(precision, scale, bytes, |group_digits, mut value| {
        let end = count + usize::from(group_digits);
        for place in digits
            .get_mut(count..end)
            .unwrap_or_default()
            .iter_mut()
            .rev()
        {
            *place = (value % 10) as u8;
            value /= 10;
        }
        count = end;
    })?;
    let digits = digits.get(..count).unwrap_or_default();
    let (whole, fraction) = digits
        .split_at_checked(usize::from(precision.saturating_sub(scale)))
        .unwrap_or((digits, &[]));
    if negative && digits.iter().any(|digit| *digit != 0) {
        out.push(b'-');
    }
    let leading = whole.iter().take_while(|digit| **digit == 0).count();
    let whole = whole.get(leading..).unwrap_or_default();
    if whole.is_empty() {
        out.push(b'0');
    }
    out.extend(whole.iter().map(|digit| b'0' + digit));
    if !fraction.is_empty() {
        out.push(b'.');
        out.extend(fraction.iter().map(|digit| b'0' + digit));
    }
    Ok(())
}

/// The precision, the scale and the bytes of a DECIMAL inside JSON, where two bytes in front tell the first two
/// (`Json_decimal::convert_from_binary`).
pub(crate) fn split_json(data: &[u8]) -> Result<(u8, u8, &[u8]), DecodeError> {
    match data {
        [precision @ 1..=81, scale, bytes @ ..]
            if scale <= precision && bytes.len() == length(*precision, *scale) =>
        {
            Ok((*precision, *scale, bytes))
        }
        _ => Err(DecodeError::Json(
            "a decimal whose length is not that of its precision and scale",
        )),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The encoder of the format, for tests only.
    pub(crate) fn encode(text: &str, precision: u8, scale: u8) -> Vec<u8> {
        let negative = text.starts_with('-');
        let text = text.trim_start_matches('-');
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let whole_digits = usize::from(precision - scale);
        let whole = format!("{whole:0>whole_digits$}");
        let whole = &whole[whole.len() - whole_digits..];
        let fraction = format!("{fraction:0<width$}", width = usize::from(scale));
        let mut out = Vec::new();
        let mut group = |digits: &str| {
            if !digits.is_empty() {
                let value: u32 = digits.parse().unwrap();
                let width = usize::from(GROUP_BYTES[digits.len()]);
                out.extend_from_slice(&value.to_be_bytes()[4 - width..]);
            }
        };
        group(&whole[..whole_digits % 9]);
        whole.as_bytes()[whole_digits % 9..]
            .chunks(9)
            .for_each(|part| group(std::str::from_utf8(part).unwrap()));
        fraction
            .as_bytes()
            .chunks(9)
            .for_each(|part| group(std::str::from_utf8(part).unwrap()));
        if negative {
            out.iter_mut().for_each(|byte| *byte = !*byte);
        }
        out[0] ^= 0x80;
        out
    }

    #[test]
    fn decimals_keep_every_digit_and_their_scale() {
        for (text, precision, scale) in [
            ("1234567890.1234", 14, 4),
            ("-1234567890.1234", 14, 4),
            ("0.00", 10, 2),
            ("1.50", 10, 2),
            ("-0.07", 10, 2),
            ("0.5", 1, 1),
            ("9999999999999999999999999999999999", 34, 0),
            ("-9999999999999999999999999999999999", 34, 0),
            ("0.000000000000000000000000000001", 34, 30),
            ("7", 1, 0),
        ] {
            let bytes = encode(text, precision, scale);
            assert_eq!(bytes.len(), length(precision, scale));
            let decimal =
                bson::Decimal128::from_bytes(to_decimal128(precision, scale, &bytes).unwrap());
            let mut printed = Vec::new();
            append_text(precision, scale, &bytes, &mut printed).unwrap();
            assert_eq!(String::from_utf8(printed).unwrap(), text);
            assert_eq!(decimal, text.parse::<bson::Decimal128>().unwrap(), "{text}");
        }
    }

    #[test]
    fn decimals_beyond_34_digits_are_text() {
        let text = "-99999999999999999999999999999999999.999999999999999999999999999999";
        let mut out = Vec::new();
        append_text(65, 30, &encode(text, 65, 30), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }

    #[test]
    fn a_group_above_its_digits_is_refused() {
        assert!(to_decimal128(1, 0, &[0x80 | 10]).is_err());
        assert!(to_decimal128(9, 0, &[0x80]).is_err());
        assert!(split_json(&[10]).is_err());
        assert!(split_json(&[10, 11, 0, 0, 0, 0, 0]).is_err());
    }
}
