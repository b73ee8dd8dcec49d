//! docs/operations.md, docs/recorded.md and docs/commands.md do what they say: every command and query in them is taken from the file and run.
//!
//! A block is fenced and has a line before it that says where it is run: `<!-- run: SCENARIO -->`, or `<!-- run: SCENARIO NAME -->` where
//! the scenario tells its blocks apart. A block without one fails, and so does one of a scenario that nobody plays. CAPITALS in a block
//! stand for what is the reader's, and paths for those of a production host; a scenario puts its own in their place, and nothing else.
#![cfg(feature = "failpoints")]

mod commands;
mod queries;
mod recovery;
mod servers;
mod service;
mod shell;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A start, an exit, a batch: all of them take a second on a machine that has nothing else to do.
const SOON: Duration = Duration::from_secs(60);

/// What the blocks stand in.
const PAGES: [&str; 3] = ["docs/operations.md", "docs/recorded.md", "docs/commands.md"];

/// Every scenario, and who plays it.
const SCENARIOS: &[(&str, &str)] = &[
    (
        "accounts",
        "connection::logins and connection::documented_account, which read the same section",
    ),
    ("archive", "recovery"),
    ("audit", "queries"),
    ("backup", "recovery"),
    ("binlogs", "servers"),
    ("commands", "commands"),
    ("durability", "servers"),
    ("gap", "recovery"),
    ("host", "commands"),
    ("initiate", "servers"),
    ("mariadb", "servers"),
    ("mariadbd", "servers"),
    ("mongod", "servers"),
    ("mongodump", "recovery"),
    ("mysql", "servers"),
    ("mysqld", "servers"),
    ("offset", "recovery"),
    ("recorded", "queries"),
    ("replay", "commands"),
    ("spool", "recovery"),
    ("systemd", "service"),
    ("zstd", "servers"),
];

/// One fenced block.
#[derive(Debug, Clone)]
struct Block {
    /// Where it stands, for messages.
    place: String,
    language: String,
    scenario: String,
    name: String,
    /// The paragraph before it.
    before: String,
    text: String,
}

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// All fenced blocks of a page.
fn blocks_of(name: &str) -> Vec<Block> {
    let page = page(name);
    let lines: Vec<&str> = page.lines().collect();
    let mut blocks = Vec::new();
    let mut number = 0;
    let mut after_last = 0;
    while number < lines.len() {
        let Some(language) = lines[number].trim_start().strip_prefix("```") else {
            number += 1;
            continue;
        };
        let place = format!("{name}:{}", number + 1);
        assert!(!language.is_empty(), "{place}: a block without a language");
        let marker = lines[number - 1]
            .strip_prefix("<!-- run: ")
            .and_then(|rest| rest.strip_suffix(" -->"))
            .unwrap_or_else(|| {
                panic!(
                    "{place}: nobody runs this block; the line before it is to be <!-- run: … -->"
                )
            });
        let (scenario, called) = marker.split_once(' ').unwrap_or((marker, ""));
        let end = (number + 1..lines.len())
            .find(|&line| lines[line].trim() == "```")
            .unwrap_or_else(|| panic!("{place}: the block has no end"));
        blocks.push(Block {
            place,
            language: language.to_owned(),
            scenario: scenario.to_owned(),
            name: called.to_owned(),
            before: lines[after_last..number - 1].join("\n"),
            text: lines[number + 1..end].join("\n"),
        });
        number = end + 1;
        after_last = number;
    }
    blocks
}

/// The blocks of a scenario, in the order of the pages.
fn blocks(scenario: &str) -> Vec<Block> {
    let found: Vec<Block> = PAGES
        .iter()
        .flat_map(|page| blocks_of(page))
        .filter(|block| block.scenario == scenario)
        .collect();
    assert!(!found.is_empty(), "no block of {scenario}");
    found
}

/// The one block of this name.
fn block(scenario: &str, name: &str) -> Block {
    let mut found = blocks(scenario);
    found.retain(|block| block.name == name);
    assert_eq!(found.len(), 1, "blocks of {scenario} {name}");
    found.remove(0)
}

