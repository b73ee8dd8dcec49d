//! What the Debian package holds besides the binary: manual pages, completions, and the settings file as it is installed.
//!
//!     cargo run --example pages -- DIRECTORY
//!
//! All of it is made from what the program itself goes by, the command line ([`sdl::cli::command`]), the table of settings
//! ([`sdl::config::SETTINGS`]) and `.env.example`, so it cannot say something else. The binary holds none of it.
//! Manual pages follow man-pages(7): a page of its own for each command, `sdl-check(1)`.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use flate2::{Compression, GzBuilder};
use sdl::cli;
use sdl::config::SETTINGS;

/// The one setting that the package makes: the directory that systemd makes for the unit (StateDirectory=).
const SPOOL: &str = "SPOOL_DIR=/var/lib/sdl";

/// Debian's changelog of the package.
const CHANGELOG: &str = include_str!("changelog");

/// Signals, as systemd and an administrator send them.
const SIGNALS: &[(&str, &str)] = &[
    (
        "SIGTERM, SIGINT",
        "Flush what was read, commit it, and end with 0, within SHUTDOWN_TIMEOUT. What is left then is recovered at the next start. \
         A second one ends the process at once.",
    ),
    (
        "SIGHUP",
        "Read RUST_LOG again, and say which other settings have changed and need a restart (systemctl reload sdl).",
    ),
    (
        "SIGKILL",
        "Does no harm: nothing is lost or doubled, the next start takes a moment longer.",
    ),
];

/// Where the package keeps what.
const FILES: &[(&str, &str)] = &[
    (
        "/etc/sdl/sdl.env",
        "Settings of sdl.service, with the reason for each default.",
    ),
    (
        "/etc/sdl/sdl.credentials/MYSQL_PASS, MONGO_URI",
        "Its secrets, each in a file of its own, readable by root alone.",
    ),
    (
        "/etc/sdl/NAME.env, /etc/sdl/NAME.credentials",
        "The same for sdl@NAME.service.",
    ),
    (
        "/var/lib/sdl",
        "The spool: batches that MongoDB has not taken yet. They may be the only copy.",
    ),
    (
        ".env",
        "In the working directory: settings of a call without systemd, in place of /etc/sdl/sdl.env.",
    ),
    (
        "/usr/share/doc/sdl",
        "deploy.md (from nothing to a service), operations.md (the guide), architecture.md, decisions.md.",
    ),
];

/// A first way through.
const EXAMPLES: &[(&str, &str)] = &[
    (
        "Look whether both servers are as they must be, then start:",
        "sdl check\nsystemctl enable --now sdl",
    ),
    (
        "How is it doing?",
        "systemctl status sdl\nsdl status\njournalctl -u sdl -p err",
    ),
    (
        "Who changed this row, when, by which statement?",
        "sdl history shop.orders 4711",
    ),
];

#[allow(dead_code)] // tests/operating/package.rs has this file as a module, and calls `write` itself.
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        return Err("usage: pages DIRECTORY".into());
    };
    write(Path::new(&directory))
}

/// Writes everything into a directory, which is emptied before.
pub(crate) fn write(directory: &Path) -> Result<(), Box<dyn Error>> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    let mut command = cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "sdl", directory)?;
    }
    // Names of subcommands and of their pages: `sdl check`, `sdl-check`.
    command.build();
    command_pages(&command, directory)?;
    write_page(directory, "sdl", &main_page(&command))?;
    fs::write(
        directory.join("sdl.env"),
        settings_file(include_str!("../../.env.example")),
    )?;
    Ok(())
}

fn command_pages(command: &Command, directory: &Path) -> Result<(), Box<dyn Error>> {
    for one in subcommands(command) {
        let name = one.get_display_name().unwrap_or_default();
        write_page(directory, name, &command_page(one, name))?;
        command_pages(one, directory)?;
    }
    Ok(())
}

/// A page as it is, and compressed as Debian has it in a package (policy 12.1), without a time of its own.
fn write_page(directory: &Path, name: &str, page: &[u8]) -> std::io::Result<()> {
    fs::write(directory.join(format!("{name}.1")), page)?;
    let file = fs::File::create(directory.join(format!("{name}.1.gz")))?;
    let mut compressed = GzBuilder::new().write(file, Compression::best());
    compressed.write_all(page)?;
    compressed.finish()?;
    Ok(())
}

fn subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|one| one.get_name() != "help" && !one.is_hide_set())
}

