//! Another MTU for pods that run, under a stream of packets.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;
mod rig;

use std::process::{Child, Command as Process, Stdio};

use axoneme_wire::{Row, RowChange};
use rig::*;

/// A packet each 2 ms, and their loss at the end.
struct Packets(Child);

impl Packets {
    fn start(rig: &Rig, to: &str) -> Self {
        let child = Process::new("ip")
            .args(["netns", "exec", &rig.pod(0), "ping", "-q", "-i", "0.002", "-s", "1200", "-w", "60", to])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn lost(self) -> (u32, u32) {
        sh(&format!("kill -INT {}", self.0.id()));
        let said = String::from_utf8(self.0.wait_with_output().unwrap().stdout).unwrap();
        let line = said.lines().find(|l| l.contains("packets transmitted")).unwrap();
        let mut numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
        let (sent, received) = (numbers.next().unwrap(), numbers.next().unwrap());
        // the last one may be under way
        (sent, (sent - received).saturating_sub(1))
    }
}

/// Device's and default route's MTU in a pod; a route without one has that of its device.
fn mtus(rig: &Rig, pod: usize) -> (u32, u32) {
    let after = |text: &str| -> Option<u32> {
        let (_, rest) = text.split_once(" mtu ")?;
        rest.trim_start_matches("lock ").split_whitespace().next()?.parse().ok()
    };
    let device = after(&sh(&format!("ip -n {} link show eth0", rig.pod(pod)))).unwrap();
    let route = after(&sh(&format!("ip -n {} route show default", rig.pod(pod)))).unwrap_or(device);
    (device, route)
}

/// Whether a packet of so many bytes leaves the pod whole and is answered.
fn fits(rig: &Rig, bytes: u32) -> bool {
    let size = bytes - 28;
    try_sh(&format!("ip netns exec {} ping -M do -c 1 -W 1 -s {size} 10.0.1.3", rig.pod(0))).is_ok()
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn pods_that_run_get_another_mtu_without_losing_a_packet() {
    let mut rig = Rig::new();
    let set = allowing(300..301);
    let operator = Operator::start(&rig.node(), &set);
    rig.start();
    rig.until("the plugin is installed", |r| r.path("net.d/05-axoneme.conflist").exists());
    for (pod, uid) in [(0, "a"), (1, "b")] {
        assert!(rig.call("ADD", pod, uid).0);
    }
    assert_eq!(mtus(&rig, 0), (1450, 1450));
    let (packets, begun) = (Packets::start(&rig, "10.0.1.3"), std::time::Instant::now());
    // configured: smaller, larger than the devices are, as the underlay has it
    for (configured, device, route) in [(1300, 1450, 1300), (1490, 1490, 1490), (0, 1490, 1450), (1250, 1490, 1250)] {
        let mut config = set.config.clone().unwrap();
        config.mtu = configured;
        operator.publish.blocking_send(vec![RowChange::Upsert(Row::Config(config.into()))]).unwrap();
        let what = format!("both pods have MTU {route}");
        rig.until(&what, |r| (0..2).all(|pod| mtus(r, pod) == (device, route)));
        assert!(fits(&rig, route) && !fits(&rig, route + 1), "{route}");
    }
    // the underlay: first back to what it gives
    let config = set.config.clone().unwrap();
    operator.publish.blocking_send(vec![RowChange::Upsert(Row::Config(config.into()))]).unwrap();
    rig.until("as the underlay has it", |r| mtus(r, 0).1 == 1450);
    sh(&format!("ip -n {} link set up0 mtu 1400", rig.node()));
    rig.until("the underlay's change is seen", |r| (0..2).all(|pod| mtus(r, pod) == (1490, 1350)));
    let (sent, lost) = packets.lost();
    println!("{sent} packets, {lost} lost, in six changes of {:?}", begun.elapsed());
    assert!(sent > 2000, "{sent} packets are no stream");
    assert_eq!(lost, 0, "of {sent}");
    let warnings = rig.admin("/status")["warnings"].to_string();
    assert!(!warnings.contains("keeps MTU"), "{warnings}");
}
