//! Objects that the API server takes and Axoneme can't: each is refused by name, and everything else goes on.
//!
//! NetworkPolicy has none: the API server's own validation refuses all that intake does, which is held here too.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Scenario;
use super::fixture::{ANSWER, Fixture, PATIENCE, SOON};
use crate::lab::{Lab, SYSTEM};

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[
        ("broken_object_of_each_kind_is_refused_by_name_and_the_rest_goes_on", each_kind),
        ("what_the_api_server_refuses_never_arrives", refused_at_the_door),
    ];
    super::boxed(named)
}

/// A broken object, and where it is told what is wrong with it.
struct Broken {
    yaml: &'static str,
    /// `kubectl get` of it, where its condition `Valid` says so; the operator's log says so of the others.
    conditions: Option<&'static [&'static str]>,
    /// Words that must be there.
    told: &'static [&'static str],
}

/// What the webhooks would refuse goes past them by a label: it may come from a time before them.
const BROKEN: &[Broken] = &[
    Broken {
        yaml: "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: broken, namespace: other}\nspec:\n  \
               endpointSelector: {matchLabels: {app: nobody}}\n  egress: [{toFQDNs: [{matchName: a.example}]}]\n",
        conditions: Some(&["-n", "other", "ciliumnetworkpolicy", "broken"]),
        told: &["Unsupported", "spec.egress[0].toFQDNs", "a.example"],
    },
    Broken {
        yaml: "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: broken, labels: \
               {axoneme.io/admission: \"off\"}}\nspec:\n  endpointSelector: \
               {matchExpressions: [{key: nobody, operator: In, values: []}]}\n  ingress: [{}]\n",
        conditions: Some(&["ciliumclusterwidenetworkpolicy", "broken"]),
        told: &["Invalid", "spec.endpointSelector.matchExpressions[0]", "at least one value"],
    },
    Broken {
        yaml: "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: broken}\nspec:\n  tier: \
               Admin\n  priority: 900\n  subject: {namespaces: {matchLabels: {team: nobody}}}\n  egress: [{name: x, action: \
               Accept, to: [{domainNames: [a.example]}]}]\n",
        conditions: Some(&["clusternetworkpolicies.policy.networking.k8s.io", "broken"]),
        told: &["Unsupported", "spec.egress[0].to[0].domainNames", "a.example"],
    },
    Broken {
        yaml: "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: broken, labels: {axoneme.io/admission: \
               \"off\"}}\nspec: {externalCIDRs: [\"010.0.0.0/8\"]}\n",
        conditions: None,
        told: &["CiliumCIDRGroup broken", "spec.externalCIDRs[0]", "010.0.0.0/8"],
    },
    Broken {
        yaml: "apiVersion: cilium.io/v2alpha1\nkind: CiliumPodIPPool\nmetadata: {name: broken, labels: \
               {axoneme.io/admission: \"off\"}}\nspec: {ipv4: {cidrs: \
               [10.0.0.0/8, 10.1.0.0/16], maskSize: 24}}\n",
        conditions: None,
        told: &["CiliumPodIPPool broken", "spec.ipv4.cidrs[1]", "overlaps with 10.0.0.0/8"],
    },
    Broken {
        yaml: "apiVersion: cilium.io/v2\nkind: CiliumIdentity\nmetadata: {name: broken}\nsecurity-labels: {\"k8s:app\": client}\n",
        conditions: None,
        told: &["CiliumIdentity broken", "metadata.name", "must be a number"],
    },
    Broken {
        yaml: "apiVersion: cilium.io/v2\nkind: CiliumNode\nmetadata: {name: broken}\nspec: {addresses: [{type: InternalIP, ip: \
               nope}]}\n",
        conditions: None,
        told: &["CiliumNode broken", "spec.addresses[0].ip", "nope"],
    },
    Broken {
        yaml: "apiVersion: cilium.io/v2\nkind: CiliumNodeConfig\nmetadata: {name: broken, namespace: kube-system}\nspec:\n  \
               nodeSelector: {}\n  defaults: {tunnel-protocol: geneve, mtu: \"1400\"}\n",
        conditions: Some(&["-n", "kube-system", "ciliumnodeconfig", "broken"]),
        told: &[
            "Invalid",
            "spec.defaults[tunnel-protocol]",
            "both ends of a tunnel must speak the same",
            "none of it is in force",
        ],
    },
];

/// Annotations that mean nothing: the pod is networked as if they were not there. (Bandwidth that is no quantity is not
/// among them: with it containerd makes no sandbox, and tells.)
const GARBAGE: &str = "apiVersion: v1
kind: Pod
metadata:
  name: garbage
  namespace: other
  labels: {app: garbage}
  annotations:
    ipam.cilium.io/ip-pool: \"no such pool\"
    ipam.cilium.io/ipv6-pool: \"\"
    network.cilium.io/anything: \"{[,\"
    io.cilium/whatever: \"-1\"
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: \"ghcr.io/axoneme/workload:dev\", args: [serve, --name, garbage, --tcp, \"8080\"]}]
";
const NODE_GARBAGE: [&str; 2] = ["network.cilium.io/ipv4-cilium-host", "network.cilium.io/ipv6-cilium-host"];

const GOOD: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: good, namespace: lab}\nspec:\n  \
    endpointSelector: {matchLabels: {app: server}}\n  ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]\n";

