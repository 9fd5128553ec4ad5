//! The guest: its initramfs, its boot, its verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;
use crate::command::program;
use crate::oci::Rootfs;
use crate::settings;
use crate::setup::rootfs;

/// Loaded on demand in the guest.
const MODULES: &[&str] = &[
    "veth",
    "wireguard",
    "esp4",
    "esp6",
    "xfrm_user",
    "xfrm_interface",
    "vxlan",
    "geneve",
    "sch_ingress",
    "sch_tbf",
    "cls_bpf",
    "nft_tproxy",
    "tun",
    "dummy",
    "vrf",
    "sctp",
    "bridge",
    "netkit",
];
/// ESP asks for its ciphers by name at run time, so every one of them is there.
const CIPHERS: &[&str] = &["kernel/crypto/", "kernel/arch/x86/crypto/", "kernel/lib/crypto/"];
const PROGRAMS: &[&str] = &["bash", "ip", "ping", "wg", "nft", "tc", "modprobe", "timeout"];
/// What the guest prints last; anything else, as a panic, is a failure.
const VERDICT: &str = "VM-STATUS ";

/// A boot of a kernel with what a command needs.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) kernel: Kernel,
    /// Modules beside the usual ones.
    pub(crate) modules: Vec<String>,
    /// Files and programs, at the same path in the guest.
    pub(crate) files: Vec<PathBuf>,
    /// Words for the kernel's command line.
    pub(crate) append: String,
    /// As QEMU writes it.
    pub(crate) memory: String,
    /// Until the guest is given up.
    pub(crate) timeout_seconds: u64,
}

impl Guest {
    /// Boots and runs the command; what it prints goes to standard output.
    ///
    /// # Errors
    /// When the command failed, the kernel panicked, or the time was over.
    pub(crate) fn run(&self, command: &[String]) -> Result<()> {
        self.run_lines(command, &mut |line| println!("{line}"))
    }

    /// As [`Guest::run`], with each line of what the command prints.
    pub(crate) fn run_lines(&self, command: &[String], each: &mut dyn FnMut(&str)) -> Result<()> {
        let dir = settings::target().join("vm");
        fs::create_dir_all(&dir)?;
        let initrd = dir.join(format!("initrd-{}-{}", self.kernel.release(), std::process::id()));
        let done = self.write_initrd(command, &initrd).and_then(|()| self.boot(&initrd, each));
        drop(fs::remove_file(&initrd));
        done
    }

    fn boot(&self, initrd: &Path, each: &mut dyn FnMut(&str)) -> Result<()> {
        let words = "console=ttyS0 quiet loglevel=3 panic=-1 nokaslr mitigations=off tsc=reliable";
        let mut child = program("timeout")
            .args(["--kill-after=5", &self.timeout_seconds.to_string(), "qemu-system-x86_64"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", &self.memory, "-nodefaults"])
            .args(["-no-reboot", "-display", "none", "-serial", "stdio", "-kernel"])
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", &format!("{words} {}", self.append)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start qemu-system-x86_64")?;
        let mut verdict = None;
        for line in BufReader::new(child.stdout.take().context("QEMU has an output")?).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            match line.strip_prefix(VERDICT) {
                Some(status) => verdict = status.trim().parse::<i32>().ok(),
                None => each(&line),
            }
        }
        let ended = child.wait()?;
        match verdict {
            Some(0) => Ok(()),
            Some(status) => bail!("on kernel {}: the command ended with {status}", self.kernel.release()),
            None if ended.code() == Some(124) => {
                bail!("on kernel {}: not done after {} s", self.kernel.release(), self.timeout_seconds)
            }
            None => bail!("on kernel {}: the guest ended without a verdict", self.kernel.release()),
        }
    }

