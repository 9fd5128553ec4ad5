//! A server with its hub, and clients, over loopback.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axoneme_model::{
    Identity, PeerClass,
    rows::{DirectionDefault, EndpointRow, IpRow, NodeRow, RuleId, TableId, TableRow},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use super::super::{Authenticator, Denied, Hub, Inbound, Leadership, Service, Tls, serve};
use crate::{
    Row, RowChange,
    client::{Credentials, Driver, Event, Fixed, Replicas, Settings, StreamClient},
    message::{NodeMessage, Resume},
};

/// Tokens are `token-of-NODE`.
pub(super) struct Names;

#[async_trait::async_trait]
impl Authenticator for Names {
    async fn node(&self, token: &str) -> Result<Arc<str>, Denied> {
        token.strip_prefix("token-of-").map(Into::into).ok_or_else(|| Denied::Invalid("no such token".into()))
    }
}

struct Token(String);

#[async_trait::async_trait]
impl Credentials for Token {
    async fn token(&self) -> io::Result<String> {
        Ok(self.0.clone())
    }
}

type Job = Box<dyn FnOnce(&mut Hub) + Send>;

/// One replica. Its hub runs in a task, as in the operator.
pub(super) struct Replica {
    pub(super) address: SocketAddr,
    jobs: mpsc::Sender<Job>,
    pub(super) said: mpsc::Receiver<(Arc<str>, NodeMessage)>,
    pub(super) ready: watch::Sender<bool>,
    pub(super) cancel: CancellationToken,
    /// Exchanges the certificate.
    pub(super) tls: Option<watch::Sender<Tls>>,
}

impl Replica {
    pub(super) async fn start(name: &str) -> Self {
        Self::with_tls(name, None).await
    }

    pub(super) async fn with_tls(name: &str, tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let (inbound, rx) = mpsc::channel(64);
        let (ready, is_ready) = watch::channel(true);
        let (jobs, jobs_rx) = mpsc::channel(64);
        let (said_tx, said) = mpsc::channel(1024);
        let service = Service::new(Arc::new(Names), inbound, is_ready, cancel.clone());
        let (tls, certificate) = tls.map(watch::channel).unzip();
        tokio::spawn(serve(listener, certificate, service));
        tokio::spawn(own(Hub::new(name), rx, jobs_rx, said_tx));
        Self { address, jobs, said, ready, cancel, tls }
    }

    /// Runs something on the hub and returns what it says.
    pub(super) async fn hub<T: Send + 'static>(&self, job: impl FnOnce(&mut Hub) -> T + Send + 'static) -> T {
        let (tx, rx) = oneshot::channel();
        let job: Job = Box::new(move |h| drop(tx.send(job(h))));
        self.jobs.send(job).await.ok().unwrap();
        rx.await.unwrap()
    }

    pub(super) async fn publish(&self, changes: Vec<RowChange>) -> u64 {
        self.hub(move |h| h.publish(changes)).await
    }

    pub(super) async fn lead(&self, l: Leadership) {
        self.hub(move |h| h.set_leadership(l)).await;
    }

    /// Waits until the hub says so.
    pub(super) async fn until(&self, what: impl FnMut(&mut Hub) -> bool + Send + Clone + 'static) {
        let wait = async {
            while !self
                .hub({
                    let mut w = what.clone();
                    move |h| w(h)
                })
                .await
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the hub gets there");
    }
}

async fn own(
    mut hub: Hub,
    mut inbound: mpsc::Receiver<Inbound>,
    mut jobs: mpsc::Receiver<Job>,
    said: mpsc::Sender<(Arc<str>, NodeMessage)>,
) {
    loop {
        tokio::select! {
            Some(job) = jobs.recv() => job(&mut hub),
            Some(i) = inbound.recv() => match i {
                Inbound::Subscribe(s) => hub.subscribe(s),
                Inbound::Closed { node, session } => drop(hub.closed(&node, session)),
                Inbound::Message { node, session, message } => {
                    match &message {
                        NodeMessage::Ack(r) => {
                            hub.acknowledged(&node, session, *r);
                        }
                        NodeMessage::Nack(n) => hub.refused(&node, session, n.clone()),
                        _ => {}
                    }
                    let _ = said.try_send((node, message));
                }
            },
            else => return,
        }
    }
}

/// A node's client.
pub(super) struct Node {
    pub(super) client: StreamClient,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) cancel: CancellationToken,
}

impl Node {
    pub(super) fn start(node: &str, token: &str, replicas: Replicas, resume: Option<Resume>) -> Self {
        let settings = Settings { node: node.into(), agent_version: "test".into(), resume };
        let (driver, client, events) =
            Driver::new(settings, Arc::new(Fixed(replicas)), Arc::new(Token(token.to_owned())));
        let cancel = CancellationToken::new();
        tokio::spawn(driver.run(cancel.clone()));
        Self { client, events, cancel }
    }

    pub(super) fn of(node: &str, replicas: &[&Replica]) -> Self {
        Self::start(node, &format!("token-of-{node}"), at(replicas), None)
    }

    pub(super) async fn event(&mut self) -> Event {
        tokio::time::timeout(Duration::from_secs(20), self.events.recv()).await.expect("an event").unwrap()
    }

    /// The next batch; other events on the way are skipped.
    pub(super) async fn batch(&mut self) -> crate::client::Batch {
        loop {
            if let Event::Batch(b) = self.event().await {
                return b;
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

pub(super) fn at(replicas: &[&Replica]) -> Replicas {
    Replicas { addresses: replicas.iter().map(|r| r.address.to_string()).collect(), ca_pem: String::new() }
}

pub(super) fn node(name: &str) -> RowChange {
    RowChange::Upsert(Row::Node(NodeRow { name: name.into(), addresses: vec![], pod_cidrs: vec![] }))
}

pub(super) fn ip(n: u32, pod: &str) -> RowChange {
    let address = std::net::Ipv4Addr::from(0x0a00_0000 + n);
    RowChange::Upsert(Row::Ip(Arc::new(IpRow {
        prefix: axoneme_model::cidr::host(address.into()),
        identity: Identity(300),
        peer: PeerClass(300),
        local_identity: Identity(300),
        local_peer: PeerClass(300),
        tunnel: None,
        node: "n1".into(),
        pod: pod.into(),
    })))
}

pub(super) fn table(id: u64, policy: &axoneme_model::ObjectRef, generation: i64) -> RowChange {
    let default = DirectionDefault { allow: false, audit: false, rule: RuleId(0) };
    RowChange::Upsert(Row::Table(Arc::new(TableRow {
        id: TableId(id),
        ingress_default: default,
        egress_default: default,
        entries: [].into(),
        policies: [(policy.clone(), generation)].into(),
    })))
}

pub(super) fn endpoint(uid: &str, node: &str, table: u64) -> RowChange {
    RowChange::Upsert(Row::Endpoint(Arc::new(EndpointRow {
        uid: uid.into(),
        namespace: "ns".into(),
        name: uid.into(),
        node: node.into(),
        identity: Identity(300),
        peer: PeerClass(300),
        table: TableId(table),
        addresses: [].into(),
        pool_v4: "".into(),
        pool_v6: "".into(),
        labels: axoneme_model::Labels::new(),
        bandwidth: axoneme_model::Bandwidth::default(),
    })))
}
