//! What is wrong with a user's SQL, where, and how to cure it.
//!
//! Positions are 1-based and count characters, as editors do.

use std::fmt;

/// One mistake in a SQL text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Line of the first wrong character, from 1; 0 when no place can be named.
    pub line: u64,
    /// Column of the first wrong character, from 1.
    pub column: u64,
    /// How many characters are underlined; at least 1.
    pub length: u64,
    /// What is wrong, as one sentence without its place.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A mistake at a place in the text.
    pub fn at(line: u64, column: u64, length: u64, message: impl Into<String>) -> Self {
        Diagnostic { line, column, length: length.max(1), message: message.into(), hint: None }
    }

    /// A mistake whose place is unknown.
    pub fn nowhere(message: impl Into<String>) -> Self {
        Diagnostic::at(0, 0, 1, message)
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Renders the mistake with the line it is in and a caret under the text.
    pub fn render(&self, sql: &str) -> String {
        let mut out = self.to_string();
        let line =
            usize::try_from(self.line).ok().and_then(|n| n.checked_sub(1)).and_then(|n| sql.lines().nth(n));
        if let Some(text) = line {
            let column = self.column.saturating_sub(1) as usize;
            let room = text.chars().count().saturating_sub(column).max(1);
            let gutter = " ".repeat(self.line.to_string().len());
            let pad: String = text.chars().take(column).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let carets = "^".repeat((self.length as usize).clamp(1, room));
            out.push_str(&format!("\n {} | {text}\n {gutter} | {pad}{carets}", self.line));
        }
        if let Some(hint) = &self.hint {
            out.push_str(&format!("\n   hint: {hint}"));
        }
        out
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_underlines_the_wrong_text() {
        let wrong = Diagnostic::at(2, 3, 4, "no such thing").hint("write that");

        assert_eq!(
            wrong.render("SELECT\n\t é oops"),
            "line 2, column 3: no such thing\n 2 | \t é oops\n   | \t ^^^^\n   hint: write that"
        );
    }
}
