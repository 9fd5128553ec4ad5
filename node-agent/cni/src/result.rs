//! ADD's result in each version of the specification.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    pub mac: String,
    pub mtu: u32,
    /// Path of the network namespace; empty for the node's side.
    pub sandbox: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    pub address: IpAddr,
    pub prefix: u8,
    pub gateway: IpAddr,
    /// Index into the interfaces.
    pub interface: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub destination: String,
    pub gateway: IpAddr,
}

/// What ADD made, in no version's spelling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddResult {
    pub interfaces: Vec<Interface>,
    pub ips: Vec<IpConfig>,
    pub routes: Vec<Route>,
}

impl AddResult {
    /// In the spelling of `version`, behind what an earlier plugin of the chain has made.
    #[must_use]
    pub fn print(&self, version: &str, previous: Option<&Value>) -> Value {
        let mut out = previous.and_then(Value::as_object).cloned().unwrap_or_default();
        let offset = out.get("interfaces").and_then(Value::as_array).map_or(0, Vec::len);
        let old = version.starts_with("0.");
        append(&mut out, "interfaces", self.interfaces.iter().map(|i| interface(i, version)));
        append(&mut out, "ips", self.ips.iter().map(|ip| address(ip, offset, old)));
        append(&mut out, "routes", self.routes.iter().map(|r| json!({"dst": r.destination, "gw": r.gateway})));
        out.entry("dns").or_insert_with(|| json!({}));
        out.insert("cniVersion".to_owned(), json!(version));
        Value::Object(out)
    }
}

fn append(out: &mut Map<String, Value>, key: &str, items: impl Iterator<Item = Value>) {
    let list = out.entry(key).or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        list.extend(items);
    }
}

fn interface(i: &Interface, version: &str) -> Value {
    let mut out = json!({"name": i.name, "mac": i.mac});
    if let Some(o) = out.as_object_mut() {
        if !i.sandbox.is_empty() {
            o.insert("sandbox".to_owned(), json!(i.sandbox));
        }
        // 1.1.0 added it
        if version == "1.1.0" {
            o.insert("mtu".to_owned(), json!(i.mtu));
        }
    }
    out
}

fn address(ip: &IpConfig, offset: usize, old: bool) -> Value {
    let mut out = json!({
        "address": format!("{}/{}", ip.address, ip.prefix),
        "gateway": ip.gateway,
        "interface": ip.interface + offset,
    });
    // 1.0.0 removed it
    if old && let Some(o) = out.as_object_mut() {
        o.insert("version".to_owned(), json!(if ip.address.is_ipv4() { "4" } else { "6" }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> AddResult {
        AddResult {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: 1450,
                sandbox: "/run/netns/a".into(),
            }],
            ips: vec![IpConfig {
                address: "10.0.0.5".parse().unwrap(),
                prefix: 32,
                gateway: "169.254.1.1".parse().unwrap(),
                interface: 0,
            }],
            routes: vec![Route { destination: "0.0.0.0/0".into(), gateway: "169.254.1.1".parse().unwrap() }],
        }
    }

    #[test]
    fn each_version_has_its_spelling() {
        let new = made().print("1.1.0", None);
        assert_eq!(
            new,
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1450, "sandbox": "/run/netns/a"}],
                "ips": [{"address": "10.0.0.5/32", "gateway": "169.254.1.1", "interface": 0}],
                "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
                "dns": {}
            })
        );
        assert_eq!(made().print("1.0.0", None)["interfaces"][0].get("mtu"), None);
        assert_eq!(made().print("1.0.0", None)["ips"][0].get("version"), None);
        assert_eq!(made().print("0.4.0", None)["ips"][0]["version"], "4");
    }

    #[test]
    fn an_earlier_plugins_result_is_kept_in_front() {
        let previous =
            json!({"interfaces": [{"name": "tun0"}], "dns": {"nameservers": ["1.1.1.1"]}, "cniVersion": "1.0.0"});
        let out = made().print("1.0.0", Some(&previous));
        assert_eq!(out["interfaces"][0]["name"], "tun0");
        assert_eq!(out["ips"][0]["interface"], 1);
        assert_eq!(out["dns"]["nameservers"][0], "1.1.1.1");
    }
}
