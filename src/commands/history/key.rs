//! What the text of a key can mean: `meta.pk` is typed, and a text is not. Pure.
//!
//! All meanings are asked for at once, by the index on `meta.pk`. Numbers are one meaning: MongoDB compares Int32, Int64, Double and
//! Decimal128 by value.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Decimal128, Document};

/// More than these are not asked for: the columns of a key in each order, each with each of its meanings.
const MOST: usize = 5000;

/// The values that `meta.pk` may have for what was given as KEY: a value, a JSON value, `column=value` for each column, or a JSON object.
///
/// # Errors
/// What is expected, where it is none of them.
pub(super) fn meanings(parts: &[String]) -> Result<Vec<Bson>, String> {
    let (first, rest) = parts.split_first().ok_or("it is empty")?;
    if !rest.is_empty() {
        let columns = parts.iter().map(|part| column(part)).collect::<Option<_>>();
        let columns: Vec<_> = columns.ok_or(
            "several words: expected column=value for each column of the key, as in order_id=5 item=3",
        )?;
        return composite(columns);
    }
    if first.starts_with(['{', '[', '"']) {
        let value: Bson =
            serde_json::from_str(first).map_err(|error| format!("not JSON: {error}"))?;
        return match value {
            Bson::Document(columns) => composite(
                columns
                    .into_iter()
                    .map(|(name, value)| (name, of_json(value)))
                    .collect(),
            ),
            single => Ok(of_json(single)),
        };
    }
    let mut found = of_text(first);
    if let Some((_, values)) = column(first) {
        found.extend(values);
    }
    Ok(found)
}

fn column(part: &str) -> Option<(String, Vec<Bson>)> {
    let (name, value) = part.split_once('=')?;
    Some((name.to_owned(), of_text(value)))
}

/// What a bare text can be.
fn of_text(text: &str) -> Vec<Bson> {
    let mut found = of_string(text);
    let is_number = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    if is_number {
        found.extend(text.parse::<Decimal128>().ok().map(Bson::Decimal128));
        // A fraction is another number in binary.
        if text.contains(['.', 'e', 'E']) {
            found.extend(text.parse().ok().map(Bson::Double));
        }
    }
    found
}

/// What a text is if it is no number: itself, its bytes, or the bytes that it writes in hex.
fn of_string(text: &str) -> Vec<Bson> {
    let mut found = vec![Bson::from(text), binary(text.as_bytes().to_vec())];
    let quoted = text
        .strip_prefix(['x', 'X'])
        .and_then(|text| text.strip_prefix('\'')?.strip_suffix('\''));
    let digits = text.strip_prefix("0x").or(quoted);
    found.extend(digits.and_then(unhex).map(binary));
    if text.len() == 36 {
        let digits: String = text.split('-').collect();
        let bytes = unhex(&digits).filter(|bytes| bytes.len() == 16);
        found.extend(bytes.map(binary));
    }
    found
}

fn of_json(value: Bson) -> Vec<Bson> {
    match value {
        Bson::String(text) => of_string(&text),
        Bson::Double(number) => {
            let decimal = format!("{number:?}").parse().ok().map(Bson::Decimal128);
            std::iter::once(Bson::Double(number))
                .chain(decimal)
                .collect()
        }
        other => vec![other],
    }
}

fn binary(bytes: Vec<u8>) -> Bson {
    Bson::Binary(Binary {
        subtype: BinarySubtype::Generic,
        bytes,
    })
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
        }
        _ => None,
    });
    pairs.collect()
}

/// All documents of these columns. They are equal only in the order of the key, which the schema knows and whoever asks need not.
fn composite(columns: Vec<(String, Vec<Bson>)>) -> Result<Vec<Bson>, String> {
    let orders = orders(columns.len());
    let each: usize = columns.iter().map(|(_, values)| values.len()).product();
    if each.saturating_mul(orders.len()) > MOST {
        return Err("too many columns to try what their values can mean; give the key as a JSON object, as meta.pk has it".to_owned());
    }
    let mut found = Vec::new();
    for order in orders {
        let mut documents = vec![Document::new()];
        for (name, values) in order.iter().filter_map(|index| columns.get(*index)) {
            documents = documents
                .iter()
                .flat_map(|document| {
                    values.iter().map(move |value| {
                        let mut longer = document.clone();
                        longer.insert(name, value.clone());
                        longer
                    })
                })
                .collect();
        }
        found.extend(documents.into_iter().map(Bson::Document));
    }
    Ok(found)
}

