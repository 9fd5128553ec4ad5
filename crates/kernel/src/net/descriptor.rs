//! Descriptors that come over a unix socket (`SCM_RIGHTS`, unix(7)).

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Most descriptors that one message may bring; all but the first are closed.
const MOST: usize = 4;

/// Reads up to `buffer.len()` bytes, at least one, and the first descriptor that came with them. Waits if the socket is
/// in blocking mode.
pub fn receive(stream: &impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; MOST]);
    let mut io = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(stream.as_fd().as_raw_fd(), &mut io, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut owned = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            owned.extend(received.into_iter().map(own));
        }
    }
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((message.bytes, owned.into_iter().next()))
}

#[expect(unsafe_code, reason = "the kernel has just made this descriptor for us; nobody else owns it")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: recvmsg returned it as received by SCM_RIGHTS, so it is open and ours to close
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{IoSlice, Read},
        os::unix::net::UnixStream,
    };

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_the_bytes() {
        let (a, b) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let fds = [file.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(a.as_raw_fd(), &[IoSlice::new(b"abc")], &rights, MsgFlags::empty(), None).unwrap();
        let mut buffer = [0; 8];
        let (read, fd) = receive(&b, &mut buffer).unwrap();
        assert_eq!(&buffer[..read], b"abc");
        let mut text = String::new();
        std::fs::File::from(fd.unwrap()).read_to_string(&mut text).unwrap();
        assert!(text.contains("Name:"));
        drop(a);
        assert_eq!(receive(&b, &mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
