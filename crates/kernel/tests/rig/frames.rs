//! Frames written by hand, and a socket that sends and sees them as they are.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use super::Namespace;

/// Link-layer socket of a namespace's interface.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
}

#[allow(unsafe_code, reason = "packet sockets have no safe wrapper in std")]
impl Tap {
    /// Opens inside the namespace: sees and sends everything on the interface.
    pub fn open(ns: &Namespace, link: &str) -> Self {
        ns.run(|| {
            let protocol = libc::ETH_P_ALL.to_be() >> 16;
            // SAFETY: plain system call; the descriptor is new.
            let fd = unsafe {
                let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, protocol);
                assert!(fd >= 0, "{}", io::Error::last_os_error());
                OwnedFd::from_raw_fd(fd)
            };
            let index = nix::net::if_::if_nametoindex(link).unwrap();
            // SAFETY: any bytes are a value of the struct; the kernel reads as many as are said.
            let r = unsafe {
                let mut a: libc::sockaddr_ll = std::mem::zeroed();
                a.sll_family = libc::AF_PACKET as u16;
                a.sll_protocol = u16::try_from(protocol).unwrap();
                a.sll_ifindex = i32::try_from(index).unwrap();
                libc::bind(fd.as_raw_fd(), (&raw const a).cast(), size_of::<libc::sockaddr_ll>() as u32)
            };
            assert_eq!(r, 0, "{}", io::Error::last_os_error());
            Self { fd }
        })
    }

    /// Lets more frames be under way than a socket may have by itself.
    pub fn grow(&self) {
        nix::sys::socket::setsockopt(&self.fd, nix::sys::socket::sockopt::SndBufForce, &(256 << 20)).unwrap();
    }

    /// Sends it.
    pub fn send(&self, frame: &[u8]) {
        assert!(self.offer(frame), "{} bytes: {}", frame.len(), io::Error::last_os_error());
    }

    /// Sends it, whether or not the far end of the link takes it; waits where the socket has no room. Returns whether it
    /// was taken.
    pub fn offer(&self, frame: &[u8]) -> bool {
        loop {
            // SAFETY: the buffer outlives the call.
            let n = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            match io::Error::last_os_error().raw_os_error() {
                _ if usize::try_from(n).is_ok_and(|n| n == frame.len()) => return true,
                Some(libc::EAGAIN) => std::thread::yield_now(),
                _ => return false,
            }
        }
    }

    /// A frame that came in, if there is one. What this namespace sent is passed over.
    pub fn receive(&self) -> Option<Vec<u8>> {
        loop {
            let mut buffer = vec![0; 70_000];
            // SAFETY: as in `open`; the buffer is as long as is said.
            let (n, kind) = unsafe {
                let mut a: libc::sockaddr_ll = std::mem::zeroed();
                let mut length = size_of::<libc::sockaddr_ll>() as u32;
                let n = libc::recvfrom(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    (&raw mut a).cast(),
                    &raw mut length,
                );
                (n, a.sll_pkttype)
            };
            let n = usize::try_from(n).ok()?;
            if kind != 4 {
                buffer.truncate(n);
                return Some(buffer);
            }
        }
    }

    /// Frames that come in until one of them answers the question, at most for so long.
    pub fn until(&self, limit: Duration, mut wanted: impl FnMut(&[u8]) -> bool) -> Option<Vec<u8>> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            match self.receive() {
                Some(f) if wanted(&f) => return Some(f),
                Some(_) => {}
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        None
    }

    /// Everything that has come in.
    pub fn all(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.receive()).collect()
    }
}

fn octets(a: IpAddr) -> Vec<u8> {
    match a {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// One's complement sum of RFC 1071.
pub fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0u32;
    for part in parts {
        sum += part.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum::<u32>();
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// A UDP datagram with its checksum, without IP header.
pub fn udp(source: IpAddr, destination: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() + 8) as u16;
    let mut u = Vec::new();
    u.extend(ports.0.to_be_bytes());
    u.extend(ports.1.to_be_bytes());
    u.extend(length.to_be_bytes());
    u.extend([0, 0]);
    u.extend(payload);
    let [hi, lo] = length.to_be_bytes();
    let sum = checksum(&[&octets(source), &octets(destination), &[0, 17, hi, lo], &u]);
    u[6..8].copy_from_slice(&if sum == [0, 0] { [0xff, 0xff] } else { sum });
    u
}

/// A frame with a piece of a datagram: `offset` and the piece's length in bytes, `more` to come.
pub fn fragment(macs: &[u8; 12], ends: (IpAddr, IpAddr), id: u32, offset: usize, more: bool, piece: &[u8]) -> Vec<u8> {
    let mut f = macs.to_vec();
    let place = offset as u16;
    if ends.0.is_ipv4() {
        f.extend([8, 0]);
        let mut h = vec![0x45, 0];
        h.extend((20 + piece.len() as u16).to_be_bytes());
        h.extend((id as u16).to_be_bytes());
        h.extend(((place / 8) | (u16::from(more) << 13)).to_be_bytes());
        h.extend([64, 17, 0, 0]);
        h.extend(octets(ends.0));
        h.extend(octets(ends.1));
        let sum = checksum(&[&h]);
        h[10..12].copy_from_slice(&sum);
        f.extend(h);
    } else {
        f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        f.extend((8 + piece.len() as u16).to_be_bytes());
        f.extend([44, 64]);
        f.extend(octets(ends.0));
        f.extend(octets(ends.1));
        f.extend([17, 0]);
        f.extend((place | u16::from(more)).to_be_bytes());
        f.extend(id.to_be_bytes());
    }
    f.extend(piece);
    f
}

/// Destination and source MAC of what a pod sends.
pub fn macs(node: u8, number: u8) -> [u8; 12] {
    let mut m = [0; 12];
    m[..6].copy_from_slice(&axoneme_abi::constants::HOST_MAC);
    m[6..].copy_from_slice(&[0x0a, 0, 0, 0, node, number]);
    m
}

/// A datagram in pieces of `size` bytes (a multiple of 8), in their order.
pub fn fragments(
    macs: &[u8; 12],
    ends: (IpAddr, IpAddr),
    id: u32,
    ports: (u16, u16),
    payload: &[u8],
    size: usize,
) -> Vec<Vec<u8>> {
    let whole = udp(ends.0, ends.1, ports, payload);
    let count = whole.len().div_ceil(size);
    let piece = |i: usize| &whole[i * size..whole.len().min((i + 1) * size)];
    (0..count).map(|i| fragment(macs, ends, id, i * size, i + 1 < count, piece(i))).collect()
}
