//! The CNI plugin: one call to the agent.

use std::{
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    process::ExitCode,
    time::Duration,
};

use axoneme_cni::{Answer, Command, Config, DEFAULT_SOCKET, Failure, NEWEST, Request, SUPPORTED, code, frame};
use serde_json::{Value, json};

/// Longer than the agent's own deadline for ADD, so that its reason is what the runtime shows.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    let mut input = Vec::new();
    if let Err(e) = std::io::stdin().lock().read_to_end(&mut input) {
        return report(&Failure::new(code::IO, format!("read the network configuration: {e}")), NEWEST);
    }
    let version = serde_json::from_slice::<Config>(&input).map(|c| c.version).unwrap_or_default();
    let version = if SUPPORTED.contains(&&*version) { version } else { NEWEST.to_owned() };
    match run(&input) {
        Ok(Value::Null) => ExitCode::SUCCESS,
        Ok(result) => print(&result, ExitCode::SUCCESS),
        Err(failure) => report(&failure, &version),
    }
}

fn run(input: &[u8]) -> Result<Value, Failure> {
    let command = variable("CNI_COMMAND");
    let command = Command::parse(&command).ok_or_else(|| {
        Failure::new(
            code::ENVIRONMENT,
            format!(
                "CNI_COMMAND={command:?}: must be ADD, DEL, CHECK, GC, STATUS or VERSION (a container runtime sets it)"
            ),
        )
    })?;
    if command == Command::Version {
        return Ok(json!({"cniVersion": NEWEST, "supportedVersions": SUPPORTED}));
    }
    let config: Value = serde_json::from_slice(input)
        .map_err(|e| Failure::new(code::DECODE, format!("network configuration on standard input: {e}")))?;
    let read: Config = serde_json::from_value(config.clone())
        .map_err(|e| Failure::new(code::CONFIG, format!("network configuration: {e}")))?;
    if !SUPPORTED.contains(&&*read.version) {
        let msg = format!("cniVersion {:?} is not one of {}", read.version, SUPPORTED.join(", "));
        return Err(Failure::new(code::VERSION, msg));
    }
    let request = Request {
        command,
        container_id: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS"),
        ifname: variable("CNI_IFNAME"),
        args: variable("CNI_ARGS"),
        config,
    };
    check(&request)?;
    ask(&request, read.socket.as_deref().unwrap_or(DEFAULT_SOCKET))
}

#[expect(clippy::disallowed_methods, reason = "the CNI specification passes parameters in the environment")]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// The variables that the specification requires for the command.
fn check(request: &Request) -> Result<(), Failure> {
    let attachment = matches!(request.command, Command::Add | Command::Del | Command::Check);
    let netns = matches!(request.command, Command::Add | Command::Check);
    for (name, value, needed) in [
        ("CNI_CONTAINERID", &request.container_id, attachment),
        ("CNI_IFNAME", &request.ifname, attachment),
        ("CNI_NETNS", &request.netns, netns),
    ] {
        if needed && value.is_empty() {
            return Err(Failure::new(code::ENVIRONMENT, format!("{name} is not set")));
        }
    }
    Ok(())
}

fn ask(request: &Request, socket: &str) -> Result<Value, Failure> {
    let unreachable = |e: std::io::Error| {
        let (code, hint) = match request.command {
            Command::Status => (code::UNAVAILABLE, ""),
            _ => (code::TRY_AGAIN, "; the runtime will try again"),
        };
        Failure::new(
            code,
            format!("the axoneme agent does not answer on {socket} ({e}): is its pod running on this node?{hint}"),
        )
    };
    let netns = match request.command {
        Command::Add | Command::Check => Some(
            std::fs::File::open(&request.netns)
                .map_err(|e| Failure::new(code::ENVIRONMENT, format!("CNI_NETNS {}: {e}", request.netns)))?,
        ),
        _ => None,
    };
    let body = serde_json::to_vec(request).map_err(|e| Failure::new(code::DECODE, e.to_string()))?;
    let mut stream = UnixStream::connect(socket).map_err(unreachable)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(unreachable)?;
    frame::send(&mut stream, &body, netns.as_ref().map(AsFd::as_fd)).map_err(unreachable)?;
    let answer = frame::receive(&mut stream).map_err(unreachable)?;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Done(result)) => Ok(result),
        Ok(Answer::Failed(failure)) => Err(failure),
        Err(e) => Err(Failure::new(code::DECODE, format!("unreadable answer of the agent: {e}"))),
    }
}

fn report(failure: &Failure, version: &str) -> ExitCode {
    print(&failure.print(version), ExitCode::FAILURE)
}

fn print(value: &Value, code: ExitCode) -> ExitCode {
    match writeln!(std::io::stdout().lock(), "{value}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
