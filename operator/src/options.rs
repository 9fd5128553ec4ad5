//! Flags and environment.

use std::{net::IpAddr, path::PathBuf};

use axoneme_runtime::telemetry::Format;
use clap::Parser;

/// Cluster decisions of Axoneme: watches the API, compiles policy, serves nodes.
#[derive(Clone, Debug, Parser)]
#[command(name = "axoneme-operator", version)]
pub struct Options {
    /// Name of this replica; unique among all.
    #[arg(long, env = "POD_NAME", default_value = "axoneme-operator")]
    pub name: String,

    /// Namespace of the operator: its Lease, authority and list of replicas are there, and the agents' ServiceAccount.
    #[arg(long, env = "POD_NAMESPACE", default_value = "axoneme-system")]
    pub namespace: String,

    /// Address that agents reach this replica by.
    #[arg(long, env = "POD_IP", default_value = "127.0.0.1")]
    pub address: IpAddr,

    /// Port of the stream to the agents; 0 for any.
    #[arg(long, env = "AXONEME_STREAM_PORT", default_value_t = axoneme_wire::DEFAULT_PORT)]
    pub stream_port: u16,

    /// Port of /healthz, /readyz and /metrics; 0 for any.
    #[arg(long, env = "AXONEME_HEALTH_PORT", default_value_t = 9963)]
    pub health_port: u16,

    /// Port of the admission webhooks; 0 for any. Where it is taken there are none.
    #[arg(long, env = "AXONEME_WEBHOOK_PORT", default_value_t = crate::admission::DEFAULT_PORT)]
    pub webhook_port: u16,

    /// Port of the views (`views.axoneme.io`); 0 for any. Where it is taken there are none.
    #[arg(long, env = "AXONEME_VIEWS_PORT", default_value_t = crate::views::DEFAULT_PORT)]
    pub views_port: u16,

    /// URL of the API server, `https://host:port`. Without it: what the node's agent has published, then the cluster's
    /// own service address.
    #[arg(long, env = "AXONEME_APISERVER")]
    pub apiserver: Option<String>,

    /// File in which the node's agent publishes the API server's URL.
    #[arg(long, default_value = "/run/axoneme/bootstrap/apiserver")]
    pub apiserver_file: PathBuf,

    /// A kubeconfig, to run outside of the cluster.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// Directory with the AxonemeConfig to create where there is none.
    #[arg(long, default_value = "/etc/axoneme")]
    pub config_dir: PathBuf,

    /// ServiceAccount of the agents.
    #[arg(long, default_value = "axoneme-agent")]
    pub agent_account: String,

    /// Leave the CustomResourceDefinitions alone.
    #[arg(long)]
    pub skip_crds: bool,

    /// Seconds that an identity number is kept which no pod uses.
    #[arg(long, default_value_t = 900)]
    pub identity_grace_seconds: u64,

    /// What is logged: directives as `info` or `info,axoneme_operator=debug`.
    #[arg(long, env = "AXONEME_LOG", default_value = "info,kube_client::client::builder=off")]
    pub log: String,

    /// One JSON object a line.
    #[arg(long)]
    pub log_json: bool,

    /// Set by Kubernetes in every pod.
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", hide = true)]
    pub service_host: Option<String>,

    #[arg(long, env = "KUBERNETES_SERVICE_PORT", hide = true)]
    pub service_port: Option<String>,
}

impl Options {
    #[must_use]
    pub const fn log_format(&self) -> Format {
        if self.log_json { Format::Json } else { Format::Text }
    }
}
