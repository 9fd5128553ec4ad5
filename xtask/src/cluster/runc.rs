//! Stands in for runc on a machine whose capability bounding set is cut: runc fails a container that names a capability
//! which it cannot give, instead of leaving it out. The stand-in takes those names out of the OCI specification, then
//! becomes runc.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// The real runc, beside the stand-in.
pub(crate) const REAL: &str = "runc-real";

/// Names by number, from `include/uapi/linux/capability.h`.
const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Capabilities that this process could never have, as `CAP_...`.
pub(crate) fn lacking() -> Result<Vec<String>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let bound = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("/proc/self/status: no CapBnd")?;
    let bits = u64::from_str_radix(bound.trim(), 16).context("/proc/self/status: CapBnd")?;
    Ok(missing_from(bits))
}

fn missing_from(bits: u64) -> Vec<String> {
    CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, _)| bits >> number & 1 == 0)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect()
}

/// The specification that this command line makes runc read: a bundle's, or that of a further process.
fn specification(arguments: &[String]) -> Option<PathBuf> {
    let value = |long: &str, short: &str| {
        let position = arguments.iter().position(|word| word == long || word == short);
        let separate = position.and_then(|at| arguments.get(at + 1));
        let joined = arguments.iter().find_map(|word| word.strip_prefix(long)?.strip_prefix('='));
        separate.map(String::as_str).or(joined).map(PathBuf::from)
    };
    let verb = arguments.iter().find(|word| matches!(word.as_str(), "create" | "run" | "exec"))?;
    if verb == "exec" {
        return value("--process", "-p");
    }
    Some(value("--bundle", "-b").unwrap_or_else(|| PathBuf::from(".")).join("config.json"))
}

/// Removes the names from every capability set of a specification; whether there were any.
fn strip(value: &mut Value, lacking: &[String]) -> bool {
    let process = if value.get("process").is_some() { value.get_mut("process") } else { Some(value) };
    let sets = process.and_then(|process| process.get_mut("capabilities")).and_then(Value::as_object_mut);
    let mut changed = false;
    for names in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
        let before = names.len();
        names.retain(|name| name.as_str().is_none_or(|name| !lacking.iter().any(|other| other == name)));
        changed |= names.len() != before;
    }
    changed
}

fn strip_file(path: &Path) -> Result<()> {
    let mut value: Value = serde_json::from_slice(&fs::read(path)?)?;
    if strip(&mut value, &lacking()?) {
        fs::write(path, serde_json::to_vec(&value)?)?;
    }
    Ok(())
}

/// Acts as runc.
pub(crate) fn run(own_path: &Path, arguments: &[String]) -> Result<()> {
    if let Some(path) = specification(arguments).filter(|path| path.is_file()) {
        strip_file(&path).with_context(|| format!("editing {}", path.display()))?;
    }
    let real = own_path.with_file_name(REAL);
    Err(Command::new(&real).args(arguments).exec()).with_context(|| format!("starting {}", real.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn specification_of_each_verb_is_found() {
        let create = words("--root /run/runc --log x create --bundle /b --pid-file p id");
        assert_eq!(specification(&create), Some(PathBuf::from("/b/config.json")));
        assert_eq!(specification(&words("exec --process=/tmp/p --detach id")), Some(PathBuf::from("/tmp/p")));
        assert_eq!(specification(&words("delete id")), None);
    }

    #[test]
    fn only_lacking_capabilities_are_taken_out() {
        let lacking = missing_from(!(1 << 24));
        assert!(lacking.contains(&"CAP_SYS_RESOURCE".to_owned()) && lacking.len() == 1);
        let mut spec =
            json!({"process": {"capabilities": {"bounding": ["CAP_SYS_RESOURCE", "CAP_BPF"], "effective": []}}});
        assert!(strip(&mut spec, &lacking));
        assert_eq!(spec["process"]["capabilities"]["bounding"], json!(["CAP_BPF"]));
        assert!(!strip(&mut spec, &lacking));
    }
}
