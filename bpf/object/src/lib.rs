//! The compiled BPF programs, embedded.
//!
//! `build.rs` compiles `bpf/programs`; see there for the environment variables that steer it.

#[repr(C, align(32))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/programs.o")));

/// The object file, aligned for its parser. Empty if the build was told to skip it (`BPF_SKIP=1`).
pub fn bytes() -> &'static [u8] {
    &OBJECT.0
}
