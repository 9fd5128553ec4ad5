//! `flow.FlowFilter`: which flows a client wants.
//!
//! *Guarantees*: a flow is wanted if one of the whitelist matches it (or there is none) and none of the blacklist does.
//! Of a filter all fields that are given must match, of a field's values any may. A value that cannot be used refuses
//! the whole request, with all that is wrong with it. [`Filters::early`] answers from the bare record where no name is
//! needed, and never otherwise than [`Filters::matches`] would; so a follower of drops costs little on a node that
//! opens many connections.
//!
//! *Caveats*: an address in a filter matches by value, not by spelling as in Cilium.

mod cel;
mod condition;
mod early;
mod parse;
mod pattern;

use std::fmt;

use axoneme_flow::{Facet, Record};

use crate::pb::flow as pb;
use condition::Condition;

/// Values that the filters of one request may have: a filter is looked at for each flow.
pub const MAX_VALUES: usize = 16_384;
/// CEL expressions among them.
pub const MAX_EXPRESSIONS: usize = 32;
/// Steps that all of them together may take for a flow.
pub const MAX_STEPS: u64 = 8192;

/// A compiled whitelist and blacklist.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    white: Vec<Vec<Condition>>,
    black: Vec<Vec<Condition>>,
    /// See [`Filters::steps`].
    steps: u64,
}

/// What is wrong with one value. Reads `whitelist[0].source_port: "http": not a port number`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub field: String,
    pub value: String,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", self.field, self.value, self.what)
    }
}

impl Filters {
    /// The predicate, or everything that is wrong with it.
    pub fn parse(whitelist: &[pb::FlowFilter], blacklist: &[pb::FlowFilter]) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut left = parse::Left::ALL;
        let mut list = |name: &str, filters: &[pb::FlowFilter]| {
            let parse = |(n, f)| parse::conditions(&format!("{name}[{n}]"), f, &mut left, &mut problems);
            filters.iter().enumerate().map(parse).collect()
        };
        let (white, black) = (list("whitelist", whitelist), list("blacklist", blacklist));
        let filters = Self { white, black, steps: left.steps() };
        if problems.is_empty() { Ok(filters) } else { Err(problems) }
    }

    /// Steps that expressions may take for a flow: one that looks at many flows in one go looks at fewer then.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    #[must_use]
    pub fn matches(&self, flow: &pb::Flow) -> bool {
        let all = |conditions: &Vec<Condition>| conditions.iter().all(|c| c.matches(flow));
        (self.white.is_empty() || self.white.iter().any(all)) && !self.black.iter().any(all)
    }

    /// What [`Self::matches`] will say of the flow of this record, if that does not depend on names.
    #[must_use]
    pub fn early(&self, record: &Record, facet: Facet) -> Option<bool> {
        let all = |conditions: &Vec<Condition>| early::all(conditions.iter().map(|c| early::matches(c, record, facet)));
        let white = if self.white.is_empty() { Some(true) } else { early::any(self.white.iter().map(all)) };
        match (white, early::any(self.black.iter().map(all))) {
            (Some(false), _) | (_, Some(true)) => Some(false),
            (Some(true), Some(false)) => Some(true),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
