//! Names of Cilium's settings that stand for nothing in AxonemeConfig: keys of the ConfigMap `cilium-config` and values of
//! its Helm chart, each with the reason. What does stand for a setting is in the table of [`super::unknown`].
//!
//! Source of the names: `install/kubernetes/cilium` of Cilium 1.20 (`values.yaml`, `templates/cilium-configmap.yaml`), and
//! the upgrade notes of earlier releases for what they took away.

use std::{collections::HashMap, sync::LazyLock};

use super::unknown::{Successor, successor};
use crate::field::normalize;

use Successor::{Gone, Missing, Removed, Setting};

/// Words behind each other, so that hundreds of them stay readable.
type Words = &'static str;

/// Keys and values by their whole names.
pub(super) const NAMES: &[(Successor, Words)] = &[
    (
        Missing("encryption between nodes is not there yet: what is encrypted now would go in clear text"),
        "enable-encryption-strict-mode-egress enable-encryption-strict-mode-ingress enable-ipsec enable-wireguard \
         enable-ztunnel encrypt-node encryption.enabled encryption.nodeEncryption encryption.strictMode.enabled \
         encryption.strictMode.egress.enabled encryption.strictMode.ingress.enabled",
    ),
    (
        Missing("egress gateways are not there yet: pods would leave by their own node's address"),
        "enable-egress-gateway egressGateway.enabled",
    ),
    (
        Missing("BGP is not there yet: routers would lose the routes to pods and services"),
        "enable-bgp-control-plane bgpControlPlane.enabled",
    ),
    (
        Missing("Gateway API, Ingress and Envoy configurations are not served yet: run another controller for them"),
        "enable-envoy-config enable-gateway-api enable-ingress-controller loadbalancer-l7 gatewayAPI.enabled \
         ingressController.enabled envoyConfig.enabled loadBalancer.l7.backend",
    ),
    (
        Missing("LoadBalancer addresses are not announced yet: run another announcer for them"),
        "enable-l2-announcements enable-l2-pod-announcements enable-node-ipam l2announcements.enabled \
         l2podAnnouncements.enabled nodeIPAM.enabled",
    ),
    (
        Missing("mutual authentication is not there yet: policies that ask for it are refused by name"),
        "mesh-auth-enabled mesh-auth-mutual-enabled authentication.mutual.spire.enabled authentication.enabled",
    ),
    (
        Missing("CiliumLocalRedirectPolicy is not there yet: traffic would go where the service says"),
        "enable-local-redirect-policy localRedirectPolicy localRedirectPolicies.enabled",
    ),
    (Missing("translation between IPv4 and IPv6 is not there yet"), "enable-nat46x64-gateway nat46x64Gateway.enabled"),
    (
        Missing("tunnels to foreign VTEPs are not there yet: their networks would be cut off"),
        "enable-vtep vtep.enabled",
    ),
    (
        Missing("cluster mesh is not there yet: services and identities of other clusters would be lost"),
        "cluster-id clustermesh-enable-mcs-api cluster.id clustermesh.useAPIServer clustermesh.config.enabled \
         clustermesh.mcsapi.enabled",
    ),
    (
        Missing("policy by DNS names is not there yet: such policies are refused by name"),
        "enable-standalone-dns-proxy standaloneDnsProxy.enabled",
    ),
    (
        Missing("BIG TCP and BBR for pods are not there yet: throughput would change"),
        "enable-bbr enable-bbr-hostns-only enable-ipv4-big-tcp enable-ipv6-big-tcp bandwidthManager.bbr \
         bandwidthManager.bbrHostNamespaceOnly",
    ),
    (
        Missing(
            "masquerading is to the node's address on its uplinks only: another source address or device cannot be chosen yet",
        ),
        "egress-masquerade-interfaces enable-masquerade-to-route-source enableMasqueradeRouteSource",
    ),
    (
        Missing(
            "services are served to pods and nodes of the cluster, without regard to zones: this cannot be chosen yet",
        ),
        "bpf-lb-external-clusterip enable-service-topology bpf.lbExternalClusterIP loadBalancer.serviceTopology",
    ),
    (Missing("VLAN devices cannot be let past policy yet"), "vlan-bpf-bypass bpf.vlanBypass"),
    (Missing("datapath plugins are not there"), "enable-datapath-plugins datapathPlugins.enabled"),
    (
        Gone("addresses of clouds' APIs are not there: IPAM modes are ClusterPool, MultiPool, Kubernetes and CRD"),
        "alibabacloud-security-group-tags alibabacloud-security-groups alibabacloud-vswitch-tags \
         alibabacloud-vswitches aws-enable-prefix-delegation aws-release-excess-ips azure-interface-name \
         azure-use-primary-address azure-user-assigned-identity-id ec2-api-endpoint eni-delete-on-termination \
         eni-disable-prefix-delegation eni-exclude-interface-tags eni-first-interface-index eni-gc-interval \
         eni-gc-tags eni-security-group-tags eni-security-groups eni-subnet-ids eni-subnet-tags eni-tags \
         eni-use-primary-address install-uplink-routes-for-delegated-ipam instance-tags-filter ipam-max-allocate \
         ipam-min-allocate ipam-pre-allocate ipam-static-ip-tags subnet-ids-filter subnet-tags-filter",
    ),
    (
        Gone("the operator has one plan of addresses and asks no API that would need a limit"),
        "ipam-cilium-node-update-rate limit-ipam-api-burst limit-ipam-api-qps",
    ),
    (
        Gone("a parameter of BGP, which is not there yet"),
        "bgp-router-id-allocation-ip-pool bgp-router-id-allocation-mode bgp-secrets-namespace \
         enable-bgp-control-plane-status-report enable-bgp-legacy-origin-attribute",
    ),
    (
        Gone("a parameter of announcing LoadBalancer addresses, which is not there yet"),
        "l2-announcements-lease-duration l2-announcements-renew-deadline l2-announcements-retry-period \
         l2-pod-announcements-interface-pattern",
    ),
    (
        Gone("a parameter of encryption, which is not there yet"),
        "enable-ipsec-key-watcher encryption-strict-egress-allow-remote-node-identities \
         encryption-strict-egress-cidr ipsec-key-file ipsec-key-rotation-duration wireguard-persistent-keepalive \
         ztunnel-ca-type",
    ),
    (
        Gone("a parameter of egress gateways, which are not there yet"),
        "egress-gateway-policy-map-max egress-gateway-reconciliation-trigger-interval",
    ),
    (
        Gone("a parameter of mutual authentication, which is not there yet"),
        "bpf-auth-map-max mesh-auth-gc-interval mesh-auth-mutual-connect-timeout mesh-auth-mutual-listener-port \
         mesh-auth-queue-size mesh-auth-rotated-identities-queue-size mesh-auth-spiffe-trust-domain \
         mesh-auth-spire-admin-socket mesh-auth-spire-agent-socket mesh-auth-spire-server-address \
         mesh-auth-spire-server-connection-timeout",
    ),
    (
        Gone("a parameter of the L7 proxy; there is none yet, and policies with L7 rules are refused by name"),
        "cert-file disable-envoy-version-check enable-bpf-tproxy enable-gateway-api-alpn \
         enable-gateway-api-app-protocol enable-gateway-api-proxy-protocol enable-gateway-api-secrets-sync \
         enable-ingress-proxy-protocol enable-ingress-secrets-sync enable-l7-proxy enable-policy-secrets-sync \
         enforce-ingress-https envoy-access-log-buffer-size envoy-access-log-enabled envoy-base-id \
         envoy-config-retry-interval envoy-default-log-level envoy-http-upstream-linger-timeout \
         envoy-keep-cap-netbindservice envoy-log envoy-node-locality-enabled envoy-policy-restore-timeout \
         envoy-secrets-namespace envoy-xds-mode external-envoy-proxy gateway-api-hostnetwork-enabled \
         gateway-api-hostnetwork-nodelabelselector gateway-api-secrets-namespace \
         gateway-api-service-externaltrafficpolicy gateway-api-use-remote-address \
         gateway-api-xff-num-trusted-hops http-retry-count http-stream-idle-timeout ingress-default-lb-mode \
         ingress-default-secret-name ingress-default-secret-namespace ingress-default-xff-num-trusted-hops \
         ingress-hostnetwork-enabled ingress-hostnetwork-http-listener-port \
         ingress-hostnetwork-https-listener-port ingress-hostnetwork-nodelabelselector \
         ingress-hostnetwork-shared-listener-port ingress-hostnetwork-tls-passthrough-listener-port \
         ingress-lb-annotation-prefixes ingress-secrets-namespace ingress-shared-lb-service-name \
         ingress-use-remote-address key-file loadbalancer-l7-algorithm loadbalancer-l7-ports \
         policy-secrets-namespace policy-secrets-only-from-secrets-namespace proxy-admin-port \
         proxy-cluster-max-connections proxy-cluster-max-pending-requests proxy-cluster-max-requests \
         proxy-connect-timeout proxy-idle-timeout-seconds proxy-initial-fetch-timeout \
         proxy-max-active-downstream-connections proxy-max-concurrent-retries \
         proxy-max-connection-duration-seconds proxy-max-requests-per-connection proxy-prometheus-port \
         proxy-use-original-source-address proxy-xff-num-trusted-hops-egress proxy-xff-num-trusted-hops-ingress \
         trusted-ca-file",
    ),
    (
        Gone("a parameter of the DNS proxy; there is none yet, and policies by DNS names are refused by name"),
        "dns-policy-unload-on-shutdown dnsproxy-enable-transparent-mode dnsproxy-socket-linger-timeout \
         standalone-dns-proxy-server-port tofqdns-dns-reject-response-code tofqdns-enable-dns-compression \
         tofqdns-endpoint-max-ip-per-hostname tofqdns-idle-connection-grace-period \
         tofqdns-max-deferred-connection-deletes tofqdns-min-ttl tofqdns-pre-cache tofqdns-preallocate-identities \
         tofqdns-proxy-port tofqdns-proxy-response-max-delay",
    ),
    (
        Gone("a parameter of cluster mesh, which is not there yet"),
        "clustermesh-cache-ttl clustermesh-default-global-namespace clustermesh-enable-endpoint-sync \
         clustermesh-mcs-api-install-crds etcd-config kvstore-opt max-connected-clusters \
         policy-default-local-cluster",
    ),
    (Gone("a parameter of foreign VTEPs, which are not there yet"), "vtep-cidr vtep-endpoint vtep-mac vtep-mask"),
    (Gone("a parameter of CiliumLocalRedirectPolicy, which is not there yet"), "lrp-address-matcher-cidrs"),
    (
        Gone("a parameter of NodePort, LoadBalancer or external addresses of services, which are not served yet"),
        "bpf-lb-acceleration bpf-lb-algorithm bpf-lb-algorithm-annotation bpf-lb-dsr-dispatch \
         bpf-lb-maglev-hash-seed bpf-lb-maglev-table-size bpf-lb-map-max bpf-lb-mode bpf-lb-mode-annotation \
         bpf-lb-sock-terminate-pod-connections bpf-lb-source-range-all-types default-lb-service-ipam \
         disable-external-ip-mitigation enable-auto-protect-node-port-range enable-dynamic-source-lookup-nodeport \
         enable-health-check-loadbalancer-ip enable-health-check-nodeport enable-lb-ipam \
         enable-no-service-endpoints-routable enable-xt-socket-fallback k8s-service-proxy-name \
         kube-proxy-replacement-healthz-bind-address lb-reflector-wait-time node-port-bind-protection \
         node-port-range nodeport-addresses service-no-backend-response",
    ),
    (
        Gone(
            "every agent serves Hubble, on its socket and on 4244 with mTLS: variables AXONEME_HUBBLE_… of the DaemonSet say otherwise (docs/flows.md)",
        ),
        "enable-hubble hubble-disable-tls hubble-listen-address hubble-prefer-ipv6 hubble-socket-path \
         hubble-tls-cert-file hubble-tls-client-ca-files hubble-tls-key-file",
    ),
    (
        Gone(
            "sets of metrics are in the ConfigMap axoneme-hubble, in Hubble's words, and in variables AXONEME_HUBBLE_… of the DaemonSet (docs/flows.md)",
        ),
        "enable-hubble-open-metrics hubble-dynamic-metrics-config-path hubble-metrics hubble-metrics-server \
         hubble-metrics-server-enable-tls hubble-metrics-server-tls-cert-file \
         hubble-metrics-server-tls-client-ca-files hubble-metrics-server-tls-key-file",
    ),
    (
        Gone("exporters are in the ConfigMap cilium-flowlog-config, as Hubble's dynamic exporters (docs/flows.md)"),
        "hubble-export-aggregation-interval hubble-export-allowlist hubble-export-denylist \
         hubble-export-fieldaggregate hubble-export-fieldmask hubble-export-file-compress \
         hubble-export-file-max-backups hubble-export-file-max-size-mb hubble-export-file-path \
         hubble-flowlogs-config-path",
    ),
    (
        Gone("flows carry no L7 data; exporters mask what else is in them (docs/flows.md)"),
        "hubble-redact-http-headers-allow hubble-redact-http-headers-deny hubble-redact-http-urlquery \
         hubble-redact-http-userinfo hubble-redact-enabled",
    ),
    (
        Gone("how the history of flows is kept is not a setting"),
        "hubble-drop-events-reasons hubble-event-queue-size hubble-lost-event-send-interval \
         hubble-network-policy-correlation-enabled hubble-skip-unknown-cgroup-ids",
    ),
    (
        Gone("events are made by the programs for drops and changes of connections, without a level"),
        "bpf-conntrack-accounting bpf-events-default-burst-limit bpf-events-default-rate-limit \
         bpf-events-drop-enabled bpf-events-policy-verdict-enabled bpf-events-trace-enabled \
         ip-tracing-option-type metrics-sampling-interval monitor-aggregation monitor-aggregation-flags \
         monitor-aggregation-interval nat-map-stats-entries nat-map-stats-interval trace-sock",
    ),
    (
        Gone(
            "logs, metrics and health of the programs are flags of their own (AXONEME_… variables; docs/cli.md, docs/flows.md)",
        ),
        "agent-health-port connectivity-probe-frequency-ratio controller-group-metrics debug-verbose \
         enable-metrics health-check-icmp-failure-threshold log-opt log-system-load operator-api-serve-addr \
         operator-pprof operator-pprof-address operator-pprof-block-profile-rate \
         operator-pprof-mutex-profile-fraction operator-pprof-port operator-prometheus-enable-tls \
         operator-prometheus-serve-addr operator-prometheus-tls-cert-file operator-prometheus-tls-client-ca-files \
         operator-prometheus-tls-key-file pprof-address pprof-block-profile-rate pprof-mutex-profile-fraction \
         pprof-port prometheus-serve-addr pprof metrics",
    ),
    (
        Gone("maps have fixed sizes or follow spec.conntrack; they are told before they are full (axoneme status)"),
        "bpf-distributed-lru bpf-map-dynamic-size-ratio bpf-nat-global-max bpf-neigh-global-max bpf-node-map-max \
         bpf-policy-map-max bpf-policy-map-pressure-metrics-threshold bpf-policy-stats-map-max bpf-root \
         cgroup-root clean-cilium-bpf-state clean-cilium-state conntrack-gc-interval conntrack-gc-max-interval \
         datapath-plugins-state-dir enable-bpf-clock-probe enable-identity-mark enable-ipv4-fragment-tracking \
         enable-tcx preallocate-bpf-maps procfs",
    ),
    (
        Gone("nothing is written with iptables: masquerading is nftables"),
        "disable-iptables-feeder-rules install-no-conntrack-iptables-rules iptables-lock-timeout \
         iptables-random-fully",
    ),
    (
        Gone("it is always so, or how the datapath is built; there is nothing to choose"),
        "direct-routing-device enable-bandwidth-manager enable-endpoint-lockdown-on-policy-overflow \
         enable-endpoint-routes enable-host-legacy-routing enable-k8s-cluster-network-policy \
         enable-l2-neigh-discovery enable-local-node-route enable-non-default-deny-policies enable-pmtu-discovery \
         enable-route-mtu-for-cni-chaining enable-sctp enable-source-ip-verification \
         endpoint-policy-update-timeout force-device-detection packetization-layer-pmtud-mode \
         tunnel-source-port-range underlay-protocol",
    ),
    (
        Gone("an identity is made of the labels that policies read, and goes when nobody has it"),
        "enable-node-selector-labels enable-well-known-identities identity-change-grace-period \
         identity-gc-interval identity-heartbeat-timeout identity-management-mode node-labels",
    ),
    (
        Gone("how objects of the API are watched and written is not a setting; rows come from one operator"),
        "agent-not-ready-taint-key annotate-k8s-node api-rate-limit auto-create-cilium-node-resource \
         ces-rate-limits cilium-endpoint-gc-interval crd-wait-timeout disable-endpoint-crd \
         enable-cilium-endpoint-slice enable-drift-checker enable-dynamic-config ignore-flags-drift-checker \
         k8s-api-server-urls k8s-client-burst k8s-client-qps k8s-kubeconfig-path k8s-require-ipv4-pod-cidr \
         k8s-require-ipv6-pod-cidr nodes-gc-interval operator-k8s-client-burst operator-k8s-client-qps \
         pod-restart-selector remove-cilium-node-taints set-cilium-is-up-condition set-cilium-node-taints \
         skip-crd-creation synchronize-k8s-nodes unmanaged-pod-watcher-interval",
    ),
    (
        Gone("the CNI configuration is the agent's; other plugins are in spec.cni.chainedPlugins"),
        "cni-chaining-target cni-external-routing cni-log-file cni-uninstall custom-cni-conf read-cni-conf",
    ),
    (Gone("the first of spec.ipFamilies is a pod's first"), "prefer-ipv6"),
    (
        Removed("Cilium itself has taken it away, so it does nothing there either"),
        "enable-remote-node-identity enable-k8s-event-handover enable-k8s-endpoint-slice \
         enable-k8s-terminating-endpoint enable-external-ips enable-node-port enable-host-port \
         enable-session-affinity enable-svc-source-range-check enable-runtime-device-detection \
         enable-bpf-lb-source-range sockops-enable enable-host-reachable-services host-reachable-services-protos \
         bpf-lb-bypass-fib-lookup bpf-lb-proto-diff enable-high-scale-ipcache enable-recorder \
         enable-hubble-recorder-api hubble-recorder-storage-path enable-wireguard-userspace-fallback \
         disable-conntrack force-local-policy-eval-at-source tofqdns-enable-poller ipvlan-master-device \
         egress-multi-home-ip-rule-compat enable-encrypted-overlay enable-custom-calls externalIPs.enabled \
         hostPort.enabled hostServices.enabled sessionAffinity remoteNodeIdentity sockops.enabled \
         encryption.keyFile encryption.interface highScaleIPcache.enabled bgp.enabled bgp.announce.loadbalancerIP",
    ),
];

