//! What a stock Hubble client (1.20.2) says on the wire, byte for byte, and what it has to be answered.
//!
//! `tests/recorded/` holds one exchange a file: the frames that the client sent (HTTP/2, RFC 9113, with its own settings and
//! compressed headers), and the messages that answered them. Here they are sent again, with no client at hand. A file reads
//!
//! ```text
//! $ hubble observe --last 2                       what was run
//! | Nov 21 14:00:00.000: shop/web-3:40000 …       what it printed of the answer
//! > stream 1, frame 1, flags 4                    a frame of the client: stream, type and flags as numbers
//!   838686449a60…                                 its payload
//! < stream 1                                      a message of the server
//!   0a9e03…
//! < stream 1, end                                 the header block that ends the stream (grpc-status), compressed
//!   7f0a…
//! ```
//!
//! Recorded anew, where the client that `tools/hubble` pins or what it is asked changes, with
//! `AXONEME_BLESS=1 cargo test -p axoneme-hubble --test recorded -- --ignored`; the diff is to be read. Without the variable
//! the same test fails if the client says or prints something else than the files have.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use axoneme_flow::{DropReason, Event, Origin, Point, Record, TcpFlags, Time, Traffic, Transport, Verdict};
use axoneme_hubble::pb::{
    flow::Flow,
    observer::{
        GetFlowsResponse, GetNamespacesResponse, GetNodesResponse, ServerStatusResponse,
        get_flows_response::ResponseTypes,
    },
    peer::ChangeNotification,
};
use axoneme_model::{Direction, Identity, rows::RuleId};
use common::{Rig, START};
use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    time::timeout,
};

const SOON: Duration = Duration::from_secs(20);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Of SETTINGS and PING; of DATA and HEADERS the same bit is the stream's end.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;

/// What is asked: file, arguments, how many messages end it (none: the server does), and what the answers are.
struct Asked {
    file: &'static str,
    args: &'static [&'static str],
    messages: Option<usize>,
    /// The same message without what differs from run to run.
    settle: fn(&[u8]) -> Vec<u8>,
    /// Whether what it prints is the same each time.
    prints: bool,
}

const ASKED: &[Asked] = &[
    Asked {
        file: "observe.txt",
        args: &["observe", "--all", "-o", "compact", "--print-policy-names"],
        messages: None,
        settle: flows,
        prints: true,
    },
    Asked {
        file: "observe-filtered.txt",
        args: &[
            "observe",
            "--last",
            "5",
            "--not",
            "--verdict",
            "DROPPED",
            "--to-pod",
            "shop/",
            "--protocol",
            "tcp",
            "--type",
            "trace:to-endpoint",
            "--port",
            "80",
            "-o",
            "jsonpb",
        ],
        messages: None,
        settle: flows,
        prints: false,
    },
    Asked {
        file: "observe-masked.txt",
        args: &[
            "observe",
            "--first",
            "2",
            "--since",
            "2026-11-21T14:00:00Z",
            "--field-mask",
            "time,source.pod_name,l4.UDP.destination_port,verdict,drop_reason_desc",
            "-o",
            "jsonpb",
        ],
        messages: None,
        settle: flows,
        prints: false,
    },
    Asked {
        file: "observe-cel.txt",
        args: &["observe", "--all", "--cel-expression", "_flow.verdict == Verdict.DROPPED", "-o", "compact"],
        messages: None,
        settle: flows,
        prints: true,
    },
    Asked { file: "status.txt", args: &["status"], messages: None, settle: status, prints: false },
    Asked { file: "nodes.txt", args: &["list", "nodes"], messages: None, settle: nodes, prints: false },
    Asked { file: "namespaces.txt", args: &["list", "namespaces"], messages: None, settle: namespaces, prints: true },
    Asked { file: "peers.txt", args: &["watch", "peers"], messages: Some(2), settle: peers, prints: false },
];

