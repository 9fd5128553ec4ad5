//! Addresses and prefixes in text form.

use std::net::IpAddr;

use axoneme_model::{
    Cidr,
    cidr::{self, contains},
};

use crate::field::Field;

pub(crate) fn ip(field: &Field<'_>) -> Option<IpAddr> {
    let parsed = field.str()?.parse().ok();
    if parsed.is_none() {
        field.invalid("must be an IPv4 or IPv6 address, such as 192.0.2.1 or 2001:db8::1");
    }
    parsed
}

/// A prefix with its length; host bits are cleared.
pub(crate) fn prefix(field: &Field<'_>) -> Option<Cidr> {
    let parsed = parse_prefix(field.str()?);
    if parsed.is_none() {
        field.invalid("must be a prefix, such as 192.0.2.0/24 or 2001:db8::/32");
    }
    parsed
}

/// A prefix, or an address that stands for itself.
pub(crate) fn prefix_or_address(field: &Field<'_>) -> Option<Cidr> {
    let text = field.str()?;
    let parsed = parse_prefix(text).or_else(|| text.parse().ok().map(cidr::host));
    if parsed.is_none() {
        field.invalid("must be a prefix, such as 192.0.2.0/24 or 2001:db8::/32, or an address");
    }
    parsed
}

/// Only `address/length`: the library would also take a netmask (`10.0.0.0/255.0.0.0`) or a bare address.
fn parse_prefix(text: &str) -> Option<Cidr> {
    let (address, length) = text.split_once('/')?;
    if length.is_empty() || length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if length.len() > 1 && length.starts_with('0') {
        return None;
    }
    let cidr = Cidr::new(address.parse().ok()?, length.parse().ok()?).ok()?;
    Some(cidr::normalise(cidr))
}

/// The exceptions of a prefix. Each must lie inside of `outer`; with `strict`, it must also be smaller.
pub(crate) fn exceptions(list: &Field<'_>, outer: Option<Cidr>, strict: bool) -> Vec<Cidr> {
    let mut out = Vec::new();
    for item in list.items() {
        let Some(except) = prefix(&item) else { continue };
        if let Some(outer) = outer
            && (!contains(outer, except) || (strict && outer == except))
        {
            let how = if strict { "inside of, and smaller than," } else { "inside of" };
            item.invalid(format!("must lie {how} {outer}"));
            continue;
        }
        out.push(except);
    }
    out
}
