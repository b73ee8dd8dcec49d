//! JSON written as text, in the very format in which MySQL prints it.
//!
//! Where the format comes from: `wrapper_to_string` and `double_quote` in the server's sql-common/json_dom.cc, `my_gcvt` in
//! strings/dtoa.cc, `base64_encode` in mysys. The text is valid JSON, with a space behind each comma and colon.

use super::decimal;
use super::error::DecodeError;
use super::json::{Binary, Budget, Container, Node, Value};
use super::temporal;

/// How deep the server lets JSON nest is 100; what is deeper is malformed.
const DEEPEST: usize = 100;

/// Writes JSON text; gives back how many strings were not UTF-8, whose wrong bytes stand as U+FFFD.
pub(crate) fn append(node: &Node<'_>, bytes: usize, out: &mut Vec<u8>) -> Result<u32, DecodeError> {
    let mut writer = Writer {
        out,
        budget: Budget::new(bytes),
        undecodable: 0,
    };
    writer.node(node, 0)?;
    Ok(writer.undecodable)
}

struct Writer<'o> {
    out: &'o mut Vec<u8>,
    budget: Budget,
    undecodable: u32,
}

impl Writer<'_> {
    fn node(&mut self, node: &Node<'_>, depth: usize) -> Result<(), DecodeError> {
        match node {
            Node::Binary(binary) => self.binary(*binary, depth),
            Node::Array(elements) => {
                self.begin(b'[', depth)?;
                for (index, node) in elements.iter().enumerate() {
                    self.comma(index);
                    self.node(node, depth + 1)?;
                }
                self.out.push(b']');
                Ok(())
            }
            Node::Object(members) => {
                self.begin(b'{', depth)?;
                for (index, (key, node)) in members.iter().enumerate() {
                    self.comma(index);
                    self.key(key);
                    self.node(node, depth + 1)?;
                }
                self.out.push(b'}');
                Ok(())
            }
        }
    }

    fn begin(&mut self, bracket: u8, depth: usize) -> Result<(), DecodeError> {
        if depth >= DEEPEST {
            return Err(DecodeError::Json("nested deeper than the server allows"));
        }
        self.out.push(bracket);
        Ok(())
    }

    fn comma(&mut self, index: usize) {
        if index > 0 {
            self.out.extend_from_slice(b", ");
        }
    }

    fn key(&mut self, key: &[u8]) {
        self.string(key);
        self.out.extend_from_slice(b": ");
    }

    fn binary(&mut self, binary: Binary<'_>, depth: usize) -> Result<(), DecodeError> {
        match binary.value()? {
            Value::Null => self.out.extend_from_slice(b"null"),
            Value::Boolean(true) => self.out.extend_from_slice(b"true"),
            Value::Boolean(false) => self.out.extend_from_slice(b"false"),
            Value::Signed(value) => self.out.extend_from_slice(value.to_string().as_bytes()),
            Value::Unsigned(value) => self.out.extend_from_slice(value.to_string().as_bytes()),
            Value::Double(value) => append_double(value, self.out),
            Value::String(bytes) => {
                self.budget.spend(bytes.len())?;
                self.string(bytes);
            }
            Value::Decimal(precision, scale, bytes) => {
                decimal::append_text(precision, scale, bytes, self.out)?
            }
            Value::Temporal(kind, data) => {
                self.out.push(b'"');
                temporal::append_json(kind, data, self.out)?;
                self.out.push(b'"');
            }
            Value::Opaque(field_type, bytes) => {
                self.budget.spend(bytes.len())?;
                self.out
                    .extend_from_slice(format!("\"base64:type{field_type}:").as_bytes());
                append_base64(bytes, self.out);
                self.out.push(b'"');
            }
            Value::Array(container) => self.container(container, false, depth)?,
            Value::Object(container) => self.container(container, true, depth)?,
        }
        Ok(())
    }

    fn container(
        &mut self,
        container: Container<'_>,
        is_object: bool,
        depth: usize,
    ) -> Result<(), DecodeError> {
        self.budget.spend(container.header_length())?;
        self.begin(if is_object { b'{' } else { b'[' }, depth)?;
        for index in 0..container.count() {
            self.comma(index);
            if is_object {
                let key = container.key(index)?;
                self.budget.spend(key.len())?;
                self.key(key);
            }
            self.binary(container.element(index)?, depth + 1)?;
        }
        self.out.push(if is_object { b'}' } else { b']' });
        Ok(())
    }

    fn string(&mut self, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => append_string(text, self.out),
            Err(_) => {
                self.undecodable += 1;
                append_string(&String::from_utf8_lossy(bytes), self.out);
            }
        }
    }
}

