//! Every program loads, and stays within the budget of `bpf/budget.toml`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::large_stack_arrays,
    clippy::too_many_lines,
    clippy::many_single_char_names,
    clippy::missing_errors_doc,
    reason = "a test fails by panicking, and reads best in one piece"
)]

mod rig;

use std::{collections::BTreeMap, fmt::Write};

use rig::{Namespace, Node, Options};

const BUDGET: &str = include_str!("../../../bpf/budget.toml");

/// `name = [instructions, bytes]` lines.
fn budget() -> BTreeMap<String, (u32, u32)> {
    let lines = BUDGET.lines().filter(|l| !l.starts_with('#') && l.contains('='));
    lines
        .map(|l| {
            let (name, numbers) = l.split_once('=').unwrap();
            let list: Vec<u32> = numbers
                .trim()
                .trim_matches(['[', ']'])
                .split(',')
                .map(|n| n.trim().replace('_', "").parse().unwrap())
                .collect();
            (name.trim().to_owned(), (list[0], list[1]))
        })
        .collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test bpf"]
fn programs_stay_within_their_budget() {
    let cgroup = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .map(std::path::PathBuf::from)
        .into_iter()
        .find(|r| r.join("cgroup.controllers").exists())
        .expect("a cgroup v2 hierarchy")
        .join(format!("axk-budget-{}", std::process::id()));
    std::fs::create_dir_all(&cgroup).unwrap();
    let options = Options {
        services: true,
        socket_lb: true,
        host_firewall: true,
        answer_denied: true,
        cgroup: Some(cgroup.clone()),
        ..Options::default()
    };
    let node = Node::with(Namespace::new("budget"), 1, &options);
    let costs = node.datapath.budget().to_vec();
    drop(node);
    let removed = std::fs::remove_dir(&cgroup);
    let allowed = budget();
    let mut table = String::new();
    let mut over = Vec::new();
    for c in &costs {
        writeln!(table, "{} = [{}, {}]", c.program, c.verified_instructions, c.translated_bytes).unwrap();
        match allowed.get(&c.program) {
            None => over.push(format!("{} has no budget", c.program)),
            Some((i, b)) if c.verified_instructions > *i || c.translated_bytes > *b => {
                over.push(format!("{}: budget {i} instructions, {b} bytes", c.program));
            }
            Some(_) => {}
        }
    }
    println!("{table}");
    assert!(over.is_empty(), "{over:?}\nmeasured:\n{table}");
    assert_eq!(costs.len(), allowed.len(), "a budget without program");
    removed.unwrap();
}
