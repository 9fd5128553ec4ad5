//! How long a policy change takes to become a change set, in a large cluster.
//!
//! `cargo run --release -p axoneme-compile --example compile_scale [policies] [identities] [changes]`
//! prints one JSON object a line. All of the work is done in one thread.

mod cluster;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use axoneme_compile::{Compiler, Event, TableChange};
use cluster::{Size, kind, policy, print, upsert};

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

    let mut kinds: BTreeMap<&str, [Samples; 3]> = BTreeMap::new();
    let mut edit = Samples::default();
    let mut add = Samples::default();
    let mut remove = Samples::default();
    for i in 0..changes {
        let which = i.wrapping_mul(7919) % policies;
        edit.measure(&mut compiler, upsert(&policy(which, namespaces, 1 + i)));
        let object = policy(which, namespaces, 0).object;
        remove.measure(&mut compiler, Event::Policy(object, None));
        add.measure(&mut compiler, upsert(&policy(which, namespaces, 1 + i)));
        let of_kind = kinds.entry(kind(which)).or_default();
        of_kind.iter_mut().zip([&edit, &remove, &add]).for_each(|(mine, all)| mine.take_last(all));
    }
    // what the tails are made of
    for (kind, of_kind) in &mut kinds {
        for (what, samples) in ["edit", "removal", "creation"].into_iter().zip(of_kind) {
            eprintln!("{kind:<24} {what:<9} {}", samples.describe());
        }
    }
    edit.report("policy edit to change set");
    remove.report("policy removal to change set");
    add.report("policy creation to change set");
}

#[derive(Default)]
struct Samples {
    times: Vec<Duration>,
    /// Entries that one table, the one that changed most, was patched with; and patched and new tables.
    patched: Vec<usize>,
    tables: Vec<usize>,
    empty: usize,
}

impl Samples {
    fn measure(&mut self, compiler: &mut Compiler, event: Event) {
        let start = Instant::now();
        let changes = compiler.apply([event]);
        self.times.push(start.elapsed());
        self.empty += usize::from(changes.is_empty());
        let size = |t: &TableChange| match t {
            TableChange::Patch(p) => p.upserts.len() + p.removals.len(),
            TableChange::New | TableChange::Removed => 0,
        };
        self.patched.push(changes.tables.values().map(size).max().unwrap_or(0));
        self.tables.push(changes.tables.len());
    }

    fn take_last(&mut self, of: &Self) {
        self.times.extend(of.times.last());
        self.patched.extend(of.patched.last());
        self.tables.extend(of.tables.last());
    }

    fn describe(&mut self) -> String {
        self.times.sort_unstable();
        self.patched.sort_unstable();
        self.tables.sort_unstable();
        let n = self.times.len();
        let time = |share: usize| milliseconds(self.times.get(n * share / 100).copied().unwrap_or_default());
        let count = |of: &[usize], share: usize| of.get(n * share / 100).copied().unwrap_or(0);
        format!(
            "n={n} p50={:.3} p90={:.3} p99={:.3} ms, tables p50={} p99={}, entries patched in one table p50={} p99={}",
            time(50),
            time(90),
            time(99),
            count(&self.tables, 50),
            count(&self.tables, 99),
            count(&self.patched, 50),
            count(&self.patched, 99),
        )
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
