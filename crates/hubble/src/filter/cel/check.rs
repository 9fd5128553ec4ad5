//! Judges an expression before any flow meets it: its names, its kinds, and what it may cost.
//!
//! It rewrites what the interpreter would do anew for each flow: names of enums become their numbers, patterns become
//! values that are compiled, and `has()` asks a message's presence and not its keys.

mod functions;
mod kind;

use std::sync::Arc;

use cel::common::{
    ast::{
        CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr, SelectExpr, SourceInfo,
    },
    types::CelInt,
};
use prost_reflect::MessageDescriptor;
use regex::RegexBuilder;

use super::{FLOW, MAX_COST, value::Pattern};
use kind::Kind;

/// Names of patterns begin so: no expression can spell them.
pub(super) const PATTERN: &str = "@pattern";
/// The field of a `has()` begins so.
pub(super) const TEST: &str = "@has ";
/// Elements that a list of a flow is taken to have.
pub(super) const LIST: u64 = 64;
/// Characters that a text of a flow is taken to have.
const TEXT: u64 = 128;
/// Deepest tree: the interpreter recurses.
const DEEPEST: usize = 64;
/// Bytes that a compiled pattern may take.
const PATTERN_BYTES: usize = 256 << 10;
const MAX_PATTERNS: usize = 16;

/// What is wrong with a part of an expression.
#[derive(Debug)]
pub(super) struct Wrong {
    id: u64,
    what: String,
}

impl Wrong {
    fn new(at: &IdedExpr, what: impl Into<String>) -> Self {
        Self { id: at.id, what: what.into() }
    }

    /// With its place.
    pub(super) fn at(&self, source: &SourceInfo) -> String {
        match source.offset_for(self.id) {
            Some((start, _)) => format!("at character {}: {}", start + 1, self.what),
            None => self.what.clone(),
        }
    }
}

/// What is known of a part.
#[derive(Clone, Debug)]
struct Found {
    kind: Kind,
    /// Elements, characters.
    most: u64,
    /// Those of its largest element.
    inner: u64,
    /// Steps to get it.
    cost: u64,
}

impl Found {
    const fn new(kind: Kind, cost: u64) -> Self {
        Self { kind, most: 0, inner: 0, cost }
    }

    /// As a flow has it.
    fn of_flow(kind: Kind, cost: u64) -> Self {
        let most = match kind {
            Kind::List(_) => LIST,
            Kind::Text | Kind::Bytes => TEXT,
            _ => 0,
        };
        let inner = if matches!(kind, Kind::List(_)) { TEXT } else { 0 };
        Self { kind, most, inner, cost }
    }
}

struct Variable {
    name: String,
    found: Found,
}

pub(super) struct Check {
    flow: MessageDescriptor,
    patterns: Vec<Pattern>,
    scope: Vec<Variable>,
    depth: usize,
}

type Checked = Result<Found, Wrong>;

impl Check {
    pub(super) const fn new(flow: MessageDescriptor) -> Self {
        Self { flow, patterns: Vec::new(), scope: Vec::new(), depth: 0 }
    }

    /// The whole expression; its cost.
    pub(super) fn root(&mut self, e: &mut IdedExpr) -> Result<u64, Wrong> {
        let found = self.part(e)?;
        if !matches!(found.kind, Kind::Bool | Kind::Dyn) {
            return Err(Wrong::new(e, format!("gives a {}; a filter gives true or false", found.kind)));
        }
        Ok(found.cost)
    }

    pub(super) fn patterns(self) -> Vec<Pattern> {
        self.patterns
    }

    fn part(&mut self, e: &mut IdedExpr) -> Checked {
        if self.depth >= DEEPEST {
            return Err(Wrong::new(e, format!("nests deeper than {DEEPEST}")));
        }
        self.depth += 1;
        let found = self.one(e);
        self.depth -= 1;
        let found = found?;
        if found.cost > MAX_COST {
            return Err(Wrong::new(e, format!("may take {} steps for a flow; at most {MAX_COST}", found.cost)));
        }
        Ok(found)
    }

