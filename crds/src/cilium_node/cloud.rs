use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of a node whose addresses are those of Amazon EC2 network interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EniSpec {
    /// The machine type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,

    /// The first interface whose addresses pods get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub first_interface_index: Option<i64>,

    /// Security groups that new interfaces get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_groups: Option<Vec<String>>,

    /// Tags of the security groups that new interfaces get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_group_tags: Option<BTreeMap<String, String>>,

    /// Subnets that new interfaces may lie in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet_ids: Option<Vec<String>>,

    /// Tags of the subnets that new interfaces may lie in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet_tags: Option<BTreeMap<String, String>>,

    /// The subnet of the node's first interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_subnet_id: Option<String>,

    /// The VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc_id: Option<String>,

    /// The availability zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,

    /// Tags of interfaces whose addresses pods do not get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude_interface_tags: Option<BTreeMap<String, String>>,

    /// Whether interfaces go with the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_on_termination: Option<bool>,

    /// Whether pods get an interface's first address too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_primary_address: Option<bool>,

    /// Whether addresses are taken one by one and not in /28 blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_prefix_delegation: Option<bool>,
}

/// Settings of a node whose addresses are those of Azure network interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AzureSpec {
    /// The interface whose addresses pods get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_name: Option<String>,
}

/// Settings of a node whose addresses are those of Alibaba Cloud network interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AlibabaCloudSpec {
    /// The machine type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,

    /// The availability zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,

    /// The VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc_id: Option<String>,

    /// The VPC's prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::Cidr>")]
    pub cidr_block: Option<String>,

    /// Switches that new interfaces may lie on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vswitches: Option<Vec<String>>,

    /// Tags of the switches that new interfaces may lie on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vswitch_tags: Option<BTreeMap<String, String>>,

    /// Security groups that new interfaces get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_groups: Option<Vec<String>>,

    /// Tags of the security groups that new interfaces get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_group_tags: Option<BTreeMap<String, String>>,
}

/// The Amazon EC2 network interfaces of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EniStatus {
    /// The interfaces, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enis: Option<BTreeMap<String, Eni>>,
}

/// An Amazon EC2 network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Eni {
    /// The interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,

    /// Its first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,

    /// Its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,

    /// The availability zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,

    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,

    /// Its number on the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,

    /// The subnet that it lies in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<CloudSubnet>,

    /// The VPC that it lies in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc: Option<AwsVpc>,

    /// Its further IPv4 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,

    /// The IPv4 blocks that it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<crate::schema::Cidr>>")]
    pub prefixes: Option<Vec<String>>,

    /// The IPv6 blocks that it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<crate::schema::Cidr>>")]
    pub ipv6_prefixes: Option<Vec<String>>,

    /// Its security groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_groups: Option<Vec<String>>,

    /// Its tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, String>>,

    /// Its public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_ip: Option<String>,
}

/// A cloud provider's subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CloudSubnet {
    /// The subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,

    /// Its prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::Cidr>")]
    pub cidr: Option<String>,
}

/// A VPC of Amazon EC2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AwsVpc {
    /// The VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,

    /// Its first prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::Cidr>")]
    pub primary_cidr: Option<String>,

    /// Its further prefixes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<crate::schema::Cidr>>")]
    pub cidrs: Option<Vec<String>>,
}

/// The Azure network interfaces of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AzureStatus {
    /// The interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<AzureInterface>>,
}

/// An Azure network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AzureInterface {
    /// The interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,

    /// Its first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,

    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,

    /// Its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,

    /// Its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,

    /// Its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<AzureAddress>>,

    /// Its security group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_group: Option<String>,

    /// The subnet that it lies in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<CloudSubnet>,

    /// The subnet's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// An address of an Azure network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AzureAddress {
    /// The address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,

    /// Its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// The Alibaba Cloud network interfaces of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AlibabaCloudStatus {
    /// The interfaces, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enis: Option<BTreeMap<String, AlibabaEni>>,
}

/// An Alibaba Cloud network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AlibabaEni {
    /// The interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_interface_id: Option<String>,

    /// Its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,

    /// Primary or Secondary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "type")]
    pub type_: Option<String>,

    /// The machine that it is attached to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,

    /// Its security groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_groupids: Option<Vec<String>>,

    /// The VPC that it lies in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc: Option<AlibabaVpc>,

    /// The zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone_id: Option<String>,

    /// The switch that it lies on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vswitch: Option<AlibabaVswitch>,

    /// Its first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_ip_address: Option<String>,

    /// Its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_ipsets: Option<Vec<AlibabaPrivateIp>>,

    /// Its tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, String>>,
}

/// A VPC of Alibaba Cloud.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AlibabaVpc {
    /// The VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc_id: Option<String>,

    /// Its IPv4 prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::Cidr>")]
    pub cidr: Option<String>,

    /// Its IPv6 prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::Cidr>")]
    pub ipv6_cidr: Option<String>,

    /// Its further prefixes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<crate::schema::Cidr>>")]
    pub secondary_cidrs: Option<Vec<String>>,
}

/// A switch of Alibaba Cloud.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AlibabaVswitch {
    /// The switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vswitch_id: Option<String>,

    /// Its IPv4 prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::Cidr>")]
    pub cidr: Option<String>,

    /// Its IPv6 prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::Cidr>")]
    pub ipv6_cidr: Option<String>,
}

/// An address of an Alibaba Cloud network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AlibabaPrivateIp {
    /// The address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_ip_address: Option<String>,

    /// Whether it is the interface's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<bool>,
}
