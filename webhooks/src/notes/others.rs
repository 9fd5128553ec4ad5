//! What a policy means beside those that are there: whom it keeps from deciding, who keeps it, and what it opens.
//!
//! Told is what holds for certain, by [`axoneme_model::cover`], whatever pods there are: rules that only meet for some
//! packets are what policies are written for.

use std::ops::ControlFlow;

use axoneme_model::{
    Action, DirectedRule, Peer, Peers, Policy, PortMatch, Ports, Rule, Subject, Tier, cover, labels::names::NAMESPACE,
    policy::Entity,
};

use crate::view::View;

/// Policies that are looked at for one: a tenth of a microsecond each, where their subjects have nothing in common.
const LOOKS: usize = 20_000;
/// Pairs of rules that are compared: a fraction of a microsecond each.
const PAIRS: usize = 20_000;
/// What is told at most; the answer counts the rest.
const TOLD: usize = 100;

/// What is to be told of the policy among others.
pub(super) fn of(policy: &Policy, view: &dyn View) -> Vec<String> {
    if policy.audit {
        return Vec::new();
    }
    let mut found = Found { policy, left: PAIRS, leaves: false, admin: Vec::new(), other: Vec::new(), opened: None };
    let mut looks = LOOKS;
    view.policies(namespace(policy), &mut |other| {
        if looks == 0 || found.left == 0 || found.other.len() + found.admin.len() >= TOLD {
            found.leaves = true;
            return ControlFlow::Break(());
        }
        looks -= 1;
        if other.object != policy.object && !other.audit {
            found.meet(other);
        }
        ControlFlow::Continue(())
    });
    found.leaves |= policy.rules.iter().any(passes);
    if found.leaves {
        found.admin.clear();
    }
    let mut told: Vec<String> = found.opened.into_iter().collect();
    told.append(&mut found.admin);
    told.append(&mut found.other);
    told
}

/// The one namespace whose pods all rules select, if there is one.
fn namespace(policy: &Policy) -> Option<&str> {
    let mut of = policy.rules.iter().map(|r| match &r.subject {
        Subject::Endpoints(selector) => super::namespace(selector),
        Subject::Nodes(_) => None,
    });
    let first = of.next()??;
    of.all(|n| n == Some(first)).then_some(first)
}

/// Whether a rule leaves the tier: then what a later one of it covers may still reach those of other tiers.
fn passes(rule: &Rule) -> bool {
    rule.ingress.iter().chain(&rule.egress).any(|d| d.action == Action::Pass)
}

struct Found<'p> {
    policy: &'p Policy,
    left: usize,
    /// Not all has been looked at, or some rule leaves the admin tier.
    leaves: bool,
    /// What holds as long as no rule leaves the admin tier.
    admin: Vec<String>,
    other: Vec<String>,
    opened: Option<String>,
}

impl Found<'_> {
    fn meet(&mut self, other: &Policy) {
        self.leaves |= other.rules.iter().any(passes);
        let (mut theirs, mut ours) = (Silenced::default(), Silenced::default());
        for own in &self.policy.rules {
            for rule in &other.rules {
                if cover::subject(&rule.subject, &own.subject) {
                    self.left = self.left.saturating_sub(ours.by((other, rule), (self.policy, own), self.left));
                    self.open(own, other, rule);
                }
                if cover::subject(&own.subject, &rule.subject) {
                    self.left = self.left.saturating_sub(theirs.by((self.policy, own), (other, rule), self.left));
                }
            }
        }
        let other = &other.object;
        for Pair { decides, silent, denies, admin } in ours.0 {
            let word = word(denies);
            let text = format!("{silent}: never decides: {other} ({decides}) {word} all of it before");
            if admin { &mut self.admin } else { &mut self.other }.push(text);
        }
        for Pair { decides, silent, denies, admin } in theirs.0 {
            let word = word(denies);
            let text = format!("{decides}: {other} ({silent}) never decides any more: this {word} all of it before");
            if admin { &mut self.admin } else { &mut self.other }.push(text);
        }
    }

    /// Whether the rule opens the world to pods that the other policy closes as a whole.
    fn open(&mut self, own: &Rule, other: &Policy, closing: &Rule) {
        if self.opened.is_some() || other.tier != Tier::Normal || !is_of_namespaces(&closing.subject) {
            return;
        }
        let ingress = closing.isolates_ingress && closing.ingress.is_empty();
        let egress = closing.isolates_egress && closing.egress.is_empty();
        let lists = [(ingress, &own.ingress, "in from"), (egress, &own.egress, "out to")];
        for (_, list, way) in lists.into_iter().filter(|(closed, ..)| *closed) {
            let wide = |d: &&DirectedRule| d.action == Action::Allow && is_world(&d.peers) && !is_nothing(&d.ports);
            if let Some(open) = list.iter().find(wide) {
                let (path, ports, by) = (&open.path, words(&open.ports), &other.object);
                self.opened = Some(format!("{path}: lets {ports} {way} the whole world, where {by} denies by default"));
                return;
            }
        }
    }
}

