use std::net::{IpAddr, Ipv4Addr};

use super::{super::Protocol, *};

const INTERVAL: Duration = Duration::from_mins(1);

fn lane(place: Place, n: u32) -> Lane {
    let net: u32 = if place == Place::Node { 0xc0a8_0000 } else { 0x0a00_0000 };
    Lane { place, protocol: Protocol::Http, address: IpAddr::V4(Ipv4Addr::from_bits(net + n)) }
}

fn peers(count: u32) -> Peers {
    let nodes = (1..=count).map(|n| (format!("n{n}").into(), vec![lane(Place::Node, n), lane(Place::Endpoint, n)]));
    Peers { own: "n1".into(), interval: INTERVAL, nodes: nodes.collect() }
}

/// The mesh of node n1 in time of its own; `answers` says which lanes do.
struct World<A> {
    mesh: Mesh,
    start: Instant,
    now: Instant,
    answers: A,
    /// How long a visit takes.
    takes: Duration,
    under_way: Vec<(Instant, Arc<str>, u64, Vec<Lane>)>,
    most: usize,
    visits: Vec<(Duration, Arc<str>)>,
    changes: Vec<(Duration, Arc<str>, Place, bool)>,
}

impl<A: FnMut(Duration, &str, &Lane) -> bool> World<A> {
    fn new(count: u32, answers: A) -> Self {
        let now = Instant::now();
        let mut world = Self {
            mesh: Mesh::default(),
            start: now,
            now,
            answers,
            takes: Duration::from_millis(1),
            under_way: Vec::new(),
            most: 0,
            visits: Vec::new(),
            changes: Vec::new(),
        };
        world.feed(Input::Peers(peers(count)));
        world
    }

    fn feed(&mut self, input: Input) {
        let since = self.now - self.start;
        for effect in self.mesh.step(self.now, input) {
            match effect {
                Effect::Visit { node, ticket, lanes } => {
                    assert!(self.under_way.iter().all(|(_, n, ..)| *n != node), "{node} is visited twice at once");
                    self.visits.push((since, node.clone()));
                    self.under_way.push((self.now + self.takes, node, ticket, lanes));
                }
                Effect::Changed { node, lane, up, .. } => self.changes.push((since, node, lane.place, up)),
            }
        }
        self.most = self.most.max(self.under_way.len());
    }

