//! A blocking rtnetlink socket that sends several requests in one system call.

use std::{os::fd::AsFd, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket as Raw, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{socket, time::TimeVal};

use super::{NetworkError, Result};

/// The kernel answers rtnetlink in microseconds; a wait this long means that the answer was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer datagram: the kernel's dumps use at most 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// `NLMSGERR_ATTR_MSG` of linux/netlink.h: the kernel's explanation as a string.
const EXPLANATION: u16 = 1;

/// One request: flags beside `NLM_F_REQUEST | NLM_F_ACK`, and what an error means for the caller.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) message: RouteNetlinkMessage,
    pub(super) flags: u16,
    /// Error numbers that count as success (`EEXIST` for something that may be there).
    pub(super) tolerate: &'static [i32],
    pub(super) operation: String,
}

/// Bound to the network namespace of the thread that opened it, usable from any thread.
#[derive(Debug)]
pub(super) struct Socket {
    raw: Raw,
    sequence: u32,
}

impl Socket {
    pub(super) fn open() -> Result<Self> {
        let failed = |source| NetworkError::Io { operation: "open a netlink socket".to_owned(), source };
        let mut raw = Raw::new(NETLINK_ROUTE).map_err(failed)?;
        raw.bind_auto().map_err(failed)?;
        raw.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        // explanations, and no echo of the request in them
        raw.set_ext_ack(true).map_err(failed)?;
        raw.set_cap_ack(true).map_err(failed)?;
        let timeout = TimeVal::new(ANSWER_TIMEOUT.as_secs().cast_signed(), 0);
        socket::setsockopt(&raw.as_fd(), socket::sockopt::ReceiveTimeout, &timeout)
            .map_err(|e| failed(std::io::Error::from(e)))?;
        Ok(Self { raw, sequence: 0 })
    }

    /// Sends all requests in one call. The kernel takes them in order and goes on after an error; the first error that
    /// is not tolerated is returned after all were answered. Answers that are not acknowledgements are returned.
    pub(super) fn send(&mut self, requests: Vec<Request>) -> Result<Vec<RouteNetlinkMessage>> {
        let first = self.sequence + 1;
        let mut buffer = Vec::with_capacity(4096);
        let mut expected = Vec::with_capacity(requests.len());
        for Request { message, flags, tolerate, operation } in requests {
            self.sequence += 1;
            self.append(&mut buffer, message, NLM_F_REQUEST | NLM_F_ACK | flags);
            expected.push((operation, tolerate));
        }
        let operation = expected.first().map_or_else(String::new, |(o, _)| o.clone());
        self.transmit(&buffer, &operation)?;
        let (mut answers, mut failure, mut open) = (Vec::new(), None, expected.len());
        while open > 0 {
            self.receive(&operation, |header, payload| {
                let Some((operation, tolerate)) = expected.get(header.sequence_number.wrapping_sub(first) as usize)
                else {
                    return Ok(()); // an answer to an earlier batch that was given up
                };
                if header.message_type == NLMSG_ERROR {
                    open -= 1;
                    let errno = error_number(payload);
                    if errno != 0 && !tolerate.contains(&errno) && failure.is_none() {
                        failure = Some(kernel_error(operation, errno, payload));
                    }
                } else {
                    answers.push(parse(header, payload)?);
                }
                Ok(())
            })?;
        }
        failure.map_or(Ok(answers), Err)
    }

