//! Limits of pods' traffic: queues around their links, see `bpf/programs/src/queue.rs`.
//!
//! *To a pod*: the queue is that of its link's host side. Packets to pods usually go past all queues; those to a pod with a
//! limit carry a flag in their connection, which comes from the pod's endpoints.
//!
//! *From a pod*: a pair of links of its own, whose near end has the queue.
//!
//! The map of queues is written before anything is made and cleared after everything is gone: who starts anew finds by it
//! what was left half made. A rate is changed in place: what waits goes on waiting, by the new rate.

use std::{collections::BTreeMap, io, path::PathBuf};

use axoneme_abi::tables::{Endpoint, IP_QUEUED, Queue};

use super::{
    addresses::{bytes, halves},
    clsact::{call, header},
    datapath::BpfDatapath,
    links,
    queue::{self, Bucket, SET_LINK, Shaped, UP, link_header, named, pair, without_address},
    system::{self, io_error},
};
use crate::{
    datapath::{Limit, Result},
    net::LINK_PREFIX,
};

/// Bytes that may pass at once at least: a packet of the largest kind (64 KiB, with the headers of all of its segments)
/// passes whole.
const BURST: u64 = 80 * 1024;
/// And at most.
const BURST_MOST: u64 = 4 << 20;
/// Bursts of so long pass at once: timers are late.
const BURST_TIME: u64 = 100;
/// Parts of a second that packets wait at most, beside a burst.
const WAIT: u64 = 20;

const fn bucket(rate: u64) -> Bucket {
    let share = rate / BURST_TIME;
    let burst = if share < BURST {
        BURST
    } else if share > BURST_MOST {
        BURST_MOST
    } else {
        share
    };
    let waiting = burst + rate / WAIT;
    let limit = if waiting > u32::MAX as u64 { u32::MAX } else { waiting as u32 };
    Bucket { rate, burst: burst as u32, limit, overhead: 0 }
}

/// Both ends of the pair that takes what a pod sends: three letters, two more, and the largest index fit a name.
fn names(ifindex: u32) -> [String; 2] {
    [format!("{LINK_PREFIX}q{ifindex}"), format!("{LINK_PREFIX}r{ifindex}")]
}

impl BpfDatapath {
    fn queue(&self, ifindex: u32) -> Result<Option<Queue>> {
        self.maps.queues.get(&ifindex)
    }

    /// Flags of the endpoints behind a link.
    pub(super) fn endpoint_flags(&self, ifindex: u32) -> Result<u16> {
        Ok(self.queue(ifindex)?.map_or(0, |q| q.flags & IP_QUEUED))
    }

    fn pin_to_queue(&self, ifindex: u32) -> PathBuf {
        links::pin_of(&self.config.pin_dir, ifindex, links::TO_QUEUE)
    }

    /// What is in force. Half made ones are shown without what they lack.
    pub(super) fn list_limits(&self) -> Result<Vec<(u32, Limit)>> {
        let mut queues: BTreeMap<u32, Queue> =
            self.maps.queues.elements()?.into_iter().filter(|(_, q)| is_of_pod(q)).collect();
        // a program that another version's map belongs to
        for ifindex in self.with_program(links::TO_QUEUE)? {
            queues.entry(ifindex).or_default();
        }
        let shaped = if queues.is_empty() { BTreeMap::new() } else { shaped()? };
        let rate = |of: u32, there: bool| shaped.get(&of).filter(|_| there).map_or(0, |s| s.rate);
        let limit = |(ifindex, q): (u32, Queue)| {
            let ingress = rate(ifindex, q.flags & IP_QUEUED != 0);
            let egress = rate(q.to, self.pin_to_queue(ifindex).exists());
            (ifindex, Limit { mac: bytes(q.mac), ingress, egress })
        };
        Ok(queues.into_iter().map(limit).collect())
    }

