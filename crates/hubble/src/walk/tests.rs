//! Walks against a plain list of all flows.

use axoneme_flow::{Feed, Record, testing};
use proptest::prelude::*;

use super::*;
use crate::pb::flow::{EventTypeFilter, Flow, FlowFilter};

const ROOM: usize = 64;

fn hub() -> (std::sync::Arc<Hub>, Feed) {
    let (hub, feed) = Hub::new("n1", "prod", 42, ROOM);
    hub.names(|names| *names = testing::names());
    (hub, feed)
}

/// Everything that the records tell, in order.
fn all(hub: &Hub, records: &[Record]) -> Vec<Flow> {
    let facets = |(n, r): (u64, &Record)| {
        let of = |f: &Facet| hub.read(|view| convert::flow(&view.flow(n, r), *f, "prod", false));
        r.facets().iter().map(of).collect::<Vec<_>>()
    };
    (0..).zip(records).flat_map(facets).collect()
}

/// Steps until there is no more right now: flows, and what was lost by source.
fn drain(walk: &mut Walk, hub: &Hub, budget: usize, now: Time) -> (Vec<Flow>, Vec<(LostEventSource, u64)>, bool) {
    let (mut flows, mut lost) = (Vec::new(), Vec::new());
    loop {
        let (lines, end) = match walk.step(hub, budget, now) {
            Step::More(lines) => (lines, None),
            Step::Idle(lines) => (lines, Some(false)),
            Step::End(lines) => (lines, Some(true)),
        };
        for line in lines {
            match line.response_types.unwrap() {
                ResponseTypes::Flow(f) => flows.push(f),
                ResponseTypes::LostEvents(l) => lost.push((l.source(), l.num_events_lost)),
                ResponseTypes::NodeStatus(_) => unreachable!("a node tells of no nodes"),
            }
        }
        if let Some(end) = end {
            return (flows, lost, end);
        }
    }
}

fn push(feed: &mut Feed, records: &[Record]) {
    for record in records {
        feed.push(record);
    }
}

fn tcp() -> GetFlowsRequest {
    let filter = FlowFilter { protocol: vec!["tcp".into()], ..FlowFilter::default() };
    GetFlowsRequest { whitelist: vec![filter], ..GetFlowsRequest::default() }
}

fn is_tcp(flow: &Flow) -> bool {
    matches!(flow.l4.as_ref().and_then(|l| l.protocol.as_ref()), Some(crate::pb::flow::layer4::Protocol::Tcp(_)))
}

fn open(request: &GetFlowsRequest, hub: &Hub) -> Walk {
    Walk::open(Request::parse(request).unwrap(), hub, Time(0))
}

fn stamp(n: u64) -> prost_types::Timestamp {
    convert::timestamp(Time(n))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_request_gets_what_it_asks_for(
        records in proptest::collection::vec(testing::arbitrary_record(), 0..ROOM),
        times in proptest::collection::vec(0..40u64, ROOM),
        number in 0..30u64,
        first: bool,
        since in proptest::option::of(0..40u64),
        until in proptest::option::of(0..40u64),
        budget in 1..40usize,
    ) {
        let (hub, mut feed) = hub();
        let records: Vec<Record> = records.into_iter().zip(times).map(|(r, t)| Record { time: Time(t), ..r }).collect();
        push(&mut feed, &records);
        let request =
            GetFlowsRequest { number, first, since: since.map(stamp), until: until.map(stamp), ..tcp() };
        let (flows, lost, end) = drain(&mut open(&request, &hub), &hub, budget, Time(0));

        let mut expected = all(&hub, &records);
        expected.retain(|f| {
            let t = convert::time(f.time.as_ref().unwrap()).unwrap().0;
            is_tcp(f) && since.is_none_or(|s| s <= t) && until.is_none_or(|u| t <= u)
        });
        let number = usize::try_from(number).unwrap();
        if number > 0 && (first || since.is_some()) {
            expected.truncate(number);
        } else if number > 0 {
            expected.drain(..expected.len().saturating_sub(number));
        }
        prop_assert_eq!(flows, expected);
        prop_assert!(end && lost.is_empty());
    }

    #[test]
    fn a_follower_sees_or_is_told_of_everything(
        records in proptest::collection::vec(testing::arbitrary_record(), 300),
        chunks in proptest::collection::vec(1..150usize, 10),
        last in 0..5u64,
        budget in 1..40usize,
    ) {
        let (hub, mut feed) = hub();
        let (before, rest) = records.split_at(20);
        push(&mut feed, before);
        let mut walk = open(&GetFlowsRequest { number: last, follow: true, ..GetFlowsRequest::default() }, &hub);
        let (mut seen, mut missed, mut at) = (Vec::new(), 0, 0);
        let mut now = 0;
        for chunk in chunks {
            let end = rest.len().min(at + chunk);
            push(&mut feed, &rest[at..end]);
            at = end;
            now += TELL_LOST;
            let (flows, lost, end) = drain(&mut walk, &hub, budget, Time(now));
            prop_assert!(!end);
            seen.extend(flows);
            missed += lost.iter().map(|l| l.1).sum::<u64>();
        }
        missed += walk.overwritten.events;
        let all = all(&hub, &records[..20 + at]);
        let uuids: Vec<&String> = seen.iter().map(|f| &f.uuid).collect();
        let mut rest = all.iter();
        prop_assert!(uuids.iter().all(|u| rest.any(|f| f.uuid == **u)), "in order, each once");
        // each of the records is seen, or counted
        let records_seen: std::collections::BTreeSet<_> = seen.iter().map(|f| f.uuid[24..].to_owned()).collect();
        let old = records_seen.iter().filter(|u| u64::from_str_radix(u, 16).unwrap() < 20).count() as u64;
        prop_assert_eq!(records_seen.len() as u64 - old + missed, at as u64);
        prop_assert_eq!(hub.lost().get(Cause::History), missed);
    }
}

