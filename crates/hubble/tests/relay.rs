//! A relay before three nodes: one order, lost nodes named, followers carried over.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::{net::SocketAddr, time::Duration};

use axoneme_flow::{Event, Record, Time, Verdict};
use axoneme_hubble::{
    convert,
    pb::{
        observer::{
            GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNodesRequest, ServerStatusRequest,
            ServerStatusResponse, get_flows_response::ResponseTypes, observer_client::ObserverClient,
        },
        relay::NodeState,
    },
    relay::{self, Pool, Service},
    server,
};
use axoneme_model::rows::NodeRow;
use common::{Rig, START, records};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};

const SOON: Duration = Duration::from_secs(20);
const NODES: u8 = 3;

struct Cluster {
    nodes: Vec<Rig>,
    servers: Vec<(CancellationToken, JoinHandle<()>)>,
    port: u16,
    cancel: CancellationToken,
    client: ObserverClient<Channel>,
}

fn address(node: usize, port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, u8::try_from(node).unwrap() + 1], port))
}

impl Cluster {
    /// Nodes `n1`… on 127.0.0.1… at one port; the first names all of them; clear text.
    async fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let (mut nodes, mut servers) = (Vec::new(), Vec::new());
        for n in 0..usize::from(NODES) {
            let rig = Rig::named(&format!("n{}", n + 1), 256, port, false).await;
            rig.hub.names(|names| {
                names.remove_node("n1");
                names.remove_node("n2");
                for peer in 0..usize::from(NODES) {
                    let addresses = vec![address(peer, port).ip()];
                    names.upsert_node(&NodeRow { name: format!("n{}", peer + 1).into(), addresses, pod_cidrs: vec![] });
                }
            });
            nodes.push(rig);
            servers.push(serve(&nodes[n], address(n, port)).await);
        }
        let cancel = CancellationToken::new();
        let (pool, _) = Pool::start(format!("unix://{}", nodes[0].socket.display()), None, cancel.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let routes = relay::routes(Service::new(pool, "relay", "axoneme test")).await.unwrap();
        tokio::spawn(server::serve_tcp(listener, None, routes, cancel.clone()));
        let mut client = ObserverClient::connect(url).await.unwrap();
        let all = async {
            while client.get_nodes(GetNodesRequest {}).await.unwrap().into_inner().nodes.len() < usize::from(NODES) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, all).await.expect("the relay knows all nodes");
        Self { nodes, servers, port, cancel, client }
    }

    async fn kill(&mut self, node: usize) {
        let (cancel, server) = self.servers.remove(node);
        cancel.cancel();
        server.await.unwrap();
        self.servers.insert(node, (cancel, tokio::spawn(async {})));
    }

    async fn revive(&mut self, node: usize) {
        self.servers[node] = serve(&self.nodes[node], address(node, self.port)).await;
    }

    /// Puts something between the relay and a node that it has been connected to.
    async fn through_proxy(&mut self, node: usize) -> Proxy {
        self.kill(node).await;
        let behind = TcpListener::bind((address(node, 0).ip(), 0)).await.unwrap();
        let to = behind.local_addr().unwrap();
        let (cancel, routes) =
            (self.nodes[node].cancel.child_token(), server::routes(&self.nodes[node].node).await.unwrap());
        let server = tokio::spawn(server::serve_tcp(behind, None, routes, cancel.clone()));
        self.servers[node] = (cancel, server);
        let proxy = Proxy::start(address(node, self.port), to).await;
        let again = async {
            while self.status().await.num_connected_nodes != Some(3) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, again).await.expect("the relay comes back to it");
        proxy
    }

    async fn status(&self) -> ServerStatusResponse {
        self.client.clone().server_status(ServerStatusRequest {}).await.unwrap().into_inner()
    }

