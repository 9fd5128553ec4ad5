//! The local agent's admin socket: HTTP on a unix socket.
//!
//! Requests are HTTP/1.0, so that the answer's end is the end of the connection: one request a connection is what the
//! server does anyway, and streams need no chunks.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// How long an agent may take over a document.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Most bytes of a response's head, and of an error's text.
const HEAD_LIMIT: usize = 16 * 1024;
/// Most bytes of a document: a node's policy tables at their limits are a tenth of it.
const BODY_LIMIT: u64 = 1 << 30;

/// Speaks to one agent.
#[derive(Clone, Debug)]
pub struct Agent {
    socket: PathBuf,
}

impl Agent {
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The document at a path.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.document("GET", path)
    }

    /// The document that tells what a request has done.
    pub fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.document("POST", path)
    }

    fn document<T: DeserializeOwned>(&self, method: &str, path: &str) -> Result<T, Failure> {
        let mut body = Vec::new();
        let mut reader = self.request(method, path, Some(TIMEOUT))?.take(BODY_LIMIT);
        reader.read_to_end(&mut body).map_err(|e| self.lost(path, &e))?;
        serde_json::from_slice(&body).map_err(|e| {
            Failure::Answer(format!(
                "agent's answer to {path}: {e}; are axoneme and the agent of the same version? see: axoneme version"
            ))
        })
    }

    /// The lines that the path streams. With `patient` a silence has no limit.
    pub fn lines(&self, path: &str, patient: bool) -> Result<BufReader<UnixStream>, Failure> {
        self.request("GET", path, (!patient).then_some(TIMEOUT))
    }

    /// The connection broke in the middle of an answer.
    #[must_use]
    pub fn lost(&self, path: &str, error: &io::Error) -> Failure {
        let what = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("it did not answer within {} s; its log tells what it is busy with", TIMEOUT.as_secs())
            }
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                "it closed the connection unheard: it answers root and its own user only".to_owned()
            }
            _ => error.to_string(),
        };
        Failure::Unreachable(format!("agent at {}: {path}: {what}", self.socket.display()))
    }

    fn connect(&self) -> Result<UnixStream, Failure> {
        UnixStream::connect(&self.socket).map_err(|error| {
            let mend = match error.kind() {
                io::ErrorKind::NotFound => {
                    "there is no such socket: no agent runs on this node, or it was told another path (--socket)"
                }
                io::ErrorKind::ConnectionRefused => {
                    "nobody listens: the agent that made this socket is gone; its pod's log tells why"
                }
                io::ErrorKind::PermissionDenied => "not allowed: run this as root",
                _ => return Failure::Unreachable(format!("agent at {}: {error}", self.socket.display())),
            };
            Failure::Unreachable(format!("agent at {}: {mend}", self.socket.display()))
        })
    }

    /// Sends the request and reads the head of the answer; what follows is the body.
    fn request(&self, method: &str, path: &str, timeout: Option<Duration>) -> Result<BufReader<UnixStream>, Failure> {
        let mut stream = self.connect()?;
        // in one piece: a server that answers after the first line must not meet the rest
        let request = format!("{method} {path} HTTP/1.0\r\nHost: agent\r\nAccept: application/json\r\n\r\n");
        let sent = stream.set_read_timeout(timeout).and_then(|()| stream.write_all(request.as_bytes()));
        sent.map_err(|e| self.lost(path, &e))?;
        let mut reader = BufReader::new(stream);
        let head = read_head(&mut reader).map_err(|e| self.lost(path, &e))?;
        if head.is_empty() {
            return Err(self.lost(path, &io::ErrorKind::BrokenPipe.into()));
        }
        match status_code(&head) {
            Some(200) => Ok(reader),
            Some(code) => {
                let mut text = String::new();
                // whatever can be read of the explanation; the code alone will do
                let _ = reader.take(HEAD_LIMIT as u64).read_to_string(&mut text);
                Err(Failure::Answer(format!("agent: {path}: HTTP {code}: {}", text.trim())))
            }
            None => Err(Failure::Answer(format!("agent at {}: this is no HTTP server", self.socket.display()))),
        }
    }
}

/// Up to and with the empty line. Empty: the connection was closed before a byte came.
fn read_head(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    loop {
        let room = (HEAD_LIMIT - head.len()) as u64;
        let read = reader.by_ref().take(room).read_until(b'\n', &mut head)?;
        if read == 0 || head.ends_with(b"\r\n\r\n") || head.ends_with(b"\n\n") {
            return Ok(head);
        }
    }
}

fn status_code(head: &[u8]) -> Option<u16> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => response.code,
        _ => None,
    }
}
