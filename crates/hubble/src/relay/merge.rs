//! Flows of many nodes in one order.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axoneme_flow::Time;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    convert,
    pb::{
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
        relay::{NodeState, NodeStatusEvent},
    },
};

/// In a stream that follows: how long a flow waits for earlier ones of other nodes.
pub const WINDOW: Duration = Duration::from_millis(500);
/// In a stream with an end: how long the others wait for a node that says nothing.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// In a stream with an end: when the others have said all, how long a node that says nothing keeps it open.
pub const LAST: Duration = Duration::from_secs(10);
/// A node that lags is named so often.
const NAME_AGAIN: Duration = Duration::from_secs(10);

/// What a node's stream tells the merge.
#[derive(Debug)]
pub(super) enum News {
    Line(Box<GetFlowsResponse>),
    State(NodeState, String),
}

/// One node's stream.
#[derive(Debug)]
struct Source {
    queue: mpsc::Receiver<News>,
    head: Option<(Time, GetFlowsResponse)>,
    ended: bool,
    /// Since when there is no head; the others may be waiting.
    silent: Instant,
    /// The others go on without it.
    late: bool,
    named: Option<Instant>,
}

/// A merge of any number of nodes' streams; nodes come and go while it runs.
#[derive(Debug)]
pub(super) struct Merge {
    sources: BTreeMap<Arc<str>, Source>,
    follow: bool,
    /// Name of the relay in lines of its own.
    relay: String,
    /// Lines about nodes: they have no place in the order of flows.
    ready: VecDeque<GetFlowsResponse>,
    /// Time of the last flow that was let go.
    last: Time,
}

impl Merge {
    pub(super) fn new(relay: &str, follow: bool) -> Self {
        Self { sources: BTreeMap::new(), follow, relay: relay.into(), ready: VecDeque::new(), last: Time(0) }
    }

    pub(super) fn knows(&self, node: &str) -> bool {
        self.sources.contains_key(node)
    }

    pub(super) fn nodes(&self) -> Vec<Arc<str>> {
        self.sources.keys().cloned().collect()
    }

    pub(super) fn add(&mut self, node: Arc<str>, queue: mpsc::Receiver<News>) {
        let silent = Instant::now();
        self.sources.insert(node, Source { queue, head: None, ended: false, silent, late: false, named: None });
    }

    /// Forgets a node that is no more of the cluster.
    pub(super) fn remove(&mut self, node: &str) {
        if self.sources.remove(node).is_some() {
            self.tell(NodeState::NodeGone, vec![node.to_owned()], "");
        }
    }

    /// Adds a line about nodes.
    pub(super) fn tell(&mut self, state: NodeState, node_names: Vec<String>, message: &str) {
        let event = NodeStatusEvent { state_change: state.into(), node_names, message: message.to_owned() };
        self.ready.push_back(GetFlowsResponse {
            node_name: self.relay.clone(),
            time: Some(convert::timestamp(crate::node::now())),
            response_types: Some(ResponseTypes::NodeStatus(event)),
        });
    }

