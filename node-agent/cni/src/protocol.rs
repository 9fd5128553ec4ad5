//! Request and answer.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Error codes of the specification, and our own from 100 on.
pub mod code {
    /// Incompatible CNI version.
    pub const VERSION: u32 = 1;
    /// The container is unknown (CHECK).
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// Invalid environment variables.
    pub const ENVIRONMENT: u32 = 4;
    /// An operation of the system failed.
    pub const IO: u32 = 5;
    /// The network configuration is not JSON.
    pub const DECODE: u32 = 6;
    /// The network configuration has invalid values.
    pub const CONFIG: u32 = 7;
    /// Try again later: nothing is wrong with the request.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: no ADD can be served.
    pub const UNAVAILABLE: u32 = 50;
    /// STATUS: no ADD can be served, and pods that run may have limited connectivity.
    pub const UNAVAILABLE_LIMITED: u32 = 51;
    /// No free address in the pool.
    pub const POOL_EMPTY: u32 = 100;
    /// CHECK found the pod's network not as it should be.
    pub const CHECK_FAILED: u32 = 101;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    /// As `CNI_COMMAND` spells it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }
}

/// What the plugin asks the agent. Unknown fields are ignored, so that a plugin may be newer than the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub command: Command,
    #[serde(default)]
    pub container_id: String,
    /// Path, for messages and the result; the descriptor that comes along is what is used.
    #[serde(default)]
    pub netns: String,
    #[serde(default)]
    pub ifname: String,
    /// `CNI_ARGS`.
    #[serde(default)]
    pub args: String,
    /// The network configuration, as it came.
    pub config: Value,
}

impl Request {
    /// A value of `CNI_ARGS` (`KEY=value;KEY=value`).
    #[must_use]
    pub fn argument(&self, key: &str) -> Option<&str> {
        self.args.split(';').find_map(|p| p.split_once('=').filter(|(k, _)| *k == key).map(|(_, v)| v))
    }
}

/// What both sides read of the network configuration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Config {
    #[serde(rename = "cniVersion", default)]
    pub version: String,
    #[serde(default)]
    pub socket: Option<String>,
    #[serde(rename = "prevResult", default)]
    pub previous: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments", default)]
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// One interface of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub ifname: String,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

/// An error as the specification prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub code: u32,
    pub msg: String,
    #[serde(default)]
    pub details: String,
}

impl Failure {
    #[must_use]
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// What goes to standard output.
    #[must_use]
    pub fn print(&self, version: &str) -> Value {
        json!({"cniVersion": version, "code": self.code, "msg": self.msg, "details": self.details})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.msg, self.code)
    }
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// ADD's result; null for the other commands.
    Done(Value),
    Failed(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_found_by_their_whole_name() {
        let r = Request {
            command: Command::Add,
            container_id: String::new(),
            netns: String::new(),
            ifname: String::new(),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u=1".into(),
            config: Value::Null,
        };
        assert_eq!(r.argument("K8S_POD_NAME"), Some("web-0"));
        assert_eq!(r.argument("K8S_POD_UID"), Some("u=1"));
        assert_eq!(r.argument("POD_NAME"), None);
    }

    #[test]
    fn a_newer_plugin_is_understood() {
        let r: Request = serde_json::from_value(json!({"command": "GC", "config": {}, "something": "new"})).unwrap();
        assert_eq!((r.command, &*r.container_id), (Command::Gc, ""));
    }
}
