//! The waiting room of fragments that come before their first one: a pair of links whose near end has a queue.
//!
//! ```text
//!   a program: "its first fragment was not seen" ─▶ axn_wait0 ─▶ queue (one packet in half a millisecond)
//!   from_waiting: judge, deliver, or back in  ◀──── axn_wait1 ◀──┘
//! ```
//!
//! Programs cannot keep packets, queues can. The queue is a token bucket (`sch_tbf`): it is in every kernel that the
//! bandwidth plugin of CNI works on, and needs no program to set departure times. Each packet counts for 8000 bytes more
//! than it has, so that short and long ones wait alike: at 16 MB/s one leaves in half a millisecond, and the room costs
//! at most 2000 program runs a second however many wait. The programs count the bytes that wait: what would be too much
//! is dropped by name (`DropReason::WaitingRoomFull`).
//!
//! The pair carries the product's link prefix and alias, by which `uninstall` of the agent finds it. A kernel without the
//! queue has no room: fragments that come before their first one are then dropped and counted.

use std::io;

use axoneme_abi::constants::{CONTROL_ROOM, ROOM_BYTES};

use super::{
    clsact::{call, header},
    datapath::BpfDatapath,
    queue::{self, Bucket, LONGEST, SET_LINK, UP, index, link_header, named, pair, without_address},
    system::io_error,
};
use crate::{
    datapath::Result,
    net::{LINK_PREFIX, Netlink, Network as _},
};

/// Bytes a second, and bytes that each packet counts beside its own.
const RATE: u64 = 16_000_000;
const OVERHEAD: u16 = 8000;
/// Bytes that the queue takes: more than the programs let in, which drop what is too much, with a reason.
const CAPACITY: u32 = ROOM_BYTES * 2;
const BUCKET: Bucket = Bucket { rate: RATE, burst: LONGEST + 14, limit: CAPACITY, overhead: OVERHEAD };

const ALIAS_TEXT: &str = "axoneme waiting room";

pub(super) const PROGRAM: &str = "from_waiting";

fn names() -> [String; 2] {
    [format!("{LINK_PREFIX}_wait0"), format!("{LINK_PREFIX}_wait1")]
}

/// Whether both ends were made to the last step, which gives them their alias.
fn is_whole(names: &[String]) -> bool {
    let links = Netlink::open().and_then(|n| n.links()).unwrap_or_default();
    let whole = |name: &String| links.iter().any(|l| l.name == *name && l.alias == ALIAS_TEXT && l.up);
    names.iter().all(whole)
}

/// The room's ends in this network namespace, made if they are not there. A whole room is left as it is.
fn build() -> io::Result<[u32; 2]> {
    let names = names();
    match call(&pair(&names)) {
        Err(e) if e.raw_os_error() != Some(libc::EEXIST) => return Err(e),
        _ => {}
    }
    let [near, far] = &names;
    let ends = [index(near)?, index(far)?];
    if is_whole(&names) {
        return Ok(ends);
    }
    for ifindex in ends {
        call(&without_address(ifindex))?;
    }
    let [to, _] = ends;
    call(&queue::shape(to, &BUCKET))?;
    // What leaves the room for the host's stack comes from pods, whose routes lead elsewhere.
    std::fs::write(format!("/proc/sys/net/ipv4/conf/{far}/rp_filter"), "0")?;
    for ifindex in ends {
        call(&header(SET_LINK, 0, &link_header(ifindex, UP)))?;
    }
    for ifindex in ends {
        call(&named(ifindex, ALIAS_TEXT))?;
    }
    Ok(ends)
}

/// Removes the room from this network namespace, if it is there.
pub(super) fn demolish() -> Result<()> {
    let [near, _] = names();
    queue::remove_link(&near).map_err(|e| io_error(format!("remove {near}"), e))
}

impl BpfDatapath {
    /// Opens the waiting room, once a process: its links, its program, and the word that tells the programs of it.
    pub(super) fn open_room(&self) -> Result<()> {
        let mut done = super::datapath::lock(&self.room);
        if *done {
            return Ok(());
        }
        let [near, far] = match build() {
            Ok(ends) => ends,
            Err(error) => {
                tracing::warn!(%error, "no queue for fragments that come before their first one: they are dropped");
                self.maps.control.put(&CONTROL_ROOM, &0)?;
                demolish()?;
                *done = true;
                return Ok(());
            }
        };
        self.attach_room(far)?;
        self.maps.control.put(&CONTROL_ROOM, &near)?;
        *done = true;
        Ok(())
    }
}
