use std::collections::BTreeSet;

use axoneme_model::{Identity, Kind, ObjectRef, rows::TableId};

use super::{
    super::{Hub, Leadership, Refusal, Tls},
    rig::{Node, Replica, at, endpoint, ip, node, table},
};
use crate::{
    EndpointReport, Nack, NodeReport, Resume, RowKey, RowType, SERVER_NAME,
    client::{Desired, Event, Replicas},
    message::NodeMessage,
};

fn policy() -> ObjectRef {
    ObjectRef::new(Kind::CiliumNetworkPolicy, "ns", "web")
}

fn report(uid: &str, ready: bool) -> EndpointReport {
    EndpointReport {
        uid: uid.into(),
        namespace: "ns".into(),
        name: uid.into(),
        container_id: "c".into(),
        addresses: ["10.0.0.1".parse().unwrap()].into(),
        ready,
        identity: Identity(300),
        table: TableId(7),
        removed: false,
    }
}

#[tokio::test]
async fn a_new_node_gets_a_snapshot_then_deltas() {
    let r = Replica::start("op").await;
    r.publish(vec![node("n1"), ip(1, "ns/a"), table(7, &policy(), 1), endpoint("a", "n1", 7)]).await;
    let mut n = Node::of("n1", &[&r]);
    let (mut desired, first) = (Desired::default(), n.batch().await);
    assert_eq!(first.complete.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from(RowType::ALL));
    desired.fold(first).unwrap();
    assert_eq!(desired.rows().endpoints.len(), 1);
    assert_eq!(desired.rows().tables.len(), 1);
    r.publish(vec![ip(2, "ns/b")]).await;
    let second = n.batch().await;
    assert!(second.complete.is_empty());
    assert_eq!(desired.fold(second).unwrap(), vec![ip(2, "ns/b")]);
    assert_eq!(desired.rows().ips.len(), 2);
}

#[tokio::test]
async fn a_node_gets_no_row_of_another_node() {
    let r = Replica::start("op").await;
    r.publish(vec![table(7, &policy(), 1), endpoint("a", "n1", 7), table(8, &policy(), 1), endpoint("b", "n2", 8)])
        .await;
    let mut n2 = Node::of("n2", &[&r]);
    let mut desired = Desired::default();
    desired.fold(n2.batch().await).unwrap();
    assert_eq!(desired.rows().endpoints.keys().map(|k| &**k).collect::<Vec<_>>(), ["b"]);
    assert_eq!(desired.rows().tables.keys().collect::<Vec<_>>(), [&TableId(8)]);
    r.publish(vec![endpoint("c", "n1", 7)]).await;
    r.publish(vec![ip(9, "x")]).await;
    assert_eq!(desired.fold(n2.batch().await).unwrap(), vec![ip(9, "x")], "n1's endpoint is not for n2");
}

#[tokio::test]
async fn a_token_of_another_node_is_refused() {
    let mut r = Replica::start("op").await;
    r.publish(vec![endpoint("a", "n1", 7)]).await;
    let mut liar = Node::start("n1", "token-of-n2", at(&[&r]), None);
    let mut forger = Node::start("n1", "forged", at(&[&r]), None);
    let mut honest = Node::of("n1", &[&r]);
    honest.batch().await;
    // the others went on trying in the meantime
    honest.client.node(NodeReport::default()).await.unwrap();
    assert_eq!(&*r.said.recv().await.unwrap().0, "n1");
    assert!(liar.events.try_recv().is_err());
    assert!(forger.events.try_recv().is_err());
}

#[tokio::test]
async fn a_node_that_comes_back_gets_what_it_missed() {
    let r = Replica::start("op").await;
    r.publish(vec![ip(1, "a")]).await;
    let mut n = Node::of("n1", &[&r]);
    let mut desired = Desired::default();
    desired.fold(n.batch().await).unwrap();
    drop(n);
    r.until(|h| h.connected().next().is_none()).await;
    r.publish(vec![ip(2, "b")]).await;
    r.publish(vec![ip(3, "c")]).await;
    let mut n = Node::start("n1", "token-of-n1", at(&[&r]), desired.at());
    assert!(matches!(n.event().await, Event::Connected { resumed: true, .. }));
    let mut got = Vec::new();
    while desired.rows().ips.len() < 3 {
        let b = n.batch().await;
        assert!(b.complete.is_empty());
        got.extend(desired.fold(b).unwrap());
    }
    assert_eq!(got, vec![ip(2, "b"), ip(3, "c")]);
}

