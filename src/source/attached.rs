//! Whether an sdl of this source reads a server at this moment, for commands that must not take the source from it.

use super::connect;
use super::replicas::Replicas;
use super::servers::{self, bounded};
use crate::config::Config;
use crate::error::{Kind, Result};

/// Asks every server of MYSQL_ADDR. One that is listed may be dead without the server knowing, so that takes up to 30 s.
///
/// # Errors
/// [`Kind::DuplicateReplica`] when there is one; when a server cannot be asked, it cannot be told. A MariaDB server tells accounts
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

/// The same, but a server that does not answer is passed over: it may be the reason for all this, and whoever reads all the same is
/// fenced.
///
/// # Errors
/// [`Kind::DuplicateReplica`] when there is one.
pub async fn refuse_where_asked(config: &Config) -> Result<()> {
    for address in &config.mysql_addresses {
        let asked = async {
            let doing = format!("connect to mysql {address}");
            let mut connection = bounded(&doing, connect::connect(config, address)).await?;
            Replicas::new(config)
                .refuse_other_runs(&mut connection)
                .await
        };
        match asked.await {
            Err(error) if error.kind() == Kind::DuplicateReplica => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "a server cannot be asked whether another sdl reads it");
            }
            Ok(()) => {}
        }
    }
    Ok(())
}
