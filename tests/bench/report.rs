//! The table.

#![allow(unreachable_pub)]

use std::fmt;
use std::fs;

use mongodb::bson::doc;

use crate::common::{Mongod, Mysqld};

/// One figure in each round.
#[derive(Clone, Debug)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn of<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> Self {
        Self(rounds.iter().map(figure).collect())
    }

    /// Round by round, so that a busy minute of the machine hits both.
    fn ratio(&self, ceiling: &Self) -> Self {
        Self(
            self.0
                .iter()
                .zip(&ceiling.0)
                .map(|(figure, ceiling)| figure / ceiling)
                .collect(),
        )
    }

    fn ascending(&self) -> Vec<f64> {
        let mut ascending = self.0.clone();
        ascending.sort_by(f64::total_cmp);
        ascending
    }

    pub fn median(&self) -> f64 {
        let ascending = self.ascending();
        let middle = ascending.len() / 2;
        match ascending.len() {
            0 => f64::NAN,
            even if even % 2 == 0 => f64::midpoint(ascending[middle - 1], ascending[middle]),
            _ => ascending[middle],
        }
    }

    /// The median, and what it lies between.
    fn text(&self, digits: fn(f64) -> String) -> String {
        let ascending = self.ascending();
        match ascending[..] {
            [smallest, .., largest] => {
                format!(
                    "{} ({}–{})",
                    digits(self.median()),
                    digits(smallest),
                    digits(largest)
                )
            }
            _ => digits(self.median()),
        }
    }
}

/// Thousands with a comma from 1,000 on; two digits behind the point below 10, one below 100.
fn figure(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

struct Row {
    what: String,
    figure: String,
    ceiling: String,
    ratio: String,
}

/// Notes, then the table.
#[derive(Default)]
pub struct Report {
    notes: Vec<String>,
    rows: Vec<Row>,
}

impl Report {
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// A figure without a ceiling.
    pub fn measured(&mut self, what: &str, unit: &str, samples: &Samples) {
        self.row(what, format!("{} {unit}", samples.text(figure)).trim_end());
    }

    /// [`measured`](Self::measured), for a figure that is a text.
    pub fn row(&mut self, what: &str, figure: &str) {
        self.rows.push(Row {
            what: what.to_owned(),
            figure: figure.to_owned(),
            ceiling: String::new(),
            ratio: String::new(),
        });
    }

    /// A figure next to its ceiling.
    pub fn compared(
        &mut self,
        what: &str,
        unit: &str,
        samples: &Samples,
        name: &str,
        ceiling: &Samples,
    ) {
        self.rows.push(Row {
            what: what.to_owned(),
            figure: format!("{} {unit}", samples.text(figure)),
            ceiling: format!("{name} {}", figure(ceiling.median())),
            ratio: samples.ratio(ceiling).text(|ratio| format!("{ratio:.2}")),
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        writeln!(f)?;
        let header = Row {
            what: "what".to_owned(),
            figure: "figure".to_owned(),
            ceiling: "ceiling".to_owned(),
            ratio: "ratio".to_owned(),
        };
        let rows: Vec<&Row> = std::iter::once(&header).chain(&self.rows).collect();
        let width = |column: fn(&Row) -> &str| {
            rows.iter()
                .map(|row| column(row).chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths = [
            width(|row| &row.what),
            width(|row| &row.figure),
            width(|row| &row.ceiling),
        ];
        for (index, row) in rows.iter().enumerate() {
            let line = format!(
                "{:what$}  {:figure$}  {:ceiling$}  {}",
                row.what,
                row.figure,
                row.ceiling,
                row.ratio,
                what = widths[0],
                figure = widths[1],
                ceiling = widths[2],
            );
            writeln!(f, "{}", line.trim_end())?;
            if index == 0 {
                writeln!(f, "{}", "-".repeat(widths.iter().sum::<usize>() + 22))?;
            }
        }
        Ok(())
    }
}

/// Processor, cores, and how busy the machine is with something else.
pub fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    format!("machine: {cores} cores, {model}; load average at the start {load}")
}

/// What was measured.
pub async fn versions(mysqld: &Mysqld, mongod: &Mongod) -> String {
    let mysql: String = mysqld.query_one("SELECT VERSION()").await;
    let build = mongod.admin(doc! { "buildInfo": 1 }).await;
    format!(
        "sdl {}, MySQL {mysql}, MongoDB {} (one member), crates mongodb {} and mysql_async {}",
        env!("CARGO_PKG_VERSION"),
        build.get_str("version").unwrap_or("?"),
        locked("mongodb"),
        locked("mysql_async"),
    )
}

/// The version of a crate in Cargo.lock.
fn locked(name: &str) -> &'static str {
    include_str!("../../Cargo.lock")
        .split("[[package]]")
        .find_map(|package| {
            let rest = package
                .trim_start()
                .strip_prefix(&format!("name = \"{name}\"\nversion = \""))?;
            rest.split('"').next()
        })
        .unwrap_or("?")
}