    fn one(&mut self, e: &mut IdedExpr) -> Checked {
        if let Some(number) = self.constant(&e.expr) {
            e.expr = Expr::Literal(LiteralValue::Int(CelInt::from(i64::from(number))));
        }
        let id = e.id;
        let wrong = |what: String| Wrong { id, what };
        match &mut e.expr {
            Expr::Literal(literal) => Ok(self::literal(literal)),
            Expr::Ident(name) => self.name(name).map_err(wrong),
            Expr::Select(select) => self.field(select, id),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(map),
            Expr::Call(call) => self.call(call, id),
            Expr::Comprehension(c) => self.comprehension(c),
            Expr::Struct(_) => Err(wrong("messages cannot be made here".to_owned())),
            Expr::Unspecified => Err(wrong("nothing".to_owned())),
        }
    }

    fn variable(&self, name: &str) -> Option<&Variable> {
        self.scope.iter().rev().find(|v| v.name == name)
    }

    fn name(&self, name: &str) -> Result<Found, String> {
        if let Some(variable) = self.variable(name) {
            return Ok(Found { cost: 1, ..variable.found.clone() });
        }
        if name == FLOW {
            return Ok(Found::new(Kind::Message(self.flow.clone()), 1));
        }
        Err(format!("no such name: {name}; the flow is {FLOW}"))
    }

    /// The number of `Verdict.DROPPED` or `flow.Verdict.DROPPED`.
    fn constant(&self, e: &Expr) -> Option<i32> {
        let Expr::Select(SelectExpr { operand, field, test: false }) = e else { return None };
        let (package, name) = match &operand.expr {
            Expr::Ident(name) => (None, name),
            Expr::Select(SelectExpr { operand, field, test: false }) => match &operand.expr {
                Expr::Ident(package) => (Some(package), field),
                _ => return None,
            },
            _ => return None,
        };
        let root = package.unwrap_or(name);
        if self.variable(root).is_some() || package.is_some_and(|p| p != "flow") {
            return None;
        }
        let found = self.flow.parent_pool().get_enum_by_name(&format!("flow.{name}"))?;
        found.get_value_by_name(field).map(|v| v.number())
    }

    fn field(&mut self, select: &mut SelectExpr, id: u64) -> Checked {
        let of = self.part(&mut select.operand)?;
        let wrong = |what: String| Wrong { id, what };
        let kind = match &of.kind {
            Kind::Message(kind) => {
                let field = kind.get_field_by_name(&select.field);
                let field = field.ok_or_else(|| wrong(format!("{} has no field {:?}", kind.name(), select.field)))?;
                Kind::of(&field).ok_or_else(|| wrong(format!("{} cannot be read here", field.name())))?
            }
            Kind::Dyn | Kind::Map => Kind::Dyn,
            other => return Err(wrong(format!("a {other} has no field {:?}", select.field))),
        };
        if select.test {
            if matches!(of.kind, Kind::Message(_)) {
                select.field.insert_str(0, TEST);
            }
            return Ok(Found::new(Kind::Bool, of.cost + 1));
        }
        if matches!(of.kind, Kind::Message(_)) {
            return Ok(Found::of_flow(kind, of.cost + 1));
        }
        Ok(Found { kind, most: of.inner, inner: of.inner, cost: of.cost + 1 })
    }

    fn list(&mut self, list: &mut ListExpr) -> Checked {
        let (mut all, mut kind) = (Found::new(Kind::Dyn, 1), None);
        for element in &mut list.elements {
            let found = self.part(element)?;
            all.most += 1;
            all.inner = all.inner.max(found.most).max(found.inner);
            all.cost += found.cost;
            kind = Some(kind.map_or(found.kind.clone(), |k: Kind| k.or(&found.kind)));
        }
        all.kind = Kind::List(Box::new(kind.unwrap_or(Kind::Dyn)));
        Ok(all)
    }

    fn map(&mut self, map: &mut MapExpr) -> Checked {
        let mut all = Found::new(Kind::Map, 1);
        for entry in &mut map.entries {
            let EntryExpr::MapEntry(entry) = &mut entry.expr else { continue };
            let (key, value) = (self.part(&mut entry.key)?, self.part(&mut entry.value)?);
            all.most += 1;
            all.inner = all.inner.max(key.most).max(value.most).max(value.inner);
            all.cost += key.cost + value.cost;
        }
        Ok(all)
    }

