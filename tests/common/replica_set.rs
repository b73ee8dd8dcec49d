//! A real MongoDB replica set of several members, and the network between them.
//!
//! Each member listens on a port of its own and is known to everybody, itself too, by the port of its [`Line`]: a TCP proxy that knows who
//! is at the other end, since it looks up which process opened the connection (`/proc/net/tcp`, `/proc/PID/fd`). So any two can be
//! parted while all others go on talking, without rights to change the machine's network: nothing passes, nobody is told, and what
//! was on its way arrives when they meet again.
//!
//! The lines read along with what sdl sends (it comes from [`Node::Outside`], as the test's own clients do), so that a fault can strike at
//! one place in the protocol: see [`ReplicaSet::lose_answers_to`] and [`ReplicaSet::part_at`].

mod network;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};

use network::{Ambush, Deed, Network};

use super::mongo::{self, Deployment};
use super::servers::{self, Process, Scratch, binaries, free_port};
use super::{POLL, wait_until};

/// Every election here takes a few seconds; a busy machine gets more.
const ELECTION: Duration = Duration::from_secs(60);

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

    /// From now on a primary that is cut off believes for so long that it is one, and the others wait for so long before they elect another.
    pub async fn elect_after(&self, patience: Duration) {
        let primary = self.primary().await;
        let config = async |member| {
            let answer = self.admin(member, doc! { "replSetGetConfig": 1 }).await;
            answer
                .get_document("config")
                .expect("a configuration")
                .clone()
        };
        let mut wanted = config(primary).await;
        let version = wanted.get_i32("version").expect("a version") + 1;
        wanted.insert("version", version);
        wanted
            .get_document_mut("settings")
            .expect("settings")
            .insert("electionTimeoutMillis", patience.as_millis() as i32);
        self.admin(primary, doc! { "replSetReconfig": wanted })
            .await;
        for member in self.all() {
            wait_until("every member knows of it", ELECTION, async || {
                config(member).await.get_i32("version").expect("a version") == version
            })
            .await;
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
