//! Whether an sdl of this source reads a server at this moment, for commands that must not take the source from it.

use super::replicas::Replicas;
use super::servers::{self, bounded};
use crate::config::Config;
use crate::error::Result;

/// Asks every server of MYSQL_ADDR. One that is listed may be dead without the server knowing, so that takes up to 30 s.
///
/// # Errors
/// [`crate::error::Kind::DuplicateReplica`] when there is one; when a server cannot be asked, it cannot be told. A MariaDB server tells accounts
/// with REPLICATION MASTER ADMIN only.
pub async fn refuse(config: &Config) -> Result<()> {
    for address in &config.mysql_addresses {
        let (mut connection, _) = servers::ask(config, address, config.mysql_flavor).await?;
        Replicas::new(config)
            .refuse_other_runs(&mut connection)
            .await?;
        let _ = bounded("close a connection", async {
            Ok(connection.disconnect().await)
        })
        .await;
    }
    Ok(())
}
