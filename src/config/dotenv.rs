//! The file `.env`: one `NAME=value` a line, `#` comments, `export` allowed, read by dotenvy.
//!
//! Two things are done before dotenvy sees a line, because its own rules change values in silence or refuse the `.env`
//! files that operators already have:
//!
//! - `$` is never replaced: a password with a `$` in it must not depend on what else is in the environment.
//! - An unquoted value is taken as it stands, backslashes included: `INCLUDE_REGEX=.*\..*` means what it says.
//!
//! In single quotes everything stands as it is; in double quotes `\\`, `\"`, `\$` and `\n` are escapes. Each line is read
//! by itself, so a quote left open costs one line and not the rest of the file, and the mistake has a line number. Its
//! content is never shown: it may be a password.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::mistakes::Mistake;
use super::settings;

const EXAMPLE: &str = "NAME='a value' # comment";

/// The values of one `.env` file, and what is wrong with it.
#[derive(Clone, Default)]
pub(super) struct Dotenv {
    pub(super) values: BTreeMap<String, String>,
    pub(super) mistakes: Vec<Mistake>,
}

/// Reads the file at `path`; none where there is none.
pub(super) fn read(path: &Path) -> Option<Dotenv> {
    let name = path.display().to_string();
    Some(match fs::read(path) {
        Ok(content) => match String::from_utf8(content) {
            Ok(content) => parse(&name, &content),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let before = error.as_bytes().get(..valid).unwrap_or_default();
                let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
                failed(format!("{name} line {line}"), "is not UTF-8")
            }
        },
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => failed(name, &format!("cannot be read: {error}")),
    })
}

/// What is wrong with a whole file.
pub(super) fn mistake(path: &Path, reason: String) -> Mistake {
    mistake_at(path.display().to_string(), reason)
}

fn failed(name: String, reason: &str) -> Dotenv {
    Dotenv {
        values: BTreeMap::new(),
        mistakes: vec![mistake_at(name, reason.to_owned())],
    }
}

fn mistake_at(name: String, reason: String) -> Mistake {
    Mistake {
        name,
        reason,
        example: EXAMPLE.to_owned(),
    }
}

fn parse(file: &str, content: &str) -> Dotenv {
    let mut dotenv = Dotenv::default();
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    let content = content.strip_prefix('\u{feff}').unwrap_or(content);
    for (line, number) in content.lines().zip(1..) {
        let place = || format!("{file} line {number}");
        match parse_line(line) {
            Ok(None) => {}
            Ok(Some((name, value))) => {
                // Shells take the last, dotenvy the first: neither is taken here.
                if let Some(first) = lines.insert(name.clone(), number)
                    && settings::find(name.strip_suffix("_FILE").unwrap_or(&name)).is_some()
                {
                    let reason = format!("{name} is given a second time, first in line {first}");
                    dotenv.mistakes.push(mistake_at(place(), reason));
                }
                dotenv.values.insert(name, value);
            }
            Err(reason) => dotenv.mistakes.push(mistake_at(place(), reason.to_owned())),
        }
    }
    dotenv
}

/// One line's name and value, or why it has none; the reason repeats nothing of the line.
fn parse_line(line: &str) -> Result<Option<(String, String)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, value) = line
        .split_once('=')
        .ok_or("has no `=` (its content is not shown)")?;
    let prepared = format!("{name}={}", prepare(value.trim()));
    match dotenvy::from_read_iter(prepared.as_bytes()).next() {
        Some(Ok(pair)) => Ok(Some(pair)),
        Some(Err(_)) | None => Err(
            "cannot be read: expected NAME=value, a quote that is closed, in double quotes only the escapes \
             \\\\ \\\" \\$ \\n (its content is not shown)",
        ),
    }
}

/// A value in the form in which dotenvy reads it literally.
fn prepare(value: &str) -> String {
    match value.chars().next() {
        Some('\'') => value.to_owned(),
        Some('"') => {
            let mut prepared = String::with_capacity(value.len() + 1);
            let mut escaped = false;
            for character in value.chars() {
                if character == '$' && !escaped {
                    prepared.push('\\');
                }
                escaped = character == '\\' && !escaped;
                prepared.push(character);
            }
            prepared
        }
        _ => {
            let value = uncommented(value);
            let mut prepared = String::with_capacity(value.len() + 2);
            prepared.push('"');
            for character in value.chars() {
                if matches!(character, '\\' | '"' | '$') {
                    prepared.push('\\');
                }
                prepared.push(character);
            }
            prepared.push('"');
            prepared
        }
    }
}

/// An unquoted value without its comment, which begins at a `#` behind white space.
fn uncommented(value: &str) -> &str {
    let comment = value.char_indices().find(|(index, character)| {
        *character == '#'
            && value
                .get(..*index)
                .is_none_or(|before| before.is_empty() || before.ends_with(char::is_whitespace))
    });
    comment
        .and_then(|(index, _)| value.get(..index))
        .unwrap_or(value)
        .trim_end()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_as_they_stand() {
        for (line, value) in [
            ("A=1", "1"),
            ("  export A = 1  ", "1"),
            ("A=", ""),
            ("A= # nothing", ""),
            (r"A=.*\..*", r".*\..*"),
            (r"A=^(a|b)\..*$ # comment", r"^(a|b)\..*$"),
            ("A=pa$HOME${HOME}s", "pa$HOME${HOME}s"),
            (r#"A="pa$HOME\$s \"x\" \\d""#, r#"pa$HOME$s "x" \d"#),
            (r"A='pa$HOME \s # x' # y", r"pa$HOME \s # x"),
            ("A=a#b", "a#b"),
            ("A=it's", "it's"),
            ("A=two words", "two words"),
            (r#"A=say "x""#, r#"say "x""#),
            ("A=b=c", "b=c"),
            ("A=mongodb://h/?a=b&c=d", "mongodb://h/?a=b&c=d"),
            ("A=é", "é"),
        ] {
            let read = parse_line(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(read, Some(("A".to_owned(), value.to_owned())), "{line}");
        }
        for line in ["", "   ", "# A=1", "  # A='1"] {
            assert_eq!(parse_line(line), Ok(None), "{line}");
        }
    }

    #[test]
    fn a_mistake_has_a_line_number_and_no_content() {
        let content = "\u{feff}A=1\r\nhunter2\n\n'B=hunter2\nMYSQL_PASS=\"hunter2\nMYSQL_PASS='hunter2' 3\n\
                       C=\"hunter2\\.\"\n=hunter2\nD-hunter2=1\nMYSQL_USER=hunter2\nMYSQL_USER=hunter2\nZ=9\n";
        let dotenv = parse(".env", content);
        let lines: Vec<_> = dotenv
            .mistakes
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        assert_eq!(
            lines,
            [2, 4, 5, 6, 7, 8, 9, 11].map(|line| format!(".env line {line}"))
        );
        assert!(!format!("{:?}", dotenv.mistakes).contains("hunter2"));
        assert_eq!(dotenv.values.get("A").map(String::as_str), Some("1"));
        assert_eq!(dotenv.values.get("Z").map(String::as_str), Some("9"));
    }

    #[test]
    fn a_missing_file_is_fine_and_an_unreadable_one_is_not() {
        assert!(read(Path::new("/nonexistent/.env")).is_none());
        let unreadable = read(&std::env::temp_dir()).unwrap();
        assert_eq!(unreadable.mistakes.len(), 1);
    }
}
