//! Watches of an API server.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use axoneme_model::{Kind, ObjectRef};
use backon::ExponentialBuilder;
use futures::StreamExt;
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{WatchStreamExt, watcher},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{SourceEvent, slim::slim};

/// How often a kind is looked for whose definition is absent.
const ABSENT_PAUSE: Duration = Duration::from_secs(5);

/// Between attempts while the API server cannot be reached, each made longer at random by up to itself. The usual half a
/// minute would be spent twice after an outage, since a watch that is taken up again is then told that its history is
/// gone: a policy applied in that minute would wait for the end of it. A request a second and kind is nothing to a
/// server that answers, and less to one that does not.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// After 410, doubled with each in a row up to 16 s.
const EXPIRED_PAUSE: Duration = Duration::from_millis(250);
const EXPIRED_DOUBLINGS: u32 = 6;

/// An outage is told again after this long.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// Nobody listens any more.
struct Gone;

/// The API resource of a kind.
#[must_use]
pub fn resource(kind: Kind) -> ApiResource {
    let (group, version, plural) = match kind {
        Kind::Namespace => ("", "v1", "namespaces"),
        Kind::Pod => ("", "v1", "pods"),
        Kind::Node => ("", "v1", "nodes"),
        Kind::Service => ("", "v1", "services"),
        Kind::EndpointSlice => ("discovery.k8s.io", "v1", "endpointslices"),
        Kind::NetworkPolicy => ("networking.k8s.io", "v1", "networkpolicies"),
        Kind::ClusterNetworkPolicy => ("policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies"),
        Kind::CiliumNetworkPolicy => ("cilium.io", "v2", "ciliumnetworkpolicies"),
        Kind::CiliumClusterwideNetworkPolicy => ("cilium.io", "v2", "ciliumclusterwidenetworkpolicies"),
        Kind::CiliumCIDRGroup => ("cilium.io", "v2", "ciliumcidrgroups"),
        Kind::CiliumIdentity => ("cilium.io", "v2", "ciliumidentities"),
        Kind::CiliumNode => ("cilium.io", "v2", "ciliumnodes"),
        Kind::CiliumNodeConfig => ("cilium.io", "v2", "ciliumnodeconfigs"),
        Kind::CiliumPodIPPool => ("cilium.io", "v2alpha1", "ciliumpodippools"),
        Kind::AxonemeConfig | Kind::Builtin => ("axoneme.io", "v1alpha1", "axonemeconfigs"),
    };
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind.as_str()), plural)
}

/// Watches one kind in all namespaces until cancelled. Relists after 410, on errors with backoff; what vanished in the
/// meantime is deleted.
pub async fn watch(client: Client, kind: Kind, events: mpsc::Sender<SourceEvent>, cancel: CancellationToken) {
    let mut watch =
        Watch { kind, events, known: HashSet::new(), seen: HashSet::new(), synced: false, expired: 0, warned: None };
    let mut streaming = true;
    loop {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind));
        let config = watcher::Config::default();
        let config = if streaming { config.streaming_lists() } else { config };
        let end = tokio::select! {
            end = watch.run(api, config) => end,
            () = cancel.cancelled() => return,
        };
        match end {
            End::Gone => return,
            End::Unsupported => {
                info!(kind = kind.as_str(), "the API server has no streaming lists; listing in pages");
                streaming = false;
            }
            End::Absent => {
                debug!(kind = kind.as_str(), "kind not served");
                tokio::select! {
                    () = tokio::time::sleep(ABSENT_PAUSE) => {}
                    () = cancel.cancelled() => return,
                }
            }
        }
    }
}

enum End {
    /// Nobody listens.
    Gone,
    /// The API server doesn't know the kind.
    Absent,
    /// It knows no streaming lists.
    Unsupported,
}

struct Watch {
    kind: Kind,
    events: mpsc::Sender<SourceEvent>,
    /// Objects that were said to be there: `namespace/name`, or `/name`. Names hold no slash.
    known: HashSet<Arc<str>>,
    /// Objects of the list that is under way.
    seen: HashSet<Arc<str>>,
    synced: bool,
    /// How often in a row the history was lost.
    expired: u32,
    /// When an interruption was last said aloud.
    warned: Option<Instant>,
}

