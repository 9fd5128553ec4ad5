//! Programs of the cgroup's socket-address hooks.
