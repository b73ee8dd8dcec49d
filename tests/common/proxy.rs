//! A network that can fail: a TCP proxy in front of any server.
//!
//! It forwards both ways until it is told otherwise, and knows nothing of what it forwards, so it does for MySQL and for MongoDB. What it
//! can do to connections:
//!
//! - [`stall`](Proxy::stall): nothing passes any more, in either direction, and nobody is told: connections stay open, new ones are
//!   accepted, the kernel answers TCP's own keepalives. [`stall_at`](Proxy::stall_at) does it at the first connection whose client
//!   sends certain bytes, for a place in a protocol that no test could hit by time.
//! - [`cut`](Proxy::cut): a TCP reset for every connection; [`cut_inside_packet`](Proxy::cut_inside_packet): only after a half of what the
//!   server sends next.
//! - [`delay`](Proxy::delay): every piece comes later.
//! - [`refuse`](Proxy::refuse): nobody listens.
//!
//! It runs in a thread of its own, so that a test that blocks does not slow it down.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::servers::free_port;

/// Bytes that are forwarded at a time.
const PIECE: usize = 16 * 1024;

/// What the proxy does now.
#[derive(Clone, Debug, Default)]
struct Weather {
    /// Bytes are held back.
    stalled: bool,
    /// It becomes `stalled` when a client sends these bytes; they are held back as well.
    stall_at: Option<Vec<u8>>,
    /// Only the connection with these bytes falls silent, and for good.
    only_one: bool,
    /// Each piece waits this long.
    delay: Duration,
    /// Connections up to this number are to be reset.
    cut: u64,
    /// The next piece of a server is cut in half, and its connection reset.
    cut_inside: bool,
    /// Nobody listens.
    refused: bool,
}

/// A proxy on loopback in front of one server. Dropping it resets all its connections.
pub struct Proxy {
    port: u16,
    weather: Arc<watch::Sender<Weather>>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    /// Connections accepted so far; each has its number in this order.
    accepted: AtomicU64,
    /// Connections that are open now.
    open: AtomicU64,
    /// Bytes taken from the server.
    received: AtomicU64,
    /// Whether new connections are taken.
    listening: AtomicBool,
}

impl Proxy {
    /// Starts a proxy in front of what listens on `port`.
    pub fn start(port: u16) -> Self {
        let proxy = Self {
            port: free_port(),
            weather: Arc::new(watch::channel(Weather::default()).0),
            counters: Arc::default(),
        };
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        let own = SocketAddr::from(([127, 0, 0, 1], proxy.port));
        let listener = std::net::TcpListener::bind(own).expect("a port that was free");
        listener
            .set_nonblocking(true)
            .expect("a socket that does not block");
        let (control, counters) = (Arc::downgrade(&proxy.weather), Arc::clone(&proxy.counters));
        let changes = proxy.weather.subscribe();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime for the proxy");
            // Ends, with all connections, when the proxy is dropped.
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listening socket");
                listen(own, listener, target, control, changes, counters).await;
            });
        });
        proxy
    }

    /// `host:port`, as settings take it.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections were accepted so far.
    pub fn accepted(&self) -> u64 {
        self.counters.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open now, as the proxy sees it.
    pub fn open(&self) -> u64 {
        self.counters.open.load(Ordering::SeqCst)
    }

    /// How many bytes were taken from the server so far.
    pub fn received(&self) -> u64 {
        self.counters.received.load(Ordering::SeqCst)
    }

    /// From now on nothing passes, and nobody is told.
    pub fn stall(&self) {
        self.weather.send_modify(|weather| weather.stalled = true);
    }

    /// [`stall`](Self::stall), at the moment when a client sends `bytes`.
    pub fn stall_at(&self, bytes: &[u8]) {
        self.weather
            .send_modify(|weather| weather.stall_at = Some(bytes.to_vec()));
    }

    /// At the moment when a client sends `bytes`, nothing passes any more on that connection, and all others are as they were.
    pub fn stall_one_at(&self, bytes: &[u8]) {
        self.weather.send_modify(|weather| {
            weather.stall_at = Some(bytes.to_vec());
            weather.only_one = true;
        });
    }

    /// Whether it is stalled.
    pub fn is_stalled(&self) -> bool {
        self.weather.borrow().stalled
    }

    /// Forwards again, what was held back first.
    pub fn resume(&self) {
        self.weather.send_modify(|weather| {
            weather.stalled = false;
            weather.stall_at = None;
        });
    }

    /// Every piece waits this long from now on.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Resets every connection that is open.
    pub fn cut(&self) {
        let accepted = self.accepted();
        self.weather.send_modify(|weather| weather.cut = accepted);
    }

    /// Forwards a half of the next piece that comes from the server, and resets that connection.
    pub fn cut_inside_packet(&self) {
        self.weather
            .send_modify(|weather| weather.cut_inside = true);
    }

    /// Whether [`cut_inside_packet`](Self::cut_inside_packet) has not happened yet.
    pub fn will_cut(&self) -> bool {
        self.weather.borrow().cut_inside
    }

    /// Resets every connection, and refuses new ones.
    pub async fn refuse(&self) {
        self.weather.send_modify(|weather| weather.refused = true);
        self.is_listening(false).await;
        self.cut();
    }

    /// Takes connections again.
    pub async fn accept(&self) {
        self.weather.send_modify(|weather| weather.refused = false);
        self.is_listening(true).await;
    }

    async fn is_listening(&self, expected: bool) {
        let listening = &self.counters.listening;
        super::wait_until(
            "the proxy has noticed",
            Duration::from_secs(10),
            async || listening.load(Ordering::SeqCst) == expected,
        )
        .await;
    }
}

