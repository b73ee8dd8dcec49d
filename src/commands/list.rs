//! Rows of a few short columns and a long text, as `sdl check` and `sdl status` print them.
//!
//! In a terminal the text is broken at words and goes on under its own column, or below the row where that is too narrow. A word that is
//! longer than a line is left whole, so that a statement or a GTID set can be copied. In a pipe nothing is broken, so that grep finds a row.

use anstyle::Style;

use crate::terminal::{Failure, Terminal, styled};

/// Narrower than this, the text goes below its row.
const NARROW: usize = 36;

/// Where it stands then.
const INDENT: usize = 4;

/// One row.
#[derive(Debug)]
pub(super) struct Row {
    /// The columns before the text.
    pub(super) cells: Vec<(Style, String)>,
    /// Each line of it begins anew.
    pub(super) text: String,
}

/// Prints rows, their columns below each other.
pub(super) fn print(rows: &[Row], terminal: &Terminal) -> Result<(), Failure> {
    let width = match terminal.is_interactive() {
        true => usize::from(terminal.width()),
        false => usize::MAX,
    };
    for line in lines(rows, width) {
        terminal.line(line)?;
    }
    Ok(())
}

fn lines(rows: &[Row], width: usize) -> Vec<String> {
    let columns = rows.iter().map(|row| row.cells.len()).max().unwrap_or(0);
    let widest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.cells.get(column));
        cells.map(|(_, cell)| length(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(widest).collect();
    let before: usize = widths.iter().map(|width| width + 2).sum::<usize>() + 2;
    let is_narrow = width < before + NARROW;
    let indent = if is_narrow { INDENT } else { before };
    let mut lines = Vec::new();
    for row in rows {
        let mut head = "  ".to_owned();
        for ((style, cell), width) in row.cells.iter().zip(&widths) {
            head.push_str(&styled(*style, cell));
            head.push_str(&" ".repeat(width + 2 - length(cell)));
        }
        let mut text = row
            .text
            .lines()
            .flat_map(|line| wrapped(line, width.saturating_sub(indent)));
        if is_narrow {
            lines.push(head.trim_end().to_owned());
        } else {
            lines.push(format!("{head}{}", text.next().unwrap_or_default()));
        }
        lines.extend(text.map(|line| format!("{}{line}", " ".repeat(indent))));
    }
    lines
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// A line, broken at its spaces.
fn wrapped(line: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in line.split(' ') {
        match lines.last_mut() {
            Some(last) if length(last) + 1 + length(word) <= width => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, text: &str) -> Row {
        Row {
            cells: vec![(Style::new(), name.to_owned())],
            text: text.to_owned(),
        }
    }

    #[test]
    fn text_goes_on_below_itself_or_below_its_row() {
        let text = "one two three four five six seven eight nine ten";
        let rows = [row("a", "x"), row("name", text)];
        let wide = lines(&rows, 45);
        assert_eq!(wide[0], "  a     x");
        assert_eq!(wide[1], "  name  one two three four five six seven");
        assert_eq!(wide[2], "        eight nine ten");
        let narrow = lines(&rows, 40);
        assert_eq!(narrow[2], "  name");
        assert_eq!(narrow[3], "    one two three four five six seven");
        assert_eq!(lines(&rows, usize::MAX)[1], format!("  name  {text}"));
    }

    #[test]
    fn a_long_word_is_left_whole() {
        let word = "w".repeat(100);
        assert_eq!(wrapped(&format!("a {word} b"), 40), ["a", &word, "b"]);
    }
}
