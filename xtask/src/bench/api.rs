//! Requests to an API server without kubectl's start in them: `kubectl proxy` keeps the authenticated connection, and this
//! speaks plain HTTP/1.1 to its socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::progress::wait;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running proxy; it ends with this value.
#[derive(Debug)]
pub(super) struct Api {
    proxy: Child,
    socket: PathBuf,
}

impl Api {
    /// Starts the proxy of a cluster and waits until it answers.
    pub(super) fn of(cluster: &Cluster) -> Result<Self> {
        let socket = cluster.directory().join("bench-proxy.sock");
        drop(std::fs::remove_file(&socket));
        let mut command = cluster.kubectl_command();
        command.arg("proxy").arg(format!("--unix-socket={}", socket.display()));
        // kubectl refuses writes to some subresources by default; none is used here
        let proxy = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let api = Self { proxy, socket };
        wait("kubectl proxy", PATIENCE, Duration::from_millis(20), || {
            Ok(api.request("GET", "/readyz", None).ok().map(drop))
        })?;
        Ok(api)
    }

    /// Creates an object; returns once the API server has accepted it.
    pub(super) fn create(&self, path: &str, object: &Value) -> Result<()> {
        self.request("POST", path, Some(object)).map(drop)
    }

    /// Deletes an object, or a collection that a query picks.
    pub(super) fn delete(&self, path: &str) -> Result<()> {
        self.request("DELETE", path, None).map(drop)
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).with_context(|| format!("{method} {path}"))?;
        accepted(&String::from_utf8_lossy(&answer)).with_context(|| format!("{method} {path}"))
    }
}

/// The answer if its status is one of success.
fn accepted(answer: &str) -> Result<String> {
    let status = answer.split_whitespace().nth(1).and_then(|code| code.parse::<u16>().ok());
    let status = status.with_context(|| format!("no HTTP answer: {answer:?}"))?;
    ensure!((200..300).contains(&status), "{status}: {}", answer.split_once("\r\n\r\n").map_or("", |(_, body)| body));
    if answer.contains("\r\n\r\n") { Ok(answer.to_owned()) } else { bail!("the answer was cut short") }
}

impl Drop for Api {
    fn drop(&mut self) {
        drop(self.proxy.kill());
        drop(self.proxy.wait());
        drop(std::fs::remove_file(&self.socket));
    }
}

#[cfg(test)]
mod tests {
    use super::accepted;

    #[test]
    fn only_success_is_accepted() {
        assert!(accepted("HTTP/1.1 201 Created\r\nA: b\r\n\r\n{}").is_ok());
        let refused = accepted("HTTP/1.1 409 Conflict\r\n\r\nthere already").unwrap_err();
        assert_eq!(refused.to_string(), "409: there already");
        assert!(accepted("").is_err());
        assert!(accepted("HTTP/1.1 200 OK\r\n").is_err());
    }
}
