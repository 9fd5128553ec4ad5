//! Another tunnel comes in three steps.

use axoneme_model::rows::{Routing as Row, Tunnel, TunnelProtocol};

use super::*;

fn overlay(spec: &Value) -> Value {
    json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig", "metadata": {"name": "default"},
        "spec": {"routing": {"overlay": spec}}})
}

const OLD: Tunnel = Tunnel { protocol: TunnelProtocol::Vxlan, port: 8472 };
const NEW: Tunnel = Tunnel { protocol: TunnelProtocol::Geneve, port: 6081 };

#[test]
fn nodes_take_packets_of_the_new_tunnel_before_any_sends_by_it_and_of_the_old_one_until_none_does() {
    let mut s = cluster();
    s.put(Kind::AxonemeConfig, overlay(&json!({})));
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    let told = |r: &Replica| {
        let all: Vec<_> = r.core.configs.values().map(|(row, _)| (row.routing.clone(), row.also)).collect();
        assert!(all.len() == 2 && all[0] == all[1], "all nodes are told the same: {all:?}");
        all[0].clone()
    };
    assert_eq!(told(&r), (Row::from(OLD), None));
    let one = |r: &mut Replica, s: &Server| {
        r.hear(s);
        drop(r.flush());
        told(r)
    };
    s.put(Kind::AxonemeConfig, overlay(&json!({"protocol": "Geneve"})));
    // no node is connected that would have to acknowledge it
    assert_eq!(one(&mut r, &s), (Row::from(OLD), Some(NEW)));
    assert_eq!(one(&mut r, &s), (Row::from(NEW), Some(OLD)));
    assert_eq!(one(&mut r, &s), (Row::from(NEW), None));
    let revision = r.core.hub.revision();
    r.settle(&mut s);
    assert_eq!(r.core.hub.revision(), revision, "nothing more is told");
}