    async fn flows(&self, request: GetFlowsRequest) -> Streaming<GetFlowsResponse> {
        self.client.clone().get_flows(request).await.unwrap().into_inner()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn serve(rig: &Rig, at: SocketAddr) -> (CancellationToken, JoinHandle<()>) {
    let (cancel, routes) = (rig.cancel.child_token(), server::routes(&rig.node).await.unwrap());
    let listener = TcpListener::bind(at).await.unwrap();
    (cancel.clone(), tokio::spawn(server::serve_tcp(listener, None, routes, cancel)))
}

/// What becomes of bytes on their way between relay and node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wire {
    Good,
    /// What the node says arrives so much later.
    Slow(Duration),
    /// Connections stay, and nothing goes through them: as a node whose process hangs, or whose cable is pulled.
    Dead,
}

/// Stands between the relay and a node.
struct Proxy {
    wire: watch::Sender<Wire>,
    task: JoinHandle<()>,
}

impl Proxy {
    async fn start(at: SocketAddr, node: SocketAddr) -> Self {
        let (wire, state) = watch::channel(Wire::Good);
        let listener = TcpListener::bind(at).await.unwrap();
        let task = tokio::spawn(async move {
            let mut links = tokio::task::JoinSet::new();
            while let Ok((relay, _)) = listener.accept().await {
                let Ok(node) = TcpStream::connect(node).await else { continue };
                let ((from_relay, to_relay), (from_node, to_node)) = (relay.into_split(), node.into_split());
                links.spawn(pass(from_relay, to_node, state.clone(), false));
                links.spawn(pass(from_node, to_relay, state.clone(), true));
            }
        });
        Self { wire, task }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Each piece waits for itself only: slow is late, not narrow.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut wire: watch::Receiver<Wire>, late: bool) {
    let (sender, mut queue) = tokio::sync::mpsc::channel::<(tokio::time::Instant, Vec<u8>)>(1024);
    let reader = async move {
        let mut bytes = vec![0; 16 << 10];
        while let Ok(n @ 1..) = from.read(&mut bytes).await {
            let delay = match *wire.borrow() {
                Wire::Slow(by) if late => by,
                _ => Duration::ZERO,
            };
            if wire.wait_for(|w| *w != Wire::Dead).await.is_err() {
                return;
            }
            if sender.send((tokio::time::Instant::now() + delay, bytes[..n].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writer = async move {
        while let Some((at, bytes)) = queue.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reader, writer);
}

/// Records that tell one flow each.
fn singles(count: u64) -> Vec<Record> {
    let closed = |r| Record { event: Event::Closed, verdict: Verdict::Forwarded, ..r };
    records(count).into_iter().map(closed).collect()
}

/// Node and milliseconds after the start of a flow; or the nodes and state of a line about nodes.
#[derive(Debug, PartialEq)]
enum Said {
    Flow(String, u64),
    Nodes(NodeState, Vec<String>),
}

fn said(line: GetFlowsResponse) -> Said {
    match line.response_types.unwrap() {
        ResponseTypes::NodeStatus(s) => Said::Nodes(s.state_change(), s.node_names),
        _ => Said::Flow(line.node_name, (convert::time(&line.time.unwrap()).unwrap().0 - START) / 1_000_000),
    }
}

async fn next(stream: &mut Streaming<GetFlowsResponse>) -> Option<Said> {
    timeout(SOON, stream.message()).await.expect("a line in time").unwrap().map(said)
}

/// The rest of a stream with an end: flows, and states.
async fn rest(mut stream: Streaming<GetFlowsResponse>) -> (Vec<(String, u64)>, Vec<(NodeState, Vec<String>)>) {
    let (mut flows, mut states) = (Vec::new(), Vec::new());
    while let Some(s) = next(&mut stream).await {
        match s {
            Said::Flow(node, at) => flows.push((node, at)),
            Said::Nodes(state, nodes) => states.push((state, nodes)),
        }
    }
    (flows, states)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_merged_in_time_order_and_a_lost_one_is_named() {
    let mut cluster = Cluster::new().await;
    let all = singles(300);
    // in turn, so that neighbours in time are on different nodes
    for (n, record) in all.iter().enumerate() {
        cluster.nodes[n % 3].push(std::slice::from_ref(record));
    }
    let expected: Vec<(String, u64)> = (0..300u64).map(|n| (format!("prod/n{}", n % 3 + 1), n)).collect();
    let (flows, states) = rest(cluster.flows(GetFlowsRequest { number: u64::MAX, ..Default::default() }).await).await;
    assert_eq!(flows, expected);
    assert_eq!(states.len(), 3);
    assert!(states.iter().all(|s| s.0 == NodeState::NodeConnected), "{states:?}");
    // the last of all nodes, not of each
    let (flows, _) = rest(cluster.flows(GetFlowsRequest { number: 7, ..Default::default() }).await).await;
    assert_eq!(flows, expected[293..]);
    let (flows, _) = rest(cluster.flows(GetFlowsRequest { number: 5, first: true, ..Default::default() }).await).await;
    assert_eq!(flows, expected[..5]);

    let status = cluster.client.server_status(ServerStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.num_connected_nodes, status.num_unavailable_nodes), (Some(3), Some(0)));
    assert_eq!((status.num_flows, status.max_flows, status.seen_flows), (300, 768, 300));
    let namespaces = cluster.client.get_namespaces(GetNamespacesRequest {}).await.unwrap().into_inner().namespaces;
    assert_eq!(namespaces.iter().map(|n| &*n.namespace).collect::<Vec<_>>(), ["default", "ops", "shop"]);

    cluster.kill(1).await;
    let status = cluster.client.server_status(ServerStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.num_connected_nodes, status.num_unavailable_nodes), (Some(2), Some(1)));
    assert_eq!(status.unavailable_nodes, ["prod/n2"]);
    let (flows, states) = rest(cluster.flows(GetFlowsRequest { number: u64::MAX, ..Default::default() }).await).await;
    assert_eq!(flows, expected.iter().filter(|f| f.0 != "prod/n2").cloned().collect::<Vec<_>>());
    assert!(states.contains(&(NodeState::NodeError, vec!["prod/n2".to_owned()])), "{states:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_outlives_the_loss_of_a_node_and_misses_nothing_of_it() {
    let mut cluster = Cluster::new().await;
    let all = singles(40);
    let mut stream = cluster.flows(GetFlowsRequest { follow: true, ..Default::default() }).await;
    let mut connected = Vec::new();
    while connected.len() < 3 {
        match next(&mut stream).await.unwrap() {
            Said::Nodes(NodeState::NodeConnected, nodes) => connected.extend(nodes),
            other => panic!("{other:?}"),
        }
    }
    cluster.nodes[2].push(&all[..10]);
    for n in 0..10 {
        assert_eq!(next(&mut stream).await, Some(Said::Flow("prod/n3".into(), n)));
    }
    cluster.kill(2).await;
    assert_eq!(next(&mut stream).await, Some(Said::Nodes(NodeState::NodeUnavailable, vec!["prod/n3".into()])));
    // it goes on seeing flows while nobody can reach it; the others are shown meanwhile
    cluster.nodes[2].push(&all[10..20]);
    cluster.nodes[0].push(&[Record { time: Time(START + 15_500_000), ..all[0] }]);
    assert_eq!(next(&mut stream).await, Some(Said::Flow("prod/n1".into(), 15)));
    cluster.revive(2).await;
    let mut of_it = Vec::new();
    while of_it.len() < 10 {
        match next(&mut stream).await.unwrap() {
            Said::Flow(node, at) => {
                assert_eq!(node, "prod/n3");
                of_it.push(at);
            }
            Said::Nodes(..) => {}
        }
    }
    assert_eq!(of_it, (10..20).collect::<Vec<_>>());
}

/// A line about nodes as a person reads it: its state, whom it names, what it says.
async fn told(stream: &mut Streaming<GetFlowsResponse>) -> (NodeState, Vec<String>, String) {
    loop {
        let line = timeout(SOON, stream.message()).await.expect("a line in time").unwrap().expect("no end");
        if let Some(ResponseTypes::NodeStatus(s)) = line.response_types {
            return (s.state_change(), s.node_names, s.message);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_flows_come_late_is_named_and_nothing_of_it_is_lost() {
    let mut cluster = Cluster::new().await;
    let proxy = cluster.through_proxy(2).await;
    let mut stream = cluster.flows(GetFlowsRequest { follow: true, ..Default::default() }).await;
    for _ in 0..3 {
        assert_eq!(told(&mut stream).await.0, NodeState::NodeConnected);
    }
    proxy.wire.send_replace(Wire::Slow(relay::WINDOW * 4));
    let one = singles(1)[0];
    let at = |n: u64| Record { time: Time(START + n * 1_000_000), ..one };
    // what the slow one saw first comes last, after the others were shown
    cluster.nodes[2].push(&[at(0)]);
    cluster.nodes[0].push(&[at(2000)]);
    cluster.nodes[1].push(&[at(2001)]);
    let mut flows = Vec::new();
    let named = loop {
        let line = timeout(SOON, stream.message()).await.expect("a line in time").unwrap().expect("no end");
        match line.response_types.clone().unwrap() {
            ResponseTypes::NodeStatus(s) => break s,
            _ => flows.push(said(line)),
        }
    };
    assert_eq!(flows, [Said::Flow("prod/n1".into(), 2000), Said::Flow("prod/n2".into(), 2001)], "nobody waits for it");
    assert_eq!((named.state_change(), named.node_names), (NodeState::NodeError, vec!["prod/n3".to_owned()]));
    assert_eq!(named.message, "its flows lag by 2.0 s");
    assert_eq!(next(&mut stream).await, Some(Said::Flow("prod/n3".into(), 0)));
    // it is named again only after a while
    cluster.nodes[2].push(&[at(1)]);
    assert_eq!(next(&mut stream).await, Some(Said::Flow("prod/n3".into(), 1)));
    let status = cluster.status().await;
    assert_eq!((status.num_connected_nodes, status.unavailable_nodes), (Some(3), vec![]), "late is not away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_says_nothing_any_more_is_named_by_status_nodes_and_streams() {
    let mut cluster = Cluster::new().await;
    let proxy = cluster.through_proxy(2).await;
    let all = singles(30);
    for (n, record) in all.iter().enumerate() {
        cluster.nodes[n % 3].push(std::slice::from_ref(record));
    }
    proxy.wire.send_replace(Wire::Dead);
    let status = cluster.status().await;
    assert_eq!((status.num_connected_nodes, status.num_unavailable_nodes), (Some(2), Some(1)));
    assert_eq!(status.unavailable_nodes, ["prod/n3"]);
    assert_eq!(status.num_flows, 20, "of those that answer");
    let nodes = cluster.client.get_nodes(GetNodesRequest {}).await.unwrap().into_inner().nodes;
    let states: Vec<_> = nodes.iter().map(|n| (&*n.name, n.state())).collect();
    let (connected, away) = (NodeState::NodeConnected, NodeState::NodeUnavailable);
    assert_eq!(states, [("prod/n1", connected), ("prod/n2", connected), ("prod/n3", away)]);

    let mut stream = cluster.flows(GetFlowsRequest { number: u64::MAX, ..Default::default() }).await;
    let (mut flows, mut named) = (Vec::new(), None);
    while flows.len() < 20 {
        let line = timeout(SOON, stream.message()).await.expect("a line in time").unwrap().expect("no end");
        match line.response_types.clone().unwrap() {
            ResponseTypes::NodeStatus(s) if s.state_change() == NodeState::NodeConnected => {}
            ResponseTypes::NodeStatus(s) => named = named.or(Some((s.state_change(), s.node_names, s.message))),
            _ => flows.push(said(line)),
        }
    }
    let of_others = (0..30).filter(|n| n % 3 != 2).map(|n| Said::Flow(format!("prod/n{}", n % 3 + 1), n));
    assert_eq!(flows, of_others.collect::<Vec<_>>(), "all of the others");
    let (state, names, message) = named.expect("it is named before the others are shown without it");
    assert_eq!((state, names), (away, vec!["prod/n3".to_owned()]));
    assert!(message.starts_with("no flows for 3 s"), "{message}");
    drop(stream);

    // what was held up comes through: nothing has to be started anew
    proxy.wire.send_replace(Wire::Good);
    let (flows, _) = rest(cluster.flows(GetFlowsRequest { number: u64::MAX, ..Default::default() }).await).await;
    assert_eq!(flows.len(), 30);
}
