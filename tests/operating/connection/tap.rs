//! A proxy on loopback that keeps what passes through it: what a connection really says, and whether it is encrypted. It can
//! damage the random bytes that a login is about.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket};

pub(crate) struct Tap {
    port: u16,
    heard: Arc<Mutex<Heard>>,
    to_damage: Arc<Mutex<usize>>,
}

#[derive(Default, Clone)]
pub(crate) struct Heard {
    pub(crate) from_server: Vec<u8>,
    pub(crate) from_client: Vec<u8>,
}

impl Tap {
    /// Listens on a port of its own and connects on to `port`, as a client whose address is `from`.
    pub(crate) async fn start(port: u16, from: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tap = Self {
            port: listener.local_addr().unwrap().port(),
            heard: Arc::default(),
            to_damage: Arc::default(),
        };
        let heard = Arc::clone(&tap.heard);
        let to_damage = Arc::clone(&tap.to_damage);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (heard, to_damage) = (Arc::clone(&heard), Arc::clone(&to_damage));
                tokio::spawn(async move {
                    let socket = TcpSocket::new_v4().unwrap();
                    let from: SocketAddr = format!("{from}:0").parse().unwrap();
                    socket.bind(from).unwrap();
                    let Ok(server) = socket.connect(([127, 0, 0, 1], port).into()).await else {
                        return;
                    };
                    let (client_in, client_out) = client.into_split();
                    let (server_in, server_out) = server.into_split();
                    let other = Arc::clone(&heard);
                    tokio::join!(
                        pass(client_in, server_out, |bytes| {
                            heard.lock().unwrap().from_client.extend_from_slice(bytes);
                        }),
                        pass(server_in, client_out, |bytes| {
                            let mut to_damage = to_damage.lock().unwrap();
                            if *to_damage > 0 && damage_nonce(bytes) {
                                *to_damage -= 1;
                            }
                            other.lock().unwrap().from_server.extend_from_slice(bytes);
                        }),
                    );
                });
            }
        });
        tap
    }

    /// Damages what the next `logins` by ed25519 are to sign, as a driver does that reads it wrong.
    pub(crate) fn damage(&self, logins: usize) {
        *self.to_damage.lock().unwrap() = logins;
    }

    /// How many logins are still to be damaged.
    pub(crate) fn to_damage(&self) -> usize {
        *self.to_damage.lock().unwrap()
    }

    pub(crate) fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// All that passed until now, of all connections one after the other.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut note: impl FnMut(&mut [u8])) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer).await
        && count > 0
    {
        note(&mut buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// The packet that asks for ed25519 names the plugin, and the rest of it are the bytes to sign.
fn damage_nonce(bytes: &mut [u8]) -> bool {
    const PLUGIN: &[u8] = b"client_ed25519\0";
    let start = bytes.windows(PLUGIN.len()).position(|part| part == PLUGIN);
    let nonce = start.and_then(|start| bytes.get_mut(start + PLUGIN.len()));
    nonce.map(|byte| *byte ^= 1).is_some()
}

pub(crate) fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
