//! What is told when a start fails for its settings: each mistake with its name, the reason, and an example that is
//! right. The reasons never hold a secret; that is upheld where they are written (`sources`, `parse`, `addresses`).

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The setting's name, or the file and line.
    pub name: String,
    /// What was found and what was expected.
    pub reason: String,
    /// A line that would be right.
    pub example: String,
}

/// Every mistake of one start, in the order of the settings table. Printed, it is the message for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors {
    mistakes: Vec<Mistake>,
}

impl ConfigErrors {
    pub(super) fn new(mistakes: Vec<Mistake>) -> Self {
        Self { mistakes }
    }

    /// The mistakes.
    #[must_use]
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mistakes.len() {
            1 => formatter.write_str("the configuration has 1 mistake:")?,
            count => write!(formatter, "the configuration has {count} mistakes:")?,
        }
        for mistake in &self.mistakes {
            write!(
                formatter,
                "\n  {}: {}\n      example: {}",
                mistake.name, mistake.reason, mistake.example
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
