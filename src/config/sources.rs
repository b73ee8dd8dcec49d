//! Finding each setting's text, before any is judged.
//!
//! Per setting the first of these that is there is taken: the environment's `NAME` or (secrets) the file named by
//! `NAME_FILE`; for secrets the file `NAME` in systemd's `$CREDENTIALS_DIRECTORY` (systemd.exec, "CREDENTIALS"); the settings
//! file, again `NAME` or `NAME_FILE`. `NAME` and `NAME_FILE` at one place are a mistake: one of them would be ignored in
//! silence. Line ends behind a file's content are dropped, as editors and `echo` leave one.
//!
//! The settings file is the one that `--env-file` names; else `.env` in the working directory; else the service's own,
//! [`SERVICE_FILE`], where it can be read: so an administrator's `sdl status` sees what the service sees. For the same reason the
//! credentials of a file `NAME.env` are looked for in the directory `NAME.credentials` beside it where systemd gave none.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::dotenv::{self, Dotenv};
use super::mistakes::{ConfigErrors, Mistake};
use super::settings::{DefaultValue, SETTINGS, Setting, find};

/// The most that is read of a secret's file, in bytes: a wrong path such as a device must not fill the memory.
const LARGEST_SECRET: u64 = 64 * 1024;

/// The settings of the service that the package installs.
pub(super) const SERVICE_FILE: &str = "/etc/sdl/sdl.env";

/// How much of a wrong value a message repeats, in characters.
const SHOWN_CHARACTERS: usize = 80;

/// Where settings are looked for. It has no `Debug` form, since it holds passwords as they came.
#[derive(Clone, Default)]
pub struct Sources {
    environment: BTreeMap<String, OsString>,
    dotenv: Dotenv,
    /// The settings file that was read.
    file: Option<PathBuf>,
    /// That this user may not read the service's file: told where something is missing.
    refused: Option<Mistake>,
}

impl Sources {
    /// This process's environment and a settings file: `file`, which must be there; without one `.env`, or the service's.
    #[must_use]
    pub fn from_process(file: Option<&Path>) -> Self {
        // A name that is not UTF-8 is no setting's name.
        let named =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let sources = Self::from_environment(named);
        if let Some(file) = file {
            let mut sources = sources.with_dotenv(file);
            if sources.file.is_none() {
                let reason = "--env-file names it, and it is not there".to_owned();
                sources.dotenv.mistakes.push(dotenv::mistake(file, reason));
            }
            return sources;
        }
        let sources = sources.with_dotenv(Path::new(".env"));
        match sources.file {
            Some(_) => sources,
            None => sources.with_service_file(Path::new(SERVICE_FILE)),
        }
    }

    /// The same, and what the service's file adds, if there is one that this user may read.
    fn with_service_file(mut self, path: &Path) -> Self {
        match fs::File::open(path) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let reason = "holds the service's settings, and this user may not read it: run sdl as root, or as the user sdl"
                    .to_owned();
                self.refused = Some(dotenv::mistake(path, reason));
                self
            }
            _ => self.with_dotenv(path),
        }
    }

    /// The settings file that was read.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The names of the settings that are something else in `other`.
    #[must_use]
    pub fn changed(&self, other: &Self) -> Vec<&'static str> {
        let differs = |setting: &&Setting| self.look_up(setting) != other.look_up(setting);
        let changed = SETTINGS.iter().filter(differs);
        changed.map(|setting| setting.name).collect()
    }

    /// These variables and nothing else; `CREDENTIALS_DIRECTORY` among them is followed.
    pub fn from_environment<N, V>(variables: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<String>,
        V: Into<OsString>,
    {
        Self {
            environment: variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            ..Self::default()
        }
    }

    /// The same, and what the file at `path` adds; the environment wins. No such file is fine.
    #[must_use]
    pub fn with_dotenv(mut self, path: &Path) -> Self {
        let read = dotenv::read(path);
        self.file = read.is_some().then(|| path.to_owned());
        self.dotenv = read.unwrap_or_default();
        self
    }

    /// A setting's text, or why it cannot be had; `None` where it is not given.
    fn look_up(&self, setting: &Setting) -> Option<Result<String, String>> {
        let environment = |name: &str| {
            let value = self
                .environment
                .get(name)
                .filter(|value| !value.is_empty())?;
            Some(value.to_str().map(ToOwned::to_owned).ok_or(()))
        };
        let dotenv = |name: &str| {
            let value = self.dotenv.values.get(name)?;
            (!value.is_empty()).then(|| Ok(value.clone()))
        };
        place(setting, &environment)
            .or_else(|| self.credential(setting))
            .or_else(|| place(setting, &dotenv))
    }

    /// Systemd's credentials directory; outside a service the one beside the settings file.
    fn credentials(&self) -> Option<PathBuf> {
        match self.environment.get("CREDENTIALS_DIRECTORY") {
            Some(directory) if !directory.is_empty() => Some(PathBuf::from(directory)),
            _ => {
                let file = self.file.as_deref()?;
                (file.extension()? == "env").then(|| file.with_extension("credentials"))
            }
        }
    }

    /// The files that may hold secrets: the settings file, those that it or the environment names, the credentials.
    pub(super) fn secret_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.file.iter().cloned().collect();
        for setting in SETTINGS.iter().filter(|setting| setting.secret) {
            let name = format!("{}_FILE", setting.name);
            files.extend(self.environment.get(&name).map(PathBuf::from));
            files.extend(self.dotenv.values.get(&name).map(PathBuf::from));
            files.extend(self.credentials().map(|path| path.join(setting.name)));
        }
        files
    }

    /// The content of a secret in the credentials directory.
    fn credential(&self, setting: &Setting) -> Option<Result<String, String>> {
        let path = self
            .credentials()
            .filter(|_| setting.secret)?
            .join(setting.name);
        match read_secret(&path) {
            Ok(content) if content.is_empty() => None,
            Ok(content) => Some(Ok(content)),
            Err((ErrorKind::NotFound, _)) => None,
            Err((_, reason)) => Some(Err(format!("the credential {} {reason}", path.display()))),
        }
    }

    /// Every name that is given, for the search for misspelt ones.
    fn names(&self) -> impl Iterator<Item = &String> {
        self.environment.keys().chain(self.dotenv.values.keys())
    }
}

