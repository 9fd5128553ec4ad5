//! One stream to one replica.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use http::uri::PathAndQuery;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tracing::{info, warn};

use super::{Batch, Command, Driver, Event, Transport, names::Names};
use crate::{
    PROTOCOL, RowType, SERVER_NAME,
    change::RowChange,
    convert::{At, Wire, WireError},
    message::{Hello, Nack, NodeMessage, Resume},
    pb,
};

const CONNECT: Duration = Duration::from_secs(5);
/// From the hello to the welcome: the replica may have to load the cluster first, but then it says so at once.
const WELCOME: Duration = Duration::from_secs(15);
/// Dead peers are noticed by HTTP/2 pings.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const OUTBOUND: usize = 256;
/// A batch of one commit may be large, its frames are not: the server cuts them at 64 KiB, but for one large table.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// What the operator says, decoded.
type Heard = BoxStream<'static, Result<pb::OperatorMessage, Status>>;

pub(super) struct Target {
    pub(super) address: String,
    pub(super) ca_pem: String,
}

/// How a session ended.
pub(super) enum End {
    /// No welcome came.
    Refused(String),
    /// It was served for a while.
    Closed(String),
}

pub(super) struct Session<'a> {
    driver: &'a mut Driver,
    outbound: mpsc::Sender<pb::NodeMessage>,
    epoch: u64,
    collecting: Collecting,
    /// A commit that its reader has no room for yet.
    ready: Option<Batch>,
    waited: Waited,
    names: Names,
}

/// Which acknowledgements the operator waits for: the others stay here. Most commits of a large cluster are quiet, and an
/// acknowledgement of each by thousands of nodes would be most of what the operator does.
#[derive(Debug, Default)]
struct Waited {
    /// Commits that are not quiet and not acknowledged, oldest first.
    asked: VecDeque<u64>,
    /// The newest revision that was said to be in force, told or not; none: nothing was, of this session.
    in_force: Option<u64>,
    /// Something was refused since the last acknowledgement; and before it.
    refusing: bool,
    refused: bool,
}

impl Waited {
    /// Commits that may be asked for at once; of more, those in between are answered with the last.
    const ASKED: usize = 64;

    /// A commit came. Whether it is answered at once: what it is about was in force before somebody asked.
    fn commit(&mut self, revision: u64, quiet: bool, empty: bool) -> bool {
        if quiet {
            return false;
        }
        if empty && Some(revision) <= self.in_force && !self.refused && !self.refusing {
            return true;
        }
        if self.asked.len() == Self::ASKED {
            self.asked.pop_back();
        }
        self.asked.push_back(revision);
        false
    }

    const fn nack(&mut self) {
        self.refusing = true;
    }

    /// Everything up to the revision is in force. Whether it is to be told. While the node refuses something it always is:
    /// each acknowledgement says also that what was not refused since the last one is well.
    fn ack(&mut self, revision: u64) -> bool {
        let again = Some(revision) <= self.in_force;
        self.in_force = self.in_force.max(Some(revision));
        let mut asked = false;
        while self.asked.front().is_some_and(|r| *r <= revision) {
            self.asked.pop_front();
            asked = true;
        }
        let refusals = self.refused || self.refusing;
        self.refused = std::mem::take(&mut self.refusing);
        asked || again || refusals
    }
}

/// Changes since the last commit.
#[derive(Default)]
struct Collecting {
    complete: Vec<RowType>,
    spoiled: Vec<RowType>,
    open: Option<RowType>,
    changes: Vec<RowChange>,
}

