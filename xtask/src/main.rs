//! The developer's commands. `cargo xtask --help` lists them; each installs what it lacks.

mod bench;
mod bpf;
mod bundle;
mod check;
mod cluster;
mod cluster_tests;
mod command;
mod demo;
mod image;
mod lab;
mod oci;
mod progress;
mod report;
mod settings;
mod setup;
mod test;
mod vm;
mod workspace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser, Debug)]
#[command(name = "cargo xtask", about = "Build, test and run Axoneme on this machine", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand, Debug)]
enum Task {
    /// Install what is missing: packages, BPF linker, cluster binaries, images.
    Setup {
        #[arg(value_enum, default_value = "all")]
        part: setup::Part,
    },
    /// Compile the BPF programs.
    Bpf,
    /// Build the workspace.
    Build {
        #[arg(long)]
        release: bool,
    },
    /// Write the CRDs' YAML from their types.
    Crds {
        /// Only say where it differs.
        #[arg(long)]
        check: bool,
    },
    /// Write the OLM bundle and catalog from deploy/ and crds/.
    Bundle {
        /// Only say where it differs.
        #[arg(long)]
        check: bool,
    },
    /// Format, lints, dependency direction, file rules, generated files, licences.
    Check,
    /// The test ladder: check, unit, bpf, netns, vm, cluster.
    Test {
        /// A rung, `kuttl` for the cases of kuttl-tests, or a part of test names.
        rung_or_filter: Option<String>,
        /// After a rung: a part of test names.
        filter: Option<String>,
    },
    /// Build the product's images as OCI archives into target/images.
    Image,
    /// Show the main job on a real cluster, or its policy story without one.
    Demo(demo::DemoArgs),
    /// Ours, a floor and a peer, interleaved in one run.
    Bench(bench::BenchArgs),
    /// Run a command on another kernel, in QEMU.
    Vm(vm::VmArgs),
    /// Local Kubernetes clusters.
    Cluster(cluster::cli::ClusterArgs),
    #[command(name = "__component", hide = true)]
    Component {
        cluster: String,
        name: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    #[command(name = "__node", hide = true)]
    Node { cluster: String, node: String },
    #[command(name = "__node-init", hide = true)]
    NodeInit { cluster: String, node: String },
    #[command(name = "__exec", hide = true)]
    Exec {
        cluster: String,
        place: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    #[command(name = "__inside", hide = true)]
    Inside {
        process: i32,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    #[command(name = "__whole", hide = true)]
    Whole,
    #[command(name = "__alone", hide = true)]
    Alone { words: Vec<String> },
    #[command(name = "__alone-init", hide = true)]
    AloneInit { bin: PathBuf, mode: demo::standalone::Mode },
    #[command(name = "__become", hide = true)]
    Become {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup { part } => setup::run(part),
        Task::Bpf => bpf::object(),
        Task::Build { release } => bpf::build(release),
        Task::Crds { check } => bpf::crds(check),
        Task::Bundle { check } => bundle::run(check),
        Task::Check => check_alone(),
        Task::Test { rung_or_filter, filter } => test::run(rung_or_filter.as_deref(), filter.as_deref()),
        Task::Image => images(),
        Task::Bench(args) => bench::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Vm(args) => vm::run(args),
        Task::Cluster(args) => cluster::cli::run(args),
        Task::Component { cluster, name, words } => cluster::launch::component(&cluster, &name, &words),
        Task::Node { cluster, node } => cluster::launch::node(&cluster, &node),
        Task::NodeInit { cluster, node } => cluster::launch::init(&cluster, &node),
        Task::Exec { cluster, place, words } => cluster::launch::exec(&cluster, &place, &words),
        Task::Inside { process, words } => cluster::launch::inside(process, &words),
        Task::Whole => vm::whole(),
        Task::Alone { words } => demo::enter(&words),
        Task::AloneInit { bin, mode } => demo::standalone::init(&bin, mode),
        Task::Become { words } => cluster::launch::become_command(&words),
    }
}

fn images() -> Result<()> {
    setup::run_quietly(setup::Part::Build)?;
    for archive in image::build()? {
        println!("{}", archive.display());
    }
    Ok(())
}

fn check_alone() -> Result<()> {
    setup::run_quietly(setup::Part::Check)?;
    let mut report = report::Report::default();
    report.phase("check", check::run);
    if report.close() { Ok(()) } else { anyhow::bail!("some checks failed") }
}

fn main() -> ExitCode {
    let mut words = std::env::args();
    let own = words.next().unwrap_or_default();
    let done = if Path::new(&own).file_name().is_some_and(|name| name == "runc") {
        cluster::runc::run(Path::new(&own), &words.collect::<Vec<_>>())
    } else {
        run(Cli::parse().task)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
