//! The example manifests of the API types.

use std::collections::BTreeSet;

use axoneme_intake::{Reason, parse};

use crate::corpus::examples;

#[test]
fn each_example_is_read_or_its_unsupported_fields_are_named() {
    let examples = examples();
    assert!(examples.len() > 30, "only {} examples found", examples.len());
    let mut read = 0;
    let mut unsupported = BTreeSet::new();
    for (file, i, object) in &examples {
        let Err(errors) = parse(object) else {
            read += 1;
            continue;
        };
        assert_eq!(errors.reason(), Reason::Unsupported, "{file} document {i}:\n{errors}");
        for error in &errors.errors {
            let field = error.path.rsplit('.').next().unwrap_or_default();
            unsupported.insert(field.split('[').next().unwrap_or_default().to_owned());
        }
    }
    assert!(read > 20, "only {read} examples could be read");
    // the fields that are not enforced yet; one more or one less is a change that this list must tell
    let known = [
        "dns",
        "domainNames",
        "endpointSelector",
        "fromGroups",
        "http",
        "kafka",
        "l7",
        "l7proto",
        "listener",
        "mode",
        "originatingTLS",
        "serverNames",
        "terminatingTLS",
        "toFQDNs",
        "toGroups",
    ];
    assert_eq!(unsupported, known.map(String::from).into());
}