/// Values of the chart by the beginning of their paths. The longest decides.
const BELOW: &[(Successor, Words)] = &[
    (
        Gone("addresses of clouds' APIs are not there: IPAM modes are ClusterPool, MultiPool, Kubernetes and CRD"),
        "eni alibabacloud azure aksbyocni gke ipam.nodeSpec ipam.installUplinkRoutesForDelegatedIPAM",
    ),
    (
        Gone("the operator has one plan of addresses and asks no API that would need a limit"),
        "ipam.operator.externalAPILimitBurstSize ipam.operator.externalAPILimitQPS ipam.ciliumNodeUpdateRate",
    ),
    (Gone("a parameter of BGP, which is not there yet"), "bgpControlPlane"),
    (
        Gone("a parameter of announcing LoadBalancer addresses, which is not there yet"),
        "l2announcements l2podAnnouncements",
    ),
    (Gone("a parameter of encryption, which is not there yet"), "encryption"),
    (Gone("a parameter of egress gateways, which are not there yet"), "egressGateway"),
    (Gone("a parameter of mutual authentication, which is not there yet"), "authentication"),
    (
        Gone("a parameter of the L7 proxy; there is none yet, and policies with L7 rules are refused by name"),
        "envoy l7Proxy ingressController gatewayAPI envoyConfig tls bpf.tproxy loadBalancer.l7",
    ),
    (
        Gone("a parameter of the DNS proxy; there is none yet, and policies by DNS names are refused by name"),
        "dnsProxy standaloneDnsProxy",
    ),
    (Gone("a parameter of cluster mesh, which is not there yet"), "clustermesh etcd"),
    (Gone("a parameter of foreign VTEPs, which are not there yet"), "vtep"),
    (Gone("a parameter of CiliumLocalRedirectPolicy, which is not there yet"), "localRedirectPolicies"),
    (
        Gone("a parameter of NodePort, LoadBalancer or external addresses of services, which are not served yet"),
        "loadBalancer nodePort maglev nat k8sServiceLookup bpf.lbMapMax bpf.lbAlgorithmAnnotation \
         bpf.lbModeAnnotation bpf.lbSourceRangeAllTypes bpf.lbAcceleration bpf.disableExternalIPMitigation \
         bpf.disableExternalIPMitigation enableLBIPAM kubeProxyReplacementHealthzBindAddr \
         enableInternalTrafficPolicy socketLB.terminatePodConnections socketLB.tracing nodeinit waitForKubeProxy",
    ),
    (
        Gone(
            "every agent serves Hubble, on its socket and on 4244 with mTLS: variables AXONEME_HUBBLE_… of the DaemonSet say otherwise (docs/flows.md)",
        ),
        "hubble",
    ),
    (
        Gone(
            "sets of metrics are in the ConfigMap axoneme-hubble, in Hubble's words, and in variables AXONEME_HUBBLE_… of the DaemonSet (docs/flows.md)",
        ),
        "hubble.metrics",
    ),
    (
        Gone("exporters are in the ConfigMap cilium-flowlog-config, as Hubble's dynamic exporters (docs/flows.md)"),
        "hubble.export",
    ),
    (Gone("flows carry no L7 data; exporters mask what else is in them (docs/flows.md)"), "hubble.redact"),
    (
        Gone("how the history of flows is kept is not a setting"),
        "hubble.eventQueueSize hubble.networkPolicyCorrelation hubble.dropEventEmitter \
         hubble.skipUnknownCGroupIDs hubble.lostEventSendInterval",
    ),
    (
        Gone("events are made by the programs for drops and changes of connections, without a level"),
        "monitor bpf.monitorAggregation bpf.monitorFlags bpf.monitorInterval bpf.monitorTraceIPOption bpf.events \
         bpf.ctAccounting",
    ),
    (
        Gone(
            "logs, metrics and health of the programs are flags of their own (AXONEME_… variables; docs/cli.md, docs/flows.md)",
        ),
        "prometheus pprof dashboards logSystemLoad debug healthPort healthCheckICMPFailureThreshold logOptions",
    ),
    (
        Gone("maps have fixed sizes or follow spec.conntrack; they are told before they are full (axoneme status)"),
        "bpf cgroup bpfClockProbe cleanBpfState cleanState conntrackGCInterval conntrackGCMaxInterval \
         datapathPlugins sysctlfix",
    ),
    (
        Gone("it is always so, or how the datapath is built; there is nothing to choose"),
        "bandwidthManager endpointRoutes pmtuDiscovery sctp k8sClusterNetworkPolicy endpointLockdownOnMapOverflow \
         endpointPolicyUpdateTimeoutDuration l2NeighDiscovery nativeRoutingCIDRFromClusterPool \
         directRoutingDevice",
    ),
    (
        Gone("an identity is made of the labels that policies read, and goes when nobody has it"),
        "wellKnownIdentities nodeSelectorLabels",
    ),
    (
        Gone("how objects of the API are watched and written is not a setting; rows come from one operator"),
        "ciliumEndpointSlice k8s k8sClientRateLimit k8sClientExponentialBackoff configDriftDetection \
         agentNotReadyTaintKey k8sServiceHost k8sServicePort k8sServiceHostRef k8sServiceLookupConfigMapName \
         k8sServiceLookupNamespace kubeConfigPath secretsNamespaceAnnotations secretsNamespaceLabels daemon",
    ),
    (Gone("the CNI configuration is the agent's; other plugins are in spec.cni.chainedPlugins"), "cni"),
    (
        Gone("how the programs are deployed is in deploy/, not in the settings: patch it with kustomize"),
        "operator preflight image serviceAccounts certgen hubble.relay hubble.ui securityContext \
         podSecurityContext livenessProbe startupProbe readinessProbe updateStrategy resourceQuotas \
         namespaceOverride commonLabels upgradeCompatibility rbac imagePullSecrets terminationGracePeriodSeconds \
         agent name rollOutCiliumPods scheduling affinity nodeSelector tolerations priorityClassName dnsPolicy \
         extraContainers extraInitContainers extraArgs extraEnv extraHostPathMounts extraVolumes \
         extraVolumeMounts annotations podAnnotations podLabels resources initResources minReadySeconds tmpVolume \
         keepDeprecatedLabels keepDeprecatedProbes sleepAfterInit enableCriticalPriorityClass customCalls hostPID",
    ),
];

