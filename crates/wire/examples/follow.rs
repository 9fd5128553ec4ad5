//! Follows the rows of a node, acknowledges them, and reports the node ready: what an agent would see.
//!
//! `follow NODE TOKEN_FILE CA_FILE ADDRESS…`

use std::sync::Arc;

use axoneme_wire::{
    EndpointReport, NodeReport,
    client::{Desired, Driver, Event, Fixed, Replicas, Settings, TokenFile},
};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (node, token, ca) = (args.next().unwrap_or_default(), args.next(), args.next());
    let ca_pem = std::fs::read_to_string(ca.ok_or("CA_FILE?")?)?;
    let replicas = Replicas { addresses: args.collect(), ca_pem };
    let settings = Settings { node: node.as_str().into(), agent_version: "follow".into(), resume: None };
    let token = TokenFile::new(token.ok_or("TOKEN_FILE?")?);
    let (driver, client, mut events) = Driver::new(settings, Arc::new(Fixed(replicas)), Arc::new(token));
    tokio::spawn(driver.run(CancellationToken::new()));
    client.node(NodeReport { ready: true, ..NodeReport::default() }).await?;
    let mut desired = Desired::default();
    while let Some(event) = events.recv().await {
        let batch = match event {
            Event::Batch(b) => b,
            other => {
                println!("{other:?}");
                continue;
            }
        };
        let at = batch.at;
        for change in desired.fold(batch)? {
            println!("{:>6} {change:?}", at.revision);
        }
        client.ack(at).await?;
        for e in desired.rows().endpoints.values() {
            let report = EndpointReport {
                uid: e.uid.clone(),
                namespace: e.namespace.clone(),
                name: e.name.clone(),
                container_id: "".into(),
                addresses: e.addresses.clone(),
                ready: true,
                identity: e.identity,
                table: e.table,
                removed: false,
            };
            client.endpoint(report).await?;
        }
    }
    Ok(())
}
