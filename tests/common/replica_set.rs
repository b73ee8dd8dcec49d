//! A real MongoDB replica set of several members, and the network between them.
//!
//! Each member listens on a port of its own and is known to everybody, itself too, by the port of its [`Line`]: a TCP proxy that knows who
//! is at the other end, since it looks up which process opened the connection (`/proc/net/tcp`, `/proc/PID/fd`). So any two can be
//! parted while all others go on talking, without rights to change the machine's network: nothing passes, nobody is told, and what
//! was on its way arrives when they meet again.
//!
//! The lines read along with what sdl sends (it comes from [`Node::Outside`], as the test's own clients do), so that a fault can strike at
//! one place in the protocol: see [`ReplicaSet::lose_answers_to`] and [`ReplicaSet::part_at`].

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::mongo::{self, Deployment};
use super::servers::{self, Process, Scratch, binaries, free_port};
use super::{POLL, wait_until};

/// Every election here takes a few seconds; a busy machine gets more.
const ELECTION: Duration = Duration::from_secs(60);

/// Bytes that are forwarded at a time.
const PIECE: usize = 16 * 1024;

/// Who opens a connection, or is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// sdl, and the clients of the test.
    Outside,
    /// A member, by its number.
    Member(usize),
}

/// A replica set on loopback. Dropping it kills all members.
pub struct ReplicaSet {
    // Before the directory: fields are dropped in order.
    members: Vec<Member>,
    network: Arc<Network>,
    scratch: Scratch,
}

struct Member {
    process: Mutex<Option<Process>>,
    /// Where it listens.
    port: u16,
    /// Where everybody finds it.
    line: u16,
    directory: PathBuf,
    /// What stands before the program on its command line.
    inside: Vec<String>,
    options: Vec<String>,
}

impl Deployment for ReplicaSet {
    fn uri(&self) -> String {
        let hosts: Vec<String> = (0..self.members.len())
            .map(|member| self.host(member))
            .collect();
        format!("mongodb://{}/?replicaSet=rs0", hosts.join(","))
    }
}

impl ReplicaSet {
    /// Starts three members and waits until one is primary; takes about five seconds.
    pub async fn start() -> Self {
        Self::start_with(3, &[]).await
    }

    /// Starts so many members with further options.
    pub async fn start_with(count: usize, options: &[&str]) -> Self {
        let scratch = Scratch::new("set");
        let directories = (0..count)
            .map(|number| scratch.path().join(format!("member{number}")))
            .collect();
        Self::start_in(scratch, directories, &[], options).await
    }

    /// Starts a set of one whose data lies in a directory that only commands begun with `inside` can see.
    pub async fn start_inside(inside: &[String], directory: PathBuf, options: &[&str]) -> Self {
        Self::start_in(Scratch::new("set"), vec![directory], inside, options).await
    }