    /// Packets that found the queues full, to each pod and from it.
    pub(super) fn list_limit_drops(&self) -> Result<Vec<(u32, [u32; 2])>> {
        let queues = self.maps.queues.elements()?;
        let shaped = if queues.is_empty() { BTreeMap::new() } else { shaped()? };
        let drops = |of: u32| shaped.get(&of).map_or(0, |s| s.drops);
        let of_pods = queues.into_iter().filter(|(_, q)| is_of_pod(q));
        Ok(of_pods.map(|(ifindex, q)| (ifindex, [drops(ifindex), drops(q.to)])).collect())
    }

    pub(super) fn put_limit(&self, ifindex: u32, limit: &Limit) -> Result<()> {
        let before = self.queue(ifindex)?.unwrap_or_default();
        let mut now = Queue { mac: halves(limit.mac), ..before };
        if !is_of_pod(&now) {
            let why = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(io_error(format!("limit interface {ifindex} without its pod's link-layer address"), why));
        }
        if now != before {
            self.maps.queues.put(&ifindex, &now)?;
        }
        if limit.ingress == 0 {
            self.stop_queueing_to(ifindex, &mut now)?;
        } else {
            self.queue_to(ifindex, limit.ingress, &mut now)?;
        }
        if limit.egress == 0 {
            return self.stop_queueing_from(ifindex, &mut now);
        }
        self.queue_from(ifindex, limit.egress, &mut now)
    }

    fn queue_to(&self, ifindex: u32, rate: u64, now: &mut Queue) -> Result<()> {
        let failed = |e| io_error(format!("limit what goes to the pod of interface {ifindex}"), e);
        call(&queue::shape(ifindex, &bucket(rate))).map_err(failed)?;
        if now.flags & IP_QUEUED == 0 {
            now.flags |= IP_QUEUED;
            self.maps.queues.put(&ifindex, now)?;
        }
        self.change_endpoint_flags(ifindex, IP_QUEUED)
    }

    fn queue_from(&self, ifindex: u32, rate: u64, now: &mut Queue) -> Result<()> {
        let failed = |e| io_error(format!("limit what the pod of interface {ifindex} sends"), e);
        let [near, _] = names(ifindex);
        let whole = self.pin_to_queue(ifindex).exists() && queue::index(&near).is_ok_and(|near| near == now.to);
        if whole {
            return call(&queue::shape(now.to, &bucket(rate))).map_err(failed);
        }
        self.forget_far_ends(ifindex)?;
        let [near, far] = build(ifindex, &bucket(rate)).map_err(failed)?;
        self.maps.queues.put(&far, &Queue { to: ifindex, ..Queue::default() })?;
        self.attach_queue(links::FROM_QUEUE, far)?;
        // the far end first: an end that comes up without its peer drops packets until the kernel has noticed that it came
        for end in [far, near] {
            call(&header(SET_LINK, 0, &link_header(end, UP))).map_err(failed)?;
        }
        now.to = near;
        self.maps.queues.put(&ifindex, now)?;
        self.attach_queue(links::TO_QUEUE, ifindex)
    }

    pub(super) fn remove_limit(&self, ifindex: u32) -> Result<()> {
        let mut now = self.queue(ifindex)?.unwrap_or_default();
        self.stop_queueing_to(ifindex, &mut now)?;
        self.stop_queueing_from(ifindex, &mut now)?;
        self.maps.queues.remove(&ifindex).map(drop)
    }

    /// First no packet is sent to the queue any more, then it goes, with what waits in it: to wait until it is empty would
    /// take as long as the rate says.
    fn stop_queueing_to(&self, ifindex: u32, now: &mut Queue) -> Result<()> {
        if now.flags & IP_QUEUED == 0 {
            return Ok(());
        }
        self.change_endpoint_flags(ifindex, 0)?;
        system::wait_for_programs();
        queue::unshape(ifindex).map_err(|e| io_error(format!("take the queue off interface {ifindex}"), e))?;
        now.flags &= !IP_QUEUED;
        self.maps.queues.put(&ifindex, now)
    }