impl Watch {
    async fn run(&mut self, api: Api<DynamicObject>, config: watcher::Config) -> End {
        let streaming = config.initial_list_strategy == watcher::InitialListStrategy::StreamingList;
        let mut stream = watcher(api, config).backoff(pauses()).boxed();
        while let Some(event) = stream.next().await {
            let said = match event {
                Ok(e) => self.event(e).await,
                Err(e) => match status_of(&e) {
                    Some(404) => return self.absent().await,
                    Some(400 | 422) if streaming && !self.synced => return End::Unsupported,
                    status => {
                        self.interrupted(&e);
                        if status == Some(410) {
                            self.rest().await;
                        }
                        Ok(())
                    }
                },
            };
            if said.is_err() {
                return End::Gone;
            }
        }
        End::Gone
    }

    /// Each attempt of an outage is one; said once a minute.
    fn interrupted(&mut self, error: &watcher::Error) {
        if self.warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            debug!(kind = self.kind.as_str(), %error, "watch interrupted, trying again");
        } else {
            self.warned = Some(Instant::now());
            warn!(kind = self.kind.as_str(), %error, "watch interrupted, trying again");
        }
    }

    /// The backoff of the watcher begins anew with each list that the API server starts; one that has lost its history
    /// again and again must not be made to send all objects every second.
    async fn rest(&mut self) {
        tokio::time::sleep(EXPIRED_PAUSE * 2u32.pow(self.expired)).await;
        self.expired = (self.expired + 1).min(EXPIRED_DOUBLINGS);
    }

    async fn event(&mut self, event: watcher::Event<DynamicObject>) -> Result<(), Gone> {
        match event {
            watcher::Event::Init => self.seen.clear(),
            watcher::Event::InitApply(o) => {
                let path = self.know(&o);
                self.seen.insert(path);
                self.say_applied(o).await?;
            }
            watcher::Event::InitDone => self.listed().await?,
            watcher::Event::Apply(o) => {
                self.expired = 0;
                self.know(&o);
                self.say_applied(o).await?;
            }
            watcher::Event::Delete(o) => {
                self.expired = 0;
                let path = path(&o);
                self.known.remove(&*path);
                self.say(SourceEvent::Delete(self.object_ref(&path))).await?;
            }
        }
        Ok(())
    }

    /// Keeps that the object is there: its path, once for all who keep it.
    fn know(&mut self, o: &DynamicObject) -> Arc<str> {
        let path = path(o);
        if let Some(known) = self.known.get(&*path) {
            return known.clone();
        }
        let path: Arc<str> = path.into();
        self.known.insert(path.clone());
        path
    }

    async fn say_applied(&mut self, o: DynamicObject) -> Result<(), Gone> {
        // what came over the wire as JSON goes back into JSON
        let Ok(mut object) = serde_json::to_value(o) else { return Ok(()) };
        slim(self.kind, &mut object);
        self.say(SourceEvent::Apply { kind: self.kind, object }).await
    }

    async fn listed(&mut self) -> Result<(), Gone> {
        let seen = std::mem::take(&mut self.seen);
        let gone: BTreeSet<ObjectRef> = self.known.difference(&seen).map(|path| self.object_ref(path)).collect();
        self.known = seen;
        for object in gone {
            self.say(SourceEvent::Delete(object)).await?;
        }
        if !self.synced {
            self.synced = true;
            self.say(SourceEvent::Synced(self.kind)).await?;
        }
        Ok(())
    }

    async fn absent(&mut self) -> End {
        self.seen.clear();
        match self.listed().await {
            Ok(()) => End::Absent,
            Err(Gone) => End::Gone,
        }
    }

    fn object_ref(&self, path: &str) -> ObjectRef {
        let (namespace, name) = path.split_once('/').unwrap_or(("", path));
        ObjectRef::new(self.kind, namespace, name)
    }

    async fn say(&self, event: SourceEvent) -> Result<(), Gone> {
        self.events.send(event).await.map_err(|_| Gone)
    }
}

fn path(o: &DynamicObject) -> String {
    let namespace = o.metadata.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}", o.metadata.name.as_deref().unwrap_or_default())
}

fn pauses() -> watcher::ExponentialBackoff {
    let (least, most) = RETRY_PAUSE;
    ExponentialBuilder::default().with_min_delay(least).with_max_delay(most).with_jitter().without_max_times().into()
}

fn status_of(e: &watcher::Error) -> Option<u16> {
    let error = match e {
        watcher::Error::WatchError(status) => return Some(status.code),
        watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e) | watcher::Error::WatchFailed(e) => {
            e
        }
        watcher::Error::NoResourceVersion => return None,
    };
    if let kube::Error::Api(status) = error { Some(status.code) } else { None }
}

#[cfg(test)]
mod tests;
