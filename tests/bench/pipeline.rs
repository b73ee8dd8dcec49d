//! The benchmark: every goal of docs/performance.md with what was measured, in one table.
//!
//!     cargo bench --bench pipeline                      1,000,000 events, 5 rounds, about a quarter of an hour
//!     cargo bench --bench pipeline -- --quick           what makes sense in three minutes; tests/run.sh runs it
//!     cargo bench --bench pipeline -- --growth          and catching up beside 10,000,000 documents, half an hour more
//!     cargo bench --bench pipeline -- --soak=60m        and an hour of load
//!     cargo bench --bench pipeline -- catch-up decode   these parts only; their names are in `goals`
//!     cargo bench --bench pipeline -- BATCH_SIZE=5000   with these settings of the daemon; the ceilings stay at theirs
//!
//! Ratios are what counts: everything of a round is measured within minutes on the same servers, so what else the machine
//! does hits both sides. A figure is the median over the rounds, with the smallest and the largest behind it. Only a quick run fails
//! of what it measured, and only of a collapse (see [`goals`]); what fails every run is a wrong result.
//!
//! In reading order: [`goals`], [`arguments`] (how much of it), [`workload`] (what MySQL is made to do), [`backlog`], [`ceiling`],
//! [`latency`], [`memory`], [`decode`], [`growth`], [`usage`] (of the processor), [`samples`] and [`report`] (the table).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod arguments;
mod backlog;
mod ceiling;
mod decode;
mod goals;
mod growth;
mod latency;
mod memory;
mod report;
mod samples;
mod usage;
mod workload;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arguments::{Arguments, Plan};
use backlog::{CatchUp, changed};
use ceiling::Shape;
use common::{Mongod, Mysqld, Settings, mongo};
use decode::{Binlogs, Rows};
use goals::{Name, Part};
use growth::Growth;
use mongodb::bson::RawDocumentBuf;
use report::Report;
use samples::Samples;

