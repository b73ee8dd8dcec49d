//! What the driver's monitors meet at each host of MongoDB.
//!
//! The driver takes every failure of a connection for an outage: it selects no server, and says so after
//! serverSelectionTimeoutMS, for ever. A certificate that is refused does not mend itself. So the outcome of each host's last
//! heartbeat is kept here, and when all of them are refusals, [`Hosts::refused`] tells at once. One host that is down or that
//! answers is reason enough to wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use mongodb::error::{Error as DriverError, ErrorKind};
use mongodb::event::EventHandler;
use mongodb::event::sdam::SdamEvent;
use tokio::sync::watch;

use super::classify;
use crate::error::{Error, Kind};

/// The last heartbeat of one host.
#[derive(Debug, Clone)]
enum Met {
    /// None has ended yet, or it succeeded.
    Nothing,
    /// The connection broke off without a word, as when one side speaks TLS and the other does not.
    Closed,
    /// Any other failure that may pass.
    Outage,
    /// A failure that will come again.
    Refused(Error),
}

/// The hosts of one client, as its monitors see them.
#[derive(Debug, Clone, Default)]
pub(super) struct Hosts(Arc<watch::Sender<BTreeMap<String, Met>>>);

impl Hosts {
    /// What the driver is to tell.
    pub(super) fn handler(&self) -> EventHandler<SdamEvent> {
        let hosts = Arc::clone(&self.0);
        EventHandler::callback(move |event| match event {
            SdamEvent::ServerOpening(opening) => {
                note(&hosts, opening.address.to_string(), Met::Nothing)
            }
            SdamEvent::ServerClosed(closed) => hosts.send_modify(|hosts| {
                hosts.remove(&closed.address.to_string());
            }),
            SdamEvent::ServerHeartbeatSucceeded(beat) => {
                note(&hosts, beat.server_address.to_string(), Met::Nothing);
            }
            SdamEvent::ServerHeartbeatFailed(beat) => {
                let host = beat.server_address.to_string();
                tracing::debug!(host, error = %beat.failure.kind, "a heartbeat of mongodb failed");
                let met = met(&host, &beat.failure);
                note(&hosts, host, met);
            }
            _ => {}
        })
    }

    /// Waits until every host refuses the connection for good; gives the refusal of one.
    pub(super) async fn refused(&self) -> Error {
        let mut hosts = self.0.subscribe();
        loop {
            if let Some(error) = refusal_of_all(&hosts.borrow_and_update()) {
                return error;
            }
            // The other end is held by `self`.
            let _ = hosts.changed().await;
        }
    }

    /// Waits until a host of which the last heartbeat failed has one that succeeds; for ever when none failed.
    pub(super) async fn answer_again(&self) {
        let mut hosts = self.0.subscribe();
        let is_away = |met: &Met| !matches!(met, Met::Nothing);
        let mut away: Vec<String> = Vec::new();
        loop {
            {
                let hosts = hosts.borrow_and_update();
                if away
                    .iter()
                    .any(|host| hosts.get(host).is_some_and(|met| !is_away(met)))
                {
                    return;
                }
                away = hosts
                    .iter()
                    .filter(|(_, met)| is_away(met))
                    .map(|(host, _)| host.clone())
                    .collect();
            }
            // The other end is held by `self`.
            let _ = hosts.changed().await;
        }
    }

    /// What may be wrong when hosts close the connection, for the line that says that they are not to be had.
    pub(super) fn advice(&self) -> &'static str {
        if self
            .0
            .borrow()
            .values()
            .any(|met| matches!(met, Met::Closed))
        {
            "; a host closed the connection without a word: where it demands TLS, MONGO_URI needs tls=true (and \
             tlsCertificateKeyFile, where it demands a client certificate); where it has none, it must not say tls=true"
        } else {
            ""
        }
    }
}

fn note(hosts: &watch::Sender<BTreeMap<String, Met>>, host: String, met: Met) {
    hosts.send_modify(|hosts| {
        hosts.insert(host, met);
    });
}

fn met(host: &str, failure: &DriverError) -> Met {
    let error = classify::classify(&format!("connect to {host}"), failure);
    match &*failure.kind {
        _ if error.kind() == Kind::StoreSetting => Met::Refused(error),
        ErrorKind::Io(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::UnexpectedEof
                    | std::io::ErrorKind::ConnectionReset
                    | std::io::ErrorKind::BrokenPipe
                    | std::io::ErrorKind::InvalidData
            ) =>
        {
            Met::Closed
        }
        _ => Met::Outage,
    }
}

fn refusal_of_all(hosts: &BTreeMap<String, Met>) -> Option<Error> {
    let mut refusals = hosts.values().map(|met| match met {
        Met::Refused(error) => Some(error),
        _ => None,
    });
    let first = refusals.next()??;
    refusals
        .all(|refusal| refusal.is_some())
        .then(|| first.clone())
}