fn each_kind(lab: &Lab, f: &Fixture) -> Result<()> {
    let told = refused_by_name(lab, f);
    for broken in BROKEN {
        let delete = ["delete", "--ignore-not-found", "-f", "-"];
        crate::command::output_with(lab.cluster.kubectl_command().args(delete), broken.yaml)?;
    }
    let pool = "{\"spec\":{\"ipam\":{\"clusterPool\":null}}}";
    lab.cluster.kubectl(&["patch", "axonemeconfig", "default", "--type=merge", "-p", pool])?;
    lab.cluster.kubectl(&["label", "axonemeconfig", "default", "axoneme.io/admission-"])?;
    for key in NODE_GARBAGE {
        lab.cluster.kubectl(&["annotate", "node", "node2", &format!("{key}-")])?;
    }
    lab.cluster.kubectl(&["-n", "other", "delete", "--ignore-not-found", "pod", "garbage"])?;
    lab.cluster.kubectl(&["-n", "lab", "delete", "--ignore-not-found", "cnp", "good"])?;
    told?;
    lab.condition(&["axonemeconfig", "default"], "Valid", "True").map(drop)
}

fn refused_by_name(lab: &Lab, f: &Fixture) -> Result<()> {
    BROKEN.iter().try_for_each(|broken| lab.apply(broken.yaml))?;
    for key in NODE_GARBAGE {
        lab.cluster.kubectl(&["annotate", "node", "node2", "--overwrite", &format!("{key}=no address")])?;
    }
    // settings that contradict themselves: the earlier ones stay
    lab.cluster.kubectl(&["label", "axonemeconfig", "default", "axoneme.io/admission=off", "--overwrite"])?;
    let pool = "{\"spec\":{\"ipam\":{\"clusterPool\":{\"ipv4\":{\"cidrs\":[\"10.0.0.0/8\",\"10.1.0.0/16\"],\"maskSize\":24}}}}}";
    lab.cluster.kubectl(&["patch", "axonemeconfig", "default", "--type=merge", "-p", pool])?;
    says(
        &lab.condition(&["axonemeconfig", "default"], "Valid", "False")?,
        &["Invalid", "clusterPool", "stay in force"],
    )?;
    for broken in BROKEN {
        match broken.conditions {
            Some(words) => says(&lab.condition(words, "Valid", "False")?, broken.told)?,
            None => logged(lab, broken.told)?,
        }
    }
    // and all else goes on: a good policy, a new pod, the traffic of the others
    lab.apply(GOOD)?;
    lab.apply(GARBAGE)?;
    lab.condition(&["-n", "lab", "cnp", "good"], "Enforced", "True")?;
    let denied = || lab.passes(&f.stranger, &f.server[0].target("tcp", 0, 8080)?, PATIENCE);
    Lab::eventually("the good policy is in force", SOON, denied, |ok| !*ok)?;
    ensure!(lab.passes(&f.client[0], &f.server[1].target("tcp", 0, 8080)?, ANSWER)?, "a client does not pass");
    lab.cluster.kubectl(&["-n", "other", "wait", "--for=condition=Ready", "pod", "garbage", "--timeout=180s"])?;
    let pod = lab.pod("other", "app=garbage")?;
    let open = || lab.passes(&f.client[0], &pod.target("tcp", 0, 8080)?, PATIENCE);
    Lab::eventually("the pod with meaningless annotations answers", SOON, open, |ok| *ok).map(drop)
}

fn says(condition: &Value, words: &[&str]) -> Result<()> {
    let text = condition.to_string();
    for word in words {
        ensure!(text.contains(word), "no {word:?} in {text}");
    }
    Ok(())
}

/// One line of the operators' logs has all the words.
fn logged(lab: &Lab, words: &[&str]) -> Result<()> {
    let ask = || {
        let label = "app.kubernetes.io/name=axoneme-operator";
        lab.cluster.kubectl(&["-n", SYSTEM, "logs", "-l", label, "--tail=-1", "--since=2m"])
    };
    let has = |text: &String| text.lines().any(|line| words.iter().all(|w| line.contains(w)));
    match Lab::eventually(&format!("{words:?} in the log"), SOON, || ask().map(|t| has(&t)), |found| *found) {
        Ok(_) => Ok(()),
        Err(e) => bail!("{e:#}: {}", crate::command::tail(&ask()?, 5)),
    }
}

/// NetworkPolicies that intake would refuse.
const AT_THE_DOOR: &[(&str, &str)] = &[
    ("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: \"010.0.0.0/8\"}}]}]}", "ipBlock.cidr"),
    ("{podSelector: {}, ingress: [{from: [{}]}]}", "ingress[0].from[0]"),
    ("{podSelector: {}, ingress: [{ports: [{port: \"8080\"}]}]}", "ports[0].port"),
    ("{podSelector: {matchExpressions: [{key: a, operator: In, values: []}]}}", "matchExpressions[0].values"),
    ("{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 79}]}]}", "endPort"),
];

fn refused_at_the_door(lab: &Lab, _: &Fixture) -> Result<()> {
    for (spec, field) in AT_THE_DOOR {
        let yaml = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: broken, namespace: lab}}\nspec: {spec}\n"
        );
        let why = lab.apply(&yaml).err().map(|e| format!("{e:#}")).with_context(|| format!("{spec} was taken"))?;
        ensure!(why.contains(field), "{spec}: {why}");
    }
    Ok(())
}
