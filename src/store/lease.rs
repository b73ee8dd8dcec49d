//! The lease: which of several daemons records a source, where LEASE=on.
//!
//! It guarantees that a standby takes over when the holder has given no sign for LEASE_TTL, at once when the holder stopped in an
//! orderly way, and never otherwise; that two standbys do not both take over; and that no clocks are compared. The lease stands
//! in the offset document, `lease: { holder, place, pid, beat }`: `beat` grows with each commit and by timer. A standby measures by its
//! own clock how long `beat` stood still, and takes over by a compare-and-set on the very `beat` that it saw.
//!
//! That is all that it is for: that there is one at a time. What keeps a holder that was only slow from writing is the epoch, which
//! every take-over raises ([`super::ownership`]).
//!
//! A daemon that was killed and started again on the same machine finds its own lease and sees that the process is gone; it does not
//! wait for itself.

use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::ClientSession;
use mongodb::options::ReturnDocument;
use tokio::time::Instant;

use super::{Store, settle};
use crate::error::Result;
use crate::offset::Offset;

/// Longest time between two looks at the lease. A look is one read by `_id`.
const LONGEST_POLL: Duration = Duration::from_millis(500);

/// Who this daemon is to the others.
#[derive(Debug, Clone)]
pub(super) struct Claimant {
    ttl: Duration,
    holder: String,
    place: String,
    pid: u32,
}

impl Claimant {
    /// This process; `ttl` is LEASE_TTL.
    pub(super) fn new(ttl: Duration) -> Self {
        let pid = std::process::id();
        Self {
            ttl,
            holder: format!("{} (process {pid})", crate::host::name()),
            place: crate::host::process_space(),
            pid,
        }
    }

    /// LEASE_TTL.
    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How often a holder gives a sign when nothing is committed.
    pub(super) fn renewal(&self) -> Duration {
        self.ttl / 3
    }

    /// How often a standby looks.
    pub(super) fn poll(&self) -> Duration {
        (self.ttl / 10).min(LONGEST_POLL)
    }

    fn lease(&self) -> Document {
        doc! { "holder": &self.holder, "place": &self.place, "pid": i64::from(self.pid), "beat": 0_i64 }
    }

    /// Whether a holder was a process of this machine that is gone.
    fn is_dead(&self, lease: &Document) -> bool {
        lease
            .get_str("place")
            .is_ok_and(|place| place == self.place)
            && lease
                .get_i64("pid")
                .is_ok_and(|pid| !crate::host::has_process(pid))
    }
}

/// What a standby has seen of the holder.
#[derive(Debug)]
pub(super) struct Watch {
    ttl: Duration,
    seen: Option<Sign>,
}

#[derive(Debug)]
struct Sign {
    epoch: i64,
    beat: i64,
    first_seen: Instant,
}

impl Watch {
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, seen: None }
    }

    /// Whether there was no sign of the holder for the lease's time.
    fn is_expired(&mut self, epoch: i64, beat: i64, now: Instant) -> bool {
        match &self.seen {
            Some(sign) if (sign.epoch, sign.beat) == (epoch, beat) => {
                now.saturating_duration_since(sign.first_seen) >= self.ttl
            }
            _ => {
                self.seen = Some(Sign {
                    epoch,
                    beat,
                    first_seen: now,
                });
                false
            }
        }
    }

    fn is_first_look(&self) -> bool {
        self.seen.is_none()
    }
}

/// The outcome of a claim.
#[derive(Debug)]
pub(super) enum Claim {
    /// The source was never read.
    NoOffset,
    /// It is this daemon's now.
    Taken(Box<Offset>),
    /// It is held by this one.
    Held(String),
}

impl Store {
    /// Takes the source over if its lease is free.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub(super) async fn claim(
        &self,
        claimant: &Claimant,
        watch: &mut Watch,
        session: &ClientSession,
    ) -> Result<Claim> {
        let found = settle("look at the lease", self.offsets.find_one(self.by_source())).await?;
        let Some(offset) = found else {
            return Ok(Claim::NoOffset);
        };
        let mut unchanged = self.by_source();
        let held = match offset.get_document("lease") {
            Err(_) => {
                unchanged.insert("lease", Bson::Null);
                None
            }
            Ok(lease) => {
                let epoch = offset.get_i64("epoch").unwrap_or_default();
                let beat = lease.get_i64("beat").unwrap_or_default();
                let holder = lease
                    .get_str("holder")
                    .unwrap_or("an unknown one")
                    .to_owned();
                let is_dead = watch.is_first_look() && claimant.is_dead(lease);
                if !watch.is_expired(epoch, beat, Instant::now()) && !is_dead {
                    return Ok(Claim::Held(holder));
                }
                unchanged.extend(doc! { "epoch": epoch, "lease.beat": beat });
                Some(holder)
            }
        };
        if let Ok(predecessor) = offset.get_document("session") {
            self.end_session(predecessor.clone()).await?;
        }
        let update = doc! {
            "$inc": { "epoch": 1_i64 },
            "$set": { "session": session.id().clone(), "lease": claimant.lease() },
        };
        let taken = settle(
            "take the lease",
            self.offsets
                .find_one_and_update(unchanged, update)
                .return_document(ReturnDocument::After),
        )
        .await?;
        match (taken, held) {
            (Some(taken), held) => {
                tracing::info!(from = held, "took the lease");
                Ok(Claim::Taken(Box::new(self.parse_offset(&taken)?)))
            }
            (None, held) => {
                Ok(Claim::Held(held.unwrap_or_else(|| {
                    "another daemon, which was faster".to_owned()
                })))
            }
        }
    }

    /// A sign of the holder, for a daemon that owns `epoch`.
    ///
    /// # Errors
    /// [`crate::error::Kind::Fenced`] when it does not own it any more.
    pub(super) async fn renew_lease(&self, epoch: i64) -> Result<()> {
        let mut owned = self.by_source();
        owned.insert("epoch", epoch);
        let renewed = settle(
            "renew the lease",
            self.offsets
                .update_one(owned, doc! { "$inc": { "lease.beat": 1_i64 } }),
        )
        .await?;
        if renewed.matched_count == 0 {
            Err(self.fenced(epoch))
        } else {
            Ok(())
        }
    }

    /// Gives the lease up, so that a standby need not wait.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub(super) async fn release_lease(&self, epoch: i64) -> Result<()> {
        let mut owned = self.by_source();
        owned.insert("epoch", epoch);
        settle(
            "release the lease",
            self.offsets
                .update_one(owned, doc! { "$set": { "lease": Bson::Null } }),
        )
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_expires_when_its_beat_has_stood_still_for_its_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(Duration::from_secs(10));
        assert!(!watch.is_expired(3, 7, at(0)), "seen for the first time");
        assert!(!watch.is_expired(3, 7, at(9)));
        assert!(!watch.is_expired(3, 8, at(10)), "a sign");
        assert!(!watch.is_expired(3, 8, at(19)));
        assert!(watch.is_expired(3, 8, at(20)));
        assert!(!watch.is_expired(4, 8, at(21)), "another holder");
        assert!(watch.is_expired(4, 8, at(31)));
    }

    #[test]
    fn a_claimant_knows_a_dead_process_of_its_own_machine_only() {
        let claimant = Claimant::new(Duration::from_secs(10));
        let alive = claimant.lease();
        assert!(!claimant.is_dead(&alive));
        let mut gone = claimant.lease();
        gone.insert("pid", i64::from(i32::MAX));
        assert!(claimant.is_dead(&gone));
        gone.insert("place", "elsewhere");
        assert!(!claimant.is_dead(&gone));
    }
}
