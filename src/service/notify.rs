//! What a service tells systemd: sd_notify(3), its datagrams over its socket.
//!
//! Without `NOTIFY_SOCKET` (a shell, another supervisor) there is nobody to tell and nothing is sent. A datagram that does not get
//! through is left at that: what is told here is never what the audit rests on.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to systemd.
#[derive(Debug)]
pub(super) struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    /// The one that the environment names.
    pub(super) fn from_environment() -> Option<Self> {
        Self::to(&env::var("NOTIFY_SOCKET").ok()?)
    }

    /// The socket of that name: a path, or `@` and an abstract name.
    fn to(name: &str) -> Option<Self> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(name),
        };
        let socket = UnixDatagram::unbound().ok()?;
        // A systemd that does not read must not stop the runtime.
        socket.set_nonblocking(true).ok()?;
        Some(Self {
            socket,
            address: address.ok()?,
        })
    }

    /// Tells it these assignments, one a line.
    pub(super) fn tell(&self, assignments: &str) {
        if let Err(error) = self
            .socket
            .send_to_addr(assignments.as_bytes(), &self.address)
        {
            tracing::debug!(%error, "systemd cannot be told");
        }
    }
}

/// How long systemd waits for a sign of life of this process; none: it does not.
pub(super) fn watchdog() -> Option<Duration> {
    let is_meant =
        env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
    let micros = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (is_meant && micros > 0).then(|| Duration::from_micros(micros))
}

/// The moment as `RELOADING=1` wants it.
pub(super) fn monotonic_micros() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_are_reached() {
        let directory = env::temp_dir().join(format!("sdl-notify-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        let named = format!("@sdl-notify-{}", std::process::id());
        let hidden = SocketAddr::from_abstract_name(&named[1..]).unwrap();
        for (name, systemd) in [
            (path.to_str().unwrap(), UnixDatagram::bind(&path).unwrap()),
            (named.as_str(), UnixDatagram::bind_addr(&hidden).unwrap()),
        ] {
            Notifier::to(name).unwrap().tell("READY=1\nSTATUS=is here");
            let mut received = [0; 100];
            let length = systemd.recv(&mut received).unwrap();
            assert_eq!(&received[..length], b"READY=1\nSTATUS=is here");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn nobody_there_is_no_matter() {
        Notifier::to("/nonexistent/socket").unwrap().tell("READY=1");
    }
}
