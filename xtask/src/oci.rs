//! OCI image archives without a container tool: one layer from a described root file system, packed as an image layout.
//!
//! The bytes depend on the content alone: entries in path order, owner root, time zero. The same input gives the same
//! digest on every machine. <https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md>

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// One entry of an image's root file system.
#[derive(Clone, Debug)]
enum Entry {
    Dir { mode: u32 },
    File { from: PathBuf, mode: u32 },
    Text { content: Vec<u8>, mode: u32 },
    Link { to: String },
}

/// What an image's root file system holds, by absolute path without the leading slash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rootfs {
    entries: BTreeMap<String, Entry>,
}

impl Rootfs {
    /// An empty root.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A directory with this mode; parents come by themselves with mode 0755.
    pub(crate) fn dir(&mut self, path: &str, mode: u32) -> &mut Self {
        self.put(path, Entry::Dir { mode })
    }

    /// A copy of a file of this machine, symbolic links followed.
    pub(crate) fn file(&mut self, path: &str, from: impl Into<PathBuf>, mode: u32) -> &mut Self {
        self.put(path, Entry::File { from: from.into(), mode })
    }

    /// A file with this content.
    pub(crate) fn text(&mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> &mut Self {
        self.put(path, Entry::Text { content: content.into(), mode })
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) -> &mut Self {
        self.put(path, Entry::Link { to: to.to_owned() })
    }

    /// Whether the path is there already.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path.trim_matches('/'))
    }

    fn put(&mut self, path: &str, entry: Entry) -> &mut Self {
        let path = path.trim_matches('/');
        for (cut, _) in path.match_indices('/') {
            let parent = path.get(..cut).unwrap_or_default().to_owned();
            self.entries.entry(parent).or_insert(Entry::Dir { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
        self
    }

    /// Writes the content as the kernel reads an initramfs: a `newc` archive.
    /// <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>
    ///
    /// # Errors
    /// When a source file cannot be read, or the output not written.
    pub(crate) fn write_cpio(&self, out: &mut dyn Write) -> Result<()> {
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            let (mode, content) = match entry {
                Entry::Dir { mode } => (0o040_000 | mode, Vec::new()),
                Entry::File { from, mode } => {
                    (0o100_000 | mode, fs::read(from).with_context(|| format!("reading {}", from.display()))?)
                }
                Entry::Text { content, mode } => (0o100_000 | mode, content.clone()),
                Entry::Link { to } => (0o120_777, to.clone().into_bytes()),
            };
            write_cpio_entry(out, number + 1, mode, path, &content)?;
        }
        write_cpio_entry(out, 0, 0, "TRAILER!!!", &[])
    }

    fn pack(&self, out: &mut dyn Write) -> Result<()> {
        let mut tar = Builder::new(out);
        for (path, entry) in &self.entries {
            pack_entry(&mut tar, path, entry).with_context(|| format!("packing /{path}"))?;
        }
        tar.finish()?;
        Ok(())
    }
}

fn write_cpio_entry(out: &mut dyn Write, inode: usize, mode: u32, path: &str, content: &[u8]) -> Result<()> {
    let (size, name) = (content.len(), path.len() + 1);
    // Inode, mode, owner, group, links, time, size, four device numbers, length of the name, checksum.
    write!(out, "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}", 0, 1)?;
    write!(out, "{0:08x}{0:08x}{0:08x}{0:08x}{name:08x}{0:08x}{path}", 0)?;
    // The header is 110 bytes; name and content each end on a multiple of four.
    let zeros = [0; 4];
    out.write_all(zeros.get(..1 + (4 - (110 + name) % 4) % 4).unwrap_or_default())?;
    out.write_all(content)?;
    out.write_all(zeros.get(..(4 - size % 4) % 4).unwrap_or_default())?;
    Ok(())
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn pack_entry(tar: &mut Builder<&mut dyn Write>, path: &str, entry: &Entry) -> Result<()> {
    match entry {
        Entry::Dir { mode } => {
            tar.append_data(&mut header(EntryType::Directory, *mode, 0), format!("{path}/"), io::empty())?;
        }
        Entry::File { from, mode } => {
            let file = File::open(from).with_context(|| format!("opening {}", from.display()))?;
            let size = file.metadata()?.len();
            tar.append_data(&mut header(EntryType::Regular, *mode, size), path, file)?;
        }
        Entry::Text { content, mode } => {
            let mut head = header(EntryType::Regular, *mode, content.len() as u64);
            tar.append_data(&mut head, path, content.as_slice())?;
        }
        Entry::Link { to } => tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, to)?,
    }
    Ok(())
}

/// Whether the layer is compressed: images that leave the machine are, those for the local cluster import faster plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// No compression.
    Plain,
    /// Gzip.
    Gzip,
}

/// Where programs of an image are looked for.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image to be written.
#[derive(Clone, Debug)]
pub(crate) struct ImageSpec {
    /// Full names with tags; an importer gives the image all of them.
    pub names: Vec<String>,
    /// The program and its fixed arguments.
    pub entrypoint: Vec<String>,
    /// Arguments that a pod's `args` replace.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The content.
    pub rootfs: Rootfs,
    /// How the layer is stored.
    pub layer: Layer,
}

impl ImageSpec {
    /// An image with one name, whose entry point is one program, with the usual `PATH`.
    pub(crate) fn new(name: &str, program: &str, rootfs: Rootfs) -> Self {
        Self {
            names: vec![name.to_owned()],
            entrypoint: vec![program.to_owned()],
            cmd: Vec::new(),
            env: vec![format!("PATH={SEARCH_PATH}")],
            rootfs,
            layer: Layer::Gzip,
        }
    }
}

/// Counts and hashes what goes through to the inner writer.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    fn done(self) -> (W, Blob) {
        let digest = self.hash.finalize().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        (self.inner, Blob { digest, size: self.size })
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..count).unwrap_or_default());
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A stored object: SHA-256 in hexadecimal, and its length.
struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn of(bytes: &[u8]) -> Result<Self> {
        let mut hashing = Hashing::new(io::sink());
        hashing.write_all(bytes)?;
        Ok(hashing.done().1)
    }

    fn describe(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.size})
    }
}

