//! The operators and functions that expressions may use: what they take, give and cost.

use cel::common::ast::operators as op;

use super::{Found, kind::Kind};

const ORDERED: [Kind; 8] =
    [Kind::Bool, Kind::Int, Kind::Uint, Kind::Double, Kind::Text, Kind::Bytes, Kind::Time, Kind::Duration];
const CLOCK: [&str; 10] = [
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
];

/// A call: of `values` the first is the target where there is one.
///
/// *Errors*: what does not fit, in a sentence.
pub(super) fn call(name: &str, on_target: bool, values: &[Found]) -> Result<Found, String> {
    let cost = values.iter().map(|v| v.cost).fold(1, u64::saturating_add);
    let sizes = || values.iter().map(|v| v.most).fold(0, u64::saturating_add);
    let unfit = || {
        let kinds: Vec<String> = values.iter().map(|v| v.kind.to_string()).collect();
        format!("{} cannot be used with ({})", shown(name), kinds.join(", "))
    };
    let fits = |holds: bool| if holds { Ok(()) } else { Err(unfit()) };
    let gives = |kind| Ok(Found::new(kind, cost.saturating_add(sizes() / 64)));
    match (name, values) {
        (op::LOGICAL_AND | op::LOGICAL_OR, [a, b]) => {
            fits(a.kind.is(&[Kind::Bool]) && b.kind.is(&[Kind::Bool]))?;
            gives(Kind::Bool)
        }
        (op::LOGICAL_NOT | op::NOT_STRICTLY_FALSE, [a]) => {
            fits(a.kind.is(&[Kind::Bool]))?;
            gives(Kind::Bool)
        }
        (op::CONDITIONAL, [condition, a, b]) => {
            fits(condition.kind.is(&[Kind::Bool]))?;
            let kind = a.kind.clone().or(&b.kind);
            Ok(Found { kind, most: a.most.max(b.most), inner: a.inner.max(b.inner), cost })
        }
        (op::EQUALS | op::NOT_EQUALS, [a, b]) => {
            if a.kind.messages() || b.kind.messages() {
                return Err("messages cannot be compared; compare their fields, or use has()".to_owned());
            }
            fits(a.kind.like(&b.kind))?;
            Ok(Found::new(Kind::Bool, cost.saturating_add(a.most.min(b.most) / 8)))
        }
        (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [a, b]) => {
            fits(a.kind.is(&ORDERED) && b.kind.is(&ORDERED) && a.kind.like(&b.kind))?;
            gives(Kind::Bool)
        }
        (op::IN, [one, all]) => {
            let of = match &all.kind {
                Kind::List(of) if !of.messages() => &**of,
                Kind::Map | Kind::Dyn => &Kind::Dyn,
                _ => return Err(unfit()),
            };
            fits(one.kind.like(of) && !one.kind.messages())?;
            Ok(Found::new(Kind::Bool, cost.saturating_add(all.most / 4)))
        }
        (op::ADD, [a, b]) => sum(a, b, cost).ok_or_else(unfit),
        (op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, [a, b]) => {
            arithmetic(name, &a.kind, &b.kind).map_or_else(|| Err(unfit()), gives)
        }
        (op::NEGATE, [a]) => {
            fits(a.kind.is(&[Kind::Int, Kind::Double]))?;
            gives(a.kind.clone())
        }
        (op::INDEX, [of, at]) => {
            let kind = match &of.kind {
                Kind::List(one) if at.kind == Kind::Dyn || at.kind.number() => (**one).clone(),
                Kind::Map | Kind::Dyn => Kind::Dyn,
                _ => return Err(unfit()),
            };
            Ok(Found { kind, most: of.inner, inner: of.inner, cost })
        }
        _ => function(name, on_target, values, cost, sizes()).unwrap_or_else(|| Err(unfit())),
    }
}

