//! A set of three members: who is primary changes, and what the old one had written alone is rolled back.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::options::ReadConcern;

use super::{
    CLOSED, COMMIT, OPEN, SOON, assert_goes_on_exactly, commits_more, settings, start_mysqld,
    times_logged, under_load, with_quick_breaker,
};
use crate::common::mongo::OFFSETS;
use crate::common::replica_set::Node;
use crate::common::{ReplicaSet, wait_until};

#[tokio::test]
async fn a_primary_that_steps_down_again_and_again_leaves_no_trace() {
    let (mysqld, set) = tokio::join!(start_mysqld(), ReplicaSet::start());
    let settings = settings(&mysqld, &set);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    for _ in 0..4 {
        set.step_down().await;
        commits_more(&set, settings.database()).await;
        load.more(20).await;
    }
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &set, &settings).await;
}

/// The commit is on its way when its primary dies: with the old primary the transaction is gone, and is run again.
#[tokio::test]
async fn a_primary_killed_in_the_middle_of_a_commit_is_replaced() {
    let (mysqld, set) = tokio::join!(start_mysqld(), ReplicaSet::start());
    let settings = settings(&mysqld, &set);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    for round in 1..=2 {
        let primary = set.primary().await;
        set.part_at(COMMIT, &[(Node::Outside, Node::Member(primary))]);
        set.has_struck(round).await;
        set.kill(primary);
        set.heal();
        set.primary_among(&set.others(primary)).await;
        commits_more(&set, settings.database()).await;
        set.start_again(primary).await;
    }
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &set, &settings).await;
}

/// It stands still, another takes over, and when it wakes up the commit of back then arrives.
#[tokio::test]
async fn a_primary_that_stands_still_in_the_middle_of_a_commit_is_replaced_and_comes_too_late() {
    let (mysqld, set) = tokio::join!(start_mysqld(), ReplicaSet::start());
    let settings = settings(&mysqld, &set);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    let primary = set.primary().await;
    set.part_at(COMMIT, &[(Node::Outside, Node::Member(primary))]);
    set.has_struck(1).await;
    set.pause(primary);
    set.heal();
    let successor = set.primary_among(&set.others(primary)).await;
    // It has to give up waiting for the old one by itself.
    commits_more(&set, settings.database()).await;
    assert_eq!(set.primary_among(&set.others(primary)).await, successor);
    set.resume(primary);
    load.more(50).await;
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &set, &settings).await;
}

/// The old primary commits without a majority, which sdl must not take for a commit: it is rolled back when the network heals.
#[tokio::test]
async fn what_a_primary_without_its_secondaries_committed_is_rolled_back_and_written_again() {
    let (mysqld, set) = tokio::join!(start_mysqld(), ReplicaSet::start());
    let settings = settings(&mysqld, &set);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    let old = set.primary().await;
    set.part_at(COMMIT, &isolation(&set, old));
    set.has_struck(1).await;
    set.primary_among(&set.others(old)).await;
    commits_more(&set, settings.database()).await;
    load.more(50).await;
    set.heal();
    rolled_back(&set, old, settings.database()).await;
    commits_more(&set, settings.database()).await;
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &set, &settings).await;
}

/// The commit has no answer, so sdl reads the offset where it went, sees it moved, and asks a majority to confirm it: by then another
/// member is primary, and there it never happened.
#[tokio::test]
async fn what_was_read_from_the_old_primary_is_not_confirmed_by_the_new_one() {
    let (mysqld, set) = tokio::join!(start_mysqld(), ReplicaSet::start());
    let settings = settings(&mysqld, &set).set("BREAKER_FAILURES", 100);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    set.elect_after(Duration::from_secs(600)).await;
    let old = set.primary().await;
    let others = set.others(old);
    set.part_at(COMMIT, &isolation(&set, old));
    set.has_struck(1).await;
    daemon
        .wait_for_log("no answer within 30 s", Duration::from_secs(60))
        .await;
    wait_until("the offset is to be confirmed", SOON, async || {
        is_updating_offset(&set, old).await
    })
    .await;
    set.admin(others[0], doc! { "replSetStepUp": 1 }).await;
    // Before that it would fetch from the old one what it lacks.
    set.primary_among(&others).await;
    set.heal();
    rolled_back(&set, old, settings.database()).await;
    commits_more(&set, settings.database()).await;
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &set, &settings).await;
}

