//! Nothing is begun on a node that lacks what the agent cannot do without; but it is told, and looked at again.
//!
//! ```text
//!   preflight ──fatal──▶ held ──▶ admin socket: ready false, with the reasons
//!       ▲                 │  └──▶ operator: not ready, and an Event of the Node for each reason
//!       └──── each LOOK ──┘
//!   preflight ──nothing fatal──▶ the agent begins; the same socket answers from its engine
//! ```
//!
//! *Guarantees*: while the node is held, nothing of the host is changed but the agent's own socket; rows that come are
//! thrown away and never acknowledged, so that no policy is told to be enforced here. What somebody mends while the
//! agent waits (a file system that is mounted, maps that are removed) lets it begin without a restart.
//! *Caveats*: capabilities and kernel are those of the process and of the boot: they need a new one. The Event goes the
//! way of all of a node's Events, by the operator: agents have no right to write to the API server.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axoneme_flow::admin::{STATUS, Status, Stream};
use axoneme_runtime::admin::{Answer, Handler, Question};
use axoneme_wire::{
    NodeEvent, NodeReport,
    client::{Credentials, Directory, Driver, Event, Settings, StreamClient},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Admin,
    engine::{Counters, Link},
    preflight::Findings,
    status::NodeStatus,
};

/// Between looks at a node that lacks something.
pub const LOOK: Duration = Duration::from_secs(1);
/// Reason of the Event.
pub const REASON: &str = "NodeLacks";

/// Where the agent stands.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Nobody has looked yet.
    Looking,
    Held(Findings, Link),
    Serving(Admin),
}

/// The admin socket from the first moment on.
#[derive(Clone, Debug)]
pub struct Front {
    node: Arc<str>,
    phase: watch::Receiver<Phase>,
}

impl Front {
    /// The handler, and the sender of what it answers by.
    pub fn new(node: Arc<str>) -> (Self, watch::Sender<Phase>) {
        let (sender, phase) = watch::channel(Phase::Looking);
        (Self { node, phase }, sender)
    }
}

impl Handler for Front {
    async fn answer(&self, question: Question) -> Answer {
        let phase = self.phase.borrow().clone();
        let (reasons, warnings, link) = match phase {
            Phase::Serving(admin) => return admin.answer(question).await,
            Phase::Held(findings, link) => (findings.fatal, findings.warnings, link),
            Phase::Looking => (vec!["the agent is starting".to_owned()], Vec::new(), Link::default()),
        };
        if question.post || question.path != STATUS {
            return Answer::Failed(format!("the agent has not begun its work: {}", reasons.join("; ")));
        }
        Answer::json(&NodeStatus {
            status: Status {
                node: self.node.to_string(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                reasons,
                warnings,
                stream: Stream {
                    connected: link.connected,
                    operator: link.operator,
                    address: link.address,
                    reason: link.reason,
                },
                ..Status::default()
            },
            epoch: 0,
            counters: Counters::default(),
            drift: std::collections::BTreeMap::new(),
        })
    }
}

/// Returns once nothing fatal is found, with what was found then.
pub async fn pass(
    look: impl Fn() -> Findings,
    phase: &watch::Sender<Phase>,
    settings: Settings,
    directory: Arc<dyn Directory>,
    credentials: Arc<dyn Credentials>,
) -> Findings {
    let findings = look();
    if findings.fatal.is_empty() {
        return findings;
    }
    let (driver, client, events) = Driver::new(settings, directory, credentials);
    let cancel = CancellationToken::new();
    // ends with this future, also when that is dropped
    let _end = cancel.clone().drop_guard();
    let driver = tokio::task::spawn(driver.run(cancel.clone()));
    let held = Held { findings: Findings::default(), told: BTreeSet::new(), link: Link::default(), client, phase };
    let findings = held.wait(findings, look, events).await;
    cancel.cancel();
    let _ = driver.await;
    tracing::info!("the node has what it lacked: the agent begins");
    findings
}

struct Held<'a> {
    findings: Findings,
    /// What the operator that is connected has had an Event for.
    told: BTreeSet<String>,
    link: Link,
    client: StreamClient,
    phase: &'a watch::Sender<Phase>,
}

