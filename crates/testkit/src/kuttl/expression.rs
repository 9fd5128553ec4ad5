//! Assertions in CEL: `resourceRefs`, `assertAny` and `assertAll` of a `TestAssert` (upstream's
//! internal/expressions/cel.go).

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use cel::{Context, Program, Value as Cel};
use serde_json::Value;

use super::config::TestAssert;

/// The expressions of a step, read.
#[derive(Debug, Default)]
pub(super) struct Expressions {
    any: Vec<(String, Program)>,
    all: Vec<(String, Program)>,
}

impl Expressions {
    /// Reads them.
    ///
    /// # Errors
    /// A text that is no expression, or a name in it that no reference gives.
    pub(super) fn of(assert: &TestAssert) -> Result<Self, String> {
        for reference in &assert.resource_refs {
            if [&reference.api_version, &reference.kind, &reference.name, &reference.reference]
                .iter()
                .any(|f| f.is_empty())
            {
                return Err(format!("resourceRefs: apiVersion, kind, name and ref are required: {reference:?}"));
            }
        }
        let read = |expressions: &[super::config::Expression]| -> Result<Vec<_>, String> {
            expressions.iter().map(|e| program(&e.cel_expr).map(|p| (e.cel_expr.clone(), p))).collect()
        };
        Ok(Self { any: read(&assert.assert_any)?, all: read(&assert.assert_all)? })
    }

    /// Why they do not hold; nothing where they do. `objects`: what the references stand for.
    pub(super) fn unmet(&self, objects: &[(String, Value)]) -> Vec<String> {
        let unmet = |all: &[(String, Program)]| -> Vec<String> {
            all.iter().filter_map(|(text, program)| holds(text, program, objects).err()).collect()
        };
        let (any, all) = (unmet(&self.any), unmet(&self.all));
        let mut told = Vec::new();
        if !self.any.is_empty() && any.len() == self.any.len() {
            told.push(format!("no expression evaluated to true: {}", any.join("; ")));
        }
        if !all.is_empty() {
            told.push(format!("not all assertAll expressions evaluated to true: {}", all.join("; ")));
        }
        told
    }
}

fn program(text: &str) -> Result<Program, String> {
    let compiled = catch_unwind(|| Program::compile(text)).map_err(|_| format!("{text:?}: cannot be read"))?;
    compiled.map_err(|e| format!("{text:?}: {e}"))
}

fn holds(text: &str, program: &Program, objects: &[(String, Value)]) -> Result<(), String> {
    let mut context = Context::default();
    for (name, object) in objects {
        context.add_variable_from_value(name.as_str(), to_cel(object));
    }
    // the interpreter's own defects are failures of the expression, not of the run
    let done = catch_unwind(AssertUnwindSafe(|| program.execute(&context)));
    match done.map_err(|_| format!("{text:?} broke the interpreter"))? {
        Ok(Cel::Bool(true)) => Ok(()),
        Ok(other) => Err(format!("{text:?} evaluated to {other:?}")),
        Err(error) => Err(format!("{text:?} cannot be evaluated: {error}")),
    }
}

/// Whole numbers are `int`, as in an unstructured object of Go, whatever their sign.
fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(yes) => Cel::Bool(*yes),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| Cel::Float(number.as_f64().unwrap_or(f64::NAN)), Cel::Int)
        }
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(fields) => {
            let map: HashMap<String, Cel> = fields.iter().map(|(key, value)| (key.clone(), to_cel(value))).collect();
            Cel::Map(map.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kuttl::config::{API_VERSION, read};

    fn unmet(any: &[&str], all: &[&str]) -> Vec<String> {
        let list = |texts: &[&str]| texts.iter().map(|t| json!({"celExpr": t})).collect::<Vec<_>>();
        let assert = json!({"apiVersion": API_VERSION, "kind": "TestAssert", "assertAny": list(any), "assertAll": list(all),
            "resourceRefs": [{"apiVersion": "v1", "kind": "Pod", "name": "a", "ref": "pod"}]});
        let policy = json!({"metadata": {"generation": 2}, "status": {"conditions": [
            {"type": "Valid", "status": "True", "observedGeneration": 2}, {"type": "Enforced", "status": "False"}]}});
        Expressions::of(&read(&assert).unwrap()).unwrap().unmet(&[("pod".to_owned(), policy)])
    }

    #[test]
    fn all_have_to_hold() {
        let valid = "pod.status.conditions.exists(c, c.type == 'Valid' && c.status == 'True' && \
                     c.observedGeneration == pod.metadata.generation)";
        let enforced = "pod.status.conditions.exists(c, c.type == 'Enforced' && c.status == 'True')";
        assert_eq!(unmet(&[], &[valid, "pod.metadata.generation >= 2"]), [""; 0]);
        let told = unmet(&[], &[valid, enforced]);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("not all") && told[0].contains("Enforced") && !told[0].contains("Valid"), "{told:?}");
    }

    #[test]
    fn one_of_any_has_to_hold() {
        assert_eq!(unmet(&["false", "size(pod.status.conditions) == 2"], &[]), [""; 0]);
        assert!(unmet(&["false", "1 == 2"], &[])[0].contains("no expression evaluated to true"));
        assert_eq!(unmet(&[], &[]), [""; 0]);
    }

    #[test]
    fn what_cannot_be_evaluated_does_not_hold() {
        for (text, why) in [
            ("pod.status.missing == 1", "cannot be evaluated"),
            ("other.status == 1", "cannot be evaluated"),
            ("'yes'", "evaluated to"),
        ] {
            assert!(unmet(&[], &[text])[0].contains(why), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_expression_is_refused_at_once() {
        let refused = |assert: Value| Expressions::of(&read(&assert).unwrap()).unwrap_err();
        let of = |more: Value| {
            let mut assert = json!({"apiVersion": API_VERSION, "kind": "TestAssert"});
            assert.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert
        };
        assert!(refused(of(json!({"assertAll": [{"celExpr": "a =="}]}))).contains("a =="));
        let nameless = json!({"resourceRefs": [{"apiVersion": "v1", "kind": "Pod", "name": "a", "ref": ""}]});
        assert!(refused(of(nameless)).contains("are required"));
    }
}