fn decoded<M: Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).unwrap_or_else(|e| panic!("no {}: {e}", std::any::type_name::<M>()))
}

fn flows(bytes: &[u8]) -> Vec<u8> {
    let mut line: GetFlowsResponse = decoded(bytes);
    if let Some(ResponseTypes::Flow(Flow { emitter: Some(emitter), .. })) = &mut line.response_types {
        // of the build
        emitter.version.clear();
    }
    line.encode_to_vec()
}

fn status(bytes: &[u8]) -> Vec<u8> {
    let status: ServerStatusResponse = decoded(bytes);
    ServerStatusResponse { uptime_ns: 0, flows_rate: 0.0, ..status }.encode_to_vec()
}

fn nodes(bytes: &[u8]) -> Vec<u8> {
    let mut all: GetNodesResponse = decoded(bytes);
    all.nodes.iter_mut().for_each(|n| n.uptime_ns = 0);
    all.encode_to_vec()
}

fn namespaces(bytes: &[u8]) -> Vec<u8> {
    decoded::<GetNamespacesResponse>(bytes).encode_to_vec()
}

fn peers(bytes: &[u8]) -> Vec<u8> {
    decoded::<ChangeNotification>(bytes).encode_to_vec()
}

/// Of each kind one: allowed by a rule and passed on, denied by a rule, without a policy to the outside, ended.
fn happened() -> Vec<Record> {
    let first = Record {
        time: Time(START),
        event: Event::New,
        verdict: Verdict::Forwarded,
        reason: DropReason::UNKNOWN,
        direction: Some(Direction::Egress),
        reply: Some(false),
        point: Point::FromEndpoint,
        onward: Point::ToEndpoint,
        ends: Some(("10.0.0.3".parse().unwrap(), "10.0.0.6".parse().unwrap())),
        transport: Transport::Tcp { source: 40_000, destination: 80, flags: TcpFlags(2) },
        source_identity: Identity(6),
        destination_identity: Identity(9),
        rule: RuleId(1),
        ifindex: 2,
        length: 0,
        origin: Origin::Socket { cookie: 77, cgroup: 4711 },
        forward: Traffic::default(),
        backward: Traffic::default(),
    };
    let denied = Record {
        time: Time(START + 1_000_000),
        event: Event::Drop,
        verdict: Verdict::Dropped,
        reason: DropReason::POLICY_DENY,
        reply: None,
        onward: Point::UnknownPoint,
        transport: Transport::Udp { source: 5353, destination: 53 },
        rule: RuleId(2),
        length: 74,
        ..first
    };
    let outside = Record {
        time: Time(START + 2_000_000),
        onward: Point::ToStack,
        ends: Some(("fd00::0:1".parse().unwrap(), "2001:db8::1".parse().unwrap())),
        transport: Transport::Icmpv6 { kind: 128, code: 0 },
        destination_identity: Identity(2),
        rule: RuleId(0),
        ..first
    };
    let traffic = |packets| Traffic { packets, bytes: packets * 100 };
    let ended = Record {
        time: Time(START + 3_000_000),
        event: Event::Closed,
        onward: Point::UnknownPoint,
        rule: RuleId(0),
        origin: Origin::Unknown,
        forward: traffic(10),
        backward: traffic(9),
        ..first
    };
    vec![first, denied, outside, ended]
}

async fn rig() -> Rig {
    let mut rig = Rig::new(64).await;
    rig.push(&happened());
    rig
}