    /// As above.
    fn stop_queueing_from(&self, ifindex: u32, now: &mut Queue) -> Result<()> {
        let [near, _] = names(ifindex);
        self.detach_queue(links::TO_QUEUE, ifindex)?;
        queue::remove_link(&near).map_err(|e| io_error(format!("remove {near}"), e))?;
        self.forget_far_ends(ifindex)?;
        if now.to != 0 {
            now.to = 0;
            self.maps.queues.put(&ifindex, now)?;
        }
        Ok(())
    }

    /// Of pairs that were there, also of those that somebody else removed.
    fn forget_far_ends(&self, ifindex: u32) -> Result<()> {
        let of_link = |(_, q): &(u32, Queue)| !is_of_pod(q) && q.to == ifindex;
        for (far, _) in self.maps.queues.elements()?.into_iter().filter(of_link) {
            self.detach_queue(links::FROM_QUEUE, far)?;
            self.maps.queues.remove(&far)?;
        }
        Ok(())
    }

    /// What is left of queues of a link that is gone.
    pub(super) fn forget_limit(&self, ifindex: u32) -> Result<()> {
        if self.queue(ifindex)?.is_some_and(|q| is_of_pod(&q)) { self.remove_limit(ifindex) } else { Ok(()) }
    }
}

/// Whether it is of a pod's link, not of the far end of a pair.
const fn is_of_pod(q: &Queue) -> bool {
    let [a, b, c] = q.mac;
    a | b | c != 0
}

fn shaped() -> Result<BTreeMap<u32, Shaped>> {
    queue::shaped().map_err(|e| io_error("list the queues of links", e))
}

/// The ends of the pair, made if they are not there, and the near one's queue by the rate.
fn build(ifindex: u32, bucket: &Bucket) -> io::Result<[u32; 2]> {
    let names = names(ifindex);
    match call(&pair(&names)) {
        Err(e) if e.raw_os_error() != Some(libc::EEXIST) => return Err(e),
        _ => {}
    }
    let [near, far] = &names;
    let ends = [queue::index(near)?, queue::index(far)?];
    let [near, _] = ends;
    for end in ends {
        call(&named(end, &format!("axoneme queue of {ifindex}")))?;
        call(&without_address(end))?;
    }
    call(&queue::shape(near, bucket))?;
    Ok(ends)
}

/// Changes flags of an endpoint's raw entry. None: it has them.
pub(super) fn reflag(entry: &Endpoint, ifindex: u32, flags: u16) -> Option<Endpoint> {
    (entry.ifindex == ifindex && entry.flags != flags).then(|| entry.with_flags(flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_has_a_bucket_that_the_largest_packet_fits() {
        // 64 KiB in segments of 1448 bytes, each with 66 bytes of headers
        let largest = 65_536 + 66 * 65_536 / 1448;
        for rate in [125, 125_000, 1_250_000, 125_000_000, 12_500_000_000, 125_000_000_000_000] {
            let b = bucket(rate);
            assert!(b.burst >= largest && b.limit > b.burst, "{b:?}");
        }
        assert_eq!(bucket(2_500_000), Bucket { rate: 2_500_000, burst: 81_920, limit: 206_920, overhead: 0 });
        assert_eq!(bucket(125_000_000), Bucket { rate: 125_000_000, burst: 1_250_000, limit: 7_500_000, overhead: 0 });
    }

    #[test]
    fn names_fit_the_kernel() {
        let [near, far] = names(u32::MAX);
        assert!(near.len() < 16 && far.len() < 16 && near != far);
    }

    #[test]
    fn a_link_layer_address_is_kept() {
        let mac = [2, 1, 0xff, 7, 0, 9];
        assert_eq!(bytes(halves(mac)), mac);
    }
}
