//! This host: the spool's place, the port of METRICS_ADDR, open files, and who may read the secrets.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};
use rustix::process::{Resource, getrlimit};

use crate::commands::daemon::{self, Answer};
use crate::config::{Config, SpoolSettings};
use crate::finding::{Finding, Group, size};
use crate::store::Spool;

/// systemd gives a service 1024 unless it is told otherwise; sdl needs some dozens.
const OPEN_FILES: u64 = 256;

pub(super) async fn look(config: &Config) -> Group {
    let mut findings = Vec::new();
    match &config.spool {
        Some(settings) => spool(settings, &config.source_id, &mut findings),
        None => findings.push(Finding::ok(
            "spool",
            "none: while MongoDB is away, sdl stops reading and the binlog keeps what comes (SPOOL_DIR)",
        )),
    }
    findings.push(open_files());
    findings.push(metrics(config).await);
    findings.extend(secrets(config));
    Group {
        name: "host",
        server: Some(crate::host::name()),
        findings,
    }
}

/// Whether the spool can be written and may become as large as it is allowed to. Nothing is made: who checks may be somebody else than
/// the daemon.
fn spool(settings: &SpoolSettings, source_id: &str, findings: &mut Vec<Finding>) {
    let directory = &settings.directory;
    // It is made at a start, with what is missing above it.
    let Some(there) = directory.ancestors().find(|path| path.exists()) else {
        findings.push(Finding::fail(
            "spool",
            format!("{} is nowhere", directory.display()),
        ));
        return;
    };
    let remedy = format!(
        "install -d -m 0700 -o USER -g USER {}, with USER that sdl runs as",
        directory.display()
    );
    let may_write = there.is_dir() && access(there, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    let user = rustix::process::geteuid().as_raw();
    findings.push(match (may_write, there == directory) {
        (true, true) => Finding::ok("spool", format!("{} can be written", directory.display())),
        (true, false) => Finding::ok(
            "spool",
            format!("{} is made at the next start", directory.display()),
        ),
        (false, _) => Finding::fail(
            "spool",
            format!(
                "{} cannot be written by user {user}, who runs this",
                there.display()
            ),
        )
        .expected("a directory of sdl's user; run this as that user")
        .remedy(remedy),
    });
    let Ok(disk) = statvfs(there) else {
        findings.push(Finding::skipped(
            "spool_disk",
            "its file system does not say what is free",
        ));
        return;
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let used = Spool::bytes_of(directory, source_id);
    let room = free.saturating_add(used);
    let found = format!(
        "{} free, {} used by the spool, SPOOL_MAX_BYTES {}",
        size(free),
        size(used),
        size(settings.max_bytes)
    );
    findings.push(match room < settings.max_bytes {
        false => Finding::ok("spool_disk", found),
        true => Finding::warn("spool_disk", found)
            .expected("room for the whole spool: it takes nothing more when the disk is full")
            .remedy(format!(
                "SPOOL_MAX_BYTES={}, or a larger disk for {}",
                room / 10 * 9,
                directory.display()
            )),
    });
}

fn open_files() -> Finding {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < OPEN_FILES => {
            Finding::warn("open_files", format!("{limit} at most"))
                .expected(format!(
                    "{OPEN_FILES} at least, for connections and certificates"
                ))
                .remedy("LimitNOFILE=1024 in the unit, or: ulimit -n 1024")
        }
        Some(limit) => Finding::ok("open_files", format!("{limit} at most")),
        None => Finding::ok("open_files", "no limit"),
    }
}

/// Whether METRICS_ADDR is sdl's, or can be.
async fn metrics(config: &Config) -> Finding {
    const CHECK: &str = "metrics_addr";
    let Some(address) = config.metrics_address else {
        return Finding::ok(CHECK, "off: nothing is served");
    };
    if address.port() == 0 {
        return Finding::ok(CHECK, format!("{address}: any free port"));
    }
    let remedy = "METRICS_ADDR=ADDRESS:PORT with a port that nobody has, or METRICS_ADDR=off";
    match daemon::ask(address).await {
        Answer::Daemon(ready) => {
            let source = ready["source"].as_str().unwrap_or("unknown");
            let status = ready["status"].as_str().unwrap_or("unknown");
            match source == config.source_id {
                true => Finding::ok(
                    CHECK,
                    format!("{address}: a running sdl serves it, {status}"),
                ),
                false => Finding::warn(CHECK, format!("{address}: an sdl of {source} has it"))
                    .expected("a port of its own for each source")
                    .remedy(remedy),
            }
        }
        Answer::Other(what) => Finding::warn(CHECK, format!("{address}: {what}"))
            .expected("a free port; the daemon goes on without metrics")
            .remedy(remedy),
        Answer::Nobody(_) => may_bind(address, remedy),
    }
}

fn may_bind(address: SocketAddr, remedy: &str) -> Finding {
    const CHECK: &str = "metrics_addr";
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok(CHECK, format!("{address} is free; no daemon answers there")),
        Err(error) => Finding::warn(CHECK, format!("{address}: {error}"))
            .expected("an address of this host; the daemon goes on without metrics")
            .remedy(remedy),
    }
}

/// The files that may hold secrets, and who may read them besides their owner and group.
fn secrets(config: &Config) -> Vec<Finding> {
    let mut files: Vec<PathBuf> = config.secret_files.clone();
    if let Some(client) = &config.mysql_tls.client {
        files.push(client.key.clone());
    }
    let mut findings: Vec<Finding> = files.iter().filter_map(|path| exposed(path)).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(
            "secrets",
            "no file with a secret is readable by everybody",
        ));
    }
    findings
}

fn exposed(path: &Path) -> Option<Finding> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    if mode & 0o007 == 0 {
        return None;
    }
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    Some(
        Finding::warn(
            "secrets",
            format!("{} has mode {:04o}", path.display(), mode & 0o7777),
        )
        .expected("readable by sdl's user and group only: it may hold a password")
        .remedy(format!("chmod o= {}", path.display())),
    )
}
