//! `peer.Peer`: which nodes serve flows, for relays.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
};

use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::{Request, Response, Status};

use crate::{
    convert,
    node::Node,
    pb::peer::{ChangeNotification, ChangeNotificationType, NotifyRequest, Tls, peer_server},
};

/// A node as relays know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `cluster/node`; the bare node in cluster `default`.
    pub name: String,
    /// None: it has no address yet.
    pub address: Option<SocketAddr>,
    /// The name in its certificate; none: it serves clear text.
    pub server_name: Option<String>,
}

impl Peer {
    pub(crate) fn new(cluster: &str, node: &str, address: Option<SocketAddr>, tls: bool) -> Self {
        let cluster = if cluster == "default" { "" } else { cluster };
        Self { name: convert::node_name(cluster, node), address, server_name: tls.then(|| server_name(node, cluster)) }
    }

    fn notification(&self, kind: ChangeNotificationType) -> ChangeNotification {
        ChangeNotification {
            name: self.name.clone(),
            address: self.address.map(|a| a.to_string()).unwrap_or_default(),
            r#type: kind.into(),
            tls: self.server_name.clone().map(|server_name| Tls { server_name }),
        }
    }
}

/// `<node>.<cluster>.hubble-grpc.cilium.io`, with the dots of both names as dashes: what a node's certificate must name.
#[must_use]
pub fn server_name(node: &str, cluster: &str) -> String {
    let cluster = if cluster.is_empty() { "default" } else { cluster };
    format!("{}.{}.hubble-grpc.cilium.io", node.replace('.', "-"), cluster.replace('.', "-"))
}

type Peers = BTreeMap<Arc<str>, Peer>;

/// What to tell one who knows `old`.
fn changes(old: &Peers, new: &Peers) -> Vec<ChangeNotification> {
    use ChangeNotificationType as Kind;
    let gone = old.iter().filter(|(n, _)| !new.contains_key(*n)).map(|(_, p)| p.notification(Kind::PeerDeleted));
    let come = new.iter().filter_map(|(n, p)| match old.get(n) {
        None => Some(p.notification(Kind::PeerAdded)),
        Some(before) if before != p => Some(p.notification(Kind::PeerUpdated)),
        Some(_) => None,
    });
    gone.chain(come).collect()
}

/// The service of one node.
#[derive(Clone, Debug)]
pub struct Service(pub Arc<Node>);

struct Watcher {
    peers: watch::Receiver<Arc<Peers>>,
    known: Arc<Peers>,
    ready: VecDeque<ChangeNotification>,
    _permit: OwnedSemaphorePermit,
}

#[tonic::async_trait]
impl peer_server::Peer for Service {
    type NotifyStream = Pin<Box<dyn Stream<Item = Result<ChangeNotification, Status>> + Send>>;

    async fn notify(&self, _: Request<NotifyRequest>) -> Result<Response<Self::NotifyStream>, Status> {
        let permit = crate::observer::permit(&self.0)?;
        let mut peers = self.0.peers.clone();
        peers.mark_changed();
        let watcher = Watcher { peers, known: Arc::default(), ready: VecDeque::new(), _permit: permit };
        let stream = futures::stream::unfold(watcher, |mut w| async move {
            while w.ready.is_empty() {
                w.peers.changed().await.ok()?;
                let new = w.peers.borrow_and_update().clone();
                w.ready.extend(changes(&w.known, &new));
                w.known = new;
            }
            Some((Ok(w.ready.pop_front()?), w))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_is_told_what_differs() {
        let peer = |n: &str, port| Peer::new("prod", n, Some(format!("10.0.0.1:{port}").parse().unwrap()), true);
        let old = Peers::from([("a".into(), peer("a", 1)), ("b".into(), peer("b", 1))]);
        let new = Peers::from([("b".into(), peer("b", 2)), ("c".into(), peer("c", 1))]);
        let told: Vec<_> = changes(&old, &new).into_iter().map(|c| (c.r#type().as_str_name(), c.name)).collect();
        let expected = [("PEER_DELETED", "prod/a"), ("PEER_UPDATED", "prod/b"), ("PEER_ADDED", "prod/c")];
        assert_eq!(told, expected.map(|(k, n)| (k, n.to_owned())));
        assert!(changes(&new, &new).is_empty());
    }

    #[test]
    fn names_are_those_that_relays_expect() {
        let p = Peer::new("default", "n1.example", None, true);
        assert_eq!(
            (&*p.name, p.server_name.as_deref()),
            ("n1.example", Some("n1-example.default.hubble-grpc.cilium.io"))
        );
        assert_eq!(Peer::new("a.b", "n1", None, true).server_name.unwrap(), "n1.a-b.hubble-grpc.cilium.io");
        assert_eq!(Peer::new("a.b", "n1", None, false).server_name, None);
    }
}
