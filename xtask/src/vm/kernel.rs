//! Debian's kernels, fetched and unpacked without installing: no boot loader, no init system is touched.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::command::{output, program};
use crate::progress::step;
use crate::settings;

/// Where a kernel comes from.
#[derive(Debug)]
struct Source {
    name: &'static str,
    /// A package that depends on the current build, or the build itself.
    package: &'static str,
    /// Suites other than this machine's, fetched with an apt state of their own.
    suites: &'static [&'static str],
}

const SOURCES: &[Source] = &[
    Source { name: "6.12", package: "linux-image-6.12-cloud-amd64", suites: &[] },
    Source { name: "6.1", package: "linux-image-cloud-amd64", suites: &[] },
    Source { name: "5.10", package: "linux-image-cloud-amd64", suites: &["bullseye", "bullseye-security"] },
    Source { name: "7.3", package: "linux-image-cloud-amd64", suites: &["trixie-backports"] },
];

/// An unpacked kernel with its modules.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    root: PathBuf,
    release: String,
}

impl Kernel {
    /// The boot image.
    pub(crate) fn image(&self) -> PathBuf {
        self.root.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// What `uname -r` says.
    pub(crate) fn release(&self) -> &str {
        &self.release
    }

    /// `lib/modules/<release>` on this machine.
    pub(crate) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }

    /// The kernel of this name, from the cache or from Debian.
    pub(crate) fn fetch(name: &str) -> Result<Self> {
        let source = SOURCES.iter().find(|source| source.name == name).with_context(|| {
            let names: Vec<&str> = SOURCES.iter().map(|source| source.name).collect();
            format!("unknown kernel {name:?}: choose one of {}", names.join(", "))
        })?;
        let root = settings::cache().join("kernels").join(source.name);
        if !root.is_dir() {
            step(&format!("kernel {name}"), || source.unpack(&root))?;
        }
        let release = fs::read_to_string(root.join("release")).context("reading the kernel's release")?;
        Ok(Self { root, release: release.trim().to_owned() })
    }
}

impl Source {
    fn unpack(&self, root: &Path) -> Result<()> {
        let work = root.with_extension(format!("fresh-{}", std::process::id()));
        let done = self.unpack_into(&work).and_then(|()| Ok(fs::rename(&work, root)?));
        drop(fs::remove_dir_all(&work));
        done
    }

    fn unpack_into(&self, work: &Path) -> Result<()> {
        let packages = work.join("packages");
        fs::create_dir_all(&packages)?;
        let apt = Apt::new(self.suites)?;
        let image = apt.newest_build(self.package)?;
        let release = image.strip_prefix("linux-image-").unwrap_or(&image).to_owned();
        let mut wanted = vec![image.clone()];
        // Kernels since 7.2 are split, and linux-image is an empty package.
        let parts = ["linux-binary-", "linux-modules-", "linux-base-"];
        wanted.extend(apt.depends(&image)?.into_iter().filter(|name| parts.iter().any(|part| name.starts_with(part))));
        wanted.retain(|name| name.contains(&release));
        output(
            apt.command("apt-get")
                .current_dir(&packages)
                .args(["-o", "APT::Sandbox::User=root", "download"])
                .args(&wanted),
        )?;
        for archive in fs::read_dir(&packages)?.flatten() {
            output(program("dpkg-deb").arg("--extract").arg(archive.path()).arg(work))?;
        }
        fs::remove_dir_all(&packages)?;
        one_layout(work, &release)?;
        fs::write(work.join("release"), &release)?;
        Ok(())
    }
}

/// Debian 13's kernels keep modules below /usr, compressed, and the image beside them.
fn one_layout(work: &Path, release: &str) -> Result<()> {
    if !work.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", work.join("lib"))?;
    }
    let modules = work.join("lib/modules").join(release);
    let image = work.join("boot").join(format!("vmlinuz-{release}"));
    if !image.is_file() {
        fs::create_dir_all(work.join("boot"))?;
        let beside = ["vmlinuz", &format!("vmlinuz-{release}")].map(|name| modules.join(name));
        let found = beside.iter().find(|path| path.is_file());
        fs::copy(found.with_context(|| format!("no boot image in the package of {release}"))?, &image)?;
    }
    let mut packed = Vec::new();
    compressed(&modules, &mut packed)?;
    for some in packed.chunks(200) {
        output(program("xz").arg("--decompress").args(some))?;
    }
    output(program("depmod").arg("--basedir").arg(work).arg(release)).map(drop)
}

fn compressed(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?.flatten() {
        let kind = entry.file_type()?;
        let path = entry.path();
        if kind.is_dir() {
            compressed(&path, found)?;
        } else if kind.is_file() && path.extension().is_some_and(|of| of == "xz") {
            found.push(path);
        }
    }
    Ok(())
}

/// apt with this machine's sources, or with others and a state of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(suites: &[&str]) -> Result<Self> {
        if suites.is_empty() {
            return Ok(Self { options: Vec::new() });
        }
        let dir = settings::cache().join("kernels/apt").join(suites.join("+"));
        for sub in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let mirror = mirror()?;
        let line = |suite: &&str| {
            let security = if suite.ends_with("-security") { "-security" } else { "" };
            format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror}{security} {suite} main\n")
        };
        fs::write(dir.join("sources.list"), suites.iter().map(line).collect::<String>())?;
        let dir = dir.display();
        let options = [
            format!("Dir::Etc::sourcelist={dir}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={dir}/lists"),
            format!("Dir::Cache={dir}/cache"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ];
        let apt = Self { options: options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect() };
        output(apt.command("apt-get").args(["-qq", "update"]))?;
        Ok(apt)
    }

    fn command(&self, name: &str) -> std::process::Command {
        let mut command = program(name);
        command.args(&self.options);
        command
    }

    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = output(self.command("apt-cache").args(["depends", package]))?;
        Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    }

    /// The package of the build that a meta package stands for.
    fn newest_build(&self, meta: &str) -> Result<String> {
        let found = self.depends(meta)?.into_iter().find(|name| {
            name.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()))
        });
        found.with_context(|| format!("{meta} names no kernel: is `apt-get update` due?"))
    }
}

/// The Debian mirror that this machine uses.
fn mirror() -> Result<String> {
    let text = output(program("apt-cache").arg("policy"))?;
    let urls = text.split_whitespace().filter(|word| word.starts_with("http") && word.ends_with("/debian"));
    let Some(url) = urls.into_iter().next() else {
        bail!("apt-cache policy names no Debian mirror: add one to /etc/apt/sources.list")
    };
    Ok(url.to_owned())
}
