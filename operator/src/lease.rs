//! Who writes: a `coordination.k8s.io/v1` Lease, taken and renewed with preconditions on its version.
//!
//! *Guarantees*: [`LeaseHold::is_sure`] is true only for so long after a renewal that a write which starts then has
//! ended (by its own deadline) before anyone else can take the Lease. *Assumptions*: clocks of replicas run at about
//! the same speed; they need not show the same time: a Lease is over when its version has not changed for its duration
//! on the looker's own clock (as in client-go). *Caveats*: a machine that is put to sleep may wake with a steady clock
//! that stood still; the clock of the wall then tells, and a hold that the two clocks don't agree on is none until the
//! next renewal. A process that is stopped between the question and its write can't be helped: writes onto objects
//! carry the version that they were planned on.

pub mod election;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use axoneme_runtime::clock;
use axoneme_wire::server::Leadership;
use kube::{
    Api, Client,
    api::PostParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::election::{Hold, Move, Seen, Term, View};

/// Name of the Lease in the operator's namespace.
pub const NAME: &str = "axoneme-operator";
/// Annotation with the holder's stream address.
const ADDRESS: &str = "axoneme.io/address";

/// How long a Lease lasts, how often it is looked at, and how long after a renewal writes may start. A write takes 3 s at
/// most: 4 + 3 < 8.
const DURATION: Duration = Duration::from_secs(8);
const RETRY: Duration = Duration::from_secs(1);
const SURE: Duration = Duration::from_secs(4);
const REQUEST: Duration = Duration::from_secs(2);
/// The wall's clock is slewed a little; more than this it was set, or the machine slept.
const DISAGREE: Duration = Duration::from_millis(500);

/// Whether writes may start.
#[derive(Clone, Debug, Default)]
pub struct LeaseHold(Arc<Mutex<Hold>>);

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Renewed {
    pub steady: Instant,
    pub wall: SystemTime,
}

impl Renewed {
    pub(crate) fn now() -> Self {
        Self { steady: Instant::now(), wall: clock::wall() }
    }

    /// Whether writes may start at `now` after a renewal at this time.
    #[must_use]
    pub fn is_sure_at(self, now: Self) -> bool {
        let by_steady = now.steady.saturating_duration_since(self.steady);
        // a clock that was set back tells nothing, one that is far ahead that time has passed
        let by_wall = now.wall.duration_since(self.wall);
        by_steady < SURE && by_wall.is_ok_and(|passed| passed < SURE + DISAGREE)
    }
}

impl LeaseHold {
    /// Whether a write that starts now ends before anyone else can hold the Lease.
    #[must_use]
    pub fn is_sure(&self) -> bool {
        let hold = self.now();
        hold.lets(hold.term(), Renewed::now())
    }

    /// The same of a write that was planned in a term: in none since then has anyone else written.
    #[must_use]
    pub fn lets(&self, term: Term) -> bool {
        self.now().lets(term, Renewed::now())
    }

    /// The newest term, which may be over.
    #[must_use]
    pub fn term(&self) -> Term {
        self.now().term()
    }

    fn now(&self) -> Hold {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Lease was renewed by a request that started at this time; none: it is lost. Whether a new term begins.
    pub(crate) fn set(&self, at: Option<Renewed>) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).set(at)
    }
}

/// One replica's hand for the Lease.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "the client has no Debug")]
pub struct Candidate {
    pub client: Client,
    pub namespace: String,
    /// Name of the replica, unique among all.
    pub name: String,
    /// Its stream's `host:port`.
    pub address: String,
}

