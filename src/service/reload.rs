//! What SIGHUP does: RUST_LOG takes effect; of every other setting that changed it says that it needs a restart.
//!
//! Nothing else is taken over in a running daemon: a change of source, of filter or of collection in mid-stream could not be told apart
//! in what is recorded. Names are logged, never values. Settings that would not start are an error in the log, and change nothing.

use std::path::PathBuf;

use crate::config::{Config, Sources};
use crate::logging::Filter;

/// The settings in force, and how to read them again.
pub struct Reload {
    /// `--env-file`.
    file: Option<PathBuf>,
    started_with: Sources,
    filter: Filter,
}

impl Reload {
    /// The daemon was started with these.
    pub fn new(file: Option<PathBuf>, started_with: Sources, filter: Filter) -> Self {
        Self {
            file,
            started_with,
            filter,
        }
    }

    /// Reads the settings again.
    pub fn reload(&self) {
        let sources = Sources::from_process(self.file.as_deref());
        let config = match Config::from_sources(&sources) {
            Ok(config) => config,
            Err(mistakes) => {
                tracing::error!("reload: nothing is changed; {mistakes}");
                return;
            }
        };
        let file = sources.file().map(|file| file.display().to_string());
        self.filter.set(&config.log_filter);
        let restart: Vec<_> = self
            .started_with
            .changed(&sources)
            .into_iter()
            .filter(|name| *name != "RUST_LOG")
            .collect();
        tracing::info!(file, filter = config.log_filter, "reloaded");
        if !restart.is_empty() {
            tracing::warn!(
                settings = restart.join(" "),
                "changed since the start, and in force after a restart only"
            );
        }
    }
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Reload")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}
