//! Answers that never come: the request arrived, and nobody knows what became of it.

use super::{
    COMMIT, assert_goes_on_exactly, commits_more, settings, start_mysqld, times_logged, under_load,
};
use crate::common::ReplicaSet;

/// As often as that in a row the driver and sdl have both given up asking, and the offset has to tell what became of the batch.
const MANY: u32 = 12;

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_in_once() {
    let (mysqld, set) = tokio::join!(start_mysqld(), ReplicaSet::start_with(1, &[]));
    let settings = settings(&mysqld, &set);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    let mut struck = 0;
    for times in [1, 2, 3, MANY, 1, MANY] {
        set.lose_answers_to(COMMIT, times);
        struck += times;
        set.has_struck(struck).await;
        commits_more(&set, settings.database()).await;
    }
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &set, &settings).await;
    assert!(
        times_logged(&daemon, "trying again") > 0,
        "{MANY} lost answers in a row are told"
    );
}

/// Staging, the first write of a batch, the insert, unstaging and an abort lose their answers in turn.
#[tokio::test]
async fn any_answer_may_be_lost() {
    let (mysqld, set) = tokio::join!(start_mysqld(), ReplicaSet::start_with(1, &[]));
    let settings = settings(&mysqld, &set);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    let mut struck = 0;
    // Each as it begins the body of a request: a BSON string of this name, without the length of what follows.
    for command in ["insert", "update", "delete"] {
        for times in [1, 5] {
            set.lose_answers_to(format!("\x02{command}\0").as_bytes(), times);
            struck += times;
            set.has_struck(struck).await;
            commits_more(&set, settings.database()).await;
        }
    }
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &set, &settings).await;
}
