//! What is known of one way to a node. Pure.
//!
//! ```text
//!              answer                     failure              third failure in a row
//!   Unknown ───────────▶ Reachable ─────────────────▶ Suspect ───────────────────────▶ Unreachable
//!      │                  ▲     ▲                        │                                  │
//!      │                  │     └────── answer ──────────┘                                  │
//!      │                  └───────────────── second answer in a row ────────────────────────┤
//!      └───────────────────────── third failure in a row ───────────────────────────────────┘
//! ```
//!
//! One lost packet changes nothing that anybody is told of, and one that gets through does not end a failure.

use std::time::{Duration, Instant};

/// Failures in a row that make a lane unreachable (Cilium's `health-check-icmp-failure-threshold`).
pub const FAILURES: u8 = 3;
/// Answers in a row that make it reachable again.
pub const ANSWERS: u8 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Never answered, and not given up yet.
    #[default]
    Unknown,
    Reachable,
    /// It answered before, and not lately.
    Suspect,
    Unreachable,
}

impl State {
    /// Whether packets get through as far as anybody knows.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Reachable | Self::Suspect)
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Reachable => "reachable",
            Self::Suspect => "suspect",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What a probe found: how long the answer took, or why there was none.
pub type Outcome = Result<Duration, String>;

/// What is known of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub state: State,
    /// In a row, up to the newest probe.
    pub failures: u8,
    pub answers: u8,
    /// Of the newest answer.
    pub latency: Option<Duration>,
    /// Of the newest probe, where it failed.
    pub error: String,
    /// When the newest probe ended.
    pub probed: Option<Instant>,
    /// When the state began.
    pub since: Option<Instant>,
}

impl Standing {
    /// Whether the next probe may change the state: then it should be soon.
    #[must_use]
    pub const fn in_doubt(&self) -> bool {
        match self.state {
            State::Unknown | State::Suspect => true,
            State::Reachable => false,
            State::Unreachable => self.answers > 0,
        }
    }
}

/// The standing after a probe.
#[must_use]
pub fn step(before: Standing, now: Instant, outcome: Outcome) -> Standing {
    let mut after = Standing { probed: Some(now), ..before };
    match outcome {
        Ok(latency) => {
            after.latency = Some(latency);
            after.error.clear();
            after.failures = 0;
            after.answers = after.answers.saturating_add(1);
        }
        Err(error) => {
            after.error = error;
            after.answers = 0;
            after.failures = after.failures.saturating_add(1);
        }
    }
    let state = match after.state {
        State::Unreachable if after.answers < ANSWERS => State::Unreachable,
        _ if after.failures >= FAILURES => State::Unreachable,
        _ if after.answers > 0 => State::Reachable,
        State::Reachable => State::Suspect,
        other => other,
    };
    if state != after.state {
        after.state = state;
        after.since = Some(now);
    }
    after
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OK: Outcome = Ok(Duration::from_millis(1));

    fn failed() -> Outcome {
        Err("no answer".to_owned())
    }

    fn after(outcomes: impl IntoIterator<Item = bool>) -> Standing {
        let now = Instant::now();
        let next = |s, ok| step(s, now, if ok { OK } else { failed() });
        outcomes.into_iter().fold(Standing::default(), next)
    }

    #[test]
    fn one_lost_packet_is_no_failure_and_three_are() {
        assert_eq!(after([]).state, State::Unknown);
        assert_eq!(after([true]).state, State::Reachable);
        assert_eq!(after([true, false]).state, State::Suspect);
        assert_eq!(after([true, false, false]).state, State::Suspect);
        assert_eq!(after([true, false, false, true]).state, State::Reachable);
        assert_eq!(after([true, false, false, false]).state, State::Unreachable);
        assert_eq!(after([false, false]).state, State::Unknown);
        assert_eq!(after([false, false, false]).state, State::Unreachable);
    }

    #[test]
    fn a_failure_ends_with_two_answers_in_a_row() {
        let cut = [true, false, false, false];
        let and = |more: &[bool]| after(cut.iter().chain(more).copied()).state;
        assert_eq!(and(&[true]), State::Unreachable);
        assert_eq!(and(&[true, false, true]), State::Unreachable);
        assert_eq!(and(&[true, true]), State::Reachable);
    }

    #[test]
    fn since_is_when_the_state_began() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let up = step(Standing::default(), start, OK);
        let still = step(up.clone(), start + second, OK);
        assert_eq!((still.since, still.probed), (Some(start), Some(start + second)));
        let suspect = step(still, start + second * 2, failed());
        assert_eq!((suspect.since, suspect.error.as_str()), (Some(start + second * 2), "no answer"));
        assert_eq!(suspect.latency, Some(Duration::from_millis(1)), "the last that is known");
    }

    proptest! {
        /// What is unreachable failed three times in a row and did not answer twice in a row since; what is up answered.
        #[test]
        fn the_state_is_what_the_probes_say(outcomes in proptest::collection::vec(any::<bool>(), 0..40)) {
            let s = after(outcomes.iter().copied());
            let last_cut = outcomes.windows(3).rposition(|w| w.iter().all(|ok| !ok));
            let mended = last_cut.is_some_and(|at| outcomes[at..].windows(2).any(|w| w == [true, true]));
            let expected = match (last_cut, outcomes.last()) {
                (Some(_), _) if !mended => State::Unreachable,
                (_, Some(true)) => State::Reachable,
                (None, _) if !outcomes.contains(&true) => State::Unknown,
                (_, _) => State::Suspect,
            };
            prop_assert_eq!(s.state, expected);
            prop_assert_eq!(s.in_doubt(), match s.state {
                State::Reachable => false,
                State::Unreachable => outcomes.last() == Some(&true),
                State::Unknown | State::Suspect => true,
            });
        }
    }
}
