//! One setting's text to its value. A reason says what was expected; the found text is put before it by the reader.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use jiff::tz::TimeZone;
use regex::Regex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing_subscriber::EnvFilter;

use super::sources::{Wrong, distance};
use super::{LogFormat, StartFrom, TlsMode};
use crate::position::Flavor;

type Parsed<T> = Result<T, Wrong>;

/// Any text.
pub(super) fn text(text: &str) -> Parsed<String> {
    Ok(text.to_owned())
}

/// A whole number in a range.
pub(super) fn whole<T>(range: RangeInclusive<T>) -> impl FnOnce(&str) -> Parsed<T>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    move |text| match digits(text).and_then(|digits| digits.parse().ok()) {
        Some(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "expected a whole number from {} to {}",
            range.start(),
            range.end()
        )
        .into()),
    }
}

/// The text if it is nothing but digits; `parse` alone would take a sign.
fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

/// A number and what follows it.
fn with_unit(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

/// A duration with its unit, in a range.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl FnOnce(&str) -> Parsed<Duration> {
    move |text| {
        let milliseconds = match with_unit(text) {
            Some((_, "")) => {
                return Err("has no unit: expected one of ms, s, m, h behind the number".into());
            }
            Some((number, "ms")) => Some(number),
            Some((number, "s")) => number.checked_mul(1000),
            Some((number, "m")) => number.checked_mul(60_000),
            Some((number, "h")) => number.checked_mul(3_600_000),
            _ => {
                return Err("expected a whole number and its unit, one of ms, s, m, h".into());
            }
        };
        match milliseconds.map(Duration::from_millis) {
            Some(duration) if range.contains(&duration) => Ok(duration),
            _ => Err(format!(
                "expected a duration from {} to {}",
                duration_text(*range.start()),
                duration_text(*range.end())
            )
            .into()),
        }
    }
}

/// A duration as it is written in a setting.
pub(super) fn duration_text(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, name) in [(3_600_000, "h"), (60_000, "m"), (1000, "s")] {
        if milliseconds > 0 && milliseconds.is_multiple_of(unit) {
            return format!("{}{name}", milliseconds / unit);
        }
    }
    format!("{milliseconds}ms")
}

/// A size in bytes, plain or with a unit, in a range.
pub(super) fn bytes(range: RangeInclusive<usize>) -> impl FnOnce(&str) -> Parsed<usize> {
    move |text| {
        let unit = match with_unit(text) {
            Some((number, unit)) => match unit.to_ascii_lowercase().as_str() {
                "" | "b" => Some((number, 1)),
                "kb" => Some((number, 1000)),
                "mb" => Some((number, 1_000_000)),
                "gb" => Some((number, 1_000_000_000)),
                "kib" => Some((number, 1 << 10)),
                "mib" => Some((number, 1 << 20)),
                "gib" => Some((number, 1 << 30)),
                _ => None,
            },
            None => None,
        };
        let Some((number, unit)) = unit else {
            return Err(
                "expected bytes: a whole number, alone or with KiB, MiB, GiB, KB, MB or GB".into(),
            );
        };
        let size = number
            .checked_mul(unit)
            .and_then(|size| usize::try_from(size).ok());
        match size {
            Some(size) if range.contains(&size) => Ok(size),
            _ => Err(format!(
                "expected a size from {} to {}",
                size_text(*range.start()),
                size_text(*range.end())
            )
            .into()),
        }
    }
}

/// A limit as it is written in a setting; limits are whole KiB.
fn size_text(size: usize) -> String {
    if size.is_multiple_of(1 << 30) {
        format!("{}GiB", size >> 30)
    } else if size.is_multiple_of(1 << 20) {
        format!("{}MiB", size >> 20)
    } else {
        format!("{}KiB", size >> 10)
    }
}

/// One of a few words.
fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Parsed<T> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        format!("expected one of {}", names.join(", ")).into()
    })
}

pub(super) fn flavor(text: &str) -> Parsed<Flavor> {
    Flavor::from_name(text).ok_or_else(|| "expected mysql or mariadb".into())
}

pub(super) fn tls_mode(text: &str) -> Parsed<TlsMode> {
    word(
        text,
        &[
            ("disabled", TlsMode::Disabled),
            ("preferred", TlsMode::Preferred),
            ("required", TlsMode::Required),
            ("verify-ca", TlsMode::VerifyCa),
            ("verify-identity", TlsMode::VerifyIdentity),
        ],
    )
}

pub(super) fn switch(text: &str) -> Parsed<bool> {
    word(text, &[("on", true), ("off", false)])
}

/// `address:port`, or `off`. Only a literal address: which of a name's addresses is listened on must not depend on a resolver.
pub(super) fn metrics_address(text: &str) -> Parsed<Option<SocketAddr>> {
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        "expected address:port with a literal address, as in 127.0.0.1:9750 or [::1]:9750, or off"
            .into()
    })
}

/// An absolute path: a service's working directory is not where its state belongs.
pub(super) fn absolute_path(text: &str) -> Parsed<PathBuf> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("expected an absolute path".into())
    }
}

pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    word(
        text,
        &[("text", LogFormat::Text), ("json", LogFormat::Json)],
    )
}

/// The most that is read of a certificate's file, in bytes: a wrong path such as a device must not fill the memory. A
/// bundle of all public authorities has 200 KiB.
const LARGEST_PEM: u64 = 4 << 20;

