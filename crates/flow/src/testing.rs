//! Random records, and names for them, for the tests of this crate and of those that show flows.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "compiled for tests only, which fail by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axoneme_model::{
    Direction, Identity, Kind, LabelKey, Labels, ObjectRef, PeerClass, Protocol, RuleRef,
    rows::{Frontend, IdentityRow, IpRow, RuleId, RuleRow, ServiceRow},
};
use proptest::{option, prelude::*, sample::select};

use crate::{DropReason, Event, NameBook, Origin, Point, Record, Time, Traffic, Transport, Verdict};

fn arbitrary_ends() -> impl Strategy<Value = Option<(IpAddr, IpAddr)>> {
    // few addresses, so that filters and names meet the same ones often
    let v4 = |n: u8| IpAddr::from(Ipv4Addr::new(10, 0, n >> 4, n & 15));
    let v6 = |n: u8| IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, u16::from(n >> 4), u16::from(n & 15)));
    let ends = move |(six, a, b)| if six { (v6(a), v6(b)) } else { (v4(a), v4(b)) };
    option::weighted(0.95, (any::<bool>(), 0..64u8, 0..64u8).prop_map(ends))
}

fn arbitrary_transport() -> impl Strategy<Value = Transport> {
    (select(vec![1u8, 6, 17, 58, 132, 112, 47]), 0..200u16, select(vec![53u16, 80, 443, 8080]), 0..512u16)
        .prop_map(|(p, a, b, f)| Transport::new(Protocol(p), a, b, f))
}

fn arbitrary_traffic() -> impl Strategy<Value = Traffic> {
    (any::<u64>(), any::<u64>()).prop_map(|(packets, bytes)| Traffic { packets, bytes })
}

fn arbitrary_origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        Just(Origin::Unknown),
        (1..=u64::MAX, any::<u64>()).prop_map(|(cookie, cgroup)| Origin::Socket { cookie, cgroup }),
        any::<u32>().prop_map(|id| Origin::Tunnel { id }),
    ]
}

/// Records of every kind, with few addresses and ports, so that filters and names meet the same ones often.
pub fn arbitrary_record() -> impl Strategy<Value = Record> {
    let what = (
        select(vec![Event::Drop, Event::New, Event::Closed, Event::Judged]),
        select(vec![Verdict::Forwarded, Verdict::Dropped, Verdict::Audit, Verdict::Translated, Verdict::Unknown]),
        select(vec![0u8, 132, 133, 181, 203]),
        option::of(select(vec![Direction::Ingress, Direction::Egress])),
        option::of(any::<bool>()),
        select(vec![Point::UnknownPoint, Point::ToEndpoint, Point::FromEndpoint, Point::FromOverlay, Point::FromHost]),
        select(vec![Point::UnknownPoint, Point::ToEndpoint, Point::ToHost, Point::ToOverlay, Point::ToNetwork]),
    );
    let ids = (0..12u32, 0..12u32, 0..6u32, 0..4u32, any::<u32>());
    let told = (arbitrary_origin(), arbitrary_traffic(), arbitrary_traffic());
    (any::<u64>(), what, arbitrary_ends(), arbitrary_transport(), ids, told).prop_map(
        |(time, what, ends, transport, ids, (origin, forward, backward))| Record {
            time: Time(time),
            event: what.0,
            verdict: what.1,
            reason: DropReason(what.2),
            direction: what.3,
            reply: what.4,
            point: what.5,
            onward: if what.0 == Event::New { what.6 } else { Point::UnknownPoint },
            ends,
            transport,
            source_identity: Identity(ids.0),
            destination_identity: Identity(ids.1),
            rule: RuleId(ids.2),
            ifindex: ids.3,
            length: ids.4,
            // either is told
            origin: if what.0 == Event::Closed { Origin::Unknown } else { origin },
            forward: if what.0 == Event::Closed { forward } else { Traffic::default() },
            backward: if what.0 == Event::Closed { backward } else { Traffic::default() },
        },
    )
}

/// Pods on some of the addresses that [`arbitrary_record`] uses, labels for some identities, three rules, a service.
#[must_use]
pub fn names() -> NameBook {
    let mut book = NameBook::new("n1", 16);
    for n in 0..64u8 {
        let prefix = if n % 3 == 0 {
            format!("10.0.{}.{}/32", n >> 4, n & 15)
        } else {
            format!("fd00::{:x}:{:x}/128", n >> 4, n & 15)
        };
        let namespace = ["shop", "ops", "default"][usize::from(n % 3)];
        let identity = Identity(u32::from(n % 8) + 3);
        let pod = if n % 5 == 0 { String::new() } else { format!("{namespace}/web-{n}") };
        let row = IpRow {
            prefix: prefix.parse().unwrap(),
            identity,
            peer: PeerClass(identity.0),
            local_identity: identity,
            local_peer: PeerClass(identity.0),
            tunnel: None,
            node: "n1".into(),
            pod: pod.into(),
        };
        book.upsert_ip(&row, Time(0));
    }
    for n in 1..12 {
        let app = ["web", "api", "db"][n as usize % 3];
        let labels = Labels::new().with(LabelKey::k8s("app"), app);
        let labels = if n % 2 == 0 { labels.with(LabelKey::parse("cni:tier"), "front") } else { labels };
        book.upsert_identity(&IdentityRow { id: Identity(n), labels });
    }
    for (n, namespace, path) in
        [(1, "shop", "spec.ingress[0].toPorts[1]"), (2, "shop", "specs[1].egressDeny[0]"), (3, "", "spec.x")]
    {
        let kind = if namespace.is_empty() { Kind::ClusterNetworkPolicy } else { Kind::CiliumNetworkPolicy };
        let rule = RuleRef { object: ObjectRef::new(kind, namespace, &format!("p{n}")), path: path.into() };
        book.upsert_rule(&RuleRow {
            id: RuleId(n),
            rule,
            allow: n == 1,
            log: (n < 3).then(|| format!("log {n}").into()),
        });
    }
    let frontend =
        Frontend { address: "10.0.0.2".parse().unwrap(), protocol: Protocol::TCP, port: 80, backends: vec![] };
    let service = ServiceRow {
        namespace: "shop".into(),
        name: "front".into(),
        frontends: vec![frontend],
        affinity_seconds: None,
        internal_local: false,
    };
    book.upsert_service(&service);
    book.upsert_interface(2, "axo2");
    book
}
