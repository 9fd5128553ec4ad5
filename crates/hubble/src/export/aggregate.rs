//! Flows that are alike, as one with their number: what the peers call `fieldAggregate` and `aggregationInterval`.

use std::{collections::HashMap, time::Duration};

use axoneme_flow::Time;
use prost::Message as _;

use crate::{
    convert,
    mask::Mask,
    pb::{
        flow::{Aggregate, Flow, TrafficDirection},
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    },
};

/// Kinds of flows that are told apart in an interval. Where there are more, what there is goes out early: nothing is
/// left out.
pub(super) const MOST: usize = 16_384;

/// What flows have in common, and how often they are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Alike {
    pub(super) fields: Mask,
    pub(super) every: Duration,
    /// Of those, the fields that are exported; none: all of them.
    pub(super) shown: Option<Mask>,
}

/// Flows of an interval that is not over.
#[derive(Debug)]
pub(super) struct Aggregator {
    alike: Alike,
    counts: HashMap<Vec<u8>, Aggregate>,
    node_name: String,
    ends: Time,
}

impl Aggregator {
    pub(super) fn new(alike: Alike, now: Time) -> Self {
        let ends = after(now, alike.every);
        Self { alike, counts: HashMap::new(), node_name: String::new(), ends }
    }

    /// Takes lines up. What is to be written instead: lines that are no flows, and the flows of an interval that is over.
    pub(super) fn pass(&mut self, lines: Vec<GetFlowsResponse>, now: Time) -> Vec<GetFlowsResponse> {
        let mut out = Vec::new();
        if now >= self.ends {
            self.tell(now, &mut out);
        }
        for line in lines {
            match line.response_types {
                Some(ResponseTypes::Flow(flow)) => {
                    if self.counts.len() >= MOST {
                        self.tell(now, &mut out);
                    }
                    self.node_name = line.node_name;
                    self.take(&flow);
                }
                _ => out.push(line),
            }
        }
        out
    }

    /// What there is, whether the interval is over or not.
    pub(super) fn rest(&mut self, now: Time) -> Vec<GetFlowsResponse> {
        let mut out = Vec::new();
        self.tell(now, &mut out);
        out
    }

    fn take(&mut self, flow: &Flow) {
        let count = self.counts.entry(self.alike.fields.apply(flow).encode_to_vec()).or_default();
        let one = match flow.traffic_direction() {
            TrafficDirection::Ingress => &mut count.ingress_flow_count,
            TrafficDirection::Egress => &mut count.egress_flow_count,
            TrafficDirection::Unknown => &mut count.unknown_direction_flow_count,
        };
        *one = one.saturating_add(1);
    }

    fn tell(&mut self, now: Time, out: &mut Vec<GetFlowsResponse>) {
        self.ends = after(now, self.alike.every);
        for (flow, count) in self.counts.drain() {
            // it was encoded here
            let Ok(flow) = Flow::decode(&*flow) else { continue };
            let shown = self.alike.shown.as_ref().map_or_else(|| flow.clone(), |mask| mask.apply(&flow));
            let flow = Flow { aggregate: Some(count), ..shown };
            out.push(GetFlowsResponse {
                node_name: self.node_name.clone(),
                time: Some(convert::timestamp(now)),
                response_types: Some(ResponseTypes::Flow(flow)),
            });
        }
    }
}

fn after(now: Time, every: Duration) -> Time {
    Time(now.0.saturating_add(u64::try_from(every.as_nanos()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::flow::{Endpoint, LostEvent};

    const SECOND: u64 = 1_000_000_000;

    fn line(pod: &str, direction: TrafficDirection, uuid: u64) -> GetFlowsResponse {
        let flow = Flow {
            uuid: uuid.to_string(),
            verdict: 1,
            source: Some(Endpoint { namespace: "shop".into(), pod_name: pod.into(), ..Endpoint::default() }),
            traffic_direction: direction.into(),
            ..Flow::default()
        };
        GetFlowsResponse {
            node_name: "n1".into(),
            response_types: Some(ResponseTypes::Flow(flow)),
            ..Default::default()
        }
    }

    fn mask(paths: &[&str]) -> Mask {
        Mask::parse(&paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()).unwrap().unwrap()
    }

    fn flows(lines: &[GetFlowsResponse]) -> Vec<(String, [u32; 3])> {
        let mut all: Vec<_> = lines
            .iter()
            .filter_map(|l| match &l.response_types {
                Some(ResponseTypes::Flow(f)) => {
                    let a = f.aggregate.unwrap();
                    let counts = [a.ingress_flow_count, a.egress_flow_count, a.unknown_direction_flow_count];
                    assert!(f.uuid.is_empty(), "not one of the fields");
                    Some((f.source.as_ref().map(|s| s.pod_name.clone()).unwrap_or_default(), counts))
                }
                _ => None,
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn flows_that_are_alike_become_one_with_their_number_by_direction() {
        use TrafficDirection::{Egress, Ingress, Unknown};
        let alike = Alike { fields: mask(&["verdict", "source"]), every: Duration::from_secs(10), shown: None };
        let mut a = Aggregator::new(alike, Time(0));
        let lost = GetFlowsResponse {
            response_types: Some(ResponseTypes::LostEvents(LostEvent::default())),
            ..GetFlowsResponse::default()
        };
        let mut lines: Vec<_> = (0..5).map(|n| line("web", Egress, n)).collect();
        lines.extend([line("web", Ingress, 9), line("db", Unknown, 10), lost.clone()]);
        assert_eq!(a.pass(lines, Time(SECOND)), [lost], "losses are told at once");
        assert!(a.pass(vec![], Time(9 * SECOND)).is_empty());
        let told = a.pass(vec![line("late", Egress, 11)], Time(10 * SECOND));
        assert_eq!(flows(&told), [("db".to_owned(), [0, 0, 1]), ("web".to_owned(), [1, 5, 0])]);
        assert_eq!(flows(&a.rest(Time(11 * SECOND))), [("late".to_owned(), [0, 1, 0])]);
        assert!(a.rest(Time(30 * SECOND)).is_empty());
    }

    #[test]
    fn more_kinds_than_there_is_room_for_go_out_early_and_none_is_left_out() {
        let alike = Alike {
            fields: mask(&["source.pod_name"]),
            every: Duration::from_hours(1),
            shown: Some(mask(&["source.namespace"])),
        };
        let mut a = Aggregator::new(alike, Time(0));
        let many = MOST + 10;
        let lines = (0..many).map(|n| line(&format!("pod-{n}"), TrafficDirection::Egress, 0)).collect();
        let mut told = a.pass(lines, Time(1));
        assert_eq!(told.len(), MOST);
        told.extend(a.rest(Time(2)));
        let sum: u32 = flows(&told).iter().map(|f| f.1[1]).sum();
        assert_eq!(sum as usize, many);
        assert!(flows(&told).iter().all(|f| f.0.is_empty()), "only what is to be shown");
    }
}
