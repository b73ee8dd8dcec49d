//! MySQL's binary JSON, and the changes of it that PARTIAL_JSON logs.

use std::collections::BTreeMap;

use bson::{Bson, Document};

use super::super::json::{Binary, Budget, Node};
use super::super::json_bson::{Stop, Writer};
use super::super::{json_diff, json_text};
use crate::bson_writer;
use crate::fuzz::{Choices, Random, Target, assert_document, choices, mutate};

/// A JSON value that is right: made by choices, printed by the formats' own rules, beside what the decoder makes of it.
#[derive(Clone, Debug, PartialEq)]
enum Json {
    Null,
    Boolean(bool),
    Signed(i64),
    Unsigned(u64),
    Double(f64),
    Text(String),
    Array(Vec<Json>),
    /// In MySQL's order: short keys first.
    Object(BTreeMap<(usize, String), Json>),
}

const TEXTS: [&str; 8] = ["", "a", "b", "é", "x y", "quo\"te\\", "🦀", "a.b[0]"];

fn text(choices: &mut Choices<'_>) -> String {
    TEXTS[choices.below(TEXTS.len())].repeat(choices.below(9) + 1)
}

fn json(choices: &mut Choices<'_>, depth: usize) -> Json {
    match choices.below(if depth < 6 { 10 } else { 7 }) {
        0 => Json::Null,
        1 => Json::Boolean(choices.below(2) == 1),
        2 | 3 => Json::Signed(choices.number().cast_signed()),
        4 => Json::Unsigned(choices.number() | 1 << 63),
        5 => {
            let value = f64::from_bits(choices.number());
            Json::Double(if value.is_finite() { value } else { 0.5 })
        }
        6 => Json::Text(text(choices)),
        7 | 8 => Json::Array(
            (0..choices.below(5))
                .map(|_| json(choices, depth + 1))
                .collect(),
        ),
        _ => {
            let members = (0..choices.below(5)).map(|_| {
                let key = text(choices);
                ((key.len(), key), json(choices, depth + 1))
            });
            Json::Object(members.collect())
        }
    }
}

impl Json {
    /// The type and the bytes, as `json_binary::serialize` writes them. `choices` tells whether containers are large ones.
    fn binary(&self, choices: &mut Choices<'_>) -> (u8, Vec<u8>) {
        match self {
            Self::Null => (4, vec![0]),
            Self::Boolean(value) => (4, vec![if *value { 1 } else { 2 }]),
            Self::Signed(value) => match (i16::try_from(*value), i32::try_from(*value)) {
                (Ok(value), _) => (5, value.to_le_bytes().to_vec()),
                (_, Ok(value)) => (7, value.to_le_bytes().to_vec()),
                _ => (9, value.to_le_bytes().to_vec()),
            },
            Self::Unsigned(value) => (10, value.to_le_bytes().to_vec()),
            Self::Double(value) => (11, value.to_le_bytes().to_vec()),
            Self::Text(text) => (12, [&length(text.len())[..], text.as_bytes()].concat()),
            Self::Array(elements) => container(&[], &elements.iter().collect::<Vec<_>>(), choices),
            Self::Object(members) => {
                let keys: Vec<&str> = members.keys().map(|(_, key)| key.as_str()).collect();
                let (kind, bytes) =
                    container(&keys, &members.values().collect::<Vec<_>>(), choices);
                (kind - 2, bytes)
            }
        }
    }

    fn bytes(&self, choices: &mut Choices<'_>) -> Vec<u8> {
        let (kind, bytes) = self.binary(choices);
        [&[kind][..], &bytes].concat()
    }

    fn bson(&self) -> Bson {
        match self {
            Self::Null => Bson::Null,
            Self::Boolean(value) => Bson::Boolean(*value),
            Self::Signed(value) => i32::try_from(*value).map_or(Bson::Int64(*value), Bson::Int32),
            Self::Unsigned(value) => Bson::Decimal128(value.to_string().parse().unwrap()),
            Self::Double(value) => Bson::Double(*value),
            Self::Text(text) => Bson::String(text.clone()),
            Self::Array(elements) => Bson::Array(elements.iter().map(Self::bson).collect()),
            Self::Object(members) => {
                let members = members
                    .iter()
                    .map(|((_, key), value)| (key.clone(), value.bson()));
                Bson::Document(members.collect())
            }
        }
    }

    fn is_in(&self, text: &serde_json::Value) -> bool {
        match self {
            Self::Null => text.is_null(),
            Self::Boolean(value) => text.as_bool() == Some(*value),
            Self::Signed(value) => text.as_i64() == Some(*value),
            Self::Unsigned(value) => text.as_u64() == Some(*value),
            // serde_json reads the last digits of a double as it likes.
            Self::Double(value) => text.as_f64().is_some_and(|found| {
                (found - value).abs() <= value.abs() * 1e-15 + f64::MIN_POSITIVE
            }),
            Self::Text(value) => text.as_str() == Some(value),
            Self::Array(elements) => text.as_array().is_some_and(|found| {
                found.len() == elements.len()
                    && elements
                        .iter()
                        .zip(found)
                        .all(|(value, text)| value.is_in(text))
            }),
            Self::Object(members) => text.as_object().is_some_and(|found| {
                found.len() == members.len()
                    && members.iter().all(|((_, key), value)| {
                        found.get(key).is_some_and(|text| value.is_in(text))
                    })
            }),
        }
    }
}

