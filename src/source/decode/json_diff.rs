//! The changes of a JSON value that a PARTIAL_UPDATE_ROWS event has in place of the whole value.
//!
//! Where the format comes from: `Json_diff_vector::read_binary` and `apply_json_diffs` in the server's sql/json_diff.cc, the
//! path syntax from sql-common/json_path.cc. Each change is an operation byte, a path and, unless it removes, a value in
//! binary JSON; path and value have a length-encoded length in front. Guarantees: what comes out is the value that the
//! server's own replica would store. A change that does not fit the value it changes is an error, as it is there.

use std::borrow::Cow;

use super::error::DecodeError;
use super::json::{Binary, Budget, Node};
use super::wire::Reader;

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Replace,
    Insert,
    Remove,
}

impl Operation {
    /// As it stands in a document.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Insert => "insert",
            Self::Remove => "remove",
        }
    }
}

/// One change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Diff<'a> {
    pub(crate) operation: Operation,
    pub(crate) path: &'a str,
    /// Absent when the operation removes.
    pub(crate) value: Option<Binary<'a>>,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Leg<'a> {
    Member(Cow<'a, str>),
    Cell(usize),
}

/// Reads the next change; None at the end.
pub(crate) fn next_diff<'a>(reader: &mut Reader<'a>) -> Result<Option<Diff<'a>>, DecodeError> {
    if reader.is_empty() {
        return Ok(None);
    }
    let operation = match reader.u8("JSON diff operation")? {
        0 => Operation::Replace,
        1 => Operation::Insert,
        2 => Operation::Remove,
        _ => {
            return Err(DecodeError::JsonDiff(
                "an operation that is not replace, insert or remove",
            ));
        }
    };
    let path = std::str::from_utf8(reader.length_encoded_bytes("JSON diff path")?)
        .map_err(|_| DecodeError::NotUtf8("a path of a JSON diff"))?;
    let value = match operation {
        Operation::Remove => None,
        _ => Some(Binary::parse(
            reader.length_encoded_bytes("JSON diff value")?,
        )),
    };
    Ok(Some(Diff {
        operation,
        path,
        value,
    }))
}

/// The value after the changes: `before` is a whole value in binary JSON, `diffs` all the changes.
pub(crate) fn apply<'a>(before: &'a [u8], diffs: &'a [u8]) -> Result<Node<'a>, DecodeError> {
    let mut root = Node::Binary(Binary::parse(before));
    let mut budget = Budget::new(before.len().saturating_add(diffs.len()).saturating_add(1));
    let mut reader = Reader::new(diffs);
    while let Some(diff) = next_diff(&mut reader)? {
        apply_one(&mut root, &diff, &mut budget)?;
    }
    Ok(root)
}

fn apply_one<'a>(
    root: &mut Node<'a>,
    diff: &Diff<'a>,
    budget: &mut Budget,
) -> Result<(), DecodeError> {
    const DOES_NOT_FIT: DecodeError =
        DecodeError::JsonDiff("a path that is not in the value it changes");
    let legs = parse_path(diff.path)?;
    let Some((last, to_parent)) = legs.split_last() else {
        // The server writes the whole value instead of a change of the root.
        return Err(DecodeError::JsonDiff("a change of the root"));
    };
    let mut parent = root;
    for leg in to_parent {
        parent.unfold(budget)?;
        parent = step(parent, leg).ok_or(DOES_NOT_FIT)?;
    }
    parent.unfold(budget)?;
    match (diff.operation, diff.value, parent, last) {
        (Operation::Replace, Some(value), parent, leg) => {
            *step(parent, leg).ok_or(DOES_NOT_FIT)? = Node::Binary(value);
        }
        (Operation::Insert, Some(value), Node::Object(members), Leg::Member(name)) => {
            let Err(place) = find(members, name) else {
                return Err(DecodeError::JsonDiff(
                    "an insert of a member that is there already",
                ));
            };
            members.insert(
                place,
                (Cow::Owned(name.as_bytes().to_vec()), Node::Binary(value)),
            );
        }
        (Operation::Insert, Some(value), Node::Array(elements), Leg::Cell(index)) => {
            // Past the end means at the end.
            elements.insert((*index).min(elements.len()), Node::Binary(value));
        }
        (Operation::Remove, _, Node::Object(members), Leg::Member(name)) => {
            members.remove(find(members, name).map_err(|_| DOES_NOT_FIT)?);
        }
        (Operation::Remove, _, Node::Array(elements), Leg::Cell(index))
            if *index < elements.len() =>
        {
            elements.remove(*index);
        }
        _ => return Err(DOES_NOT_FIT),
    }
    Ok(())
}

