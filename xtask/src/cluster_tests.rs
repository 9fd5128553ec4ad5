//! The cluster rung: everything on a real cluster, each scenario positively and negatively.

mod api;
mod connectivity;
mod faults;
mod fixture;
mod ipam;
mod policy;

use std::time::Instant;

use anyhow::Result;

use self::fixture::Fixture;
use crate::cluster::{Cluster, Family};
use crate::lab::{Lab, Routing};
use crate::progress::{say, seconds};

/// How a rung ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
}

/// A scenario: its promise as a name, and what holds it.
type Scenario = (String, Box<dyn Fn(&Lab, &Fixture) -> Result<()>>);

/// A scenario as its module lists it.
type Named = (&'static str, fn(&Lab, &Fixture) -> Result<()>);

fn boxed(named: &[Named]) -> Vec<Scenario> {
    named.iter().map(|(name, check)| ((*name).to_owned(), Box::new(*check) as Box<_>)).collect()
}

/// One cluster and what runs on it.
struct Suite {
    name: &'static str,
    family: Family,
    routing: Routing,
    /// `spec.ipam` of the AxonemeConfig.
    ipam: &'static str,
    scenarios: Vec<Scenario>,
}

fn suites() -> Vec<Suite> {
    let mut everything = connectivity::scenarios();
    everything.extend(policy::scenarios());
    everything.extend(api::scenarios());
    everything.extend(faults::scenarios());
    let mut basics = connectivity::scenarios();
    basics.extend(policy::basics());
    vec![
        Suite {
            name: "overlay-v4",
            family: Family::V4,
            routing: Routing::Overlay,
            ipam: ipam::OF_THE_NODES,
            scenarios: everything,
        },
        Suite {
            name: "native-dual",
            family: Family::Dual,
            routing: Routing::Native,
            ipam: ipam::OF_THE_NODES,
            scenarios: basics,
        },
        Suite {
            name: "ipam",
            family: Family::V4,
            routing: Routing::Overlay,
            ipam: ipam::ONE_POOL,
            scenarios: ipam::scenarios(),
        },
    ]
}

/// Runs the scenarios whose name holds the filter. A failed one is shown at once and the others go on.
pub(crate) fn run(filter: &str) -> Result<Totals> {
    let mut totals = Totals::default();
    for mut suite in suites() {
        suite.scenarios.retain(|(name, _)| format!("{}::{name}", suite.name).contains(filter));
        if suite.scenarios.is_empty() {
            continue;
        }
        run_suite(&suite, &mut totals)?;
    }
    Ok(totals)
}

fn run_suite(suite: &Suite, totals: &mut Totals) -> Result<()> {
    let name = format!("test-{}", suite.name);
    // what an interrupted run has left
    if let Ok(old) = Cluster::open(&name) {
        old.down()?;
    }
    let lab = Lab::up_with(&name, 2, suite.family, suite.routing, suite.ipam)?;
    let done = Fixture::make(&lab).map(|fixture| {
        for (scenario, check) in &suite.scenarios {
            judge(&format!("{}::{scenario}", suite.name), totals, || check(&lab, &fixture));
        }
    });
    if done.is_err() || totals.failed > 0 {
        say(lab.diagnosis());
    }
    let down = lab.down();
    done?;
    judge(&format!("{}::nothing_is_left_behind", suite.name), totals, || down);
    Ok(())
}

fn judge(name: &str, totals: &mut Totals, check: impl FnOnce() -> Result<()>) {
    let began = Instant::now();
    match check() {
        Ok(()) => {
            totals.passed += 1;
            println!("test {name} ... ok ({})", seconds(began.elapsed()));
        }
        Err(e) => {
            totals.failed += 1;
            println!("test {name} ... FAILED ({})\n    {e:#}", seconds(began.elapsed()));
        }
    }
}
