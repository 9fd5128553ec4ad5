//! The cluster rung: everything on a real cluster, each scenario positively and negatively.
//!
//! Suites of one lane share nothing and run one after the other; lanes run side by side, since most of a scenario is
//! waiting: for a drop to be sure, for a Lease to end, for an API server that is away for minutes.

mod api;
mod audit;
mod authority;
mod broken;
mod command_line;
mod connectivity;
mod failover;
mod faults;
mod fixture;
mod host;
mod hubble;
mod inventory;
mod ipam;
mod kuttl;
mod limits;
mod outage;
mod policy;
mod quiet;
mod reboot;
mod runtime;
mod traffic;
mod upgrade;
mod views;
mod webhooks;
mod workloads;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail, ensure};

use self::fixture::Fixture;
use crate::cluster::{Cluster, Family};
use crate::command::output;
use crate::image;
use crate::lab::{Installer, Lab, Routing};
use crate::progress::{say, seconds};
use crate::setup::go;
use crate::workspace;

/// How a rung ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: usize,
    /// Names, and why.
    pub(crate) failed: Vec<(String, String)>,
}

/// A scenario: its promise as a name, and what holds it.
type Scenario = (String, Box<dyn Fn(&Lab, &Fixture) -> Result<()> + Sync>);

/// A scenario as its module lists it.
type Named = (&'static str, fn(&Lab, &Fixture) -> Result<()>);

fn boxed(named: &[Named]) -> Vec<Scenario> {
    named.iter().map(|(name, check)| ((*name).to_owned(), Box::new(*check) as Box<_>)).collect()
}

/// How the product goes at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    /// By `deploy/overlays/uninstall`.
    Overlay,
    /// On each node, without an API server.
    ByHand,
    /// By `axoneme uninstall`; it came by `axoneme install`.
    CommandLine,
}

/// One cluster and what runs on it.
struct Suite {
    name: &'static str,
    family: Family,
    routing: Routing,
    /// `spec.ipam` of the AxonemeConfig.
    ipam: &'static str,
    removal: Removal,
    scenarios: Vec<Scenario>,
}

fn overlay_v4() -> Suite {
    let parts = [
        connectivity::scenarios(),
        policy::scenarios(),
        api::scenarios(),
        broken::scenarios(),
        workloads::scenarios(),
        limits::scenarios(),
        host::scenarios(),
        hubble::scenarios(),
    ];
    let scenarios = parts.into_iter().flatten().collect();
    Suite {
        name: "overlay-v4",
        family: Family::V4,
        routing: Routing::Overlay,
        ipam: ipam::OF_THE_NODES,
        removal: Removal::Overlay,
        scenarios,
    }
}

/// What is killed, stopped, upgraded or away. The longest waits are here, so it has a lane to itself.
fn faults() -> Suite {
    let parts =
        [faults::scenarios(), failover::scenarios(), upgrade::scenarios(), outage::scenarios(), reboot::scenarios()];
    Suite {
        name: "faults",
        family: Family::V4,
        routing: Routing::Overlay,
        ipam: ipam::OF_THE_NODES,
        removal: Removal::ByHand,
        scenarios: parts.into_iter().flatten().collect(),
    }
}

fn native_dual() -> Suite {
    let parts = [connectivity::scenarios(), policy::scenarios(), quiet::scenarios(), command_line::scenarios()];
    let scenarios = parts.into_iter().flatten().collect();
    Suite {
        name: "native-dual",
        family: Family::Dual,
        routing: Routing::Native,
        ipam: ipam::OF_THE_NODES,
        removal: Removal::CommandLine,
        scenarios,
    }
}

fn overlay_v6() -> Suite {
    let parts = [
        connectivity::scenarios(),
        policy::basics(),
        host::scenarios(),
        webhooks::scenarios(),
        views::scenarios(),
        authority::scenarios(),
    ];
    let scenarios = parts.into_iter().flatten().collect();
    Suite {
        name: "overlay-v6",
        family: Family::V6,
        routing: Routing::Overlay,
        ipam: ipam::OF_THE_NODES,
        removal: Removal::ByHand,
        scenarios,
    }
}

/// The story of addresses; and, while there are pools, the cases of `kuttl-tests/`, some of which are about them.
fn addresses() -> Suite {
    let parts = [ipam::of_pools(), kuttl::scenarios(), ipam::of_others()];
    Suite {
        name: "ipam",
        family: Family::V4,
        routing: Routing::Overlay,
        ipam: ipam::ONE_POOL,
        removal: Removal::ByHand,
        scenarios: parts.into_iter().flatten().collect(),
    }
}