type Changes = watch::Receiver<Weather>;
type Control = Weak<watch::Sender<Weather>>;

/// Accepts connections until the proxy is dropped.
async fn listen(
    own: SocketAddr,
    first: TcpListener,
    target: SocketAddr,
    control: Control,
    mut changes: Changes,
    counters: Arc<Counters>,
) {
    let mut listener = Some(first);
    loop {
        if changes.borrow_and_update().refused {
            listener = None;
        } else if listener.is_none() {
            listener = Some(
                TcpListener::bind(own)
                    .await
                    .expect("the proxy's own port is free"),
            );
        }
        counters
            .listening
            .store(listener.is_some(), Ordering::SeqCst);
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            // An error means that the client has gone again.
            accepted = accepted => if let Ok((client, _)) = accepted {
                let number = counters.accepted.fetch_add(1, Ordering::SeqCst) + 1;
                counters.open.fetch_add(1, Ordering::SeqCst);
                let (control, changes, counters) = (control.clone(), changes.clone(), Arc::clone(&counters));
                tokio::spawn(async move {
                    connection(number, client, target, control, changes, &counters).await;
                    counters.open.fetch_sub(1, Ordering::SeqCst);
                });
            },
        }
    }
}

/// One connection, until either side closes it, which is passed on, or it is cut.
async fn connection(
    number: u64,
    mut client: TcpStream,
    target: SocketAddr,
    control: Control,
    changes: Changes,
    counters: &Counters,
) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        reset(&client);
        return;
    };
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("TCP_NODELAY");
    }
    let (client_reader, client_writer) = client.split();
    let (server_reader, server_writer) = server.split();
    let cut = async {
        // An error means that the proxy is dropped, which cuts as well.
        let _ = changes
            .clone()
            .wait_for(|weather| weather.cut >= number)
            .await;
        End::Cut
    };
    let end = tokio::select! {
        biased;
        end = cut => end,
        end = forward(client_reader, server_writer, control.clone(), changes.clone(), None) => end,
        end = forward(server_reader, client_writer, control, changes.clone(), Some(&counters.received)) => end,
    };
    if let End::Cut = end {
        reset(&client);
        reset(&server);
    }
}

/// How a connection ended.
enum End {
    /// One side closed it, or is gone.
    Closed,
    /// The proxy is to reset it.
    Cut,
}

/// One direction of a connection; from the server to the client when its bytes are counted.
async fn forward(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    control: Control,
    mut changes: Changes,
    received: Option<&AtomicU64>,
) -> End {
    let mut piece = vec![0; PIECE];
    let mut tail = Vec::new();
    loop {
        let length = match from.read(&mut piece).await {
            Ok(0) | Err(_) => {
                // Nor does anybody hear of an end while nothing passes.
                let _ = changes.wait_for(|weather| !weather.stalled).await;
                return End::Closed;
            }
            Ok(length) => length,
        };
        let bytes = &piece[..length];
        if let Some(received) = received {
            received.fetch_add(length as u64, Ordering::SeqCst);
        }
        let now = changes.borrow().clone();
        if received.is_none()
            && let Some(wanted) = &now.stall_at
        {
            tail.extend_from_slice(bytes);
            if tail.windows(wanted.len()).any(|window| window == wanted) {
                if now.only_one {
                    if let Some(control) = control.upgrade() {
                        control.send_modify(|weather| weather.stall_at = None);
                    }
                    // Until it is cut, or the proxy is dropped.
                    std::future::pending::<()>().await;
                }
                if let Some(control) = control.upgrade() {
                    control.send_modify(|weather| weather.stalled = true);
                }
            }
            tail.drain(..tail.len().saturating_sub(wanted.len()));
        }
        if !now.delay.is_zero() {
            tokio::time::sleep(now.delay).await;
        }
        if changes.wait_for(|weather| !weather.stalled).await.is_err() {
            return End::Cut;
        }
        let is_last = received.is_some()
            && control.upgrade().is_some_and(|control| {
                control.send_if_modified(|weather| std::mem::take(&mut weather.cut_inside))
            });
        let sent = if is_last { &bytes[..length / 2] } else { bytes };
        if to.write_all(sent).await.is_err() {
            return End::Closed;
        }
        if is_last {
            // The half has to arrive before the reset overtakes it.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return End::Cut;
        }
    }
}

/// When this socket is dropped, its peer gets a reset.
fn reset(stream: &TcpStream) {
    stream
        .set_zero_linger()
        .expect("SO_LINGER on an open socket");
}
