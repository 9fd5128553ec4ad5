//! The services over real sockets: many clients, slow ones, vanished ones, wrong ones.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::{
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use axoneme_flow::{Archivist, Event, Record};
use axoneme_hubble::{
    metrics::{self, Feeder, Metrics},
    pb::{
        flow::{EventTypeFilter, FlowFilter},
        observer::{
            GetAgentEventsRequest, GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNodesRequest,
            ServerStatusRequest, get_flows_response::ResponseTypes, observer_client::ObserverClient,
        },
        peer::{NotifyRequest, peer_client::PeerClient},
    },
    server::{self, TlsFiles},
};
use axoneme_model::{
    Kind, ObjectRef, RuleRef,
    rows::{RuleId, RuleRow},
};
use common::{Rig, records};
use tokio::time::timeout;
use tonic::{
    Code, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

const SOON: Duration = Duration::from_secs(20);

fn follow() -> GetFlowsRequest {
    GetFlowsRequest { follow: true, ..GetFlowsRequest::default() }
}

/// Reads until so many records were seen or told to be lost.
async fn read(stream: &mut Streaming<GetFlowsResponse>, wanted: u64) -> (u64, u64) {
    let (mut seen, mut lost, mut last) = (0, 0, String::new());
    while seen + lost < wanted {
        let line = timeout(SOON, stream.message()).await.expect("a line in time").unwrap().expect("no end");
        match line.response_types.unwrap() {
            ResponseTypes::Flow(f) => {
                // the flows of a record share the end of their id
                let id = f.uuid[24..].to_owned();
                seen += u64::from(id != last);
                last = id;
            }
            ResponseTypes::LostEvents(l) => lost += l.num_events_lost,
            ResponseTypes::NodeStatus(_) => unreachable!(),
        }
    }
    (seen, lost)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_followers_each_see_everything_and_slow_or_vanished_ones_cost_nothing() {
    const COUNT: u64 = 600;
    let mut rig = Rig::new(1024).await;
    let records = records(COUNT);
    let client = rig.client().await;
    let mut followers = Vec::new();
    for _ in 0..100 {
        followers.push(client.clone().get_flows(follow()).await.unwrap().into_inner());
    }
    // never reads
    let mut slow = rig.client().await.get_flows(follow()).await.unwrap().into_inner();
    // goes away in the middle of its stream, without a word
    drop(rig.client().await.get_flows(follow()).await.unwrap().into_inner());
    let before = resident_kib();
    let begun = std::time::Instant::now();
    for chunk in records.chunks(60) {
        rig.push(chunk);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let readers = followers.into_iter().map(|mut f| tokio::spawn(async move { read(&mut f, COUNT).await }));
    let read_all: Vec<_> = futures::future::join_all(readers).await.into_iter().map(Result::unwrap).collect();
    println!(
        "100 followers of {COUNT} records: {:?}, {} KiB more",
        begun.elapsed(),
        resident_kib().saturating_sub(before)
    );
    assert!(read_all.iter().all(|r| *r == (COUNT, 0)), "{read_all:?}");
    // some 90 000 lines went by; what a stream holds is bounded by the window of its connection
    let more = resident_kib().saturating_sub(before);
    assert!(more < 24 * 1024, "{more} KiB more");

    // Losses are counted where a stream comes upon them, whether or not its client is still there. Readers and the vanished
    // one have left, but the server hears of that by their connections: until then they would be behind as well, and what
    // they lost would be counted beside what the slow one is told.
    let ended = async {
        while rig.node.streams() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, ended).await.expect("the server has heard of who left");

    // the slow one comes back when its place is long gone, and is told so
    let more: Vec<_> = records.iter().cycle().take(3000).copied().collect();
    rig.push(&more);
    let (seen, lost) = read(&mut slow, COUNT + 3000).await;
    assert_eq!(seen + lost, COUNT + 3000);
    assert!(lost > 1000, "{seen} seen, {lost} lost");
    assert_eq!(rig.hub.lost_by_cause()["history"], lost);
}

#[tokio::test]
async fn flows_that_the_ring_gave_up_are_shown_as_if_they_were_still_there() {
    let mut rig = Rig::new(64).await;
    rig.hub.remember(1 << 20);
    let mut archivist = Archivist::new(&rig.hub);
    let records = records(1000);
    for chunk in records.chunks(16) {
        rig.push(chunk);
        while archivist.turn(&rig.hub) {}
    }
    let all: Vec<String> = rig
        .flows(&records)
        .iter()
        .map(|(flow, facet)| axoneme_hubble::convert::flow(flow, *facet, "prod", false).uuid)
        .collect();
    let mut client = rig.client().await;
    let mut ask = async |request| {
        let mut stream = client.get_flows(request).await.unwrap().into_inner();
        let mut found = Vec::new();
        while let Some(line) = timeout(SOON, stream.message()).await.expect("a line in time").unwrap() {
            let ResponseTypes::Flow(flow) = line.response_types.unwrap() else { panic!("nothing is lost") };
            found.push(flow.uuid);
        }
        found
    };
    assert_eq!(ask(GetFlowsRequest { first: true, number: 5000, ..GetFlowsRequest::default() }).await, all);
    assert_eq!(ask(GetFlowsRequest { number: 700, ..GetFlowsRequest::default() }).await, all[all.len() - 700..]);
    let time = |n: usize| Some(axoneme_hubble::convert::timestamp(records[n].time));
    let between = GetFlowsRequest { since: time(100), until: time(200), ..GetFlowsRequest::default() };
    let flows = |upto: usize| rig.flows(&records[..upto]).len();
    assert_eq!(ask(between).await, all[flows(100)..flows(201)]);
    let status = rig.client().await.server_status(ServerStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.num_flows, status.seen_flows), (1000, 1000));
}

#[tokio::test]
async fn streams_are_limited_and_places_are_given_back() {
    let rig = Rig::new(16).await;
    let mut streams = Vec::new();
    let refused = 'full: loop {
        let mut client = rig.client().await;
        for _ in 0..200 {
            match client.get_flows(follow()).await {
                Ok(s) => streams.push(s),
                Err(status) => break 'full status,
            }
        }
    };
    assert_eq!((refused.code(), streams.len()), (Code::ResourceExhausted, 512));
    drop(streams);
    let open_again = async {
        while rig.client().await.get_flows(follow()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, open_again).await.expect("places are free again");
}

#[tokio::test]
async fn a_rules_log_is_told_with_the_verdict_and_follows_the_policy() {
    let mut rig = Rig::new(16).await;
    let denied = records(200).into_iter().find(|r| r.event == Event::Drop && r.reason.is_policy()).unwrap();
    let denied = Record { rule: RuleId(2), ends: Some(([10, 0, 0, 1].into(), [10, 0, 0, 2].into())), ..denied };
    rig.push(&[denied, Record { rule: RuleId(3), ..denied }]);
    let judged = async |rig: &Rig| {
        let event_type = vec![EventTypeFilter { r#type: 5, ..EventTypeFilter::default() }];
        let whitelist = vec![FlowFilter { event_type, ..FlowFilter::default() }];
        let request = GetFlowsRequest { whitelist, ..GetFlowsRequest::default() };
        let mut flows = rig.client().await.get_flows(request).await.unwrap().into_inner();
        let mut logs = Vec::new();
        while let Some(line) = flows.message().await.unwrap() {
            let Some(ResponseTypes::Flow(flow)) = line.response_types else { continue };
            logs.push(flow.policy_log);
        }
        logs
    };
    assert_eq!(judged(&rig).await, [vec!["log 2".to_owned()], vec![]]);
    let object = ObjectRef::new(Kind::CiliumNetworkPolicy, "shop", "p2");
    let rule = RuleRef { object, path: "specs[1].egressDeny[0]".into() };
    rig.hub.names(|names| {
        names.upsert_rule(&RuleRow { id: RuleId(2), rule, allow: false, log: Some("PCI 4.1".into()) });
    });
    assert_eq!(judged(&rig).await, [vec!["PCI 4.1".to_owned()], vec![]]);
}

#[tokio::test]
async fn wrong_requests_are_refused_by_name() {
    let rig = Rig::new(16).await;
    let mut client = rig.client().await;
    let filter = FlowFilter { source_port: vec!["http".into()], ..FlowFilter::default() };
    let request = GetFlowsRequest { whitelist: vec![filter], ..GetFlowsRequest::default() };
    let status = client.get_flows(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "whitelist[0].source_port: \"http\": not a port number");
    let huge = FlowFilter { uuid: vec!["x".repeat(100); 50_000], ..FlowFilter::default() };
    let request = GetFlowsRequest { whitelist: vec![huge], ..GetFlowsRequest::default() };
    assert_eq!(client.get_flows(request).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(client.get_flows(GetFlowsRequest::default()).await.unwrap().into_inner().message().await.unwrap(), None);
}

#[tokio::test]
async fn a_node_tells_of_itself_its_peers_and_its_namespaces() {
    let mut rig = Rig::new(256).await;
    rig.push(&records(100));
    let mut client = rig.client().await;
    let status = client.server_status(ServerStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.num_flows, status.max_flows, status.seen_flows), (100, 256, 100));
    assert!(status.uptime_ns > 0 && status.version == "axoneme test");
    let namespaces = client.get_namespaces(GetNamespacesRequest {}).await.unwrap().into_inner().namespaces;
    let names: Vec<_> = namespaces.iter().map(|n| (&*n.cluster, &*n.namespace)).collect();
    assert_eq!(names, [("prod", "default"), ("prod", "ops"), ("prod", "shop")]);

    let channel = Endpoint::from_shared(format!("unix://{}", rig.socket.display())).unwrap().connect().await.unwrap();
    let mut peers = PeerClient::new(channel).notify(NotifyRequest {}).await.unwrap().into_inner();
    let mut told = Vec::new();
    for _ in 0..2 {
        let n = timeout(SOON, peers.message()).await.unwrap().unwrap().unwrap();
        told.push((n.r#type().as_str_name(), n.name, n.address, n.tls.unwrap().server_name));
    }
    let peer = |n: u8| {
        let (name, address) = (format!("prod/n{n}"), format!("192.168.0.{n}:4244"));
        ("PEER_ADDED", name, address, format!("n{n}.prod.hubble-grpc.cilium.io"))
    };
    assert_eq!(told, [peer(1), peer(2)]);
    rig.hub.names(|names| names.remove_node("n2"));
    let gone = timeout(SOON, peers.message()).await.unwrap().unwrap().unwrap();
    assert_eq!((gone.r#type().as_str_name(), &*gone.name), ("PEER_DELETED", "prod/n2"));

    let nodes = client.get_nodes(GetNodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!((nodes.len(), &*nodes[0].name, nodes[0].seen_flows), (1, "prod/n1", 100));
    let events = GetAgentEventsRequest { number: 1, first: true, ..GetAgentEventsRequest::default() };
    let event = client.get_agent_events(events).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(event.agent_event.unwrap().r#type().as_str_name(), "AGENT_STARTED");
    assert_eq!(event.node_name, "prod/n1");
}

#[tokio::test]
async fn a_socket_is_its_owners_and_has_one_server() {
    let rig = Rig::new(16).await;
    let mode = std::fs::metadata(&rig.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(server::bind_unix(&rig.socket).unwrap_err().to_string().contains("another process serves there"));
    // what a process left that was killed is replaced
    let stale = rig.directory.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    server::bind_unix(&stale).unwrap();
}

/// An authority and what it signs.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    fn sign(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

#[tokio::test]
async fn relays_need_a_certificate_of_the_right_authority() {
    const NAME: &str = "n1.prod.hubble-grpc.cilium.io";
    let rig = Rig::new(16).await;
    let (ours, other) = (Authority::new(), Authority::new());
    let file = |name: &str, text: &str| {
        let path = rig.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (certificate, key) = ours.sign(NAME);
    let files =
        TlsFiles { certificate: file("c", &certificate), key: file("k", &key), client_ca: file("ca", &ours.pem) };
    let missing = TlsFiles { key: "/no/such/key".into(), ..files.clone() };
    assert!(missing.load().unwrap_err().to_string().contains("/no/such/key"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = server::routes(&rig.node).await.unwrap();
    tokio::spawn(server::serve_tcp(listener, Some(files.load().unwrap()), routes, rig.cancel.clone()));

    // one that connects and says nothing holds up nobody
    let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
    let ask = |identity: Option<(String, String)>| {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ours.pem)).domain_name(NAME);
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
        async move {
            let channel: Channel = timeout(SOON, endpoint.connect()).await.unwrap().map_err(|_| ())?;
            let answer = ObserverClient::new(channel).server_status(ServerStatusRequest {}).await;
            answer.map(|a| a.into_inner().max_flows).map_err(|_| ())
        }
    };
    assert_eq!(ask(Some(ours.sign("relay"))).await, Ok(16));
    assert_eq!(ask(Some(other.sign("relay"))).await, Err(()));
    assert_eq!(ask(None).await, Err(()));
}

#[tokio::test]
async fn who_is_on_the_host_of_a_relay_may_speak_clear_text_and_others_may_not() {
    const NAME: &str = "x.hubble-relay.cilium.io";
    let rig = Rig::new(16).await;
    let ours = Authority::new();
    let file = |name: &str, text: &str| {
        let path = rig.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (certificate, key) = ours.sign(NAME);
    let files =
        TlsFiles { certificate: file("c", &certificate), key: file("k", &key), client_ca: file("ca", &ours.pem) };
    // any address of this machine but its loopback stands for another one; 192.0.2.1 is nobody's (RFC 5737), and a
    // datagram socket that connects sends nothing
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("this test needs a default route");
    let outside = socket.local_addr().unwrap().ip();
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let routes = server::routes(&rig.node).await.unwrap();
    tokio::spawn(server::serve_tcp_and_local(listener, files.load().unwrap(), routes, rig.cancel.clone()));

    let _silent = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let ask = |ip: std::net::IpAddr, with_tls: bool| {
        let scheme = if with_tls { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{ip}:{port}")).unwrap();
        if with_tls {
            let (certificate, key) = ours.sign("client");
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ours.pem)).domain_name(NAME);
            endpoint = endpoint.tls_config(tls.identity(Identity::from_pem(certificate, key))).unwrap();
        }
        async move {
            let channel: Channel = timeout(SOON, endpoint.connect()).await.unwrap().map_err(|_| ())?;
            let answer = timeout(SOON, ObserverClient::new(channel).server_status(ServerStatusRequest {})).await;
            answer.unwrap().map(|a| a.into_inner().max_flows).map_err(|_| ())
        }
    };
    let local = std::net::IpAddr::from([127, 0, 0, 1]);
    assert_eq!(ask(local, false).await, Ok(16));
    assert_eq!(ask(local, true).await, Ok(16));
    assert_eq!(ask(outside, true).await, Ok(16));
    assert_eq!(ask(outside, false).await, Err(()));
}

/// The body of a page, read as Prometheus does.
async fn page(address: std::net::SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn prometheus_reads_what_was_counted_and_nothing_of_pods_that_are_gone() {
    let mut rig = Rig::new(1024).await;
    let metrics = Metrics::parse(["flow:labelsContext=source_pod,source_namespace", "drop"], 5000).unwrap();
    let metrics = Arc::new(Mutex::new(metrics));
    tokio::spawn(Feeder::new(rig.node.clone(), metrics.clone()).run(rig.cancel.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(metrics::serve(listener, metrics, rig.cancel.clone()));
    // one that connects and says nothing holds up nobody
    let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let records = records(200);
    rig.push(&records);
    let sent = rig.flows(&records);
    let (of_pod, _) = sent.iter().find(|(f, _)| !f.source.pod_name.is_empty()).unwrap();
    let series = format!("source_pod=\"{}\",source_namespace=\"{}\"", of_pod.source.pod_name, of_pod.source.namespace);
    let address_of_pod = of_pod.ip.as_ref().unwrap().source;
    let sum = |text: &str| -> usize {
        let lines = text.lines().filter(|l| l.starts_with("hubble_flows_processed_total{"));
        lines.map(|l| l.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap()).sum()
    };
    let until = async |wanted: &dyn Fn(&str) -> bool| {
        let reading = async {
            loop {
                let text = page(address, "/metrics").await;
                if wanted(&text) {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, reading).await.expect("in time")
    };
    let text = until(&|t| sum(t) == sent.len()).await;
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.contains("openmetrics-text"), "{text}");
    assert!(text.contains(&series), "{text}");
    rig.hub.names(|names| names.remove_ip(address_of_pod.into(), axoneme_flow::Time(u64::MAX)));
    until(&|t| !t.contains(&series)).await;
    assert!(page(address, "/").await.starts_with("HTTP/1.1 404"));
}
