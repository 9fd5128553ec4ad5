//! Address prefixes.

/// An IPv4 or IPv6 prefix. Host bits may be set in user input; [`normalise`] clears them.
pub type Cidr = ipnetwork::IpNetwork;

/// The same prefix with all host bits cleared.
#[must_use]
pub fn normalise(cidr: Cidr) -> Cidr {
    Cidr::new(cidr.network(), cidr.prefix()).unwrap_or(cidr)
}

/// The prefix that holds just this address.
#[must_use]
pub fn host(address: std::net::IpAddr) -> Cidr {
    Cidr::from(address)
}

/// Whether every address of `inner` is in `outer`. False across families.
#[must_use]
pub fn contains(outer: Cidr, inner: Cidr) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}
