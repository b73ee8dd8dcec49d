//! Disks that are full, fail, or are read-only.

use super::*;

#[tokio::test]
async fn a_removal_that_the_disk_refused_is_made_up_for_before_the_next_batch() {
    let directory = Directory::new();
    let spool = directory.open().await;
    for number in 1..=3 {
        spool.append(&batch(number, 1, "a"), 1).await.unwrap();
    }
    let mut shell = Connection::open(spool.path()).unwrap();
    let writing = shell
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .unwrap();
    let error = spool.remove_through(3).await.unwrap_err();
    assert_eq!(error.kind(), Kind::SpoolUnavailable);
    assert_eq!(spool.numbers(), None);
    drop(writing);
    // MongoDB took batches 4 to 9 directly meanwhile.
    spool.append(&batch(10, 1, "a"), 1).await.unwrap();
    drop(spool);
    let spool = directory.open().await;
    assert_eq!(spool.numbers(), Some((10, 10)));
    assert_eq!(spool.figures().events, 1);
}

/// A small file system of its own, where mounting is allowed (root).
struct Mounted(PathBuf);

impl Mounted {
    fn new(directory: &Directory, size: &str) -> Option<Self> {
        let path = directory.0.join("mounted");
        std::fs::create_dir_all(&path).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&path)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("not tested: this user may not mount a file system");
        }
        mounted.then_some(Self(path))
    }

    fn remount(&self, options: &str) {
        let status = std::process::Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.0)
            .status()
            .unwrap();
        assert!(status.success());
    }

    async fn open(&self) -> Result<Spool> {
        let settings = SpoolSettings {
            directory: self.0.join("spool"),
            max_bytes: 256 * MIB,
        };
        Spool::open(&settings, SOURCE).await
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_the_spool_goes_on_when_there_is_room() {
    let directory = Directory::new();
    let Some(disk) = Mounted::new(&directory, "12m") else {
        return;
    };
    let spool = disk.open().await.unwrap();
    let make = |number| large_batch(number);
    let mut number = 1;
    let error = loop {
        match spool.append(&make(number), 1).await {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::SpoolUnavailable, "{error}");
    assert!(error.to_string().contains("disk"), "{error}");
    assert!(spool.figures().is_refusing);
    let last = number - 1;
    assert!(last >= 3, "{last} batches");
    // Again and again: still nothing half-written.
    for _ in 0..3 {
        assert_eq!(
            spool.append(&make(number), 1).await.unwrap_err().kind(),
            Kind::SpoolUnavailable
        );
    }
    assert_eq!(spool.numbers(), Some((1, last)));
    for number in 1..=last {
        assert_equal(&spool.read(number).await.unwrap(), &make(number));
    }
    disk.remount("size=40m");
    spool.append(&make(number), 1).await.unwrap();
    assert!(!spool.figures().is_refusing);
    disk.remount("size=100m");
    drop(spool);
    let spool = disk.open().await.unwrap();
    assert_eq!(spool.numbers(), Some((1, number)));
    for number in 1..=number {
        assert_equal(&spool.read(number).await.unwrap(), &make(number));
    }
    drop(spool);
}

#[tokio::test]
async fn a_full_disk_can_still_be_drained() {
    let directory = Directory::new();
    let Some(disk) = Mounted::new(&directory, "12m") else {
        return;
    };
    let spool = disk.open().await.unwrap();
    let make = |number| large_batch(number);
    let mut last = 0;
    while spool.append(&make(last + 1), 1).await.is_ok() {
        last += 1;
    }
    // Somebody else takes what is left.
    let mut rest = std::fs::File::create(disk.0.join("rest")).unwrap();
    while std::io::Write::write_all(&mut rest, &[0; 4096]).is_ok() {}
    for number in 1..=last {
        assert_equal(&spool.read(number).await.unwrap(), &make(number));
        if let Err(error) = spool.remove_through(number).await {
            assert_eq!(error.kind(), Kind::SpoolUnavailable, "{error}");
        }
        assert_eq!(
            spool.numbers(),
            (number < last).then_some((number + 1, last))
        );
    }
    assert!(
        bytes_on_disk(&spool) < MIB,
        "what was drained gives its room back"
    );
    drop(rest);
    std::fs::remove_file(disk.0.join("rest")).unwrap();
    spool.append(&make(last + 1), 1).await.unwrap();
    assert_eq!(spool.numbers(), Some((last + 1, last + 1)));
    assert_equal(&spool.read(last + 1).await.unwrap(), &make(last + 1));
}

#[tokio::test]
async fn a_read_only_disk_is_told_and_the_spool_goes_on_when_it_is_writable() {
    let directory = Directory::new();
    let Some(disk) = Mounted::new(&directory, "64m") else {
        return;
    };
    let spool = disk.open().await.unwrap();
    spool.append(&batch(1, 1, "a"), 1).await.unwrap();
    drop(spool);
    disk.remount("ro");
    let error = disk.open().await.unwrap_err();
    assert_eq!(error.kind(), Kind::SpoolUnavailable);
    assert!(error.to_string().contains("SPOOL_DIR"), "{error}");
    disk.remount("rw");
    let spool = disk.open().await.unwrap();
    assert_eq!(spool.numbers(), Some((1, 1)));
    spool.append(&batch(2, 1, "a"), 1).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_told() {
    let directory = Directory::new();
    std::fs::write(directory.0.join("spool"), b"a file").unwrap();
    let error = Spool::open(&directory.settings(256 * MIB), SOURCE)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::SpoolUnavailable);
    assert!(error.to_string().contains("SPOOL_DIR"), "{error}");
}
