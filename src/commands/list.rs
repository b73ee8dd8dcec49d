//! Rows of a few short columns and a long text, as `sdl check`, `sdl status` and `sdl staging list` print them.
//!
//! In a terminal the text is broken at words and goes on under its own column, or below the row where that is too narrow; so does a column
//! that does not fit beside the others. A word that is longer than a line is left whole, so that a statement or a GTID set can be copied. In
//! a pipe nothing is broken, so that grep finds a row, unless COLUMNS says how wide it is, as watch(1) does.

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

/// Pads a column of numbers at its left, so that units stand below units.
pub(super) fn align_right(rows: &mut [Row], column: usize) {
    let widest = widest(rows, column);
    for row in rows {
        if let Some((_, cell)) = row.cells.get_mut(column) {
            *cell = format!("{cell:>widest$}");
        }
    }
}

/// Prints rows, their columns below each other.
pub(super) fn print(rows: &[Row], terminal: &Terminal) -> Result<(), Failure> {
    let width = terminal.cut_at().map_or(usize::MAX, usize::from);
    for line in lines(rows, width) {
        terminal.line(line)?;
    }
    Ok(())
}

fn lines(rows: &[Row], width: usize) -> Vec<String> {
    let columns = rows.iter().map(|row| row.cells.len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(|column| widest(rows, column)).collect();
    let before: usize = widths.iter().map(|width| width + 2).sum::<usize>() + 2;
    let is_narrow = width < before.saturating_add(NARROW);
    let indent = if is_narrow { INDENT } else { before };
    let mut lines = Vec::new();
    for row in rows {
        let mut head = "  ".to_owned();
        let mut end = head.len();
        for ((style, cell), column) in row.cells.iter().zip(&widths) {
            if end + column > width && end > INDENT {
                lines.push(head.trim_end().to_owned());
                head = " ".repeat(INDENT);
                end = INDENT;
            }
            head.push_str(&styled(*style, cell));
            head.push_str(&" ".repeat(column + 2 - length(cell)));
            end += column + 2;
        }
        let mut text = row
            .text
            .lines()
            .flat_map(|line| wrapped(line, width.saturating_sub(indent)));
        if is_narrow {
            lines.push(head.trim_end().to_owned());
        } else {
            let line = format!("{head}{}", text.next().unwrap_or_default());
            lines.push(line.trim_end().to_owned());
        }
        lines.extend(text.map(|line| format!("{}{line}", " ".repeat(indent))));
    }
    lines
}

fn widest(rows: &[Row], column: usize) -> usize {
    let cells = rows.iter().filter_map(|row| row.cells.get(column));
    cells.map(|(_, cell)| length(cell)).max().unwrap_or(0)
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
    fn a_column_that_does_not_fit_goes_below_and_numbers_end_below_each_other() {
        let row = |number: &str, time: &str| Row {
            cells: [number, time]
                .map(|cell| (Style::new(), cell.to_owned()))
                .to_vec(),
            text: String::new(),
        };
        let mut rows = [row("NUMBER", "TIME"), row("7", "2026-11-21")];
        align_right(&mut rows, 0);
        assert_eq!(
            lines(&rows, usize::MAX),
            ["  NUMBER  TIME", "       7  2026-11-21"]
        );
        assert_eq!(lines(&rows, 20)[1], "       7  2026-11-21");
        assert_eq!(lines(&rows, 19)[2..], ["       7", "    2026-11-21"]);
    }

    #[test]
    fn a_long_word_is_left_whole() {
        let word = "w".repeat(100);
        assert_eq!(wrapped(&format!("a {word} b"), 40), ["a", &word, "b"]);
    }
}
