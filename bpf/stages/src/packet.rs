//! The packet's buffer.

/// Types that any bytes make a value of, without padding.
///
/// Only integers and arrays of them implement it; the crate's header types are read as such arrays.
pub trait Plain: Copy + Default {
    /// Length in bytes.
    const SIZE: usize;
    /// From bytes in memory order; missing bytes read as zero.
    fn from_bytes(bytes: &[u8]) -> Self;
    /// To bytes in memory order; what does not fit is left out.
    fn to_bytes(self, bytes: &mut [u8]);
}

macro_rules! plain {
    ($($t:ty),*) => { $( impl Plain for $t {
        const SIZE: usize = core::mem::size_of::<$t>();
        #[inline]
        fn from_bytes(bytes: &[u8]) -> Self {
            let mut raw = [0; Self::SIZE];
            for (to, from) in raw.iter_mut().zip(bytes) { *to = *from; }
            <$t>::from_ne_bytes(raw)
        }
        #[inline]
        fn to_bytes(self, bytes: &mut [u8]) {
            for (to, from) in bytes.iter_mut().zip(self.to_ne_bytes()) { *to = from; }
        }
    } )* };
}
plain!(u8, u16, u32, u64);

impl<T: Plain, const N: usize> Plain for [T; N]
where
    [T; N]: Default,
{
    const SIZE: usize = T::SIZE * N;
    #[inline]
    fn from_bytes(bytes: &[u8]) -> Self {
        let mut out = Self::default();
        for (to, from) in out.iter_mut().zip(bytes.chunks(T::SIZE)) {
            *to = T::from_bytes(from);
        }
        out
    }
    #[inline]
    fn to_bytes(self, bytes: &mut [u8]) {
        for (to, from) in bytes.chunks_mut(T::SIZE).zip(self) {
            from.to_bytes(to);
        }
    }
}

/// A handle of a packet with its Ethernet header. Offsets count from that header's start.
pub trait Packet: Copy {
    /// Reads at an offset that is a constant of the program. None past the end.
    fn get<T: Plain>(&self, offset: usize) -> Option<T>;
    /// Reads anywhere. Slower in the kernel. None past the end.
    fn load<T: Plain>(&self, offset: usize) -> Option<T>;
    /// Bytes in total, link-layer header included (of a segmented super-packet: of all its segments together).
    fn length(&self) -> u32;
    /// Interface that the packet is met on.
    fn ifindex(&self) -> u32;
    fn mark(&self) -> u32;
    fn set_mark(&self, mark: u32);
    /// A word that goes with the packet from one interface to the next (the kernel's packet priority).
    fn note(&self) -> u32;
    fn set_note(&self, note: u32);
    /// Overwrites bytes. False: the packet is unchanged.
    #[must_use]
    fn store<T: Plain>(&self, offset: usize, value: T) -> bool;
    /// Mends the IPv4 header checksum at `offset` for a word that changes.
    #[must_use]
    fn mend_header_checksum(&self, offset: usize, from: u32, to: u32) -> bool;
    /// Mends a transport checksum for a word (or a half word, `size` 2) that changes. `pseudo`: the word is part of the
    /// pseudo header; `optional`: a zero checksum means that there is none (UDP over IPv4).
    #[must_use]
    fn mend_checksum(&self, offset: usize, from: u32, to: u32, size: u32, pseudo: bool, optional: bool) -> bool;
    /// Cuts or grows the packet at its end.
    #[must_use]
    fn resize(&self, length: u32) -> bool;
    /// Identity and IPv4 source (network order, 0 for another family) of the tunnel header it came with.
    fn tunnel(&self) -> Option<u32>;
    /// Cookie of the socket that sent it and id of that socket's cgroup (v2); zeros of a packet without a socket. The
    /// kernel makes the cookie when it is asked for the first time.
    fn socket(&self) -> [u64; 2];
}
