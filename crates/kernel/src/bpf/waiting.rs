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

use axoneme_abi::constants::{CONTROL_ROOM, HOST_MAC, ROOM_BYTES};

use super::{
    clsact::{attribute, call, header},
    datapath::BpfDatapath,
    system::io_error,
};
use crate::{
    datapath::Result,
    net::{LINK_PREFIX, Netlink, Network as _},
};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const SET_LINK: u16 = 19;
const NEW_QDISC: u16 = 36;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const REPLACE: u16 = 0x100;
const UP: u32 = 1;
/// `IFLA_*` of include/uapi/linux/if_link.h.
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LINK_INFO: u16 = 18;
const ALIAS: u16 = 20;
const AF_SPEC: u16 = 26;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const ADDR_GEN_MODE: u16 = 8;
const NO_ADDRESS: [u8; 1] = [1];
const AF_INET6: u16 = 10;
/// `TCA_*` of pkt_sched.h.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const TBF_PARAMETERS: u16 = 1;
const TBF_BURST: u16 = 6;
const ROOT: u32 = 0xffff_ffff;
const ETHERNET: u8 = 1;
/// Bytes a second, and bytes that each packet counts beside its own.
const RATE: u32 = 16_000_000;
const OVERHEAD: u16 = 8000;
/// Longest packet.
const LONGEST: u32 = 65_535;
/// Bytes that the queue takes: more than the programs let in, which drop what is too much, with a reason.
const CAPACITY: u32 = ROOM_BYTES * 2;

const ALIAS_TEXT: &str = "axoneme waiting room";

pub(super) const PROGRAM: &str = "from_waiting";

fn names() -> [String; 2] {
    [format!("{LINK_PREFIX}_wait0"), format!("{LINK_PREFIX}_wait1")]
}

fn text(name: &str) -> Vec<u8> {
    let mut t = name.as_bytes().to_vec();
    t.push(0);
    t
}

fn link_header(ifindex: u32, flags: u32) -> Vec<u8> {
    [0, ifindex, flags, flags].iter().flat_map(|w| w.to_ne_bytes()).collect()
}

fn end(name: &str) -> Vec<u8> {
    let mut a = Vec::new();
    attribute(&mut a, NAME, &text(name));
    attribute(&mut a, MTU, &LONGEST.to_ne_bytes());
    attribute(&mut a, ADDRESS, &HOST_MAC);
    a
}

/// The pair; fails with `EEXIST` if it is there.
fn pair([near, far]: &[String; 2]) -> Vec<u8> {
    let mut peer = link_header(0, 0);
    peer.extend(end(far));
    let (mut data, mut info) = (Vec::new(), Vec::new());
    attribute(&mut data, VETH_PEER, &peer);
    attribute(&mut info, INFO_KIND, b"veth\0");
    attribute(&mut info, INFO_DATA, &data);
    let mut body = link_header(0, 0);
    body.extend(end(near));
    attribute(&mut body, LINK_INFO, &info);
    header(NEW_LINK, CREATE | EXCLUSIVE, &body)
}

fn without_address(ifindex: u32) -> Vec<u8> {
    let (mut inet6, mut spec) = (Vec::new(), Vec::new());
    attribute(&mut inet6, ADDR_GEN_MODE, &NO_ADDRESS);
    attribute(&mut spec, AF_INET6, &inet6);
    let mut body = link_header(ifindex, 0);
    attribute(&mut body, AF_SPEC, &spec);
    header(SET_LINK, 0, &body)
}

/// The name by which the agent's `uninstall` knows its links.
fn named(ifindex: u32) -> Vec<u8> {
    let mut body = link_header(ifindex, 0);
    attribute(&mut body, ALIAS, &text(ALIAS_TEXT));
    header(SET_LINK, 0, &body)
}

fn queue(ifindex: u32) -> Vec<u8> {
    // struct tc_tbf_qopt: rate, peak rate (none), limit, bucket (given in bytes below), peak bucket.
    let mut q = vec![0, ETHERNET];
    q.extend(OVERHEAD.to_ne_bytes());
    q.extend([0; 4]);
    q.extend(RATE.to_ne_bytes());
    q.extend([0; 12]);
    q.extend(CAPACITY.to_ne_bytes());
    q.extend([0; 8]);
    let mut options = Vec::new();
    attribute(&mut options, TBF_PARAMETERS, &q);
    attribute(&mut options, TBF_BURST, &(LONGEST + 14).to_ne_bytes());
    let mut body = [0, ifindex, 0, ROOT, 0].iter().flat_map(|w: &u32| w.to_ne_bytes()).collect::<Vec<_>>();
    attribute(&mut body, KIND, b"tbf\0");
    attribute(&mut body, OPTIONS, &options);
    header(NEW_QDISC, CREATE | REPLACE, &body)
}

fn index(name: &str) -> io::Result<u32> {
    nix::net::if_::if_nametoindex(name).map_err(io::Error::from)
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
    call(&queue(to))?;
    // What leaves the room for the host's stack comes from pods, whose routes lead elsewhere.
    std::fs::write(format!("/proc/sys/net/ipv4/conf/{far}/rp_filter"), "0")?;
    for ifindex in ends {
        call(&header(SET_LINK, 0, &link_header(ifindex, UP)))?;
    }
    for ifindex in ends {
        call(&named(ifindex))?;
    }
    Ok(ends)
}

/// Removes the room from this network namespace, if it is there.
pub(super) fn demolish() -> Result<()> {
    let [near, _] = names();
    let Ok(ifindex) = index(&near) else { return Ok(()) };
    match call(&header(DELETE_LINK, 0, &link_header(ifindex, 0))) {
        Err(e) if e.raw_os_error() != Some(libc::ENODEV) => Err(io_error(format!("remove {near}"), e)),
        _ => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_long_as_they_say() {
        for message in
            [pair(&names()), without_address(3), named(3), queue(3), header(SET_LINK, 0, &link_header(3, UP))]
        {
            let length = u32::from_ne_bytes(message[..4].try_into().unwrap());
            assert_eq!(length as usize, message.len());
            assert_eq!(message.len() % 4, 0);
        }
    }
}
