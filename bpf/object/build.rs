//! Compiles `../programs` for the BPF target and puts the object into `OUT_DIR`.
//!
//! The compiler is Debian's `rustc-web` (its LLVM is the one that `bpf-linker` links with), named by its full path so
//! that rustup's toolchain does not get in the way. One target directory serves every host profile, so that tests,
//! lints and releases share one compilation.
//!
//! Environment:
//! - `BPF_OBJECT=FILE` embeds this object instead of building one (release builders, other distributions);
//! - `BPF_SKIP=1` embeds nothing (documentation builds);
//! - `BPF_CARGO`, `BPF_RUSTC`, `BPF_LINKER_DIR`, `BPF_OBJCOPY`, `AXONEME_CACHE` name the tools.

#![allow(clippy::disallowed_methods, reason = "a build script is configured by its environment")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

type Result<T> = std::result::Result<T, String>;

fn main() -> Result<()> {
    for name in ["BPF_OBJECT", "BPF_SKIP", "BPF_CARGO", "BPF_RUSTC", "BPF_LINKER_DIR", "BPF_OBJCOPY", "AXONEME_CACHE"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let here = PathBuf::from(var("CARGO_MANIFEST_DIR")?);
    let root = here.parent().ok_or("the crate has no parent directory")?;
    for path in ["programs/src", "programs/Cargo.toml", "programs/Cargo.lock", "stages/src", "abi/src"] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    let out = PathBuf::from(var("OUT_DIR")?).join("programs.o");
    if env::var("BPF_SKIP").is_ok_and(|v| v == "1") {
        return fs::write(&out, []).map_err(|e| e.to_string());
    }
    let object = match env::var_os("BPF_OBJECT") {
        Some(file) => {
            println!("cargo:rerun-if-changed={}", Path::new(&file).display());
            PathBuf::from(file)
        }
        None => build(root)?,
    };
    fs::copy(&object, &out).map_err(|e| format!("copy {}: {e}", object.display()))?;
    strip(&out)
}

/// Removes DWARF: the kernel reads only BTF, and the rest is two thirds of the object.
fn strip(object: &Path) -> Result<()> {
    let tool = env::var("BPF_OBJCOPY").unwrap_or_else(|_| "/usr/lib/llvm-22/bin/llvm-objcopy".into());
    let status = Command::new(&tool).arg("--strip-debug").arg(object).status();
    match status {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("{tool} --strip-debug: {s}")),
        Err(e) => Err(format!("{tool} (Debian package llvm-22-dev; `cargo xtask setup`): {e}")),
    }
}

fn var(name: &str) -> Result<String> {
    env::var(name).map_err(|e| format!("{name}: {e}"))
}

/// Directory of `bpf-linker`: told, or where `cargo xtask setup` puts it.
fn linker_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("BPF_LINKER_DIR") {
        return Ok(dir.into());
    }
    let cache = match env::var_os("AXONEME_CACHE") {
        Some(c) => PathBuf::from(c),
        None => PathBuf::from(var("HOME")?).join(".cache/axoneme"),
    };
    let dir = cache.join("tools/bin");
    if dir.join("bpf-linker").exists() {
        return Ok(dir);
    }
    Err(format!(
        "bpf-linker is not in {}: run `cargo xtask setup` (or set BPF_LINKER_DIR, BPF_OBJECT or BPF_SKIP=1)",
        dir.display()
    ))
}

fn build(root: &Path) -> Result<PathBuf> {
    let arch = match var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => "x86_64",
        "aarch64" => "aarch64",
        other => return Err(format!("no BPF build for {other}")),
    };
    let linker = linker_dir()?;
    let target = root.parent().ok_or("bpf has no parent directory")?.join("target/bpf");
    let mut cargo = Command::new(env::var("BPF_CARGO").unwrap_or_else(|_| "/usr/bin/cargo".into()));
    // Nothing of the outer build may leak in: its flags, wrappers, profile and rustup variables.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if (name.starts_with("CARGO") && name != "CARGO_HOME") || name.starts_with("RUST") {
            cargo.env_remove(&name);
        }
    }
    let home = env::var("CARGO_HOME").or_else(|_| var("HOME").map(|h| format!("{h}/.cargo")))?;
    let flags = [
        "-Clinker=bpf-linker".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        // The object names no path of the machine that built it.
        format!("--remap-path-prefix={}=bpf", root.display()),
        format!("--remap-path-prefix={home}=cargo"),
    ]
    .join("\x1f");
    cargo
        .current_dir(root.join("programs"))
        .env("PATH", format!("{}:/usr/bin:/bin", linker.display()))
        .env("RUSTC", env::var("BPF_RUSTC").unwrap_or_else(|_| "/usr/bin/rustc".into()))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", &target)
        .args(["build", "--release", "-Z", "build-std=core", "--target", "bpfel-unknown-none"]);
    if root.join("programs/Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    let output = cargo.output().map_err(|e| {
        format!("start the BPF compiler (Debian packages cargo-web, rustc-web, rust-web-src; `cargo xtask setup`): {e}")
    })?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return Err("the BPF programs do not compile: see above".into());
    }
    Ok(target.join("bpfel-unknown-none/release/programs"))
}
