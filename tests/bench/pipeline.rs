//! The benchmark: how fast a backlog is caught up, next to what a bare program of the same driver reaches on the same server
//! with the same documents; how long a change takes to become visible; and what that costs.
//!
//!     cargo bench --bench pipeline                300,000 events, 3 rounds, about 3 minutes
//!     cargo bench --bench pipeline -- --quick     60,000 events, 1 round, about half a minute
//!     cargo bench --bench pipeline -- BATCH_SIZE=100 …    with these settings of the daemon; the ceilings stay at theirs
//!
//! Ratios are what counts: everything of a round is measured within a minute on the same servers, so what else the machine
//! does hits both sides. A figure is the median over the rounds, with the smallest and the largest behind it. Time never
//! fails anything here; only wrong results do.
//!
//! In reading order: [`workload`] (what MySQL is made to do), [`backlog`], [`ceiling`], [`latency`], [`usage`] (processor
//! time), [`report`] (the table).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod backlog;
mod ceiling;
mod latency;
mod report;
mod usage;
mod workload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use backlog::CatchUp;
use ceiling::Shape;
use common::{Mongod, Mysqld};
use report::{Report, Samples};

/// No further round begins after this, so that the whole run stays under six minutes on a busy machine too.
const LAST_ROUND_BEGINS: Duration = Duration::from_secs(200);

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Row events of the backlog.
    events: u64,
    rounds: usize,
    /// Longest time of one ceiling; it is then the rate until there.
    ceiling: Duration,
    /// Transactions a second, and for how long.
    latency: [(u32, Duration); 2],
}

const FULL: Plan = Plan {
    events: 300_000,
    rounds: 3,
    ceiling: Duration::from_secs(15),
    latency: [
        (500, Duration::from_secs(20)),
        (10, Duration::from_secs(10)),
    ],
};

const QUICK: Plan = Plan {
    events: 60_000,
    rounds: 1,
    ceiling: Duration::from_secs(10),
    latency: [(500, Duration::from_secs(8)), (10, Duration::from_secs(5))],
};

/// For the server of the benchmark: nothing here is about what MySQL's disk can do.
const MYSQL_OPTIONS: &[&str] = &[
    "--innodb-flush-log-at-trx-commit=2",
    "--sync-binlog=0",
    "--innodb-buffer-pool-size=256M",
    "--loose-innodb-redo-log-capacity=512M",
    // MySQL's own default, and what makes the documents about 650 bytes.
    "--binlog-rows-query-log-events=OFF",
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("this is a benchmark: cargo bench --bench pipeline [-- --quick]");
        return;
    }
    let plan = if arguments.iter().any(|argument| argument == "--quick") {
        QUICK
    } else {
        FULL
    };
    // As many threads as the daemon has, so that a ceiling is what the daemon's own runtime could reach.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let settings: Vec<(String, String)> = arguments
        .iter()
        .filter_map(|argument| argument.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    runtime.block_on(run(plan, &settings));
}

