//! Counters of the programs, summed over CPUs.

use axoneme_abi::{
    DropReason,
    event::{LOST_DROPS, LOST_FLOWS, METRIC_ALLOWED},
};

use super::datapath::BpfDatapath;
use crate::datapath::{Direction, Result};

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metric {
    pub packets: u64,
    pub bytes: u64,
}

/// All counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Drops by reason and direction; only those that happened.
    pub drops: Vec<(DropReason, Direction, Metric)>,
    /// Connections that were recorded, seen from a pod and towards a pod.
    pub connections_out: u64,
    pub connections_in: u64,
    /// Records that found their ring full.
    pub lost_drops: u64,
    pub lost_flows: u64,
    /// Capacity of the connection maps.
    pub conntrack_capacity: [u32; 2],
}

/// CPUs that per-CPU maps have room for: the highest possible one, as the kernel lists them ("0-3", "0-3,8").
fn possible_cpus() -> Result<usize> {
    let path = "/sys/devices/system/cpu/possible";
    let text = std::fs::read_to_string(path).map_err(|e| super::system::io_error(format!("read {path}"), e))?;
    let last = text.trim().rsplit(['-', ',']).next().and_then(|n| n.parse::<usize>().ok());
    Ok(last.unwrap_or(0) + 1)
}

impl BpfDatapath {
    /// Reads the counters.
    pub fn metrics(&self) -> Result<Metrics> {
        let cpus = possible_cpus()?;
        let sum = |index: u32| -> Result<Metric> {
            let parts = self.maps.metric.get_per_cpu(&index, cpus)?;
            Ok(parts
                .iter()
                .fold(Metric::default(), |m, p| Metric { packets: m.packets + p.packets, bytes: m.bytes + p.bytes }))
        };
        let mut metrics = Metrics {
            connections_in: sum(METRIC_ALLOWED * 2)?.packets,
            connections_out: sum(METRIC_ALLOWED * 2 + 1)?.packets,
            lost_drops: self.maps.lost.get_per_cpu(&LOST_DROPS, cpus)?.iter().sum(),
            lost_flows: self.maps.lost.get_per_cpu(&LOST_FLOWS, cpus)?.iter().sum(),
            conntrack_capacity: [self.maps.ct4.capacity(), self.maps.ct6.capacity()],
            ..Metrics::default()
        };
        for reason in DropReason::ALL {
            for (number, direction) in [(0, Direction::Ingress), (1, Direction::Egress)] {
                let m = sum(*reason as u32 * 2 + number)?;
                if m.packets != 0 {
                    metrics.drops.push((*reason, direction, m));
                }
            }
        }
        Ok(metrics)
    }
}