#[tokio::test]
async fn a_revision_of_another_operator_process_means_a_snapshot_that_changes_only_what_differs() {
    let (old, new) = (Replica::start("old").await, Replica::start("new").await);
    old.publish(vec![ip(1, "a"), ip(2, "b")]).await;
    new.publish(vec![ip(1, "a"), ip(3, "c")]).await;
    let mut n = Node::of("n1", &[&old, &new]);
    let mut desired = Desired::default();
    desired.fold(n.batch().await).unwrap();
    old.cancel.cancel();
    assert!(matches!(n.event().await, Event::Disconnected { .. }));
    assert!(matches!(n.event().await, Event::Connected { resumed: false, .. }));
    let changes = desired.fold(n.batch().await).unwrap();
    let gone = RowKey::Ip("10.0.0.2/32".parse().unwrap());
    assert_eq!(changes, vec![ip(3, "c"), crate::RowChange::Remove(gone)]);
}

#[tokio::test]
async fn acknowledgements_and_refusals_become_enforcement() {
    let r = Replica::start("op").await;
    let p = policy();
    let first = vec![table(7, &p, 1), endpoint("a", "n1", 7), table(8, &p, 1), endpoint("b", "n2", 8)];
    r.publish(first).await;
    let (mut n1, mut n2) = (Node::of("n1", &[&r]), Node::of("n2", &[&r]));
    let (b1, b2) = (n1.batch().await, n2.batch().await);
    let q = policy();
    let e = r.hub(move |h| h.enforcement(&q, 1)).await;
    assert_eq!((e.enforced, e.nodes), (0, 2));
    n1.client.ack(b1.at).await.unwrap();
    let q = policy();
    r.until(move |h| h.enforcement(&q, 1).enforced == 1).await;
    let nack = Nack { revision: b2.at.revision, key: Some(RowKey::Table(TableId(8))), reason: "full".into() };
    n2.client.nack(nack).await.unwrap();
    n2.client.ack(b2.at).await.unwrap();
    let q = policy();
    r.until(move |h| !h.enforcement(&q, 1).refusals.is_empty()).await;
    let q = policy();
    let e = r.hub(move |h| h.enforcement(&q, 1)).await;
    assert_eq!((e.enforced, e.nodes), (1, 2));
    assert_eq!(e.refusals, vec![Refusal { node: "n2".into(), reason: "full".into() }]);
    r.hub(|h| drop(h.take_touched())).await;
    // it fits after all: nothing new was published, and the node no longer refuses
    n2.client.ack(b2.at).await.unwrap();
    let q = policy();
    r.until(move |h| h.enforcement(&q, 1).enforced == 2 && h.enforcement(&q, 1).refusals.is_empty()).await;
    let q = policy();
    assert!(r.hub(move |h| h.take_touched().contains(&q)).await, "its status is looked at again");
    // a new generation is enforced nowhere until acknowledged, and the old refusal doesn't count for it
    r.publish(vec![table(7, &p, 2), table(8, &p, 2)]).await;
    let q = policy();
    assert_eq!(r.hub(move |h| h.enforcement(&q, 2).enforced).await, 0);
    let (b1, b2) = (n1.batch().await, n2.batch().await);
    n1.client.ack(b1.at).await.unwrap();
    n2.client.ack(b2.at).await.unwrap();
    let q = policy();
    r.until(move |h| h.enforcement(&q, 2).enforced == 2).await;
}

