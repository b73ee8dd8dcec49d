//! deploy/alerts.yml and deploy/grafana.json: the rules fire when they should and not a moment before, and whatever they name is there.
//!
//! Each rule has a case in which it fires and one just short of it, played through Prometheus' own evaluation (`promtool test rules`).
//! Every case says all alerts that fire in it, so one that fires where it should not is found too. What the daemon serves is asked of a
//! running one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;
use serde_json::{Value, json};

use crate::common::servers::Scratch;
use crate::common::{Daemon, Mongod, Mysqld, Settings};
use crate::health::page;

const JOB: &str = r#"job="sdl",instance="a:9750""#;

/// A daemon that has been doing well for a day, scraped each minute for an hour. The time of these tests begins at 0.
const WELL: &[(&str, &str)] = &[
    ("up{}", "1x60"),
    (r#"sdl_build_info{source="s",version="1"}"#, "1x60"),
    (r#"sdl_health{status="healthy"}"#, "1x60"),
    (r#"sdl_health{status="unhealthy"}"#, "0x60"),
    (r#"sdl_role{role="active"}"#, "1x60"),
    (r#"sdl_role{role="standby"}"#, "0x60"),
    ("process_start_time_seconds{}", "-86400x60"),
    ("sdl_recovered_batches{}", "0x60"),
    ("sdl_lag_seconds{}", "1x60"),
    ("sdl_offset_updated_timestamp_seconds{}", "0+60x60"),
    ("sdl_source_connected{}", "1x60"),
    ("sdl_staging_pending_batches{}", "5x60"),
    (r#"sdl_breaker_state{state="closed"}"#, "1x60"),
    ("sdl_store_failures_total{}", "0x60"),
    ("sdl_committed_batches_total{}", "0+600x60"),
    ("sdl_spool_bytes{}", "0x60"),
    ("sdl_spool_limit_bytes{}", "1000x60"),
    ("sdl_spool_refusing{}", "0x60"),
    ("sdl_purge_headroom_ratio{}", "1x60"),
    (r#"sdl_log_messages_total{level="error"}"#, "7x60"),
    ("sdl_opaque_events_total{}", "3x60"),
];

/// What is different from [`WELL`] in a case, when it is looked at, and every alert that fires then.
struct Case {
    about: &'static str,
    differs: &'static [(&'static str, &'static str)],
    minute: u32,
    fires: &'static [&'static str],
}

const fn case(
    about: &'static str,
    differs: &'static [(&'static str, &'static str)],
    minute: u32,
    fires: &'static [&'static str],
) -> Case {
    Case {
        about,
        differs,
        minute,
        fires,
    }
}

/// Another daemon that serves the same source.
const B: &str = r#"job="sdl",instance="b:9750""#;

const CASES: &[Case] = &[
    case("SdlDown", &[("up{}", "1x9 0x50")], 11, &["SdlDown"]),
    case("SdlDown", &[("up{}", "1x9 0 1x50")], 11, &[]),
    case(
        "SdlNobodyRecords",
        &[(r#"sdl_role{role="active"}"#, "1x9 0x50")],
        12,
        &["SdlNobodyRecords"],
    ),
    case(
        "SdlNobodyRecords",
        &[(r#"sdl_role{role="active"}"#, "1x9 0 1x50")],
        12,
        &[],
    ),
    case(
        "SdlNotReady",
        &[(r#"sdl_health{status="unhealthy"}"#, "0x9 1x50")],
        11,
        &["SdlNotReady"],
    ),
    case(
        "SdlNotReady",
        &[(r#"sdl_health{status="unhealthy"}"#, "0x9 1 0x50")],
        11,
        &[],
    ),
    case(
        "SdlRestarting",
        &[("process_start_time_seconds{}", "0x9 600 660 720x40")],
        20,
        &["SdlRestarting"],
    ),
    case(
        "SdlRestarting",
        &[("process_start_time_seconds{}", "0x9 600 660x50")],
        20,
        &[],
    ),
    case(
        "SdlShutdownFlushFailed",
        &[
            ("process_start_time_seconds{}", "-86400x9 600x50"),
            ("sdl_recovered_batches{}", "0x9 2x50"),
        ],
        15,
        &["SdlShutdownFlushFailed"],
    ),
    case(
        "SdlShutdownFlushFailed",
        &[("process_start_time_seconds{}", "-86400x9 600x50")],
        15,
        &[],
    ),
    case(
        "SdlLagElevated",
        &[("sdl_lag_seconds{}", "31x60")],
        30,
        &["SdlLagElevated"],
    ),
    case("SdlLagElevated", &[("sdl_lag_seconds{}", "30x60")], 30, &[]),
    case(
        "SdlLagHigh",
        &[("sdl_lag_seconds{}", "301x60")],
        30,
        &["SdlLagElevated", "SdlLagHigh"],
    ),
    case(
        "SdlLagHigh",
        &[("sdl_lag_seconds{}", "300x60")],
        30,
        &["SdlLagElevated"],
    ),
    case(
        "SdlLagCritical",
        &[("sdl_lag_seconds{}", "1801x60")],
        30,
        &["SdlLagElevated", "SdlLagHigh", "SdlLagCritical"],
    ),
    case(
        "SdlLagCritical",
        &[("sdl_lag_seconds{}", "1800x60")],
        30,
        &["SdlLagElevated", "SdlLagHigh"],
    ),
    case(
        "SdlOffsetStalled",
        &[("sdl_offset_updated_timestamp_seconds{}", "0x60")],
        6,
        &["SdlOffsetStalled"],
    ),
    case(
        "SdlOffsetStalled",
        &[("sdl_offset_updated_timestamp_seconds{}", "0x60")],
        5,
        &[],
    ),
    case(
        "SdlOffsetStuck",
        &[("sdl_offset_updated_timestamp_seconds{}", "0x60")],
        16,
        &["SdlOffsetStalled", "SdlOffsetStuck"],
    ),
    case(
        "SdlOffsetStuck: a standby writes none",
        &[
            ("sdl_offset_updated_timestamp_seconds{}", "0x60"),
            (r#"sdl_role{role="active"}"#, "0x60"),
            (r#"sdl_role{role="standby"}"#, "1x60"),
            (r#"sdl_role{role="active",instance="b:9750"}"#, "1x60"),
            (r#"sdl_build_info{source="s",instance="b:9750"}"#, "1x60"),
        ],
        16,
        &[],
    ),
    case(
        "SdlSourceDisconnected",
        &[("sdl_source_connected{}", "1x9 0x50")],
        12,
        &["SdlSourceDisconnected"],
    ),
    case(
        "SdlSourceDisconnected",
        &[("sdl_source_connected{}", "1x9 0 0 1x50")],
        12,
        &[],
    ),
    case(
        "SdlStagingBacklog",
        &[("sdl_staging_pending_batches{}", "101x60")],
        10,
        &["SdlStagingBacklog"],
    ),
    case(
        "SdlStagingBacklog",
        &[("sdl_staging_pending_batches{}", "100x60")],
        10,
        &[],
    ),
    case(
        "SdlStagingOverflowing",
        &[("sdl_staging_pending_batches{}", "1001x60")],
        10,
        &["SdlStagingBacklog", "SdlStagingOverflowing"],
    ),
    case(
        "SdlStagingOverflowing",
        &[("sdl_staging_pending_batches{}", "1000x60")],
        10,
        &["SdlStagingBacklog"],
    ),
    case(
        "SdlBreakerOpen",
        &[(r#"sdl_breaker_state{state="closed"}"#, "1x9 0x50")],
        11,
        &["SdlBreakerOpen"],
    ),
    case(
        "SdlBreakerOpen",
        &[(r#"sdl_breaker_state{state="closed"}"#, "1x9 0 1x50")],
        11,
        &[],
    ),
    case(
        "SdlStoreFailing: more than one in a hundred batches",
        &[("sdl_store_failures_total{}", "0+7x60")],
        30,
        &["SdlStoreFailing"],
    ),
    case(
        "SdlStoreFailing",
        &[("sdl_store_failures_total{}", "0+5x60")],
        30,
        &[],
    ),
    case(
        "SdlStoreFailing: nothing is committed",
        &[
            ("sdl_store_failures_total{}", "0+1x60"),
            ("sdl_committed_batches_total{}", "0x60"),
        ],
        30,
        &["SdlStoreFailing"],
    ),
    case(
        "SdlSpoolFilling",
        &[("sdl_spool_bytes{}", "801x60")],
        10,
        &["SdlSpoolFilling"],
    ),
    case(
        "SdlSpoolFilling",
        &[("sdl_spool_bytes{}", "800x60")],
        10,
        &[],
    ),
    case(
        "SdlSpoolRefusing",
        &[("sdl_spool_refusing{}", "0x9 1x50")],
        11,
        &["SdlSpoolRefusing"],
    ),
    case(
        "SdlSpoolRefusing",
        &[("sdl_spool_refusing{}", "0x9 1 0x50")],
        11,
        &[],
    ),
    case(
        "SdlPurgeHeadroomLow",
        &[("sdl_purge_headroom_ratio{}", "0.49x60")],
        10,
        &["SdlPurgeHeadroomLow"],
    ),
    case(
        "SdlPurgeHeadroomLow",
        &[("sdl_purge_headroom_ratio{}", "0.5x60")],
        10,
        &[],
    ),
    case(
        "SdlPurgeHeadroomCritical",
        &[("sdl_purge_headroom_ratio{}", "0.09x60")],
        10,
        &["SdlPurgeHeadroomLow", "SdlPurgeHeadroomCritical"],
    ),
    case(
        "SdlPurgeHeadroomCritical",
        &[("sdl_purge_headroom_ratio{}", "0.1x60")],
        10,
        &["SdlPurgeHeadroomLow"],
    ),
    case(
        "SdlErrorRate",
        &[(r#"sdl_log_messages_total{level="error"}"#, "7x8 8x50")],
        11,
        &["SdlErrorRate"],
    ),
    case(
        "SdlErrorRate: warnings are none",
        &[(r#"sdl_log_messages_total{level="warn"}"#, "7+1x60")],
        11,
        &[],
    ),
    case(
        "SdlOpaqueEvents",
        &[("sdl_opaque_events_total{}", "3x9 4x50")],
        15,
        &["SdlOpaqueEvents"],
    ),
    case(
        "SdlOpaqueEvents: those of long ago",
        &[("sdl_opaque_events_total{}", "3x60")],
        15,
        &[],
    ),
    case(
        "SdlStandbyMissing",
        &[
            (r#"up{instance="b:9750"}"#, "1x9 0x50"),
            (r#"sdl_role{role="standby",instance="b:9750"}"#, "1x9 _x50"),
            (
                r#"sdl_build_info{source="s",instance="b:9750"}"#,
                "1x9 _x50",
            ),
        ],
        40,
        &["SdlDown", "SdlStandbyMissing"],
    ),
    case(
        "SdlStandbyMissing: one is left",
        &[
            (r#"sdl_role{role="standby",instance="b:9750"}"#, "1x60"),
            (r#"sdl_build_info{source="s",instance="b:9750"}"#, "1x60"),
        ],
        40,
        &[],
    ),
];

fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(repository(name)).unwrap()
}

/// Runs promtool; what it printed, where it was not content.
fn promtool(arguments: &[&Path]) {
    let program = std::env::var_os("SDL_PROMTOOL").filter(|path| !path.is_empty());
    let program = program.unwrap_or_else(|| "promtool".into());
    let output = Command::new(&program)
        .args(arguments)
        .output()
        .expect("promtool, which tests/servers.sh --promtool fetches");
    let printed = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&printed)
    );
}

fn alerts() -> BTreeSet<String> {
    let name = Regex::new(r"(?m)^ +- alert: (\w+)$").unwrap();
    let rules = read("deploy/alerts.yml");
    name.captures_iter(&rules)
        .map(|found| found[1].to_owned())
        .collect()
}

/// With the labels that Prometheus adds to what it scrapes; a case may name another instance.
fn scraped(series: &str) -> String {
    let whom = match series.contains(r#"instance="b:9750""#) {
        true => B,
        false => JOB,
    };
    let series = series.replace(r#",instance="b:9750""#, "");
    let series = series.replace(r#"instance="b:9750""#, "");
    match series.strip_suffix("{}") {
        Some(name) => format!("{name}{{{whom}}}"),
        None => series
            .replace('{', &format!("{{{whom},"))
            .replace(",}", "}"),
    }
}

/// The case as promtool reads it.
fn played(case: &Case) -> Value {
    let mut series: BTreeMap<String, &str> = BTreeMap::new();
    for (name, values) in WELL.iter().chain(case.differs) {
        series.insert(scraped(name), values);
    }
    let series: Vec<Value> = series
        .iter()
        .map(|(series, values)| json!({ "series": series, "values": values }))
        .collect();
    let fires: Vec<Value> = case
        .fires
        .iter()
        .map(|alert| json!({ "labels": format!(r#"{{alertname="{alert}"}}"#), "value": 1 }))
        .collect();
    json!({
        "name": case.about,
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [{
            "expr": r#"count by (alertname) (ALERTS{alertstate="firing"})"#,
            "eval_time": format!("{}m", case.minute),
            "exp_samples": fires,
        }],
    })
}

#[test]
fn each_alert_fires_when_it_should_and_not_just_before() {
    let rules = repository("deploy/alerts.yml");
    promtool(&[Path::new("check"), Path::new("rules"), &rules]);
    for alert in alerts() {
        let of_it: Vec<&Case> = CASES
            .iter()
            .filter(|case| case.about.split(':').next() == Some(alert.as_str()))
            .collect();
        let fires = |case: &&&Case| case.fires.contains(&alert.as_str());
        assert!(of_it.iter().any(|case| fires(&case)), "{alert} never fires");
        assert!(
            of_it.iter().any(|case| !fires(&case)),
            "{alert} has no quiet case"
        );
    }
    let well = case("all is well", &[], 59, &[]);
    let tests: Vec<Value> = CASES.iter().chain([&well]).map(played).collect();
    let file = json!({ "rule_files": [rules], "evaluation_interval": "1m", "tests": tests });
    let scratch = Scratch::new("alerts");
    let path = scratch.path().join("cases.yml");
    std::fs::write(&path, file.to_string()).unwrap();
    promtool(&[Path::new("test"), Path::new("rules"), &path]);
}

#[test]
fn each_alert_has_its_paragraph_and_each_paragraph_its_alert() {
    let heading = Regex::new(r"(?m)^#+ (Sdl\w+)$").unwrap();
    let guide = read("docs/operations.md");
    let described: BTreeSet<String> = heading
        .captures_iter(&guide)
        .map(|found| found[1].to_owned())
        .collect();
    assert_eq!(alerts(), described);
}

/// The expressions of every panel of the dashboard.
fn dashboard_expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if matches!(name.as_str(), "expr") => {
                        found.push(text.clone());
                    }
                    value => dashboard_expressions(value, found),
                }
            }
        }
        Value::Array(values) => values
            .iter()
            .for_each(|value| dashboard_expressions(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_rules_and_the_dashboard_name_only_what_is_served() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    let spool = Scratch::new("spool");
    let settings = Settings::new(&mysqld, mongod).set("SPOOL_DIR", spool.path().display());
    let daemon = Daemon::start(&settings);
    let address = page::address(&daemon).await;
    // The binlogs and the pings are measured a little later than the rest.
    crate::common::wait_until(
        "everything is measured",
        crate::common::CATCH_UP,
        async || {
            let (_, _, text) = page::get(&address, "/metrics").await;
            [
                "sdl_purge_headroom_ratio",
                "sdl_store_ping_seconds",
                "sdl_lag_seconds",
            ]
            .iter()
            .all(|name| text.contains(name))
        },
    )
    .await;
    let (_, _, text) = page::get(&address, "/metrics").await;
    let served: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let mut expressions = Vec::new();
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana.json")).unwrap();
    dashboard_expressions(&dashboard, &mut expressions);
    assert!(expressions.len() > 10, "{expressions:?}");
    let rules: String = read("deploy/alerts.yml")
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect::<Vec<_>>()
        .join("\n");
    let name = Regex::new(r"\b(?:sdl|process)_[a-z_]+").unwrap();
    let named: BTreeSet<&str> = expressions
        .iter()
        .chain([&rules])
        .flat_map(|text| name.find_iter(text))
        .map(|found| found.as_str())
        .collect();
    let unknown: Vec<&&str> = named.difference(&served).collect();
    assert!(unknown.is_empty(), "{unknown:?} of\n{text}");

    // Prometheus must be able to read them. Grafana fills its variables in first.
    let variable = Regex::new(r"\$\{?(\w+)\}?").unwrap();
    let rules: Vec<Value> = expressions
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let text = text.replace("$__rate_interval", "5m");
            json!({ "record": format!("panel:{index}"), "expr": variable.replace_all(&text, "x") })
        })
        .collect();
    let file = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    let path = spool.path().join("dashboard.yml");
    std::fs::write(&path, file.to_string()).unwrap();
    promtool(&[Path::new("check"), Path::new("rules"), &path]);
}