const fn word(denies: bool) -> &'static str {
    if denies { "denies" } else { "allows" }
}

/// Rules of one policy that another keeps from deciding otherwise.
#[derive(Default)]
struct Silenced(Vec<Pair>);

struct Pair {
    decides: String,
    silent: String,
    denies: bool,
    /// By a rule of the admin tier.
    admin: bool,
}

impl Silenced {
    /// Looks for rules of `later` that `first` decides against, all of whose subjects it has. How many pairs it looked at.
    fn by(&mut self, (first, wide): (&Policy, &Rule), (later, narrow): (&Policy, &Rule), left: usize) -> usize {
        let mut looked = 0;
        for (wide, narrow) in [(&wide.ingress, &narrow.ingress), (&wide.egress, &narrow.egress)] {
            for n in narrow {
                for w in wide {
                    if looked == left {
                        return looked;
                    }
                    looked += 1;
                    if decides_against((first, w.action), (later, n.action)) && cover::directed(w, n) {
                        let (decides, silent) = (w.path.to_string(), n.path.to_string());
                        let admin = matches!(first.tier, Tier::Admin { .. });
                        self.0.push(Pair { decides, silent, denies: w.action == Action::Deny, admin });
                        break;
                    }
                }
            }
        }
        looked
    }
}

/// Whether a rule decides before another, and otherwise. Of the normal tier denies come before allows; of the others the
/// first in the order of [`Tier`].
fn decides_against((first, action): (&Policy, Action), (later, its_action): (&Policy, Action)) -> bool {
    let opposite = matches!((action, its_action), (Action::Allow, Action::Deny) | (Action::Deny, Action::Allow));
    opposite
        && match (first.tier, later.tier) {
            (Tier::Normal, Tier::Normal) => action == Action::Deny,
            (before, after) => (before, &first.object) < (after, &later.object),
        }
}

/// Whether the subject is all pods of some namespaces.
fn is_of_namespaces(subject: &Subject) -> bool {
    matches!(subject, Subject::Endpoints(selector) if selector.keys().all(|k| &*k.name == NAMESPACE))
}

fn is_world(peers: &Peers) -> bool {
    let Peers::OneOf(peers) = peers else { return true };
    peers.iter().any(|p| match p {
        Peer::Entity(e) => matches!(e, Entity::All | Entity::World | Entity::WorldIpv4 | Entity::WorldIpv6),
        Peer::Cidr { cidr, except, .. } => cidr.prefix() == 0 && except.is_empty(),
        _ => false,
    })
}

fn is_nothing(ports: &Ports) -> bool {
    matches!(ports, Ports::OneOf(list) if list.is_empty())
}

/// `TCP 80, 443 and 2 more`.
fn words(ports: &Ports) -> String {
    const NAMED: usize = 3;
    let Ports::OneOf(list) = ports else { return "everything".to_owned() };
    let word = |p: &PortMatch| match p {
        PortMatch::Protocol(protocol) => protocol.to_string(),
        PortMatch::Range { protocol, first, last } if first == last => format!("{protocol} {first}"),
        PortMatch::Range { protocol, first, last } => format!("{protocol} {first}-{last}"),
        PortMatch::Named { name, .. } => format!("port {name}"),
        PortMatch::IcmpType { protocol, icmp_type } => format!("{protocol} type {icmp_type}"),
    };
    let named: Vec<String> = list.iter().take(NAMED).map(word).collect();
    let more = if list.len() > NAMED { format!(" and {} more", list.len() - NAMED) } else { String::new() };
    named.join(", ") + &more
}