/// The stored layer (as it is in the archive), and the digest of its uncompressed form.
fn write_layer(spec: &ImageSpec, file: &mut File) -> Result<(Blob, String)> {
    let stored = Hashing::new(io::BufWriter::new(file));
    let (stored, plain_digest) = match spec.layer {
        Layer::Plain => {
            let mut stored = stored;
            spec.rootfs.pack(&mut stored)?;
            (stored, None)
        }
        Layer::Gzip => {
            let mut plain = Hashing::new(GzEncoder::new(stored, Compression::default()));
            spec.rootfs.pack(&mut plain)?;
            let (gzip, blob) = plain.done();
            (gzip.finish()?, Some(blob.digest))
        }
    };
    let (mut writer, blob) = stored.done();
    writer.flush()?;
    let diff = plain_digest.unwrap_or_else(|| blob.digest.clone());
    Ok((blob, diff))
}

/// Writes the archive to `out`, replacing it in one rename.
///
/// # Errors
/// When a source file cannot be read or the archive not written; `out` is then untouched.
pub(crate) fn write(spec: &ImageSpec, out: &Path) -> Result<()> {
    let dir = out.parent().context("an archive lies in a directory")?;
    fs::create_dir_all(dir)?;
    let scratch = out.with_extension(format!("layer-{}", std::process::id()));
    let fresh = out.with_extension(format!("fresh-{}", std::process::id()));
    let done = assemble(spec, &scratch, &fresh).and_then(|()| Ok(fs::rename(&fresh, out)?));
    drop(fs::remove_file(&scratch));
    if done.is_err() {
        drop(fs::remove_file(&fresh));
    }
    done.with_context(|| format!("writing image archive {}", out.display()))
}

