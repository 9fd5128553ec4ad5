//! Who may reach whom, in every mode of the datapath: manifests' meaning is compiled, put into real maps, and asked with
//! real packets. Each cell holds the oracle's verdict against what happened: the answer or its absence, the event with
//! the rule that decided, and the bytes at the receiver and between the nodes.
//!
//! `docs/modes.md` is written from what was found (`AXONEME_BLESS=1`) and compared with it otherwise.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_errors_doc,
    reason = "a test fails by panicking, and reads best in one piece"
)]

mod modes;
mod rig;

use std::{fmt::Write as _, path::Path};

use axoneme_model::Direction;
use modes::{Found, LINES, find};
use rig::{Options, cluster::Mode};

const COLUMNS: [(Mode, &str); 3] =
    [(Mode::Vxlan, "VXLAN over IPv4"), (Mode::Vxlan6, "VXLAN over IPv6"), (Mode::Native, "native routing")];

fn page(found: &Found) -> String {
    let mut out = String::from(
        "# Who reaches whom, in every mode\n\n\
         Written by `AXONEME_BLESS=1 cargo xtask test netns every_mode` from what was found, and held against it by each run\n\
         of the rung netns. A cell is what becomes of a datagram where the one policy of the judged pod allows it, denies it,\n\
         and would deny it but is audited. Each was asked with IPv4 and IPv6 packets, through programs on tcx links and on\n\
         clsact filters; the rule that the event names is one of the oracle's, the bytes at the receiver and between the\n\
         nodes are those of RFC 768 and RFC 7348 with the sender's identity in the VNI.\n\n\
         | from → to | judged | ",
    );
    let names: Vec<&str> = COLUMNS.iter().map(|c| c.1).collect();
    writeln!(out, "{} |", names.join(" | ")).unwrap();
    writeln!(out, "|---|---|{}", "---|".repeat(names.len())).unwrap();
    for (at, line) in LINES.iter().enumerate() {
        let side = if line.side == Direction::Egress { "egress" } else { "ingress" };
        let cells: Vec<String> = names.iter().map(|n| found[&(at, *n)].join(" / ")).collect();
        writeln!(out, "| {} | {side} | {} |", line.what, cells.join(" | ")).unwrap();
    }
    out.push_str(
        "\nA pod's own node always reaches it (`alwaysAllowOwnHost`), so that probes pass.\n\n\
         Geneve has the cells of VXLAN over the same underlay: the rung vm asks all lines that lead to another node, with\n\
         IPv4 and IPv6 packets, over IPv4 on kernels 5.10 and 6.12 and over IPv6 on 6.1, and holds them against this page\n\
         (`geneve_has_the_cells_of_vxlan`); the bytes between the nodes are those of RFC 8926. Pods with\n\
         netkit devices have the cells of those with veth: all lines are asked over IPv4 on kernel 6.12, and held so\n\
         (`netkit_has_the_cells_of_veth`).\n",
    );
    out
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn every_mode_gives_the_oracles_verdict_and_the_right_bytes() {
    let mut found = Found::new();
    for (mode, column) in COLUMNS {
        for filters in [false, true] {
            let options = Options { filters, ..Options::default() };
            find(mode, column, &options, &mut found, |_| true);
        }
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/modes.md");
    let page = page(&found);
    if std::env::var_os("AXONEME_BLESS").is_some() {
        assert!(std::env::var_os("CI").is_none(), "pages are blessed by people, not by CI");
        std::fs::write(&file, page).unwrap();
        return;
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap_or_default(), page, "AXONEME_BLESS=1 after having looked");
}