/// The orders of so many columns; of many, only the one that was given.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count > 5 {
        return vec![(0..count).collect()];
    }
    let mut orders = vec![Vec::new()];
    for index in 0..count {
        orders = orders
            .iter()
            .flat_map(|order: &Vec<usize>| {
                (0..=order.len()).rev().map(move |place| {
                    let mut longer = order.clone();
                    longer.insert(place, index);
                    longer
                })
            })
            .collect();
    }
    orders
}

/// A key as a text that is equal for equal keys.
pub(super) fn canonical(key: &Bson) -> String {
    match key {
        Bson::Int32(number) => number.to_string(),
        Bson::Int64(number) => number.to_string(),
        Bson::Decimal128(number) => {
            let text = number.to_string();
            match text.contains('.') && !text.contains('E') {
                true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                false => text,
            }
        }
        Bson::Document(columns) => columns
            .iter()
            .map(|(name, value)| format!("{name}={}\0", canonical(value)))
            .collect(),
        other => crate::commands::show::json_of(other),
    }
}

/// The type of a key.
pub(super) fn kind(key: &Bson) -> &'static str {
    match key {
        Bson::Int32(_) => "Int32",
        Bson::Int64(_) => "Int64",
        Bson::Decimal128(_) => "Decimal128",
        Bson::Double(_) => "Double",
        Bson::String(_) => "String",
        Bson::Binary(_) => "Binary",
        Bson::Document(_) => "several columns",
        Bson::Array(_) => "Array",
        _ => "another type",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn of(parts: &[&str]) -> Vec<Bson> {
        let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
        meanings(&parts).unwrap()
    }

    #[test]
    fn a_text_has_all_the_meanings_that_it_can_have() {
        let decimal = |text: &str| Bson::Decimal128(text.parse().unwrap());
        let bytes = |bytes: &[u8]| binary(bytes.to_vec());
        assert_eq!(of(&["17"]), [Bson::from("17"), bytes(b"17"), decimal("17")]);
        assert_eq!(
            of(&["0.5"]),
            [
                Bson::from("0.5"),
                bytes(b"0.5"),
                decimal("0.5"),
                Bson::Double(0.5)
            ]
        );
        assert_eq!(of(&["a"]), [Bson::from("a"), bytes(b"a")]);
        for hex in ["0x00fF", "x'00ff'"] {
            assert_eq!(of(&[hex])[2..], [bytes(&[0, 255])]);
        }
        let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        assert!(matches!(&of(&[uuid])[2], Bson::Binary(binary) if binary.bytes.len() == 16));
        assert_eq!(of(&["\"17\""]), [Bson::from("17"), bytes(b"17")]);
        assert_eq!(
            of(&[r#"{"$binary":{"base64":"AP8=","subType":"00"}}"#]),
            [bytes(&[0, 255])]
        );
        // The name of a single column says nothing that is not known.
        assert!(of(&["id=17"]).contains(&decimal("17")));
    }

    #[test]
    fn a_key_of_several_columns_is_found_in_whatever_order_it_is_given() {
        let found = of(&["item=a", "order=5"]);
        let decimal: Decimal128 = "5".parse().unwrap();
        for expected in [
            doc! { "item": "a", "order": decimal },
            doc! { "order": decimal, "item": "a" },
        ] {
            assert!(found.contains(&Bson::Document(expected)));
        }
        assert_eq!(found.len(), 2 * (2 * 3));
        assert_eq!(
            of(&[r#"{"b": 1, "a": 2}"#]),
            [
                Bson::from(doc! { "b": 1, "a": 2 }),
                Bson::from(doc! { "a": 2, "b": 1 })
            ]
        );
        assert_eq!(orders(3).len(), 6);
        assert_eq!(orders(3)[0], [0, 1, 2]);
        assert_eq!(orders(6).len(), 1);
        for wrong in [&["a", "b"][..], &["{"], &["[1"]] {
            let parts: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            assert!(meanings(&parts).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn equal_keys_are_equal_whatever_their_type() {
        let decimal = |text: &str| Bson::Decimal128(text.parse().unwrap());
        assert_eq!(canonical(&Bson::Int32(17)), canonical(&Bson::Int64(17)));
        assert_eq!(canonical(&decimal("17.00")), canonical(&Bson::Int64(17)));
        assert_ne!(canonical(&Bson::from("17")), canonical(&Bson::Int64(17)));
        assert_eq!(
            canonical(&doc! { "a": 1_i32 }.into()),
            canonical(&doc! { "a": 1_i64 }.into())
        );
    }
}