impl Session<'_> {
    pub(super) async fn run(driver: &mut Driver, target: &Target, cancel: &CancellationToken) -> End {
        let token = match driver.credentials.token().await {
            Ok(t) => t,
            Err(e) => return End::Refused(e.to_string()),
        };
        let (outbound, rx) = mpsc::channel(OUTBOUND);
        let opened = tokio::select! {
            biased;
            o = open(target, &token, rx, &outbound, driver) => o,
            () = cancel.cancelled() => return End::Refused("stopping".into()),
        };
        let (welcome, stream) = match opened {
            Ok(o) => o,
            Err(e) => return End::Refused(e),
        };
        info!(operator = %welcome.operator, address = %target.address, resumed = welcome.resumed, "connected");
        let event = Event::Connected {
            operator: welcome.operator,
            address: target.address.clone(),
            resumed: welcome.resumed,
            leader: welcome.leader,
        };
        if driver.events.send(event).await.is_err() {
            return End::Closed("nobody listens".into());
        }
        let (epoch, collecting, waited) = (welcome.epoch, Collecting::default(), Waited::default());
        let names = Names::default();
        let session = Session { driver, outbound, epoch, collecting, ready: None, waited, names };
        End::Closed(session.serve(stream, cancel).await)
    }

    async fn serve(mut self, mut stream: Heard, cancel: &CancellationToken) -> String {
        let (outbound, events) = (self.outbound.clone(), self.driver.events.clone());
        let mut backlog: VecDeque<NodeMessage> = self.driver.state.reports().collect();
        loop {
            // what the node says goes before what it hears: it is little, and operators wait for acknowledgements
            let step = tokio::select! {
                biased;
                () = cancel.cancelled() => Err("stopping".into()),
                permit = outbound.reserve(), if !backlog.is_empty() => match (permit, backlog.pop_front()) {
                    (Ok(p), Some(m)) => { p.send(m.to_message()); Ok(()) }
                    _ => Err("the stream closed".into()),
                },
                // reports of the backlog go first, so that an older state never follows a newer
                Some(c) = self.driver.commands.recv(), if backlog.is_empty() => self.command(c).await,
                // commands go on while a batch waits: its reader may be waiting for room for an acknowledgement
                permit = events.reserve(), if self.ready.is_some() => match (permit, self.ready.take()) {
                    (Ok(p), Some(b)) => { self.deliver(p, b); Ok(()) }
                    _ => Err("nobody listens".into()),
                },
                message = stream.next(), if self.ready.is_none() => match message {
                    Some(Ok(m)) => self.message(m).await,
                    Some(Err(status)) => Err(describe(&status)),
                    None => Err("the operator ended the stream".into()),
                },
            };
            if let Err(reason) = step {
                return reason;
            }
        }
    }

    fn deliver(&mut self, permit: mpsc::Permit<'_, Event>, batch: Batch) {
        self.driver.state.resume = Some(batch.at);
        permit.send(Event::Batch(batch));
    }

    async fn command(&mut self, command: Command) -> Result<(), String> {
        let message = match command {
            Command::Ack(at) if at.epoch == self.epoch && self.waited.ack(at.revision) => NodeMessage::Ack(at.revision),
            Command::Ack(_) => return Ok(()),
            Command::Resync => {
                self.driver.state.resume = None;
                return Err("the node asked for snapshots".into());
            }
            Command::Send(m) => {
                if matches!(m, NodeMessage::Nack(_)) {
                    self.waited.nack();
                }
                self.driver.state.remember(&m);
                m
            }
        };
        self.outbound.send(message.to_message()).await.map_err(|_| "the stream closed".to_owned())
    }

    async fn message(&mut self, m: pb::OperatorMessage) -> Result<(), String> {
        use pb::operator_message::Body;
        match m.body {
            Some(Body::SnapshotBegin(b)) => {
                self.collecting.open = RowType::from_message(b.r#type).ok();
                Ok(())
            }
            Some(Body::SnapshotEnd(e)) => {
                let ended = RowType::from_message(e.r#type).ok();
                self.collecting.complete.extend(ended.filter(|t| self.collecting.open == Some(*t)));
                self.collecting.open = None;
                Ok(())
            }
            Some(Body::Changes(c)) => self.changes(c).await,
            Some(Body::Commit(c)) => self.commit(&c).await,
            Some(Body::Redirect(r)) => {
                if self.driver.state.follow(&r.address) {
                    Err(format!("redirected to {}", r.address))
                } else {
                    Ok(())
                }
            }
            // a newer operator may say more than this version knows
            Some(Body::Welcome(_)) | None => Ok(()),
        }
    }

    async fn changes(&mut self, m: pb::Changes) -> Result<(), String> {
        for (i, c) in m.changes.into_iter().enumerate() {
            match RowChange::from_message(c).at_index("changes", i) {
                Ok(mut c) => {
                    self.names.share(&mut c);
                    self.collecting.changes.push(c);
                }
                Err(e) => {
                    self.collecting.spoiled.extend(self.collecting.open);
                    self.refuse(&e).await?;
                }
            }
        }
        Ok(())
    }

    async fn refuse(&mut self, e: &WireError) -> Result<(), String> {
        warn!(error = %e, "a row from the operator is malformed; the last-good one stays");
        self.waited.nack();
        let nack = Nack { revision: 0, key: None, reason: e.to_string() };
        let m = NodeMessage::Nack(nack).to_message();
        self.outbound.send(m).await.map_err(|_| "the stream closed".to_owned())
    }

    async fn commit(&mut self, commit: &pb::Commit) -> Result<(), String> {
        let Collecting { mut complete, spoiled, changes, .. } = std::mem::take(&mut self.collecting);
        complete.retain(|t| !spoiled.contains(t));
        let pb::Commit { revision, quiet } = *commit;
        if self.waited.commit(revision, quiet, changes.is_empty() && complete.is_empty()) {
            let told = NodeMessage::Ack(revision).to_message();
            return self.outbound.send(told).await.map_err(|_| "the stream closed".to_owned());
        }
        self.ready = Some(Batch { at: Resume { epoch: self.epoch, revision }, complete, changes });
        Ok(())
    }
}

fn describe(s: &Status) -> String {
    format!("{}: {}", s.code(), s.message())
}

/// Connects, says hello and waits for the welcome.
async fn open(
    target: &Target,
    token: &str,
    rx: mpsc::Receiver<pb::NodeMessage>,
    outbound: &mpsc::Sender<pb::NodeMessage>,
    driver: &Driver,
) -> Result<(pb::Welcome, Heard), String> {
    let route = if let Some(t) = &driver.transport {
        Route::Own(&**t, &target.address)
    } else {
        let late = |_| format!("{}: no connection within {} s", target.address, CONNECT.as_secs());
        Route::Grpc(tokio::time::timeout(CONNECT, connect(target)).await.map_err(late)??)
    };
    let hello = NodeMessage::Hello(Hello {
        node: driver.settings.node.clone(),
        agent_version: driver.settings.agent_version.clone(),
        protocol: PROTOCOL,
        resume: driver.state.resume,
    });
    outbound.send(hello.to_message()).await.map_err(|e| e.to_string())?;
    tokio::time::timeout(WELCOME, welcome(route, token, rx)).await.map_err(|_| "no welcome in time".to_owned())?
}

enum Route<'a> {
    Grpc(Channel),
    Own(&'a dyn Transport, &'a str),
}

