//! A line to a MySQL server that changes the events of a binlog dump on their way.

use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;

/// COM_BINLOG_DUMP_GTID and COM_BINLOG_DUMP.
const DUMP: [u8; 2] = [0x1e, 0x12];

const HEADER: usize = 19;
const GTID: u8 = 33;

/// A change of the stream: what goes on in place of an event. It is told the number of the transaction that the event
/// belongs to, and gets the event's bytes with header and checksum.
pub(crate) type Damage = dyn Fn(u64, &[u8]) -> Vec<Packet> + Send + Sync;

/// A packet of the dump.
#[derive(Clone)]
pub(crate) enum Packet {
    Event(Vec<u8>),
    /// With no 0x00 in front of it.
    Raw(Vec<u8>),
}

/// The line; its end is that of the test's runtime.
pub(crate) struct Line {
    pub(crate) address: String,
    damaged: Arc<Mutex<Vec<u64>>>,
}

impl Line {
    pub(crate) async fn to(mysqld: &Mysqld, damage: Box<Damage>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (server, damage) = (mysqld.addr(), Arc::from(damage));
        let damaged = Arc::default();
        let places = Arc::clone(&damaged);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.expect("the server");
                tokio::spawn(pass(
                    client,
                    server,
                    Arc::clone(&damage),
                    Arc::clone(&places),
                ));
            }
        });
        Self { address, damaged }
    }

    /// Where in their file the events began that were changed, in order.
    pub(crate) fn damaged(&self) -> Vec<u64> {
        self.damaged.lock().unwrap().clone()
    }
}

/// One connection, until either end has gone.
async fn pass(
    client: TcpStream,
    server: TcpStream,
    damage: Arc<Damage>,
    places: Arc<Mutex<Vec<u64>>>,
) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (dumping, dumps) = watch::channel(false);
    let up = requests(from_client, to_server, dumping);
    let down = answers(from_server, to_client, dumps, damage, places);
    let _: io::Result<()> = tokio::select! { up = up => up, down = down => down };
}

/// A packet's sequence number and content; packets of 16 MiB are not met here.
async fn packet(from: &mut OwnedReadHalf) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 4];
    from.read_exact(&mut header).await?;
    let [low, middle, high, sequence] = header;
    let mut content = vec![0; u32::from_le_bytes([low, middle, high, 0]) as usize];
    from.read_exact(&mut content).await?;
    Ok((sequence, content))
}

async fn send(to: &mut OwnedWriteHalf, sequence: u8, content: &[u8]) -> io::Result<()> {
    let mut bytes = u32::try_from(content.len())
        .expect("a length")
        .to_le_bytes();
    bytes[3] = sequence;
    to.write_all(&[&bytes[..], content].concat()).await
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    dumping: watch::Sender<bool>,
) -> io::Result<()> {
    loop {
        let (sequence, content) = packet(&mut from).await?;
        if sequence == 0
            && content
                .first()
                .is_some_and(|command| DUMP.contains(command))
        {
            dumping.send_replace(true);
        }
        send(&mut to, sequence, &content).await?;
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    dumps: watch::Receiver<bool>,
    damage: Arc<Damage>,
    places: Arc<Mutex<Vec<u64>>>,
) -> io::Result<()> {
    let mut transaction = 0;
    // How many packets more were sent than came.
    let mut shift = 0_u8;
    loop {
        let (sequence, content) = packet(&mut from).await?;
        let event = match content.split_first() {
            Some((0, event)) if *dumps.borrow() && event.len() >= HEADER => event,
            _ => {
                send(&mut to, sequence.wrapping_add(shift), &content).await?;
                continue;
            }
        };
        if event[4] == GTID {
            // Flags (1 byte), the server's UUID (16), then the number.
            let number = event[HEADER + 17..HEADER + 25]
                .try_into()
                .expect("eight bytes");
            transaction = u64::from_le_bytes(number);
        }
        let packets = damage(transaction, event);
        let same = matches!(&packets[..], [Packet::Event(same)] if same == event);
        if !same {
            let end = u32::from_le_bytes(event[13..17].try_into().expect("four bytes"));
            places
                .lock()
                .unwrap()
                .push(u64::from(end) - event.len() as u64);
        }
        shift = shift.wrapping_sub(1);
        for packet in packets {
            shift = shift.wrapping_add(1);
            let content = match packet {
                Packet::Event(event) => [&[0][..], &event].concat(),
                Packet::Raw(content) => content,
            };
            send(&mut to, sequence.wrapping_add(shift), &content).await?;
        }
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
            1 => crc >> 1 ^ 0xedb8_8320,
            _ => crc >> 1,
        })
    })
}

/// An event that begins where `like` does, with its header but for the type, the flags and the length, and with a checksum
/// that is right.
pub(crate) fn event(like: &[u8], kind: u8, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut event = like[..HEADER].to_vec();
    let length = HEADER + body.len() + 4;
    let end = begin(like) + length as u64;
    event[4] = kind;
    event[9..13].copy_from_slice(&u32::try_from(length).expect("a length").to_le_bytes());
    event[13..17].copy_from_slice(&u32::try_from(end).expect("a position").to_le_bytes());
    event[17..19].copy_from_slice(&flags.to_le_bytes());
    event.extend_from_slice(body);
    let checksum = crc32(&event);
    event.extend_from_slice(&checksum.to_le_bytes());
    event
}

/// Where an event begins in its file.
fn begin(event: &[u8]) -> u64 {
    let end = u32::from_le_bytes(event[13..17].try_into().expect("four bytes"));
    u64::from(end) - event.len() as u64
}

/// An event's body: without header and checksum.
pub(crate) fn body(event: &[u8]) -> &[u8] {
    &event[HEADER..event.len() - 4]
}