#[tokio::test]
async fn reports_are_repeated_after_a_reconnect() {
    let (a, mut b) = (Replica::start("a").await, Replica::start("b").await);
    let mut n = Node::of("n1", &[&a, &b]);
    n.batch().await;
    n.client.endpoint(report("one", false)).await.unwrap();
    n.client.endpoint(report("one", true)).await.unwrap();
    n.client.endpoint(EndpointReport { removed: true, ..report("two", true) }).await.unwrap();
    n.client.node(NodeReport { ready: true, ..NodeReport::default() }).await.unwrap();
    a.until(|h| h.connected().count() == 1).await;
    a.cancel.cancel();
    let (_, first) = b.said.recv().await.unwrap();
    let (_, second) = b.said.recv().await.unwrap();
    assert_eq!(first, NodeMessage::Node(NodeReport { ready: true, ..NodeReport::default() }));
    assert_eq!(second, NodeMessage::Endpoint(report("one", true)), "only the newest, and none that is gone");
}

#[tokio::test]
async fn a_slow_node_gets_its_changes_folded_and_holds_up_nobody() {
    let r = Replica::start("op").await;
    let mut slow = Node::of("n1", &[&r]);
    let mut quick = Node::of("n2", &[&r]);
    let mut desired = Desired::default();
    desired.fold(slow.batch().await).unwrap();
    quick.batch().await;
    // far more revisions than the log has, on few keys with large rows, so that no buffer hides the lag
    let large = "x".repeat(4000);
    let revisions = 4000u32;
    for i in 0..revisions {
        r.publish(vec![ip(i % 10, &format!("{i}-{large}"))]).await;
        if i % 100 == 0 {
            let mut at = 0;
            while at + 1 < u64::from(i) {
                at = quick.batch().await.at.revision;
            }
        }
    }
    let mut batches = 0;
    while desired.at().unwrap().revision < u64::from(revisions) {
        desired.fold(slow.batch().await).unwrap();
        batches += 1;
    }
    assert!(batches < revisions, "{batches} batches for {revisions} revisions");
    for i in 0..10u32 {
        let prefix = axoneme_model::cidr::host(std::net::Ipv4Addr::from(0x0a00_0000 + i).into());
        assert_eq!(&*desired.rows().ips[&prefix].pod, format!("{}-{large}", revisions - 10 + i));
    }
}

#[tokio::test]
async fn nodes_gather_at_the_leader() {
    let (a, b) = (Replica::start("a").await, Replica::start("b").await);
    let mut n = Node::of("n1", &[&a, &b]);
    n.batch().await;
    a.until(|h| h.connected().count() == 1).await;
    b.lead(Leadership::Me).await;
    a.lead(Leadership::Other(b.address.to_string())).await;
    b.until(|h| h.connected().count() == 1).await;
    assert!(matches!(n.event().await, Event::Disconnected { reason } if reason.contains("redirected")));
    assert!(matches!(n.event().await, Event::Connected { leader: true, .. }));
}

#[tokio::test]
async fn a_redirect_to_a_dead_replica_leaves_the_node_served() {
    let a = Replica::start("a").await;
    let mut n = Node::of("n1", &[&a]);
    n.batch().await;
    a.lead(Leadership::Other("127.0.0.1:1".into())).await;
    assert!(matches!(n.event().await, Event::Disconnected { .. }));
    assert!(matches!(n.event().await, Event::Connected { .. }));
    n.batch().await;
    a.publish(vec![ip(1, "a")]).await;
    assert_eq!(n.batch().await.changes, vec![ip(1, "a")]);
}

#[tokio::test]
async fn an_operator_that_still_loads_serves_nobody() {
    let r = Replica::start("op").await;
    r.ready.send_replace(false);
    let mut n = Node::of("n1", &[&r]);
    tokio::task::yield_now().await;
    assert!(n.events.try_recv().is_err());
    r.publish(vec![ip(1, "a")]).await;
    r.ready.send_replace(true);
    assert_eq!(n.batch().await.changes, vec![ip(1, "a")]);
}

#[tokio::test]
async fn a_table_change_travels_as_a_patch_to_a_resumed_node_and_unknown_epochs_start_over() {
    let r = Replica::start("op").await;
    r.publish(vec![table(7, &policy(), 1), endpoint("a", "n1", 7)]).await;
    let wrong = Resume { epoch: 1, revision: 1 };
    let mut n = Node::start("n1", "token-of-n1", at(&[&r]), Some(wrong));
    assert!(matches!(n.event().await, Event::Connected { resumed: false, .. }));
    n.batch().await;
    r.publish(vec![table(7, &policy(), 2)]).await;
    let b = n.batch().await;
    assert!(matches!(&b.changes[..], [crate::RowChange::Patch(p)] if p.policies.is_some()), "{:?}", b.changes);
}