/// A length in groups of seven bits.
fn length(mut length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while length > 0x7f {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes
}

/// An array's type and bytes; with keys, those of an object, but for the type.
fn container(keys: &[&str], values: &[&Json], choices: &mut Choices<'_>) -> (u8, Vec<u8>) {
    let values: Vec<(u8, Vec<u8>)> = values.iter().map(|value| value.binary(choices)).collect();
    let content = keys
        .iter()
        .map(|key| key.len())
        .chain(values.iter().map(|(_, bytes)| bytes.len() + 20));
    let large = content.sum::<usize>() > 60_000 || choices.below(8) == 7;
    let width = if large { 4 } else { 2 };
    let number = |number: usize| number.to_le_bytes()[..width].to_vec();
    let header = 2 * width + keys.len() * (width + 2) + values.len() * (width + 1);
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for key in keys {
        entries.extend(number(header + data.len()));
        entries.extend_from_slice(&(key.len() as u16).to_le_bytes());
        data.extend_from_slice(key.as_bytes());
    }
    for (kind, bytes) in &values {
        entries.push(*kind);
        if matches!(kind, 4..=6) || large && matches!(kind, 7 | 8) {
            let mut inlined = bytes.clone();
            inlined.resize(width, 0);
            entries.extend(inlined);
        } else {
            entries.extend(number(header + data.len()));
            data.extend_from_slice(bytes);
        }
    }
    let bytes = [
        number(values.len()),
        number(header + data.len()),
        entries,
        data,
    ]
    .concat();
    (if large { 3 } else { 2 }, bytes)
}

/// The document `{ "": value }`, or why there is none.
fn as_bson(node: &Node<'_>, bytes: usize) -> Result<Vec<u8>, Stop> {
    let mut out = Vec::new();
    let start = bson_writer::begin_document(&mut out);
    let mut writer = Writer {
        out: &mut out,
        end: usize::MAX,
        budget: Budget::new(bytes),
        undecodable: 0,
    };
    writer.element(b"\0", node)?;
    bson_writer::end_document(&mut out, start);
    Ok(out)
}

/// Writes a value in both forms; true when the value is in order.
fn written(node: &Node<'_>, bytes: usize, expected: Option<&Json>) -> bool {
    let document = as_bson(node, bytes);
    let mut text = Vec::new();
    let undecodable = json_text::append(node, bytes, &mut text);
    match &document {
        Ok(document) => {
            assert!(assert_document(document) <= 91);
            assert!(
                undecodable.is_ok(),
                "what is BSON is text as well: {undecodable:?}"
            );
        }
        Err(Stop::Malformed(_) | Stop::NotBson) => {}
        Err(Stop::TooLarge) => panic!("nothing is too large here"),
    }
    let Ok(undecodable) = undecodable else {
        assert!(expected.is_none(), "{expected:?} is refused as text");
        return false;
    };
    let text: serde_json::Value = match serde_json::from_slice(&text) {
        Ok(text) => text,
        Err(error) => panic!(
            "{error} (and {undecodable} undecodable): {}",
            String::from_utf8_lossy(&text)
        ),
    };
    if let Some(expected) = expected {
        assert!(expected.is_in(&text), "{expected:?} is written as {text}");
        match document {
            Ok(document) => {
                let document = Document::from_reader(&document[..]).unwrap();
                assert_eq!(document.get(""), Some(&expected.bson()));
            }
            Err(stop) => assert!(
                matches!((&stop, expected), (Stop::NotBson, Json::Null)),
                "{stop:?}"
            ),
        }
    }
    true
}

fn whole(input: &[u8]) -> bool {
    let mut choices = Choices(input);
    let value = json(&mut choices, 0);
    let bytes = value.bytes(&mut choices);
    assert!(written(
        &Node::Binary(Binary::parse(&bytes)),
        bytes.len(),
        Some(&value)
    ));
    true
}

#[test]
fn right_values() {
    Target {
        name: "source::decode::fuzz::json::right_values",
        make: choices,
        check: whole,
        memory: 4096,
    }
    .run(10_000);
}

fn damaged(random: &mut Random) -> Vec<u8> {
    let mut bytes_of = || {
        let chosen = choices(random);
        let mut choices = Choices(&chosen);
        json(&mut choices, 0).bytes(&mut choices)
    };
    let (mut bytes, other) = (bytes_of(), bytes_of());
    mutate(random, &mut bytes, &other);
    bytes
}

#[test]
fn damaged_values() {
    Target {
        name: "source::decode::fuzz::json::damaged_values",
        make: damaged,
        check: |input| written(&Node::Binary(Binary::parse(input)), input.len() + 1, None),
        memory: 512,
    }
    .run(20_000);
}

/// One step into a value.
#[derive(Clone, Debug)]
enum Leg {
    Member(String),
    Cell(usize),
}

fn path(legs: &[Leg], choices: &mut Choices<'_>) -> String {
    let mut path = "$".to_owned();
    for leg in legs {
        match leg {
            Leg::Cell(index) => path.push_str(&format!("[{index}]")),
            Leg::Member(key) => {
                let bare = !key.is_empty() && key.chars().all(char::is_alphanumeric);
                path.push('.');
                if bare && choices.below(2) == 0 {
                    path.push_str(key);
                } else {
                    path.push_str(&serde_json::to_string(key).unwrap());
                }
            }
        }
    }
    path
}

/// Changes a value in one place, as JSON_SET, JSON_INSERT, JSON_ARRAY_INSERT and JSON_REMOVE do; the change's bytes.
fn change(value: &mut Json, choices: &mut Choices<'_>) -> Option<Vec<u8>> {
    let mut legs = Vec::new();
    let mut parent = value;
    // Into containers, as deep as chance has it.
    while choices.below(3) > 0 && has_container(parent) {
        parent = match parent {
            Json::Array(elements) => {
                let index = elements.iter().position(is_container)?;
                legs.push(Leg::Cell(index));
                elements.get_mut(index)?
            }
            Json::Object(members) => {
                let (key, inner) = members.iter_mut().find(|(_, value)| is_container(value))?;
                legs.push(Leg::Member(key.1.clone()));
                inner
            }
            _ => return None,
        };
    }
    let new = json(choices, 4);
    let operation = match parent {
        Json::Array(elements) => {
            let index = choices.below(elements.len() + 2);
            legs.push(Leg::Cell(index));
            match choices.below(3) {
                0 if index < elements.len() => {
                    elements[index] = new.clone();
                    0
                }
                1 if index < elements.len() => {
                    elements.remove(index);
                    2
                }
                _ => {
                    elements.insert(index.min(elements.len()), new.clone());
                    1
                }
            }
        }
        Json::Object(members) => {
            let key = text(choices);
            legs.push(Leg::Member(key.clone()));
            let key = (key.len(), key);
            match choices.below(2) {
                1 if members.contains_key(&key) => {
                    members.remove(&key);
                    2
                }
                _ => u8::from(members.insert(key, new.clone()).is_none()),
            }
        }
        _ => return None,
    };
    let path = path(&legs, choices);
    let mut bytes = vec![operation];
    append_counted(&mut bytes, path.as_bytes());
    if operation != 2 {
        append_counted(&mut bytes, &new.bytes(choices));
    }
    Some(bytes)
}

fn has_container(value: &Json) -> bool {
    match value {
        Json::Array(elements) => elements.iter().any(is_container),
        Json::Object(members) => members.values().any(is_container),
        _ => false,
    }
}

fn is_container(value: &Json) -> bool {
    matches!(value, Json::Array(_) | Json::Object(_))
}

/// MySQL's length-encoded integer, then the bytes.
fn append_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() < 0xfb {
        out.push(bytes.len() as u8);
    } else {
        out.push(0xfd);
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes()[..3]);
    }
    out.extend_from_slice(bytes);
}

