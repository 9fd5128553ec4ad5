//! `cargo xtask test [rung] [filter]`: the ladder of tests, cheapest first.
//!
//! | rung | what | where |
//! |---|---|---|
//! | check | format, lints, architecture, generated files | `check` |
//! | unit | everything that needs no root | `cargo test --workspace` |
//! | bpf | the compiled programs, by `BPF_PROG_TEST_RUN` | `tests/root_bpf_*.rs` |
//! | netns | real links in network namespaces | the other `tests/root_*.rs`, and the demo without a cluster |
//! | vm | the packet path on other kernels | `tests/root_vm_*.rs`, in QEMU |
//! | cluster | real Kubernetes clusters | `testbed`, and the product's own tests on it |
//!
//! `kuttl` stands for the cases of `kuttl-tests/`, which are a part of the rung cluster.
//!
//! A test that needs root lies in a file `tests/root_*.rs` and is `#[ignore = "needs root: ..."]`.

mod libtest;
mod testbed;
mod vm;

use anyhow::{Result, bail};
use clap::ValueEnum;

use self::libtest::Selection;
use crate::demo::standalone;
use crate::report::Report;
use crate::setup::{self, Part};
use crate::{check, cluster_tests, workspace};

/// A step of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rung {
    /// Format, lints, dependency direction, generated files.
    Check,
    /// Tests that need nothing.
    Unit,
    /// The compiled BPF programs.
    Bpf,
    /// Network namespaces with real links.
    Netns,
    /// Other kernels, in virtual machines.
    Vm,
    /// Local Kubernetes clusters.
    Cluster,
}

impl Rung {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What to set up first. The cluster's images hold the product, so that rung builds, too.
    fn needs(self) -> &'static [Part] {
        match self {
            Rung::Check => &[Part::Check],
            Rung::Cluster => &[Part::Build, Part::Cluster],
            Rung::Vm => &[Part::Build, Part::Vm],
            Rung::Unit | Rung::Bpf | Rung::Netns => &[Part::Build],
        }
    }

    fn run(self, report: &mut Report, filter: Option<&str>) -> Result<()> {
        match self {
            Rung::Check => check::run(report),
            Rung::Unit => unit(report, filter),
            Rung::Bpf => root_tests(report, filter, "bpf", &|_, file| file.starts_with("root_bpf")),
            Rung::Netns => netns(report, filter),
            Rung::Vm => vm::run(report, filter),
            Rung::Cluster => cluster(report, filter),
        }
    }
}

/// Runs the named rung, or with another word all rungs but `check` with that filter on test names, or everything. A
/// second word filters the names of one rung's tests.
pub(crate) fn run(word: Option<&str>, second: Option<&str>) -> Result<()> {
    let cases = format!("kuttl::{}", second.unwrap_or_default());
    let (word, second) = if word == Some("kuttl") { (Some("cluster"), Some(cases.as_str())) } else { (word, second) };
    let rung = word.and_then(|word| Rung::from_str(word, true).ok());
    if let (None, Some(word), Some(_)) = (rung, word, second) {
        let names: Vec<String> = Rung::value_variants().iter().map(|rung| rung.name()).collect();
        bail!("there is no rung {word:?}: choose one of {}, or give only a filter", names.join(", "));
    }
    let filter = if rung.is_some() { second } else { word };
    let mut rungs: Vec<Rung> = rung.map_or_else(|| Rung::value_variants().to_vec(), |rung| vec![rung]);
    rungs.retain(|of| rung.is_some() || filter.is_none() || *of != Rung::Check);
    let mut report = Report::default();
    report.phase("setup", |_| {
        let mut known: Vec<Part> = Vec::new();
        for part in rungs.iter().flat_map(|rung| rung.needs()).copied() {
            if !known.contains(&part) {
                known.push(part);
                setup::run_quietly(part)?;
            }
        }
        Ok(())
    });
    for rung in rungs {
        report.phase(&rung.name(), |report| rung.run(report, filter));
    }
    if report.close() { Ok(()) } else { bail!("some tests failed") }
}

