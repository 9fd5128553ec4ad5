//! What the agent itself did: pods that came and went, addresses that changed hands, policies that took effect.

use std::collections::BTreeMap;

use axoneme_flow::{Change, News, Time};
use axoneme_model::ObjectRef;

use crate::{
    convert,
    node::Ring,
    pb::{
        flow::{
            AgentEvent, AgentEventType, EndpointUpdateNotification, IpCacheNotification, PolicyUpdateNotification,
            TimeNotification, agent_event::Notification,
        },
        observer::GetAgentEventsRequest,
    },
};

/// The newest events.
#[derive(Debug)]
pub(crate) struct Log {
    ring: Ring<(Time, AgentEvent)>,
    /// Events that were not even seen.
    pub(crate) skipped: u64,
}

impl Log {
    pub(crate) fn new(room: usize) -> Self {
        Self { ring: Ring::new(room), skipped: 0 }
    }

    pub(crate) fn push(&mut self, event: (Time, AgentEvent)) {
        self.ring.push(event);
    }

    pub(crate) fn skip(&mut self, events: u64) {
        self.skipped += events;
    }
}

fn event(kind: AgentEventType, notification: Notification) -> AgentEvent {
    AgentEvent { r#type: kind.into(), notification: Some(notification) }
}

/// The agent started.
pub(crate) fn started(at: Time) -> (Time, AgentEvent) {
    let notification = Notification::AgentStart(TimeNotification { time: Some(convert::timestamp(at)) });
    (at, event(AgentEventType::AgentStarted, notification))
}

/// The events of some news. Rules that changed are one event for each policy.
pub(crate) fn of(news: &News) -> Vec<AgentEvent> {
    let mut rules: BTreeMap<(&ObjectRef, bool), i64> = BTreeMap::new();
    let mut events = Vec::new();
    for change in &news.changes {
        match change {
            Change::Endpoint { pod, labels, gone } => {
                let (namespace, pod_name) = pod.split_once('/').unwrap_or_default();
                let kind = if *gone { AgentEventType::EndpointDeleted } else { AgentEventType::EndpointCreated };
                let update = EndpointUpdateNotification {
                    labels: labels.to_strings(),
                    pod_name: pod_name.into(),
                    namespace: namespace.into(),
                    ..EndpointUpdateNotification::default()
                };
                events.push(event(kind, Notification::EndpointUpdate(update)));
            }
            Change::Holder { prefix, before, now } => {
                let kind = if now.is_some() { AgentEventType::IpcacheUpserted } else { AgentEventType::IpcacheDeleted };
                let pod = now.as_ref().map(|p| p.pod.clone()).unwrap_or_default();
                let (namespace, pod_name) = pod.split_once('/').unwrap_or_default();
                let update = IpCacheNotification {
                    cidr: prefix.to_string(),
                    identity: now.as_ref().or(before.as_ref()).map_or(0, |p| p.identity.0),
                    old_identity: before.as_ref().map(|p| p.identity.0),
                    namespace: namespace.into(),
                    pod_name: pod_name.into(),
                    ..IpCacheNotification::default()
                };
                events.push(event(kind, Notification::IpcacheUpdate(update)));
            }
            Change::Rule { object, gone } => *rules.entry((object, *gone)).or_default() += 1,
        }
    }
    for ((object, gone), rule_count) in rules {
        let kind = if gone { AgentEventType::PolicyDeleted } else { AgentEventType::PolicyUpdated };
        let labels = convert::policy_labels(object.kind.as_str(), &object.namespace, &object.name);
        let update = PolicyUpdateNotification { labels, revision: 0, rule_count };
        events.push(event(kind, Notification::PolicyUpdate(update)));
    }
    events
}

/// One client's place in the log.
#[derive(Debug)]
pub(crate) struct Cursor {
    next: u64,
    /// None: follow.
    end: Option<u64>,
    left: Option<u64>,
    since: Option<Time>,
    until: Option<Time>,
}

impl Cursor {
    pub(crate) fn open(request: &GetAgentEventsRequest, log: &Log) -> Result<Self, String> {
        if request.first && request.follow {
            return Err("first cannot be combined with follow".to_owned());
        }
        let time = |name: &str, t: Option<&prost_types::Timestamp>| match t {
            Some(t) => convert::time(t).map(Some).ok_or_else(|| format!("{name}: not a valid time")),
            None => Ok(None),
        };
        let (since, until) = (time("since", request.since.as_ref())?, time("until", request.until.as_ref())?);
        let (first, end) = (log.ring.first(), log.ring.end());
        let last = |n: u64| {
            let in_time = |(t, _): &(Time, AgentEvent)| since.is_none_or(|s| s <= *t) && until.is_none_or(|u| *t <= u);
            let mut matching = (first..end).rev().filter(|at| log.ring.get(*at).is_some_and(in_time));
            usize::try_from(n - 1).ok().and_then(|skip| matching.nth(skip)).unwrap_or(first)
        };
        let next = match request.number {
            _ if request.first || since.is_some() => first,
            0 if request.follow => end,
            0 => first,
            n => last(n),
        };
        let left = (!request.follow && request.number > 0).then_some(request.number);
        Ok(Self { next, end: (!request.follow).then_some(end), left, since, until })
    }

    /// The next event; `Err(true)`: there are no more, `Err(false)`: none right now.
    pub(crate) fn next(&mut self, log: &Log) -> Result<(Time, AgentEvent), bool> {
        loop {
            if self.left == Some(0) || self.end.is_some_and(|end| self.next >= end) {
                return Err(true);
            }
            self.next = self.next.max(log.ring.first());
            let Some((time, event)) = log.ring.get(self.next) else { return Err(false) };
            self.next += 1;
            if self.since.is_none_or(|s| s <= *time) && self.until.is_none_or(|u| *time <= u) {
                self.left = self.left.map(|n| n - 1);
                return Ok((*time, event.clone()));
            }
        }
    }
}