/// Looks for `NAME` and `NAME_FILE` at one place.
fn place(
    setting: &Setting,
    get: &dyn Fn(&str) -> Option<Result<String, ()>>,
) -> Option<Result<String, String>> {
    let not_utf8 = |()| "is not UTF-8".to_owned();
    let name = setting.name;
    let direct = get(name).map(|value| value.map_err(not_utf8));
    if !setting.secret {
        return direct;
    }
    match (direct, get(&format!("{name}_FILE"))) {
        (direct, None) => direct,
        (Some(_), Some(_)) => Some(Err(format!(
            "is given twice, as {name} and as {name}_FILE: expected one of them"
        ))),
        (None, Some(path)) => Some(path.map_err(not_utf8).and_then(|path| {
            let prefix = format!("{name}_FILE names {path}, which");
            match read_secret(Path::new(&path)) {
                Ok(content) if content.is_empty() => Err(format!("{prefix} is empty")),
                Ok(content) => Ok(content),
                Err((_, reason)) => Err(format!("{prefix} {reason}")),
            }
        })),
    }
}

/// A secret's file without the line ends behind it. The error never holds content.
fn read_secret(path: &Path) -> Result<String, (ErrorKind, String)> {
    let unreadable = |error: std::io::Error| (error.kind(), format!("cannot be read: {error}"));
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut content = Vec::new();
    file.take(LARGEST_SECRET + 1)
        .read_to_end(&mut content)
        .map_err(unreadable)?;
    if content.len() as u64 > LARGEST_SECRET {
        let reason = format!("is larger than {LARGEST_SECRET} bytes");
        return Err((ErrorKind::InvalidData, reason));
    }
    let content = String::from_utf8(content)
        .map_err(|_| (ErrorKind::InvalidData, "is not UTF-8".to_owned()))?;
    Ok(content.trim_end_matches(['\r', '\n']).to_owned())
}

/// Judges one setting after the other and keeps every mistake. All texts are read when it is made.
pub(super) struct Reader<'a> {
    sources: &'a Sources,
    given: BTreeMap<&'static str, Result<String, String>>,
    mistakes: Vec<Mistake>,
}

impl<'a> Reader<'a> {
    pub(super) fn read(sources: &'a Sources) -> Self {
        let given = SETTINGS.iter().filter_map(|setting| {
            let value = sources.look_up(setting)?;
            Some((setting.name, value))
        });
        Self {
            sources,
            given: given.collect(),
            mistakes: Vec::new(),
        }
    }

