//! Whatever comes from outside: no parser of it panics or hangs, whoever wrote the bytes.
//!
//! Each parser gets samples that it takes, samples that broke one once (`corpus/PARSER/`), and both changed by chance from
//! a seed. `AXONEME_SEED` and `AXONEME_CASES` try others and more; a failure prints a small input that shows it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail")]
#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::disallowed_methods, reason = "how much to try is asked for by the environment")]

mod mutate;
mod node;
mod parsers;
mod stream;
mod text;

use mutate::run;
use parsers::PARSERS;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A test for each row of the table, so that they run beside each other and are called by name.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        const TESTS: &[&str] = &[$(stringify!($name)),*];
        $(#[test]
        fn $name() {
            let parser = PARSERS.iter().find(|p| p.name == stringify!($name)).expect("a row of the table");
            let cases = number("AXONEME_CASES").and_then(|n| n.try_into().ok()).unwrap_or(parser.cases);
            run(parser, number("AXONEME_SEED").unwrap_or(1), cases);
        })*
    };
}

tests![
    admin_query,
    axoneme_config,
    cni_answer,
    cni_request,
    explain_query,
    flow_line,
    hubble_exporters,
    hubble_mask,
    hubble_metrics,
    hubble_request,
    manifests,
    network_policy,
    packet,
    ring_drop,
    ring_flow,
    rows_archive,
    state_document,
    stream_of_node,
    stream_of_operator,
];

#[test]
fn every_parser_of_the_table_is_tried_and_every_corpus_has_a_parser() {
    let named: Vec<&str> = PARSERS.iter().map(|p| p.name).collect();
    assert_eq!(named, TESTS);
    let kept = std::fs::read_dir(mutate::corpus("")).expect("the corpus is kept").flatten();
    for directory in kept {
        let name = directory.file_name().to_string_lossy().into_owned();
        assert!(named.contains(&&*name), "corpus/{name}: no such parser");
    }
}

#[test]
fn a_parser_that_panics_is_caught_with_its_input() {
    let bad = mutate::Parser {
        name: "bad",
        samples: || vec![b"harmless".to_vec()],
        read: |input| {
            assert!(!input.contains(&0xff), "0xff");
            true
        },
        cases: 1000,
    };
    let caught = std::panic::catch_unwind(|| run(&bad, 1, bad.cases)).expect_err("it panics");
    let text = caught.downcast_ref::<String>().expect("a message");
    assert!(text.starts_with("bad: 0xff\n") && text.contains("hex: ") && text.contains("seed 1"), "{text}");
}
