//! The kubelet's part of a pod's life, and the book of who has which address.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axoneme_cni::{Answer, Command, Request};
use axoneme_model::{Kind, ObjectRef};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{dice::Dice, machine::Machine, net::API, sim::Sim};

/// How long a former holder of an address may still be known somewhere.
const FORMER: Duration = Duration::from_mins(2);

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    pub pod: ObjectRef,
    pub uid: Arc<str>,
    pub node: Arc<str>,
}

/// Addresses of pods that run, and of those that ran.
#[derive(Debug, Default)]
pub struct Book {
    held: BTreeMap<IpAddr, Holding>,
    former: Vec<(IpAddr, ObjectRef, Instant)>,
}

impl Book {
    pub fn held(&self) -> &BTreeMap<IpAddr, Holding> {
        &self.held
    }

    /// Pods that had the address not long ago.
    pub fn former(&self, address: IpAddr) -> impl Iterator<Item = &ObjectRef> {
        let late = move |(a, _, at): &&(IpAddr, ObjectRef, Instant)| *a == address && at.elapsed() < FORMER;
        self.former.iter().filter(late).map(|(_, pod, _)| pod)
    }
}

/// One pod as its kubelet sees it.
#[expect(missing_debug_implementations, reason = "holds a machine")]
pub struct Sandbox {
    pub sim: Arc<Sim>,
    pub book: Arc<Mutex<Book>>,
    pub machine: Arc<Machine>,
    pub pod: ObjectRef,
    pub uid: Arc<str>,
    /// The user wants it gone.
    pub gone: CancellationToken,
}

impl Sandbox {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    fn reaches_api(&self) -> bool {
        self.sim.net.talk(&self.machine.name, API)
    }

    fn request(&self, command: Command, attempt: u32) -> Request {
        Request {
            command,
            container_id: format!("{}-{attempt}", self.uid),
            netns: format!("/run/netns/{}", self.uid),
            ifname: "eth0".into(),
            args: format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={}",
                self.pod.namespace, self.pod.name, self.uid
            ),
            config: json!({"cniVersion": "1.1.0", "name": "axoneme", "type": "axoneme-cni"}),
        }
    }

    /// From the first to the last.
    pub async fn live(self) {
        let mut dice = Dice::new(self.sim.seed, &format!("kubelet {}", self.uid));
        sleep(dice.millis(5..200)).await;
        while !self.reaches_api() {
            sleep(Duration::from_secs(1)).await;
        }
        let mut attempt = 0;
        let addresses = loop {
            attempt += 1;
            if self.gone.is_cancelled() {
                break Vec::new();
            }
            if let Some(addresses) = self.add(attempt).await {
                break addresses;
            }
            self.del(attempt, &mut dice).await;
            sleep(dice.millis(300..1500)).await;
        };
        if !addresses.is_empty() {
            self.hold(&addresses);
            self.tell_addresses(&addresses).await;
            self.gone.cancelled().await;
            sleep(dice.millis(0..300)).await;
            self.release(&addresses);
            self.del(attempt, &mut dice).await;
        }
        while !self.reaches_api() {
            sleep(Duration::from_secs(1)).await;
        }
        let same = self.sim.api.get(&self.pod).is_some_and(|p| p["metadata"]["uid"] == *self.uid);
        if same {
            self.sim.api.delete(&self.pod);
        }
    }

    /// The sandbox is made; none: it is to be tried again.
    async fn add(&self, attempt: u32) -> Option<Vec<IpAddr>> {
        match self.machine.cni(self.request(Command::Add, attempt)).await {
            Some(Answer::Done(result)) => {
                let list = result["ips"].as_array()?;
                let address = |i: &Value| i["address"].as_str()?.split('/').next()?.parse().ok();
                Some(list.iter().filter_map(address).collect())
            }
            Some(Answer::Failed(f)) => {
                self.sim.say(&self.machine.name, format_args!("ADD {}: {}", self.pod.name, f.msg));
                None
            }
            None => None,
        }
    }

    async fn del(&self, attempt: u32, dice: &mut Dice) {
        while !matches!(self.machine.cni(self.request(Command::Del, attempt)).await, Some(Answer::Done(_))) {
            sleep(dice.millis(500..1500)).await;
        }
    }

    fn hold(&self, addresses: &[IpAddr]) {
        let mut book = self.book();
        for address in addresses {
            let holding = Holding { pod: self.pod.clone(), uid: self.uid.clone(), node: self.machine.name.clone() };
            self.sim.say(&self.machine.name, format_args!("{} has {address}", self.pod.name));
            if let Some(other) = book.held.insert(*address, holding)
                && other.uid != self.uid
            {
                self.sim.wrong(format!("address {address} of {} is given to {}, too", other.pod, self.pod));
            }
        }
    }

    fn release(&self, addresses: &[IpAddr]) {
        let mut book = self.book();
        for address in addresses {
            if book.held.get(address).is_some_and(|h| h.uid == self.uid) {
                book.held.remove(address);
            }
            book.former.push((*address, self.pod.clone(), Instant::now()));
        }
        self.sim.say(&self.machine.name, format_args!("{} goes", self.pod.name));
    }

    /// The pod's status.
    async fn tell_addresses(&self, addresses: &[IpAddr]) {
        while !self.reaches_api() {
            sleep(Duration::from_secs(1)).await;
        }
        let Some(mut pod) = self.sim.api.get(&self.pod).filter(|p| p["metadata"]["uid"] == *self.uid) else { return };
        let list: Vec<Value> = addresses.iter().map(|a| json!({"ip": a.to_string()})).collect();
        pod["status"] = json!({"phase": "Running", "podIPs": list});
        self.sim.api.put(Kind::Pod, pod);
    }
}
