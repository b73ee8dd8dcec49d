//! Who may name whom: the structure that docs/architecture.md promises, read from the sources themselves.

use std::path::{Path, PathBuf};

/// Modules that are values: they know no I/O and nothing of the modules that do it.
const VALUES: &[&str] = &[
    "batch",
    "bson_writer",
    "error",
    "event",
    "finding",
    "hex",
    "large_value",
    "offset",
    "position",
];

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Every source file with its first module's name and its code, comments left out.
fn modules() -> Vec<(PathBuf, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&root);
    assert!(files.len() > 20, "found only {} source files", files.len());
    files
        .into_iter()
        .map(|path| {
            let inside = path.strip_prefix(&root).unwrap().to_owned();
            let first = inside.components().next().unwrap();
            let name = Path::new(&first)
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let code = std::fs::read_to_string(&path).unwrap();
            let code: Vec<&str> = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            (inside, name, code.join("\n"))
        })
        .collect()
}

fn assert_nowhere_but(needles: &[&str], allowed: &[&str]) {
    for (path, module, code) in modules() {
        for needle in needles {
            assert!(
                allowed.contains(&module.as_str()) || !code.contains(needle),
                "{} names `{needle}`, which only {allowed:?} may",
                path.display()
            );
        }
    }
}

#[test]
fn only_the_source_names_the_mysql_driver() {
    assert_nowhere_but(&["mysql_async::", "mysql_common::"], &["source"]);
}

#[test]
fn only_the_store_names_the_mongodb_driver() {
    assert_nowhere_but(&["mongodb::", "use mongodb"], &["store"]);
}

#[test]
fn values_know_no_input_and_output() {
    for (path, module, code) in modules() {
        if VALUES.contains(&module.as_str()) {
            for needle in [
                "tokio",
                "std::fs",
                "std::net",
                "crate::source",
                "crate::store",
                "crate::run",
            ] {
                assert!(
                    !code.contains(needle),
                    "{} is a value and names `{needle}`",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn source_and_store_do_not_know_each_other() {
    for (path, module, code) in modules() {
        let other = match module.as_str() {
            "source" => "crate::store",
            "store" => "crate::source",
            _ => continue,
        };
        assert!(!code.contains(other), "{} names {other}", path.display());
    }
}

#[test]
fn only_the_binary_and_its_commands_name_run() {
    assert_nowhere_but(&["crate::run", "sdl::run"], &["main", "commands"]);
}

#[test]
fn no_file_is_longer_than_800_lines() {
    for (path, _, _) in modules() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src")
            .join(&path);
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        assert!(
            lines <= 800,
            "{} has {lines} lines: what second thing does it do?",
            path.display()
        );
    }
}