/// sdl(1).
fn main_page(command: &Command) -> Vec<u8> {
    let man = man(command.clone());
    let mut page = Vec::new();
    // Writing to memory does not fail.
    let _ = man.render_title(&mut page);
    let _ = man.render_name_section(&mut page);
    let _ = man.render_synopsis_section(&mut page);
    let mut rest = Roff::new();
    rest.control("SH", ["DESCRIPTION"]);
    rest.text([
        bold("sdl"),
        roman(
            " reads the binlog of a MySQL or MariaDB server as a replica does, and keeps every committed row change as one document in \
             MongoDB: exactly once, in order, lossless in every value, nothing skipped in silence. Without a command it runs until SIGTERM, \
             as systemd starts it.",
        ),
    ]);
    rest.control("PP", []);
    rest.text([roman(
        "Whatever is away is waited for. While MongoDB is, batches go to a local spool (SPOOL_DIR) and come back in order. What would leave a \
         hole in the record (a purged binlog, a wrong server, a missing right) ends it with exit code 3 and the statement that mends it.",
    )]);
    list_subcommands(&mut rest, command);
    let _ = rest.to_writer(&mut page);
    let _ = man.render_options_section(&mut page);
    let mut rest = Roff::new();
    rest.control("SH", ["SETTINGS"]);
    rest.text([roman(
        "From the environment, or from a file: the one that --env-file names; without it .env in the working directory, else \
         /etc/sdl/sdl.env, the service's own. The environment wins. Durations carry a unit (100ms, 25s, 5m, 1h), sizes may (512KiB, 8MiB, \
         plain bytes). A secret may also be given as NAME_FILE=/path, or as a systemd credential of its name; outside a service, the \
         credentials of FILE.env are looked for in FILE.credentials beside it. All mistakes are told at once.",
    )]);
    let mut group = "";
    for setting in SETTINGS {
        if setting.group != group {
            group = setting.group;
            rest.control("SS", [group]);
        }
        rest.control("TP", []);
        rest.text([
            bold(setting.name),
            roman(" ("),
            italic(setting.default.describe()),
            roman(")"),
        ]);
        rest.text([roman(setting.help)]);
    }
    rest.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in exit_codes() {
        term(&mut rest, &code, &meaning);
    }
    rest.control("SH", ["SIGNALS"]);
    for (signal, does) in SIGNALS {
        term(&mut rest, signal, does);
    }
    rest.control("SH", ["FILES"]);
    for (file, what) in FILES {
        rest.control("TP", []);
        rest.text([italic(*file)]);
        rest.text([roman(*what)]);
    }
    rest.control("SH", ["EXAMPLES"]);
    for (place, (what, lines)) in EXAMPLES.iter().enumerate() {
        if place > 0 {
            rest.control("PP", []);
        }
        rest.text([roman(*what)]);
        as_it_stands(&mut rest, lines.lines());
    }
    rest.control("SH", ["SEE ALSO"]);
    let pages: Vec<_> = subcommands(command)
        .map(|one| format!("{}(1)", one.get_display_name().unwrap_or_default()))
        .collect();
    rest.text([roman(format!(
        "{}, systemctl(1), journalctl(1), systemd.exec(5)",
        pages.join(", ")
    ))]);
    let _ = rest.to_writer(&mut page);
    page
}

/// A command's page: what its `--help` says.
fn command_page(command: &Command, name: &str) -> Vec<u8> {
    // clap keeps names that live as long as the program.
    let name: &'static str = name.to_owned().leak();
    let man = man(command.clone().name(name));
    let mut page = Vec::new();
    let _ = man.render_title(&mut page);
    let _ = man.render_name_section(&mut page);
    let mut synopsis = Roff::new();
    synopsis.control("SH", ["SYNOPSIS"]);
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let (call, rest) = usage.split_at(usage.find(['[', '<']).unwrap_or(usage.len()));
    synopsis.text([bold(call.to_owned()), roman(rest.to_owned())]);
    let _ = synopsis.to_writer(&mut page);
    let _ = man.render_description_section(&mut page);
    let _ = man.render_options_section(&mut page);
    let mut rest = Roff::new();
    list_subcommands(&mut rest, command);
    let help = command
        .get_after_long_help()
        .or_else(|| command.get_after_help());
    if let Some(help) = help {
        sections(&mut rest, &help.to_string());
    }
    rest.control("SH", ["SEE ALSO"]);
    rest.text([
        bold("sdl"),
        roman("(1): settings, and the exit codes of all commands"),
    ]);
    let _ = rest.to_writer(&mut page);
    page
}

fn list_subcommands(page: &mut Roff, command: &Command) {
    if !command.has_subcommands() {
        return;
    }
    page.control("SH", ["COMMANDS"]);
    for one in subcommands(command) {
        page.control("TP", []);
        page.text([
            bold(one.get_display_name().unwrap_or_default().to_owned()),
            roman("(1)"),
        ]);
        page.text([roman(about(one))]);
    }
}

