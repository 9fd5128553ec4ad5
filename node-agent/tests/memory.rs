//! What a pod and an identity of other nodes cost an agent, in bytes of live heap: its rows, what it wants of the kernel,
//! and the names for flows.
//!
//! Counted by the allocator, so that it is the same on every machine. What the kernel holds is not counted.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "objects that it has made itself")]

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axoneme_flow::Hub;
use axoneme_model::{
    Identity, LabelKey, Labels,
    labels::names,
    rows::{IdentityRow, IpRow},
};
use common::*;

/// What the system's allocator gives, with the sizes that were asked for added up, each as the allocator rounds it.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// A size class: small pieces come in steps of 16 bytes and have 8 of bookkeeping.
const fn charged(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16)
}

#[allow(unsafe_code, reason = "the trait is unsafe; every call goes on as it came")]
// SAFETY: all methods hand their arguments to the system's allocator and its answers back.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(charged(layout), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that are asked for
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(charged(layout), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that are asked for
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Live bytes of an agent with so many pods on another node, and identities. Its stream has each word once.
fn bytes(pods: u32, identities: u32) -> f64 {
    let before = LIVE.load(Ordering::Relaxed);
    let node = Node::default();
    let mut engine = {
        let mut set = rows();
        let (other, namespace): (Arc<str>, Arc<str>) = ("n2".into(), "ns".into());
        let keys = ["app", "tier", names::NAMESPACE, names::SERVICE_ACCOUNT, names::CLUSTER].map(LabelKey::k8s);
        for i in 0..identities {
            let (id, app) = (Identity(300 + i), Arc::from(format!("app-{i}")));
            let values = [app, namespace.clone(), namespace.clone(), namespace.clone(), namespace.clone()];
            let labels: Labels = keys.iter().cloned().zip(values).collect();
            set.identities.insert(id, IdentityRow { id, labels });
        }
        for i in 0..pods {
            let prefix = format!("{}/32", std::net::Ipv4Addr::from(0x0a00_0400 + i));
            let pod = format!("ns-{}/app-{}-5d89bdd9c8-{i:05x}", i % 50, i % 650);
            let row = IpRow { node: other.clone(), ..ip_row(&prefix, 300 + i % identities, "n2", &pod) };
            set.ips.insert(row.prefix, row);
        }
        let (flows, _feed) = Hub::new("n1", "", 1, 1);
        let mut engine = node.boot_with(Some(flows));
        engine.stream(snapshot(&set, 1));
        engine
    };
    assert_eq!(acks(&engine.take_outgoing()), [1]);
    let mut kernel = node.datapath.kernel();
    assert!(kernel.ips.len() > pods as usize, "all addresses are in force");
    (kernel.ips, kernel.log) = Default::default();
    drop(kernel);
    node.store.documents.lock().unwrap().clear();
    f64::from(u32::try_from(LIVE.load(Ordering::Relaxed) - before).unwrap())
}

/// One test, alone in its program: what others allocate meanwhile would be counted, too.
#[test]
fn pods_and_identities_of_other_nodes_keep_to_their_budgets() {
    let (pods, identities) = (800, 500);
    // what is made once for all, by whoever comes first
    bytes(pods, identities);
    let base = bytes(pods, identities);
    let pod = (bytes(pods + 800, identities) - base) / 800.0;
    let identity = (bytes(pods, identities + 500) - base) / 500.0;
    eprintln!("bytes: a pod {pod:.0}, an identity {identity:.0}");
    for (what, measured, budget) in [("a pod of another node", pod, POD), ("an identity", identity, IDENTITY)] {
        assert!(measured < budget, "{what} takes {measured:.0} bytes, its budget is {budget}");
    }
}

/// Budgets: what was measured, and a tenth.
const POD: f64 = 435.0;
const IDENTITY: f64 = 590.0;