fn step<'n, 'a>(node: &'n mut Node<'a>, leg: &Leg<'_>) -> Option<&'n mut Node<'a>> {
    match (node, leg) {
        (Node::Array(elements), Leg::Cell(index)) => elements.get_mut(*index),
        (Node::Object(members), Leg::Member(name)) => {
            let place = find(members, name).ok()?;
            members.get_mut(place).map(|(_, node)| node)
        }
        _ => None,
    }
}

/// The place of a member, or where it belongs: MySQL orders keys by length, then by their bytes.
fn find(members: &[(Cow<'_, [u8]>, Node<'_>)], name: &str) -> Result<usize, usize> {
    let name = name.as_bytes();
    members.binary_search_by(|(key, _)| key.len().cmp(&name.len()).then_with(|| (**key).cmp(name)))
}

/// How many legs a path may have: the server lets JSON nest no deeper, and each leg unfolds a level of the value, which takes
/// stack when it is dropped.
const MOST_LEGS: usize = 100;

/// A path such as `$.a."b c"[3]`: members and array cells only, no wildcards, no `last`.
fn parse_path(path: &str) -> Result<Vec<Leg<'_>>, DecodeError> {
    const BAD_PATH: DecodeError = DecodeError::JsonDiff("a path that is malformed");
    let mut legs = Vec::new();
    let mut rest = path
        .trim_start()
        .strip_prefix('$')
        .ok_or(BAD_PATH)?
        .trim_start();
    while let Some(first) = rest.chars().next() {
        if legs.len() == MOST_LEGS {
            return Err(DecodeError::JsonDiff("a path of more than 100 legs"));
        }
        let behind = rest
            .get(first.len_utf8()..)
            .unwrap_or_default()
            .trim_start();
        rest = match first {
            '[' => {
                let (number, behind) = behind.split_once(']').ok_or(BAD_PATH)?;
                legs.push(Leg::Cell(number.trim().parse().map_err(|_| BAD_PATH)?));
                behind
            }
            '.' if behind.starts_with('"') => {
                let (name, behind) = quoted_name(behind).ok_or(BAD_PATH)?;
                legs.push(Leg::Member(name));
                behind
            }
            '.' => {
                // An ECMAScript identifier: none of the characters that could follow it is part of one.
                let end = behind
                    .find(['.', '[', ' ', '\t', '\n', '\r', '*'])
                    .unwrap_or(behind.len());
                let (name, behind) = behind.split_at_checked(end).ok_or(BAD_PATH)?;
                if name.is_empty() {
                    return Err(BAD_PATH);
                }
                legs.push(Leg::Member(unescape(name).ok_or(BAD_PATH)?));
                behind
            }
            _ => return Err(BAD_PATH),
        }
        .trim_start();
    }
    Ok(legs)
}

/// A name in double quotes, and what stands behind it.
fn quoted_name(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let text = text.strip_prefix('"')?;
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    Some((unescape(text.get(..end)?)?, text.get(end + 1..)?))
}

/// JSON's escapes resolved.
fn unescape(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('\\') {
        return Some(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        out.push(match characters.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let unit = hex_unit(&mut characters)?;
                match char::from_u32(unit) {
                    Some(character) => character,
                    None => {
                        if (characters.next()?, characters.next()?) != ('\\', 'u') {
                            return None;
                        }
                        let units = [
                            u16::try_from(unit).ok()?,
                            u16::try_from(hex_unit(&mut characters)?).ok()?,
                        ];
                        char::decode_utf16(units).next()?.ok()?
                    }
                }
            }
            other @ ('"' | '\\' | '/') => other,
            _ => return None,
        });
    }
    Some(Cow::Owned(out))
}