/// Names that AxonemeConfig has as well, at the same place or with another meaning: no error there, so not in the table of
/// what to write instead.
const SAME: &[(&str, &str)] = &[
    ("ipam", "spec.ipam.mode"),
    ("ipam.mode", "spec.ipam.mode"),
    ("mtu", "spec.mtu"),
    ("cni.exclusive", "spec.cni.exclusive"),
];

/// What a setting of Cilium is here, by its key in the ConfigMap or its path in the values of the Helm chart. None: Cilium
/// 1.20 has no such setting either, as far as this version knows.
pub fn cilium_setting(name: &str) -> Option<Successor> {
    static BELOW_INDEX: LazyLock<HashMap<String, Successor>> = LazyLock::new(|| index(BELOW));
    let normal = normalize(name);
    if let Some((_, path)) = SAME.iter().find(|(same, _)| *same == normal) {
        return Some(Setting(path));
    }
    if let Some(found) = successor(name) {
        return Some(found);
    }
    let mut at = normal.as_str();
    loop {
        if let Some(found) = BELOW_INDEX.get(at) {
            return Some(*found);
        }
        (at, _) = at.rsplit_once('.')?;
    }
}

/// The groups as a table by name.
pub(super) fn index(groups: &[(Successor, Words)]) -> HashMap<String, Successor> {
    let all =
        groups.iter().flat_map(|(successor, words)| words.split_whitespace().map(|word| (normalize(word), *successor)));
    all.collect()
}