    /// Lets so much time pass, from event to event.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let ends = self.under_way.iter().map(|(at, ..)| *at).min();
            let Some(next) = [ends, self.mesh.wake_at()].into_iter().flatten().min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            let since = self.now - self.start;
            let Some(over) = self.under_way.iter().position(|(at, ..)| *at <= self.now) else {
                self.feed(Input::Tick);
                continue;
            };
            let (_, node, ticket, lanes) = self.under_way.remove(over);
            let probe = |lane: Lane, ok: bool| (lane, if ok { Ok(self.takes) } else { Err("no answer".to_owned()) });
            let outcomes = lanes.into_iter().map(|l| (l, (self.answers)(since, &node, &l)));
            let outcomes = outcomes.collect::<Vec<_>>().into_iter().map(|(l, ok)| probe(l, ok)).collect();
            self.feed(Input::Visited { node, ticket, outcomes });
        }
        self.now = end;
    }

    fn visits_of(&self, node: &str) -> Vec<Duration> {
        self.visits.iter().filter(|(_, n)| **n == *node).map(|(at, _)| *at).collect()
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn everybody_is_visited_soon_and_then_once_an_interval() {
    let mut w = World::new(3, |_, _, _| true);
    assert_eq!(w.visits_of("n1"), [Duration::ZERO], "the own node at once");
    assert_eq!(w.mesh.proof(), Proof::Pending);
    w.pass(seconds(1));
    assert_eq!(w.visits.len(), 3);
    assert_eq!(w.mesh.proof(), Proof::Proven);
    w.pass(seconds(3600));
    let interval = INTERVAL.mul_f64(3f64.ln_1p());
    for node in ["n1", "n2", "n3"] {
        let visits = w.visits_of(node);
        assert!((38..=50).contains(&visits.len()), "{node}: {}", visits.len());
        let gaps: BTreeSet<Duration> = visits.windows(2).map(|v| v[1].saturating_sub(v[0])).collect();
        assert!(gaps.len() > 10, "they are not in step");
        let far = |g: &&Duration| **g < interval.mul_f64(0.89) || **g > interval.mul_f64(1.11);
        assert_eq!(gaps.iter().find(far), None, "{node}");
    }
    assert_eq!(w.changes, [], "nothing happened");
}

/// Upstream's table: 60 s base, 1024 nodes, 6m55s.
#[test]
fn the_cost_follows_the_node() {
    let rate = |count: u32| {
        let mut w = World::new(count, |_, _, _| true);
        w.pass(seconds(1200));
        let before = w.visits.len();
        w.pass(seconds(1200));
        assert!(w.most <= IN_FLIGHT);
        (w.mesh.interval().as_secs(), (w.visits.len() - before) / count as usize)
    };
    assert_eq!(rate(1024), (415, 2));
    let (interval, rounds) = rate(4096);
    assert_eq!((interval, rounds), (499, 2));
}

#[test]
fn an_agent_that_starts_does_not_visit_all_at_once() {
    let mut w = World::new(2000, |_, _, _| true);
    w.pass(seconds(1));
    assert!((10..200).contains(&w.visits.len()), "{}", w.visits.len());
    w.pass(seconds(60));
    assert_eq!(w.visits.iter().map(|(_, n)| n).collect::<BTreeSet<_>>().len(), 2000);
}

#[test]
fn a_cut_path_is_told_within_three_probes_and_mended_within_two() {
    let cut = |t: Duration| t > seconds(300) && t < seconds(900);
    let mut w = World::new(3, |at, node, lane| !(node == "n2" && lane.place == Place::Endpoint && cut(at)));
    w.pass(seconds(1800));
    let (told, mended) = match w.changes.as_slice() {
        [(told, node, Place::Endpoint, false), (mended, again, Place::Endpoint, true)]
            if **node == *"n2" && node == again =>
        {
            (*told, *mended)
        }
        other => panic!("{other:?}"),
    };
    let interval = w.mesh.interval().mul_f64(1.1);
    assert!(told > seconds(300) && told < seconds(300) + interval + DOUBT * 3, "{told:?}");
    assert!(mended > seconds(900) && mended < seconds(900) + interval + DOUBT * 2, "{mended:?}");
    assert_eq!(w.mesh.path("n2", Place::Node), Some(Path::Reachable));
    assert_eq!(w.mesh.proof(), Proof::Proven, "one of two others may be the other's fault");
}

#[test]
fn lost_packets_now_and_then_are_not_told() {
    let mut n = 0u32;
    let mut w = World::new(5, move |_, _, _| {
        n += 1;
        n % 7 > 1
    });
    w.pass(seconds(36_000));
    assert!(w.visits.len() > 1000);
    assert_eq!(w.changes, []);
}

#[test]
fn a_dead_cluster_is_gone_through_with_bounded_probes() {
    let mut w = World::new(1000, |_, node, _| node == "n1");
    w.takes = seconds(3);
    w.pass(seconds(3600));
    assert_eq!(w.most, IN_FLIGHT);
    let unreachable = (2..=1000).filter(|n| w.mesh.path(&format!("n{n}"), Place::Node) == Some(Path::Unreachable));
    assert_eq!(unreachable.count(), 999);
    assert_eq!(w.mesh.proof(), Proof::Proven, "others are down, or the network is: not the own datapath");
}

#[test]
fn the_own_endpoint_refutes_the_datapath() {
    let mut w = World::new(1, |t, _, l| l.place == Place::Node || t > seconds(200));
    w.pass(seconds(1));
    assert_eq!(w.mesh.proof(), Proof::Pending);
    w.pass(seconds(60));
    let Proof::Refuted(why) = w.mesh.proof() else { panic!("{:?}", w.mesh.proof()) };
    assert!(why.contains("own health endpoint") && why.contains("10.0.0.1") && why.contains("no answer"), "{why}");
    w.pass(seconds(300));
    assert_eq!(w.mesh.proof(), Proof::Proven);
}

#[test]
fn no_endpoint_of_nodes_that_answer_refutes_it_and_one_is_enough_to_prove_it() {
    for (count, only, refuted) in [(3, "", true), (2, "", false), (4, "n3", false)] {
        let mut w = World::new(count, |_, node, l| node == "n1" || l.place == Place::Node || node == only);
        w.pass(seconds(120));
        assert_eq!(matches!(w.mesh.proof(), Proof::Refuted(_)), refuted, "{count} {only:?}: {:?}", w.mesh.proof());
    }
}

#[test]
fn nodes_come_and_go_under_visits() {
    let mut w = World::new(3, |_, _, _| true);
    w.takes = seconds(2);
    w.pass(seconds(1));
    assert_eq!(w.under_way.len(), 2, "all but the own one, which was first");
    // they go while they are visited; one comes back as another
    w.feed(Input::Peers(peers(1)));
    let mut again = peers(2);
    again.nodes.insert("n2".into(), vec![lane(Place::Node, 77)]);
    w.under_way.retain(|(_, n, ..)| **n == *"n1");
    w.feed(Input::Peers(again));
    for ticket in [2, 3] {
        let outcomes = vec![(lane(Place::Node, 77), Ok(INTERVAL))];
        w.feed(Input::Visited { node: "n2".into(), ticket, outcomes });
    }
    assert_eq!(w.mesh.path("n2", Place::Node), Some(Path::Unknown), "the former one's visit says nothing of it");
    w.pass(seconds(30));
    assert_eq!(w.mesh.path("n2", Place::Node), Some(Path::Reachable));
    assert_eq!(w.mesh.path("n2", Place::Endpoint), None);
    assert_eq!(w.mesh.nodes().len(), 2);
    assert!(w.mesh.wake_at().is_some(), "no visit is lost");
}

#[test]
fn another_interval_and_another_address_are_heeded_at_once() {
    let mut w = World::new(2, |_, _, l| l.address != lane(Place::Endpoint, 9).address);
    w.pass(seconds(100));
    let mut moved = peers(2);
    moved.nodes.insert("n2".into(), vec![lane(Place::Node, 2), lane(Place::Endpoint, 9)]);
    w.feed(Input::Peers(moved.clone()));
    w.pass(seconds(20));
    assert_eq!(w.mesh.path("n2", Place::Endpoint), Some(Path::Unreachable));
    assert_eq!(w.mesh.path("n2", Place::Node), Some(Path::Reachable), "what it keeps is known still");
    moved.interval = seconds(1);
    let before = w.visits.len();
    w.feed(Input::Peers(moved));
    w.pass(seconds(11));
    assert!(w.visits.len() - before >= 16, "{}", w.visits.len() - before);
}