/// A string in double quotes.
pub(crate) fn append_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for &byte in text.as_bytes() {
        let short = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0c => b'f',
            b'\r' => b'r',
            0..=0x1f => {
                let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
                out.extend_from_slice(&[
                    b'\\',
                    b'u',
                    b'0',
                    b'0',
                    digit(byte >> 4),
                    digit(byte & 15),
                ]);
                continue;
            }
            _ => {
                out.push(byte);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
    out.push(b'"');
}

/// A double: the shortest digits that read back to it, in scientific form below 10^-15, and from 10^15 on unless there are
/// digits behind the point; else with a decimal point.
fn append_double(value: f64, out: &mut Vec<u8>) {
    let scientific = shortest_scientific(value);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digit_count = mantissa.bytes().filter(u8::is_ascii_digit).count();
    let has_fraction = usize::try_from(exponent).is_ok_and(|exponent| digit_count > exponent + 1);
    if exponent < -15 || exponent > 14 && !has_fraction {
        out.extend_from_slice(scientific.as_bytes());
        return;
    }
    if mantissa.starts_with('-') {
        out.push(b'-');
    }
    let digits = mantissa.bytes().filter(u8::is_ascii_digit);
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', (-exponent - 1) as usize));
        out.extend(digits);
        return;
    }
    let whole_digits = exponent as usize + 1;
    let mut written = 0;
    for digit in digits {
        if written == whole_digits {
            out.push(b'.');
        }
        out.push(digit);
        written += 1;
    }
    if written <= whole_digits {
        out.extend(std::iter::repeat_n(b'0', whole_digits - written));
        out.extend_from_slice(b".0");
    }
}

/// `d.ddde-x` with the fewest digits that read back. Half-way between two such numbers MySQL takes the even one, as Rust does
/// when it is told how many digits to write, but not when it looks for the fewest.
fn shortest_scientific(value: f64) -> String {
    let shortest = format!("{value:e}");
    let mantissa = shortest.split('e').next().unwrap_or_default();
    let digit_count = mantissa.bytes().filter(u8::is_ascii_digit).count();
    // Two numbers of that length read back only where digits are at their end.
    if digit_count >= 15 {
        let rounded = format!("{value:.places$e}", places = digit_count - 1);
        if rounded.parse() == Ok(value) && !rounded.contains("0e") {
            return rounded;
        }
    }
    shortest
}

/// Base64 with a line feed, escaped, before every 76th character that more follow.
fn append_base64(bytes: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (index, group) in bytes.chunks(3).enumerate() {
        if index > 0 && index % 19 == 0 {
            out.extend_from_slice(b"\\n");
        }
        let number = group
            .iter()
            .fold(0_u32, |number, byte| number << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            let sextet = (number >> (18 - 6 * place) & 63) as usize;
            let character = ALPHABET.get(sextet).copied().unwrap_or(b'=');
            out.push(if place <= group.len() {
                character
            } else {
                b'='
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(value: f64) -> String {
        let mut out = Vec::new();
        append_double(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn doubles_look_as_mysql_prints_them() {
        // Each was printed by MySQL 9.7.4.
        for (value, text) in [
            (1e14, "100000000000000.0"),
            (1e15, "1e15"),
            (1.23456e15, "1.23456e15"),
            (1e-10, "0.0000000001"),
            (1.5e-7, "0.00000015"),
            (-0.0, "-0.0"),
            (0.0, "0.0"),
            (1.5e300, "1.5e300"),
            (1234567890123456789.0, "1.2345678901234568e18"),
            (123456789012345.0, "123456789012345.0"),
            (2.2250738585072014e-308, "2.2250738585072014e-308"),
            (5e-324, "5e-324"),
            (12.5, "12.5"),
            (976_851_251_862_757.2, "976851251862757.2"),
            (4040785795153397.5, "4040785795153397.5"),
            (100.25, "100.25"),
        ] {
            assert_eq!(double(value), text);
        }
    }

    #[test]
    fn strings_and_base64() {
        let mut out = Vec::new();
        append_string("a\"\\\u{1}\u{1f}\u{8}\t\n\u{c}\r/é\u{7f}", &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\"a\\\"\\\\\\u0001\\u001f\\b\\t\\n\\f\\r/é\u{7f}\""
        );
        let mut out = Vec::new();
        append_base64(b"abc".repeat(20).as_slice(), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!("{}\\nYWJj", "YWJj".repeat(19))
        );
        let mut out = Vec::new();
        append_base64(&[0, 0xff], &mut out);
        assert_eq!(out, b"AP8=");
        let mut out = Vec::new();
        append_base64(&[1], &mut out);
        assert_eq!(out, b"AQ==");
    }
}