impl Held<'_> {
    async fn wait(
        mut self,
        first: Findings,
        look: impl Fn() -> Findings,
        mut events: mpsc::Receiver<Event>,
    ) -> Findings {
        self.found(first).await;
        let mut turn = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                _ = turn.tick() => {
                    let findings = look();
                    if findings.fatal.is_empty() {
                        return findings;
                    }
                    if findings != self.findings {
                        self.found(findings).await;
                    }
                }
                Some(event) = events.recv() => self.heard(event).await,
            }
        }
    }

    async fn found(&mut self, findings: Findings) {
        for lack in findings.fatal.iter().filter(|f| !self.findings.fatal.contains(f)) {
            tracing::error!("this node cannot run the agent, which waits for its mend: {lack}");
        }
        let report = NodeReport { ready: false, reasons: findings.fatal.clone(), ..NodeReport::default() };
        self.findings = findings;
        self.publish();
        // remembered by the driver for the time that somebody is connected
        let _ = self.client.node(report).await;
        if self.link.connected {
            self.tell().await;
        }
    }

    async fn heard(&mut self, event: Event) {
        match event {
            Event::Connected { operator, address, .. } => {
                self.link = Link { connected: true, operator, address, reason: String::new() };
                self.tell().await;
            }
            Event::Disconnected { reason } => {
                self.link.connected = false;
                self.link.reason = reason;
            }
            // not for a node that cannot obey
            Event::Batch(_) => return,
        }
        self.publish();
    }

    /// An Event for each lack, once.
    async fn tell(&mut self) {
        for lack in &self.findings.fatal {
            if self.told.insert(lack.clone()) {
                let event = NodeEvent { warning: true, reason: REASON.to_owned(), message: lack.clone(), object: None };
                let _ = self.client.event(event).await;
            }
        }
    }

    fn publish(&self) {
        self.phase.send_replace(Phase::Held(self.findings.clone(), self.link.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axoneme_wire::client::{Fixed, Replicas, TokenFile};

    use super::*;

    fn question(path: &str) -> Question {
        Question { post: false, path: path.to_owned(), query: String::new() }
    }

    async fn status(front: &Front) -> serde_json::Value {
        match front.answer(question(STATUS)).await {
            Answer::Json(value) => value,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_lacks_something_says_so_until_it_is_mended() {
        let (front, phase) = Front::new("n1".into());
        assert_eq!(status(&front).await["ready"], false, "from the first moment on");
        let lack = Arc::new(Mutex::new(vec!["no bpffs".to_owned()]));
        let (seen, look_front) = (lack.clone(), front.clone());
        let look = move || Findings { fatal: seen.lock().unwrap().clone(), ..Findings::default() };
        let settings = Settings { node: "n1".into(), agent_version: String::new(), resume: None };
        let nobody = Arc::new(Fixed(Replicas::default()));
        let waiting =
            tokio::task::spawn(
                async move { pass(look, &phase, settings, nobody, Arc::new(TokenFile::new("/none"))).await },
            );
        tokio::time::sleep(LOOK * 3).await;
        let said = status(&front).await;
        assert_eq!((&said["ready"], &said["reasons"]), (&false.into(), &serde_json::json!(["no bpffs"])));
        assert!(matches!(look_front.answer(question("/drift")).await, Answer::Failed(m) if m.contains("no bpffs")));
        *lack.lock().unwrap() = vec!["old kernel".to_owned()];
        tokio::time::sleep(LOOK * 2).await;
        assert_eq!(status(&front).await["reasons"], serde_json::json!(["old kernel"]), "looked at again");
        assert!(!waiting.is_finished());
        lack.lock().unwrap().clear();
        let found = tokio::time::timeout(LOOK * 2, waiting).await.expect("mended without a restart").unwrap();
        assert_eq!(found, Findings::default());
    }
}
