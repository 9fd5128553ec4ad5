//! What a node has before the product comes, and what it still has after the product went.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::lab::Lab;

/// One thing of a node, as a line of text.
pub(super) type Things = BTreeSet<String>;

/// Files of the product or of its kind: directories are walked, what does not exist is nothing.
const PLACES: &[&str] = &[
    "/etc/cni/net.d",
    "/opt/cni/bin",
    "/run/axoneme",
    "/var/lib/axoneme",
    "/sys/fs/bpf",
    "/run/cilium",
    "/var/run/cilium",
    "/etc/iproute2",
];

/// Commands whose lines are things. Names of the lines' devices count, their numbers and counters do not.
const QUESTIONS: &[(&str, &[&str])] = &[
    ("link", &["ip", "-brief", "link"]),
    ("address", &["ip", "-brief", "address"]),
    ("route", &["ip", "-4", "route", "show", "table", "all"]),
    ("route", &["ip", "-6", "route", "show", "table", "all"]),
    ("rule", &["ip", "-4", "rule"]),
    ("rule", &["ip", "-6", "rule"]),
    ("neighbour", &["ip", "neigh", "show", "nud", "permanent"]),
    ("nft table", &["nft", "list", "tables"]),
    ("qdisc", &["tc", "qdisc", "show"]),
    ("program", &["bpftool", "net", "show"]),
    ("setting", &["sysctl", "--all", "--pattern", "^net\\.(core|ipv4|ipv6)\\."]),
];

/// Everything of a node that a network product may change.
pub(super) fn of(lab: &Lab, node: &str) -> Result<Things> {
    let mut things = Things::new();
    for (what, words) in QUESTIONS {
        // sysctl fails for settings that can't be read, and prints the others
        let done = lab.cluster.command_in(node, words).output()?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        things.extend(text.lines().filter_map(|line| steady(what, line)).map(|line| format!("{what} {line}")));
    }
    for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let done = lab.cluster.command_in(node, &["bpftool", "cgroup", "show", hierarchy]).output()?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        // ID, attach type, flags, name
        let lines = text.lines().skip(1).filter_map(|l| l.split_once(' ')).map(|(_, rest)| rest.trim().to_owned());
        things.extend(lines.map(|line| format!("program of {hierarchy} {line}")));
    }
    for place in PLACES {
        let done = lab.cluster.command_in(node, &["find", place, "-mindepth", "0"]).output()?;
        things.extend(String::from_utf8_lossy(&done.stdout).lines().map(|path| format!("file {path}")));
    }
    Ok(things)
}

/// The line without what changes by itself; none for what belongs to pods, to the kubelet, or to nobody.
fn steady(what: &str, line: &str) -> Option<String> {
    let line = line.trim();
    if line.is_empty() {
        return None;
    }
    Some(match what {
        // name@peer, state, flags
        "link" => line.split(['@', ' ']).next()?.to_owned(),
        "address" if line.starts_with("lo ") => return None,
        // name@peer, whose number is another after a boot
        "address" => {
            let (name, rest) = line.split_once(' ')?;
            format!("{} {}", name.split('@').next()?, rest.trim())
        }
        // kubelet keeps a table for itself, from some time after its start
        "nft table" if line.ends_with(" mangle") || line.ends_with(" filter") || line.ends_with(" nat") => return None,
        "route" => line.split(" expires ").next()?.trim().to_owned(),
        // settings that count or are random
        "setting" if ["fastopen_key", "stable_secret", ".flush", "random"].iter().any(|w| line.contains(w)) => {
            return None;
        }
        // id of the program
        "program" => line.split(" id ").next()?.split(" prog_id ").next()?.to_owned(),
        _ => line.to_owned(),
    })
}

/// What is there after and was not there before, and what was there before and is no more; empty is good.
pub(super) fn changes(before: &Things, after: &Things) -> Vec<String> {
    let more = after.difference(before).map(|t| format!("+ {t}"));
    let less = before.difference(after).map(|t| format!("- {t}"));
    more.chain(less).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_by_itself_is_no_change() {
        assert_eq!(steady("link", "eth0@if7 UP 02:00:00:00:00:01 <UP>"), Some("eth0".into()));
        assert_eq!(steady("address", "eth0@if7  UP  10.0.0.1/24"), Some("eth0 UP  10.0.0.1/24".into()));
        assert_eq!(steady("route", "fe80::/64 dev eth0 expires 12sec"), Some("fe80::/64 dev eth0".into()));
        assert_eq!(steady("nft table", "table ip mangle"), None);
        assert_eq!(steady("nft table", "table inet axoneme"), Some("table inet axoneme".into()));
    }

    #[test]
    fn a_link_that_stays_is_told() {
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Things>();
        assert_eq!(
            changes(&set(&["link eth0", "rule a"]), &set(&["link eth0", "link axn1"])),
            ["+ link axn1", "- rule a"]
        );
    }
}
