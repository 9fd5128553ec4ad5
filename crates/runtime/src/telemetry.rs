//! Logs.
//!
//! kube's client logs the whole text of an answer that it can't read (`Client::request`, at `warn`), and among those that the
//! operator reads are Secrets and reviews of tokens, which repeat the token. So nothing of that module is logged, whatever is
//! asked for; its `builder`, which tells of requests, can be asked for by its own name.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("log filter {filter:?}: {message}: use directives such as `info` or `info,axoneme_kernel=debug`")]
    Filter { filter: String, message: String },
    #[error("logging was set up twice")]
    Twice,
    #[error("nothing is logged any more")]
    Gone,
}

/// What is logged, while it is logged.
#[derive(Clone, Debug)]
pub struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// Replaces the filter; with an error the former one stays.
    pub fn set(&self, filter: &str) -> Result<(), TelemetryError> {
        self.0.reload(parse(filter)?).map_err(|_| TelemetryError::Gone)
    }
}

/// What is never logged.
const NEVER: &str = "kube_client::client=off";

fn parse(filter: &str) -> Result<EnvFilter, TelemetryError> {
    let named = |message: String| TelemetryError::Filter { filter: filter.to_owned(), message };
    let asked = EnvFilter::try_new(filter).map_err(|e| named(e.to_string()))?;
    Ok(asked.add_directive(NEVER.parse().map_err(|e: tracing_subscriber::filter::ParseError| named(e.to_string()))?))
}

/// Sends logs to standard error. Called once, by the binary.
pub fn init(format: Format, filter: &str) -> Result<Filter, TelemetryError> {
    let (layer, handle) = reload::Layer::new(parse(filter)?);
    let registry = tracing_subscriber::registry().with(layer);
    match format {
        Format::Text => {
            // colours are for terminals: in the log of a pod they are noise
            let text = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
            registry.with(text).try_init()
        }
        Format::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init(),
    }
    .map_err(|_| TelemetryError::Twice)?;
    Ok(Filter(handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_cannot_be_read_are_not_logged_whatever_is_asked_for() {
        for filter in
            ["trace", "kube_client::client=trace", "kube_client=debug", "info,kube_client::client::builder=debug"]
        {
            let filter = parse(filter).unwrap().to_string();
            assert!(filter.split(',').any(|d| d == NEVER), "{filter}");
            assert!(!filter.contains("kube_client::client=trace"), "{filter}");
        }
        let filter = parse("kube_client::client::builder=debug").unwrap().to_string();
        assert!(filter.contains("kube_client::client::builder=debug"), "{filter}");
    }

    #[test]
    fn a_bad_filter_is_named() {
        let error = init(Format::Text, "info,=what=").unwrap_err().to_string();
        assert!(error.contains("info,=what="), "{error}");
    }

    #[test]
    fn a_filter_is_replaced_and_a_bad_one_is_not_taken() {
        let (_layer, handle) = reload::Layer::<EnvFilter, Registry>::new(parse("info").unwrap());
        let filter = Filter(handle);
        filter.set("warn,axoneme=trace").unwrap();
        assert!(matches!(filter.set("=what="), Err(TelemetryError::Filter { .. })));
        let now = filter.0.with_current(ToString::to_string).unwrap();
        assert!(now.contains("axoneme=trace") && now.contains("warn") && !now.contains("info"), "{now}");
    }
}
