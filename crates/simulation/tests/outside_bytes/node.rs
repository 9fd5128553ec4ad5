//! What a node reads: the runtime's requests, packets, the kernel's rings, its own disk.

use std::{mem::offset_of, sync::Arc, time::Duration};

use axoneme_cni::{Answer, Request, frame};
use axoneme_flow::decode::{ClockOffset, decode_drop, decode_flow};
use axoneme_kernel::{
    datapath::{Datapath, DatapathConfig, Result},
    net::fake::FakeNetwork,
};
use axoneme_node_agent::{
    base::DatapathPaths,
    engine::{DatapathFactory, Engine, Parts},
    store::Store,
};
use axoneme_runtime::clock::Manual;
use axoneme_simulation::{Sabotage, kernel::Kernel, store::Disk};
use axoneme_stages::{
    V4, V6, Work, hook,
    host::{Buffer, Host},
    slow,
};
use tokio::sync::oneshot;

struct Opens(Arc<Kernel>);

impl DatapathFactory for Opens {
    fn open(&mut self, _: &DatapathConfig) -> Result<Arc<dyn Datapath>> {
        Ok(self.0.clone())
    }
}

/// An agent on a machine in memory. None: it does not start on this disk, and says so.
pub fn engine(disk: Arc<Disk>) -> Option<Engine> {
    let parts = Parts {
        node: "n1".into(),
        network: Arc::new(FakeNetwork::node(&["192.0.2.1".parse().unwrap()])),
        store: disk,
        clock: Arc::new(Manual::default()),
        paths: DatapathPaths { pin_dir: "/sys/fs/bpf/axoneme".into(), cgroup: None },
        add_deadline: Duration::from_secs(15),
        warnings: vec![],
        flows: None,
        grace: None,
    };
    Engine::new(parts, Box::new(Opens(Arc::new(Kernel::new(Sabotage::None))))).ok()
}

const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u1";

pub fn requests() -> Vec<Vec<u8>> {
    let request = |command: &str, config: &str| {
        format!(
            r#"{{"command":"{command}","container_id":"c1","netns":"/run/netns/x","ifname":"eth0","args":"{ARGS}","config":{config}}}"#
        )
    };
    let plain = r#"{"cniVersion":"1.1.0","name":"axoneme","type":"axoneme-cni"}"#;
    let previous = r#"{"cniVersion":"1.0.0","name":"x","type":"axoneme-cni","prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"address":"10.0.0.5/24","interface":0}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}]}}"#;
    let gc = r#"{"cniVersion":"1.1.0","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]}"#;
    [("ADD", plain), ("DEL", plain), ("CHECK", previous), ("GC", gc), ("STATUS", plain), ("VERSION", plain)]
        .map(|(c, config)| {
            let body = request(c, config).into_bytes();
            let mut framed = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
            framed.extend(body);
            framed
        })
        .to_vec()
}

/// As the agent's socket reads it: the announced length, the body, the request, and then the engine.
pub fn request(input: &[u8]) -> bool {
    let Some((header, body)) = input.split_first_chunk::<4>() else { return false };
    let Ok(length) = frame::length(*header) else { return false };
    let Some(body) = body.get(..length) else { return false };
    let Ok(request) = serde_json::from_slice::<Request>(body) else { return false };
    let mut engine = engine(Arc::default()).expect("an empty disk");
    let (reply, _answer) = oneshot::channel();
    let netns = std::fs::File::open("/dev/null").unwrap().into();
    engine.cni(request, Some(netns), reply);
    true
}

pub fn answers() -> Vec<Vec<u8>> {
    vec![
        br#"{"done":{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.5/24"}]}}"#.to_vec(),
        br#"{"failed":{"code":11,"msg":"later","details":""}}"#.to_vec(),
    ]
}

pub fn answer(input: &[u8]) -> bool {
    match serde_json::from_slice::<Answer>(input) {
        Ok(Answer::Failed(f)) => f.print("1.1.0").is_object(),
        Ok(Answer::Done(_)) => true,
        Err(_) => false,
    }
}

fn checked(mut header: Vec<u8>, payload: &[u8]) -> Vec<u8> {
    header.extend(payload);
    header
}

