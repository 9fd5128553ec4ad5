//! `axoneme policy who-can` and `axoneme policy coverage`: of the node, or of manifests.

mod unmatched;

use std::collections::BTreeSet;

use axoneme_flow::{
    admin,
    explain::{self, Access, Coverage},
};
use serde::Serialize;

use crate::{
    agent::Agent,
    args,
    failure::Failure,
    manifests,
    output::{Output, Tone},
    progress::Progress,
    world::{self, Described},
};

/// Members of a group that a line names.
const NAMED: usize = 4;

pub fn who_can(agent: &Agent, args: &args::WhoCan, out: &mut Output) -> Result<(), Failure> {
    let access = if args.files.is_empty() {
        let _progress = Progress::start("asking the agent");
        agent.get::<Access>(&format!("{}?{}", admin::WHO_CAN, explain::target_to_url(&args.target)))?
    } else {
        let described = described(&args.files)?;
        let rows = world::rows(&described.world);
        let own_host = described.world.config.always_allow_own_host;
        let mut access = explain::who_can(&rows, own_host, &args.target).map_err(Failure::Usage)?;
        access.caveats.extend(described.caveats);
        access
    };
    out.document(args.output, &access, |out, access| {
        let open = if access.isolated { "isolated: who is not listed may not" } else { "not isolated by any policy" };
        let name = out.tone(Tone::Strong, &access.pod);
        out.line(&format!("{name} is {open}"))?;
        let rows = access.groups.iter().map(|g| {
            let more = if g.who.len() > NAMED { format!(" and {} more", g.who.len() - NAMED) } else { String::new() };
            let who = g.who.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ") + &more;
            vec![who, g.may.join(", "), g.rules.join("; ")]
        });
        out.table(&["WHO", "MAY", "RULES"], rows)?;
        caveats(out, &access.caveats)
    })
}

/// A cluster's coverage: that of its rows, and policies that its rows do not show.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    coverage: Coverage,
    /// Policies that select no pod. Only manifests tell: a node knows just the policies of its pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    idle_policies: Vec<String>,
    /// Selectors of peers that match nobody, with the rule that they stand in. Only manifests tell, as above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unmatched_selectors: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    caveats: Vec<String>,
}

pub fn coverage(agent: &Agent, args: &args::Coverage, out: &mut Output) -> Result<(), Failure> {
    let answer = if args.files.is_empty() {
        let _progress = Progress::start("asking the agent");
        let caveat = "pods of this node only; -f answers for all manifests of a cluster".to_owned();
        let (idle_policies, unmatched_selectors) = (Vec::new(), Vec::new());
        Answer { coverage: agent.get(admin::COVERAGE)?, idle_policies, unmatched_selectors, caveats: vec![caveat] }
    } else {
        of_manifests(described(&args.files)?)
    };
    out.document(args.output, &answer, |out, a| {
        let c = &a.coverage;
        let pods = c.pods.len();
        let summary = [("ingress", c.isolated_ingress), ("egress", c.isolated_egress)];
        for (direction, isolated) in summary {
            out.line(&format!("default-deny for {direction}: {isolated} of {pods} pods"))?;
        }
        let word = |isolated| if isolated { "isolated" } else { "open" }.to_owned();
        let rows = c.pods.iter().map(|p| vec![p.pod.clone(), word(p.ingress), word(p.egress), p.policies.join(", ")]);
        out.table(&["POD", "INGRESS", "EGRESS", "POLICIES"], rows)?;
        let found = [
            ("selects no pod", &a.idle_policies),
            ("matches nobody", &a.unmatched_selectors),
            ("never decides", &c.unused_rules),
        ];
        for (what, names) in found {
            for name in names {
                out.line(&format!("{} {name}: {what}", out.tone(Tone::Attention, "!")))?;
            }
        }
        caveats(out, &a.caveats)
    })
}

fn of_manifests(described: Described) -> Answer {
    let mut coverage = explain::coverage(&world::rows(&described.world));
    let applied: BTreeSet<String> = coverage.pods.iter().flat_map(|p| p.policies.iter().cloned()).collect();
    let place = |object| described.places.get(object).map(|p| format!(" ({p})")).unwrap_or_default();
    let idle = described.world.policies.keys().filter(|object| !applied.contains(&object.to_string()));
    let idle_policies: Vec<String> = idle.map(|object| format!("{object}{}", place(object))).collect();
    let used = described.world.policies.values().filter(|p| applied.contains(&p.object.to_string()));
    let unmatched_selectors = unmatched::selectors(&described.world, used);
    // what is said of a policy is not said again of each of its rules
    coverage.unused_rules.retain(|rule| applied.iter().any(|policy| rule.starts_with(&format!("{policy} "))));
    Answer { coverage, idle_policies, unmatched_selectors, caveats: described.caveats }
}

fn described(files: &[std::path::PathBuf]) -> Result<Described, Failure> {
    let progress = Progress::start("reading manifests");
    Ok(world::build(&manifests::load(files, &progress)?))
}

fn caveats(out: &mut Output, caveats: &[String]) -> Result<(), Failure> {
    caveats.iter().try_for_each(|caveat| {
        let line = format!("{} {caveat}", out.tone(Tone::Attention, "!"));
        out.line(&line)
    })
}