impl Block {
    /// With `actual` in the place of `placeholder`, which must be there.
    fn with(&self, placeholder: &str, actual: &str) -> Self {
        assert!(
            self.text.contains(placeholder),
            "{}: no {placeholder} in it",
            self.place
        );
        Self {
            text: self.text.replace(placeholder, actual),
            ..self.clone()
        }
    }
}

#[test]
fn every_block_is_run_by_somebody_and_every_scenario_has_blocks() {
    let mut played = BTreeSet::new();
    for page in PAGES {
        for block in blocks_of(page) {
            assert!(
                SCENARIOS
                    .iter()
                    .any(|(scenario, _)| *scenario == block.scenario),
                "{}: nobody plays {}",
                block.place,
                block.scenario
            );
            played.insert(block.scenario);
        }
    }
    for (scenario, _) in SCENARIOS {
        assert!(played.contains(*scenario), "no block of {scenario}");
    }
}

#[test]
fn no_command_stands_outside_of_a_block() {
    for name in PAGES {
        for (number, line) in page(name).lines().enumerate() {
            let indented = line.starts_with("    ");
            let first = line.split_whitespace().next().unwrap_or_default();
            let programs = [
                "sdl",
                "sudo",
                "systemctl",
                "journalctl",
                "mongosh",
                "mysql",
                "curl",
                "sqlite3",
            ];
            let is_command = programs.contains(&first) || first.starts_with("db.");
            assert!(
                !(indented && is_command),
                "{name}:{}: nobody runs this: {line}",
                number + 1
            );
        }
    }
}

/// The text behind `#` by which a heading is linked to.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter_map(|character| match character {
            ' ' => Some('-'),
            '-' | '_' => Some(character),
            _ if character.is_alphanumeric() => Some(character),
            _ => None,
        })
        .collect()
}

#[test]
fn every_link_inside_the_guide_leads_somewhere() {
    let guide = page("docs/operations.md");
    let anchors: BTreeSet<String> = guide
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect();
    let links: Vec<&str> = guide
        .split("](#")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .collect();
    assert!(links.len() > 20, "{links:?}");
    for link in links {
        assert!(anchors.contains(link), "nothing is called #{link}");
    }
    for file in guide
        .split(|character: char| character.is_whitespace() || ",;:()`|".contains(character))
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| word.starts_with("docs/") || word.starts_with("deploy/"))
    {
        let is_there = Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists();
        assert!(is_there, "there is no {file}");
    }
}

/// That there is one for each rule of deploy/alerts.yml, and no other, is looked at where the rules are (`alerts`).
#[test]
fn every_paragraph_of_an_alert_says_what_it_means_where_to_look_and_what_to_do() {
    let guide = page("docs/operations.md");
    let section = guide
        .split("\n## ")
        .find(|section| section.starts_with("Alerts\n"))
        .unwrap();
    let paragraphs: Vec<&str> = section.split("\n### ").skip(1).collect();
    assert!(paragraphs.len() > 20);
    for paragraph in paragraphs {
        for part in ["\n*Means:* ", "\n*Look:* ", "\n*Do:* "] {
            assert_eq!(
                paragraph.matches(part).count(),
                1,
                "{part:?} in {paragraph}"
            );
        }
    }
}

/// All of src/, with string literals on one line.
fn sources(directory: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.push_str(&sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut pieces = text.split("\\\n");
            all.push_str(pieces.next().unwrap_or_default());
            for piece in pieces {
                all.push_str(piece.trim_start());
            }
        }
    }
    all
}

#[test]
fn every_log_line_that_is_explained_is_one_that_can_be_logged() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let guide = page("docs/operations.md");
    let table = guide
        .split("\n### ")
        .find(|section| section.starts_with("By log line\n"))
        .unwrap();
    let mut explained = 0;
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cell = row.split(" | ").next().unwrap_or_default();
        for line in cell.split('`').skip(1).step_by(2) {
            for part in line.split('…').flat_map(|part| part.split(" N ")) {
                assert!(
                    sources.contains(part.trim()),
                    "nothing logs {part:?}: {row}"
                );
            }
            explained += 1;
        }
    }
    assert!(explained > 20);
}
