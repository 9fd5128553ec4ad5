//! Services, their translations, fragments.

use crate::{Address6, assert_layout};

/// Frontend of a Service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service4Key {
    pub address: u32,
    pub port: u16,
    pub protocol: u16,
}
assert_layout!(Service4Key, 8, address = 0, port = 4, protocol = 6);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service6Key {
    pub address: Address6,
    pub port: u16,
    pub protocol: u16,
    pub reserved: u32,
}
assert_layout!(Service6Key, 24, address = 0, port = 16, protocol = 18, reserved = 20);

/// A Service's current set of backends. A change writes a whole new set under a new number before this value names it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Service {
    /// Number of the backend set.
    pub set: u32,
    /// Backends in the set; 0: reject.
    pub count: u32,
    /// Ticks for which a client keeps its backend; 0: no affinity.
    pub affinity: u32,
    /// The same in seconds, for user space.
    pub affinity_seconds: u32,
}
assert_layout!(Service, 16, set = 0, count = 4, affinity = 8, affinity_seconds = 12);

/// One place of a backend set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    pub set: u32,
    pub index: u32,
}
assert_layout!(BackendKey, 8, set = 0, index = 4);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend4 {
    pub address: u32,
    pub port: u16,
    pub reserved: u16,
    /// Tick until which a stored choice counts; 0 in backend sets.
    pub expires: u32,
}
assert_layout!(Backend4, 12, address = 0, port = 4, reserved = 6, expires = 8);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend6 {
    pub address: Address6,
    pub port: u16,
    pub reserved: u16,
    pub expires: u32,
}
assert_layout!(Backend6, 24, address = 0, port = 16, reserved = 18, expires = 20);

/// What replies of a translated connection are turned back into. Key: the connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reverse4 {
    /// The frontend.
    pub address: u32,
    /// The client, for connections that loop back to it.
    pub client: u32,
    pub port: u16,
    pub reserved: u16,
    pub reserved2: u32,
}
assert_layout!(Reverse4, 16, address = 0, client = 4, port = 8, reserved = 10, reserved2 = 12);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reverse6 {
    pub address: Address6,
    pub client: Address6,
    pub port: u16,
    pub reserved: u16,
    pub reserved2: u32,
}
assert_layout!(Reverse6, 40, address = 0, client = 16, port = 32, reserved = 34, reserved2 = 36);

/// A client's backend. `client` is the pod's address, or the network namespace's cookie at the socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Affinity4Key {
    pub client: u64,
    pub service: Service4Key,
}
assert_layout!(Affinity4Key, 16, client = 0, service = 8);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Affinity6Key {
    pub client: Address6,
    pub service: Service6Key,
}
assert_layout!(Affinity6Key, 40, client = 0, service = 16);

/// A socket that speaks to a backend believing that it is a Service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Socket4Key {
    pub cookie: u64,
    pub address: u32,
    pub port: u16,
    pub protocol: u16,
}
assert_layout!(Socket4Key, 16, cookie = 0, address = 8, port = 12, protocol = 14);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Socket6Key {
    pub cookie: u64,
    pub address: Address6,
    pub port: u16,
    pub protocol: u16,
    pub reserved: u32,
}
assert_layout!(Socket6Key, 32, cookie = 0, address = 8, port = 24, protocol = 26, reserved = 28);

/// A fragmented datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fragment4 {
    pub source: u32,
    pub destination: u32,
    pub id: u32,
    pub protocol: u32,
}
assert_layout!(Fragment4, 16, source = 0, destination = 4, id = 8, protocol = 12);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fragment6 {
    pub source: Address6,
    pub destination: Address6,
    pub id: u32,
    pub reserved: u32,
}
assert_layout!(Fragment6, 40, source = 0, destination = 16, id = 32, reserved = 36);

/// Ports that the first fragment carried.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports {
    pub source: u16,
    pub destination: u16,
    /// Destination port or ICMP type, host order.
    pub policy: u16,
    /// IP protocol: behind IPv6 extension headers only the first fragment tells it.
    pub protocol: u16,
    /// Tick from which the entry counts as absent: the sender uses ids again.
    pub expires: u32,
}
assert_layout!(Ports, 12, source = 0, destination = 2, policy = 4, protocol = 6, expires = 8);
