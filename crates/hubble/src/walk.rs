//! One client's walk through the flows of a node.
//!
//! *Guarantees*: a walk holds a position and no flows; a step looks at a bounded number of records. What was
//! overwritten before the walk came to it is counted and told, at most once a second as Hubble does.
//!
//! *Expected flow*: [`Walk::open`], then [`Walk::step`] until [`Step::End`]; after [`Step::Idle`] when there is more.

use std::marker::PhantomData;

use axoneme_flow::{Cause, Facet, Flow, Hub, Lost, Record, Time, View, history::Found};
use prost::Message as _;

use crate::{
    convert, encode,
    filter::Filters,
    mask::Mask,
    pb::{
        flow::{LostEvent, LostEventSource},
        observer::{GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes},
    },
};

/// Lines of one step: what a client that does not read holds in memory.
const LINES: usize = 16;
/// Steps of expressions that cost about as much as making a flow.
const STEPS: u64 = 64;
/// Lost events are told so often, in nanoseconds.
const TELL_LOST: u64 = 1_000_000_000;

/// What a request asks for, understood.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub filters: Filters,
    pub mask: Option<Mask>,
    pub number: u64,
    pub first: bool,
    pub follow: bool,
    pub since: Option<Time>,
    /// Flows of this very time are still sent.
    pub until: Option<Time>,
    /// See [`crate::details`].
    pub details: bool,
}

impl Request {
    /// What the message asks for, or a sentence on what is wrong with it.
    pub fn parse(message: &GetFlowsRequest) -> Result<Self, String> {
        if message.first && message.follow {
            return Err("first cannot be combined with follow".to_owned());
        }
        let time = |name: &str, t: Option<&prost_types::Timestamp>| match t {
            Some(t) => convert::time(t).map(Some).ok_or_else(|| format!("{name}: not a valid time")),
            None => Ok(None),
        };
        let filters = Filters::parse(&message.whitelist, &message.blacklist)
            .map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let paths = message.field_mask.as_ref().map(|m| m.paths.as_slice()).unwrap_or_default();
        Ok(Self {
            filters,
            mask: Mask::parse(paths).map_err(|e| e.to_string())?,
            number: message.number,
            first: message.first,
            follow: message.follow,
            since: time("since", message.since.as_ref())?,
            until: time("until", message.until.as_ref())?,
            details: false,
        })
    }
}

/// A flow's place: the record, and which of its facets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    sequence: u64,
    facet: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Looks back for the place where the last `wanted` flows begin; `at` is the record to look at before.
    Back {
        at: u64,
        wanted: u64,
        start: Place,
    },
    Forward(Place),
}

/// What a walk gives for what it finds.
pub trait Line: Sized {
    /// A facet of a flow. `cluster` and `node` as [`convert::flow`] and [`convert::node_name`] know them.
    fn flow(flow: &Flow, facet: Facet, cluster: &str, node: &str, details: bool) -> Self;
    /// What was made a message already, or is no flow.
    fn message(message: GetFlowsResponse) -> Self;
}

impl Line for GetFlowsResponse {
    fn flow(flow: &Flow, facet: Facet, cluster: &str, node: &str, details: bool) -> Self {
        let flow = convert::flow(flow, facet, cluster, details);
        Self { node_name: node.to_owned(), time: flow.time, response_types: Some(ResponseTypes::Flow(flow)) }
    }

    fn message(message: GetFlowsResponse) -> Self {
        message
    }
}

/// The bytes of a `GetFlowsResponse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded(pub Vec<u8>);

impl Line for Encoded {
    fn flow(flow: &Flow, facet: Facet, _: &str, node: &str, details: bool) -> Self {
        Self(encode::response(flow, facet, node, details))
    }

    fn message(message: GetFlowsResponse) -> Self {
        Self(message.encode_to_vec())
    }
}

