//! Queues that let so many bytes a second pass, and pairs of links that carry them: netlink messages.
//!
//! The queue is a token bucket (`sch_tbf`): it is in every kernel that the bandwidth plugin of CNI works on. Messages:
//! include/uapi/linux/rtnetlink.h, if_link.h, pkt_sched.h.

use std::{collections::BTreeMap, io};

use axoneme_abi::constants::HOST_MAC;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::clsact::{attribute, call, header};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
pub(super) const SET_LINK: u16 = 19;
const NEW_QDISC: u16 = 36;
const DELETE_QDISC: u16 = 37;
const GET_QDISC: u16 = 38;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const REPLACE: u16 = 0x100;
const DUMP: u16 = 0x300;
pub(super) const UP: u32 = 1;
/// `IFLA_*` of if_link.h.
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
/// `TCA_*` of rtnetlink.h and pkt_sched.h.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const STATS: u16 = 3;
const TBF_PARAMETERS: u16 = 1;
const TBF_RATE64: u16 = 4;
const TBF_BURST: u16 = 6;
const TBF: &[u8] = b"tbf\0";
const ROOT: u32 = 0xffff_ffff;
const ETHERNET: u8 = 1;
/// Longest packet, and MTU of the pairs: whatever comes passes.
pub(super) const LONGEST: u32 = 65_535;

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Bytes a second, link-layer headers included.
    pub(super) rate: u64,
    /// Bytes that may pass at once. A packet that is longer never does.
    pub(super) burst: u32,
    /// Bytes that wait at most.
    pub(super) limit: u32,
    /// Bytes that each packet counts beside its own.
    pub(super) overhead: u16,
}

/// A queue as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shaped {
    pub(super) rate: u64,
    /// Packets that found it full.
    pub(super) drops: u32,
}

fn text(name: &str) -> Vec<u8> {
    let mut t = name.as_bytes().to_vec();
    t.push(0);
    t
}

pub(super) fn link_header(ifindex: u32, flags: u32) -> Vec<u8> {
    [0, ifindex, flags, flags].iter().flat_map(|w| w.to_ne_bytes()).collect()
}

fn end(name: &str) -> Vec<u8> {
    let mut a = Vec::new();
    attribute(&mut a, NAME, &text(name));
    attribute(&mut a, MTU, &LONGEST.to_ne_bytes());
    attribute(&mut a, ADDRESS, &HOST_MAC);
    a
}

/// A pair of links; fails with `EEXIST` if it is there.
pub(super) fn pair([near, far]: &[String; 2]) -> Vec<u8> {
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

/// A link gets no address of IPv6 by itself.
pub(super) fn without_address(ifindex: u32) -> Vec<u8> {
    let (mut inet6, mut spec) = (Vec::new(), Vec::new());
    attribute(&mut inet6, ADDR_GEN_MODE, &NO_ADDRESS);
    attribute(&mut spec, AF_INET6, &inet6);
    let mut body = link_header(ifindex, 0);
    attribute(&mut body, AF_SPEC, &spec);
    header(SET_LINK, 0, &body)
}

/// The name by which the agent's `uninstall` knows its links.
pub(super) fn named(ifindex: u32, alias: &str) -> Vec<u8> {
    let mut body = link_header(ifindex, 0);
    attribute(&mut body, ALIAS, &text(alias));
    header(SET_LINK, 0, &body)
}

fn queue_header(ifindex: u32) -> Vec<u8> {
    [0, ifindex, 0, ROOT, 0].iter().flat_map(|w: &u32| w.to_ne_bytes()).collect()
}

/// A link's queue. One that is there is changed in place, with what waits in it.
pub(super) fn shape(ifindex: u32, bucket: &Bucket) -> Vec<u8> {
    // struct tc_tbf_qopt: rate, peak rate (none), limit, bucket (given in bytes below), peak bucket.
    let mut q = vec![0, ETHERNET];
    q.extend(bucket.overhead.to_ne_bytes());
    q.extend([0; 4]);
    q.extend(u32::try_from(bucket.rate).unwrap_or(u32::MAX).to_ne_bytes());
    q.extend([0; 12]);
    q.extend(bucket.limit.to_ne_bytes());
    q.extend([0; 8]);
    let mut options = Vec::new();
    attribute(&mut options, TBF_PARAMETERS, &q);
    if bucket.rate > u64::from(u32::MAX) {
        attribute(&mut options, TBF_RATE64, &bucket.rate.to_ne_bytes());
    }
    attribute(&mut options, TBF_BURST, &bucket.burst.to_ne_bytes());
    let mut body = queue_header(ifindex);
    attribute(&mut body, KIND, TBF);
    attribute(&mut body, OPTIONS, &options);
    header(NEW_QDISC, CREATE | REPLACE, &body)
}

/// Takes a link's queue away. One that is not there, or whose link is gone, is fine.
pub(super) fn unshape(ifindex: u32) -> io::Result<()> {
    match call(&header(DELETE_QDISC, 0, &queue_header(ifindex))) {
        // EINVAL: the kernel's own is there, which nobody can take away
        Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => Err(e),
        _ => Ok(()),
    }
}

/// Removes a link, and the other end with it. One that is not there is fine.
pub(super) fn remove_link(name: &str) -> io::Result<()> {
    let Ok(ifindex) = index(name) else { return Ok(()) };
    match call(&header(DELETE_LINK, 0, &link_header(ifindex, 0))) {
        Err(e) if e.raw_os_error() != Some(libc::ENODEV) => Err(e),
        _ => Ok(()),
    }
}

pub(super) fn index(name: &str) -> io::Result<u32> {
    nix::net::if_::if_nametoindex(name).map_err(io::Error::from)
}

/// Links of this network namespace that have such a queue.
pub(super) fn shaped() -> io::Result<BTreeMap<u32, Shaped>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let request = header(GET_QDISC, DUMP, &[0; 20]);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut found = BTreeMap::new();
    loop {
        let mut answer = Vec::with_capacity(64 * 1024);
        socket.recv(&mut answer, 0)?;
        if read(&answer, &mut found)? {
            return Ok(found);
        }
    }
}