/// As above, and sdl reaches nobody but the old primary: what it reads there may never have happened.
#[tokio::test]
async fn a_primary_whom_only_sdl_still_reaches_is_not_believed() {
    let (mysqld, set) = tokio::join!(start_mysqld(), ReplicaSet::start());
    let settings = with_quick_breaker(settings(&mysqld, &set));
    let (daemon, load) = under_load(&mysqld, &settings).await;
    let old = set.primary().await;
    let mut pairs = isolation(&set, old);
    for other in set.others(old) {
        pairs.push((Node::Outside, Node::Member(other)));
    }
    set.part_at(COMMIT, &pairs);
    set.has_struck(1).await;
    let successor = set.primary_among(&set.others(old)).await;
    wait_until("the daemon has noticed", SOON, async || {
        times_logged(&daemon, "trying again") > 0
    })
    .await;
    load.more(50).await;
    set.heal();
    rolled_back(&set, old, settings.database()).await;
    commits_more(&set, settings.database()).await;
    assert_ne!(successor, old);
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &set, &settings).await;
}

/// Two of three are gone: nothing is durable any more, so nothing may be taken for committed, and the primary steps down.
#[tokio::test]
async fn a_set_without_its_majority_opens_the_breaker_and_gets_everything_when_it_is_whole_again() {
    let (mysqld, set) = tokio::join!(start_mysqld(), ReplicaSet::start());
    let settings = with_quick_breaker(settings(&mysqld, &set));
    let (daemon, load) = under_load(&mysqld, &settings).await;
    let primary = set.primary().await;
    for other in set.others(primary) {
        set.kill(other);
    }
    daemon.wait_for_log(OPEN, SOON).await;
    load.more(50).await;
    for other in set.others(primary) {
        set.start_again(other).await;
    }
    daemon.wait_for_log(CLOSED, SOON).await;
    commits_more(&set, settings.database()).await;
    assert_eq!(
        (times_logged(&daemon, OPEN), times_logged(&daemon, CLOSED)),
        (1, 1)
    );
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &set, &settings).await;
}

/// The primary stands, takes writes and answers, but no majority ever has them: heartbeats pass, replication does not.
#[tokio::test]
async fn a_write_concern_that_cannot_be_reached_is_no_commit() {
    let (mysqld, set) = tokio::join!(start_mysqld(), ReplicaSet::start());
    let settings = with_quick_breaker(settings(&mysqld, &set));
    let (daemon, load) = under_load(&mysqld, &settings).await;
    let primary = set.primary().await;
    for other in set.others(primary) {
        replication(&set, other, "alwaysOn").await;
    }
    wait_until("the daemon has noticed", SOON, async || {
        times_logged(&daemon, "trying again") > 0
    })
    .await;
    let before = majority(&set, settings.database()).await;
    load.more(50).await;
    assert_eq!(majority(&set, settings.database()).await, before);
    for other in set.others(primary) {
        replication(&set, other, "off").await;
    }
    commits_more(&set, settings.database()).await;
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &set, &settings).await;
}

// --- helpers

/// A member on one side, all others on the other.
fn isolation(set: &ReplicaSet, member: usize) -> Vec<(Node, Node)> {
    set.others(member)
        .into_iter()
        .map(|other| (Node::Member(member), Node::Member(other)))
        .collect()
}

/// Waits until a member has taken back what it wrote alone, an offset among it.
async fn rolled_back(set: &ReplicaSet, member: usize, database: &str) {
    let offsets = format!("{database}.{OFFSETS}");
    wait_until(
        "the old primary rolls sdl's commit back",
        SOON,
        async || {
            set.log(member)
                .lines()
                .any(|line| line.contains("Rollback summary") && line.contains(&offsets))
        },
    )
    .await;
}

/// Whether a write to the offset, outside of a transaction, waits for its majority.
async fn is_updating_offset(set: &ReplicaSet, member: usize) -> bool {
    let operations = set.admin(member, doc! { "currentOp": 1 }).await;
    operations
        .get_array("inprog")
        .expect("operations")
        .iter()
        .filter_map(|operation| operation.as_document()?.get_document("command").ok())
        .any(|command| {
            command
                .get_str("update")
                .is_ok_and(|collection| collection == OFFSETS)
                && !command.contains_key("autocommit")
        })
}

/// Whether a secondary applies what it is sent (`rsSyncApplyStop` of MongoDB's own tests).
async fn replication(set: &ReplicaSet, member: usize, stopped: &str) {
    set.admin(
        member,
        doc! { "configureFailPoint": "rsSyncApplyStop", "mode": stopped },
    )
    .await;
}

/// The last batch that a majority has.
async fn majority(set: &ReplicaSet, database: &str) -> i64 {
    let offset: Document = set
        .database(database)
        .await
        .collection(OFFSETS)
        .find_one(doc! {})
        .read_concern(ReadConcern::majority())
        .await
        .expect("the offset can be read")
        .expect("an offset");
    offset.get_i64("batch").expect("batch")
}