#[test]
fn losses_are_told_once_a_second_and_by_source() {
    let (hub, mut feed) = hub();
    let mut walk = open(&GetFlowsRequest { follow: true, ..GetFlowsRequest::default() }, &hub);
    feed.set_lost(axoneme_flow::Ring::Drops, 3);
    feed.take(axoneme_flow::Ring::Flows, b"not an event");
    assert_eq!(drain(&mut walk, &hub, 10, Time(TELL_LOST - 1)).1, []);
    feed.set_lost(axoneme_flow::Ring::Flows, 4);
    let told = drain(&mut walk, &hub, 10, Time(TELL_LOST)).1;
    assert_eq!(told, [(LostEventSource::PerfEventRingBuffer, 7), (LostEventSource::ObserverEventsQueue, 1)]);
    assert_eq!(drain(&mut walk, &hub, 10, Time(9 * TELL_LOST)).1, [], "each once");
}

#[test]
fn a_follower_with_an_end_ends_there() {
    let (hub, mut feed) = hub();
    let request = GetFlowsRequest { follow: true, until: Some(stamp(5)), ..GetFlowsRequest::default() };
    let mut walk = open(&request, &hub);
    let base = Record { time: Time(5), ..some_record() };
    feed.push(&base);
    assert!(!drain(&mut walk, &hub, 10, Time(0)).2);
    feed.push(&Record { time: Time(6), ..base });
    assert_eq!(drain(&mut walk, &hub, 10, Time(0)), (vec![], vec![], true));
}

fn some_record() -> Record {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    testing::arbitrary_record().new_tree(&mut TestRunner::deterministic()).unwrap().current()
}

#[test]
fn the_two_flows_of_a_record_can_be_told_apart() {
    let record = Record {
        event: axoneme_flow::Event::Drop,
        verdict: axoneme_flow::Verdict::Dropped,
        reason: axoneme_flow::DropReason::POLICY_DENIED,
        ..some_record()
    };
    let (hub, mut feed) = hub();
    feed.push(&record);
    let ask = |r#type| {
        let filter = EventTypeFilter { r#type, ..EventTypeFilter::default() };
        let filter = FlowFilter { event_type: vec![filter], ..FlowFilter::default() };
        let request = GetFlowsRequest { whitelist: vec![filter], number: 9, ..GetFlowsRequest::default() };
        drain(&mut open(&request, &hub), &hub, 10, Time(0)).0
    };
    let (verdicts, drops) = (ask(5), ask(1));
    assert_eq!((verdicts.len(), drops.len()), (1, 1));
    assert_ne!(verdicts[0].uuid, drops[0].uuid);
    assert_eq!(verdicts[0].drop_reason_desc, 133);
    let by_id = FlowFilter { uuid: vec![verdicts[0].uuid.clone()], ..FlowFilter::default() };
    let request = GetFlowsRequest { whitelist: vec![by_id], number: 9, ..GetFlowsRequest::default() };
    assert_eq!(drain(&mut open(&request, &hub), &hub, 10, Time(0)).0, verdicts);
}

#[test]
fn contradictions_and_bad_times_are_refused() {
    let bad = prost_types::Timestamp { seconds: 0, nanos: -1 };
    let refused = |request: GetFlowsRequest| Request::parse(&request).unwrap_err();
    assert!(refused(GetFlowsRequest { first: true, follow: true, ..tcp() }).contains("first"));
    assert!(refused(GetFlowsRequest { since: Some(bad), ..tcp() }).starts_with("since"));
    assert!(refused(GetFlowsRequest { until: Some(bad), ..tcp() }).starts_with("until"));
    let mask = prost_types::FieldMask { paths: vec!["src".into()] };
    assert!(refused(GetFlowsRequest { field_mask: Some(mask), ..tcp() }).contains("\"src\""));
}