    fn write_initrd(&self, command: &[String], out: &Path) -> Result<()> {
        let mut root = Rootfs::new();
        for dir in ["/proc", "/sys", "/dev", "/run/netns", "/etc", "/root", "/var"] {
            root.dir(dir, 0o755);
        }
        root.dir("/tmp", 0o1777).dir("/.root", 0o755).dir("/mnt", 0o755).link("/var/run", "/run");
        root.text("/etc/hosts", "127.0.0.1 localhost\n", 0o644).text("/etc/resolv.conf", "", 0o644);
        for name in PROGRAMS {
            rootfs::add_program(&mut root, name)?;
        }
        // Where the kernel looks for it when it wants a module.
        root.link("/sbin/modprobe", "/bin/modprobe");
        // busybox' own shell prefers its applets to the programs on the PATH.
        root.link("/bin/sh", "bash");
        rootfs::add_busybox(&mut root)?;
        for file in &self.files {
            rootfs::add_same_path(&mut root, &std::path::absolute(file)?)?;
        }
        self.add_modules(&mut root)?;
        root.text("/init", init_script(command), 0o755);
        let mut writer = BufWriter::new(File::create(out)?);
        root.write_cpio(&mut writer)?;
        writer.flush().context("writing the initramfs")
    }

    fn add_modules(&self, root: &mut Rootfs) -> Result<()> {
        let dir = self.kernel.modules();
        let place = format!("/lib/modules/{}", self.kernel.release());
        let listed = fs::read_to_string(dir.join("modules.dep")).context("reading modules.dep")?;
        let wanted: Vec<&str> = MODULES.iter().copied().chain(self.modules.iter().map(String::as_str)).collect();
        for path in closure(&listed, &wanted) {
            root.file(&format!("{place}/{path}"), dir.join(&path), 0o644);
        }
        for entry in fs::read_dir(&dir)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("modules.") {
                root.file(&format!("{place}/{name}"), entry.path(), 0o644);
            }
        }
        Ok(())
    }
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// The files of the named modules, of all ciphers, and of all that these need. A name that this kernel lacks, or has
/// built in, is left out: the command in the guest says what it misses.
fn closure(listed: &str, wanted: &[&str]) -> BTreeSet<String> {
    let known: BTreeMap<&str, &str> = listed.lines().filter_map(|line| line.split_once(':')).collect();
    let mut open: Vec<&str> = known
        .keys()
        .copied()
        .filter(|path| {
            let name = module_name(path);
            wanted.iter().any(|module| module.replace('-', "_") == name)
                || CIPHERS.iter().any(|dir| path.starts_with(dir))
        })
        .collect();
    let mut found = BTreeSet::new();
    while let Some(path) = open.pop() {
        if found.insert(path.to_owned()) {
            open.extend(known.get(path).into_iter().flat_map(|needs| needs.split_whitespace()));
        }
    }
    found
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn init_script(command: &[String]) -> String {
    let command: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    format!(
        "#!/bin/bash
# The kernel's first root cannot be pivoted from, which container runtimes do: this one is a mount on top of it.
if [ \"$1\" != again ]; then
  mount -o bind / /.root && cd /.root && mount -o move . / && exec chroot . /init again
fi
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root VM=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs run /run && mkdir -p /run/netns
mount -t securityfs securityfs /sys/kernel/security
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
ip link set lo up
{}
echo \"{VERDICT}$?\"
sync
echo o > /proc/sysrq-trigger
sleep 5
",
        command.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_what_they_need() {
        let listed = "kernel/drivers/net/vxlan.ko: kernel/net/udp-tunnel.ko\n\
            kernel/net/udp-tunnel.ko: kernel/net/core-x.ko\nkernel/net/core-x.ko:\n\
            kernel/crypto/gcm.ko:\nkernel/fs/ext4.ko:\n";
        let found = closure(listed, &["vxlan", "absent"]);
        assert_eq!(
            found.iter().map(String::as_str).collect::<Vec<_>>(),
            ["kernel/crypto/gcm.ko", "kernel/drivers/net/vxlan.ko", "kernel/net/core-x.ko", "kernel/net/udp-tunnel.ko"]
        );
    }

    #[test]
    fn words_reach_the_guest_as_they_are() {
        assert!(init_script(&["echo".to_owned(), "it's $HOME".to_owned()]).contains(r"'echo' 'it'\''s $HOME'"));
    }
}
