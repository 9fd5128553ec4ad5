use std::{collections::BTreeMap, sync::Arc};

use axoneme_model::{
    Cidr, Kind, LabelKey, Labels, ObjectRef, RuleRef, cidr,
    rows::{Backend, DirectionDefault, Frontend, IdentityRow, IpRow, RuleRow, ServiceRow, TableId},
};
use proptest::prelude::*;

use super::*;

const OPEN: DirectionDefault = DirectionDefault { allow: true, audit: false, rule: RuleId(0) };
const ISOLATED: DirectionDefault = DirectionDefault { allow: false, audit: false, rule: RuleId(1) };

fn labels(text: &[(&str, &str)]) -> Labels {
    text.iter().map(|(k, v)| (LabelKey::k8s(k), Arc::from(*v))).collect()
}

fn ip(address: &str, pod: &str, identity: u32, node: &str) -> (Cidr, IpRow) {
    let prefix = match address.parse::<IpAddr>() {
        Ok(address) => cidr::host(address),
        Err(_) => address.parse().unwrap(),
    };
    let (identity, peer) = (Identity(identity), PeerClass(identity));
    let row = IpRow {
        prefix,
        identity,
        peer,
        local_identity: identity,
        local_peer: peer,
        tunnel: None,
        node: node.into(),
        pod: pod.into(),
    };
    (prefix, row)
}

fn endpoint(name: &str, identity: u32, table: u64) -> (Arc<str>, EndpointRow) {
    let (namespace, short) = name.split_once('/').unwrap();
    let row = EndpointRow {
        uid: name.into(),
        namespace: namespace.into(),
        name: short.into(),
        node: "n1".into(),
        identity: Identity(identity),
        peer: PeerClass(identity),
        table: TableId(table),
        addresses: [].into(),
        pool_v4: "".into(),
        pool_v6: "".into(),
        labels: labels(&[("app", short)]),
        bandwidth: axoneme_model::Bandwidth::default(),
    };
    (name.into(), row)
}

fn entry(peer: PeerClass, protocol: Protocol, port: u16, bits: u8, allow: bool, rule: u32) -> (PolicyKey, PolicyEntry) {
    let key = PolicyKey { direction: Direction::Ingress, peer, protocol: Some(protocol), port, port_bits: bits };
    (key, PolicyEntry { allow, audit: false, rule: RuleId(rule), proxy_port: 0, auth: 0 })
}

fn table(id: u64, ingress_default: DirectionDefault, entries: Vec<(PolicyKey, PolicyEntry)>) -> TableRow {
    let entries = entries.into_iter().collect();
    TableRow { id: TableId(id), ingress_default, egress_default: OPEN, entries, policies: BTreeMap::new() }
}