/// For the servers of the benchmark: nothing here is about what MySQL's disk can do.
const MYSQL_OPTIONS: &[&str] = &[
    "--innodb-flush-log-at-trx-commit=2",
    "--sync-binlog=0",
    "--innodb-buffer-pool-size=256M",
    "--loose-innodb-redo-log-capacity=512M",
    // MySQL's own default, and what makes the documents about 650 bytes.
    "--binlog-rows-query-log-events=OFF",
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if !words.iter().any(|word| word == "--bench") {
        println!("this is a benchmark: cargo bench --bench pipeline [-- --quick]");
        return ExitCode::SUCCESS;
    }
    let arguments = match Arguments::parse(&words) {
        Ok(arguments) => arguments,
        Err(mistake) => {
            eprintln!("{mistake}");
            return ExitCode::from(2);
        }
    };
    // As many threads as the daemon has, so that a ceiling is what the daemon's own runtime could reach.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let is_quick = arguments.plan.is_quick;
    let report = runtime.block_on(Bench::run(arguments));
    print!("{report}");
    for collapsed in report.collapsed() {
        eprintln!("collapsed: {collapsed}");
    }
    match is_quick && !report.collapsed().is_empty() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// A run of the benchmark.
struct Bench {
    started: Instant,
    plan: Plan,
    parts: Vec<Part>,
    /// Of the daemon, in place of its defaults.
    settings: Vec<(String, String)>,
    report: Report,
    mongod: Mongod,
}

/// One round of catching up.
struct Round {
    defaults: CatchUp,
    overlapped: f64,
    insert_many: f64,
    small: Option<(CatchUp, f64)>,
}

impl Bench {
    async fn run(arguments: Arguments) -> Report {
        let Arguments {
            plan,
            parts,
            settings,
            cache,
        } = arguments;
        let mongod = match cache {
            Some(size) => Mongod::start_with(&[mongo::CACHE, &size.to_string()]).await,
            None => Mongod::start().await,
        };
        let started = Instant::now();
        let mut bench = Self {
            started,
            plan,
            parts,
            settings,
            report: Report::default(),
            mongod,
        };
        bench.report.note(report::machine());
        bench.report.note(report::versions(&bench.mongod).await);
        for (name, value) in &bench.settings {
            bench.report.note(format!("with {name}={value}"));
        }
        if bench.has(Part::Decode) {
            bench.decode().await;
        }
        if bench.has(Part::Start) {
            bench.start().await;
        }
        if bench.has(Part::Idle) {
            bench.idle().await;
        }
        let mut peaks = Vec::new();
        if bench.has(Part::Latency) {
            bench.latency(&mut peaks).await;
        }
        if bench.has(Part::CatchUp) || bench.has(Part::SmallBatches) || bench.has(Part::Growth) {
            bench.catch_up(&mut peaks).await;
        }
        if !peaks.is_empty() {
            let peaks = Samples::of(&peaks, |peak| *peak);
            bench.report.bounded(Name::SteadyMemory, "MiB", &peaks);
        }
        if bench.has(Part::Transaction) {
            bench.transaction().await;
        }
        if let Some(length) = bench.plan.soak.filter(|_| bench.has(Part::Soak)) {
            bench.soak(length).await;
        }
        let seconds = started.elapsed().as_secs_f64();
        bench.report.note(format!("took {seconds:.0} s"));
        bench.report
    }

    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Tells on stderr how far it is; the table on stdout stays clean.
    fn tell(&self, what: &str) {
        eprintln!("[{:6.1} s] {what}", self.started.elapsed().as_secs_f64());
    }

    async fn decode(&mut self) {
        let mysqld = Arc::new(Mysqld::start_with(MYSQL_OPTIONS).await);
        workload::create_tables(&mysqld).await;
        let binlogs = Binlogs::write(&mysqld, self.plan.bulk_rows, self.plan.single_rows).await;
        drop(mysqld);
        for (rows, name) in [
            (Rows::Bulk, Name::DecodeBulk),
            (Rows::Single, Name::DecodeSingle),
        ] {
            let mut rates = Vec::new();
            for _ in 0..self.plan.short_rounds {
                let decoded = binlogs.decode(rows).await;
                self.tell(&format!("decode, {rows:?}: {decoded}"));
                rates.push(decoded.rows_per_second());
            }
            self.report
                .bounded(name, "rows/s", &Samples::of(&rates, |rate| *rate));
        }
    }

    async fn start(&mut self) {
        let starts = memory::starts(&self.mongod, &self.settings, self.plan.starts);
        let (first, others) = starts.await;
        let others = Samples::of(&others, |start| *start);
        self.tell(&format!(
            "start to streaming: first {first:.0} ms, then {} ms",
            others.text()
        ));
        self.report.note(format!(
            "the first start, which makes the collections: {first:.0} ms to streaming"
        ));
        self.report.bounded(Name::Start, "ms", &others);
        if let Some(megabytes) = memory::binary() {
            let size = Samples::of(&[megabytes], |size| *size);
            self.report.bounded(Name::Binary, "MB", &size);
        }
    }

    async fn idle(&mut self) {
        let (rounds, length) = (self.plan.rounds, self.plan.idle);
        let shares = memory::idle(&self.mongod, &self.settings, rounds, length).await;
        let shares = Samples::of(&shares, |share| *share);
        self.tell(&format!("idle: {} % of a core", shares.text()));
        self.report.bounded(Name::Idle, "%", &shares);
    }

    async fn latency(&mut self, peaks: &mut Vec<f64>) {
        let mysqld = Arc::new(Mysqld::start_with(MYSQL_OPTIONS).await);
        workload::create_tables(&mysqld).await;
        let [(busy, busy_for), (quiet, quiet_for)] = self.plan.latency;
        for (rate, length) in [(busy, busy_for), (quiet, quiet_for)] {
            let mut rounds = Vec::new();
            for _ in 0..self.plan.rounds {
                let measured =
                    latency::measure(&mysqld, &self.mongod, &self.settings, rate, length).await;
                self.tell(&format!("latency at {rate}/s: {measured}"));
                if measured.missing() > 0 {
                    let note = format!("latency at {rate}/s: {measured}");
                    self.report.note(note);
                }
                rounds.push(measured);
            }
            let median = Samples::of(&rounds, latency::Latency::median);
            let tail = Samples::of(&rounds, latency::Latency::tail);
            if rate == busy {
                self.report.bounded(Name::Median, "ms", &median);
                self.report.bounded(Name::Tail, "ms", &tail);
                let peak = |run: &latency::Latency| run.peak_memory as f64 / f64::from(1 << 20);
                let peak = Samples::of(&rounds, peak);
                self.report
                    .note(format!("memory at {rate}/s: {} MiB", peak.text()));
                // The heavier load's memory is the goal's, where it is measured.
                if !self.has(Part::CatchUp) {
                    peaks.push(peak.largest());
                }
            } else {
                self.report.bounded(Name::MedianWhenQuiet, "ms", &median);
            }
        }
    }

    async fn catch_up(&mut self, peaks: &mut Vec<f64>) {
        let events = self.plan.events;
        let mysqld = Arc::new(Mysqld::start_with(MYSQL_OPTIONS).await);
        workload::create_tables(&mysqld).await;
        workload::write_backlog(&mysqld, events, 0).await;
        self.tell(&format!("wrote a backlog of {events} events"));

        let rounds_wanted = match self.has(Part::CatchUp) || self.has(Part::SmallBatches) {
            true => self.plan.rounds,
            // One, for the documents that growth copies.
            false => 1,
        };
        let begun = Instant::now();
        let mut rounds = Vec::new();
        let mut documents = Arc::new(Vec::new());
        let mut model = String::new();
        while rounds.len() < rounds_wanted
            && (rounds.is_empty() || begun.elapsed() < self.plan.last_round_begins)
        {
            let settings = changed(Settings::new(&mysqld, &self.mongod), &self.settings);
            let defaults = backlog::catch_up(&mysqld, &self.mongod, &settings, events).await;
            self.tell(&format!("catch-up: {defaults}"));
            if documents.is_empty() {
                let read = ceiling::read_documents(&self.mongod, settings.database());
                documents = Arc::new(read.await);
            }
            self.forget(&model).await;
            settings.database().clone_into(&mut model);
            peaks.push(defaults.peak_mebibytes());
            rounds.push(self.round(&mysqld, defaults, &model, &documents).await);
        }
        self.report_rounds(&rounds, &documents);
        if self.has(Part::Growth) {
            self.growth(&mysqld, &model, &documents).await;
        }
        self.forget(&model).await;
    }

    /// What a catch-up is compared with, right after it.
    async fn round(
        &self,
        mysqld: &Mysqld,
        defaults: CatchUp,
        model: &str,
        documents: &Arc<Vec<RawDocumentBuf>>,
    ) -> Round {
        let measure = async |shape: Shape, count: u64| {
            let count = usize::try_from(count).expect("a number of documents");
            let rate = ceiling::measure(mysqld, &self.mongod, model, shape, documents, count);
            let rate = rate.await;
            self.tell(&format!("bare driver, {shape}: {rate:.0} events/s"));
            rate
        };
        let (mut overlapped, mut insert_many) = (f64::NAN, f64::NAN);
        if self.has(Part::CatchUp) {
            overlapped = measure(Shape::Overlapped, self.plan.events).await;
            insert_many = measure(Shape::InsertMany, self.plan.events / 2).await;
        }
        let mut small = None;
        if self.has(Part::SmallBatches) {
            let settings = changed(Settings::new(mysqld, &self.mongod), &self.settings);
            let settings = settings.set("BATCH_SIZE", 100);
            let events = self.plan.small_events;
            let run = backlog::begin_to_catch_up(mysqld, &self.mongod, &settings, events).await;
            self.tell(&format!("catch-up, BATCH_SIZE=100: {run}"));
            self.forget(settings.database()).await;
            small = Some((run, measure(Shape::StagedSmall, events).await));
        }
        Round {
            defaults,
            overlapped,
            insert_many,
            small,
        }
    }

    fn report_rounds(&mut self, rounds: &[Round], documents: &[RawDocumentBuf]) {
        let bytes: usize = documents
            .iter()
            .map(|document| document.as_bytes().len())
            .sum();
        let of_catch_ups =
            |figure: fn(&CatchUp) -> f64| Samples::of(rounds, |round| figure(&round.defaults));
        self.report.note(format!(
            "catch-up: {} documents of {} bytes on average, {:.0} a batch, {} rounds",
            documents.len(),
            bytes / documents.len().max(1),
            of_catch_ups(|run| run.events as f64 / run.batches.max(1) as f64).median(),
            rounds.len(),
        ));
        self.report.note(format!(
            "processor time beside it, an event: mongod {} µs, mysqld {} µs; all three kept {} cores busy",
            of_catch_ups(|run| run.processor.mongod / run.events as f64 * 1e6).text(),
            of_catch_ups(|run| run.processor.mysqld / run.events as f64 * 1e6).text(),
            of_catch_ups(|run| run.processor.sum() / run.seconds).text(),
        ));
        let caught_up = of_catch_ups(CatchUp::events_per_second);
        let report = &mut self.report;
        if self.parts.contains(&Part::CatchUp) {
            let overlapped = Samples::of(rounds, |round| round.overlapped);
            let plain = Samples::of(rounds, |round| round.insert_many);
            report.compared(
                Name::CatchUpToOverlapped,
                "events/s",
                &caught_up,
                &overlapped,
            );
            report.compared(Name::CatchUpToInsertMany, "events/s", &caught_up, &plain);
            let processor = of_catch_ups(|run| run.processor.sdl / run.events as f64 * 1e6);
            report.bounded(Name::ProcessorTime, "µs", &processor);
        }
        let small: Vec<_> = rounds.iter().filter_map(|round| round.small).collect();
        if !small.is_empty() {
            let staged = Samples::of(&small, |(_, staged)| *staged);
            let small = Samples::of(&small, |(run, _)| run.events_per_second());
            report.compared(Name::SmallToStaged, "events/s", &small, &staged);
            report.compared(Name::DefaultsToStaged, "events/s", &caught_up, &staged);
        }
    }

    async fn growth(
        &mut self,
        mysqld: &Arc<Mysqld>,
        model: &str,
        documents: &Arc<Vec<RawDocumentBuf>>,
    ) {
        let tell = |what: &str| self.tell(&format!("growth: {what}"));
        let growth = Growth {
            mysqld,
            mongod: &self.mongod,
            model,
            documents,
            settings: &self.settings,
            events: self.plan.events,
            tell: &tell,
        };
        let mut grown = growth.fill(self.plan.grown).await;
        let mut rounds = Vec::new();
        for round in 0..self.plan.rounds {
            rounds.push(grown.round(!round.is_multiple_of(2)).await);
        }
        grown.forget().await;
        let empty = Samples::of(&rounds, |round| round.empty.events_per_second());
        let later = Samples::of(&rounds, |round| round.later_rows.events_per_second());
        let same = Samples::of(&rounds, |round| round.same_rows.events_per_second());
        let bare_empty = Samples::of(&rounds, |round| round.bare_empty);
        let bare_same = Samples::of(&rounds, |round| round.bare_same_rows);
        for (name, full) in [(Name::Growth, &later), (Name::GrowthOfSameRows, &same)] {
            self.report.compared(name, "events/s", full, &empty);
            if self.plan.is_quick {
                self.report.reserve("not measured: fewer documents");
            }
        }
        self.report.note(format!(
            "growth: rows changed before, the bare program that stages beside its commits: {} events/s, {} of empty",
            bare_same.text(),
            bare_same.ratio(&bare_empty).text()
        ));
    }

    async fn transaction(&mut self) {
        let rows = self.plan.transaction_rows;
        let (run, bytes) = memory::transaction(&self.mongod, &self.settings, rows).await;
        let binlog = bytes as f64 / 1e9;
        self.tell(&format!("one transaction, {binlog:.2} GB of binlog: {run}"));
        self.report.note(format!(
            "one transaction of {rows} rows, {binlog:.2} GB of binlog: {:.0} events/s, once",
            run.events_per_second()
        ));
        let peak = Samples::of(&[run], CatchUp::peak_mebibytes);
        self.report.bounded(Name::TransactionMemory, "MiB", &peak);
    }

    async fn soak(&mut self, length: Duration) {
        let mysqld = Arc::new(Mysqld::start_with(MYSQL_OPTIONS).await);
        workload::create_tables(&mysqld).await;
        let started = self.started;
        let mut told = Duration::ZERO;
        let sizes = memory::soak(&mysqld, &self.mongod, &self.settings, length, |at, size| {
            if at >= told {
                told += Duration::from_secs(60);
                let seconds = started.elapsed().as_secs_f64();
                eprintln!(
                    "[{seconds:6.1} s] load for {:.0} s: {size:.1} MiB",
                    at.as_secs_f64()
                );
            }
        })
        .await;
        // The first quarter fills caches and pools.
        let quarter = sizes.len() / 4;
        let median = |range: std::ops::Range<usize>| Samples::of(&sizes[range], |size| *size);
        let beginning = Samples::of(&[median(quarter..2 * quarter).median()], |size| *size);
        let end = Samples::of(&[median(3 * quarter..sizes.len()).median()], |size| *size);
        self.report.compared(Name::Flat, "MiB", &end, &beginning);
        if length < Duration::from_secs(3600) {
            self.report.reserve("not measured: shorter than an hour");
        }
        self.report.note(format!(
            "{:.0} minutes of {} transactions a second: memory {} MiB, its last quarter beside its second in the table",
            length.as_secs_f64() / 60.0,
            memory::SOAK_RATE,
            median(0..sizes.len()).text(),
        ));
    }

    async fn forget(&self, database: &str) {
        if !database.is_empty() {
            let database = self.mongod.database(database).await;
            database.drop().await.expect("a database can be dropped");
        }
    }
}
