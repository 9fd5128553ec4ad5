//! What is wanted and is not in force, by kind: for people in words, for Prometheus as numbers.
//!
//! The numbers are made of two things: rows that wait or failed, as this process knows; and what a look into the kernel
//! found, one kind after the other, so that a look costs little however many kinds there are. Policy tables are looked at, and
//! mended, in a turn of their own (see [`super::lost`]); all else is mended when it is asked for, by [`Engine::repair`]: whoever
//! changed it may be at it still, and a fight would hide that.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;

use super::Engine;
use crate::{Error, endpoint::Phase};

/// Between two looks, each at the next kind.
const LOOK: Duration = Duration::from_secs(10);

/// A kind of kernel state that is made equal to what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Who is behind an address.
    Address,
    /// Pods of this node, as the programs know them.
    Endpoint,
    /// Bandwidth limits.
    Limit,
    /// Addresses and ports of services.
    Frontend,
    Table,
    /// What guards the node itself.
    Guard,
    /// Interfaces of pods of this node.
    Link,
    Route,
}

impl Part {
    pub const ALL: [Self; 8] =
        [Self::Address, Self::Endpoint, Self::Limit, Self::Frontend, Self::Table, Self::Guard, Self::Link, Self::Route];

    /// The label `kind` of `axoneme_drift`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Endpoint => "endpoint",
            Self::Limit => "limit",
            Self::Frontend => "frontend",
            Self::Table => "table",
            Self::Guard => "guard",
            Self::Link => "link",
            Self::Route => "route",
        }
    }
}

/// What looks into the kernel have found.
#[derive(Debug, Default)]
pub(super) struct Looks {
    due: Option<Instant>,
    /// Place in [`Part::ALL`] of the kind that is looked at next.
    next: usize,
    found: BTreeMap<Part, usize>,
}

impl Looks {
    pub(super) const fn wake_at(&self) -> Option<Instant> {
        self.due
    }

    /// All was just read and mended.
    pub(super) fn forget(&mut self) {
        self.found.clear();
    }
}

impl Engine {
    /// What the kernel holds that is not what is wanted, in words.
    pub fn drift(&self) -> Result<Vec<String>, Error> {
        Part::ALL.into_iter().try_fold(Vec::new(), |mut out, part| {
            out.extend(self.differs(part)?);
            Ok(out)
        })
    }

    /// How much is not in force as it is wanted, of each kind.
    pub fn not_in_force(&self) -> BTreeMap<&'static str, u64> {
        let number = |part: Part| {
            let found = self.looks.found.get(&part).copied().unwrap_or(0);
            // what waits was found, too, if it waited at that time
            (part.as_str(), self.waits(part).max(found) as u64)
        };
        Part::ALL.into_iter().map(number).collect()
    }

    /// Rows that are not in force as far as this process knows.
    fn waits(&self, part: Part) -> usize {
        match part {
            Part::Address => self.ips.differing(),
            Part::Endpoint => self.entries.differing(),
            Part::Limit => self.limits.differing(),
            Part::Frontend => self.services.differing(),
            Part::Table => self.tables.differing(),
            Part::Guard => usize::from(self.guard.refusal().is_some()),
            Part::Link => {
                let lost = |e: &&super::Endpoint| e.intent.phase == Phase::Live && e.ifindex.is_none();
                self.endpoints.values().filter(lost).count()
            }
            Part::Route => self.routes.differing(),
        }
    }

    /// Looks at the next kind, if it is time.
    pub(super) fn look_for_drift(&mut self) {
        // before all rows are there nobody can say what is wanted
        if self.datapath.is_none() || !self.initialized() {
            return;
        }
        let now = self.parts.clock.now();
        if self.looks.due.is_some_and(|at| at > now) {
            return;
        }
        // nothing to look for right after the kernel was read at the start
        let first = self.looks.due.replace(now + LOOK).is_none();
        let parts: Vec<Part> = Part::ALL.into_iter().filter(|p| *p != Part::Table).collect();
        let Some(part) = parts.get(self.looks.next % parts.len()).copied().filter(|_| !first) else { return };
        self.looks.next = (self.looks.next + 1) % parts.len();
        match self.differs(part) {
            Ok(found) => self.found(part, &found),
            Err(error) => tracing::warn!(%error, kind = part.as_str(), "not looked at"),
        }
    }

    fn found(&mut self, part: Part, found: &[String]) {
        let before = self.looks.found.insert(part, found.len()).unwrap_or(0);
        if let Some(first) = found.first().filter(|_| found.len() > before) {
            let (kind, number) = (part.as_str(), found.len());
            tracing::warn!(kind, number, first, "the kernel has something else than is wanted: see /drift, /repair");
        }
    }

    /// What of a kind the kernel holds that is not what is wanted.
    fn differs(&self, part: Part) -> Result<Vec<String>, Error> {
        let mut out = Vec::new();
        let Some(datapath) = &self.datapath else { return Ok(out) };
        match part {
            Part::Address => differences("address", self.ips.iter_desired(), datapath.ips()?, &mut out),
            Part::Endpoint => differences("endpoint", self.entries.iter_desired(), datapath.endpoints()?, &mut out),
            Part::Limit => {
                differences("limit of interface", self.limits.iter_desired(), datapath.limits()?, &mut out);
            }
            Part::Frontend => {
                let services = datapath.services()?.into_iter().map(|s| ((s.address, s.protocol, s.port), s)).collect();
                differences("frontend", self.services.iter_desired(), services, &mut out);
            }
            Part::Table => out = self.tables.drift(&self.rows.rows().tables, &datapath.tables()?),
            Part::Guard => out.extend(self.guard.drift(&**datapath)?),
            Part::Link => out = self.missing_links()?,
            Part::Route => {
                let routes = self.parts.network.routes()?;
                let wanted = self.routes.iter_desired().filter(|(_, wanted)| !routes.contains(wanted));
                out.extend(wanted.map(|(to, _)| format!("route {} is missing or different", IpNetwork::to_string(to))));
            }
        }
        Ok(out)
    }

    fn missing_links(&self) -> Result<Vec<String>, Error> {
        let links = self.parts.network.links()?;
        let live = self.endpoints.values().map(|e| &e.intent).filter(|i| i.phase == Phase::Live);
        let missing = live.filter(|i| !links.iter().any(|l| l.name == i.host_name && l.up));
        let told = |i: &crate::endpoint::Intent| {
            format!("link {} of pod {}/{} is missing or down", i.host_name, i.namespace, i.name)
        };
        Ok(missing.map(told).collect())
    }
}

fn differences<'a, K, V>(
    what: &str,
    wanted: impl Iterator<Item = (&'a K, &'a V)>,
    present: Vec<(K, V)>,
    out: &mut Vec<String>,
) where
    K: Ord + std::fmt::Debug + 'a,
    V: PartialEq + std::fmt::Debug + 'a,
{
    let mut present: BTreeMap<K, V> = present.into_iter().collect();
    for (key, value) in wanted {
        match present.remove(key) {
            Some(p) if p == *value => {}
            Some(p) => out.push(format!("{what} {key:?} is {p:?}, should be {value:?}")),
            None => out.push(format!("{what} {key:?} is missing")),
        }
    }
    out.extend(present.keys().map(|k| format!("{what} {k:?} is there and nobody wants it")));
}