/// `web` on this node lets `shop` in at 80 and 8443, bans `bad`; `probe` is on this node too, `far` on another.
#[expect(clippy::too_many_lines, reason = "a small cluster in one piece")]
fn rows() -> RowSet {
    let identity = |id: u32, app: &str| {
        (Identity(id), IdentityRow { id: Identity(id), labels: labels(&[("app", app), ("team", "a")]) })
    };
    let rule = |id: u32, path: &str, allow: bool| {
        let rule = RuleRef { object: ObjectRef::new(Kind::NetworkPolicy, "web", "api"), path: path.into() };
        (RuleId(id), RuleRow { id: RuleId(id), rule, allow, log: (id < 3).then(|| format!("log {id}").into()) })
    };
    let shop = PeerClass(301);
    let web = table(
        7,
        ISOLATED,
        vec![
            entry(shop, Protocol::TCP, 80, 16, true, 2),
            entry(shop, Protocol::TCP, 8443, 16, true, 2),
            entry(PeerClass(303), Protocol::TCP, 0, 0, false, 3),
            entry(PeerClass::ANY, Protocol::UDP, 1024, 6, true, 4),
        ],
    );
    let front = Frontend {
        address: "10.96.0.9".parse().unwrap(),
        protocol: Protocol::TCP,
        port: 8080,
        backends: vec![Backend {
            address: "10.0.1.1".parse().unwrap(),
            port: 80,
            terminating: false,
            node: "n1".into(),
        }],
    };
    let service = |name: &str, frontends| {
        let row = ServiceRow {
            namespace: "web".into(),
            name: name.into(),
            frontends,
            affinity_seconds: None,
            internal_local: false,
        };
        ((Arc::from("web"), Arc::from(name)), row)
    };
    let empty = Frontend { port: 8081, backends: vec![], ..front.clone() };
    RowSet {
        tables: [web, table(8, OPEN, vec![])].map(|t| (t.id, t)).into(),
        endpoints: [endpoint("web/api", 300, 7), endpoint("web/probe", 302, 8)].into(),
        identities: [identity(300, "api"), identity(301, "shop"), identity(302, "probe"), identity(303, "bad")].into(),
        rules: [
            rule(1, "spec", false),
            rule(2, "spec.ingress[0]", true),
            rule(3, "spec.ingressDeny[0]", false),
            rule(4, "spec.ingress[1]", true),
            rule(5, "spec.ingress[2]", true),
        ]
        .into(),
        ips: [
            ip("10.0.1.1", "web/api", 300, "n1"),
            ip("10.0.1.2", "web/probe", 302, "n1"),
            ip("10.0.2.1", "shop/far", 301, "n2"),
            ip("10.0.2.2", "shop/bad", 303, "n2"),
            ip("192.168.0.1", "", 1, "n1"),
            ip("0.0.0.0/0", "", 2, ""),
        ]
        .into(),
        services: [service("front", vec![front]), service("empty", vec![empty])].into(),
        ..RowSet::default()
    }
}

fn ask(source: &str, destination: &str, protocol: Protocol, port: u16) -> Result<Explanation, String> {
    explain(&rows(), true, &Question { source: source.into(), destination: destination.into(), protocol, port })
}

fn ingress(source: &str, protocol: Protocol, port: u16) -> SideView {
    let answer = ask(source, "web/api", protocol, port).unwrap();
    answer.sides.into_iter().find(|s| s.direction == "ingress").unwrap()
}

#[test]
fn what_passes_only_because_it_is_audited_is_called_so() {
    let mut rows = rows();
    let answer = |rows: &RowSet| {
        let ends = [("shop/far", 80), ("shop/far", 81)];
        ends.map(|(from, port)| {
            let question =
                Question { source: from.into(), destination: "web/api".into(), protocol: Protocol::TCP, port };
            let answer = explain(rows, true, &question).unwrap();
            let side = answer.sides.iter().find(|s| s.direction == "ingress").unwrap();
            (answer.allow, side.reason.split(':').next().unwrap().to_owned(), !side.rule.is_empty())
        })
    };
    let enforced = answer(&rows);
    for table in rows.tables.values_mut() {
        table.ingress_default = DirectionDefault { allow: true, audit: true, ..table.ingress_default };
        table.entries.values_mut().for_each(|e| (e.allow, e.audit) = (true, true));
    }
    assert!(!enforced[1].0, "{enforced:?}");
    assert_eq!(answer(&rows), [(); 2].map(|()| (true, "audited".to_owned(), true)));
}

#[test]
fn the_rule_that_decides_is_named() {
    let side = ingress("shop/far", Protocol::TCP, 80);
    assert!(side.allow && side.reason == "a rule allows it", "{side:?}");
    assert_eq!(side.rule, "NetworkPolicy web/api spec.ingress[0]");
    assert_eq!(side.entry, "TCP 80 of identity 301 (k8s:app=shop, k8s:team=a)");
    assert_eq!(side.log, "log 2");
    let side = ingress("shop/bad", Protocol::TCP, 80);
    assert!(!side.allow && side.rule.ends_with("spec.ingressDeny[0]") && side.log.is_empty(), "{side:?}");
    let side = ingress("192.168.0.1", Protocol::TCP, 1);
    assert!(side.allow && side.reason.contains("own node"), "{side:?}");
    let side = ingress("8.8.8.8", Protocol::UDP, 1500);
    assert!(side.allow && side.entry == "UDP 1024-2047 of any", "{side:?}");
}