/// The suites that run side by side, lane by lane.
fn lanes() -> Vec<Vec<Suite>> {
    vec![vec![faults()], vec![overlay_v4()], vec![overlay_v6()], vec![addresses(), native_dual()]]
}

/// Runs the scenarios whose name holds the filter. A failed one is shown at once and the others go on.
pub(crate) fn run(filter: &str) -> Result<Totals> {
    let mut lanes = lanes();
    for suite in lanes.iter_mut().flatten() {
        suite.scenarios.retain(|(name, _)| format!("{}::{name}", suite.name).contains(filter));
    }
    for lane in &mut lanes {
        lane.retain(|suite| !suite.scenarios.is_empty());
    }
    if lanes.iter().all(Vec::is_empty) && !KINDS.contains(filter) {
        return Ok(Totals::default());
    }
    let archives = image::build()?;
    if lanes.iter().flatten().flat_map(|suite| &suite.scenarios).any(|(name, _)| name.starts_with(kuttl::PREFIX)) {
        kuttl::build()?;
    }
    let totals = Mutex::new(Totals::default());
    if KINDS.contains(filter) {
        judge(KINDS, &totals, kinds);
    }
    std::thread::scope(|scope| {
        let running: Vec<_> = lanes.iter().map(|lane| scope.spawn(|| run_lane(lane, &archives, &totals))).collect();
        let done: Vec<Result<()>> =
            running.into_iter().map(|l| l.join().unwrap_or_else(|_| bail!("a lane ended early"))).collect();
        done.into_iter().collect::<Result<()>>()
    })?;
    Ok(totals.into_inner().unwrap_or_else(PoisonError::into_inner))
}

const KINDS: &str = "crds::api_server_serves_all_kinds_and_refuses_what_is_wrong";

/// A test of the kinds' own crate, which needs an API server and its store but no cluster around them.
fn kinds() -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--quiet"]).args(workspace::tests(&["api_server"])).args(["--", "--ignored"]);
    let said = output(cargo.env("AXONEME_CLUSTER_BIN", go::binaries()?))?;
    ensure!(said.contains("1 passed"), "no test was run: {said}");
    Ok(())
}

fn run_lane(lane: &[Suite], archives: &[PathBuf], totals: &Mutex<Totals>) -> Result<()> {
    lane.iter().try_for_each(|suite| run_suite(suite, archives, totals))
}

fn run_suite(suite: &Suite, archives: &[PathBuf], totals: &Mutex<Totals>) -> Result<()> {
    let name = format!("test-{}", suite.name);
    // what an interrupted run has left
    if let Ok(old) = Cluster::open(&name) {
        old.down()?;
    }
    let lab = Lab::bare(&name, 2, suite.family, archives)?;
    let before = upgrade::before(&lab)?;
    let mut good = true;
    let installer = if suite.removal == Removal::CommandLine { Installer::CommandLine } else { Installer::Kubectl };
    let done = lab.networked(installer, suite.routing, suite.ipam).and_then(|()| Fixture::make(&lab)).map(|fixture| {
        for (scenario, check) in &suite.scenarios {
            good &= judge(&format!("{}::{scenario}", suite.name), totals, || check(&lab, &fixture));
        }
    });
    if done.is_err() || !good {
        say(lab.diagnosis());
    } else {
        let uninstalled = || upgrade::uninstalled(&lab, &before, suite.removal);
        judge(&format!("{}::uninstall_leaves_nothing_on_the_nodes", suite.name), totals, uninstalled);
    }
    let down = lab.down();
    done?;
    judge(&format!("{}::nothing_is_left_behind", suite.name), totals, || down);
    Ok(())
}

/// Runs one scenario, says how it went, and whether it went well.
fn judge(name: &str, totals: &Mutex<Totals>, check: impl FnOnce() -> Result<()>) -> bool {
    let began = Instant::now();
    let done = check();
    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
    match &done {
        Ok(()) => {
            totals.passed += 1;
            println!("test {name} ... ok ({})", seconds(began.elapsed()));
        }
        Err(e) => {
            println!("test {name} ... FAILED ({})\n    {e:#}", seconds(began.elapsed()));
            totals.failed.push((name.to_owned(), format!("{e:#}")));
        }
    }
    done.is_ok()
}
