//! How long a policy change takes to become a change set, in a large cluster.
//!
//! `cargo run --release -p axoneme-compile --example compile_scale [policies] [identities] [changes]`
//! prints one JSON object a line. All of the work is done in one thread.

mod cluster;

use std::time::{Duration, Instant};

use axoneme_compile::{Compiler, Event};
use cluster::{Size, policy, print, upsert};

fn main() {
    let arguments: Vec<u32> = std::env::args().skip(1).map(|a| a.parse().expect("a number")).collect();
    let argument = |i: usize, default: u32| arguments.get(i).copied().unwrap_or(default);
    let size = Size::new(argument(0, 10_000), argument(1, 65_000));
    let (Size { policies, namespaces, .. }, changes) = (size, argument(2, 2_000));

    let start = Instant::now();
    let (mut compiler, _) = size.compile();
    let compiled = start.elapsed();
    let resident = resident_mib();
    let rows = compiler.compiled().rows;
    let entries: usize = rows.tables.values().map(|t| t.entries.len()).sum();
    eprintln!(
        "{policies} policies, {} identities, {} tables with {entries} entries, {} prefixes",
        rows.identities.len(),
        rows.tables.len(),
        rows.ips.len(),
    );
    drop(rows);
    print("compile from nothing", "ms", milliseconds(compiled), "one run");
    print("compiler resident memory", "MiB", resident, "one run");

    let mut edit = Samples::default();
    let mut add = Samples::default();
    let mut remove = Samples::default();
    for i in 0..changes {
        let which = i.wrapping_mul(7919) % policies;
        edit.measure(&mut compiler, upsert(&policy(which, namespaces, 1 + i)));
        let object = policy(which, namespaces, 0).object;
        remove.measure(&mut compiler, Event::Policy(object, None));
        add.measure(&mut compiler, upsert(&policy(which, namespaces, 1 + i)));
    }
    edit.report("policy edit to change set");
    remove.report("policy removal to change set");
    add.report("policy creation to change set");
}

#[derive(Default)]
struct Samples {
    times: Vec<Duration>,
    empty: usize,
}

impl Samples {
    fn measure(&mut self, compiler: &mut Compiler, event: Event) {
        let start = Instant::now();
        let changes = compiler.apply([event]);
        self.times.push(start.elapsed());
        self.empty += usize::from(changes.is_empty());
    }

    fn report(mut self, name: &str) {
        self.times.sort_unstable();
        let at = |share: usize| self.times.get(self.times.len() * share / 100).copied().unwrap_or_default();
        let (min, max) = (milliseconds(at(0)), milliseconds(self.times.last().copied().unwrap_or_default()));
        let spread = format!("n={} min={min:.3} max={max:.3} without effect={}", self.times.len(), self.empty);
        print(&format!("{name} p50"), "ms", milliseconds(at(50)), &spread);
        print(&format!("{name} p99"), "ms", milliseconds(at(99)), &spread);
    }
}

fn milliseconds(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib = line.split_whitespace().next().and_then(|n| n.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}
