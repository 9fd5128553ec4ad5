//! Texts: manifests, queries, settings of flows.

use std::path::PathBuf;

use axoneme_flow::{Query, Response, explain};
use axoneme_hubble::{export, filter::Filters, mask::Mask, metrics::Metrics, pb};
use axoneme_operator::{
    core::{Core, Timing},
    source::directory::{Directory, Files},
};
use prost::Message as _;

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|t| t.as_bytes().to_vec()).collect()
}

/// A file of manifests as an operator without an API server takes it: every object, then what it decides by them.
pub fn manifest(input: &[u8]) -> bool {
    // what is no UTF-8 does not come past the reading of the file
    let text = String::from_utf8_lossy(input).into_owned();
    let base = include_str!("base.yaml").to_owned();
    let files = Files::from([(PathBuf::from("base.yaml"), Ok(base)), (PathBuf::from("fuzz.yaml"), Ok(text))]);
    let events = Directory::default().look(files);
    let broken = events.iter().any(|e| matches!(e, axoneme_operator::source::SourceEvent::Broken { .. }));
    let mut core = Core::standalone(Timing::default());
    let now = std::time::Instant::now();
    for event in events {
        core.source(event);
    }
    for second in 0..3 {
        core.flush(now + std::time::Duration::from_secs(second * 4), "2026-01-01T00:00:00Z");
    }
    !broken
}

pub fn configs() -> Vec<Vec<u8>> {
    texts(&[
        "apiVersion: axoneme.io/v1alpha1\nkind: AxonemeConfig\nmetadata: {name: default}\nspec:\n  ipFamilies: [IPv4, IPv6]\n  ipam:\n    mode: ClusterPool\n    clusterPool:\n      ipv4: {cidrs: [10.1.0.0/16], maskSize: 24}\n      ipv6: {cidrs: ['fd00::/104'], maskSize: 120}\n",
        "apiVersion: axoneme.io/v1alpha1\nkind: AxonemeConfig\nmetadata: {name: default, generation: 3}\nspec:\n  ipam: {mode: MultiPool}\n  policyEnforcementMode: always\n",
        "apiVersion: axoneme.io/v1alpha1\nkind: AxonemeConfig\nmetadata: {name: default}\nspec:\n  ipam: {mode: CRD}\n",
        "apiVersion: axoneme.io/v1alpha1\nkind: AxonemeConfig\nmetadata: {name: default}\nspec: {}\n",
    ])
}

pub fn network_policies() -> Vec<Vec<u8>> {
    texts(&[
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\nspec:\n  podSelector: {matchLabels: {app: web}}\n  policyTypes: [Ingress, Egress]\n  ingress:\n  - from:\n    - podSelector: {matchExpressions: [{key: role, operator: In, values: [x, y]}]}\n    - namespaceSelector: {}\n    - ipBlock: {cidr: 10.0.0.0/8, except: [10.9.0.0/16, 10.1.1.1/32]}\n    ports: [{protocol: TCP, port: 80, endPort: 4000}, {port: http}, {protocol: UDP}]\n  egress:\n  - to: [{ipBlock: {cidr: '2001:db8::/32'}}]\n",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: none, namespace: shop}\nspec: {podSelector: {}}\n",
    ])
}

pub fn manifests() -> Vec<Vec<u8>> {
    texts(&[
        include_str!("base.yaml"),
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web, namespace: shop, generation: 2}\nspec:\n  endpointSelector: {matchLabels: {app: web}}\n  ingress:\n  - fromEndpoints: [{matchLabels: {role: x}}, {matchExpressions: [{key: 'k8s:io.kubernetes.pod.namespace', operator: Exists}]}]\n    toPorts: [{ports: [{port: '80', protocol: TCP, endPort: 90}]}]\n  - fromEntities: [host, world, cluster]\n  - fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.3.0.0/16]}]\n  ingressDeny: [{fromCIDR: [192.0.2.0/24]}]\n  egress:\n  - toServices: [{k8sService: {serviceName: db, namespace: shop}}]\n  - icmps: [{fields: [{type: 8, family: IPv4}]}]\n",
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: all}\nspecs:\n- endpointSelector: {}\n  egressDeny: [{toCIDR: ['::/0']}]\n- endpointSelector: {matchLabels: {'any:app': web}}\n  enableDefaultDeny: {ingress: false}\n  ingress: [{}]\n",
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: admin}\nspec:\n  tier: Admin\n  priority: 10\n  subject: {namespaces: {matchLabels: {tier: one}}}\n  ingress:\n  - {name: deny, action: Deny, from: [{namespaces: {}}]}\n  egress:\n  - {action: Pass, to: [{networks: [10.0.0.0/8]}], protocols: [{tcp: {destinationPort: {number: 80}}}]}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: shop}\nspec: {clusterIPs: [10.96.0.9], selector: {app: db}, ports: [{port: 5432, targetPort: pg, protocol: TCP}], sessionAffinity: ClientIP}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}\naddressType: IPv4\nports: [{name: '', port: 5432, protocol: TCP}]\nendpoints: [{addresses: [10.244.0.9], conditions: {ready: true}, nodeName: n1}]\n",
        "apiVersion: cilium.io/v2\nkind: CiliumNode\nmetadata: {name: n1}\nspec: {addresses: [{type: InternalIP, ip: 192.0.2.1}], ipam: {podCIDRs: [10.244.7.0/24]}}\n---\napiVersion: cilium.io/v2\nkind: CiliumIdentity\nmetadata: {name: '4711'}\nsecurity-labels: {'k8s:app': web, 'k8s:io.kubernetes.pod.namespace': shop}\n---\napiVersion: cilium.io/v2alpha1\nkind: CiliumPodIPPool\nmetadata: {name: big}\nspec: {ipv4: {cidrs: [10.8.0.0/16], maskSize: 27}}\n---\napiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: g}\nspec: {externalCIDRs: [10.0.0.0/8, 192.0.2.0/24]}\n",
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: lab, labels: {tier: two}}}\n- {apiVersion: v1, kind: Pod, metadata: {name: p, namespace: lab, uid: u9}, spec: {nodeName: n1}, status: {podIPs: [{ip: 10.244.0.77}]}}\n",
    ])
}