/// Takes the Lease when it is free and keeps it, until cancelled; then gives it back.
pub async fn run(c: Candidate, hold: LeaseHold, leadership: watch::Sender<Leadership>, cancel: CancellationToken) {
    let mut seen = Seen::default();
    while !cancel.is_cancelled() {
        let started = Renewed::now();
        let result = tokio::time::timeout(REQUEST, c.attempt(&mut seen, started.steady)).await;
        let learnt = match result {
            Ok(Ok(l)) => Some(l),
            Ok(Err(e)) => {
                debug!(error = %e, "the Lease can't be read or written");
                None
            }
            Err(_) => None,
        };
        let (renewed, now) = election::after(hold.now().renewed(), learnt, started, Renewed::now());
        let new_term = hold.set(renewed);
        // who leads as before, but after a pause in which somebody else may have, has to read anew
        leadership.send_if_modified(|l| std::mem::replace(l, now.clone()) != now || new_term);
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = cancel.cancelled() => {}
        }
    }
    if hold.now().renewed().is_some() {
        hold.set(None);
        if tokio::time::timeout(REQUEST, c.release()).await.is_err() {
            warn!("the Lease could not be given back; it ends by itself");
        }
    }
}

impl Candidate {
    fn api(&self) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("coordination.k8s.io", "v1", "Lease");
        let resource = ApiResource::from_gvk_with_plural(&gvk, "leases");
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    async fn attempt(&self, seen: &mut Seen, now: Instant) -> Result<Leadership, kube::Error> {
        let api = self.api();
        let lease = api.get_opt(NAME).await?;
        let view = lease.as_ref().map(view);
        let (version, transitions) = match seen.judge(view.as_ref(), &self.name, now) {
            Move::Create => {
                api.create(&PostParams::default(), &self.lease(&self.name, 0, None)).await?;
                return Ok(Leadership::Me);
            }
            Move::Leave(leadership) => return Ok(leadership),
            Move::Write { version, transitions } => (version, transitions),
        };
        let mut new = self.lease(&self.name, transitions, Some(version));
        if view.is_some_and(|v| v.holder == self.name)
            && let Some(acquired) = lease.as_ref().and_then(|l| l.data.pointer("/spec/acquireTime"))
            && let Some(spec) = new.data.pointer_mut("/spec").and_then(Value::as_object_mut)
        {
            spec.insert("acquireTime".into(), acquired.clone());
        }
        match api.replace(NAME, &PostParams::default(), &new).await {
            Ok(_) => Ok(Leadership::Me),
            // somebody was faster
            Err(kube::Error::Api(s)) if s.code == 409 => Ok(Leadership::Unknown),
            Err(e) => Err(e),
        }
    }

    async fn release(&self) -> Result<(), kube::Error> {
        let api = self.api();
        let Some(lease) = api.get_opt(NAME).await? else { return Ok(()) };
        let holder = lease.data.pointer("/spec/holderIdentity").and_then(Value::as_str);
        if holder != Some(self.name.as_str()) {
            return Ok(());
        }
        let transitions = lease.data.pointer("/spec/leaseTransitions").and_then(Value::as_i64).unwrap_or(0);
        let free = self.lease("", transitions, lease.metadata.resource_version.clone());
        api.replace(NAME, &PostParams::default(), &free).await.map(drop)
    }

    fn lease(&self, holder: &str, transitions: i64, version: Option<String>) -> DynamicObject {
        let gvk = GroupVersionKind::gvk("coordination.k8s.io", "v1", "Lease");
        let resource = ApiResource::from_gvk_with_plural(&gvk, "leases");
        let now = crate::time::rfc3339_micro(axoneme_runtime::clock::wall());
        let mut lease = DynamicObject::new(NAME, &resource).within(&self.namespace).data(json!({"spec": {
            "holderIdentity": holder, "leaseDurationSeconds": DURATION.as_secs(), "acquireTime": now,
            "renewTime": now, "leaseTransitions": transitions}}));
        lease.metadata.resource_version = version;
        lease.metadata.annotations = Some([(ADDRESS.to_owned(), self.address.clone())].into());
        lease
    }
}

fn view(lease: &DynamicObject) -> View {
    let text = |p: &str| lease.data.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned();
    View {
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        holder: text("/spec/holderIdentity"),
        address: lease.metadata.annotations.as_ref().and_then(|a| a.get(ADDRESS).cloned()),
        transitions: lease.data.pointer("/spec/leaseTransitions").and_then(Value::as_i64).unwrap_or(0),
    }
}
