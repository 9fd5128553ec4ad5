use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use axoneme_model::{Kind, ObjectRef};

use super::{
    super::pace::{Pace, turn},
    rig::{Node, Replica, endpoint, ip, node, table},
};
use crate::{RowChange, client::Desired};

/// A hub that takes itself for one of a large cluster.
async fn large() -> (Replica, Node) {
    let r = Replica::start("op").await;
    let policy = ObjectRef::new(Kind::CiliumNetworkPolicy, "ns", "web");
    r.publish(vec![node("n1"), table(7, &policy, 1)]).await;
    let mut n = Node::of("n1", &[&r]);
    n.batch().await;
    r.hub(|h| h.pace.nodes.fetch_add(5000, Ordering::Relaxed)).await;
    (r, n)
}

#[test]
fn the_rest_between_batches_grows_with_the_nodes_and_ends() {
    let pace = Pace::default();
    let of = |nodes| {
        pace.nodes.store(nodes, Ordering::Relaxed);
        pace.rest()
    };
    assert_eq!(of(50), None);
    assert_eq!(of(1000), Some(Duration::from_millis(20)));
    assert_eq!(of(5000), Some(Duration::from_millis(100)));
    assert_eq!(of(1_000_000), Some(Duration::from_millis(100)));
}

#[test]
fn turns_of_sessions_are_spread_over_the_rest_and_each_comes_once_in_it() {
    let (rest, now) = (Duration::from_millis(100), Duration::from_millis(12_345));
    let mut tenths = [0; 10];
    // sessions are counted up, whoever has gone meanwhile
    for session in 70_000..75_000 {
        let next = turn(session, now, rest);
        assert!(next > now && next <= now + rest, "{next:?}");
        assert_eq!(turn(session, next, rest), next + rest);
        let wait = next.checked_sub(now).unwrap().as_nanos() - 1;
        tenths[usize::try_from(wait / 10_000_000).unwrap()] += 1;
    }
    assert!(tenths.iter().all(|n| (480..=520).contains(n)), "{tenths:?} of 500");
    // before its first
    assert!(turn(1, Duration::ZERO, rest) <= rest);
}

#[tokio::test]
async fn of_many_revisions_in_a_while_a_node_of_a_large_cluster_gets_the_last_of_each_row_at_once() {
    let (r, mut n) = large().await;
    // after a quiet time at once; what follows waits for more
    r.publish(vec![ip(1, "first")]).await;
    let mut desired = Desired::default();
    desired.fold(n.batch().await).unwrap();
    let mut last = 0;
    for i in 0..50 {
        last = r.publish(vec![ip(i % 5, &format!("{i}"))]).await;
    }
    last = last.max(r.publish(vec![RowChange::Remove(ip(3, "").key())]).await);
    let (mut batches, mut rows) = (0, 0);
    while desired.at().unwrap().revision < last {
        let batch = n.batch().await;
        rows += batch.changes.len();
        desired.fold(batch).unwrap();
        batches += 1;
    }
    assert!(batches < 25, "{batches} batches of 51 revisions");
    assert!(rows < 40, "{rows} rows of 51 changes");
    let pods: Vec<_> = desired.rows().ips.values().map(|r| r.pod.to_string()).collect();
    assert_eq!(pods, ["45", "46", "47", "49"]);
}

#[tokio::test]
async fn what_is_a_nodes_own_waits_for_nothing_and_brings_what_was_before_it() {
    let (r, mut n) = large().await;
    let mut fastest = Duration::MAX;
    for i in 0..10u32 {
        // begins a rest
        r.publish(vec![ip(1, &format!("{i}"))]).await;
        n.batch().await;
        let began = Instant::now();
        r.publish(vec![ip(2, &format!("{i}"))]).await;
        let at = r.publish(vec![endpoint(&format!("e{i}"), "n1", 7)]).await;
        // its turn may come between the two
        let (mut changes, mut has) = (Vec::new(), 0);
        while has < at {
            let batch = n.batch().await;
            has = batch.at.revision;
            changes.extend(batch.changes);
        }
        fastest = fastest.min(began.elapsed());
        assert_eq!(has, at);
        assert!(changes.contains(&ip(2, &format!("{i}"))), "{changes:?}");
    }
    assert!(fastest < Duration::from_millis(60), "{fastest:?}: as long as if it had waited");
}
