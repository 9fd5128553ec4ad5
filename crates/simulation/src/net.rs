//! The network between replicas, nodes and the API server: latency, cuts, connections that break off.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axoneme_wire::{
    client::{Directory, Incoming, Outgoing, Replicas, Transport},
    server::Service,
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{api::Api, dice::Dice};

/// A machine or the API server, by name.
pub type Host = Arc<str>;

/// The API server's name.
pub const API: &str = "api";

/// HTTP/2 pings: 10 s, and 5 s for the answer.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// TCP's connect timeout of the client.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a connection's fate is looked at.
const LOOK: Duration = Duration::from_millis(250);
const QUEUE: usize = 64;

/// Somebody who accepts streams, until the process dies.
#[derive(Clone)]
struct Listener {
    host: Host,
    service: Service,
    alive: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Since when nothing passes from the first to the second.
    cuts: BTreeMap<(Host, Host), Instant>,
    listeners: BTreeMap<String, Listener>,
}

/// Who reaches whom.
#[derive(Default)]
#[expect(missing_debug_implementations, reason = "holds services")]
pub struct Net(Mutex<State>);

impl Net {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// From now on nothing passes.
    pub fn cut(&self, from: &str, to: &str) {
        self.state().cuts.entry((from.into(), to.into())).or_insert_with(Instant::now);
    }

    pub fn mend(&self, from: &str, to: &str) {
        self.state().cuts.remove(&(from.into(), to.into()));
    }

    pub fn mend_all(&self) {
        self.state().cuts.clear();
    }

    #[must_use]
    pub fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cut_for(from, to).is_some()
    }

    fn cut_for(&self, from: &str, to: &str) -> Option<Duration> {
        self.state().cuts.get(&(from.into(), to.into())).map(Instant::elapsed)
    }

    /// Whether requests and their answers pass.
    #[must_use]
    pub fn talk(&self, a: &str, b: &str) -> bool {
        !self.is_cut(a, b) && !self.is_cut(b, a)
    }

    pub fn listen(&self, address: &str, host: &str, service: Service, alive: CancellationToken) {
        self.state().listeners.insert(address.to_owned(), Listener { host: host.into(), service, alive });
    }

    /// A message's way. It waits where nothing passes.
    async fn travel(&self, from: &str, to: &str, dice: &mut Dice) {
        let late = match dice.below(100) {
            0 => dice.millis(100..800),
            1..10 => dice.millis(5..50),
            _ => dice.millis(0..3),
        };
        if !late.is_zero() {
            sleep(late).await;
        }
        while self.is_cut(from, to) {
            sleep(LOOK).await;
        }
    }
}

/// One node's way to replicas, while its agent lives.
#[expect(missing_debug_implementations, reason = "holds the network")]
pub struct Link {
    pub net: Arc<Net>,
    pub api: Arc<Api>,
    pub node: Host,
    pub seed: u64,
    pub alive: CancellationToken,
    /// What was known last of the replicas.
    pub known: Mutex<Vec<String>>,
    pub dice: Mutex<Dice>,
    /// Connections so far.
    pub count: Mutex<u64>,
}

#[async_trait::async_trait]
impl Transport for Link {
    async fn open(&self, address: &str, token: &str, outgoing: Outgoing) -> Result<Incoming, String> {
        let listener = self.net.state().listeners.get(address).cloned();
        let Some(l) = listener else { return Err("nobody is there".into()) };
        let number = {
            let mut count = self.count.lock().unwrap();
            *count += 1;
            *count
        };
        let mut dice = Dice::new(self.seed, &format!("{} {address} {number}", self.node));
        if !self.net.talk(&self.node, &l.host) {
            sleep(CONNECT).await;
            return Err("no connection in time".into());
        }
        sleep(dice.millis(1..10)).await;
        if l.alive.is_cancelled() {
            return Err("connection refused".into());
        }
        let ends = Ends { client: CancellationToken::new(), server: CancellationToken::new() };
        let (up_tx, up) = mpsc::channel(QUEUE);
        let said = ReceiverStream::new(up).map(Ok::<Bytes, Status>).take_until(ends.server.clone().cancelled_owned());
        let said = Box::pin(said);
        let frames = l.service.accept(token, said).await.map_err(|s| format!("{}: {}", s.code(), s.message()))?;
        let (down_tx, down) = mpsc::channel(QUEUE);
        let (net, node, host) = (self.net.clone(), self.node.clone(), l.host.clone());
        let up_dice = Dice::new(self.seed, &format!("up {} {address} {number}", self.node));
        tokio::task::spawn(pump(
            net.clone(),
            node.clone(),
            host.clone(),
            outgoing,
            up_tx,
            up_dice,
            ends.client.clone(),
        ));
        tokio::task::spawn(pump(net.clone(), host.clone(), node.clone(), frames, down_tx, dice, ends.server.clone()));
        tokio::task::spawn(fate(net, node, host, self.alive.clone(), l.alive, ends.clone()));
        Ok(ReceiverStream::new(down).take_until(ends.client.cancelled_owned()).boxed())
    }

    fn jitter(&self) -> f64 {
        self.dice.lock().unwrap().half()
    }
}

#[async_trait::async_trait]
impl Directory for Link {
    async fn replicas(&self) -> std::io::Result<Replicas> {
        let mut known = self.known.lock().unwrap();
        if self.net.talk(&self.node, API)
            && let Some(leader) = self.api.state().lease.as_ref().and_then(|l| l.address.clone())
        {
            known.sort_by_key(|a| (*a != leader, a.clone()));
        }
        Ok(Replicas { addresses: known.clone(), ca_pem: String::new() })
    }
}

/// The two ends of a connection: each notices for itself that it is over.
#[derive(Clone)]
struct Ends {
    client: CancellationToken,
    server: CancellationToken,
}

async fn pump<T>(
    net: Arc<Net>,
    from: Host,
    to: Host,
    mut source: impl Stream<Item = T> + Unpin,
    sink: mpsc::Sender<T>,
    mut dice: Dice,
    over: CancellationToken,
) {
    let carry = async {
        while let Some(item) = source.next().await {
            net.travel(&from, &to, &mut dice).await;
            if sink.send(item).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = over.cancelled() => {}
        () = carry => {}
    }
}

/// A process that dies is noticed by the other end, where the network still tells; else by pings that are not answered.
async fn fate(net: Arc<Net>, node: Host, host: Host, agent: CancellationToken, replica: CancellationToken, ends: Ends) {
    while !(ends.client.is_cancelled() && ends.server.is_cancelled()) {
        if agent.is_cancelled() {
            ends.client.cancel();
        }
        if replica.is_cancelled() {
            ends.server.cancel();
        }
        let cut = net.cut_for(&node, &host).max(net.cut_for(&host, &node));
        match cut {
            None if ends.client.is_cancelled() || ends.server.is_cancelled() => {
                ends.client.cancel();
                ends.server.cancel();
            }
            Some(long) if long >= KEEPALIVE => {
                ends.client.cancel();
                // not at the same moment
                if long >= KEEPALIVE + Duration::from_secs(2) {
                    ends.server.cancel();
                }
            }
            _ => {}
        }
        sleep(LOOK).await;
    }
}