/// None: it does not fit what it is used with.
fn function(name: &str, on_target: bool, values: &[Found], cost: u64, sizes: u64) -> Option<Result<Found, String>> {
    let given = |kind| Some(Ok(Found::new(kind, cost.saturating_add(sizes / 16))));
    let text = |v: &Found| v.kind.is(&[Kind::Text]);
    match (name, on_target, values) {
        ("contains" | "startsWith" | "endsWith", true, [a, b]) if text(a) && text(b) => given(Kind::Bool),
        ("size", _, [a]) => match &a.kind {
            Kind::Text | Kind::Bytes | Kind::List(_) | Kind::Map | Kind::Dyn => given(Kind::Int),
            _ => None,
        },
        ("int", false, [a]) if scalar(a) => given(Kind::Int),
        ("uint", false, [a]) if scalar(a) => given(Kind::Uint),
        ("double", false, [a]) if scalar(a) => given(Kind::Double),
        ("bool", false, [a]) if scalar(a) => given(Kind::Bool),
        ("string", false, [a]) if scalar(a) => {
            Some(Ok(Found { most: a.most.max(64), ..Found::new(Kind::Text, cost.saturating_add(sizes / 16)) }))
        }
        ("timestamp", false, [a]) if a.kind.is(&[Kind::Text, Kind::Time, Kind::Int]) => given(Kind::Time),
        ("duration", false, [a]) if a.kind.is(&[Kind::Text, Kind::Duration]) => given(Kind::Duration),
        ("dyn", false, [a]) if !a.kind.messages() => Some(Ok(Found { kind: Kind::Dyn, cost, ..a.clone() })),
        (clock, true, [a]) if CLOCK.contains(&clock) && a.kind.is(&[Kind::Time, Kind::Duration]) => given(Kind::Int),
        (clock, true, [a, zone]) if CLOCK.contains(&clock) && a.kind.is(&[Kind::Time]) && text(zone) => {
            given(Kind::Int)
        }
        (known, ..) if known_names().any(|n| n == known) => None,
        (other, ..) => Some(Err(format!("no such function: {}", other.chars().take(64).collect::<String>()))),
    }
}

fn known_names() -> impl Iterator<Item = &'static str> {
    let plain = ["contains", "startsWith", "endsWith", "size", "int", "uint", "double", "bool", "string"];
    plain.into_iter().chain(["timestamp", "duration", "dyn"]).chain(CLOCK)
}

fn scalar(v: &Found) -> bool {
    !matches!(v.kind, Kind::Message(_) | Kind::List(_) | Kind::Map | Kind::Null)
}

/// Numbers of one kind, texts, lists, times.
fn sum(a: &Found, b: &Found, cost: u64) -> Option<Found> {
    let kind = match (&a.kind, &b.kind) {
        (Kind::List(x), Kind::List(y)) => Kind::List(Box::new((**x).clone().or(y))),
        (Kind::Time, Kind::Duration) | (Kind::Duration, Kind::Time) => Kind::Time,
        (Kind::Dyn, Kind::Message(_)) | (Kind::Message(_), _) => return None,
        (Kind::Dyn, _) | (_, Kind::Dyn) => Kind::Dyn,
        (x, y) if x == y && !matches!(x, Kind::Bool | Kind::Null | Kind::Map | Kind::Time) => x.clone(),
        _ => return None,
    };
    let most = a.most.saturating_add(b.most);
    let copied = if matches!(kind, Kind::Text | Kind::Bytes) { most / 64 } else { most };
    Some(Found { kind, most, inner: a.inner.max(b.inner), cost: cost.saturating_add(copied) })
}

fn arithmetic(name: &str, a: &Kind, b: &Kind) -> Option<Kind> {
    match (a, b) {
        (Kind::Time, Kind::Time) | (Kind::Duration, Kind::Duration) if name == op::SUBSTRACT => Some(Kind::Duration),
        (Kind::Time, Kind::Duration) if name == op::SUBSTRACT => Some(Kind::Time),
        (Kind::Dyn, k) | (k, Kind::Dyn) if *k == Kind::Dyn || k.number() => Some(Kind::Dyn),
        (a, b) if a == b && a.number() => Some(a.clone()),
        _ => None,
    }
}

/// `_==_` is `==`.
fn shown(name: &str) -> &str {
    match name {
        op::CONDITIONAL => "?:",
        op::INDEX => "[]",
        op::NOT_STRICTLY_FALSE => "a condition",
        name => name.trim_matches(['_', '@']),
    }
}
