//! One reader's walk through the history.

use serde::{Deserialize, Serialize};

use crate::{
    enrich::Enricher,
    filter::Filter,
    flow::{Content, Response},
    history::{Found, History},
    lost::{Cause, Lost, LostEvents},
    names::NameBook,
    spec::{FieldError, FilterSpec},
    time::Time,
};

/// What a reader asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    pub filter: FilterSpec,
    /// Begin with so many of the newest flows that match; absent: with all that are there. Zero: only what comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// Go on with what comes, until the reader leaves.
    pub follow: bool,
    /// Leave out flows before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Leave out flows at and after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// A reader's place. Holds no flows: memory is the same for a reader of one line and of millions.
#[derive(Debug)]
pub struct Reader {
    filter: Filter,
    since: Option<Time>,
    until: Option<Time>,
    next: u64,
    /// Where to stop; none: follow.
    end: Option<u64>,
}

/// What one step found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// At least one line; there may be more right now.
    Lines(Vec<Response>),
    /// Looked at records and none matched; there may be more right now.
    Nothing,
    /// All caught up: ask again when something was pushed, or in a while.
    Idle,
    /// No more will come.
    End,
}

impl Reader {
    /// Stands at the first flow that the query asks for. With `last` this walks back through the history (its length
    /// bounds the work), without it is constant work.
    pub fn open(
        query: &Query,
        history: &History,
        enricher: &Enricher,
        names: &NameBook,
    ) -> Result<Self, Vec<FieldError>> {
        let head = history.head();
        let end = if query.follow { None } else { Some(head) };
        let (since, until) = (query.since, query.until);
        let mut reader = Self { filter: query.filter.parse()?, since, until, next: history.oldest(), end };
        if let Some(since) = since {
            reader.next = history.skip_before(since, reader.next);
        }
        if let Some(wanted) = query.last {
            reader.next = reader.start_of_last(wanted, head, history, enricher, names);
        }
        Ok(reader)
    }

    fn start_of_last(&self, wanted: u64, head: u64, history: &History, enricher: &Enricher, names: &NameBook) -> u64 {
        let (mut found, mut start) = (0, head);
        for sequence in (history.oldest()..head).rev() {
            if found == wanted {
                break;
            }
            let Found::Record(record) = history.get(sequence) else { break };
            if self.in_time(record.time) && self.filter.matches(&enricher.flow(sequence, &record, names)) {
                found += 1;
                start = sequence;
            }
        }
        start
    }

    fn in_time(&self, time: Time) -> bool {
        self.since.is_none_or(|s| s <= time) && self.until.is_none_or(|u| time < u)
    }

    /// Looks at up to `budget` records. What was overwritten before it was read is counted in `lost` and told in place.
    pub fn step(
        &mut self,
        budget: usize,
        history: &History,
        enricher: &Enricher,
        names: &NameBook,
        lost: &Lost,
    ) -> Step {
        let mut lines = Vec::new();
        for looked in 0..budget {
            if self.end.is_some_and(|end| self.next >= end) {
                return if lines.is_empty() { Step::End } else { Step::Lines(lines) };
            }
            match history.get(self.next) {
                Found::Record(record) => {
                    if self.in_time(record.time) {
                        let flow = enricher.flow(self.next, &record, names);
                        if self.filter.matches(&flow) {
                            let (node_name, time) = (enricher.node().clone(), flow.time);
                            lines.push(Response { content: Content::Flow(Box::new(flow)), node_name, time });
                        }
                    }
                    self.next += 1;
                }
                Found::Gone { oldest } => {
                    let oldest = self.end.map_or(oldest, |end| oldest.min(end));
                    let missed = oldest - self.next;
                    lost.add(Cause::History, missed);
                    lines.push(lost_line(missed, oldest, history, enricher));
                    self.next = oldest;
                }
                Found::NotYet if lines.is_empty() => return if looked == 0 { Step::Idle } else { Step::Nothing },
                Found::NotYet => return Step::Lines(lines),
            }
        }
        if lines.is_empty() { Step::Nothing } else { Step::Lines(lines) }
    }
}

