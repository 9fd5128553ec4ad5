//! `axoneme sysdump`: one archive of what somebody needs who was not there.
//!
//! ```text
//!   API server ─▶ page by page ─▶ redact ─▶ a part on disk ─▶ tar.gz
//! ```
//!
//! Secrets are not asked for, and what looks like one in anything else is taken out before it is written anywhere
//! ([`redact`]). Nothing is held as a whole: lists come in pages, logs with a limit. A part that cannot be had is named in
//! the index, and the others are there all the same.

pub mod redact;

use std::{
    fs::{self, File, OpenOptions},
    io::{BufWriter, Seek as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use serde::Serialize;
use serde_json::Value;

use crate::{
    args::cluster::Sysdump,
    cluster::{Cluster, Fault},
    failure::Failure,
    install::{NAMESPACE, manifests},
    kinds::{Resource, metadata},
    output::Output,
    progress::Progress,
};

/// What is listed: file, version, kind, resource, namespace (empty: no namespace or all).
const LISTS: &[(&str, &str, &str, &str, &str)] = &[
    ("cluster/nodes", "v1", "Node", "nodes", ""),
    (
        "cluster/webhooks",
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "",
    ),
    ("cluster/apiservices", "apiregistration.k8s.io/v1", "APIService", "apiservices", ""),
    ("objects/networkpolicies", "networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", ""),
    ("product/pods", "v1", "Pod", "pods", NAMESPACE),
    ("product/daemonsets", "apps/v1", "DaemonSet", "daemonsets", NAMESPACE),
    ("product/deployments", "apps/v1", "Deployment", "deployments", NAMESPACE),
    ("product/services", "v1", "Service", "services", NAMESPACE),
    ("product/configmaps", "v1", "ConfigMap", "configmaps", NAMESPACE),
    ("product/leases", "coordination.k8s.io/v1", "Lease", "leases", NAMESPACE),
    ("product/events", "v1", "Event", "events", NAMESPACE),
    // as the operator that leads sees every agent: state, revision, drift, endpoints, tables
    ("views/nodes", "views.axoneme.io/v1alpha1", "Node", "nodes", ""),
    ("views/endpoints", "views.axoneme.io/v1alpha1", "Endpoint", "endpoints", ""),
    ("views/identities", "views.axoneme.io/v1alpha1", "Identity", "identities", ""),
    ("views/policytables", "views.axoneme.io/v1alpha1", "PolicyTable", "policytables", ""),
];

/// One part of the archive.
#[derive(Debug, Serialize)]
struct Part {
    name: String,
    /// Whether it is there.
    present: bool,
    /// Objects or lines.
    count: u64,
    bytes: u64,
    /// Texts that were taken out.
    redacted: u64,
    /// Why it is missing or cut.
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}

#[derive(Debug, Serialize)]
struct Index {
    program: &'static str,
    version: &'static str,
    cluster: String,
    parts: Vec<Part>,
}

type Archive = tar::Builder<GzEncoder<BufWriter<File>>>;

struct Dump<'a> {
    cluster: &'a Cluster,
    archive: Archive,
    dir: PathBuf,
    parts: Vec<Part>,
    progress: Progress,
}

pub fn run(args: &Sysdump, out: &mut Output) -> Result<(), Failure> {
    let cluster = Cluster::new(&args.cluster)?;
    // who cannot be reached at all has no archive
    let version = cluster.text("/version").map_err(|fault| cluster.failed("/version", &fault))?;
    let (path, file) = created(args.output.as_deref())?;
    let archive = tar::Builder::new(GzEncoder::new(BufWriter::new(file), Compression::default()));
    let dir = PathBuf::from(path.file_name().unwrap_or_default()).with_extension("").with_extension("");
    let progress = Progress::start("collecting");
    let mut dump = Dump { cluster: &cluster, archive, dir, parts: Vec::new(), progress };
    dump.all(&version, args.log_mib).map_err(|e| Failure::file(&path, &e))?;
    let index = Index {
        program: "axoneme",
        version: env!("CARGO_PKG_VERSION"),
        cluster: cluster.place().to_owned(),
        parts: std::mem::take(&mut dump.parts),
    };
    dump.finish(&index).map_err(|e| Failure::file(&path, &e))?;
    drop(dump.progress);
    summary(out, &path, &index)
}

/// The archive's file, for its owner's eyes: the one that is named, or a new one where the command was given.
fn created(named: Option<&Path>) -> Result<(PathBuf, File), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if let Some(path) = named {
        let file = options.create(true).truncate(true).open(path).map_err(|e| Failure::file(path, &e))?;
        return Ok((path.to_owned(), file));
    }
    options.create_new(true);
    for n in 1_u64.. {
        let path = PathBuf::from(format!("axoneme-sysdump-{n}.tar.gz"));
        match options.open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Failure::file(&path, &error)),
        }
    }
    Err(Failure::File("axoneme-sysdump: no name is left; name one with --output".to_owned()))
}

