//! Compiles the protocol without `protoc`, and keeps its descriptors for reflection, field masks and the test of names.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = ["flow/flow.proto", "observer/observer.proto", "peer/peer.proto", "relay/relay.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    // a protocol of others, which no client of this server asks about: it is in no descriptor that is served
    tonic_prost_build::configure().compile_fds(protox::compile(["otlp/logs.proto"], ["proto"])?)?;
    Ok(())
}