#[test]
fn a_denial_names_what_was_nearest() {
    let side = ingress("shop/far", Protocol::TCP, 8080);
    assert!(!side.allow, "{side:?}");
    assert_eq!((&*side.rule, &*side.log), ("NetworkPolicy web/api spec", "log 1"), "what isolates the pod");
    assert_eq!(side.nearest[0], "NetworkPolicy web/api spec.ingress[0] allows TCP 8443, TCP 80, not TCP 8080");
    let side = ingress("web/probe", Protocol::TCP, 80);
    let wanted = "NetworkPolicy web/api spec.ingress[0] allows it from identity 301 (k8s:app=shop, k8s:team=a); web/probe \
                  lacks k8s:app=shop";
    assert!(side.nearest.iter().any(|n| n == wanted), "{:?}", side.nearest);
}

#[test]
fn ends_are_found_by_name_by_address_and_behind_services() {
    let answer = ask("web/probe", "10.96.0.9", Protocol::TCP, 8080).unwrap();
    assert_eq!((&*answer.destination.pod, answer.port, answer.allow), ("web/api", 80, false));
    assert!(answer.caveats[0].contains("service web/front sends it to one of 1"), "{:?}", answer.caveats);
    assert_eq!(answer.sides.len(), 2, "both ends are on this node");
    let answer = ask("web/api", "shop/far", Protocol::TCP, 80).unwrap();
    assert!(answer.allow && answer.caveats[0].contains("judged on n2"), "{answer:?}");
    assert_eq!(ask("web/api", "web/api", Protocol::TCP, 9).unwrap().sides[0].reason, "a pod may always talk to itself");
}

#[test]
fn what_cannot_be_answered_says_why_and_what_there_is() {
    for (source, destination, port, words) in [
        ("nobody", "web/api", 80, "there are shop/bad, shop/far, web/api"),
        ("web/probe", "10.96.0.9", 8081, "has no backends"),
        ("web/probe", "fd00::1", 80, "different address families"),
        ("", "web/api", 80, "neither an address nor a pod"),
    ] {
        let error = ask(source, destination, Protocol::TCP, port).unwrap_err();
        assert!(error.contains(words), "{source} {destination}: {error}");
    }
    let error = explain(
        &RowSet::default(),
        true,
        &Question { source: "a".into(), destination: "b".into(), protocol: Protocol::TCP, port: 1 },
    );
    assert!(error.unwrap_err().contains("no pod is known"));
}

#[test]
fn who_can_lists_peers_with_ports_and_rules() {
    let access = who_can(&rows(), true, "web/api").unwrap();
    assert!(access.isolated);
    let of = |who: &str| access.groups.iter().find(|g| g.who.iter().any(|w| w.contains(who))).cloned();
    let far = of("shop/far").unwrap();
    assert_eq!(far.may, ["TCP 80", "TCP 8443", "UDP 1024-2047"]);
    assert_eq!(far.rules.len(), 2);
    assert_eq!(of("shop/bad").unwrap().may, ["UDP 1024-2047"]);
    assert_eq!(of("192.168.0.1").unwrap().may, ["everything"]);
    let open = who_can(&rows(), false, "web/probe").unwrap();
    assert!(!open.isolated && open.groups.iter().all(|g| g.may == ["everything"]), "{open:?}");
    assert!(who_can(&rows(), true, "shop/far").unwrap_err().contains("runs on n2"));
    assert!(who_can(&rows(), true, "8.8.8.8").unwrap_err().contains("it is no pod"));
}

