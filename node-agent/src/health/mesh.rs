//! When which node is visited, and what all of it says of this node. Pure: time comes in, visits go out.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use axoneme_wire::Proof;

use super::{
    Lane, Peers, Place,
    lane::{self, Outcome, Standing, State},
};

/// Visits under way at most. With [`super::probe::TIMEOUT`] a cluster of which nothing answers is gone through at ten
/// nodes a second.
pub const IN_FLIGHT: usize = 32;
/// Until a node is visited again whose state the next probe may change; never longer than the interval.
const DOUBT: Duration = Duration::from_secs(5);
/// Between first visits of nodes, so that an agent that starts does not visit them all at once.
const FIRST: Duration = Duration::from_millis(20);
/// Other nodes that answer, of which no health endpoint does: from so many on it is this node's fault. One alone could be
/// the other's.
const BLAME: usize = 2;

/// What happens to the mesh.
#[derive(Debug)]
pub enum Input {
    /// Whom the rows name. Nodes that stay keep what is known of them.
    Peers(Peers),
    /// A visit is over.
    Visited { node: Arc<str>, ticket: u64, outcomes: Vec<(Lane, Outcome)> },
    /// [`Mesh::wake_at`] is due.
    Tick,
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// All lanes of a node are to be probed, side by side.
    Visit { node: Arc<str>, ticket: u64, lanes: Vec<Lane> },
    /// A lane can be used no longer, or again.
    Changed { node: Arc<str>, lane: Lane, up: bool, error: String },
}

/// What is known of a node.
#[derive(Clone, Debug)]
pub struct Peer {
    pub lanes: Vec<(Lane, Standing)>,
    due: Instant,
    /// Ticket of the visit under way.
    visit: Option<u64>,
    visits: u64,
}

/// How the ways to one place of a node are, all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// Every protocol and family gets through.
    Reachable,
    Unknown,
    /// Some do not, or none does.
    Unreachable,
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Mesh {
    peers: Peers,
    nodes: BTreeMap<Arc<str>, Peer>,
    /// Nodes that are not being visited, by when they are.
    queue: BTreeSet<(Instant, Arc<str>)>,
    in_flight: usize,
    tickets: u64,
}

/// A number of [0, 1) that is the same for the same words: agents differ, runs do not.
fn share(own: &str, node: &str, visit: u64) -> f64 {
    let mut hasher = DefaultHasher::new();
    (own, node, visit).hash(&mut hasher);
    f64::from((hasher.finish() >> 32) as u32) / f64::from(u32::MAX)
}

