//! Logs.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

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
}

/// Sends logs to standard error. Called once, by the binary.
pub fn init(format: Format, filter: &str) -> Result<(), TelemetryError> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|e| TelemetryError::Filter { filter: filter.to_owned(), message: e.to_string() })?;
    let registry = tracing_subscriber::registry().with(parsed);
    match format {
        Format::Text => {
            // colours are for terminals: in the log of a pod they are noise
            let text = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
            registry.with(text).try_init()
        }
        Format::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init(),
    }
    .map_err(|_| TelemetryError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let error = init(Format::Text, "info,=what=").unwrap_err().to_string();
        assert!(error.contains("info,=what="), "{error}");
    }
}