    /// The next line; none: all streams have ended.
    pub(super) async fn next(&mut self) -> Option<GetFlowsResponse> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            let wake = match self.take(Instant::now(), crate::node::now()) {
                Take::Flow(line) => return Some(*line),
                Take::Ended if !self.follow => return None,
                Take::Ended => None,
                Take::Told => continue,
                Take::Wait(until) => until,
            };
            let news = std::future::poll_fn(|cx| self.poll_heads(cx));
            match wake {
                Some(at) => drop(tokio::time::timeout_at(at, news).await),
                None => news.await,
            }
        }
    }

    /// Fills empty heads; ready when anything came.
    fn poll_heads(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut came = false;
        let mut told = Vec::new();
        for (node, source) in &mut self.sources {
            while source.head.is_none() && !source.ended {
                match source.queue.poll_recv(cx) {
                    Poll::Pending => break,
                    Poll::Ready(None) => source.ended = true,
                    Poll::Ready(Some(News::State(state, message))) => told.push((state, node.to_string(), message)),
                    Poll::Ready(Some(News::Line(line))) => {
                        let time = line.time.as_ref().and_then(convert::time).unwrap_or_default();
                        source.head = Some((time, *line));
                        source.silent = Instant::now();
                    }
                }
                came = true;
            }
        }
        for (state, node, message) in told {
            self.tell(state, vec![node], &message);
        }
        if came { Poll::Ready(()) } else { Poll::Pending }
    }

    fn take(&mut self, now: Instant, wall: Time) -> Take {
        let earliest = self.sources.iter().filter_map(|(n, s)| Some((s.head.as_ref()?.0, n))).min();
        let Some((time, node)) = earliest.map(|(t, n)| (t, n.clone())) else {
            return self.nothing(now);
        };
        // nothing earlier can come from those that have a later flow ready, or have ended
        let open: Vec<_> = self
            .sources
            .iter()
            .filter(|(_, s)| s.head.is_none() && !s.ended && !s.late)
            .map(|(n, _)| n.clone())
            .collect();
        if !open.is_empty() {
            if self.follow {
                let due = Time(time.0.saturating_add(WINDOW.as_nanos() as u64));
                if due > wall {
                    let left = Duration::from_nanos(due.0 - wall.0).min(WINDOW);
                    return Take::Wait(Some(now + left));
                }
            } else {
                let waited = |n: &Arc<str>| self.sources.get(n).map(|s| s.silent + PATIENCE);
                let patience = open.iter().filter_map(waited).max().unwrap_or(now);
                if patience > now {
                    return Take::Wait(Some(patience));
                }
                for name in &open {
                    if let Some(source) = self.sources.get_mut(name) {
                        source.late = true;
                    }
                }
                let message = format!("no flows for {} s; the others go on without it", PATIENCE.as_secs());
                self.tell(NodeState::NodeUnavailable, open.iter().map(ToString::to_string).collect(), &message);
                return Take::Told;
            }
        }
        let Some(source) = self.sources.get_mut(&node) else { return Take::Told };
        let behind = Duration::from_nanos(self.last.0.saturating_sub(time.0));
        let unnamed = source.named.is_none_or(|at| now.duration_since(at) >= NAME_AGAIN);
        if (behind > WINDOW || source.late) && unnamed {
            source.named = Some(now);
            let message = format!("its flows lag by {:.1} s", behind.as_secs_f64());
            // the one state whose message the stock client shows; of a connected node it says nothing
            self.tell(NodeState::NodeError, vec![node.to_string()], &message);
            return Take::Told;
        }
        source.silent = now;
        self.last = self.last.max(time);
        source.head.take().map_or(Take::Told, |(_, line)| Take::Flow(Box::new(line)))
    }

    /// No node has a flow ready. A stream with an end goes on without those that say nothing any more.
    fn nothing(&mut self, now: Instant) -> Take {
        let open = || self.sources.values().filter(|s| !s.ended);
        let Some(until) = open().map(|s| s.silent + LAST).max() else { return Take::Ended };
        if self.follow {
            return Take::Wait(None);
        }
        if until > now {
            return Take::Wait(Some(until));
        }
        let mut hung = Vec::new();
        for (node, source) in self.sources.iter_mut().filter(|(_, s)| !s.ended) {
            source.ended = true;
            hung.push(node.to_string());
        }
        let message = format!("nothing for {} s; the stream ends without the rest of it", LAST.as_secs());
        self.tell(NodeState::NodeUnavailable, hung, &message);
        Take::Told
    }
}

enum Take {
    Flow(Box<GetFlowsResponse>),
    /// A line about a node is ready.
    Told,
    /// Until something comes, or then.
    Wait(Option<Instant>),
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::flow::Flow;

    fn line(node: &str, at: u64) -> News {
        News::Line(Box::new(GetFlowsResponse {
            node_name: node.into(),
            time: Some(convert::timestamp(Time(at))),
            response_types: Some(ResponseTypes::Flow(Flow::default())),
        }))
    }

    fn add(merge: &mut Merge, node: &str) -> mpsc::Sender<News> {
        let (tx, rx) = mpsc::channel(8);
        merge.add(node.into(), rx);
        tx
    }

