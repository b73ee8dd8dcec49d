//! A proxy on loopback that keeps what passes through it: what a connection really says, and whether it is encrypted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket};

pub(crate) struct Tap {
    port: u16,
    heard: Arc<Mutex<Heard>>,
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
        };
        let heard = Arc::clone(&tap.heard);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let heard = Arc::clone(&heard);
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
                            heard.lock().unwrap().from_client.extend(bytes);
                        }),
                        pass(server_in, client_out, |bytes| {
                            other.lock().unwrap().from_server.extend(bytes);
                        }),
                    );
                });
            }
        });
        tap
    }

    pub(crate) fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// All that passed until now, of all connections one after the other.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut note: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer).await
        && count > 0
    {
        note(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

pub(crate) fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
