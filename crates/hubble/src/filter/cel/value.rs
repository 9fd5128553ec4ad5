//! Messages of protobuf and compiled patterns as values of CEL.

use std::{any::Any, borrow::Cow, sync::Arc};

use cel::{
    DeclarationError, Env, ExecutionError,
    common::{
        traits::Indexer,
        types::{CelBool, CelBytes, CelDouble, CelInt, CelList, CelNull, CelString, CelTimestamp, CelUInt, Type},
        value::{CowVal, StaticVal, Val},
    },
};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value};
use regex::Regex;

static MESSAGE: Type = Type::new_struct_type("message");
static PATTERN: Type = Type::new_unspecified_type("pattern");

/// A message, or one that is not set: all of its fields have their defaults.
#[derive(Clone, Debug)]
pub(super) struct Message<'v> {
    kind: MessageDescriptor,
    of: Option<&'v DynamicMessage>,
}

impl<'v> Message<'v> {
    pub(super) fn new(of: &'v DynamicMessage) -> Self {
        Self { kind: of.descriptor(), of: Some(of) }
    }

    fn field(&self, name: &str) -> Option<Box<dyn Val + 'v>> {
        let field = self.kind.get_field_by_name(name)?;
        let set = self.of.filter(|m| m.has_field(&field)).map(|m| m.get_field(&field));
        Some(match set {
            Some(Cow::Borrowed(value)) => of(value),
            // a default is not in the message
            _ => unset(&field),
        })
    }

    fn has(&self, name: &str) -> bool {
        let field = self.kind.get_field_by_name(name);
        field.is_some_and(|f| self.of.is_some_and(|m| m.has_field(&f)))
    }
}

/// Wrappers stand for what they wrap, and for null where they are not set.
fn wraps(kind: &MessageDescriptor) -> bool {
    matches!(kind.full_name(), "google.protobuf.BoolValue" | "google.protobuf.Int32Value")
}

fn of(value: &Value) -> Box<dyn Val + '_> {
    match value {
        Value::List(all) => Box::new(CelList::from(all.iter().map(one).collect::<Vec<_>>())),
        value => one(value),
    }
}

fn one(value: &Value) -> Box<dyn Val + '_> {
    match value {
        Value::Bool(b) => Box::new(CelBool::from(*b)),
        Value::I32(n) | Value::EnumNumber(n) => Box::new(CelInt::from(i64::from(*n))),
        Value::I64(n) => Box::new(CelInt::from(*n)),
        Value::U32(n) => Box::new(CelUInt::from(u64::from(*n))),
        Value::U64(n) => Box::new(CelUInt::from(*n)),
        Value::F32(n) => Box::new(CelDouble::from(f64::from(*n))),
        Value::F64(n) => Box::new(CelDouble::from(*n)),
        Value::String(text) => Box::new(CelString::from(text.as_str())),
        Value::Bytes(bytes) => Box::new(CelBytes::from(bytes.to_vec())),
        Value::Message(message) => message_value(message),
        // no message of the protocol has a map
        Value::List(_) | Value::Map(_) => Box::new(CelNull),
    }
}

fn message_value(message: &DynamicMessage) -> Box<dyn Val + '_> {
    let kind = message.descriptor();
    if kind.full_name() == "google.protobuf.Timestamp" {
        return timestamp(message);
    }
    if wraps(&kind) {
        return match kind.get_field(1).map(|f| message.get_field(&f).into_owned()) {
            Some(Value::Bool(b)) => Box::new(CelBool::from(b)),
            Some(Value::I32(n)) => Box::new(CelInt::from(i64::from(n))),
            _ => Box::new(CelNull),
        };
    }
    Box::new(Message::new(message))
}

fn timestamp<'v>(message: &DynamicMessage) -> Box<dyn Val + 'v> {
    let number = |name| message.get_field_by_name(name).and_then(|v| v.as_i64().or(v.as_i32().map(i64::from)));
    let (seconds, nanos) = (number("seconds").unwrap_or_default(), number("nanos").unwrap_or_default());
    moment(seconds, u32::try_from(nanos).unwrap_or_default())
}

fn moment<'v>(seconds: i64, nanos: u32) -> Box<dyn Val + 'v> {
    match chrono::DateTime::from_timestamp(seconds, nanos) {
        Some(time) => Box::new(CelTimestamp::from(time.fixed_offset())),
        None => Box::new(CelNull),
    }
}

/// What a field that is not set reads as.
fn unset<'v>(field: &FieldDescriptor) -> Box<dyn Val + 'v> {
    if field.is_list() {
        return Box::new(CelList::from(Vec::new()));
    }
    match field.kind() {
        Kind::Message(kind) if wraps(&kind) => Box::new(CelNull),
        Kind::Message(kind) if kind.full_name() == "google.protobuf.Timestamp" => moment(0, 0),
        Kind::Message(kind) => Box::new(Message { kind, of: None }),
        Kind::Bool => Box::new(CelBool::from(false)),
        Kind::String => Box::new(CelString::from("")),
        Kind::Bytes => Box::new(CelBytes::from(Vec::new())),
        Kind::Double | Kind::Float => Box::new(CelDouble::from(0.0)),
        Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64 => Box::new(CelUInt::from(0)),
        _ => Box::new(CelInt::from(0)),
    }
}

impl Val for Message<'_> {
    fn get_type(&self) -> &Type {
        &MESSAGE
    }

    fn cel_type() -> &'static Type {
        &MESSAGE
    }

    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn clone_as_boxed<'w>(&self) -> Box<dyn Val + 'w>
    where
        Self: 'w,
    {
        Box::new(self.clone())
    }
}

impl Indexer for Message<'_> {
    fn get<'b, 'w>(&'b self, name: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        let unknown = || ExecutionError::no_such_key("no such field");
        let name = name.downcast_ref::<CelString>().map(CelString::inner).ok_or_else(unknown)?;
        // what `has()` asks: the check renames the field of a test
        if let Some(name) = name.strip_prefix(super::check::TEST) {
            return if self.has(name) { Ok(CowVal::owned(CelBool::from(true))) } else { Err(unknown()) };
        }
        self.field(name).map(CowVal::Owned).ok_or_else(unknown)
    }

    fn steal<'w>(self: Box<Self>, name: &dyn Val) -> Result<Box<dyn Val + 'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.get(name).map(CowVal::into_owned)
    }
}

/// A regular expression.
#[derive(Clone, Debug)]
pub(super) struct Pattern(pub(super) Arc<Regex>);

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        &PATTERN
    }

    fn cel_type() -> &'static Type {
        &PATTERN
    }

    fn clone_as_boxed<'w>(&self) -> Box<dyn Val + 'w> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}

/// Declares `text.matches(pattern)` and `matches(text, pattern)`.
pub(super) fn matches(env: &mut Env) -> Result<(), DeclarationError> {
    fn matches(text: &CelString<'_>, pattern: &Pattern) -> CelBool {
        CelBool::from(pattern.0.is_match(text.inner()))
    }
    cel::add_overload!(env, fn matches: (CelString, Pattern) -> CelBool, id = "matches_pattern")?;
    cel::add_member_overload!(env, fn matches: (CelString, Pattern) -> CelBool)
}
