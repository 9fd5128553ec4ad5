//! Frames on the agent's socket: length in four bytes, big endian, then JSON. A descriptor may come with the length.

use std::{
    io::{self, IoSlice, Read, Write},
    os::{
        fd::{AsRawFd, BorrowedFd, RawFd},
        unix::net::UnixStream,
    },
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// A network configuration is a few kilobytes; GC of a big node lists some hundred attachments.
pub const LIMIT: usize = 1 << 20;

fn too_long(length: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("frame of {length} bytes, at most {LIMIT} are taken"))
}

/// Sends one frame, with a descriptor if there is one.
pub fn send(stream: &mut UnixStream, body: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= LIMIT).ok_or_else(|| too_long(body.len()))?;
    let header = length.to_be_bytes();
    let fds: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[] } else { control.as_slice() };
    let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&header)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    stream.write_all(header.get(sent..).unwrap_or_default())?;
    stream.write_all(body)
}

/// Receives one frame of a peer that sends no descriptor.
pub fn receive(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut header = [0; 4];
    stream.read_exact(&mut header)?;
    body(stream, header)
}

/// The length that a header announces.
pub fn length(header: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(header) as usize;
    if length > LIMIT { Err(too_long(length)) } else { Ok(length) }
}

fn body(stream: &mut UnixStream, header: [u8; 4]) -> io::Result<Vec<u8>> {
    let mut body = vec![0; length(header)?];
    stream.read_exact(&mut body)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_arrives_whole() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        send(&mut a, b"{\"x\":1}", None).unwrap();
        assert_eq!(receive(&mut b).unwrap(), b"{\"x\":1}");
    }

    #[test]
    fn a_frame_that_is_too_long_or_cut_off_is_refused() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        a.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert_eq!(receive(&mut b).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut a, mut b) = UnixStream::pair().unwrap();
        a.write_all(&[0, 0, 0, 9, b'{']).unwrap();
        drop(a);
        assert_eq!(receive(&mut b).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(send(&mut b, &vec![0; LIMIT + 1], None).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
