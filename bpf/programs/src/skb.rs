//! A packet in a kernel buffer.

use core::mem::MaybeUninit;

use axoneme_abi::constants::{CONTROL_CGROUP, CONTROL_SOCKET, CONTROL_TUNNEL};
use axoneme_stages::{Packet, Plain};
use aya_ebpf::{
    bindings::{__sk_buff, bpf_tunnel_key},
    helpers::{
        bpf_get_socket_cookie, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_cgroup_id, bpf_skb_change_tail,
        bpf_skb_get_tunnel_key, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
    },
};

use crate::{environment::control, maps::TESTING};

/// Flags of `bpf_l4_csum_replace` (include/uapi/linux/bpf.h).
const PSEUDO_HEADER: u64 = 1 << 4;
const MARK_MANGLED_0: u64 = 1 << 5;

#[derive(Clone, Copy)]
pub(crate) struct Skb(pub(crate) *mut __sk_buff);

impl Skb {
    /// Whether `need` bytes are directly readable. In 64-bit words: a comparison of halves is none of pointers to the
    /// verifier.
    #[inline(always)]
    fn reaches(self, need: u32) -> bool {
        // SAFETY: the context pointer is what the kernel passed in.
        unsafe { (*self.0).data as usize + need as usize <= (*self.0).data_end as usize }
    }

    /// Makes the first bytes directly readable. True: `need` bytes are there.
    #[inline(always)]
    pub(crate) fn pull(self, need: u32) -> bool {
        // SAFETY: the context pointer is what the kernel passed in.
        unsafe {
            if self.reaches(need) {
                return true;
            }
            let length = (*self.0).len;
            bpf_skb_pull_data(self.0, if length > 128 { 128 } else { length }) == 0 && self.reaches(need)
        }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn get<T: Plain>(&self, offset: usize) -> Option<T> {
        // SAFETY: the verifier checks the bounds that the comparison establishes; `Plain` types take any bytes.
        unsafe {
            let at = (*self.0).data as usize + offset;
            if at + size_of::<T>() > (*self.0).data_end as usize {
                return None;
            }
            Some(*(at as *const T))
        }
    }
    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper fills all bytes or fails.
        unsafe {
            let r = bpf_skb_load_bytes(self.0.cast(), offset as u32, value.as_mut_ptr().cast(), size_of::<T>() as u32);
            if r == 0 { Some(value.assume_init()) } else { None }
        }
    }
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).len }
    }
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).ifindex }
    }
    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).mark }
    }
    #[inline(always)]
    fn set_mark(&self, mark: u32) {
        // SAFETY: `mark` is a writable field of the context.
        unsafe { (&raw mut (*self.0).mark).write_volatile(mark) }
    }
    #[inline(always)]
    fn note(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).priority }
    }
    #[inline(always)]
    fn set_note(&self, note: u32) {
        // SAFETY: `priority` is a writable field of the context.
        unsafe { (&raw mut (*self.0).priority).write_volatile(note) }
    }
    #[inline(always)]
    fn store<T: Plain>(&self, offset: usize, value: T) -> bool {
        // SAFETY: the value lives on the stack for the call.
        unsafe { bpf_skb_store_bytes(self.0, offset as u32, (&raw const value).cast(), size_of::<T>() as u32, 0) == 0 }
    }
    #[inline(always)]
    fn mend_header_checksum(&self, offset: usize, from: u32, to: u32) -> bool {
        // SAFETY: plain helper call.
        unsafe { bpf_l3_csum_replace(self.0, offset as u32, from as u64, to as u64, 4) == 0 }
    }
    #[inline(always)]
    fn mend_checksum(&self, offset: usize, from: u32, to: u32, size: u32, pseudo: bool, optional: bool) -> bool {
        let mut flags = size as u64;
        if pseudo {
            flags |= PSEUDO_HEADER;
        }
        if optional {
            flags |= MARK_MANGLED_0;
        }
        // SAFETY: plain helper call.
        unsafe { bpf_l4_csum_replace(self.0, offset as u32, from as u64, to as u64, flags) == 0 }
    }
    #[inline(always)]
    fn resize(&self, length: u32) -> bool {
        // SAFETY: plain helper call; direct packet pointers are read anew after it.
        unsafe { bpf_skb_change_tail(self.0, length, 0) == 0 }
    }
    #[inline(always)]
    fn tunnel(&self) -> Option<u32> {
        if TESTING.load() != 0 {
            return Some(control(CONTROL_TUNNEL));
        }
        let mut key = MaybeUninit::<bpf_tunnel_key>::zeroed();
        let size = crate::tc::TUNNEL_KEY;
        // SAFETY: the helper writes at most `size` bytes of a zeroed struct of integers.
        unsafe {
            if bpf_skb_get_tunnel_key(self.0, key.as_mut_ptr(), size, 0) == 0
                || bpf_skb_get_tunnel_key(self.0, key.as_mut_ptr(), size, 1) == 0
            {
                return Some((*key.as_ptr()).tunnel_id);
            }
        }
        None
    }
    #[inline(always)]
    fn socket(&self) -> [u64; 2] {
        if TESTING.load() != 0 {
            return [control(CONTROL_SOCKET) as u64, control(CONTROL_CGROUP) as u64];
        }
        // SAFETY: plain helper calls. Both answer 0 where there is no socket.
        unsafe { [bpf_get_socket_cookie(self.0.cast()), bpf_skb_cgroup_id(self.0)] }
    }
}