fn assemble(spec: &ImageSpec, scratch: &Path, fresh: &Path) -> Result<()> {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(scratch)?;
    let (layer, diff) = write_layer(spec, &mut file)?;
    file.seek(SeekFrom::Start(0))?;
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": spec.entrypoint, "Cmd": spec.cmd, "Env": spec.env},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff}")]},
    }))?;
    let config_blob = Blob::of(&config)?;
    let layer_type = match spec.layer {
        Layer::Plain => "application/vnd.oci.image.layer.v1.tar",
        Layer::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
    };
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": manifest_type,
        "config": config_blob.describe("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.describe(layer_type)],
    }))?;
    let manifest_blob = Blob::of(&manifest)?;
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": spec.names.iter().map(|name| named(&manifest_blob, manifest_type, name)).collect::<Vec<_>>(),
    }))?;
    let mut tar = Builder::new(io::BufWriter::new(File::create(fresh)?));
    let mut add = |path: &str, size: u64, data: &mut dyn Read| {
        tar.append_data(&mut header(EntryType::Regular, 0o644, size), path, data)
    };
    for (path, bytes) in [
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice()),
        ("index.json", &index),
        (&format!("blobs/sha256/{}", manifest_blob.digest), &manifest),
        (&format!("blobs/sha256/{}", config_blob.digest), &config),
    ] {
        add(path, bytes.len() as u64, &mut io::Cursor::new(bytes))?;
    }
    add(&format!("blobs/sha256/{}", layer.digest), layer.size, &mut file)?;
    tar.into_inner()?.flush()?;
    Ok(())
}

/// containerd takes the full name from its own annotation; the standard one holds only the tag.
fn named(manifest: &Blob, media_type: &str, name: &str) -> Value {
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let mut value = manifest.describe(media_type);
    if let Some(object) = value.as_object_mut() {
        object.insert("platform".to_owned(), json!({"architecture": "amd64", "os": "linux"}));
        object.insert(
            "annotations".to_owned(),
            json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}),
        );
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(layer: Layer) -> ImageSpec {
        let mut root = Rootfs::new();
        root.text("/etc/motd", "hello", 0o644).link("/bin/sh", "busybox").dir("/tmp", 0o1777);
        ImageSpec { layer, ..ImageSpec::new("example.org/a:1", "/bin/sh", root) }
    }

    fn archive(layer: Layer, name: &str) -> Vec<u8> {
        let dir = std::env::temp_dir().join(format!("axoneme-oci-{}-{name}", std::process::id()));
        let out = dir.join("a.tar");
        write(&image(layer), &out).unwrap();
        let bytes = fs::read(&out).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "scratch files are gone");
        fs::remove_dir_all(&dir).unwrap();
        bytes
    }

    #[test]
    fn same_content_gives_same_bytes() {
        assert_eq!(archive(Layer::Gzip, "one"), archive(Layer::Gzip, "two"));
        assert_eq!(archive(Layer::Plain, "one"), archive(Layer::Plain, "two"));
    }

    #[test]
    fn every_digest_names_its_content() {
        let bytes = archive(Layer::Gzip, "digests");
        let mut blobs = 0;
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            if let Some(digest) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(Blob::of(&content).unwrap().digest, digest);
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3);
    }

    #[test]
    fn initramfs_is_read_by_another_program() {
        let dir = std::env::temp_dir().join(format!("axoneme-cpio-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        image(Layer::Plain).rootfs.write_cpio(&mut File::create(dir.join("a.cpio")).unwrap()).unwrap();
        let input = File::open(dir.join("a.cpio")).unwrap();
        let unpacked = std::process::Command::new("busybox")
            .args(["cpio", "-i", "-d"])
            .current_dir(&dir)
            .stdin(input)
            .output()
            .unwrap();
        assert!(unpacked.status.success(), "{unpacked:?}");
        assert_eq!(fs::read_to_string(dir.join("etc/motd")).unwrap(), "hello");
        assert_eq!(fs::read_link(dir.join("bin/sh")).unwrap(), Path::new("busybox"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn layer_lists_parents_before_children_with_time_zero() {
        let mut plain = Vec::new();
        image(Layer::Plain).rootfs.pack(&mut plain).unwrap();
        let mut archive = tar::Archive::new(plain.as_slice());
        let seen: Vec<(String, u64)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.path().unwrap().to_string_lossy().into_owned(), entry.header().mtime().unwrap())
            })
            .collect();
        let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["bin/", "bin/sh", "etc/", "etc/motd", "tmp/"]);
        assert!(seen.iter().all(|(_, time)| *time == 0));
    }
}