fn lost_line(missed: u64, oldest: u64, history: &History, enricher: &Enricher) -> Response {
    // the nearest time there is: that of the first record that is still there
    let time = match history.get(oldest) {
        Found::Record(r) => r.time,
        _ => Time::default(),
    };
    let lost = LostEvents { source: Cause::History.source(), num_events_lost: missed };
    Response { content: Content::Lost(lost), node_name: enricher.node().clone(), time }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Flow, Record, testing};

    struct Rig {
        history: History,
        enricher: Enricher,
        names: NameBook,
        lost: Lost,
    }

    impl Rig {
        fn new(room: usize) -> Self {
            let enricher = Enricher::new("n1", "", 0);
            Self { history: History::new(room), enricher, names: testing::names(), lost: Lost::default() }
        }

        fn push(&self, records: &[Record]) {
            for r in records {
                self.history.push(r);
            }
        }

        fn open(&self, query: &Query) -> Reader {
            Reader::open(query, &self.history, &self.enricher, &self.names).unwrap()
        }

        /// Steps until there is nothing more right now. Flows, and how many were told to be lost.
        fn drain(&self, reader: &mut Reader, budget: usize) -> (Vec<Flow>, u64, Step) {
            let (mut flows, mut lost) = (Vec::new(), 0);
            loop {
                match reader.step(budget, &self.history, &self.enricher, &self.names, &self.lost) {
                    Step::Lines(lines) => {
                        for line in lines {
                            match line.content {
                                Content::Flow(f) => flows.push(*f),
                                Content::Lost(l) => lost += l.num_events_lost,
                            }
                        }
                    }
                    Step::Nothing => {}
                    end => return (flows, lost, end),
                }
            }
        }

        fn flows(&self, from: u64, records: &[Record]) -> Vec<Flow> {
            (from..).zip(records).map(|(n, r)| self.enricher.flow(n, r, &self.names)).collect()
        }
    }

    fn records(n: usize) -> impl Strategy<Value = Vec<Record>> {
        proptest::collection::vec(testing::arbitrary_record(), n)
    }

    fn tcp() -> FilterSpec {
        FilterSpec { protocol: vec!["tcp".into()], ..FilterSpec::default() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn last_n_are_the_newest_that_match_in_order(records in records(60), last in 0..20u64, budget in 1..40usize) {
            let rig = Rig::new(50);
            rig.push(&records);
            let query = Query { filter: tcp(), last: Some(last), ..Query::default() };
            let (flows, lost, end) = rig.drain(&mut rig.open(&query), budget);
            let filter = tcp().parse().unwrap();
            let mut expected = rig.flows(10, &records[10..]);
            expected.retain(|f| filter.matches(f));
            let skip = expected.len().saturating_sub(last as usize);
            prop_assert_eq!(flows, expected.split_off(skip));
            prop_assert_eq!((lost, end), (0, Step::End));
        }

        #[test]
        fn a_follower_sees_or_is_told_of_every_record(records in records(60), chunk in 1..25usize, budget in 1..9usize) {
            let rig = Rig::new(8);
            let mut reader = rig.open(&Query { follow: true, last: Some(0), ..Query::default() });
            let (mut seen, mut missed) = (Vec::new(), 0);
            for part in records.chunks(chunk) {
                rig.push(part);
                let (flows, lost, end) = rig.drain(&mut reader, budget);
                seen.extend(flows);
                missed += lost;
                prop_assert_eq!(end, Step::Idle);
            }
            prop_assert_eq!(seen.len() as u64 + missed, 60);
            prop_assert_eq!(rig.lost.get(Cause::History), missed);
            let all = rig.flows(0, &records);
            prop_assert!(seen.iter().all(|f| all.contains(f)));
        }
    }

    #[test]
    fn since_and_until_bound_the_time() {
        let rig = Rig::new(8);
        let base = Record::unpack(&[0; crate::record::WORDS]);
        rig.push(&[1, 2, 3, 4].map(|t| Record { time: Time(t), ..base }));
        let query = Query { since: Some(Time(2)), until: Some(Time(4)), ..Query::default() };
        let (flows, _, _) = rig.drain(&mut rig.open(&query), 10);
        assert_eq!(flows.iter().map(|f| f.time.0).collect::<Vec<_>>(), [2, 3]);
        let one = Query { last: Some(1), ..query };
        assert_eq!(rig.drain(&mut rig.open(&one), 10).0[0].time, Time(3));
    }

    #[test]
    fn a_bad_filter_opens_no_reader() {
        let rig = Rig::new(8);
        let filter = FilterSpec { port: vec!["x".into()], ..FilterSpec::default() };
        let query = Query { filter, ..Query::default() };
        let errors = Reader::open(&query, &rig.history, &rig.enricher, &rig.names).unwrap_err();
        assert_eq!(errors[0].field, "port");
    }
}
