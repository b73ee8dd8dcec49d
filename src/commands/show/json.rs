//! A document as JSON: MongoDB's Extended JSON in its relaxed form, as mongoexport prints it, with the fields in their order.
//!
//! Format: <https://github.com/mongodb/specifications/blob/master/source/extended-json/extended-json.md>. Numbers are JSON numbers,
//! decimals `{"$numberDecimal":"…"}`, bytes `{"$binary":{"base64":"…","subType":"00"}}`, times `{"$date":"…Z"}`.

use std::fmt::Write;

use base64::prelude::{BASE64_STANDARD, Engine};
use bson::{Bson, DateTime, Document};

use super::is_hidden;

/// The document on one line.
pub fn json(document: &Document) -> String {
    let mut out = String::new();
    append_document(&mut out, document);
    out
}

/// A value.
pub fn json_of(value: &Bson) -> String {
    let mut out = String::new();
    append(&mut out, value);
    out
}

fn append_document(out: &mut String, document: &Document) {
    out.push('{');
    for (index, (key, value)) in document.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        append_text(out, key);
        out.push(':');
        append(out, value);
    }
    out.push('}');
}

fn append(out: &mut String, value: &Bson) {
    match value {
        Bson::Double(number) if number.is_finite() => {
            // The shortest text that reads back to it, and never without a point.
            let _ = write!(out, "{number:?}");
        }
        Bson::Int32(number) => {
            let _ = write!(out, "{number}");
        }
        Bson::Int64(number) => {
            let _ = write!(out, "{number}");
        }
        Bson::Boolean(truth) => {
            let _ = write!(out, "{truth}");
        }
        Bson::Null => out.push_str("null"),
        Bson::String(text) => append_text(out, text),
        Bson::Document(document) => append_document(out, document),
        Bson::Array(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                append(out, value);
            }
            out.push(']');
        }
        Bson::DateTime(time) if is_plain(*time) => {
            out.push_str("{\"$date\":");
            append_text(out, &time.try_to_rfc3339_string().unwrap_or_default());
            out.push('}');
        }
        // Serde would make an array of numbers of it.
        Bson::Binary(binary) => {
            let bytes = BASE64_STANDARD.encode(&binary.bytes);
            let subtype = u8::from(binary.subtype);
            let _ = write!(
                out,
                r#"{{"$binary":{{"base64":"{bytes}","subType":"{subtype:02x}"}}}}"#
            );
        }
        // Decimal128, and what sdl does not write.
        other => {
            out.push_str(&serde_json::to_string(other).unwrap_or_else(|_| "null".to_owned()));
        }
    }
}

/// Whether the relaxed form has a text for it: years 1970 to 9999.
fn is_plain(time: DateTime) -> bool {
    (0..253_402_300_800_000).contains(&time.timestamp_millis())
}

fn append_text(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            hidden if is_hidden(hidden) => {
                for unit in hidden.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn a_document_reads_back_equal_and_in_its_order() {
        let document = doc! {
            "z": 1_i64 << 60,
            "a": { "b": [null, true, 0.1, 2.0, -0.0, "x"] },
            "decimal": "12.50".parse::<bson::Decimal128>().unwrap(),
            "bytes": Bson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0, 255] }),
            "time": DateTime::from_millis(1_703_903_002_123),
            "early": DateTime::from_millis(-1),
            "text\u{1b}": "\u{1b}[2J\u{9b}\u{202e}\u{e0041} \"\\\r\n\t é漢",
        };
        let text = json(&document);
        assert!(!text.chars().any(is_hidden), "{text}");
        let expected = r#"{"z":1152921504606846976,"a":{"b":[null,true,0.1,2.0,-0.0,"x"]},"decimal":{"$numberDecimal":"12.50"},"bytes":{"$binary":{"base64":"AP8=","subType":"00"}}"#;
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains(r#""time":{"$date":"2023-12-30T02:23:22.123Z"},"early":{"$date":{"$numberLong":"-1"}}"#), "{text}");
        assert!(
            text.contains(r#""text\u001b":"\u001b[2J\u009b\u202e\udb40\udc41 \"\\\r\n\t é漢""#),
            "{text}"
        );
        let back: Document = serde_json::from_str(&text).unwrap();
        assert_eq!(back, document);
    }
}