/// Reads one datagram of a dump. True: it was the last.
fn read(answer: &[u8], found: &mut BTreeMap<u32, Shaped>) -> io::Result<bool> {
    const DONE: u16 = 3;
    const ERROR: u16 = 2;
    let mut rest = answer;
    while let Some(length) = word(rest, 0) {
        let kind = rest.get(4..6).and_then(|b| b.first_chunk::<2>()).map_or(ERROR, |b| u16::from_ne_bytes(*b));
        let length = length as usize;
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = word(rest, 16).map_or(-libc::EIO, u32::cast_signed);
                return Err(io::Error::from_raw_os_error(-code));
            }
            _ => found.extend(rest.get(16..length).and_then(queue_of)),
        }
        rest = rest.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
    }
    Ok(false)
}

/// The interface and its queue, if it is the link's own and of our kind.
fn queue_of(message: &[u8]) -> Option<(u32, Shaped)> {
    let (ifindex, parent) = (word(message, 4)?, word(message, 12)?);
    let all = attributes(message.get(20..)?);
    let kind = all.iter().find(|a| a.0 == KIND)?.1;
    if parent != ROOT || kind != TBF {
        return None;
    }
    let options = attributes(all.iter().find(|a| a.0 == OPTIONS)?.1);
    let narrow = word(options.iter().find(|a| a.0 == TBF_PARAMETERS)?.1, 8)?;
    let wide = options.iter().find(|a| a.0 == TBF_RATE64).and_then(|a| a.1.first_chunk::<8>());
    let rate = wide.map_or(u64::from(narrow), |w| u64::from_ne_bytes(*w));
    // struct tc_stats: bytes (8), packets, drops
    let drops = all.iter().find(|a| a.0 == STATS).and_then(|a| word(a.1, 12)).unwrap_or(0);
    Some((ifindex, Shaped { rate, drops }))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|b| u32::from_ne_bytes(*b))
}

fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some([a, b, c, d]) = bytes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let Some(value) = bytes.get(4..length) else { break };
        found.push((u16::from_ne_bytes([*c, *d]) & 0x3fff, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: Bucket = Bucket { rate: 1_250_000, burst: 81_920, limit: 144_420, overhead: 0 };

    #[test]
    fn messages_are_as_long_as_they_say() {
        let names = ["a".to_owned(), "bc".to_owned()];
        let fast = Bucket { rate: 1 << 40, ..BUCKET };
        for message in [
            pair(&names),
            without_address(3),
            named(3, "axoneme"),
            shape(3, &BUCKET),
            shape(3, &fast),
            header(SET_LINK, 0, &link_header(3, UP)),
        ] {
            let length = u32::from_ne_bytes(message[..4].try_into().unwrap());
            assert_eq!(length as usize, message.len());
            assert_eq!(message.len() % 4, 0);
        }
    }

    #[test]
    fn what_is_asked_for_is_read_back() {
        for rate in [125, 1_250_000, u64::from(u32::MAX), 1 << 40] {
            let asked = shape(3, &Bucket { rate, ..BUCKET });
            let mut found = BTreeMap::new();
            assert!(!read(&asked, &mut found).unwrap());
            assert_eq!(found, BTreeMap::from([(3, Shaped { rate, drops: 0 })]));
            // cut off at any byte: nothing wrong is read, no panic
            for end in 0..asked.len() {
                let mut part = BTreeMap::new();
                let _ = read(&asked[..end], &mut part);
                assert!(part.is_empty() || part == found);
            }
        }
    }
}
