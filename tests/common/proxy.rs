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
//! - [`delay`](Proxy::delay): every piece waits, one behind the other; [`latency`](Proxy::latency): every piece comes so much later,
//!   as over a long line; [`bandwidth`](Proxy::bandwidth): so many bytes a second.
//! - [`lose`](Proxy::lose): packets are lost, and TCP has to send them again.
//! - [`refuse`](Proxy::refuse): nobody listens.
//!
//! It runs in a thread of its own, so that a test that blocks does not slow it down.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use socket2::{SockFilter, Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::servers::free_port;

/// Bytes that are forwarded at a time.
const PIECE: usize = 16 * 1024;

/// Pieces that may be on their way in one direction of a connection.
const ON_THE_WAY: usize = 16;

/// What the proxy does now.
#[derive(Clone, Debug, Default)]
struct Weather {
    /// Bytes are held back.
    stalled: bool,
    /// It becomes `stalled` when a client sends these bytes; they are held back as well.
    stall_at: Option<Vec<u8>>,
    /// Only the connection with these bytes falls silent, and for good.
    only_one: bool,
    /// Each piece waits this long before the next.
    delay: Duration,
    /// Each piece is on its way for this long.
    latency: Duration,
    /// Bytes a second in each direction, of all connections together; none: as many as come.
    bandwidth: Option<u32>,
    /// Of a thousand packets that arrive at the proxy, so many are lost.
    lost: u32,
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
    /// When the line is free again after what it was given: to the server, and from it.
    free: [Mutex<Option<Instant>>; 2],
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

    /// Every piece waits this long from now on, and those behind it as well.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Every piece is on its way for this long from now on; others follow it meanwhile.
    pub fn latency(&self, latency: Duration) {
        self.weather
            .send_modify(|weather| weather.latency = latency);
    }

    /// From now on so many bytes a second pass in each direction, whatever the number of connections; `None`: as many as come.
    pub fn bandwidth(&self, bytes_a_second: Option<u32>) {
        self.weather
            .send_modify(|weather| weather.bandwidth = bytes_a_second);
    }

    /// From now on so many of a thousand packets are lost, data and acknowledgements alike, on connections old and new.
    ///
    /// They are lost inside the kernel, as on a bad line, by a filter on the proxy's own sockets: TCP notices, waits, and sends
    /// them again ([`sent_again`]). A packet on loopback has up to 64 KiB.
    pub fn lose(&self, of_a_thousand: u32) {
        self.weather
            .send_modify(|weather| weather.lost = of_a_thousand);
    }

    /// As at the start: everything passes at once, connections are taken. What was cut stays cut.
    pub async fn clear(&self) {
        self.weather.send_modify(|weather| {
            *weather = Weather {
                cut: weather.cut,
                ..Weather::default()
            };
        });
        self.is_listening(true).await;
    }

    /// Resets every connection that is open.
    pub fn cut(&self) {
        let accepted = self.accepted();
        self.weather.send_modify(|weather| weather.cut = accepted);
    }

    /// Forwards a half of the next piece that comes from the server, and resets that connection; not one that only asks a few
    /// questions, whose end is no interruption.
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

/// Bytes from the server on a connection that asks and ends: a login, and answers to a few questions.
const A_FEW_ANSWERS: usize = 8 * 1024;

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
    let losses = lose_packets(&client, &server, changes.clone());
    let (client_reader, client_writer) = client.split();
    let (server_reader, server_writer) = server.split();
    let up = Line {
        received: None,
        free: &counters.free[0],
        control: control.clone(),
        changes: changes.clone(),
    };
    let down = Line {
        received: Some(&counters.received),
        free: &counters.free[1],
        control,
        changes: changes.clone(),
    };
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
        end = losses => end,
        end = up.forward(client_reader, server_writer) => end,
        end = down.forward(server_reader, client_writer) => end,
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

/// One direction of a connection.
struct Line<'a> {
    /// From the server to the client: where its bytes are counted.
    received: Option<&'a AtomicU64>,
    free: &'a Mutex<Option<Instant>>,
    control: Control,
    changes: Changes,
}

