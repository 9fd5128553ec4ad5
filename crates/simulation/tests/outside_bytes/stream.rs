//! The stream between operator and agent, and the rows that an agent keeps.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axoneme_model::{Kind, ObjectRef};
use axoneme_operator::{
    core::{Core, Timing},
    source::directory::{Directory as Manifests, Files},
};
use axoneme_wire::{
    EndpointReport, Nack, NodeEvent, NodeReport,
    client::{Credentials, Driver, Event, Fixed, Incoming, Outgoing, Replicas, Settings, Transport},
    server::{Authenticator, Denied, Inbound, Service},
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

struct Anybody;

#[async_trait::async_trait]
impl Authenticator for Anybody {
    async fn node(&self, token: &str) -> Result<Arc<str>, Denied> {
        Ok(token.into())
    }
}

#[async_trait::async_trait]
impl Credentials for Anybody {
    async fn token(&self) -> std::io::Result<String> {
        Ok("n1".into())
    }
}

/// A real service; what passes is written down.
struct Wire {
    service: Service,
    up: Arc<Mutex<Vec<Bytes>>>,
    down: Arc<Mutex<Vec<Bytes>>>,
}

#[async_trait::async_trait]
impl Transport for Wire {
    async fn open(&self, _: &str, token: &str, outgoing: Outgoing) -> Result<Incoming, String> {
        let (up, down) = (self.up.clone(), self.down.clone());
        let said = outgoing.inspect(move |b| up.lock().unwrap().push(b.clone())).map(Ok);
        let heard = self.service.accept(token, said.boxed()).await.map_err(|s| s.to_string())?;
        Ok(heard.inspect(move |b| down.lock().unwrap().extend(b.iter().cloned())).boxed())
    }

    fn jitter(&self) -> f64 {
        0.0
    }
}

/// Says what it is told to say.
struct Liar(Vec<Bytes>);

#[async_trait::async_trait]
impl Transport for Liar {
    async fn open(&self, _: &str, _: &str, _: Outgoing) -> Result<Incoming, String> {
        Ok(stream::iter(self.0.clone()).map(Ok).chain(stream::pending()).boxed())
    }

    fn jitter(&self) -> f64 {
        0.0
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// A core with a cluster of one node.
fn core() -> Core {
    let mut core = Core::standalone(Timing::default());
    let base = Ok(include_str!("base.yaml").to_owned());
    Manifests::default().look(Files::from([("base.yaml".into(), base)])).into_iter().for_each(|e| core.source(e));
    core
}

fn flush(core: &mut Core) {
    core.flush(tokio::time::Instant::now().into_std(), "2026-01-01T00:00:00Z");
}

fn driver(transport: Arc<dyn Transport>) -> (Driver, axoneme_wire::client::StreamClient, mpsc::Receiver<Event>) {
    let settings = Settings { node: "n1".into(), agent_version: "1".into(), resume: None };
    let replicas = Fixed(Replicas { addresses: vec!["op:1".into()], ca_pem: String::new() });
    let (driver, client, events) = Driver::new(settings, Arc::new(replicas), Arc::new(Anybody));
    (driver.over(transport), client, events)
}

/// One conversation: what a node said, what an operator said, and what the node made of it.
fn conversation() -> (Vec<Bytes>, Vec<Bytes>, Vec<Event>) {
    runtime().block_on(async {
        let (inbound_tx, mut inbound) = mpsc::channel(64);
        let (_ready, is_ready) = watch::channel(true);
        let cancel = CancellationToken::new();
        let service = Service::new(Arc::new(Anybody), inbound_tx, is_ready, cancel.clone());
        let (up, down) = (Arc::<Mutex<Vec<Bytes>>>::default(), Arc::<Mutex<Vec<Bytes>>>::default());
        let (driver, client, mut events) = driver(Arc::new(Wire { service, up: up.clone(), down: down.clone() }));
        let running = tokio::task::spawn(driver.run(cancel.clone()));
        let (mut core, mut heard) = (core(), Vec::new());
        flush(&mut core);
        for round in 0..40 {
            while let Ok(i) = inbound.try_recv() {
                core.inbound(i);
            }
            flush(&mut core);
            while let Ok(e) = events.try_recv() {
                if let Event::Batch(b) = &e {
                    client.ack(b.at).await.unwrap();
                }
                heard.push(e);
            }
            if round == 20 {
                say(&client).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cancel.cancel();
        let _ = running.await;
        let said = (up.lock().unwrap().clone(), down.lock().unwrap().clone());
        (said.0, said.1, heard)
    })
}

async fn say(client: &axoneme_wire::client::StreamClient) {
    let report = EndpointReport {
        uid: "u1".into(),
        namespace: "shop".into(),
        name: "web".into(),
        container_id: "c1".into(),
        addresses: ["10.244.0.5".parse().unwrap(), "fd00::5".parse().unwrap()].into(),
        ready: true,
        identity: axoneme_model::Identity(300),
        table: axoneme_model::rows::TableId(5),
        removed: false,
    };
    client.endpoint(report.clone()).await.unwrap();
    client.endpoint(EndpointReport { removed: true, ..report }).await.unwrap();
    let released = ["10.1.0.0/28".parse().unwrap()].into();
    let node = NodeReport {
        ready: true,
        reasons: vec!["none".into()],
        addresses: vec!["10.244.0.1".parse().unwrap()],
        capabilities: BTreeMap::from([("kernel".into(), "6.1".into())]),
        blocks_version: 7,
        released,
        proof: axoneme_wire::Proof::Refuted("nobody answers".into()),
    };
    client.node(node).await.unwrap();
    let object = Some(ObjectRef::new(Kind::Pod, "shop", "web"));
    let event = NodeEvent { warning: true, reason: "Broken".into(), message: "it is".into(), object };
    client.event(event).await.unwrap();
    let key = Some(axoneme_wire::RowKey::Table(axoneme_model::rows::TableId(5)));
    client.nack(Nack { revision: 1, key, reason: "too large".into() }).await.unwrap();
}

/// What an agent gets first.
pub fn snapshot() -> Vec<Event> {
    conversation().2
}

/// Messages behind each other, each behind its length in two bytes.
fn join(messages: &[Bytes]) -> Vec<u8> {
    let length = |m: &Bytes| u16::try_from(m.len()).unwrap().to_be_bytes();
    messages.iter().flat_map(|m| [&length(m)[..], m].concat()).collect()
}

fn split(mut input: &[u8]) -> Vec<Bytes> {
    let mut out = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk::<2>() {
        let (message, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        out.push(Bytes::copy_from_slice(message));
        input = rest;
    }
    out
}

pub fn of_node() -> Vec<Vec<u8>> {
    vec![join(&conversation().0)]
}

/// A session, and behind it the core.
pub fn read_of_node(input: &[u8]) -> bool {
    runtime().block_on(async {
        let (inbound_tx, mut inbound) = mpsc::channel(64);
        let (_ready, is_ready) = watch::channel(true);
        let cancel = CancellationToken::new();
        let service = Service::new(Arc::new(Anybody), inbound_tx, is_ready, cancel.clone());
        let said = stream::iter(split(input)).map(Ok::<_, Status>);
        let mut frames = service.accept("n1", said.boxed()).await.expect("the node is known");
        let (mut core, mut taken) = (core(), false);
        flush(&mut core);
        loop {
            let more = tokio::select! {
                biased;
                Some(i) = inbound.recv() => {
                    taken |= matches!(i, Inbound::Message { .. });
                    core.inbound(i);
                    flush(&mut core);
                    true
                }
                frame = frames.next() => frame.is_some(),
            };
            if !more {
                return taken;
            }
        }
    })
}

pub fn of_operator() -> Vec<Vec<u8>> {
    let down = conversation().1;
    // a frame may be larger than what two bytes say: those of this cluster are not
    vec![join(&down), join(&down[..down.len().min(3)])]
}

/// The client's session, and behind it the engine with its fakes.
pub fn read_of_operator(input: &[u8]) -> bool {
    runtime().block_on(async {
        let cancel = CancellationToken::new();
        let (driver, _client, mut events) = driver(Arc::new(Liar(split(input))));
        let running = tokio::task::spawn(driver.run(cancel.clone()));
        let mut engine = crate::node::engine(Arc::default()).expect("an empty disk");
        let mut taken = false;
        let end = tokio::time::Instant::now() + Duration::from_secs(2);
        while let Ok(Some(event)) = tokio::time::timeout_at(end, events.recv()).await {
            taken |= matches!(event, Event::Batch(_));
            engine.stream(event);
            drop((engine.take_outgoing(), engine.take_doomed()));
        }
        cancel.cancel();
        drop(events);
        let _ = running.await;
        taken
    })
}

fn rows() -> axoneme_model::rows::RowSet {
    let mut desired = axoneme_wire::client::Desired::default();
    for event in snapshot() {
        if let Event::Batch(b) = event {
            desired.fold(b).unwrap();
        }
    }
    desired.rows().clone()
}

pub fn archives() -> Vec<Vec<u8>> {
    vec![axoneme_wire::archive::encode("n1", &rows())]
}

pub fn archive(input: &[u8]) -> bool {
    axoneme_wire::archive::decode("n1", input).is_ok()
}