/// A client's place.
#[derive(Debug)]
pub struct Walk<L = GetFlowsResponse> {
    request: Request,
    stage: Stage,
    /// Where to stop; none: follow.
    end: Option<u64>,
    /// Flows that may still be sent; none: any number.
    left: Option<u64>,
    overwritten: Gap,
    /// Losses before the history, as they were told.
    told: Losses,
    told_at: Time,
    lines: PhantomData<fn() -> L>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Gap {
    events: u64,
    first: Time,
    last: Time,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Losses {
    kernel: u64,
    undecodable: u64,
}

impl Losses {
    fn of(lost: &Lost) -> Self {
        Self {
            kernel: lost.get(Cause::DropRing) + lost.get(Cause::FlowRing),
            undecodable: lost.get(Cause::Undecodable),
        }
    }
}

/// What one step found.
#[derive(Debug, PartialEq)]
pub enum Step<L = GetFlowsResponse> {
    /// Lines (none: nothing matched); there may be more right now.
    More(Vec<L>),
    /// Caught up; lines may be about losses.
    Idle(Vec<L>),
    End(Vec<L>),
}

impl<L: Line> Walk<L> {
    /// Stands where the request begins.
    #[must_use]
    pub fn open(request: Request, hub: &Hub, now: Time) -> Self {
        let (head, oldest) = hub.read(|view| {
            let (head, oldest) = (view.history.head(), view.history.oldest());
            (head, request.since.map_or(oldest, |since| view.history.skip_before(since, oldest)))
        });
        let end = (!request.follow).then_some(head);
        let at = |sequence| Place { sequence, facet: 0 };
        let everything = request.since.is_some() || request.first || request.number / 2 >= head - oldest;
        let stage = if everything || (request.number == 0 && !request.follow) {
            Stage::Forward(at(oldest))
        } else if request.number == 0 {
            Stage::Forward(at(head))
        } else {
            Stage::Back { at: head, wanted: request.number, start: at(head) }
        };
        let left = (!request.follow && request.number > 0).then_some(request.number);
        let told = Losses::of(hub.lost());
        Self { request, stage, end, left, overwritten: Gap::default(), told, told_at: now, lines: PhantomData }
    }

    /// Looks at up to `budget` records, at fewer where each takes many steps of expressions. `now` is the time that a loss is told at.
    pub fn step(&mut self, hub: &Hub, budget: usize, now: Time) -> Step<L> {
        let mut lines = Vec::new();
        let before = self.overwritten.events;
        let budget = (budget / (1 + usize::try_from(self.request.filters.steps() / STEPS).unwrap_or(budget))).max(1);
        let state = hub.read(|view| self.look(view, budget, now, &mut lines));
        hub.lost().add(Cause::History, self.overwritten.events - before);
        let ending = matches!(state, State::End);
        if ending || now.0.saturating_sub(self.told_at.0) >= TELL_LOST {
            self.tell_lost(hub, now, &mut lines);
        }
        match state {
            State::More => Step::More(lines),
            State::Idle => Step::Idle(lines),
            State::End => Step::End(lines),
        }
    }

    fn look(&mut self, view: &View<'_>, budget: usize, now: Time, lines: &mut Vec<L>) -> State {
        let node = convert::node_name(view.cluster(), view.enricher.node());
        for _ in 0..budget {
            if lines.len() >= LINES {
                return State::More;
            }
            let state = match self.stage {
                Stage::Back { at, wanted, start } => {
                    self.stage = self.back(view, at, wanted, start);
                    State::More
                }
                Stage::Forward(place) => self.forward((view, &node), place, now, lines),
            };
            if !matches!(state, State::More) {
                return state;
            }
        }
        State::More
    }

    fn back(&self, view: &View<'_>, at: u64, mut wanted: u64, mut start: Place) -> Stage {
        let Some(sequence) = at.checked_sub(1) else { return Stage::Forward(start) };
        let Found::Record(record) = view.history.get(sequence) else { return Stage::Forward(start) };
        if self.in_time(record.time) {
            for (facet, which) in record.facets().iter().enumerate().rev() {
                if self.wants(view, sequence, &record, *which) {
                    start = Place { sequence, facet };
                    wanted -= 1;
                }
                if wanted == 0 {
                    return Stage::Forward(start);
                }
            }
        }
        Stage::Back { at: sequence, wanted, start }
    }

    fn forward(&mut self, (view, node): (&View<'_>, &str), place: Place, now: Time, lines: &mut Vec<L>) -> State {
        if self.end.is_some_and(|end| place.sequence >= end) || self.left == Some(0) {
            return State::End;
        }
        match view.history.get(place.sequence) {
            Found::NotYet => State::Idle,
            Found::Gone { oldest } => {
                let oldest = self.end.map_or(oldest, |end| oldest.min(end));
                self.overwritten.add(oldest - place.sequence, now);
                self.stage = Stage::Forward(Place { sequence: oldest, facet: 0 });
                State::More
            }
            Found::Record(record) => {
                if self.request.follow && self.request.until.is_some_and(|u| record.time > u) {
                    return State::End;
                }
                if self.in_time(record.time) {
                    self.take((view, node), place, &record, lines);
                }
                self.stage = Stage::Forward(Place { sequence: place.sequence + 1, facet: 0 });
                State::More
            }
        }
    }

    fn take(&mut self, (view, node): (&View<'_>, &str), place: Place, record: &Record, lines: &mut Vec<L>) {
        let mut made = None;
        for facet in record.facets().iter().skip(place.facet) {
            if self.left == Some(0) {
                return;
            }
            let early = self.request.filters.early(record, *facet);
            if early == Some(false) {
                continue;
            }
            let flow = made.get_or_insert_with(|| view.flow(place.sequence, record));
            let details = self.request.details;
            let line = if early == Some(true) && self.request.mask.is_none() {
                L::flow(flow, *facet, view.cluster(), node, details)
            } else {
                let message = convert::flow(flow, *facet, view.cluster(), details);
                if early.is_none() && !self.request.filters.matches(&message) {
                    continue;
                }
                let time = message.time;
                let flow = match &self.request.mask {
                    Some(mask) => mask.apply(&message),
                    None => message,
                };
                let response_types = Some(ResponseTypes::Flow(flow));
                L::message(GetFlowsResponse { node_name: node.to_owned(), time, response_types })
            };
            lines.push(line);
            self.left = self.left.map(|n| n - 1);
        }
    }

    fn wants(&self, view: &View<'_>, sequence: u64, record: &Record, facet: Facet) -> bool {
        let made = || convert::flow(&view.flow(sequence, record), facet, view.cluster(), self.request.details);
        self.request.filters.early(record, facet).unwrap_or_else(|| self.request.filters.matches(&made()))
    }

    fn in_time(&self, time: Time) -> bool {
        self.request.since.is_none_or(|s| s <= time) && self.request.until.is_none_or(|u| time <= u)
    }

    fn tell_lost(&mut self, hub: &Hub, now: Time, lines: &mut Vec<L>) {
        let losses = Losses::of(hub.lost());
        let gap = std::mem::take(&mut self.overwritten);
        let before = std::mem::replace(&mut self.told, losses);
        let told = [
            (LostEventSource::HubbleRingBuffer, gap.events, gap.first),
            (LostEventSource::PerfEventRingBuffer, losses.kernel - before.kernel, self.told_at),
            (LostEventSource::ObserverEventsQueue, losses.undecodable - before.undecodable, self.told_at),
        ];
        self.told_at = now;
        let node_name = hub.read(|view| convert::node_name(view.cluster(), view.enricher.node()));
        for (source, num_events_lost, first) in told.into_iter().filter(|l| l.1 > 0) {
            let last = if source == LostEventSource::HubbleRingBuffer { gap.last } else { now };
            let event = LostEvent {
                source: source.into(),
                num_events_lost,
                cpu: None,
                first: Some(convert::timestamp(first)),
                last: Some(convert::timestamp(last)),
            };
            lines.push(L::message(GetFlowsResponse {
                node_name: node_name.clone(),
                time: Some(convert::timestamp(now)),
                response_types: Some(ResponseTypes::LostEvents(event)),
            }));
        }
    }
}

impl Gap {
    fn add(&mut self, events: u64, now: Time) {
        if self.events == 0 {
            self.first = now;
        }
        self.events += events;
        self.last = now;
    }
}

enum State {
    More,
    Idle,
    End,
}

#[cfg(test)]
mod tests;