fn man(command: Command) -> Man {
    let title = command.get_name().to_uppercase();
    Man::new(command)
        .title(title)
        .section("1")
        .source(concat!("sdl ", env!("CARGO_PKG_VERSION")))
        .manual("sdl")
        .date(release_date())
}

/// The day of the newest entry of the changelog, and not that of the build: the same source gives the same page.
fn release_date() -> String {
    let signature = CHANGELOG.lines().find(|line| line.starts_with(" -- "));
    let date = signature.and_then(|line| line.rsplit_once("  "));
    let date = date.and_then(|(_, date)| jiff::fmt::rfc2822::parse(date).ok());
    date.map_or_else(String::new, |date| date.date().to_string())
}

fn about(command: &Command) -> String {
    command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn term(page: &mut Roff, term: &str, text: &str) {
    page.control("TP", []);
    page.text([bold(term)]);
    page.text([roman(text)]);
}

/// Lines that are not to be filled.
fn as_it_stands<'a>(page: &mut Roff, lines: impl Iterator<Item = &'a str>) {
    page.control("RS", ["4"]);
    page.control("nf", []);
    for line in lines {
        page.text([roman(line)]);
    }
    page.control("fi", []);
    page.control("RE", []);
}

/// The text behind the options of a help, as it is written for a terminal: `Heading:`, paragraphs, indented lines.
fn sections(page: &mut Roff, text: &str) {
    let mut lines = text.lines().peekable();
    let mut is_first = true;
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        if line.starts_with(' ') {
            let mut block = vec![line.get(2..).unwrap_or(line)];
            while let Some(next) = lines.next_if(|next| next.starts_with(' ')) {
                block.push(next.get(2..).unwrap_or(next));
            }
            as_it_stands(page, block.into_iter());
        } else if let Some(heading) = heading(line) {
            page.control("SH", [heading.to_uppercase().as_str()]);
        } else {
            if is_first {
                page.control("SH", ["NOTES"]);
            } else {
                page.control("PP", []);
            }
            page.text([roman(line)]);
            let goes_on =
                |next: &&str| !next.is_empty() && !next.starts_with(' ') && heading(next).is_none();
            while let Some(next) = lines.next_if(goes_on) {
                page.text([roman(next)]);
            }
        }
        is_first = false;
    }
}

fn heading(line: &str) -> Option<&str> {
    line.strip_suffix(':').filter(|heading| heading.len() < 30)
}

/// `0   done: …` of the help, line by line; what is indented further goes on with the line before it.
fn exit_codes() -> Vec<(String, String)> {
    let mut codes: Vec<(String, String)> = Vec::new();
    for line in cli::EXIT_CODES
        .lines()
        .filter(|line| line.starts_with("  "))
    {
        match line.trim().split_once(' ') {
            Some((code, meaning)) if code.bytes().all(|byte| byte.is_ascii_digit()) => {
                codes.push((code.to_owned(), meaning.trim().replace('`', "")));
            }
            _ => {
                if let Some((_, meaning)) = codes.last_mut() {
                    let _ = write!(meaning, " {}", line.trim());
                }
            }
        }
    }
    codes
}

/// `/etc/sdl/sdl.env`: the settings of `.env.example`, introduced for where it lies. What must be set is switched off: it is then missing,
/// and said to be at the first start, instead of an example's host being asked. The spool is on, where the unit lets it be.
fn settings_file(example: &str) -> String {
    let mut text = String::from(
        "# Settings of sdl.service. They are read when it starts: systemctl restart sdl. For sdl@NAME.service they stand in\n\
         # NAME.env beside this file. Readable by root and the group sdl; an upgrade of the package leaves it as it is.\n\
         #\n\
         # A line that begins with `#NAME=` shows a default, or an example where there is none; take the `#` away to set\n\
         # it. `sudo sdl check` says whether they work.\n\
         #\n\
         # Durations carry a unit: 100ms, 25s, 5m, 1h. Sizes may: 512KiB, 8MiB, or plain bytes. `$` is never replaced.\n\
         # Unquoted and 'single-quoted' values are taken as they stand; in \"double quotes\" \\\\ \\\" \\$ and \\n are escapes.\n\
         #\n\
         # MYSQL_PASS and MONGO_URI are better kept apart, readable by root alone, as files of these names in\n\
         # /etc/sdl/sdl.credentials (NAME.credentials): the unit hands them to sdl as systemd credentials.\n\n",
    );
    let settings = example
        .find("# ----")
        .and_then(|start| example.get(start..));
    for line in settings.unwrap_or_default().lines() {
        let is_switched_on = !line.starts_with('#') && line.contains('=');
        match line.strip_prefix('#').filter(|line| *line == SPOOL) {
            Some(spool) => text.push_str(spool),
            None if is_switched_on => {
                text.push('#');
                text.push_str(line);
            }
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}