#[derive(Clone, Debug, PartialEq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn new(kind: u8, flags: u8, payload: &[u8]) -> Self {
        Self { kind, flags, stream: 0, payload: payload.to_vec() }
    }

    fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut out = length[1..].to_vec();
        out.extend([self.kind, self.flags]);
        out.extend(self.stream.to_be_bytes());
        out.extend(&self.payload);
        out
    }

    /// The first one, and what is behind it; none: there is only a part of it.
    fn cut(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<9>()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = rest.get(..length)?.to_vec();
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
        Some((Self { kind: head[3], flags: head[4], stream, payload }, &rest[length..]))
    }

    fn all(mut bytes: &[u8]) -> Vec<Self> {
        let mut all = Vec::new();
        while let Some((frame, rest)) = Self::cut(bytes) {
            all.push(frame);
            bytes = rest;
        }
        all
    }

    fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// What the client said for its part: without what it answers, or says about the answer, whose number and time is its own.
fn asked(bytes: &[u8]) -> Vec<Frame> {
    let frames = bytes.strip_prefix(PREFACE).expect("a client of HTTP/2");
    let mut opened = false;
    let mut said = Frame::all(frames);
    said.retain(|frame| {
        opened |= frame.kind == HEADERS;
        match frame.kind {
            DATA | HEADERS | CONTINUATION => true,
            SETTINGS => frame.flags & ACK == 0,
            WINDOW_UPDATE => !opened,
            _ => false,
        }
    });
    said
}

/// What the server said on one stream.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    messages: Vec<Vec<u8>>,
    /// Header block that ended it.
    end: Option<Vec<u8>>,
}

/// Answers by stream, settled.
fn answered(frames: &[Frame], settle: fn(&[u8]) -> Vec<u8>) -> BTreeMap<u32, Answer> {
    let mut bytes: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut answers: BTreeMap<u32, Answer> = BTreeMap::new();
    for frame in frames {
        match frame.kind {
            DATA => bytes.entry(frame.stream).or_default().extend(&frame.payload),
            HEADERS if frame.ends_stream() => {
                answers.entry(frame.stream).or_default().end = Some(frame.payload.clone());
            }
            // without an error it says that it has heard of the client's end
            GOAWAY if frame.payload.get(4..8) == Some(&[0; 4]) => {}
            GOAWAY | RST_STREAM => panic!("the server broke off: {frame:?}"),
            _ => {}
        }
    }
    for (stream, bytes) in bytes {
        let mut left = bytes.as_slice();
        // compressed or not, length, message
        while let Some((head, rest)) = left.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let Some(message) = rest.get(..length) else { break };
            assert_eq!(head[0], 0, "not compressed");
            answers.entry(stream).or_default().messages.push(settle(message));
            left = &rest[length..];
        }
    }
    answers
}

/// One exchange as its file has it.
#[derive(Debug, PartialEq)]
struct Exchange {
    printed: String,
    asked: Vec<Frame>,
    answers: BTreeMap<u32, Answer>,
}

fn hex(out: &mut String, bytes: &[u8]) {
    for line in bytes.chunks(56) {
        out.push_str("  ");
        for byte in line {
            write!(out, "{byte:02x}").unwrap();
        }
        out.push('\n');
    }
}

impl Exchange {
    fn text(&self, asked: &Asked) -> String {
        let mut out = format!("$ hubble {}\n", asked.args.join(" "));
        for line in self.printed.lines() {
            writeln!(out, "| {line}").unwrap();
        }
        for Frame { kind, flags, stream, payload } in &self.asked {
            writeln!(out, "> stream {stream}, frame {kind}, flags {flags}").unwrap();
            hex(&mut out, payload);
        }
        for (stream, answer) in &self.answers {
            for message in &answer.messages {
                writeln!(out, "< stream {stream}").unwrap();
                hex(&mut out, message);
            }
            if let Some(end) = &answer.end {
                writeln!(out, "< stream {stream}, end").unwrap();
                hex(&mut out, end);
            }
        }
        out
    }