fn hex_unit(characters: &mut std::str::Chars<'_>) -> Option<u32> {
    (0..4).try_fold(0, |unit, _| {
        Some(unit << 4 | characters.next()?.to_digit(16)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::decode::json_text;

    fn member(name: &str) -> Leg<'_> {
        Leg::Member(Cow::Borrowed(name))
    }

    #[test]
    fn paths_with_quotes_and_cells() {
        assert_eq!(parse_path("$").unwrap(), []);
        assert_eq!(
            parse_path("$.a.\"b c\"[3]").unwrap(),
            [member("a"), member("b c"), Leg::Cell(3)]
        );
        assert_eq!(
            parse_path("$[0][12].x").unwrap(),
            [Leg::Cell(0), Leg::Cell(12), member("x")]
        );
        assert_eq!(
            parse_path(r#"$."a\"b.\\[\u00e9\ud83d\ude00""#).unwrap(),
            [member("a\"b.\\[é😀")]
        );
        assert_eq!(parse_path("$.\"\"").unwrap(), [member("")]);
        for bad in [
            "",
            "a",
            "$a",
            "$.",
            "$[",
            "$[x]",
            "$[-1]",
            "$.\"a",
            "$.\"\\x\"",
            "$.\"\\ud83d\"",
        ] {
            assert!(parse_path(bad).is_err(), "{bad}");
        }
    }

    /// `[operation, path, value]` in the event's form.
    fn diff(operation: u8, path: &str, value: &[u8]) -> Vec<u8> {
        let mut out = vec![operation, path.len() as u8];
        out.extend_from_slice(path.as_bytes());
        if operation != 2 {
            out.push(value.len() as u8);
            out.extend_from_slice(value);
        }
        out
    }

    fn applied(before: &[u8], diffs: &[u8]) -> Result<String, DecodeError> {
        let node = apply(before, diffs)?;
        let mut out = Vec::new();
        json_text::append(&node, 1000, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// `{"a": [1, 2]}` as MySQL stores it.
    const BEFORE: &[u8] = &[
        0, 1, 0, 22, 0, 11, 0, 1, 0, 2, 12, 0, b'a', 2, 0, 10, 0, 5, 1, 0, 5, 2, 0,
    ];

    #[test]
    fn replace_insert_and_remove() {
        assert_eq!(applied(BEFORE, &[]).unwrap(), r#"{"a": [1, 2]}"#);
        assert_eq!(
            applied(BEFORE, &diff(0, "$.a[1]", &[5, 7, 0])).unwrap(),
            r#"{"a": [1, 7]}"#
        );
        assert_eq!(
            applied(BEFORE, &diff(1, "$.a[0]", &[4, 1])).unwrap(),
            r#"{"a": [true, 1, 2]}"#
        );
        assert_eq!(
            applied(BEFORE, &diff(1, "$.a[9]", &[4, 0])).unwrap(),
            r#"{"a": [1, 2, null]}"#
        );
        assert_eq!(
            applied(BEFORE, &diff(2, "$.a[0]", &[])).unwrap(),
            r#"{"a": [2]}"#
        );
        let mut both = diff(1, "$.B", &[12, 1, b'x']);
        both.extend(diff(1, "$.\"\"", &[4, 2]));
        both.extend(diff(2, "$.a", &[]));
        assert_eq!(applied(BEFORE, &both).unwrap(), r#"{"": false, "B": "x"}"#);
    }

    #[test]
    fn a_path_into_endless_nesting_takes_no_stack() {
        // Large arrays of one element each, one in the other, and a path to the innermost.
        const LEVELS: usize = 200_000;
        let mut before = vec![3];
        for level in 0..LEVELS {
            let length = (LEVELS - level) * 13;
            before.extend_from_slice(&1_u32.to_le_bytes());
            before.extend_from_slice(&(length as u32).to_le_bytes());
            before.push(if level + 1 < LEVELS { 3 } else { 4 });
            before.extend_from_slice(&(if level + 1 < LEVELS { 13_u32 } else { 0 }).to_le_bytes());
        }
        let path = format!("${}", "[0]".repeat(LEVELS));
        let mut change = vec![2, 0xfd];
        change.extend_from_slice(&(path.len() as u32).to_le_bytes()[..3]);
        change.extend_from_slice(path.as_bytes());
        assert_eq!(
            apply(&before, &change).unwrap_err(),
            DecodeError::JsonDiff("a path of more than 100 legs")
        );
        assert!(applied(&before, &diff(2, "$[0]", &[])).is_ok());
    }

    #[test]
    fn a_change_that_does_not_fit_is_an_error() {
        for bad in [
            diff(0, "$.b", &[4, 0]),
            diff(0, "$.a[2]", &[4, 0]),
            diff(1, "$.a", &[4, 0]),
            diff(2, "$.a[2]", &[]),
            diff(2, "$.a.b", &[]),
            diff(0, "$", &[4, 0]),
            diff(3, "$.a", &[4, 0]),
            vec![0],
            vec![0, 3, b'$'],
        ] {
            assert!(applied(BEFORE, &bad).is_err(), "{bad:?}");
        }
    }
}
