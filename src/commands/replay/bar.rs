//! How far a replay has come: a bar in a terminal, else a line in the log now and then.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use crate::logging;
use crate::source::files::Progress;

/// How often the bar is drawn.
const DRAW: Duration = Duration::from_millis(200);

/// How often the log tells.
const TELL: Duration = Duration::from_secs(10);

const TEMPLATE: &str = "{wide_bar} {bytes}/{total_bytes} {msg} {bytes_per_sec} ETA {eta}";

/// Shows progress until it is ended.
pub(super) struct Bar {
    task: JoinHandle<()>,
    bar: Option<ProgressBar>,
}

impl Bar {
    pub(super) fn start(progress: Arc<Progress>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self {
                task: tokio::spawn(tell(progress)),
                bar: None,
            };
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        // A line of the log goes above the bar.
        let shown = bar.clone();
        logging::around_lines(move |write| shown.suspend(write));
        Self {
            task: tokio::spawn(draw(bar.clone(), progress)),
            bar: Some(bar),
        }
    }

    pub(super) fn end(self) {
        self.task.abort();
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

async fn draw(bar: ProgressBar, progress: Arc<Progress>) {
    let mut was_recording = false;
    loop {
        let figures = progress.figures();
        if figures.is_recording && !was_recording {
            // Another rate than that of looking through.
            bar.reset();
            was_recording = true;
        }
        bar.set_length(figures.total);
        bar.set_position(figures.bytes);
        bar.set_message(if figures.is_recording {
            format!("recording, {} events", figures.events)
        } else {
            "checking".to_owned()
        });
        tokio::time::sleep(DRAW).await;
    }
}

async fn tell(progress: Arc<Progress>) {
    let mut before = (Instant::now(), progress.figures());
    loop {
        tokio::time::sleep(TELL).await;
        let figures = progress.figures();
        let seconds = before.0.elapsed().as_secs_f64();
        let events = (figures.events - before.1.events) as f64 / seconds;
        let rate = figures.bytes.saturating_sub(before.1.bytes) as f64 / seconds;
        let left = figures.total.saturating_sub(figures.bytes) as f64;
        tracing::info!(
            bytes = figures.bytes,
            total = figures.total,
            events = figures.events,
            events_per_second = events.round() as u64,
            seconds_left = (rate > 0.0).then(|| (left / rate).round() as u64),
            "{}",
            if figures.is_recording {
                "recording the files"
            } else {
                "looking through the files"
            }
        );
        before = (Instant::now(), figures);
    }
}