/// Ethernet, IPv4 or IPv6, and something of each protocol; fragments, options, extension headers, errors.
pub fn packets() -> Vec<Vec<u8>> {
    let ethernet = |kind: [u8; 2]| [&[0xee; 6][..], &[0x0a, 0, 0, 0, 0, 1], &kind].concat();
    let v4 = |protocol: u8, fragment: [u8; 2], payload: &[u8]| {
        let mut p = ethernet([8, 0]);
        let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        p.extend([0x45, 0, length[0], length[1], 0, 1, fragment[0], fragment[1], 64, protocol, 0, 0]);
        checked(checked(p, &[10, 0, 0, 1, 10, 0, 0, 2]), payload)
    };
    let v6 = |next: u8, payload: &[u8]| {
        let mut p = ethernet([0x86, 0xdd]);
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        p.extend([0x60, 0, 0, 0, length[0], length[1], next, 64]);
        for last in [1, 2] {
            p.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        checked(p, payload)
    };
    let tcp = [&[0x9c, 0x40, 0, 80][..], &[0; 8], &[0x50, 2, 0xff, 0xff, 0, 0, 0, 0]].concat();
    let udp = [0x9c, 0x40, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];
    let inner = v4(6, [0, 0], &tcp)[14..].to_vec();
    let error = [&[3, 1, 0, 0, 0, 0, 0, 0][..], &inner].concat();
    let hop_by_hop = [&[6, 0, 1, 4, 0, 0, 0, 0][..], &tcp].concat();
    let fragment = [&[17, 0, 0, 1, 0, 0, 0, 9][..], &udp].concat();
    let arp = [&ethernet([8, 6])[..], &[0, 1, 8, 0, 6, 4, 0, 1], &[0; 20]].concat();
    let too_big = [&[2, 0, 0, 0, 0, 0, 5, 0][..], &v6(6, &tcp)[14..]].concat();
    vec![
        v4(6, [0, 0], &tcp),
        v4(17, [0x20, 0], &udp),
        v4(17, [0, 1], &udp),
        v4(1, [0, 0], &error),
        v4(132, [0, 0], &tcp),
        v6(6, &tcp),
        v6(0, &hop_by_hop),
        v6(44, &fragment),
        v6(58, &too_big),
        arp,
    ]
}

/// One packet at every hook, of a pod's link and of the uplink.
pub fn packet(input: &[u8]) -> bool {
    use axoneme_abi::constants::feature;
    let host = Host::default();
    host.features.set(feature::IPV4 | feature::IPV6 | feature::SERVICES | feature::FLOWS);
    host.uplink.set(2);
    host.overlay.set(3);
    host.now.set(1000);
    let one = |ifindex: u32| {
        let buffer = || Buffer { tunnel: Some(5), ..Buffer::new(input, ifindex) };
        let _ = slow::<V4, _, _, { hook::FROM_CONTAINER }>(&host, &buffer(), &mut Work::new());
        let _ = slow::<V6, _, _, { hook::FROM_CONTAINER }>(&host, &buffer(), &mut Work::new());
        let _ = slow::<V4, _, _, { hook::FROM_NETDEV }>(&host, &buffer(), &mut Work::new());
        let _ = slow::<V6, _, _, { hook::FROM_NETDEV }>(&host, &buffer(), &mut Work::new());
        let _ = slow::<V4, _, _, { hook::FROM_OVERLAY }>(&host, &buffer(), &mut Work::new());
        let _ = slow::<V6, _, _, { hook::FROM_OVERLAY }>(&host, &buffer(), &mut Work::new());
        let _ = slow::<V4, _, _, { hook::TO_CONTAINER }>(&host, &buffer(), &mut Work::new());
        let _ = slow::<V6, _, _, { hook::TO_CONTAINER }>(&host, &buffer(), &mut Work::new());
    };
    one(11);
    one(2);
    input.len() > 14
}

pub fn drops() -> Vec<Vec<u8>> {
    sized::<axoneme_abi::DropEvent>()
}

pub fn flows() -> Vec<Vec<u8>> {
    let of = |(family, kind)| {
        let mut bytes = vec![0; size_of::<axoneme_abi::FlowEvent>()];
        bytes[offset_of!(axoneme_abi::FlowEvent, family)] = family;
        bytes[offset_of!(axoneme_abi::FlowEvent, kind)] = kind;
        bytes
    };
    [(4, 1), (6, 2)].map(of).to_vec()
}

/// The same byte throughout: of both families and neither.
fn sized<T>() -> Vec<Vec<u8>> {
    (0..=6).map(|b| vec![b; size_of::<T>()]).collect()
}

pub fn drop_event(input: &[u8]) -> bool {
    decode_drop(input, ClockOffset(i64::MAX)).is_ok()
}

pub fn flow_event(input: &[u8]) -> bool {
    decode_flow(input, ClockOffset(-1)).is_ok()
}

/// A document's name, a line end, and the document.
pub fn documents() -> Vec<Vec<u8>> {
    let intent = r#"{"schema":1,"phase":"live","attachment":{"containerID":"c1","ifname":"eth0"},"uid":"u1","namespace":"shop","name":"web","netns":"/run/netns/x","host_name":"axn123","addresses":["10.0.1.5"],"pod_mac":[2,0,0,0,0,1],"identity":300,"peer":300,"table":5,"mtu":1450}"#;
    [
        format!("endpoint-c1-eth0\n{intent}"),
        r#"slots
{"schema":1,"slots":{"5":1,"6":2}}"#
            .to_owned(),
        "blocks\n7".to_owned(),
        "inventory\n{\"schema\":1,\"sysctls\":{\"net/ipv4/ip_forward\":\"0\"}}".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// An agent starts with it, and is served by an operator.
pub fn document(input: &[u8]) -> bool {
    let Some(end) = input.iter().position(|b| *b == b'\n') else { return false };
    let (name, document) = (String::from_utf8_lossy(&input[..end]), &input[end + 1..]);
    let disk = Arc::new(Disk::default());
    disk.save(&name, document).unwrap();
    let Some(mut engine) = engine(disk) else { return false };
    engine.tick();
    for event in crate::stream::snapshot() {
        engine.stream(event);
    }
    drop((engine.take_outgoing(), engine.take_doomed()));
    true
}
