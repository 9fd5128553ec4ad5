//! A node with random flows that serves on a socket of its own.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{path::PathBuf, sync::Arc};

use axoneme_flow::{Event, Facet, Feed, Flow, Hub, Record, Time, testing};
use axoneme_hubble::{
    node::{Node, Settings},
    pb::observer::observer_client::ObserverClient,
    server,
};
use axoneme_model::rows::NodeRow;
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

pub(crate) struct Rig {
    pub(crate) hub: Arc<Hub>,
    pub(crate) feed: Feed,
    pub(crate) node: Arc<Node>,
    pub(crate) socket: PathBuf,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) cancel: CancellationToken,
}

/// What happened at so many nanoseconds after `START` for each record.
pub(crate) const START: u64 = 1_795_269_600_000_000_000;

/// Random records, one a millisecond, of which most look as a node's do.
pub(crate) fn records(count: u64) -> Vec<Record> {
    let mut runner = TestRunner::deterministic();
    let one = testing::arbitrary_record().prop_map(|r| Record {
        // as the kernel tells it: connections are forwarded, drops are dropped
        verdict: if r.event == Event::Drop { axoneme_flow::Verdict::Dropped } else { axoneme_flow::Verdict::Forwarded },
        ..r
    });
    (0..count)
        .map(|n| Record { time: Time(START + n * 1_000_000), ..one.new_tree(&mut runner).unwrap().current() })
        .collect()
}

impl Rig {
    pub(crate) async fn new(room: usize) -> Self {
        Self::named("n1", room, 4244, true).await
    }

    pub(crate) async fn named(node: &str, room: usize, port: u16, tls: bool) -> Self {
        let (hub, feed) = Hub::new(node, "", 42, room);
        hub.names(|names| {
            *names = testing::names();
            names.set_cluster(&"prod".into());
            for (name, address) in [("n1", "192.168.0.1"), ("n2", "192.168.0.2")] {
                let addresses = vec![address.parse().unwrap()];
                names.upsert_node(&NodeRow { name: name.into(), addresses, pod_cidrs: vec![] });
            }
        });
        let cancel = CancellationToken::new();
        let settings = Settings { port, tls, version: "axoneme test".into() };
        let (node, _) = Node::start(hub.clone(), settings, cancel.clone());
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/hubble.sock");
        let listener = server::bind_unix(&socket).unwrap();
        let routes = server::routes(&node).await.unwrap();
        tokio::spawn(server::serve_unix(listener, socket.clone(), routes, cancel.clone()));
        Self { hub, feed, node, socket, directory, cancel }
    }

    pub(crate) async fn client(&self) -> ObserverClient<Channel> {
        // small windows: what a client holds must not hide what the server holds
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display()))
            .unwrap()
            .initial_stream_window_size(16 << 10)
            .initial_connection_window_size(1 << 20);
        ObserverClient::new(endpoint.connect().await.unwrap())
    }

    pub(crate) fn push(&mut self, records: &[Record]) {
        for record in records {
            self.feed.push(record);
        }
    }

    /// The flows of the first records, as this product's own JSON has them, with their facets.
    pub(crate) fn flows(&self, records: &[Record]) -> Vec<(Flow, Facet)> {
        let of = |(n, r): (u64, &Record)| {
            let flow = self.hub.read(|view| view.flow(n, r));
            r.facets().iter().map(move |f| (flow.clone(), *f)).collect::<Vec<_>>()
        };
        (0..).zip(records).flat_map(of).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