#[test]
fn coverage_counts_isolated_pods_and_names_rules_that_never_decide() {
    let c = coverage(&rows());
    assert_eq!((c.isolated_ingress, c.isolated_egress, c.pods.len()), (1, 0, 2));
    assert_eq!(c.unused_rules, ["NetworkPolicy web/api spec.ingress[2]"]);
}

#[test]
fn a_question_survives_a_url() {
    let q =
        Question { source: "a b/ü&x".into(), destination: "fd00::1".into(), protocol: Protocol::ICMPV6, port: 128 };
    assert_eq!(Question::from_url(&q.to_url()), Ok(q));
    for bad in ["", "source=a", "source=a&destination=b&port=x", "source=a&destination=b&protocol=300", "x=1"] {
        assert!(Question::from_url(bad).is_err(), "{bad}");
    }
}

fn any_entry() -> impl Strategy<Value = (PolicyKey, PolicyEntry)> {
    let peer = prop::sample::select(vec![0u32, 2, 252, 254, 300, 301]);
    (peer, prop::sample::select(vec![None, Some(6u8), Some(17)]), any::<u16>(), 0u8..=16, any::<bool>(), 1u32..6)
        .prop_map(|(peer, protocol, port, bits, allow, rule)| {
            let bits = if protocol.is_some() { bits } else { 0 };
            let key = PolicyKey {
                direction: Direction::Ingress,
                peer: PeerClass(peer),
                protocol: protocol.map(Protocol),
                port: port & mask(bits),
                port_bits: bits,
            };
            (key, PolicyEntry { allow, audit: false, rule: RuleId(rule), proxy_port: 0, auth: 0 })
        })
}

proptest! {
    /// The answer is the table's own; and of what is listed as allowed, the table allows all and nothing else.
    #[test]
    fn answers_are_those_of_the_table(
        entries in prop::collection::vec(any_entry(), 0..24),
        isolated in any::<bool>(),
        port in any::<u16>(),
        protocol in prop::sample::select(vec![6u8, 17, 132]),
    ) {
        let mut rows = rows();
        let default = if isolated { ISOLATED } else { OPEN };
        let t = table(7, default, entries);
        rows.tables.insert(TableId(7), t.clone());
        let protocol = Protocol(protocol);
        for source in ["10.0.2.1", "8.8.8.8", "10.0.1.2"] {
            let address: IpAddr = source.parse().unwrap();
            let whom = Whom::new(rows.peer_of(address, "n1"), address);
            let judged = t.judge(Direction::Ingress, whom, protocol, port);
            let q = Question { source: source.into(), destination: "web/api".into(), protocol, port };
            let side = explain(&rows, true, &q).unwrap().sides.into_iter().find(|s| s.direction == "ingress").unwrap();
            prop_assert_eq!((side.allow, side.rule), (judged.allow, rule(&rows, judged.rule)));
            prop_assert!(side.allow || side.nearest.len() <= 3);
        }
        let access = who_can(&rows, true, "web/api").unwrap();
        let whom = Whom::new(rows.peer_of("10.0.2.1".parse().unwrap(), "n1"), "10.0.2.1".parse().unwrap());
        let listed = access.groups.iter().find(|g| g.who.contains(&"shop/far".to_owned()));
        let may = listed.map(|g| g.may.clone()).unwrap_or_default();
        let says = may.iter().any(|m| {
            let Some(rest) = m.strip_prefix(&format!("{protocol} ")) else { return m == "everything" };
            let (from, to) = rest.split_once('-').unwrap_or((rest, rest));
            rest == "any port" || (from.parse().unwrap()..=to.parse::<u16>().unwrap()).contains(&port)
        });
        prop_assert_eq!(says, t.judge(Direction::Ingress, whom, protocol, port).allow, "{:?}", may);
    }
}