fn certificates() -> (String, Tls) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new([]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new([SERVER_NAME.to_owned()]).unwrap();
    let cert = leaf.signed_by(&key, &rcgen::Issuer::new(ca, ca_key)).unwrap();
    (ca_cert.pem(), Tls { certificate_pem: cert.pem(), key_pem: key.serialize_pem() })
}

#[tokio::test]
async fn tls_is_checked_against_the_published_ca() {
    let ((ca_pem, tls), (other_ca, _)) = (certificates(), certificates());
    let r = Replica::with_tls("op", Some(tls)).await;
    r.publish(vec![ip(1, "a")]).await;
    let addresses = vec![r.address.to_string()];
    let wrong = Replicas { addresses: addresses.clone(), ca_pem: other_ca };
    let mut duped = Node::start("n1", "token-of-n1", wrong, None);
    let mut n = Node::start("n2", "token-of-n2", Replicas { addresses, ca_pem }, None);
    assert_eq!(n.batch().await.changes, vec![ip(1, "a")]);
    assert!(duped.events.try_recv().is_err(), "a server of another CA is not trusted");
}

/// The kernel of a replica that hangs completes connections, nobody answers: the next replica is asked.
#[tokio::test]
async fn a_replica_that_takes_connections_and_hangs_is_passed_over() {
    let (ca_pem, tls) = certificates();
    let r = Replica::with_tls("op", Some(tls)).await;
    r.publish(vec![ip(1, "a")]).await;
    let hung = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = vec![hung.local_addr().unwrap().to_string(), r.address.to_string()];
    let mut n = Node::start("n1", "token-of-n1", Replicas { addresses, ca_pem }, None);
    assert_eq!(n.batch().await.changes, vec![ip(1, "a")]);
    drop(hung);
}

#[tokio::test]
async fn a_new_certificate_of_a_new_authority_cuts_no_stream_and_a_bad_one_changes_nothing() {
    let ((old_ca, old), (new_ca, new)) = (certificates(), certificates());
    let r = Replica::with_tls("op", Some(old)).await;
    r.publish(vec![ip(1, "a")]).await;
    let addresses = vec![r.address.to_string()];
    let trusting = |ca_pem: &str| Replicas { addresses: addresses.clone(), ca_pem: ca_pem.to_owned() };
    let mut open = Node::start("n1", "token-of-n1", trusting(&old_ca), None);
    assert_eq!(open.batch().await.changes, vec![ip(1, "a")]);
    let shown = r.tls.as_ref().unwrap();
    shown.send_replace(new);
    // agents were told of both before
    let mut both = Node::start("n2", "token-of-n2", trusting(&format!("{old_ca}{new_ca}")), None);
    assert_eq!(both.batch().await.changes, vec![ip(1, "a")]);
    let mut behind = Node::start("n3", "token-of-n3", trusting(&old_ca), None);
    shown.send_replace(Tls { certificate_pem: "no".into(), key_pem: "no".into() });
    let mut after = Node::start("n4", "token-of-n4", trusting(&new_ca), None);
    assert_eq!(after.batch().await.changes, vec![ip(1, "a")]);
    r.publish(vec![ip(2, "b")]).await;
    assert_eq!(open.batch().await.changes, vec![ip(2, "b")], "the stream of before goes on");
    assert!(behind.events.try_recv().is_err(), "it really is another certificate");
}

