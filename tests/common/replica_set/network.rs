//! The lines of a replica set: one for each member, in a thread of their own.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::Node;

/// Bytes that are forwarded at a time.
const PIECE: usize = 16 * 1024;

/// What the lines do now.
#[derive(Clone, Debug, Default)]
pub(super) struct Weather {
    /// Pairs between which nothing passes, both ways round.
    pub(super) parted: HashSet<(Node, Node)>,
    pub(super) ambush: Option<Ambush>,
}

impl Weather {
    pub(super) fn part(&mut self, one: Node, other: Node) {
        self.parted.insert((one, other));
        self.parted.insert((other, one));
    }
}

/// What happens when sdl sends certain bytes.
#[derive(Clone, Debug)]
pub(super) struct Ambush {
    pub(super) bytes: Vec<u8>,
    pub(super) times: u32,
    pub(super) deed: Deed,
}

#[derive(Clone, Debug)]
pub(super) enum Deed {
    LoseAnswer,
    Part(Vec<(Node, Node)>),
}

pub(super) struct Network {
    weather: watch::Sender<Weather>,
    pub(super) struck: AtomicU32,
    /// The process of each member.
    processes: Mutex<Vec<u32>>,
}

impl Network {
    /// Opens a line for each (port of the line, port of the member).
    pub(super) fn start(lines: Vec<(u16, u16)>) -> Arc<Self> {
        let network = Arc::new(Self {
            weather: watch::channel(Weather::default()).0,
            struck: AtomicU32::new(0),
            processes: Mutex::new(vec![0; lines.len()]),
        });
        let listeners: Vec<_> = lines
            .into_iter()
            .map(|(line, member)| {
                let listener =
                    std::net::TcpListener::bind(("127.0.0.1", line)).expect("a port that was free");
                listener
                    .set_nonblocking(true)
                    .expect("a socket that does not block");
                (listener, member)
            })
            .collect();
        let (weak, mut changes) = (Arc::downgrade(&network), network.weather.subscribe());
        // A thread of its own, so that a test that blocks does not slow it down. It ends with the set.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime for the network");
            runtime.block_on(async move {
                for (number, (listener, port)) in listeners.into_iter().enumerate() {
                    let listener = TcpListener::from_std(listener).expect("a listening socket");
                    tokio::spawn(listen(number, listener, port, weak.clone()));
                }
                while changes.changed().await.is_ok() {}
            });
        });
        network
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.weather.send_modify(change);
    }

    pub(super) fn lie_in_wait(&self, ambush: Ambush) {
        self.change(|weather| weather.ambush = Some(ambush));
    }

    pub(super) fn is_process(&self, member: usize, pid: u32) {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)[member] = pid;
    }

    /// Who opened the connection from local port `from` to local port `to`.
    fn caller(&self, from: u16, to: u16) -> Node {
        let processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(socket) = inode(from, to).map(|inode| format!("socket:[{inode}]")) else {
            return Node::Outside;
        };
        let holds = |pid: &u32| {
            fs::read_dir(format!("/proc/{pid}/fd"))
                .into_iter()
                .flatten()
                .flatten()
                .any(|entry| {
                    fs::read_link(entry.path())
                        .is_ok_and(|target| target.as_os_str() == socket.as_str())
                })
        };
        processes
            .iter()
            .position(holds)
            .map_or(Node::Outside, Node::Member)
    }

    /// Whether the prepared fault strikes at a client that has sent these bytes, and then which; it is counted.
    fn strikes(&self, tail: &[u8]) -> Option<Deed> {
        let mut deed = None;
        self.weather.send_if_modified(|weather| {
            let Some(ambush) = &mut weather.ambush else {
                return false;
            };
            if !tail
                .windows(ambush.bytes.len())
                .any(|window| window == ambush.bytes)
            {
                return false;
            }
            deed = Some(ambush.deed.clone());
            ambush.times -= 1;
            if ambush.times == 0 {
                weather.ambush = None;
            }
            if let Some(Deed::Part(pairs)) = &deed {
                for (one, other) in pairs {
                    weather.part(*one, *other);
                }
            }
            true
        });
        if deed.is_some() {
            self.struck.fetch_add(1, Ordering::SeqCst);
        }
        deed
    }
}

