//! The stock client, on a node or on this machine.

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use serde_json::Value;

use crate::command::{output, program};
use crate::lab::{Lab, SYSTEM};
use crate::setup;

/// A program that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A port of this machine that leads to the relay.
pub(super) struct Forward {
    port: u16,
    _child: Running,
}

impl Forward {
    /// As people do: `kubectl port-forward service/hubble-relay :80`.
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let mut command = lab.cluster.kubectl_command();
        command.args(["-n", SYSTEM, "port-forward", "service/hubble-relay", ":80"]);
        let mut child = Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
        let mut lines = BufReader::new(child.0.stdout.take().context("its output")?).lines();
        // Forwarding from 127.0.0.1:40000 -> 4245
        let first = lines.next().context("kubectl port-forward said nothing")??;
        let port = first.split([':', ' ']).find_map(|word| word.parse().ok());
        let port = port.with_context(|| format!("kubectl port-forward: {first}"))?;
        // the rest is read so that it never waits for a reader
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { port, _child: child })
    }
}

/// What a Secret holds, in files that go with this.
pub(super) struct Certificates(PathBuf);

impl Drop for Certificates {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

impl Certificates {
    pub(super) fn of(lab: &Lab, secret: &str) -> Result<Self> {
        let object = lab.get(&["-n", SYSTEM, "secret", secret])?;
        let directory = lab.cluster.directory().join(secret);
        fs::create_dir_all(&directory)?;
        let made = Self(directory);
        for name in ["ca.crt", "tls.crt", "tls.key"] {
            let data = object.get("data").and_then(|d| d.get(name)).and_then(Value::as_str);
            let data = data.with_context(|| format!("Secret {secret} has no {name}"))?;
            let bytes = base64::engine::general_purpose::STANDARD.decode(data)?;
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(made.0.join(name))?;
            file.write_all(&bytes)?;
        }
        Ok(made)
    }

    fn flag(&self, flag: &str, file: &str) -> [String; 2] {
        [flag.to_owned(), self.0.join(file).display().to_string()]
    }

    /// For a server of this name, without showing a certificate.
    pub(super) fn trust(&self, server: &str) -> Vec<String> {
        let name = ["--tls-server-name".to_owned(), server.to_owned()];
        self.flag("--tls-ca-cert-files", "ca.crt").into_iter().chain(name).collect()
    }

    /// For a server of this name.
    pub(super) fn flags(&self, server: &str) -> Vec<String> {
        let own = [self.flag("--tls-client-cert-file", "tls.crt"), self.flag("--tls-client-key-file", "tls.key")];
        self.trust(server).into_iter().chain(own.into_iter().flatten()).collect()
    }
}

/// The stock client, asking one server.
pub(super) struct Client<'a> {
    lab: &'a Lab,
    program: String,
    /// None: this machine.
    node: Option<String>,
    flags: Vec<String>,
    last: RefCell<String>,
}

impl<'a> Client<'a> {
    pub(super) fn on_node(lab: &'a Lab, node: &str, server: &str, flags: &[String]) -> Result<Self> {
        Self::new(lab, Some(node.to_owned()), server, flags)
    }

    /// Through a forwarded port.
    pub(super) fn here(lab: &'a Lab, forward: &Forward) -> Result<Self> {
        Self::new(lab, None, &format!("127.0.0.1:{}", forward.port), &[])
    }

    fn new(lab: &'a Lab, node: Option<String>, server: &str, flags: &[String]) -> Result<Self> {
        let program = setup::hubble::client()?.display().to_string();
        let server = ["--server".to_owned(), server.to_owned(), "--timeout".to_owned(), "5s".to_owned()];
        let flags = server.into_iter().chain(flags.iter().cloned()).collect();
        Ok(Self { lab, program, node, flags, last: RefCell::default() })
    }

    fn command(&self, args: &[&str]) -> Command {
        let words = args.iter().copied().chain(self.flags.iter().map(String::as_str));
        if let Some(node) = &self.node {
            let words: Vec<&str> = std::iter::once(self.program.as_str()).chain(words).collect();
            return self.lab.cluster.command_in(node, &words);
        }
        let mut command = program(&self.program);
        command.args(words);
        command
    }

    /// What it prints.
    pub(super) fn text(&self, args: &[&str]) -> Result<String> {
        let said = output(&mut self.command(args))?;
        self.last.replace(said.clone());
        Ok(said)
    }

    /// What it printed last, for messages.
    pub(super) fn last(&self) -> String {
        self.last.borrow().clone()
    }

    /// All flows that are still known and pass these filters.
    pub(super) fn flows(&self, args: &[&str]) -> Result<Vec<Value>> {
        let all: Vec<&str> = ["observe", "--last", "4000", "-o", "jsonpb"].iter().chain(args).copied().collect();
        self.text(&all)?.lines().filter_map(|line| flow(line).transpose()).collect()
    }

    /// The first lines of something that goes on.
    pub(super) fn begun(&self, args: &[&str], lines: usize) -> Result<Vec<String>> {
        let (_child, said) = self.spawn(args)?;
        let ends = Instant::now() + Duration::from_secs(10);
        (0..lines)
            .map(|n| {
                let left = ends.saturating_duration_since(Instant::now());
                said.recv_timeout(left).with_context(|| format!("{args:?} has printed {n} lines of {lines}"))
            })
            .collect()
    }

    fn spawn(&self, args: &[&str]) -> Result<(Running, mpsc::Receiver<String>)> {
        let mut command = self.command(args);
        let mut child = Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
        let lines = BufReader::new(child.0.stdout.take().context("its output")?).lines();
        let (sender, said) = mpsc::sync_channel(1024);
        std::thread::spawn(move || lines.map_while(std::result::Result::ok).try_for_each(|l| sender.send(l)));
        Ok((child, said))
    }

    /// Begins to follow.
    pub(super) fn follow(&self, args: &[&str]) -> Result<Following> {
        let all: Vec<&str> = ["observe", "-o", "jsonpb"].iter().chain(args).copied().collect();
        let (child, said) = self.spawn(&all)?;
        let flows: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = flows.clone();
        std::thread::spawn(move || {
            for line in said {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Ok(Following { _child: child, lines: flows })
    }
}

/// A client that goes on.
pub(super) struct Following {
    _child: Running,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Following {
    pub(super) fn so_far(&self) -> Result<Vec<Value>> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
        lines.iter().filter_map(|line| flow(line).transpose()).collect()
    }
}

/// None: a line about nodes or losses.
fn flow(line: &str) -> Result<Option<Value>> {
    let mut line: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
    Ok(line.get_mut("flow").map(Value::take))
}