impl Line<'_> {
    async fn forward(&self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> End {
        let (sender, pieces) = mpsc::channel(ON_THE_WAY);
        tokio::select! {
            end = self.give(pieces, to) => end,
            // What was taken is still to be given.
            end = async { self.take(from, sender).await; std::future::pending().await } => end,
        }
    }

    /// Takes pieces, each with the moment at which it arrives at the other end, until there are no more.
    async fn take(&self, mut from: ReadHalf<'_>, pieces: mpsc::Sender<(Instant, Vec<u8>)>) {
        let mut piece = vec![0; PIECE];
        let mut tail = Vec::new();
        while let Ok(length) = from.read(&mut piece).await
            && length > 0
        {
            let bytes = &piece[..length];
            if let Some(received) = self.received {
                received.fetch_add(length as u64, Ordering::SeqCst);
            }
            let now = self.changes.borrow().clone();
            if self.received.is_none()
                && let Some(wanted) = &now.stall_at
            {
                tail.extend_from_slice(bytes);
                if tail.windows(wanted.len()).any(|window| window == wanted) {
                    if now.only_one {
                        if let Some(control) = self.control.upgrade() {
                            control.send_modify(|weather| weather.stall_at = None);
                        }
                        // Until it is cut, or the proxy is dropped.
                        std::future::pending::<()>().await;
                    }
                    if let Some(control) = self.control.upgrade() {
                        control.send_modify(|weather| weather.stalled = true);
                    }
                }
                tail.drain(..tail.len().saturating_sub(wanted.len()));
            }
            let due = Instant::now() + now.latency;
            if pieces.send((due, bytes.to_vec())).await.is_err() {
                return;
            }
        }
    }

    /// Gives them to the other end when they are due.
    async fn give(
        &self,
        mut pieces: mpsc::Receiver<(Instant, Vec<u8>)>,
        mut to: WriteHalf<'_>,
    ) -> End {
        let mut changes = self.changes.clone();
        let mut carried = 0;
        loop {
            let Some((due, bytes)) = pieces.recv().await else {
                // Nor does anybody hear of an end while nothing passes.
                let _ = changes.wait_for(|weather| !weather.stalled).await;
                return End::Closed;
            };
            tokio::time::sleep_until(due).await;
            let now = changes.borrow().clone();
            if !now.delay.is_zero() {
                tokio::time::sleep(now.delay).await;
            }
            if let Some(bytes_a_second) = now.bandwidth {
                self.narrow(bytes.len(), bytes_a_second).await;
            }
            if changes.wait_for(|weather| !weather.stalled).await.is_err() {
                return End::Cut;
            }
            carried += bytes.len();
            let is_last = self.received.is_some()
                && carried > A_FEW_ANSWERS
                && self.control.upgrade().is_some_and(|control| {
                    control.send_if_modified(|weather| std::mem::take(&mut weather.cut_inside))
                });
            let sent = if is_last {
                &bytes[..bytes.len() / 2]
            } else {
                &bytes
            };
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

    /// Waits for as long as so many bytes take on a line that all connections share.
    async fn narrow(&self, length: usize, bytes_a_second: u32) {
        let takes = Duration::from_secs(1).mul_f64(length as f64 / f64::from(bytes_a_second));
        let through = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let through = free.map_or(now, |free| free.max(now)) + takes;
            *free = Some(through);
            through
        };
        tokio::time::sleep_until(through).await;
    }
}

/// Loses packets that arrive on a connection's two sockets, as many as the weather says; never ends.
fn lose_packets(
    client: &TcpStream,
    server: &TcpStream,
    mut changes: Changes,
) -> impl Future<Output = End> + use<> {
    // Other handles of the same sockets: the halves of a stream have none.
    let sockets = [client, server].map(|stream| {
        let handle = stream.as_fd().try_clone_to_owned();
        Socket::from(handle.expect("another handle of a socket"))
    });
    async move {
        let mut attached = 0;
        loop {
            let lost = changes.borrow_and_update().lost;
            if lost != attached {
                for socket in &sockets {
                    if lost > 0 {
                        socket.attach_filter(&filter(lost))
                    } else {
                        socket.detach_filter()
                    }
                    .expect("a filter on an own socket");
                }
                attached = lost;
            }
            if changes.changed().await.is_err() {
                return End::Cut;
            }
        }
    }
}

/// A packet filter (BPF, linux/filter.h) that lets packets pass but for so many of a thousand, drawn by the kernel.
fn filter(lost_of_a_thousand: u32) -> [SockFilter; 5] {
    /// `BPF_LD | BPF_W | BPF_ABS` at `SKF_AD_OFF + SKF_AD_RANDOM`: a random number.
    const RANDOM: SockFilter = SockFilter::new(0x20, 0, 0, 0xffff_f000 + 56);
    /// `BPF_ALU | BPF_MOD | BPF_K`
    const OF_A_THOUSAND: SockFilter = SockFilter::new(0x94, 0, 0, 1000);
    /// `BPF_RET | BPF_K`: so many bytes of it are kept.
    const LOSE: SockFilter = SockFilter::new(0x06, 0, 0, 0);
    const KEEP: SockFilter = SockFilter::new(0x06, 0, 0, u32::MAX);
    // `BPF_JMP | BPF_JGE | BPF_K`: over the next one, or to it.
    let keep_the_rest = SockFilter::new(0x35, 1, 0, lost_of_a_thousand);
    [RANDOM, OF_A_THOUSAND, keep_the_rest, LOSE, KEEP]
}

/// Packets that TCP has sent again, on this whole machine (`RetransSegs` of /proc/net/snmp): those that were lost.
pub fn sent_again() -> u64 {
    let snmp = std::fs::read_to_string("/proc/net/snmp").expect("/proc/net/snmp");
    let mut tcp = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (tcp.next(), tcp.next());
    names
        .zip(values)
        .and_then(|(names, values)| {
            let column = names
                .split_whitespace()
                .position(|name| name == "RetransSegs")?;
            values.split_whitespace().nth(column)?.parse().ok()
        })
        .expect("RetransSegs in /proc/net/snmp")
}

/// When this socket is dropped, its peer gets a reset.
fn reset(stream: &TcpStream) {
    stream
        .set_zero_linger()
        .expect("SO_LINGER on an open socket");
}
