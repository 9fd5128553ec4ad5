//! How long a change of a policy takes until the last map that packets are judged by has been written, in a large
//! cluster: compiling, cutting out what the subject's node needs, and writing real BPF maps, in one process. No program
//! is loaded by any of this. What no packet is judged by any more is emptied afterwards, outside of the measurement.
//!
//! `cargo run --profile image -p axoneme-kernel --example policy_write [policies] [identities] [changes]` (as root)
//! prints one JSON object a line. Maps and programs are made in a BPF filesystem of its own, which goes with it.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement that cannot go on says why and ends"
)]

#[path = "../../compile/examples/cluster/mod.rs"]
mod cluster;
#[path = "../tests/rig/rows.rs"]
#[allow(unreachable_pub, reason = "shared with the tests")]
mod rows;

use std::{
    collections::HashMap,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use axoneme_compile::{ChangeSet, Compiler, Event, NodeChanges, TablePatch};
use axoneme_kernel::{
    bpf::{BpfDatapath, Loader},
    datapath::{Datapath, DatapathConfig, EndpointEntry},
    grace::GracePeriods,
};
use axoneme_model::rows::TableId;
use cluster::{NODES, Size, address, policy, print, subject, upsert};
use rows::{ip, key, value, whole};

fn main() {
    let arguments: Vec<u32> = std::env::args().skip(1).map(|a| a.parse().expect("a number")).collect();
    let argument = |i: usize, default: u32| arguments.get(i).copied().unwrap_or(default);
    let size = Size::new(argument(0, 10_000), argument(1, 65_000));
    let files = BpfFs::new();
    let (compiler, rows) = size.compile();
    let grace = GracePeriods::open(files.0.with_extension("short")).expect("look at the grace periods of the machine");
    let mut bench =
        Bench { compiler, kernel: open(&files), grace, tables: HashMap::new(), slot: 1, samples: Samples::default() };
    bench.note(&rows);
    drop(rows);
    for i in 0..argument(2, 1_000) {
        let which = i.wrapping_mul(7919) % size.policies;
        let pod = subject(which, size.namespaces);
        let fresh = policy(which, size.namespaces, 1 + i);
        bench.measure(pod, upsert(&fresh));
        bench.measure(pod, Event::Policy(fresh.object.clone(), None));
        bench.measure(pod, upsert(&fresh));
    }
    bench.samples.report(size);
}

struct Bench {
    compiler: Compiler,
    kernel: BpfDatapath,
    grace: GracePeriods,
    /// The table of each pod.
    tables: HashMap<Arc<str>, TableId>,
    /// Where the table of the pod in question is.
    slot: u16,
    samples: Samples,
}

impl Bench {
    /// Changes the policy; what the pod's node has to write is written.
    fn measure(&mut self, pod: u32, event: Event) {
        let (uid, node) = (format!("uid-{pod}"), format!("node-{}", pod % NODES));
        let table = self.tables[uid.as_str()];
        let row = self.compiler.table(table).expect("the pod's table");
        self.kernel.put_table(self.slot, &whole(&row)).expect("put the table as it was");
        self.point(pod);

        let start = Instant::now();
        let changes = self.compiler.apply([event]);
        let compiled = start.elapsed();
        let cut = self.compiler.changes_for(&changes, &node);
        let ready = start.elapsed();
        let before = self.slot;
        let writes = self.write(pod, table, &cut);
        self.samples.add([compiled, ready, start.elapsed()], writes);
        if self.slot != before {
            // nobody is judged by it any more: not a part of the change
            self.kernel.remove_table(before).expect("remove the old table");
        }
        self.note(&changes);
    }

    /// Rows into maps, in the order of [`ChangeSet`].
    fn write(&mut self, pod: u32, table: TableId, changes: &NodeChanges) -> usize {
        let before = self.slot;
        let mut writes = 0;
        for row in changes.tables.values() {
            self.slot = 3 - before;
            self.kernel.put_table(self.slot, &whole(row)).expect("put a new table");
            writes += 1;
        }
        for patch in changes.patches.iter().filter(|p| p.id == table) {
            self.patch(before, patch);
            writes += 1;
        }
        for (prefix, change) in &changes.ips {
            match &change.after {
                Some(row) => self.kernel.stage_ip(*prefix, Some(ip(row))).expect("put a prefix"),
                None => self.kernel.stage_ip(*prefix, None).expect("remove a prefix"),
            }
            writes += 1;
        }
        if self.slot != before {
            writes += 1;
        }
        if self.slot != before || !changes.ips.is_empty() {
            self.point(pod);
        }
        writes
    }

    /// As the agent does: entry by entry, or as a whole where defaults change too.
    fn patch(&self, slot: u16, patch: &TablePatch) {
        if patch.ingress_default.is_some() || patch.egress_default.is_some() {
            let row = self.compiler.table(patch.id).expect("a table that is patched");
            return self.kernel.put_table(slot, &whole(&row)).expect("replace a table");
        }
        let upserts: Vec<_> = patch.upserts.iter().map(|(k, v)| (key(k), value(*v))).collect();
        let removals: Vec<_> = patch.removals.iter().map(key).collect();
        self.kernel.patch_table(slot, &upserts, &removals).expect("patch a table");
    }

    /// The pod is judged by the table in the slot, and no packet by what was before.
    fn point(&self, pod: u32) {
        let entry = EndpointEntry { ifindex: 1, identity: 256 + pod, peer: 256 + pod, slot: self.slot, mac: [0; 6] };
        self.kernel.stage_endpoint(address(pod), Some(entry)).expect("put an endpoint");
        let _short = self.grace.shorten();
        self.kernel.commit().expect("put in force");
    }

    fn note(&mut self, changes: &ChangeSet) {
        for (uid, change) in &changes.endpoints {
            match &change.after {
                Some(row) => drop(self.tables.insert(uid.clone(), row.table)),
                None => drop(self.tables.remove(uid)),
            }
        }
    }
}

#[derive(Default)]
struct Samples {
    compiled: Vec<Duration>,
    written: Vec<Duration>,
    total: Vec<Duration>,
    writes: usize,
    idle: usize,
}

impl Samples {
    /// Times since the change: change set there, cut for the node, written.
    fn add(&mut self, [compiled, ready, total]: [Duration; 3], writes: usize) {
        self.compiled.push(compiled);
        self.written.push(total.saturating_sub(ready));
        self.total.push(total);
        self.writes += writes;
        self.idle += usize::from(writes == 0);
    }

    fn report(self, size: Size) {
        let Size { policies, identities, .. } = size;
        let of = format!("{policies} policies, {identities} identities, map writes={}", self.writes);
        let kinds = [
            ("policy_change_to_last_map_write", self.total),
            ("policy_change_to_change_set", self.compiled),
            ("policy_change_map_writes", self.written),
        ];
        for (name, mut times) in kinds {
            times.sort_unstable();
            let at = |share: usize| times.get(times.len() * share / 100).map_or(f64::NAN, milliseconds);
            let (least, most) = (at(0), times.last().map_or(f64::NAN, milliseconds));
            let spread = format!("n={} min={least:.3} max={most:.3} without effect={}, {of}", times.len(), self.idle);
            print(&format!("{name}_p50"), "ms", at(50), &spread);
            print(&format!("{name}_p99"), "ms", at(99), &spread);
        }
    }
}

fn milliseconds(d: &Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// A BPF filesystem of its own.
struct BpfFs(PathBuf);

impl BpfFs {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("axk-policy-write-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("make a directory");
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&dir).status();
        assert!(mounted.is_ok_and(|s| s.success()), "mount a BPF filesystem: are you root?");
        Self(dir)
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn open(files: &BpfFs) -> BpfDatapath {
    let config = DatapathConfig {
        overlay_ifindex: 1,
        uplink_ifindex: 1,
        native_routing: false,
        direct: false,
        ipv4: true,
        ipv6: true,
        node_addresses: vec![],
        allow_own_host: true,
        answer_denied: false,
        services: true,
        socket_lb: false,
        host_firewall: false,
        conntrack_entries: 65536,
        socket_lb_host_only: false,
        timeouts: axoneme_kernel::datapath::Timeouts::default(),
        pin_dir: files.0.join("axoneme"),
        cgroup: None,
    };
    Loader::open(config).unwrap_or_else(|e| panic!("{e}"))
}