async fn run(plan: Plan, settings: &[(String, String)]) {
    let started = Instant::now();
    let (mysqld, mongod) = tokio::join!(Mysqld::start_with(MYSQL_OPTIONS), Mongod::start());
    let mysqld = Arc::new(mysqld);
    let mut report = Report::default();
    report.note(report::machine());
    report.note(report::versions(&mysqld, &mongod).await);
    for (name, value) in settings {
        report.note(format!("with {name}={value}"));
    }

    workload::create_tables(&mysqld).await;
    let writing = Instant::now();
    workload::write_backlog(&mysqld, plan.events).await;
    progress(
        started,
        &format!(
            "wrote a backlog of {} events in {:.1} s",
            plan.events,
            writing.elapsed().as_secs_f64()
        ),
    );

    let mut catch_ups: Vec<CatchUp> = Vec::new();
    let mut ceilings: Vec<[f64; Shape::ALL.len()]> = Vec::new();
    let mut documents = Arc::new(Vec::new());
    while catch_ups.len() < plan.rounds
        && (catch_ups.is_empty() || started.elapsed() < LAST_ROUND_BEGINS)
    {
        let round = catch_ups.len() + 1;
        let (catch_up, database) = backlog::catch_up(&mysqld, &mongod, settings, plan.events).await;
        progress(started, &format!("round {round}: {catch_up}"));
        if documents.is_empty() {
            documents = Arc::new(ceiling::read_documents(&mongod, &database).await);
        }
        let mut rates = [0.0; Shape::ALL.len()];
        for (rate, shape) in rates.iter_mut().zip(Shape::ALL) {
            *rate = ceiling::measure(&mongod, &database, shape, &documents, plan.ceiling).await;
            progress(
                started,
                &format!("round {round}: {shape}: {rate:.0} events/s"),
            );
        }
        mongod
            .database(&database)
            .await
            .drop()
            .await
            .expect("a database can be dropped");
        catch_ups.push(catch_up);
        ceilings.push(rates);
    }

    let bytes: usize = documents
        .iter()
        .map(|document| document.as_bytes().len())
        .sum();
    report.note(format!(
        "{} documents of {} bytes on average; {} rounds; batches of {:.0} documents on average",
        documents.len(),
        bytes / documents.len().max(1),
        catch_ups.len(),
        Samples::of(&catch_ups, |run| run.events as f64
            / run.batches.max(1) as f64)
        .median(),
    ));
    drop(documents);
    report_rounds(&mut report, &catch_ups, &ceilings);

    for (rate, duration) in plan.latency {
        let measured = latency::measure(&mysqld, &mongod, settings, rate, duration).await;
        progress(
            started,
            &format!("latency at {rate} transactions/s: {measured}"),
        );
        report.row(
            &format!("COMMIT to visible (majority), {rate} transactions/s: p50 / p99 / max"),
            &measured.to_string(),
        );
    }
    report.note(format!("took {:.0} s", started.elapsed().as_secs_f64()));
    print!("{report}");
}

fn report_rounds(report: &mut Report, catch_ups: &[CatchUp], ceilings: &[[f64; Shape::ALL.len()]]) {
    let plain = Samples::of(ceilings, |rates| rates[Shape::InsertMany.index()]);
    for shape in Shape::ALL {
        let rates = Samples::of(ceilings, |rates| rates[shape.index()]);
        report.compared(
            &format!("bare driver: {shape}"),
            "events/s",
            &rates,
            "insert_many",
            &plain,
        );
    }
    let caught_up = Samples::of(catch_ups, CatchUp::events_per_second);
    for (shape, name) in [
        (Shape::Overlapped, "bare overlap"),
        (Shape::InsertMany, "insert_many"),
    ] {
        let rates = Samples::of(ceilings, |rates| rates[shape.index()]);
        report.compared(
            "sdl: catch-up from daemon start",
            "events/s",
            &caught_up,
            name,
            &rates,
        );
    }
    let per_event = |seconds: fn(&CatchUp) -> f64| {
        Samples::of(catch_ups, |run| seconds(run) / run.events as f64 * 1e6)
    };
    for (what, samples) in [
        (
            "processor time of sdl per event",
            per_event(|run| run.processor.sdl),
        ),
        (
            "processor time of mongod per event",
            per_event(|run| run.processor.mongod),
        ),
        (
            "processor time of mysqld per event",
            per_event(|run| run.processor.mysqld),
        ),
    ] {
        report.measured(what, "µs", &samples);
    }
    let cores = Samples::of(catch_ups, |run| run.processor.sum() / run.seconds);
    report.measured(
        "processors busy with all three during the catch-up",
        "",
        &cores,
    );
    let memory = Samples::of(catch_ups, |run| run.peak_memory as f64 / f64::from(1 << 20));
    report.measured("peak resident memory of sdl", "MiB", &memory);
    let start = Samples::of(catch_ups, |run| run.startup * 1e3);
    report.measured("daemon start to reading the binlog", "ms", &start);
}

/// Tells on stderr how far it is; the table on stdout stays clean.
fn progress(started: Instant, what: &str) {
    eprintln!("[{:5.1} s] {what}", started.elapsed().as_secs_f64());
}
