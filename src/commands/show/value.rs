//! One value as a person reads it: on one line, and nothing in it that a terminal would obey.

use std::fmt::Write;

use bson::{Bson, Document};
use unicode_width::UnicodeWidthStr;

use super::is_hidden;
use super::line::{ELLIPSIS, head};
use crate::hex::hex;

/// Columns of a text, and twice the bytes of a Binary, that are shown where values are shortened.
const SHORT: usize = 48;

/// A value; shortened unless it is to be `whole`.
pub fn value(value: &Bson, whole: bool) -> String {
    match value {
        Bson::String(text) => quoted(text, whole),
        Bson::Binary(binary) => bytes(&binary.bytes, whole),
        Bson::Null => "null".to_owned(),
        Bson::Double(number) => format!("{number:?}"),
        Bson::DateTime(time) => time
            .try_to_rfc3339_string()
            .unwrap_or_else(|_| time.to_string()),
        Bson::Document(document) => match large(document).or_else(|| opaque(document)) {
            Some(reference) => reference,
            None => nested(document, whole),
        },
        Bson::Array(values) => {
            let shown: Vec<_> = values.iter().map(|item| self::value(item, whole)).collect();
            shorten(&format!("[{}]", shown.join(", ")), whole)
        }
        other => visible(&other.to_string()),
    }
}

/// A text with what a terminal would obey or hide spelled out.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        push_visible(&mut out, character);
    }
    out
}

fn push_visible(out: &mut String, character: char) {
    match character {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{1b}' => out.push_str("\\e"),
        hidden if is_hidden(hidden) => {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(hidden));
        }
        other => out.push(other),
    }
}

fn quoted(text: &str, whole: bool) -> String {
    // No more is looked at than can be shown.
    let part = match whole {
        true => text,
        false => text
            .char_indices()
            .nth(SHORT + 1)
            .map_or(text, |(at, _)| &text[..at]),
    };
    let mut shown = String::with_capacity(part.len());
    for character in part.chars() {
        if matches!(character, '"' | '\\') {
            shown.push('\\');
        }
        push_visible(&mut shown, character);
    }
    let short = shorten(&shown, whole);
    if part.len() == text.len() && short == shown {
        format!("\"{shown}\"")
    } else {
        let head = short.strip_suffix(ELLIPSIS).unwrap_or(&short);
        format!("\"{head}{ELLIPSIS}\" ({} bytes)", text.len())
    }
}

fn bytes(bytes: &[u8], whole: bool) -> String {
    match bytes.get(..SHORT / 3) {
        Some(head) if !whole && bytes.len() > head.len() => {
            format!("0x{}{ELLIPSIS} ({} bytes)", hex(head), bytes.len())
        }
        _ => format!("0x{}", hex(bytes)),
    }
}

fn nested(document: &Document, whole: bool) -> String {
    let fields: Vec<_> = document
        .iter()
        .map(|(key, item)| format!("{}: {}", visible(key), value(item, whole)))
        .collect();
    shorten(&format!("{{{}}}", fields.join(", ")), whole)
}

fn shorten(text: &str, whole: bool) -> String {
    match whole || text.width() <= SHORT {
        true => text.to_owned(),
        false => format!("{}{ELLIPSIS}", head(text, SHORT)),
    }
}

/// `{ $value, bytes, type }`: a value that stands elsewhere.
fn large(document: &Document) -> Option<String> {
    let sha256 = document.get_str("$value").ok()?;
    let bytes = document.get_i64("bytes").ok()?;
    let kind = document.get_str("type").ok()?;
    let is_digest = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    (document.len() == 3 && is_digest)
        .then(|| format!("<{} of {bytes} bytes, sha256 {sha256}>", visible(kind)))
}

/// `{ $bson: Binary }`: an image that MongoDB did not take as it was.
fn opaque(document: &Document) -> Option<String> {
    use sha2::{Digest, Sha256};
    let Some(Bson::Binary(binary)) = document.get("$bson") else {
        return None;
    };
    let sha256 = hex(&Sha256::digest(&binary.bytes));
    (document.len() == 1).then(|| {
        format!(
            "<a row as BSON of {} bytes, sha256 {sha256}>",
            binary.bytes.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;
    use bson::spec::BinarySubtype;

    fn binary(bytes: &[u8]) -> Bson {
        Bson::Binary(bson::Binary {
            subtype: BinarySubtype::Generic,
            bytes: bytes.to_vec(),
        })
    }

    #[test]
    fn each_kind_of_value_has_its_text() {
        let digest = "0".repeat(64);
        let decimal: bson::Decimal128 = "12.50".parse().unwrap();
        for (bson, expected) in [
            (Bson::Int32(5), "5"),
            (Bson::Int64(i64::MAX), "9223372036854775807"),
            (Bson::Decimal128(decimal), "12.50"),
            (Bson::Double(0.1), "0.1"),
            (Bson::Double(2.0), "2.0"),
            (Bson::Null, "null"),
            (Bson::from("null"), "\"null\""),
            (Bson::from("a \"b\" \\ c"), r#""a \"b\" \\ c""#),
            (binary(&[0, 255]), "0x00ff"),
            (
                Bson::from(doc! { "a": 1, "b": ["x"] }),
                r#"{a: 1, b: ["x"]}"#,
            ),
            (
                Bson::from(doc! { "$value": &digest, "bytes": 7_i64, "type": "string" }),
                &format!("<string of 7 bytes, sha256 {digest}>"),
            ),
        ] {
            assert_eq!(value(&bson, false), expected);
            assert_eq!(value(&bson, true), expected);
        }
    }

    #[test]
    fn nothing_that_a_terminal_obeys_or_hides_is_left() {
        let text = "\u{1b}[2J\u{9b}31m\u{7}\r\n\u{202e}evil\u{200b}\u{feff}\u{e0041}é漢";
        let expected = r"\e[2J\u{9b}31m\u{7}\r\n\u{202e}evil\u{200b}\u{feff}\u{e0041}é漢";
        assert_eq!(visible(text), expected);
        let shown = value(&Bson::from(doc! { text: [text] }), true);
        assert!(!shown.chars().any(is_hidden), "{shown}");
    }

    #[test]
    fn long_values_are_shortened_and_say_how_long_they_are() {
        let text = "x".repeat(1000);
        let shown = value(&Bson::from(text.as_str()), false);
        assert_eq!(shown, format!("\"{}…\" (1000 bytes)", "x".repeat(48)));
        assert_eq!(
            value(&Bson::from(text.as_str()), true),
            format!("\"{text}\"")
        );
        let shown = value(&binary(&[7; 100]), false);
        assert_eq!(shown, format!("0x{}… (100 bytes)", "07".repeat(16)));
        assert_eq!(value(&binary(&[7; 100]), true).len(), 202);
        let wide = "漢".repeat(100);
        assert!(value(&Bson::from(wide), false).width() < 70);
    }
}
