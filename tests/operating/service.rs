//! sdl as a service of a systemd that really boots: the units of deploy/, the journal, and what systemctl does to it.

use crate::common::systemd::System;

#[tokio::test]
async fn boots() {
    let Some(system) = System::boot().await else {
        return;
    };
    println!("{}", system.output(&["systemctl", "--failed"]).await);
    println!("{}", system.output(&["systemd-analyze"]).await);
}