fn summary(out: &mut Output, path: &Path, index: &Index) -> Result<(), Failure> {
    let (there, missing): (Vec<&Part>, Vec<&Part>) = index.parts.iter().partition(|p| p.present);
    let redacted: u64 = index.parts.iter().map(|p| p.redacted).sum();
    let bytes = fs::metadata(path).map(|m| m.len()).unwrap_or_default();
    out.line(&format!("{}: {} parts, {} KiB, {redacted} texts taken out", path.display(), there.len(), bytes / 1024))?;
    missing.iter().try_for_each(|p| out.line(&format!("missing: {}: {}", p.name, p.note)))
}

impl Dump<'_> {
    fn all(&mut self, version: &str, log_mib: u32) -> std::io::Result<()> {
        self.text("cluster/version.json", Ok(version.to_owned()), "")?;
        for (name, api_version, kind, plural, namespace) in LISTS {
            let resource = Resource::named(api_version, kind, plural, !namespace.is_empty());
            self.list(name, &resource, namespace)?;
        }
        for definition in axoneme_crds::all_crds() {
            let spec = definition.spec;
            let Some(version) = spec.versions.iter().find(|v| v.storage) else { continue };
            let api_version = format!("{}/{}", spec.group, version.name);
            let resource = Resource::named(&api_version, &spec.names.kind, &spec.names.plural, false);
            self.list(&format!("objects/{}", spec.names.plural), &resource, "")?;
        }
        self.definitions()?;
        self.logs(log_mib)
    }

    /// Which definitions there are and whether they are served; the schemas are in the repository.
    fn definitions(&mut self) -> std::io::Result<()> {
        let kind = "CustomResourceDefinition";
        let resource = Resource::named("apiextensions.k8s.io/v1", kind, "customresourcedefinitions", false);
        let ours = manifests::kinds();
        let mut part = Spool::new(self, "cluster/definitions")?;
        let listed = self.cluster.pages(&resource, "", "", &mut |mut object| {
            if ours.iter().any(|name| name == metadata(&object, "name")) {
                object.as_object_mut().map(|fields| fields.remove("spec"));
                return part.object(object);
            }
            Ok(())
        });
        self.close(part, listed)
    }

    /// A list as lines of JSON.
    fn list(&mut self, name: &str, resource: &Resource, namespace: &str) -> std::io::Result<()> {
        let mut part = Spool::new(self, name)?;
        let listed = self.cluster.pages(resource, namespace, "", &mut |object| part.object(object));
        self.close(part, listed)
    }

    /// Logs of all containers of the product's pods, those before their last restart too.
    fn logs(&mut self, mib: u32) -> std::io::Result<()> {
        let pods = Resource::named("v1", "Pod", "pods", true);
        let mut containers = Vec::new();
        let listed = self.cluster.pages(&pods, NAMESPACE, "", &mut |pod| {
            let all =
                ["/spec/initContainers", "/spec/containers"].into_iter().filter_map(|p| pod.pointer(p)?.as_array());
            let names = all.flatten().filter_map(|c| c.get("name")?.as_str());
            containers.extend(names.map(|name| (metadata(&pod, "name").to_owned(), name.to_owned())));
            Ok(())
        });
        if let Err(fault) = listed {
            self.missing("logs", fault.message());
            return Ok(());
        }
        for (pod, container) in containers {
            for (suffix, previous) in [("", false), (".previous", true)] {
                let bytes = u64::from(mib) << 20;
                let path = format!(
                    "/api/v1/namespaces/{NAMESPACE}/pods/{pod}/log?container={container}&previous={previous}&timestamps=true&limitBytes={bytes}"
                );
                let text = self.cluster.text(&path);
                // most containers have not been restarted: no part that somebody misses
                if previous && matches!(text, Err(Fault::Refused(_) | Fault::Absent(_))) {
                    continue;
                }
                let cut = text.as_ref().is_ok_and(|t| t.len() as u64 >= bytes);
                let note = if cut { "the beginning only: --log-mib" } else { "" };
                self.text(&format!("logs/{pod}/{container}{suffix}.log"), text, note)?;
            }
        }
        Ok(())
    }

    fn text(&mut self, name: &str, text: Result<String, Fault>, note: &str) -> std::io::Result<()> {
        let text = match text {
            Ok(text) => text,
            Err(fault) => {
                self.missing(name, fault.message());
                return Ok(());
            }
        };
        let (clean, redacted) = redact::text(&text);
        let mut header = header(clean.len() as u64);
        self.archive.append_data(&mut header, self.dir.join(name), clean.as_bytes())?;
        let count = clean.lines().count() as u64;
        let part = Part {
            name: name.to_owned(),
            present: true,
            count,
            bytes: clean.len() as u64,
            redacted,
            note: note.to_owned(),
        };
        self.parts.push(part);
        Ok(())
    }

    /// What was asked for and cannot be had.
    fn missing(&mut self, name: &str, why: &str) {
        let (note, redacted) = redact::text(why);
        self.parts.push(Part { name: name.to_owned(), present: false, count: 0, bytes: 0, redacted, note });
    }

    /// Puts a list into the archive: all of it, or what came before it broke off.
    fn close(&mut self, part: Spool, listed: Result<(), Fault>) -> std::io::Result<()> {
        let Spool { name, mut file, count, redacted, failed } = part;
        if let Some(error) = failed {
            return Err(error);
        }
        let note = match listed {
            Ok(()) => String::new(),
            Err(fault) if count == 0 => {
                self.missing(&name, fault.message());
                return Ok(());
            }
            Err(fault) => format!("it broke off after {count} objects: {}", redact::text(fault.message()).0),
        };
        file.flush()?;
        let mut file = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        let bytes = file.stream_position()?;
        file.rewind()?;
        self.archive.append_data(&mut header(bytes), self.dir.join(&name), &mut file)?;
        self.parts.push(Part { name, present: true, count, bytes, redacted, note });
        Ok(())
    }

    fn finish(&mut self, index: &Index) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(index).map_err(std::io::Error::other)?;
        self.archive.append_data(&mut header(text.len() as u64), self.dir.join("index.json"), text.as_bytes())?;
        self.archive.finish()?;
        self.archive.get_mut().try_finish()?;
        self.archive.get_mut().get_mut().flush()
    }
}

fn header(bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_cksum();
    header
}

/// A list on its way into the archive, whose format wants the size first.
struct Spool {
    name: String,
    file: BufWriter<File>,
    count: u64,
    redacted: u64,
    /// Why it could not be written.
    failed: Option<std::io::Error>,
}

impl Spool {
    fn new(dump: &Dump<'_>, name: &str) -> std::io::Result<Self> {
        dump.progress.say(format!("collecting {name}"));
        let file = BufWriter::new(tempfile::tempfile()?);
        Ok(Self { name: format!("{name}.jsonl"), file, count: 0, redacted: 0, failed: None })
    }

    fn object(&mut self, mut object: Value) -> Result<(), Fault> {
        self.redacted += redact::object(&mut object);
        self.count += 1;
        let written = serde_json::to_writer(&mut self.file, &object)
            .map_err(std::io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"));
        written.map_err(|error| {
            let fault = Fault::Refused(error.to_string());
            self.failed = Some(error);
            fault
        })
    }
}
