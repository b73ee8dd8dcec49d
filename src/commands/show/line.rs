//! A line of styled text that can be cut to a width.

use std::fmt;

use anstyle::Style;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::terminal::styled;

/// What stands where something was left out.
pub(super) const ELLIPSIS: &str = "…";

/// Pieces of text with a style each; there is no control character in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line(Vec<(Style, String)>);

impl Line {
    /// A line of one piece.
    pub fn of(style: Style, text: impl Into<String>) -> Self {
        Self::default().with(style, text)
    }

    /// The line with one more piece.
    #[must_use]
    pub fn with(mut self, style: Style, text: impl Into<String>) -> Self {
        self.0.push((style, text.into()));
        self
    }

    /// The line with the pieces of another.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Its first `width` columns, the last of which says that there is more.
    #[must_use]
    pub fn cut(self, width: Option<u16>) -> Self {
        let Some(width) = width.map(usize::from) else {
            return self;
        };
        let whole: usize = self.0.iter().map(|(_, text)| text.width()).sum();
        if whole <= width {
            return self;
        }
        let mut left = width.saturating_sub(1);
        let mut cut = Vec::new();
        for (style, text) in self.0 {
            let wide = text.width();
            if wide <= left {
                left -= wide;
                cut.push((style, text));
                continue;
            }
            cut.push((style, format!("{}{ELLIPSIS}", head(&text, left))));
            break;
        }
        Self(cut)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (style, text) in &self.0 {
            formatter.write_str(&styled(*style, text))?;
        }
        Ok(())
    }
}

/// As much of a text as fits into `width` columns.
pub(super) fn head(text: &str, width: usize) -> &str {
    let mut used = 0;
    for (at, character) in text.char_indices() {
        used += character.width().unwrap_or(0);
        if used > width {
            return &text[..at];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(line: &Line) -> String {
        line.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn a_line_is_cut_at_columns_not_at_bytes() {
        let line = Line::of(Style::new(), "äö")
            .with(Style::new(), "漢字漢字")
            .with(Style::new(), "end");
        for (width, expected) in [
            (13, "äö漢字漢字end"),
            (12, "äö漢字漢字e…"),
            (11, "äö漢字漢字…"),
            (10, "äö漢字漢…"),
            (9, "äö漢字漢…"),
            (3, "äö…"),
        ] {
            assert_eq!(plain(&line.clone().cut(Some(width))), expected, "{width}");
        }
        assert_eq!(line.clone().cut(None), line);
    }
}
