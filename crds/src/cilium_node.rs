//! `cilium.io/v2` CiliumNode.

mod address;
mod cloud;
mod ipam;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    address::{AddressPair, EncryptionSpec, NodeAddress},
    cloud::{
        AlibabaCloudSpec, AlibabaCloudStatus, AlibabaEni, AlibabaPrivateIp, AlibabaVpc, AlibabaVswitch, AwsVpc,
        AzureAddress, AzureInterface, AzureSpec, AzureStatus, CloudSubnet, Eni, EniSpec, EniStatus,
    },
    ipam::{
        AllocationIp, IpamPoolAllocation, IpamPoolDemand, IpamPoolRequest, IpamPools, IpamSpec, IpamStatus,
        OperatorStatus, PodCidrState, PodCidrStatus, ReleaseStatus,
    },
};

/// A node, as the network sees it: its addresses, and the addresses that it has to give to its pods. Written by the
/// operator and the agent; not meant to be edited.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[kube(
    group = "cilium.io",
    version = "v2",
    kind = "CiliumNode",
    plural = "ciliumnodes",
    singular = "ciliumnode",
    shortname = "cn",
    shortname = "ciliumn",
    category = "cilium",
    status = "CiliumNodeStatus",
    doc = "A node, as the network sees it. Written by the operator and the agent; not meant to be edited.",
    printcolumn = r#"{"name": "CiliumInternalIP", "type": "string", "description": "The node's address inside the pod network.", "jsonPath": ".spec.addresses[?(@.type==\"CiliumInternalIP\")].ip"}"#,
    printcolumn = r#"{"name": "InternalIP", "type": "string", "description": "The node's address.", "jsonPath": ".spec.addresses[?(@.type==\"InternalIP\")].ip"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    derive = "Default",
    derive = "PartialEq"
)]
pub struct CiliumNodeSpec {
    /// The cloud provider's id of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,

    /// The id of the running boot. A change means that the machine restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootid: Option<String>,

    /// The addresses of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<NodeAddress>>,

    /// The addresses of the node's health endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<AddressPair>,

    /// The addresses of the node's ingress proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<AddressPair>,

    /// How the node encrypts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionSpec>,

    /// Settings for addresses from Amazon EC2 network interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eni: Option<EniSpec>,

    /// Settings for addresses from Azure network interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureSpec>,

    /// Settings for addresses from Alibaba Cloud network interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alibaba_cloud: Option<AlibabaCloudSpec>,

    /// The addresses that the node has to give to its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<IpamSpec>,
}

/// The state of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CiliumNodeStatus {
    /// Its Amazon EC2 network interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eni: Option<EniStatus>,

    /// Its Azure network interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureStatus>,

    /// The state of its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<IpamStatus>,

    /// Its Alibaba Cloud network interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alibaba_cloud: Option<AlibabaCloudStatus>,

    /// The settings in which the node differs from the cluster. What it has applied of them is told in the status of the
    /// objects that they come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Vec<SettingOverride>>,
}

/// A setting in which a node differs from the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct SettingOverride {
    /// The setting's path in AxonemeConfig.
    pub setting: String,

    /// What it is on this node. Empty: not set.
    #[serde(default)]
    pub value: String,

    /// What it is in the cluster. Empty: not set.
    #[serde(default)]
    pub cluster: String,

    /// The CiliumNodeConfig that says so: its namespace and name.
    pub from: String,
}
