use axoneme_model::{Identity, Labels, rows::IdentityRow};

use super::{
    super::Hub,
    rig::{Node, Replica, endpoint, ip, node, table},
};
use crate::{
    Row, RowChange, RowKey,
    message::{Nack, NodeMessage},
};

/// The next revision that a node acknowledges.
async fn told(r: &mut Replica) -> u64 {
    loop {
        let said = tokio::time::timeout(std::time::Duration::from_secs(20), r.said.recv()).await;
        if let (_, NodeMessage::Ack(revision)) = said.expect("an acknowledgement").unwrap() {
            return revision;
        }
    }
}

/// Takes batches up to the revision and acknowledges each, as an agent does.
async fn obey(n: &mut Node, revision: u64) {
    loop {
        let at = n.batch().await.at;
        n.client.ack(at).await.unwrap();
        if at.revision >= revision {
            return;
        }
    }
}

async fn connected() -> (Replica, Node) {
    let mut r = Replica::start("op").await;
    let policy = axoneme_model::ObjectRef::new(axoneme_model::Kind::CiliumNetworkPolicy, "ns", "web");
    let first = r.publish(vec![node("n1"), table(7, &policy, 1), endpoint("a", "n1", 7)]).await;
    let mut n = Node::of("n1", &[&r]);
    obey(&mut n, first).await;
    assert_eq!(told(&mut r).await, first, "what a node begins with is always acknowledged");
    (r, n)
}

#[tokio::test]
async fn a_node_acknowledges_its_own_rows_and_identities_and_not_every_address() {
    let (mut r, mut n) = connected().await;
    for i in 0..20 {
        let at = r.publish(vec![ip(i, "x")]).await;
        obey(&mut n, at).await;
    }
    let own = r.publish(vec![endpoint("b", "n1", 7)]).await;
    obey(&mut n, own).await;
    assert_eq!(told(&mut r).await, own, "addresses before it were acknowledged one by one");
    let at = r.publish(vec![ip(1, "y")]).await;
    obey(&mut n, at).await;
    let identity = RowChange::Upsert(Row::Identity(IdentityRow { id: Identity(500), labels: Labels::new() }));
    let announced = r.publish(vec![identity]).await;
    obey(&mut n, announced).await;
    assert_eq!(told(&mut r).await, announced);
    assert_eq!(r.hub(|h| h.acked_by_all()).await, announced);
}

#[tokio::test]
async fn who_waits_for_all_nodes_hears_of_what_they_have_already_and_of_what_they_have_not() {
    let (mut r, mut n) = connected().await;
    let at = r.publish(vec![ip(1, "x")]).await;
    obey(&mut n, at).await;
    r.hub(Hub::await_all).await;
    assert_eq!(told(&mut r).await, at, "in force before somebody asked");

    let at = r.publish(vec![ip(1, "y")]).await;
    r.hub(Hub::await_all).await;
    obey(&mut n, at).await;
    assert_eq!(told(&mut r).await, at, "asked for before it was in force");
    // a node that comes later is asked with its first commit
    let at = r.publish(vec![ip(1, "z")]).await;
    r.hub(Hub::await_all).await;
    let mut late = Node::of("n2", &[&r]);
    obey(&mut late, at).await;
    obey(&mut n, at).await;
    r.until(move |h| h.acked_by_all() == at).await;
}

#[tokio::test]
async fn a_node_that_refuses_something_is_heard_until_it_is_well_again() {
    let (mut r, mut n) = connected().await;
    let at = r.publish(vec![ip(1, "x")]).await;
    let batch = n.batch().await;
    assert_eq!(batch.at.revision, at);
    let nack = Nack { revision: at, key: Some(RowKey::Ip("10.0.0.1/32".parse().unwrap())), reason: "full".into() };
    n.client.nack(nack).await.unwrap();
    n.client.ack(batch.at).await.unwrap();
    assert_eq!(told(&mut r).await, at);
    // the same revision again, and nothing refused with it: it is well
    n.client.ack(batch.at).await.unwrap();
    assert_eq!(told(&mut r).await, at);
    let quiet = r.publish(vec![ip(2, "x")]).await;
    obey(&mut n, quiet).await;
    let own = r.publish(vec![endpoint("b", "n1", 7)]).await;
    obey(&mut n, own).await;
    assert_eq!(told(&mut r).await, own, "quiet again");
}
