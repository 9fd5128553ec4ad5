//! Compiles the protocol without `protoc`: protox parses the files, tonic-prost-build writes the messages.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["axoneme/v1/stream.proto"], ["proto"])?;
    // the service itself is written by hand (`server::service`, `client::stream`): the server sends frames that are
    // encoded once for all nodes, which generated code can't express
    tonic_prost_build::configure().build_server(false).build_client(false).btree_map(".").compile_fds(files)?;
    Ok(())
}
