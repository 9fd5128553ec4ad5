//! The words between container runtime, plugin and agent (CNI specification 1.1.0).
//!
//! ```text
//!   runtime ──stdin, CNI_* variables──▶ axoneme-cni ──one frame + fd of the pod's netns──▶ agent
//!           ◀──stdout, exit code───────             ◀──one frame──────────────────────────
//! ```
//!
//! The plugin decides nothing: it checks what it can check alone (command, version), asks the agent and prints. The
//! file descriptor of the pod's network namespace goes along, so that the agent needs no view of the runtime's mounts.

pub mod frame;
pub mod protocol;
pub mod result;

pub use protocol::{Answer, Command, Config, Failure, Request, code};
pub use result::{AddResult, Interface, IpConfig, Route};

/// Versions of the specification that results are printed in.
pub const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Spoken when the caller names none (VERSION).
pub const NEWEST: &str = "1.1.0";
/// Name of the plugin's binary and `type` of its network configuration.
pub const PLUGIN: &str = "axoneme-cni";
/// Where the agent listens unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/axoneme/cni.sock";