    fn parse(text: &str) -> Self {
        let mut read = Self { printed: String::new(), asked: Vec::new(), answers: BTreeMap::new() };
        let mut sections = text.lines().filter(|l| !l.starts_with('$')).peekable();
        while let Some(line) = sections.next() {
            if let Some(printed) = line.strip_prefix("| ") {
                writeln!(read.printed, "{printed}").unwrap();
                continue;
            }
            let mut payload = Vec::new();
            while let Some(hex) = sections.next_if(|l| l.starts_with("  ")) {
                let digits = hex.trim().as_bytes().chunks(2);
                payload.extend(digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()));
            }
            let numbers: Vec<u32> = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
            match (&line[..1], &numbers[..]) {
                (">", [stream, kind, flags]) => {
                    let [kind, flags] = [kind, flags].map(|n| u8::try_from(*n).unwrap());
                    read.asked.push(Frame { kind, flags, stream: *stream, payload });
                }
                ("<", [stream]) if line.ends_with("end") => {
                    read.answers.entry(*stream).or_default().end = Some(payload);
                }
                ("<", [stream]) => read.answers.entry(*stream).or_default().messages.push(payload),
                _ => panic!("what is {line:?}?"),
            }
        }
        read
    }
}

fn file(asked: &Asked) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(asked.file)
}

