//! Attachment on kernels before 6.6: filters of the clsact queueing discipline, by netlink.
//!
//! There are no links, hence no pins and no atomic update; a filter of the same handle is replaced in place, which the
//! kernel does without a gap. Messages: include/uapi/linux/rtnetlink.h, pkt_sched.h, pkt_cls.h.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::system::io_error;
use crate::datapath::Result;

const NEW_QDISC: u16 = 36;
const NEW_FILTER: u16 = 44;
const DELETE_FILTER: u16 = 45;
const REQUEST_ACK: u16 = 0x5;
const REPLACE: u16 = 0x100;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// Handle and priority of our filters: fixed, so that a restart replaces them.
const HANDLE: u32 = 0xa0;
const PRIORITY: u32 = 0xa0;
/// The host firewall's come after those of pods.
const GUARD_PRIORITY: u32 = 0xa1;
/// What holds a pod's packets back comes before all others.
const QUEUE_PRIORITY: u32 = 0x9f;
const ETH_P_ALL: u32 = 0x0003;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const DIRECT_ACTION: u32 = 1;

pub(super) fn attribute(out: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let length = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(payload);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// A message: `struct nlmsghdr` and what follows it.
pub(super) fn header(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut m = Vec::with_capacity(16 + body.len());
    m.extend(u32::try_from(16 + body.len()).unwrap_or(0).to_ne_bytes());
    m.extend(kind.to_ne_bytes());
    m.extend((REQUEST_ACK | flags).to_ne_bytes());
    m.extend(1u32.to_ne_bytes());
    m.extend(0u32.to_ne_bytes());
    m.extend(body);
    m
}

/// A message with its `struct tcmsg`.
fn message(kind: u16, flags: u16, ifindex: u32, handle: u32, parent: u32, info: u32, attributes: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(20 + attributes.len());
    for word in [0, ifindex, handle, parent, info] {
        body.extend(word.to_ne_bytes());
    }
    body.extend(attributes);
    header(kind, flags, &body)
}

/// Sends a message and reads its acknowledgement.
pub(super) fn call(message: &[u8]) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send_to(message, &SocketAddr::new(0, 0), 0)?;
    let mut reply = Vec::with_capacity(4096);
    socket.recv(&mut reply, 0)?;
    let code = reply.get(16..20).and_then(|b| <[u8; 4]>::try_from(b).ok()).map_or(-libc::EIO, i32::from_ne_bytes);
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

fn filter_info(name: &str) -> u32 {
    let priority = match name {
        "to_queue" => QUEUE_PRIORITY,
        _ if super::loader::GUARDS.contains(&name) => GUARD_PRIORITY,
        _ => PRIORITY,
    };
    priority << 16 | ETH_P_ALL.to_be() >> 16
}

/// Puts a program on an interface, in the place of an earlier one.
pub(super) fn attach(program: BorrowedFd<'_>, name: &str, ifindex: u32, ingress: bool) -> Result<()> {
    let failed = |e| io_error(format!("attach {name} to interface {ifindex} (clsact)"), e);
    let mut kind = Vec::new();
    attribute(&mut kind, KIND, b"clsact\0");
    match call(&message(NEW_QDISC, CREATE | EXCLUSIVE, ifindex, CLSACT_HANDLE, CLSACT, 0, &kind)) {
        Err(e) if e.raw_os_error() != Some(libc::EEXIST) => return Err(failed(e)),
        _ => {}
    }
    let mut options = Vec::new();
    attribute(&mut options, BPF_FD, &program.as_raw_fd().to_ne_bytes());
    attribute(&mut options, BPF_NAME, format!("{name}\0").as_bytes());
    attribute(&mut options, BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
    let mut all = Vec::new();
    attribute(&mut all, KIND, b"bpf\0");
    attribute(&mut all, OPTIONS, &options);
    let parent = if ingress { INGRESS } else { EGRESS };
    call(&message(NEW_FILTER, CREATE | REPLACE, ifindex, HANDLE, parent, filter_info(name), &all)).map_err(failed)
}

/// Removes our filter. One that is not there, or whose interface is gone, is fine.
pub(super) fn detach(name: &str, ifindex: u32, ingress: bool) -> Result<()> {
    let mut kind = Vec::new();
    attribute(&mut kind, KIND, b"bpf\0");
    let parent = if ingress { INGRESS } else { EGRESS };
    match call(&message(DELETE_FILTER, 0, ifindex, HANDLE, parent, filter_info(name), &kind)) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => Ok(()),
        Err(e) => Err(io_error(format!("detach {name} from interface {ifindex} (clsact)"), e)),
        Ok(()) => Ok(()),
    }
}
