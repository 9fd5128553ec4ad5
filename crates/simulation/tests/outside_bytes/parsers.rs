//! The table: who reads bytes that others wrote.

use crate::{mutate::Parser, node, stream, text};

pub const PARSERS: &[Parser] = &[
    // whoever reaches the agent's admin socket: filters of flows
    Parser { name: "admin_query", samples: text::queries, read: text::query, cases: 4000 },
    // whoever writes settings; the operator's intake and what it plans by them
    Parser { name: "axoneme_config", samples: text::configs, read: text::manifest, cases: 400 },
    // what the plugin is answered on its socket
    Parser { name: "cni_answer", samples: node::answers, read: node::answer, cases: 4000 },
    // the container runtime, by the plugin's socket: the request, then its network configuration in the engine
    Parser { name: "cni_request", samples: node::requests, read: node::request, cases: 300 },
    Parser { name: "explain_query", samples: text::questions, read: text::question, cases: 4000 },
    // what the command line reads of an agent's answer
    Parser { name: "flow_line", samples: text::flow_lines, read: text::flow_line, cases: 3000 },
    Parser { name: "hubble_exporters", samples: text::exporters, read: text::exporter, cases: 1500 },
    Parser { name: "hubble_mask", samples: text::masks, read: text::mask, cases: 4000 },
    Parser { name: "hubble_metrics", samples: text::metric_sets, read: text::metrics, cases: 3000 },
    // Hubble's clients: the request as it comes, and its filters
    Parser { name: "hubble_request", samples: text::hubble_requests, read: text::hubble_request, cases: 3000 },
    // a directory of manifests: YAML, intake of every kind, the core behind it
    Parser { name: "manifests", samples: text::manifests, read: text::manifest, cases: 500 },
    Parser { name: "network_policy", samples: text::network_policies, read: text::manifest, cases: 500 },
    // anybody on the wire: both families, at every hook
    Parser { name: "packet", samples: node::packets, read: node::packet, cases: 4000 },
    // the kernel's rings
    Parser { name: "ring_drop", samples: node::drops, read: node::drop_event, cases: 4000 },
    Parser { name: "ring_flow", samples: node::flows, read: node::flow_event, cases: 4000 },
    // a disk that turns bits: the copy of the rows behind its checksum
    Parser { name: "rows_archive", samples: stream::archives, read: stream::archive, cases: 2000 },
    // and the agent's other documents, at its start
    Parser { name: "state_document", samples: node::documents, read: node::document, cases: 300 },
    // an agent that is not ours, up to the operator's core
    Parser { name: "stream_of_node", samples: stream::of_node, read: stream::read_of_node, cases: 300 },
    // an operator that is not ours, up to the agent's engine
    Parser { name: "stream_of_operator", samples: stream::of_operator, read: stream::read_of_operator, cases: 300 },
];