/// Says what the client said, and gives what the server answers.
async fn replay(rig: &Rig, said: &[Frame], asked: &Asked) -> BTreeMap<u32, Answer> {
    let mut server = UnixStream::connect(&rig.socket).await.unwrap();
    server.write_all(PREFACE).await.unwrap();
    // as the client: one call after the other, on one connection
    let first = said.iter().position(|f| f.kind == HEADERS).expect("it calls");
    let (settings, calls) = said.split_at(first);
    let mut calls: Vec<&[Frame]> = calls.chunk_by(|_, next| next.kind != HEADERS).collect();
    let streams = calls.len();
    let write = |frames: &[Frame]| frames.iter().flat_map(Frame::bytes).collect::<Vec<u8>>();
    server.write_all(&write(settings)).await.unwrap();
    server.write_all(&write(calls.remove(0))).await.unwrap();
    let (mut heard, mut frames) = (Vec::new(), Vec::new());
    loop {
        while let Some((frame, rest)) = Frame::cut(&heard) {
            let rest = rest.to_vec();
            heard = rest;
            if matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK == 0 {
                let payload = if frame.kind == PING { &frame.payload[..] } else { &[] };
                server.write_all(&Frame::new(frame.kind, ACK, payload).bytes()).await.unwrap();
            }
            frames.push(frame);
        }
        let answers = answered(&frames, asked.settle);
        let ended = answers.values().filter(|a| a.end.is_some()).count();
        let enough = match asked.messages {
            Some(count) => answers.values().map(|a| a.messages.len()).sum::<usize>() >= count,
            None => ended == streams,
        };
        if ended + calls.len() == streams && !calls.is_empty() {
            server.write_all(&write(calls.remove(0))).await.unwrap();
        }
        if enough {
            return answers;
        }
        let mut more = [0; 8192];
        let n = timeout(SOON, server.read(&mut more)).await.expect("an answer in time").unwrap();
        assert!(n > 0, "{}: the server ended the connection: {answers:?}", asked.file);
        heard.extend(&more[..n]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bytes_of_the_stock_client_are_answered_as_they_were_when_it_understood() {
    let rig = rig().await;
    for asked in ASKED {
        let text = std::fs::read_to_string(file(asked)).unwrap();
        let recorded = Exchange::parse(&text);
        assert_eq!(recorded.text(asked), text, "{}: the file says what was understood of it", asked.file);
        assert!(recorded.answers.values().any(|a| !a.messages.is_empty()), "{}: an answer", asked.file);
        assert_eq!(replay(&rig, &recorded.asked, asked).await, recorded.answers, "{}", asked.file);
    }
    let files = std::fs::read_dir(file(&ASKED[0]).parent().unwrap()).unwrap().count();
    assert_eq!(files, ASKED.len(), "each file is an exchange of this list");
}

#[tokio::test]
async fn another_answer_than_the_recorded_one_is_noticed() {
    let mut rig = rig().await;
    let asked = &ASKED[0];
    let recorded = Exchange::parse(&std::fs::read_to_string(file(asked)).unwrap());
    rig.push(&happened()[1..2]);
    assert_ne!(replay(&rig, &recorded.asked, asked).await, recorded.answers);
}

/// Passes on what is said, and keeps it: by the client, by the server.
fn tap(at: &Path, server: PathBuf) -> [Arc<Mutex<Vec<u8>>>; 2] {
    let kept: [Arc<Mutex<Vec<u8>>>; 2] = [Arc::default(), Arc::default()];
    let listener = UnixListener::bind(at).unwrap();
    let copies = kept.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = UnixStream::connect(&server).await.unwrap().into_split();
            let [asked, answered] = copies.clone();
            tokio::spawn(async move {
                let mut bytes = [0; 8192];
                while let Ok(n @ 1..) = from_client.read(&mut bytes).await {
                    asked.lock().unwrap().extend(&bytes[..n]);
                    if to_server.write_all(&bytes[..n]).await.is_err() {
                        return;
                    }
                }
            });
            tokio::spawn(async move {
                let mut bytes = [0; 8192];
                while let Ok(n @ 1..) = from_server.read(&mut bytes).await {
                    answered.lock().unwrap().extend(&bytes[..n]);
                    if to_client.write_all(&bytes[..n]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    kept
}

fn client() -> PathBuf {
    let named = std::env::var_os("AXONEME_HUBBLE_CLIENT").map(PathBuf::from);
    let built = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/hubble-1.20.2"));
    let client = named.unwrap_or(built);
    assert!(client.exists(), "{}: build the Hubble client as tools/hubble/README.md says", client.display());
    client
}

async fn record(rig: &Rig, asked: &Asked) -> Exchange {
    let at = rig.directory.path().join(asked.file).with_extension("sock");
    let [said, answers] = tap(&at, rig.socket.clone());
    let mut command = tokio::process::Command::from(Command::new(client()));
    command.args(asked.args).arg("--server").arg(format!("unix://{}", at.display()));
    command.env("HOME", rig.directory.path()).env("TZ", "UTC").kill_on_drop(true);
    let all = |frames: &[u8]| answered(&Frame::all(frames), asked.settle);
    let printed = match asked.messages {
        None => {
            let out = timeout(SOON, command.output()).await.expect("it ends").unwrap();
            assert!(out.status.success(), "{:?}: {}", asked.args, String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        }
        Some(count) => {
            let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
            let heard = || all(&answers.lock().unwrap()).values().map(|a| a.messages.len()).sum::<usize>();
            let wait = async {
                while heard() < count {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(SOON, wait).await.expect("its messages");
            child.kill().await.unwrap();
            String::new()
        }
    };
    let (asked_for, answers) = (self::asked(&said.lock().unwrap()), all(&answers.lock().unwrap()));
    let printed = if asked.prints { printed } else { String::new() };
    Exchange { printed, asked: asked_for, answers }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the stock Hubble client (AXONEME_HUBBLE_CLIENT)"]
async fn the_stock_client_says_what_is_recorded() {
    let rig = rig().await;
    let bless = std::env::var_os("AXONEME_BLESS").is_some();
    for asked in ASKED {
        let mut found = record(&rig, asked).await;
        if bless {
            std::fs::write(file(asked), found.text(asked)).unwrap();
            continue;
        }
        let mut recorded = Exchange::parse(&std::fs::read_to_string(file(asked)).unwrap());
        for frame in found.asked.iter_mut().chain(&mut recorded.asked).filter(|f| f.kind == HEADERS) {
            // has a deadline that counts from when the client began (grpc-timeout)
            frame.payload.clear();
        }
        assert_eq!(found, recorded, "{}: AXONEME_BLESS=1 after having looked", asked.file);
    }
}