/// The inode of the socket on loopback with these ports (proc_net(5): addresses in hexadecimal, the inode is the tenth field).
fn inode(local: u16, remote: u16) -> Option<String> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let (local, remote) = (format!(":{local:04X}"), format!(":{remote:04X}"));
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next()?.ends_with(&local) && fields.next()?.ends_with(&remote);
        is_it.then(|| fields.nth(6).map(str::to_owned)).flatten()
    })
}

async fn listen(member: usize, listener: TcpListener, port: u16, network: Weak<Network>) {
    let line = listener.local_addr().expect("a bound socket").port();
    loop {
        // An error means that the caller has gone again.
        let Ok((client, address)) = listener.accept().await else {
            continue;
        };
        let Some(open) = network.upgrade() else {
            return;
        };
        let caller = open.caller(address.port(), line);
        let changes = open.weather.subscribe();
        drop(open);
        let pair = (caller, Node::Member(member));
        tokio::spawn(connection(client, port, pair, network.clone(), changes));
    }
}

/// One connection, until either side closes it, which is passed on.
async fn connection(
    mut client: TcpStream,
    port: u16,
    pair: (Node, Node),
    network: Weak<Network>,
    changes: watch::Receiver<Weather>,
) {
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(mut server) = TcpStream::connect(target).await else {
        reset(&client);
        return;
    };
    for stream in [&client, &server] {
        // A peer that has gone is noticed by reading.
        let _ = stream.set_nodelay(true);
    }
    let loses_answer = AtomicBool::new(false);
    let (client_reader, client_writer) = client.split();
    let (server_reader, server_writer) = server.split();
    let line = |watcher| Line {
        pair,
        watcher,
        loses_answer: &loses_answer,
        changes: changes.clone(),
    };
    let is_cut = tokio::select! {
        cut = line(Some(network)).forward(client_reader, server_writer) => cut,
        cut = line(None).forward(server_reader, client_writer) => cut,
    };
    if is_cut {
        reset(&client);
        reset(&server);
    }
}

/// One direction of a connection.
struct Line<'a> {
    pair: (Node, Node),
    /// Who is told what the caller sends; none in the other direction.
    watcher: Option<Weak<Network>>,
    loses_answer: &'a AtomicBool,
    changes: watch::Receiver<Weather>,
}

impl Line<'_> {
    /// Whether it ended because it is to be reset; otherwise one side closed it.
    async fn forward(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> bool {
        let mut piece = vec![0; PIECE];
        let mut tail = Vec::new();
        loop {
            let read = from.read(&mut piece).await;
            let bytes = match &read {
                Ok(length) if *length > 0 => &piece[..*length],
                _ => &[],
            };
            let is_from_outside = self.pair.0 == Node::Outside;
            match &self.watcher {
                Some(network) if is_from_outside => {
                    tail.extend_from_slice(bytes);
                    let Some(network) = network.upgrade() else {
                        return true;
                    };
                    match network.strikes(&tail) {
                        Some(deed) => {
                            tail.clear();
                            if matches!(deed, Deed::LoseAnswer) {
                                self.loses_answer.store(true, Ordering::SeqCst);
                            }
                        }
                        // A command's name is shorter than this.
                        None => drop(tail.drain(..tail.len().saturating_sub(64))),
                    }
                }
                None if self.loses_answer.load(Ordering::SeqCst) && !bytes.is_empty() => {
                    return true;
                }
                _ => (),
            }
            // Nor does anybody hear of an end while nothing passes.
            let pair = self.pair;
            let passes = |weather: &Weather| !weather.parted.contains(&pair);
            if self.changes.wait_for(passes).await.is_err() {
                return true;
            }
            if bytes.is_empty() || to.write_all(bytes).await.is_err() {
                return false;
            }
        }
    }
}

/// When this socket is dropped, its peer gets a reset.
fn reset(stream: &TcpStream) {
    // It may be gone already.
    let _ = stream.set_zero_linger();
}