async fn welcome(
    route: Route<'_>,
    token: &str,
    rx: mpsc::Receiver<pb::NodeMessage>,
) -> Result<(pb::Welcome, Heard), String> {
    let mut stream = match route {
        Route::Grpc(channel) => subscribe(channel, token, rx).await?,
        Route::Own(transport, address) => {
            let said = ReceiverStream::new(rx).map(|m| Bytes::from(m.encode_to_vec())).boxed();
            let decode = |m: Bytes| pb::OperatorMessage::decode(m).map_err(|e| Status::internal(e.to_string()));
            let heard = transport.open(address, token, said).await?;
            heard.map(move |m| m.and_then(decode)).boxed()
        }
    };
    let first = stream.next().await.ok_or("the operator ended the stream")?.map_err(|s| describe(&s))?;
    match first.body {
        Some(pb::operator_message::Body::Welcome(w)) => Ok((w, stream)),
        _ => Err("the first message is no welcome".into()),
    }
}

async fn subscribe(channel: Channel, token: &str, rx: mpsc::Receiver<pb::NodeMessage>) -> Result<Heard, String> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    grpc.ready().await.map_err(|e| e.to_string())?;
    let mut request = Request::new(ReceiverStream::new(rx));
    let bearer = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| "the token is not a header value")?;
    request.metadata_mut().insert("authorization", bearer);
    let path = PathAndQuery::from_static("/axoneme.v1.NodeStream/Subscribe");
    let codec = tonic_prost::ProstCodec::<pb::NodeMessage, pb::OperatorMessage>::default();
    let response = grpc.streaming(request, path, codec).await.map_err(|s| describe(&s))?;
    Ok(response.into_inner().boxed())
}

async fn connect(target: &Target) -> Result<Channel, String> {
    let clear = target.ca_pem.is_empty();
    let scheme = if clear { "http" } else { "https" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{}", target.address))
        .map_err(|e| format!("{}: {e}", target.address))?
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let endpoint = if clear {
        endpoint
    } else {
        let ca = Certificate::from_pem(&target.ca_pem);
        let tls = ClientTlsConfig::new().ca_certificate(ca).domain_name(SERVER_NAME);
        endpoint.tls_config(tls).map_err(|e| format!("{}: {e}", target.address))?
    };
    endpoint.connect().await.map_err(|e| format!("{}: {}", target.address, chain(&e)))
}

/// An error with its causes: tonic's own text is just «transport error».
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        text = format!("{text}: {c}");
        cause = c.source();
    }
    text
}