    /// Whether somebody gave it, right or wrong.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The value of a setting that always has one: the given text or the table's default, parsed. `None` means that a
    /// mistake was noted.
    pub(super) fn take<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let default = find(name).map(|setting| setting.default);
        match (self.take_optional(name, parse)?, default) {
            (Some(value), _) => Some(value),
            (None, Some(DefaultValue::Required)) => {
                self.refuse(name, "is not set".to_owned());
                None
            }
            (None, _) => {
                // Only a slip in the table leads here, and a test takes every setting of it.
                self.refuse(name, "has no default".to_owned());
                None
            }
        }
    }

    /// The value of a setting that may be absent. `None` means that a mistake was noted.
    pub(super) fn take_optional<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<Option<T>> {
        let setting = find(name);
        let secret = setting.is_none_or(|setting| setting.secret);
        let text = match self.given.get(name) {
            Some(Ok(text)) => text.as_str(),
            Some(Err(reason)) => {
                let reason = reason.clone();
                self.refuse(name, reason);
                return None;
            }
            None => match setting.map(|setting| setting.default) {
                Some(DefaultValue::Text(text)) => text,
                _ => return Some(None),
            },
        };
        match parse(text) {
            Ok(value) => Some(Some(value)),
            Err(Wrong(reason)) => {
                let reason = if secret {
                    reason
                } else {
                    format!("{}: {reason}", shown(text))
                };
                self.refuse(name, reason);
                None
            }
        }
    }

    /// Notes a mistake.
    pub(super) fn refuse(&mut self, name: &'static str, reason: String) {
        let example = find(name).map_or("", |setting| setting.example);
        self.mistakes.push(Mistake {
            name: name.to_owned(),
            reason,
            example: format!("{name}={example}"),
        });
    }

    /// All mistakes: those of `.env` first, since they may be why a setting is missing, then by the table's order.
    pub(super) fn into_errors(self) -> Option<ConfigErrors> {
        let order = |mistake: &Mistake| {
            SETTINGS
                .iter()
                .position(|setting| setting.name == mistake.name)
        };
        let mut mistakes = self.mistakes;
        mistakes.sort_by_key(order);
        let of_the_file = self.sources.dotenv.mistakes.iter();
        let refused = self.sources.refused.iter().filter(|_| !mistakes.is_empty());
        let first: Vec<_> = of_the_file.chain(refused).cloned().collect();
        mistakes.splice(0..0, first);
        (!mistakes.is_empty()).then(|| ConfigErrors::new(mistakes))
    }

    /// What a misspelt name looks like: no setting, but close to one.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut names: Vec<_> = self.sources.names().collect();
        names.sort();
        names.dedup();
        let similar = names
            .into_iter()
            .filter_map(|name| Some((name, similar_setting(name)?)));
        similar
            .map(|(name, meant)| format!("{name} is no setting: is {meant} meant?"))
            .collect()
    }
}

/// Why a text is not a value of its setting. It must not repeat the text of a secret; that of others is put before it.
pub(super) struct Wrong(pub(super) String);

impl<T: Into<String>> From<T> for Wrong {
    fn from(reason: T) -> Self {
        Self(reason.into())
    }
}

/// A wrong value as a message repeats it. One with an `@` may be `user:password@host` at the wrong place.
fn shown(text: &str) -> String {
    if text.contains('@') {
        return "a value with an `@` (not shown, it may hold a password)".to_owned();
    }
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("`{}…`", text[..end].escape_debug()),
        None => format!("`{}`", text.escape_debug()),
    }
}

/// The longest way, in single edits, from a misspelt name to the one that was meant.
const TYPO_EDITS: usize = 2;

/// Names shorter than this have too many neighbours that mean something else.
const SHORTEST_COMPARED: usize = 8;

/// The setting that an unknown name is probably meant to be.
fn similar_setting(name: &str) -> Option<String> {
    let known = |name: &str| {
        find(name).is_some()
            || name
                .strip_suffix("_FILE")
                .is_some_and(|base| find(base).is_some_and(|setting| setting.secret))
    };
    if known(name) {
        return None;
    }
    let upper = name.to_ascii_uppercase();
    if known(&upper) {
        return Some(upper);
    }
    let secret_files = SETTINGS
        .iter()
        .filter(|setting| setting.secret)
        .map(|setting| format!("{}_FILE", setting.name));
    SETTINGS
        .iter()
        .map(|setting| setting.name.to_owned())
        .chain(secret_files)
        // RUST_LOG belongs to other programs too, and so do its neighbours.
        .filter(|known| known.len() >= SHORTEST_COMPARED && known != "RUST_LOG")
        .map(|known| {
            // MYSQL_PASSWORD, MYSQL_USERNAME: more than two letters away, but plain enough.
            let longer = upper.strip_prefix(known.as_str()).is_some();
            let edits = if longer {
                TYPO_EDITS
            } else {
                distance(&upper, &known)
            };
            (edits, known)
        })
        .filter(|(edits, _)| *edits <= TYPO_EDITS)
        .min_by_key(|(edits, known)| (*edits, usize::MAX - known.len()))
        .map(|(_, known)| known)
}

/// The edit distance of two names: letters put in, left out, replaced, or two neighbours swapped.
pub(super) fn distance(one: &str, two: &str) -> usize {
    let (one, two) = (one.as_bytes(), two.as_bytes());
    let width = two.len() + 1;
    let mut rows: Vec<Vec<usize>> = vec![(0..width).collect()];
    for (i, byte) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, other) in two.iter().enumerate() {
            let mut edits = (rows[i][j] + usize::from(byte != other))
                .min(rows[i][j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *byte == two[j - 1] && one[i - 1] == *other {
                edits = edits.min(rows[i - 1][j - 1] + 1);
            }
            row.push(edits);
        }
        rows.push(row);
    }
    rows[one.len()][two.len()]
}
