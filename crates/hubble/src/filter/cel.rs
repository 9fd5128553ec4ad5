//! CEL expressions (`experimental.cel_expression`): one flow, named `_flow`, in; true or false out.
//!
//! ```text
//!  text ─▶ parse ─▶ check (fields, functions, kinds, cost; patterns compiled) ─▶ Program ─▶ of each flow: true, false
//! ```
//!
//! As in Cilium: `_flow` is a `flow.Flow`, the names of its package stand for themselves (`Verdict.DROPPED`), a field that
//! is not set reads as its default and `has()` tells the two apart, and an expression that fails on a flow does not match
//! it. Unlike there a pattern of `matches` is a literal, and is compiled once.
//!
//! *Guarantees*: a client's text costs nobody else anything. Its length, nesting and number of steps are bounded before
//! it meets a flow ([`MAX_BYTES`], [`MAX_DEPTH`], [`MAX_COST`]); what is not understood is refused with its place; a
//! panic of the interpreter is an error like any other.
//!
//! *Caveats*: messages are not compared as a whole (their fields are), `extensions` cannot be read, and a type is not
//! checked where it depends on the flow (`dyn`).

mod check;
mod value;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock},
};

use cel::{
    Context, Env, Value,
    common::{
        ast::{IdedExpr, SourceInfo},
        types::CelBool,
        value::CowVal,
    },
    context::VariableResolver,
    parser::Parser,
};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor};

use crate::{json, pb::flow as pb};
use value::{Message, Pattern};

/// Bytes of an expression.
pub(super) const MAX_BYTES: usize = 2048;
/// How deep its parts may lie in each other: parsing and evaluating recurse.
const MAX_DEPTH: usize = 32;
/// Steps that an expression may take for a flow whose lists have [`check::LIST`] elements.
const MAX_COST: u64 = 4096;
/// The flow's name.
const FLOW: &str = "_flow";

/// Functions and types of all expressions.
static ENV: LazyLock<Option<Arc<Env>>> = LazyLock::new(|| {
    let mut env = Env::default().with_optional_support(false).with_stdlib();
    value::matches(&mut env).ok()?;
    Some(Arc::new(env))
});

static FLOW_TYPE: LazyLock<Option<MessageDescriptor>> = LazyLock::new(|| json::message("flow.Flow").ok());

/// An expression that can be asked.
#[derive(Debug)]
pub(super) struct Program {
    text: String,
    expression: IdedExpr,
    patterns: Vec<Pattern>,
    cost: u64,
}

impl Program {
    /// The expression, or what is wrong with it and where: `at character 7: …`.
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("longer than {MAX_BYTES} bytes"));
        }
        shallow(text)?;
        let panicked = |_| "the expression cannot be compiled".to_owned();
        catch_unwind(AssertUnwindSafe(|| Self::compile_shallow(text))).map_err(panicked)?
    }

    fn compile_shallow(text: &str) -> Result<Self, String> {
        let missing = || "CEL is not available".to_owned();
        let flow = FLOW_TYPE.clone().filter(|_| ENV.is_some()).ok_or_else(missing)?;
        let (mut expression, source) = parse(text)?;
        let mut check = check::Check::new(flow);
        let found = check.root(&mut expression).map_err(|e| e.at(&source))?;
        let patterns = check.patterns();
        Ok(Self { text: text.to_owned(), expression, patterns, cost: found })
    }

    /// Steps that a flow may take, at most about [`MAX_COST`].
    pub(super) const fn cost(&self) -> u64 {
        self.cost
    }

    /// What it says of a flow; one that it fails on does not match.
    pub(super) fn matches(&self, flow: &Subject) -> bool {
        let (Some(flow), Some(env)) = (&flow.0, &*ENV) else { return false };
        let names = Names { flow: Message::new(flow), patterns: &self.patterns };
        let answer = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(env.clone());
            context.set_variable_resolver(&names);
            let value = Value::resolve_val(&self.expression, &context);
            value.map(|v| v.downcast_ref::<CelBool>().is_some_and(|b| *b.inner())).map_err(|e| e.to_string())
        }));
        match answer {
            Ok(Ok(yes)) => yes,
            Ok(Err(error)) => {
                tracing::trace!(expression = self.text, error, "an expression has no answer for a flow");
                false
            }
            Err(_) => {
                tracing::error!(expression = self.text, "an expression broke the interpreter");
                false
            }
        }
    }
}

/// A flow as expressions read it.
#[derive(Debug)]
pub(super) struct Subject(Option<DynamicMessage>);

impl Subject {
    pub(super) fn new(flow: &pb::Flow) -> Self {
        let of = |kind: MessageDescriptor| DynamicMessage::decode(kind, &*flow.encode_to_vec()).ok();
        Self(FLOW_TYPE.clone().and_then(of))
    }
}

fn parse(text: &str) -> Result<(IdedExpr, SourceInfo), String> {
    // with the standard macros, without the syntax of optional values
    let parser = Parser::new().max_recursion_depth(MAX_DEPTH as u16).error_recovery_limit(4);
    parser.parse_with_source_info(text).map_err(|errors| match errors.errors.first() {
        // the parser counts lines from one and their characters from nought or one, as the lexer or itself finds it
        Some(e) => format!("at line {} character {}: {}", e.pos.0.max(1), e.pos.1.max(1), brief(&e.msg)),
        None => "not an expression".to_owned(),
    })
}

/// A parser's message may quote the whole text.
fn brief(message: &str) -> String {
    message.chars().take(160).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Refuses what nests too deep before a parser that recurses sees it.
fn shallow(text: &str) -> Result<(), String> {
    let (mut depth, mut quote, mut escaped) = (0usize, None, false);
    for (n, c) in text.chars().enumerate() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '[' | '{' | '?') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(format!("at character {}: nests deeper than {MAX_DEPTH}", n + 1));
        }
    }
    Ok(())
}

/// What names stand for while one flow is looked at.
struct Names<'f> {
    flow: Message<'f>,
    patterns: &'f [Pattern],
}

impl VariableResolver for Names<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        if name == FLOW {
            return Some(CowVal::Borrowed(&self.flow));
        }
        let number = name.strip_prefix(check::PATTERN)?.parse::<usize>().ok()?;
        self.patterns.get(number).map(|p| CowVal::Borrowed(p as _))
    }
}

#[cfg(test)]
mod tests;