    /// `all`, `exists`, `exists_one`, `map` and `filter`, as the parser expands them.
    fn comprehension(&mut self, c: &mut ComprehensionExpr) -> Checked {
        let range = self.part(&mut c.iter_range)?;
        let element = match &range.kind {
            Kind::List(of) => (**of).clone(),
            Kind::Dyn | Kind::Map => Kind::Dyn,
            other => return Err(Wrong::new(&c.iter_range, format!("a {other} has no elements"))),
        };
        let start = self.part(&mut c.accu_init)?;
        let gathers = matches!(start.kind, Kind::List(_));
        // what is gathered is copied at each step: that is counted once, below
        let sum = if gathers { Found { most: 0, inner: LIST.max(range.inner), ..start.clone() } } else { start };
        let before = self.scope.len();
        self.scope.push(Variable { name: c.accu_var.clone(), found: sum });
        let one = Found { kind: element, most: range.inner, inner: range.inner, cost: 1 };
        let names = [Some(c.iter_var.clone()), c.iter_var2.clone()].into_iter().flatten();
        self.scope.extend(names.map(|name| Variable { name, found: one.clone() }));
        let condition = self.part(&mut c.loop_cond);
        let step = condition.and_then(|cond| Ok((cond, self.part(&mut c.loop_step)?)));
        self.scope.truncate(before + 1);
        let result = step.and_then(|steps| Ok((steps, self.part(&mut c.result)?)));
        self.scope.truncate(before);
        let ((condition, step), result) = result?;
        let copies = if gathers { range.most * range.most / 4 } else { 0 };
        let each = condition.cost + step.cost + 1;
        let cost = range.most.saturating_mul(each).saturating_add(range.cost + result.cost + copies);
        let inner = if gathers { result.inner.max(step.inner) } else { result.inner };
        let kind = if gathers { step.kind } else { result.kind };
        Ok(Found { kind, most: if gathers { range.most } else { result.most }, inner, cost })
    }

    /// Replaces a literal pattern by the name of a compiled one.
    fn pattern(&mut self, e: &mut IdedExpr) -> Result<(), Wrong> {
        let Expr::Literal(LiteralValue::String(text)) = &e.expr else {
            return Err(Wrong::new(e, "the pattern of matches() must be a literal"));
        };
        if self.patterns.len() >= MAX_PATTERNS {
            return Err(Wrong::new(e, format!("more than {MAX_PATTERNS} patterns")));
        }
        let compiled = RegexBuilder::new(text.inner()).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).build();
        let compiled = compiled.map_err(|error| {
            let reason = error.to_string();
            Wrong::new(e, reason.lines().last().unwrap_or("not a pattern").to_owned())
        })?;
        e.expr = Expr::Ident(format!("{PATTERN}{}", self.patterns.len()));
        self.patterns.push(Pattern(Arc::new(compiled)));
        Ok(())
    }

    fn call(&mut self, call: &mut CallExpr, id: u64) -> Checked {
        if call.func_name == "matches" {
            return self.matches(call, id);
        }
        let mut found = Vec::with_capacity(call.args.len() + 1);
        if let Some(target) = &mut call.target {
            found.push(self.part(target)?);
        }
        for argument in &mut call.args {
            found.push(self.part(argument)?);
        }
        functions::call(&call.func_name, call.target.is_some(), &found).map_err(|what| Wrong { id, what })
    }

    fn matches(&mut self, call: &mut CallExpr, id: u64) -> Checked {
        let (text, pattern) = match (&mut call.target, call.args.as_mut_slice()) {
            (Some(text), [pattern]) => (&mut **text, pattern),
            (None, [text, pattern]) => (text, pattern),
            _ => return Err(Wrong { id, what: "matches() takes a text and a pattern".to_owned() }),
        };
        let found = self.part(text)?;
        if !matches!(found.kind, Kind::Text | Kind::Dyn) {
            return Err(Wrong { id, what: format!("matches() looks at texts, not at a {}", found.kind) });
        }
        self.pattern(pattern)?;
        Ok(Found::new(Kind::Bool, found.cost + found.most / 8 + 4))
    }
}

fn literal(literal: &LiteralValue) -> Found {
    let (kind, most) = match literal {
        LiteralValue::Boolean(_) => (Kind::Bool, 0),
        LiteralValue::Bytes(b) => (Kind::Bytes, b.inner().len()),
        LiteralValue::Double(_) => (Kind::Double, 0),
        LiteralValue::Int(_) => (Kind::Int, 0),
        LiteralValue::Null => (Kind::Null, 0),
        LiteralValue::String(s) => (Kind::Text, s.inner().len()),
        LiteralValue::UInt(_) => (Kind::Uint, 0),
    };
    Found { most: most as u64, ..Found::new(kind, 1) }
}