    async fn start_in(
        scratch: Scratch,
        directories: Vec<PathBuf>,
        inside: &[String],
        options: &[&str],
    ) -> Self {
        let members: Vec<Member> = directories
            .into_iter()
            .map(|directory| Member {
                process: Mutex::new(None),
                port: free_port(),
                line: free_port(),
                directory,
                inside: inside.to_vec(),
                options: options.iter().map(ToString::to_string).collect(),
            })
            .collect();
        let lines = members
            .iter()
            .map(|member| (member.line, member.port))
            .collect();
        let set = Self {
            network: Network::start(lines),
            members,
            scratch,
        };
        for member in 0..set.members.len() {
            set.launch(member);
        }
        for member in 0..set.members.len() {
            set.answers(member).await;
        }
        let members: Vec<Document> = (0..set.members.len())
            .map(|member| doc! { "_id": member as i32, "host": set.host(member) })
            .collect();
        // A dead primary is replaced within seconds, as in production within ten.
        let pace = doc! { "electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500, "heartbeatTimeoutSecs": 2 };
        set.admin(
            0,
            doc! { "replSetInitiate": { "_id": "rs0", "members": members, "settings": pace } },
        )
        .await;
        set.primary().await;
        // All of them have a copy: from now on a majority survives the loss of any one.
        for member in 0..set.members.len() {
            set.holds_data(member).await;
        }
        set
    }

    /// The numbers of all members.
    pub fn all(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.members.len()
    }

    /// The numbers of all members but one.
    pub fn others(&self, member: usize) -> Vec<usize> {
        self.all().filter(|other| *other != member).collect()
    }

    /// A new client of the set.
    pub async fn client(&self) -> Client {
        mongo::connect(&self.uri()).await
    }

    /// A database by name, on a new client of the set.
    pub async fn database(&self, name: &str) -> Database {
        self.client().await.database(name)
    }

    /// A client of one member, whatever its role, on a line of its own that no fault touches.
    pub async fn direct(&self, member: usize) -> Client {
        let port = self.members[member].port;
        mongo::connect(&format!(
            "mongodb://127.0.0.1:{port}/?directConnection=true"
        ))
        .await
    }

    /// Runs an admin command on one member.
    pub async fn admin(&self, member: usize, command: Document) -> Document {
        let name = command.keys().next().cloned().unwrap_or_default();
        self.direct(member)
            .await
            .database("admin")
            .run_command(command)
            .await
            .unwrap_or_else(|error| panic!("member {member} refused {name}: {error}"))
    }

    /// Waits for a primary and gives its number.
    pub async fn primary(&self) -> usize {
        let all: Vec<usize> = self.all().collect();
        self.primary_among(&all).await
    }

    /// Waits until one of these is primary, and gives its number.
    pub async fn primary_among(&self, members: &[usize]) -> usize {
        let mut clients = Vec::new();
        for member in members {
            clients.push((*member, self.direct(*member).await));
        }
        let started = Instant::now();
        loop {
            for (member, client) in &clients {
                if self.is_up(*member) && says(client, "isWritablePrimary").await {
                    return *member;
                }
            }
            assert!(
                started.elapsed() < ELECTION,
                "none of {members:?} is primary after {ELECTION:?}\n{}",
                servers::tail(&self.log_path(members[0]))
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// The primary gives its role up, and another member takes it: the number of the new one.
    pub async fn step_down(&self) -> usize {
        let before = self.primary().await;
        let client = self.direct(before).await;
        // It answers with an error while the others have not caught up; under load that may take more than one attempt.
        wait_until("the primary steps down", ELECTION, async || {
            client
                .database("admin")
                .run_command(doc! { "replSetStepDown": 30, "secondaryCatchUpPeriodSecs": 10 })
                .await
                .is_ok()
        })
        .await;
        self.primary_among(&self.others(before)).await
    }

    /// SIGKILL.
    pub fn kill(&self, member: usize) {
        self.with_process(member, Process::kill);
    }

    /// SIGSTOP: its connections stay open and nothing answers.
    pub fn pause(&self, member: usize) {
        self.with_process(member, Process::pause);
    }

    /// SIGCONT.
    pub fn resume(&self, member: usize) {
        self.with_process(member, Process::resume);
    }

    /// Starts a member again that was killed; waits until it answers.
    pub async fn start_again(&self, member: usize) {
        self.launch(member);
        self.answers(member).await;
    }

    /// Waits until a member's process has ended by itself.
    pub async fn has_ended(&self, member: usize) {
        wait_until("the member has ended", servers::STOP, async || {
            !self.is_up(member)
        })
        .await;
    }

    /// A member's log.
    pub fn log(&self, member: usize) -> String {
        fs::read_to_string(self.log_path(member)).unwrap_or_default()
    }

    /// From now on nothing passes between two nodes, and neither is told.
    pub fn part(&self, one: Node, other: Node) {
        self.network.change(|weather| weather.part(one, other));
    }

    /// A member can reach no other member, nor they it; the outside reaches all.
    pub fn isolate(&self, member: usize) {
        for other in self.others(member) {
            self.part(Node::Member(member), Node::Member(other));
        }
    }

    /// Everybody reaches everybody again. What was on its way arrives now.
    pub fn heal(&self) {
        self.network.change(|weather| {
            weather.parted.clear();
            weather.ambush = None;
        });
    }

    /// The next `times` times that sdl sends `bytes`, the request arrives, and its connection breaks in place of the answer.
    pub fn lose_answers_to(&self, bytes: &[u8], times: u32) {
        self.network.lie_in_wait(Ambush {
            bytes: bytes.to_vec(),
            times,
            deed: Deed::LoseAnswer,
        });
    }

    /// Parts nodes at the very moment when sdl sends `bytes`, before they arrive.
    pub fn part_at(&self, bytes: &[u8], pairs: &[(Node, Node)]) {
        self.network.lie_in_wait(Ambush {
            bytes: bytes.to_vec(),
            times: 1,
            deed: Deed::Part(pairs.to_vec()),
        });
    }

    /// Waits until faults that were prepared with `lose_answers_to` or `part_at` have struck so many times.
    pub async fn has_struck(&self, times: u32) {
        let struck = &self.network.struck;
        wait_until(
            &format!("the fault strikes {times} times"),
            ELECTION,
            async || struck.load(Ordering::SeqCst) >= times,
        )
        .await;
    }

    fn host(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.members[member].line)
    }

    fn launch(&self, number: usize) {
        self.kill(number);
        let member = &self.members[number];
        let data = member.directory.join("data");
        if member.inside.is_empty() {
            fs::create_dir_all(&data).expect("a data directory in target/tmp");
        }
        let mut command = servers::guarded_inside(&member.inside, &data, &binaries().mongod);
        command
            .arg("--dbpath")
            .arg(&data)
            .args(["--port", &member.port.to_string()])
            .args(["--replSet", "rs0", "--bind_ip", "127.0.0.1"])
            .args(["--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"])
            .args(["--oplogSize", "200"])
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            .args(["--setParameter", "enableTestCommands=1"])
            .args(&member.options);
        let process = Process::start("mongod", command, &self.log_path(number));
        self.network.is_process(number, process.pid());
        *member
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(process);
    }

    async fn answers(&self, member: usize) {
        let client = self.direct(member).await;
        let started = Instant::now();
        while let Err(error) = client
            .database("admin")
            .run_command(doc! { "ping": 1 })
            .await
        {
            self.with_process(member, Process::assert_running);
            assert!(
                started.elapsed() < servers::START,
                "member {member} does not answer: {error}\n{}",
                servers::tail(&self.log_path(member))
            );
        }
    }

    async fn holds_data(&self, member: usize) {
        let client = self.direct(member).await;
        wait_until("every member holds the data", servers::START, async || {
            says(&client, "isWritablePrimary").await || says(&client, "secondary").await
        })
        .await;
    }

    fn is_up(&self, member: usize) -> bool {
        self.members[member]
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|process| process.exited().is_none())
    }

    fn with_process(&self, member: usize, act: impl FnOnce(&Process)) {
        if let Some(process) = self.members[member]
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
        {
            act(process);
        }
    }

    fn log_path(&self, member: usize) -> PathBuf {
        self.scratch.path().join(format!("mongod{member}.log"))
    }
}

/// Whether a member says this of itself in its `hello`.
async fn says(client: &Client, role: &str) -> bool {
    let hello = client
        .database("admin")
        .run_command(doc! { "hello": 1 })
        .await;
    hello.is_ok_and(|hello| hello.get_bool(role).unwrap_or(false))
}

// --- the network

/// What the lines do now.
#[derive(Clone, Debug, Default)]
struct Weather {
    /// Pairs between which nothing passes, both ways round.
    parted: HashSet<(Node, Node)>,
    ambush: Option<Ambush>,
}

impl Weather {
    fn part(&mut self, one: Node, other: Node) {
        self.parted.insert((one, other));
        self.parted.insert((other, one));
    }
}

/// What happens when sdl sends certain bytes.
#[derive(Clone, Debug)]
struct Ambush {
    bytes: Vec<u8>,
    times: u32,
    deed: Deed,
}

#[derive(Clone, Debug)]
enum Deed {
    LoseAnswer,
    Part(Vec<(Node, Node)>),
}

struct Network {
    weather: watch::Sender<Weather>,
    struck: AtomicU32,
    /// The process of each member.
    processes: Mutex<Vec<u32>>,
}

impl Network {
    /// Opens a line for each (port of the line, port of the member).
    fn start(lines: Vec<(u16, u16)>) -> Arc<Self> {
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

    fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.weather.send_modify(change);
    }

    fn lie_in_wait(&self, ambush: Ambush) {
        self.change(|weather| weather.ambush = Some(ambush));
    }

    fn is_process(&self, member: usize, pid: u32) {
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