/// The datapath's tests, and beside them those of processes that run on it: much of both is waiting, and their namespaces
/// are their own.
fn netns(report: &mut Report, filter: Option<&str>) -> Result<()> {
    let datapath = |package: &str| package == "axoneme-kernel";
    let linked = |file: &str| !file.starts_with("root_bpf") && !file.starts_with("root_vm");
    let mut processes = Report::default();
    let done = std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let report = &mut processes;
            let done = root_tests(report, filter, "netns", &|package, file| !datapath(package) && linked(file));
            report.cases(filter, standalone::CASES);
            done.and_then(|()| stock_clients(report, filter))
        });
        let done = root_tests(report, filter, "netns", &|package, file| datapath(package) && linked(file));
        done.and(beside.join().unwrap_or_else(|_| bail!("a lane of tests ended early")))
    });
    report.add(processes);
    done
}

/// The local cluster's own promises beside the product's scenarios: most of both is waiting.
fn cluster(report: &mut Report, filter: Option<&str>) -> Result<()> {
    let mut testbed = Report::default();
    let done = std::thread::scope(|scope| {
        scope.spawn(|| testbed.cases(filter, testbed::CASES));
        scenarios(report, filter.unwrap_or_default())
    });
    report.add(testbed);
    done
}

/// The product's scenarios, which say by themselves how each went.
fn scenarios(report: &mut Report, filter: &str) -> Result<()> {
    let totals = cluster_tests::run(filter)?;
    report.pass(totals.passed);
    totals.failed.iter().for_each(|(name, why)| report.fail(name, why));
    Ok(())
}

fn unit(report: &mut Report, filter: Option<&str>) -> Result<()> {
    let mut selection = Selection { cargo: vec!["--workspace".to_owned()], ..Selection::default() };
    selection.programs.extend(filter.map(str::to_owned));
    libtest::run(report, "unit", &selection)
}

/// The tests that need root, of the packages' files that `belongs` picks.
fn root_tests(
    report: &mut Report,
    filter: Option<&str>,
    rung: &str,
    belongs: &dyn Fn(&str, &str) -> bool,
) -> Result<()> {
    let packages = workspace::packages()?;
    let files = packages.iter().flat_map(|package| package.targets("test").map(|file| (package.name.as_str(), file)));
    let chosen = files.filter(|(package, file)| file.starts_with("root_") && belongs(package, file));
    let files: Vec<&str> = chosen.map(|(_, file)| file).collect();
    if files.is_empty() {
        report.skip(rung, "no test of this rung exists yet");
        return Ok(());
    }
    let mut selection = Selection { cargo: workspace::tests(&files), ..Selection::default() };
    if !nix::unistd::geteuid().is_root() {
        bail!("these tests need root: run `cargo xtask test {rung}` as root");
    }
    // The BPF object, and the binaries that the agent's tests start.
    workspace::build_binaries()?;
    // One at a time: many of them count what is lost while the machine is busy with nothing else of theirs.
    selection.programs = vec!["--ignored".to_owned(), "--test-threads=1".to_owned()];
    selection.programs.extend(filter.map(str::to_owned));
    // the reason of a failure is told with the other tests that ask by the client
    if rung == "netns" {
        match setup::hubble::client() {
            Ok(client) => selection.hubble_client = Some(client),
            Err(_) => selection.programs.extend(["--skip".to_owned(), STOCK_CLIENT.to_owned()]),
        }
    }
    libtest::run(report, rung, &selection)
}

/// Tests that ask as a user would, by a client of another project, have this in their names.
const STOCK_CLIENT: &str = "stock_hubble_client";

/// The flow servers before the stock Hubble client. Without its modules they, and the agent's test with the same client
/// in the rung netns, are a skip.
fn stock_clients(report: &mut Report, filter: Option<&str>) -> Result<()> {
    let client = match setup::hubble::client() {
        Ok(client) => client,
        Err(why) => {
            let why = format!("{why:#}");
            let last = why.lines().last().unwrap_or_default();
            report.skip(STOCK_CLIENT, &format!("no client: name one in AXONEME_HUBBLE_CLIENT; {last}"));
            return Ok(());
        }
    };
    let cargo = workspace::tests(&["stock_client", "recorded"]);
    let programs = std::iter::once("--ignored").chain(filter).map(str::to_owned).collect();
    libtest::run(report, STOCK_CLIENT, &Selection { cargo, programs, hubble_client: Some(client) })
}
