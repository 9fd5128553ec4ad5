//! The API server, for commands that ask it: in turn, with errors that say what was asked of whom.

use std::time::Duration;

use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy},
    config::{KubeConfigOptions, Kubeconfig},
    core::DynamicObject,
};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::{args::cluster::ClusterArgs, failure::Failure, kinds::Resource};

/// In whose name objects are written: what another manager has set is not overwritten unasked.
pub const MANAGER: &str = "axoneme-cli";
/// How long an address may take to accept a connection, and a request to be answered.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(30);
/// Objects in one answer of a list.
const PAGE: u32 = 500;

/// Why the API server did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be reached, or broke off, or is too busy: another try can end otherwise.
    Away(String),
    /// Somebody else says this field, or has changed the object meanwhile.
    Conflict(String),
    /// There is no such object, or no such kind.
    Absent(String),
    /// Anything else, in its own words.
    Refused(String),
}

impl Fault {
    fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                404 => Self::Absent(status.message.clone()),
                409 => Self::Conflict(status.message.clone()),
                429 | 500.. => Self::Away(format!("HTTP {}: {}", status.code, status.message)),
                code => Self::Refused(format!("HTTP {code}: {}", status.message)),
            },
            other => Self::Away(chain(other)),
        }
    }

    /// What went wrong, in words.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Away(m) | Self::Conflict(m) | Self::Absent(m) | Self::Refused(m) => m,
        }
    }
}

/// An error and its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

/// One API server.
pub struct Cluster {
    runtime: Runtime,
    client: Client,
    /// `context prod (https://10.0.0.1:6443)`.
    place: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Finds out which one is meant. It is not asked anything yet.
    pub fn new(args: &ClusterArgs) -> Result<Self, Failure> {
        // who called already has one: both are the same
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| Failure::output(&e))?;
        let (mut config, context) = runtime.block_on(find(args))?;
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(ANSWER);
        let place = match context {
            Some(context) => format!("context {context} ({})", config.cluster_url),
            None => config.cluster_url.to_string(),
        };
        let entered = runtime.enter();
        let client = Client::try_from(config).map_err(|e| Failure::Usage(format!("{place}: {}", chain(&e))))?;
        drop(entered);
        Ok(Self { runtime, client, place })
    }

    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What a fault means for a command.
    #[must_use]
    pub fn failed(&self, what: &str, fault: &Fault) -> Failure {
        match fault {
            Fault::Away(m) => Failure::Unreachable(format!(
                "API server of {}: {what}: {m}; another cluster is meant by --kubeconfig and --context",
                self.place
            )),
            other => Failure::Answer(format!("API server of {}: {what}: {}", self.place, other.message())),
        }
    }

    fn api(&self, resource: &Resource, namespace: &str) -> Api<DynamicObject> {
        match (resource.namespaced, namespace) {
            (true, "") | (false, _) => Api::all_with(self.client.clone(), &resource.api),
            (true, namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource.api),
        }
    }

    /// An object; none where there is none, or no such kind.
    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Option<Value>, Fault> {
        match self.runtime.block_on(self.api(resource, namespace).get(name)).map_err(|e| Fault::of(&e)) {
            Ok(object) => json(object).map(Some),
            // of a kind that is not served the answer is no Status but a bare 404
            Err(Fault::Absent(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// All objects of a kind; of all namespaces where `namespace` is empty.
    pub fn list(&self, resource: &Resource, namespace: &str, labels: &str) -> Result<Vec<Value>, Fault> {
        let mut all = Vec::new();
        self.pages(resource, namespace, labels, &mut |object| {
            all.push(object);
            Ok(())
        })?;
        Ok(all)
    }

    /// Gives each object of a kind to `each`; no more than a page of them is held.
    pub fn pages(
        &self,
        resource: &Resource,
        namespace: &str,
        labels: &str,
        each: &mut dyn FnMut(Value) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let api = self.api(resource, namespace);
        let mut params = ListParams::default().labels(labels).limit(PAGE);
        loop {
            let page = self.runtime.block_on(api.list(&params)).map_err(|e| Fault::of(&e))?;
            for mut object in page.items {
                // the items of a list do not say what they are
                object.types.get_or_insert(kube::core::TypeMeta {
                    api_version: resource.api.api_version.clone(),
                    kind: resource.api.kind.clone(),
                });
                each(json(object)?)?;
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(()),
            }
        }
    }

    /// What is at a path, as text.
    pub fn text(&self, path: &str) -> Result<String, Fault> {
        let request = http::Request::get(path).body(Vec::new()).map_err(|e| Fault::Refused(e.to_string()))?;
        self.runtime.block_on(self.client.request_text(request)).map_err(|e| Fault::of(&e))
    }

    /// Server-side apply: what comes of the object is the answer.
    pub fn apply(&self, resource: &Resource, object: &Value, force: bool, dry_run: bool) -> Result<Value, Fault> {
        let name = crate::kinds::metadata(object, "name");
        let mut params = PatchParams::apply(MANAGER);
        params.force = force;
        params.dry_run = dry_run;
        let api = self.api(resource, crate::kinds::metadata(object, "namespace"));
        let done = self.runtime.block_on(api.patch(name, &params, &Patch::Apply(object)));
        json(done.map_err(|e| Fault::of(&e))?)
    }

    /// Asks for an object's removal, and that of what it owns before itself; false where there was none.
    pub fn delete(&self, resource: &Resource, namespace: &str, name: &str) -> Result<bool, Fault> {
        let params =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
        match self.runtime.block_on(self.api(resource, namespace).delete(name, &params)).map_err(|e| Fault::of(&e)) {
            Ok(_) => Ok(true),
            Err(Fault::Absent(_)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

fn json(object: DynamicObject) -> Result<Value, Fault> {
    serde_json::to_value(object).map_err(|e| Fault::Refused(e.to_string()))
}

/// The configuration, and the name of the context if there is one.
async fn find(args: &ClusterArgs) -> Result<(Config, Option<String>), Failure> {
    let kubeconfig = match &args.kubeconfig {
        Some(path) => Kubeconfig::read_from(path)
            .map(Some)
            .map_err(|e| Failure::Usage(format!("--kubeconfig: {}: {}", path.display(), chain(&e))))?,
        None => Kubeconfig::read()
            .map(Some)
            .or_else(|error| {
                // without any file a pod's own account will do, if this is a pod
                if args.context.is_none() && Config::incluster_env().is_ok() { Ok(None) } else { Err(error) }
            })
            .map_err(|e| Failure::Usage(format!("--kubeconfig: {}; name a file", chain(&e))))?,
    };
    let Some(kubeconfig) = kubeconfig else {
        let config = Config::incluster_env().map_err(|e| Failure::Usage(format!("--kubeconfig: {}", chain(&e))))?;
        return Ok((config, None));
    };
    let context = args.context.clone().or_else(|| kubeconfig.current_context.clone()).filter(|c| !c.is_empty());
    let known: Vec<String> = kubeconfig.contexts.iter().map(|c| c.name.clone()).collect();
    let there = if known.is_empty() { "it has none".to_owned() } else { format!("there are {}", known.join(", ")) };
    let Some(context) = context else {
        return Err(Failure::Usage(format!("--context: the kubeconfig names no current context; {there}")));
    };
    if !known.contains(&context) {
        return Err(Failure::Usage(format!("--context: {context:?}: no such context in the kubeconfig; {there}")));
    }
    let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let config = config.map_err(|e| Failure::Usage(format!("--context: {context}: {}", chain(&e))))?;
    Ok((config, Some(context)))
}
