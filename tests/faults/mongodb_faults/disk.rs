//! MongoDB's disk runs full.

use super::{
    CLOSED, OPEN, SOON, assert_goes_on_exactly, commits_more, settings, start_mysqld, times_logged,
    under_load, with_quick_breaker,
};
use crate::common::ReplicaSet;
use crate::common::small_disk::SmallDisk;

/// mongod ends by itself when it cannot write (it would rather not run than lose what it promised); it is started again when there is room.
#[tokio::test]
async fn a_mongodb_whose_disk_ran_full_gets_everything_when_there_is_room_again() {
    let disk = SmallDisk::of(512).await;
    let inside = disk.inside();
    let (mysqld, set) = tokio::join!(
        start_mysqld(),
        // A checkpoint each second, so that it writes more than its journal.
        ReplicaSet::start_inside(&inside, disk.directory(), &["--syncdelay", "1"])
    );
    let settings = with_quick_breaker(settings(&mysqld, &set));
    let (daemon, load) = under_load(&mysqld, &settings).await;
    disk.fill();
    set.has_ended(0).await;
    assert!(set.log(0).contains("No space left on device"));
    daemon.wait_for_log(OPEN, SOON).await;
    load.more(50).await;
    disk.make_room();
    set.start_again(0).await;
    daemon.wait_for_log(CLOSED, SOON).await;
    commits_more(&set, settings.database()).await;
    assert_eq!(times_logged(&daemon, OPEN), 1);
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &set, &settings).await;
}
