//! `axoneme version`.

use axoneme_flow::admin::{self, Status};
use serde::Serialize;

use crate::{agent::Agent, args, failure::Failure, output::Output};

#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
}

pub fn run(agent: &Agent, args: &args::Version, out: &mut Output) -> Result<(), Failure> {
    let mut unreachable = None;
    let answered = if args.client {
        None
    } else {
        // a version is asked for most where nothing runs yet: that is no failure
        agent.get::<Status>(admin::STATUS).map_err(|e| unreachable = Some(e)).ok()
    };
    let versions = Versions { client: env!("CARGO_PKG_VERSION"), agent: answered.map(|s| s.version) };
    out.document(args.output, &versions, |out, v| {
        out.line(&format!("client: {}", v.client))?;
        match (&v.agent, &unreachable) {
            (Some(version), _) => out.line(&format!("agent:  {version}")),
            (None, Some(why)) => out.line(&format!("agent:  unknown ({})", why.message().unwrap_or_default())),
            (None, None) => Ok(()),
        }
    })
}