#[tokio::test]
async fn a_revision_as_large_as_the_cluster_is_in_no_log_and_reaches_everybody() {
    let r = Replica::start("op").await;
    r.publish(vec![node("n1"), ip(1, "ns/a"), table(7, &policy(), 1), endpoint("a", "n1", 7)]).await;
    let mut n = Node::of("n1", &[&r]);
    let mut desired = Desired::default();
    let first = n.batch().await;
    let early = first.at;
    desired.fold(first).unwrap();
    let many: Vec<_> = (2..40_002).map(|i| ip(i, "ns/x")).chain([table(7, &policy(), 2)]).collect();
    let large = r.publish(many).await;
    // who is connected gets it as any other revision
    while desired.rows().ips.len() < 40_001 {
        let batch = n.batch().await;
        assert!(batch.complete.is_empty(), "a snapshot where changes were to be had");
        desired.fold(batch).unwrap();
    }
    r.hub(|h| drop(h.take_touched())).await;
    n.client.ack(Resume { revision: large, ..early }).await.unwrap();
    r.until(|h| h.enforcement(&policy(), 2).enforced == 1).await;
    assert!(r.hub(|h| h.take_touched().contains(&policy())).await, "its status is looked at again");
    // who comes back from before it gets snapshots, and what follows them
    drop(n);
    let mut late = Node::start("n1", "token-of-n1", at(&[&r]), Some(early));
    assert!(matches!(late.event().await, Event::Connected { resumed: false, .. }));
    let batch = late.batch().await;
    assert_eq!(batch.complete.len(), RowType::ALL.len());
    let mut again = Desired::default();
    again.fold(batch).unwrap();
    // who has it already gets what follows, and nothing else
    let last = again.at();
    r.publish(vec![ip(50_000, "ns/y")]).await;
    again.fold(late.batch().await).unwrap();
    assert_eq!(again.rows().ips.len(), 40_002);
    let mut next = Node::start("n1", "token-of-n1", at(&[&r]), last);
    assert!(matches!(next.event().await, Event::Connected { resumed: true, .. }));
    assert_eq!(next.batch().await.changes, vec![ip(50_000, "ns/y")]);
}

#[tokio::test]
async fn policies_of_a_table_that_a_node_gave_up_are_looked_at_without_an_acknowledgement() {
    let r = Replica::start("op").await;
    r.publish(vec![table(7, &policy(), 1), endpoint("a", "n1", 7), endpoint("b", "n2", 7)]).await;
    let e = r.hub(|h| (h.enforcement(&policy(), 1).nodes, h.take_touched().contains(&policy()))).await;
    assert_eq!(e, (2, true));
    r.publish(vec![crate::RowChange::Remove(RowKey::Endpoint("b".into()))]).await;
    let e = r.hub(|h| (h.enforcement(&policy(), 1).nodes, h.take_touched().contains(&policy()))).await;
    assert_eq!(e, (1, true));
}

#[tokio::test]
async fn all_have_acknowledged_what_the_last_of_the_connected_has() {
    let r = Replica::start("op").await;
    r.publish(vec![ip(1, "a")]).await;
    assert_eq!(r.hub(|h| h.acked_by_all()).await, 1, "nobody is connected");
    let (mut n1, mut n2) = (Node::of("n1", &[&r]), Node::of("n2", &[&r]));
    let (b1, b2) = (n1.batch().await, n2.batch().await);
    assert_eq!(r.hub(|h| h.acked_by_all()).await, 0);
    n1.client.ack(b1.at).await.unwrap();
    r.until(|h| h.acked("n1") == Some(1)).await;
    assert_eq!(r.hub(|h| h.acked_by_all()).await, 0);
    n2.client.ack(b2.at).await.unwrap();
    r.until(|h| h.acked_by_all() == 1).await;
    r.publish(vec![ip(2, "b")]).await;
    r.hub(Hub::await_all).await;
    let (b1, _) = (n1.batch().await, n2.batch().await);
    n1.client.ack(b1.at).await.unwrap();
    r.until(|h| h.acked("n1") == Some(2)).await;
    assert_eq!(r.hub(|h| h.acked_by_all()).await, 1);
    // the last one goes, comes back where it was, and leaves the cluster
    drop(n2);
    r.until(|h| h.acked_by_all() == 2).await;
    let mut n2 = Node::of("n2", &[&r]);
    n2.batch().await;
    assert_eq!(r.hub(|h| h.acked_by_all()).await, 1);
    assert_eq!(r.hub(|h| (h.connections(), h.connected().count())).await, (2, 2));
    r.hub(|h| h.forget("n2")).await;
    assert_eq!(r.hub(|h| (h.acked_by_all(), h.connections(), h.connected().count())).await, (2, 1, 1));
}