/// The path of a file with at least one certificate. Found now, a slip costs a start; found when the connection is made, it
/// would look like a network that is down.
pub(super) fn certificate_file(text: &str) -> Parsed<PathBuf> {
    let content = pem_content(text)?;
    for certificate in CertificateDer::pem_slice_iter(&content) {
        certificate.map_err(|_| "a certificate in the file is damaged")?;
    }
    let found = CertificateDer::pem_slice_iter(&content).count();
    // A certificate in DER is no text.
    if found == 0 && std::str::from_utf8(&content).is_ok() {
        return Err("the file holds no certificate (-----BEGIN CERTIFICATE-----)".into());
    }
    Ok(PathBuf::from(text))
}

/// The path of a file with a private key.
pub(super) fn key_file(text: &str) -> Parsed<PathBuf> {
    let content = pem_content(text)?;
    match PrivateKeyDer::from_pem_slice(&content) {
        Ok(_) => Ok(PathBuf::from(text)),
        Err(_) if std::str::from_utf8(&content).is_err() => Ok(PathBuf::from(text)),
        Err(_) if content.windows(9).any(|window| window == b"ENCRYPTED") => {
            Err("the key in the file has a password: expected one without (openssl pkey -in OLD -out NEW)".into())
        }
        Err(_) => Err("the file holds no private key (-----BEGIN PRIVATE KEY-----)".into()),
    }
}

fn pem_content(path: &str) -> Parsed<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(LARGEST_PEM).read_to_end(&mut content))
        .map_err(|error| format!("the file cannot be read: {error}"))?;
    if content.is_empty() {
        return Err("the file is empty".into());
    }
    Ok(content)
}

pub(super) fn regular_expression(text: &str) -> Parsed<Regex> {
    Regex::new(text).map_err(|error| {
        // The crate's text draws the expression over several lines; the last one says what is wrong.
        let error = error.to_string();
        let last = error.lines().last().unwrap_or_default();
        let reason = last.trim().trim_start_matches("error: ");
        format!("not a regular expression (syntax of the Rust crate regex): {reason}").into()
    })
}

/// The zone of an IANA name. A colon before it, and /etc/localtime, are forms that C programs take.
pub(super) fn time_zone(text: &str) -> Parsed<TimeZone> {
    let name = text.strip_prefix(':').unwrap_or(text);
    if name == "/etc/localtime" {
        return Ok(system_time_zone());
    }
    // Needs no file, so it is right also where the zones are not installed.
    if name.eq_ignore_ascii_case("UTC") {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|_| {
        "not a time zone of this system: expected an IANA name (package tzdata holds them)".into()
    })
}

/// The system's zone, or UTC where it has none.
pub(super) fn system_time_zone() -> TimeZone {
    TimeZone::try_system().unwrap_or(TimeZone::UTC)
}

pub(super) fn start_from(text: &str) -> Parsed<StartFrom> {
    let expected = "expected current, earliest, or a gtid set";
    match text {
        "current" => return Ok(StartFrom::Current),
        "earliest" => return Ok(StartFrom::Earliest),
        _ => {}
    }
    match text.parse() {
        Ok(set) => Ok(StartFrom::Gtid(set)),
        Err(error) => Err(format!("{expected}; {error}").into()),
    }
}

/// The longest source id, in bytes: it stands in every document.
const LONGEST_SOURCE_ID: usize = 256;

pub(super) fn source_id(text: &str) -> Parsed<String> {
    if text.len() > LONGEST_SOURCE_ID {
        return Err(format!("longer than {LONGEST_SOURCE_ID} bytes").into());
    }
    if text.chars().any(char::is_control) {
        return Err("expected a name without control characters".into());
    }
    if text.contains('@') {
        return Err(
            "expected a name without `@`: it stands in every document, so it must not hold a password".into(),
        );
    }
    Ok(text.to_owned())
}

/// Manual: "MongoDB Limits and Thresholds", naming restrictions; those of Windows too, as the server may run there.
pub(super) fn database_name(text: &str) -> Parsed<String> {
    const FORBIDDEN: &str = "/\\. \"$*<>:|?\0";
    /// In bytes.
    const LONGEST: usize = 63;
    if text.len() > LONGEST || text.contains(|character| FORBIDDEN.contains(character)) {
        return Err(format!(
            "expected at most {LONGEST} bytes without space or any of / \\ . \" $ * < > : | ?"
        )
        .into());
    }
    // Case does not set two databases apart.
    if ["admin", "config", "local"].contains(&text.to_ascii_lowercase().as_str()) {
        return Err("MongoDB takes no transactions in admin, config and local".into());
    }
    Ok(text.to_owned())
}

/// The same page; a name begins with a letter or an underscore.
pub(super) fn collection_name(text: &str) -> Parsed<String> {
    let begins = text
        .chars()
        .next()
        .is_some_and(|first| first.is_alphabetic() || first == '_');
    if !begins || text.contains(['$', '\0']) || text.ends_with('.') {
        return Err(
            "expected a collection name: a letter or `_` first, no `$`, no `.` at the end".into(),
        );
    }
    if text.starts_with("system.") || text.contains(".system.") {
        return Err("names with `system.` belong to MongoDB".into());
    }
    Ok(text.to_owned())
}

/// Directives that tracing's filter takes. It takes any word for a module's name, and would then log nothing of the
/// rest, so a word one slip away from a level is refused.
pub(super) fn log_filter(text: &str) -> Parsed<String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| format!("not a filter of tracing: {error}"))?;
    for directive in text.split(',') {
        let directive = directive.trim().to_ascii_lowercase();
        let close = LEVELS
            .into_iter()
            .find(|level| *level != "off" && distance(&directive, level) == 1);
        if let Some(level) = close {
            return Err(format!("`{directive}` is no level: is {level} meant?").into());
        }
    }
    Ok(text.to_owned())
}
