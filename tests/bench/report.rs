//! The table: a row for every goal, measured or not.

#![allow(unreachable_pub)]

use std::fmt;
use std::fs;
use std::process::Command;

use mongodb::bson::doc;

use crate::common::Mongod;
use crate::common::servers::binaries;
use crate::goals::{GOALS, Goal, Name};
use crate::samples::{Samples, figure};

/// A row as it is printed.
struct Row {
    goal: String,
    figure: String,
    ceiling: String,
    ratio: String,
    verdict: String,
}

/// What was measured of a goal.
struct Measured {
    name: Name,
    figure: String,
    ceiling: String,
    ratio: String,
    /// The median of what the goal is about.
    judged: f64,
    /// Why it is no verdict yet.
    reserve: Option<&'static str>,
}

/// Notes, then the table.
#[derive(Default)]
pub struct Report {
    notes: Vec<String>,
    measured: Vec<Measured>,
    collapsed: Vec<String>,
}

impl Report {
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// A figure that is held against the goal as it is.
    pub fn bounded(&mut self, name: Name, unit: &str, samples: &Samples) {
        self.measured.push(Measured {
            name,
            figure: format!("{} {unit}", samples.text()).trim_end().to_owned(),
            ceiling: String::new(),
            ratio: String::new(),
            judged: samples.median(),
            reserve: (cfg!(debug_assertions) && Goal::of(name).wants_release())
                .then_some("not measured: no release build"),
        });
    }

    /// Takes the verdict back from the row of the last figure.
    pub fn reserve(&mut self, reserve: &'static str) {
        if let Some(last) = self.measured.last_mut() {
            last.reserve = Some(reserve);
        }
    }

    /// A figure whose ratio to its ceiling is held against the goal.
    pub fn compared(&mut self, name: Name, unit: &str, samples: &Samples, ceiling: &Samples) {
        let ratio = samples.ratio(ceiling);
        self.collapsed
            .extend(Goal::of(name).collapse(ratio.largest()));
        self.measured.push(Measured {
            name,
            figure: format!("{} {unit}", samples.text()),
            ceiling: figure(ceiling.median()),
            ratio: ratio.text(),
            judged: ratio.median(),
            reserve: None,
        });
    }

    /// The ratios that have collapsed.
    pub fn collapsed(&self) -> &[String] {
        &self.collapsed
    }

    fn row(&self, goal: &Goal) -> Row {
        let found = self.measured.iter().find(|row| row.name == goal.name);
        let Some(found) = found else {
            return Row {
                goal: goal.text(),
                figure: String::new(),
                ceiling: String::new(),
                ratio: String::new(),
                verdict: goal.not_measured(),
            };
        };
        Row {
            goal: goal.text(),
            figure: found.figure.clone(),
            ceiling: found.ceiling.clone(),
            ratio: found.ratio.clone(),
            verdict: found
                .reserve
                .unwrap_or_else(|| goal.verdict(found.judged))
                .to_owned(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        writeln!(f)?;
        let header = Row {
            goal: "goal".to_owned(),
            figure: "figure".to_owned(),
            ceiling: "ceiling".to_owned(),
            ratio: "ratio".to_owned(),
            verdict: "verdict".to_owned(),
        };
        let goals = GOALS.iter().map(|goal| self.row(goal));
        let rows: Vec<Row> = std::iter::once(header).chain(goals).collect();
        let width = |column: fn(&Row) -> &str| {
            let widths = rows.iter().map(|row| column(row).chars().count());
            widths.max().unwrap_or(0)
        };
        let goal = width(|row| &row.goal);
        let figure = width(|row| &row.figure);
        let ceiling = width(|row| &row.ceiling);
        let ratio = width(|row| &row.ratio);
        let verdict = width(|row| &row.verdict);
        // As Markdown has it, so that the table can stand in docs/performance.md as it is.
        for (index, row) in rows.iter().enumerate() {
            writeln!(
                f,
                "| {:goal$} | {:figure$} | {:ceiling$} | {:ratio$} | {:verdict$} |",
                row.goal, row.figure, row.ceiling, row.ratio, row.verdict,
            )?;
            if index == 0 {
                let rules =
                    [goal, figure, ceiling, ratio, verdict].map(|width| "-".repeat(width + 2));
                writeln!(f, "|{}|", rules.join("|"))?;
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
pub async fn versions(mongod: &Mongod) -> String {
    let build = mongod.admin(doc! { "buildInfo": 1 }).await;
    let status = mongod.admin(doc! { "serverStatus": 1 }).await;
    let cache = status
        .get_document("wiredTiger")
        .and_then(|engine| engine.get_document("cache"));
    let cache = cache
        .ok()
        .and_then(|cache| cache.get("maximum bytes configured"));
    let bytes = cache.and_then(|bytes| bytes.as_i64().or(bytes.as_i32().map(i64::from)));
    format!(
        "sdl {}, MySQL {}, MongoDB {} (one member, a cache of {:.1} GiB), crates mongodb {} and mysql_async {}",
        env!("CARGO_PKG_VERSION"),
        mysql_version(),
        build.get_str("version").unwrap_or("?"),
        bytes.map_or(f64::NAN, |bytes| bytes as f64 / f64::from(1 << 30)),
        locked("mongodb"),
        locked("mysql_async"),
    )
}

/// As `mysqld --version` says it.
fn mysql_version() -> String {
    let output = Command::new(&binaries().mysqld).arg("--version").output();
    let output = output.expect("mysqld says its version").stdout;
    let text = String::from_utf8_lossy(&output);
    let version = text
        .split_once("Ver ")
        .map_or(&*text, |(_, version)| version);
    version.split_whitespace().next().unwrap_or("?").to_owned()
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