/// A value, changes of it, and the value after them.
fn changed(input: &[u8]) -> (Vec<u8>, Vec<u8>, Json) {
    let mut choices = Choices(input);
    let mut value = json(&mut choices, 0);
    let before = value.bytes(&mut choices);
    let mut diffs = Vec::new();
    for _ in 0..choices.below(6) {
        diffs.extend(change(&mut value, &mut choices).unwrap_or_default());
    }
    (before, diffs, value)
}

#[test]
fn right_changes() {
    Target {
        name: "source::decode::fuzz::json::right_changes",
        make: choices,
        check: |input| {
            let (before, diffs, after) = changed(input);
            let node = json_diff::apply(&before, &diffs).unwrap();
            written(&node, before.len() + diffs.len() + 1, Some(&after))
        },
        memory: 8192,
    }
    .run(10_000);
}

/// The length of the value before, the value, the changes; all damaged.
fn damaged_change(random: &mut Random) -> Vec<u8> {
    let (mut before, mut diffs, _) = changed(&choices(random));
    let (other_before, other_diffs, _) = changed(&choices(random));
    if random.u8(0..4) == 0 {
        mutate(random, &mut before, &other_before);
    }
    if random.u8(0..4) > 0 {
        mutate(random, &mut diffs, &other_diffs);
    }
    [&(before.len() as u32).to_le_bytes()[..], &before, &diffs].concat()
}

#[test]
fn damaged_changes() {
    Target {
        name: "source::decode::fuzz::json::damaged_changes",
        make: damaged_change,
        check: |input| {
            let Some((length, rest)) = input.split_first_chunk::<4>() else {
                return false;
            };
            let length = (u32::from_le_bytes(*length) as usize).min(rest.len());
            let (before, diffs) = rest.split_at(length);
            match json_diff::apply(before, diffs) {
                Ok(node) => written(&node, input.len() + 1, None),
                Err(_) => false,
            }
        },
        memory: 512,
    }
    .run(20_000);
}
