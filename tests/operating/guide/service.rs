//! The guide's commands about the service, where a systemd really runs it.

use std::path::Path;

use super::{SOON, blocks};
use crate::common::systemd::{System, settings_file};
use crate::common::{Mongod, Mysqld, Settings};

#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_looked_at_started_and_stopped() {
    let Some(system) = System::boot().await else {
        return;
    };
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    system.copy(Path::new(env!("CARGO_BIN_EXE_sdl")), "/usr/bin/sdl");
    for unit in ["sdl.service", "sdl@.service"] {
        let place = format!("/lib/systemd/system/{unit}");
        system.copy(&here.join("deploy").join(unit), &place);
    }
    let settings = Settings::new(&mysqld, mongod);
    system.write("/etc/sdl/sdl.env", settings_file(&settings));
    let other = Settings::new(&mysqld, mongod).set("SOURCE_ID", "shop");
    system.write("/etc/sdl/shop.env", settings_file(&other));
    let account = "adduser --quiet --system --group --no-create-home --home /var/lib/sdl sdl && chown -R root:sdl /etc/sdl";
    system.output(&["sh", "-c", account]).await;
    system.output(&["systemctl", "daemon-reload"]).await;
    system.output(&["systemctl", "start", "sdl@shop"]).await;
    let mut stopped = 0;
    for block in blocks("systemd") {
        assert_eq!(block.language, "sh", "{}", block.place);
        system.output(&["systemctl", "start", "sdl"]).await;
        let done = system
            .run(&["bash", "-euo", "pipefail", "-c", &block.text])
            .await;
        assert_eq!(done.code, 0, "{}: {done:#?}", block.place);
        if block.text.contains("systemctl stop sdl") {
            let state = system.property("sdl", "ActiveState").await;
            assert_eq!(state, "inactive", "{}", block.place);
            system
                .wait_for_log("sdl.service", "Shutdown complete", SOON)
                .await;
            stopped += 1;
        }
    }
    assert!(stopped >= 2);
}