pub fn queries() -> Vec<Vec<u8>> {
    texts(&[
        "last=20&follow=true",
        "since=2026-11-21T14:00:00Z&until=2026-11-21T15:00:00Z&verdict=dropped",
        "namespace=shop&not.pod=shop%2Fweb&port=80&protocol=tcp&reply=false",
        "from.label=app%3Dweb&to.ip=10.0.0.0%2F8&reason=policy",
    ])
}

pub fn query(input: &[u8]) -> bool {
    let Ok(query) = Query::from_url(&String::from_utf8_lossy(input)) else { return false };
    let _ = query.to_url();
    query.filter.parse().is_ok()
}

pub fn questions() -> Vec<Vec<u8>> {
    texts(&["source=shop%2Fweb&destination=10.0.0.9&protocol=6&port=443", "target=shop%2Fweb"])
}

pub fn question(input: &[u8]) -> bool {
    let (text, rows) = (String::from_utf8_lossy(input), axoneme_model::rows::RowSet::default());
    let target = explain::target_from_url(&text).map(|t| explain::who_can(&rows, true, &t)).is_ok();
    explain::Question::from_url(&text).map(|q| drop(explain::explain(&rows, true, &q))).is_ok() || target
}

pub fn flow_lines() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"3"},"node_name":"n1","time":"2026-11-21T14:00:00Z"}"#,
        r#"{"flow":{"time":"2026-11-21T14:00:00Z","verdict":"DROPPED"},"node_name":"n1","time":"2026-11-21T14:00:00Z"}"#,
        r#"{"lost":{"events":3,"where":"ring"},"node":"n1","time":"2026-11-21T14:00:00Z"}"#,
    ])
}

pub fn flow_line(input: &[u8]) -> bool {
    serde_json::from_slice::<Response>(input).is_ok()
}

pub fn exporters() -> Vec<Vec<u8>> {
    texts(&[
        "flowLogs:\n- name: all\n  filePath: /var/log/flows.log\n  fieldMask: [time, source.namespace, verdict]\n  includeFilters: [{source_pod: [shop/], verdict: [DROPPED]}]\n  excludeFilters: [{destination_port: ['53']}]\n  end: 2026-12-01T00:00:00Z\n",
        "flowLogs: []\n",
    ])
}

pub fn exporter(input: &[u8]) -> bool {
    export::exporters(&String::from_utf8_lossy(input)).is_ok()
}

pub fn masks() -> Vec<Vec<u8>> {
    texts(&["time,verdict,source.namespace,l4.TCP.flags", "source,destination.labels,IP.source"])
}

pub fn mask(input: &[u8]) -> bool {
    let paths: Vec<String> = String::from_utf8_lossy(input).split(',').map(str::to_owned).collect();
    Mask::parse(&paths).map(|m| m.map(|m| m.apply(&pb::flow::Flow::default()))).is_ok()
}

pub fn metric_sets() -> Vec<Vec<u8>> {
    texts(&[
        "flow:sourceContext=namespace|pod;destinationContext=ip",
        "drop:labelsContext=source_namespace,destination_pod",
        "tcp",
        "port-distribution",
    ])
}

pub fn metrics(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let Ok(mut metrics) = Metrics::parse(text.split_whitespace(), 10) else { return false };
    metrics.count(&pb::flow::Flow::default());
    metrics.text().contains("hubble")
}

pub fn hubble_requests() -> Vec<Vec<u8>> {
    let filter = pb::flow::FlowFilter {
        source_pod: vec!["shop/web".into(), "default/".into()],
        destination_ip: vec!["10.0.0.0/8".into(), "fd00::1".into()],
        source_port: vec!["80".into()],
        source_label: vec!["k8s:app=web,role in (x, y)".into()],
        verdict: vec![2],
        protocol: vec!["tcp".into()],
        tcp_flags: vec![pb::flow::TcpFlags { syn: true, ..Default::default() }],
        ..Default::default()
    };
    let request = pb::observer::GetFlowsRequest {
        number: 20,
        follow: true,
        whitelist: vec![filter.clone()],
        blacklist: vec![filter, pb::flow::FlowFilter::default()],
        ..Default::default()
    };
    vec![request.encode_to_vec(), pb::observer::GetFlowsRequest::default().encode_to_vec()]
}

pub fn hubble_request(input: &[u8]) -> bool {
    let Ok(request) = pb::observer::GetFlowsRequest::decode(input) else { return false };
    let Ok(filters) = Filters::parse(&request.whitelist, &request.blacklist) else { return false };
    let _ = filters.matches(&pb::flow::Flow::default());
    true
}