    /// Node and time of a flow, or a node's state with its message.
    fn said(line: GetFlowsResponse) -> (String, u64, String) {
        match line.response_types.unwrap() {
            ResponseTypes::NodeStatus(s) => {
                (s.node_names.join(","), 0, format!("{} {}", s.state_change().as_str_name(), s.message))
            }
            _ => (line.node_name, convert::time(&line.time.unwrap()).unwrap().0, String::new()),
        }
    }

    async fn rest(merge: &mut Merge) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        while let Some(line) = merge.next().await {
            let (node, at, _) = said(line);
            all.push((node, at));
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn flows_come_by_time_whatever_the_nodes_pace() {
        let mut merge = Merge::new("relay", false);
        let (a, b, c) = (add(&mut merge, "a"), add(&mut merge, "b"), add(&mut merge, "c"));
        tokio::spawn(async move {
            for at in [1, 4, 7, 10] {
                a.send(line("a", at)).await.unwrap();
            }
        });
        tokio::spawn(async move {
            for at in [2, 5, 8, 11, 12, 13, 14, 15, 16, 17, 18] {
                tokio::time::sleep(Duration::from_millis(400)).await;
                b.send(line("b", at)).await.unwrap();
            }
        });
        drop(c);
        let times: Vec<u64> = rest(&mut merge).await.into_iter().map(|(_, at)| at).collect();
        assert_eq!(times, [1, 2, 4, 5, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_hangs_is_named_and_does_not_hold_up_the_others() {
        let mut merge = Merge::new("relay", false);
        let (a, hung) = (add(&mut merge, "a"), add(&mut merge, "hung"));
        a.send(line("a", 1)).await.unwrap();
        a.send(line("a", 9)).await.unwrap();
        let begun = Instant::now();
        let (node, _, message) = said(merge.next().await.unwrap());
        assert_eq!((&*node, message.starts_with("NODE_UNAVAILABLE no flows for 3 s")), ("hung", true));
        assert!(begun.elapsed() >= PATIENCE && begun.elapsed() < PATIENCE * 2);
        assert_eq!(said(merge.next().await.unwrap()).1, 1);
        assert_eq!(said(merge.next().await.unwrap()).1, 9);
        // it wakes up when the other has said all
        drop(a);
        hung.send(line("hung", 5)).await.unwrap();
        let (node, _, message) = said(merge.next().await.unwrap());
        assert_eq!((&*node, message.starts_with("NODE_ERROR its flows lag by")), ("hung", true), "{message}");
        assert_eq!(said(merge.next().await.unwrap()).1, 5);
        drop(hung);
        assert_eq!(merge.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_hangs_ends_no_later_than_the_others_and_a_limit() {
        let mut merge = Merge::new("relay", false);
        let (a, hung) = (add(&mut merge, "a"), add(&mut merge, "hung"));
        let begun = Instant::now();
        tokio::spawn(async move {
            tokio::time::sleep(LAST / 2).await;
            a.send(line("a", 1)).await.unwrap();
        });
        assert_eq!(said(merge.next().await.unwrap()).0, "hung", "named, since a has a flow that waits for it");
        assert_eq!(said(merge.next().await.unwrap()).1, 1);
        let (node, _, message) = said(merge.next().await.unwrap());
        assert_eq!((&*node, message.contains("ends without")), ("hung", true), "{message}");
        assert_eq!(merge.next().await, None);
        assert!(begun.elapsed() >= LAST && begun.elapsed() < LAST + PATIENCE, "{:?}", begun.elapsed());
        drop(hung);
    }

    #[tokio::test]
    async fn a_follower_waits_a_moment_for_earlier_flows_and_no_longer() {
        let mut merge = Merge::new("relay", true);
        let (a, b) = (add(&mut merge, "a"), add(&mut merge, "b"));
        let now = crate::node::now().0;
        a.send(line("a", now)).await.unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(WINDOW / 5).await;
            b.send(line("b", now - 1)).await.unwrap();
            std::future::pending::<()>().await;
            drop(b);
        });
        let begun = Instant::now();
        assert_eq!(said(merge.next().await.unwrap()).0, "b");
        assert_eq!(said(merge.next().await.unwrap()).0, "a");
        assert!(begun.elapsed() < WINDOW * 4);
        merge.remove("b");
        assert_eq!(said(merge.next().await.unwrap()).2, "NODE_GONE ");
    }
}
