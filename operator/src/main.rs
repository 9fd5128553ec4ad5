//! The operator's binary.

use axoneme_operator::{app, connect, options::Options};
use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    axoneme_runtime::telemetry::init(options.log_format(), &options.log)?;
    let run = async {
        let client = connect::client(&options).await?;
        app::start(client, &options).await
    };
    let running = tokio::select! {
        running = run => running?,
        signal = axoneme_runtime::drain::terminated() => {
            tracing::info!(signal = signal?, "stopping before the start was through");
            return Ok(());
        }
    };
    let signal = axoneme_runtime::drain::terminated().await?;
    tracing::info!(signal, "stopping");
    running.stop().await;
    Ok(())
}
