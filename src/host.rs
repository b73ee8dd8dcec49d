//! What this machine calls itself.

/// The host's name, as `hostname` prints it; for people, and to tell daemons on several hosts apart.
pub fn name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