impl Mesh {
    /// Takes what happened, and says what is to be done.
    pub fn step(&mut self, now: Instant, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Peers(peers) => self.meet(now, peers),
            Input::Visited { node, ticket, outcomes } => self.visited(now, &node, ticket, outcomes, &mut effects),
            Input::Tick => {}
        }
        self.visit_due(now, &mut effects);
        effects
    }

    /// When something is due if nothing else happens. None: nothing is, or a visit has to end first.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        self.queue.first().filter(|_| self.in_flight < IN_FLIGHT).map(|(due, _)| *due)
    }

    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<Arc<str>, Peer> {
        &self.nodes
    }

    /// Between visits of a node: as long as the peers', so that a node is visited by others a number of times a minute
    /// that hardly grows with their number.
    #[must_use]
    pub fn interval(&self) -> Duration {
        // nobody has 2^32 nodes
        let nodes = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.peers.interval.mul_f64(f64::from(nodes).ln_1p())
    }

    fn meet(&mut self, now: Instant, peers: Peers) {
        let before = self.interval();
        self.nodes.retain(|name, peer| {
            let stays = peers.nodes.contains_key(name);
            if !stays {
                self.queue.remove(&(peer.due, name.clone()));
                self.in_flight -= usize::from(peer.visit.is_some());
            }
            stays
        });
        let spread = FIRST.saturating_mul(u32::try_from(peers.nodes.len()).unwrap_or(u32::MAX)).min(peers.interval);
        for (name, lanes) in &peers.nodes {
            match self.nodes.entry(name.clone()) {
                Entry::Vacant(entry) => {
                    let wait = if *name == peers.own { 0.0 } else { share(&peers.own, name, 0) };
                    let due = now + spread.mul_f64(wait);
                    let lanes = lanes.iter().map(|l| (*l, Standing::default())).collect();
                    entry.insert(Peer { lanes, due, visit: None, visits: 0 });
                    self.queue.insert((due, name.clone()));
                }
                Entry::Occupied(mut entry) => entry.get_mut().take(now, lanes, name, &mut self.queue),
            }
        }
        self.peers = peers;
        if self.interval() < before {
            self.hasten(now);
        }
    }

    /// The interval is shorter now: nobody waits for longer than that.
    fn hasten(&mut self, now: Instant) {
        let latest = now + self.interval();
        for (name, peer) in self.nodes.iter_mut().filter(|(_, p)| p.visit.is_none() && p.due > latest) {
            self.queue.remove(&(peer.due, name.clone()));
            peer.due = latest;
            self.queue.insert((latest, name.clone()));
        }
    }

    fn visit_due(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while self.in_flight < IN_FLIGHT && self.queue.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, name)) = self.queue.pop_first() else { return };
            let Some(peer) = self.nodes.get_mut(&name) else { continue };
            self.tickets += 1;
            self.in_flight += 1;
            peer.visit = Some(self.tickets);
            peer.visits += 1;
            let lanes = peer.lanes.iter().map(|(lane, _)| *lane).collect();
            effects.push(Effect::Visit { node: name, ticket: self.tickets, lanes });
        }
    }

    fn visited(
        &mut self,
        now: Instant,
        node: &Arc<str>,
        ticket: u64,
        outcomes: Vec<(Lane, Outcome)>,
        effects: &mut Vec<Effect>,
    ) {
        let interval = self.interval();
        // the node may have gone meanwhile, and another of its name have come
        let Some(peer) = self.nodes.get_mut(node).filter(|p| p.visit == Some(ticket)) else { return };
        self.in_flight -= 1;
        peer.visit = None;
        for (lane, outcome) in outcomes {
            let Some((_, standing)) = peer.lanes.iter_mut().find(|(l, _)| *l == lane) else { continue };
            let before = standing.state;
            *standing = lane::step(std::mem::take(standing), now, outcome);
            let after = standing.state;
            // what answers for the first time is no news
            if after.is_up() != before.is_up() && before != State::Unknown || is_first_failure(before, after) {
                let error = standing.error.clone();
                effects.push(Effect::Changed { node: node.clone(), lane, up: after.is_up(), error });
            }
        }
        // a tenth sooner or later, so that agents that started together part
        let jitter = 0.9 + 0.2 * share(&self.peers.own, node, peer.visits);
        let doubt = peer.lanes.iter().any(|(_, s)| s.in_doubt());
        let wait = if doubt { DOUBT.min(interval) } else { interval };
        peer.due = now + wait.mul_f64(jitter);
        self.queue.insert((peer.due, node.clone()));
    }

    /// How the ways to a place of a node are; none: it has no such place.
    #[must_use]
    pub fn path(&self, node: &str, place: Place) -> Option<Path> {
        self.nodes.get(node)?.path(place)
    }

    /// Whether packets get through from here.
    #[must_use]
    pub fn proof(&self) -> Proof {
        let own = self.nodes.get(&self.peers.own);
        let own = own.and_then(|p| p.path(Place::Endpoint).map(|path| (path, p)));
        match own {
            // no health endpoint: nothing else could prove it
            None => {}
            Some((_, p)) if p.any_up(Place::Endpoint) => {}
            Some((Path::Unreachable, p)) => {
                return Proof::Refuted(format!("this node's own health endpoint does not answer: {}", p.error()));
            }
            Some(_) => return Proof::Pending,
        }
        let others = self.nodes.iter().filter(|(name, _)| **name != self.peers.own);
        let near: Vec<_> = others.filter(|(_, p)| p.any_up(Place::Node) && p.path(Place::Endpoint).is_some()).collect();
        let lost = |p: &Peer| p.of(Place::Endpoint).all(|(_, s)| s.state == State::Unreachable);
        match near.first() {
            Some((name, first)) if near.len() >= BLAME && near.iter().all(|(_, p)| lost(p)) => Proof::Refuted(format!(
                "{} other nodes answer, and no health endpoint of theirs does; {name}: {}",
                near.len(),
                first.error()
            )),
            _ => Proof::Proven,
        }
    }
}

/// It was given up without ever having answered.
fn is_first_failure(before: State, after: State) -> bool {
    before == State::Unknown && after == State::Unreachable
}

impl Peer {
    fn of(&self, place: Place) -> impl Iterator<Item = &(Lane, Standing)> {
        self.lanes.iter().filter(move |(lane, _)| lane.place == place)
    }

    fn any_up(&self, place: Place) -> bool {
        self.of(place).any(|(_, s)| s.state.is_up())
    }

    /// How the ways to a place are; none: there is no such place.
    #[must_use]
    pub fn path(&self, place: Place) -> Option<Path> {
        let of_lane = |s: &Standing| match s.state {
            State::Reachable | State::Suspect => Path::Reachable,
            State::Unknown => Path::Unknown,
            State::Unreachable => Path::Unreachable,
        };
        self.of(place).map(|(_, s)| of_lane(s)).max()
    }

    /// What the first lane that fails says, the innermost first.
    fn error(&self) -> String {
        let failed = self.lanes.iter().rev().find(|(_, s)| s.state == State::Unreachable);
        failed.map(|(lane, s)| format!("{lane}: {}", s.error)).unwrap_or_default()
    }

    /// Takes the lanes that it has now. Others than before are visited at once.
    fn take(&mut self, now: Instant, lanes: &[Lane], name: &Arc<str>, queue: &mut BTreeSet<(Instant, Arc<str>)>) {
        if self.lanes.iter().map(|(l, _)| l).eq(lanes) {
            return;
        }
        let mut known: BTreeMap<Lane, Standing> = std::mem::take(&mut self.lanes).into_iter().collect();
        self.lanes = lanes.iter().map(|l| (*l, known.remove(l).unwrap_or_default())).collect();
        if self.visit.is_none() {
            queue.remove(&(self.due, name.clone()));
            self.due = now;
            queue.insert((now, name.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