    /// Everything of a kind.
    pub(super) fn dump(&mut self, message: RouteNetlinkMessage, operation: &str) -> Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let sequence = self.sequence;
        let mut buffer = Vec::with_capacity(64);
        self.append(&mut buffer, message, NLM_F_REQUEST | NLM_F_DUMP);
        self.transmit(&buffer, operation)?;
        let (mut answers, mut done) = (Vec::new(), false);
        while !done {
            self.receive(operation, |header, payload| {
                if header.sequence_number != sequence {
                    return Ok(());
                }
                match header.message_type {
                    NLMSG_DONE => done = true,
                    NLMSG_ERROR => return Err(kernel_error(operation, error_number(payload), payload)),
                    _ => answers.push(parse(header, payload)?),
                }
                Ok(())
            })?;
        }
        Ok(answers)
    }

    fn append(&self, buffer: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = buffer.len();
        // messages start on multiples of four bytes (NLMSG_ALIGNTO)
        buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
        if let Some(space) = buffer.get_mut(start..) {
            message.serialize(space);
        }
    }

    fn transmit(&self, buffer: &[u8], operation: &str) -> Result<()> {
        self.raw.send(buffer, 0).map(|_| ()).map_err(|e| io(operation, e))
    }

    fn receive(&self, operation: &str, mut each: impl FnMut(&NetlinkHeader, &[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        self.raw.recv(&mut buffer, 0).map_err(|e| io(operation, e))?;
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(|e| malformed(operation, &e.to_string()))?;
            let length = message.length() as usize;
            let mut header = NetlinkHeader::default();
            header.length = message.length();
            header.message_type = message.message_type();
            header.flags = message.flags();
            header.sequence_number = message.sequence_number();
            each(&header, message.payload())?;
            rest = rest.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
        }
        Ok(())
    }
}

fn parse(header: &NetlinkHeader, payload: &[u8]) -> Result<RouteNetlinkMessage> {
    use netlink_packet_core::NetlinkDeserializable;
    RouteNetlinkMessage::deserialize(header, payload).map_err(|e| malformed("read an answer", &e.to_string()))
}

/// The positive error number of an `NLMSG_ERROR` payload; 0 for an acknowledgement.
fn error_number(payload: &[u8]) -> i32 {
    payload.first_chunk::<4>().map_or(libc::EBADMSG, |c| -i32::from_ne_bytes(*c))
}

fn kernel_error(operation: &str, errno: i32, payload: &[u8]) -> NetworkError {
    if errno == libc::EPERM {
        return NetworkError::Permission { operation: operation.to_owned() };
    }
    let system = std::io::Error::from_raw_os_error(errno);
    let message = match explanation(payload) {
        Some(words) => format!("{words} ({system})"),
        None => system.to_string(),
    };
    NetworkError::Kernel { operation: operation.to_owned(), errno, message }
}

/// Behind the error number stands the header of the request (16 bytes, nothing more with `NETLINK_CAP_ACK`), then
/// attributes.
fn explanation(payload: &[u8]) -> Option<String> {
    let mut rest = payload.get(20..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk::<2>()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk::<2>()?);
        let value = rest.get(4..length)?;
        if kind & 0x3fff == EXPLANATION {
            let text = value.split(|b| *b == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn io(operation: &str, source: std::io::Error) -> NetworkError {
    match source.raw_os_error() {
        Some(libc::EPERM) => NetworkError::Permission { operation: operation.to_owned() },
        _ => NetworkError::Io { operation: operation.to_owned(), source },
    }
}

fn malformed(operation: &str, why: &str) -> NetworkError {
    NetworkError::Io {
        operation: operation.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, format!("unreadable netlink answer: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_words_are_kept() {
        let mut payload = (-libc::EINVAL).to_ne_bytes().to_vec();
        payload.extend([0u8; 16]);
        let text = b"Gateway is on wrong link\0";
        payload.extend(u16::try_from(4 + text.len()).unwrap().to_ne_bytes());
        payload.extend(EXPLANATION.to_ne_bytes());
        payload.extend(text);
        let error = kernel_error("add a route", error_number(&payload), &payload).to_string();
        assert!(error.contains("add a route: Gateway is on wrong link"), "{error}");
        // cut off at any byte: no words, no panic
        for end in 0..payload.len() {
            let _ = kernel_error("x", error_number(&payload[..end]), &payload[..end]);
        }
    }
}
