//! Packets as text: layers from the outside in, each with its words, `/` between them.
//!
//! ```text
//!   ip4 a b ttl=1 / udp 4000 53 / text hello          names are hosts, whose addresses the caller knows
//!   ip6 a b / hop 8 / frag 0+ id=7 / udp 4000 53 / zeros 100
//!   vlan 7 / ip4 a b / ...      arp a b      raw ff00
//! ```
//!
//! Lengths, next headers and checksums are filled in. `cut=N` on any layer cuts the whole packet to N bytes, `sum=bad`
//! spoils the layer's checksum, `mac=N` sets the last byte of the sender's link-layer address.

use std::net::IpAddr;

use super::frames::checksum;

/// A layer: its name, its plain words, its `key=value` words.
struct Layer<'a> {
    name: &'a str,
    words: Vec<&'a str>,
    settings: Vec<(&'a str, &'a str)>,
}

impl<'a> Layer<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split_whitespace();
        let name = parts.next().expect("a layer has a name");
        let (settings, words): (Vec<_>, Vec<_>) = parts.partition(|p| p.contains('='));
        Self { name, words, settings: settings.into_iter().map(|s| s.split_once('=').unwrap()).collect() }
    }
    fn setting(&self, key: &str) -> Option<&'a str> {
        self.settings.iter().find(|s| s.0 == key).map(|s| s.1)
    }
    fn number(&self, key: &str, default: u32) -> u32 {
        self.setting(key).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{key}={v}")))
    }
    fn word(&self, place: usize) -> u16 {
        self.words[place].parse().unwrap_or_else(|_| panic!("{} {:?}", self.name, self.words))
    }
}

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|c| u8::from_str_radix(std::str::from_utf8(c).unwrap(), 16).unwrap()).collect()
}

fn octets(a: IpAddr) -> Vec<u8> {
    match a {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// CRC32c of RFC 9260.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for b in bytes {
        crc ^= u32::from(*b);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// A whole frame. `host` gives the address of a name in a family (true: IPv6).
pub fn frame(text: &str, host: &dyn Fn(&str, bool) -> IpAddr) -> Vec<u8> {
    let layers: Vec<_> = text.split('/').map(Layer::parse).collect();
    let (mut kind, body) = build(&layers, None, host);
    let find = |key: &str| layers.iter().find_map(|l| l.setting(key)).map(|v| v.parse::<usize>().unwrap());
    let mut out = axoneme_abi::constants::HOST_MAC.to_vec();
    out.extend([0x0a, 0, 0, 0, 0, find("mac").unwrap_or(1) as u8]);
    if kind == 0 {
        kind = 0x88b5;
    }
    out.extend(kind.to_be_bytes());
    out.extend(body);
    out.truncate(find("cut").unwrap_or(usize::MAX));
    out
}

/// Protocol or ether type of the first layer, and the bytes of all.
fn build(layers: &[Layer<'_>], ends: Option<(IpAddr, IpAddr)>, host: &dyn Fn(&str, bool) -> IpAddr) -> (u16, Vec<u8>) {
    let Some((layer, rest)) = layers.split_first() else { return (59, Vec::new()) };
    let address = |place: usize, v6| host(layer.words[place], v6);
    let bad = u8::from(layer.setting("sum") == Some("bad"));
    match layer.name {
        "ip4" | "ip6" => {
            let v6 = layer.name == "ip6";
            let ends = (address(0, v6), address(1, v6));
            let (next, payload) = build(rest, Some(ends), host);
            let next = layer.number("protocol", u32::from(next)) as u8;
            (if v6 { 0x86dd } else { 0x0800 }, ip(layer, ends, next, &payload, bad))
        }
        "vlan" => {
            let (kind, payload) = build(rest, None, host);
            (0x8100, [&layer.word(0).to_be_bytes()[..], &kind.to_be_bytes(), &payload].concat())
        }
        "arp" => {
            let mut p = vec![0, 1, 8, 0, 6, 4, 0, 1, 0x0a, 0, 0, 0, 0, 1];
            p.extend(octets(address(0, false)));
            p.extend([0; 6]);
            p.extend(octets(address(1, false)));
            (0x0806, p)
        }
        "hop" | "routing" | "options" | "auth" => {
            let (next, payload) = build(rest, ends, host);
            let length = usize::from(layer.word(0));
            let number = match layer.name {
                "hop" => 0,
                "routing" => 43,
                "options" => 60,
                _ => 51,
            };
            let units = if number == 51 { length / 4 - 2 } else { length / 8 - 1 };
            let mut p = vec![next as u8, units as u8, 1, (length - 4) as u8];
            p.resize(length, 0);
            (number, [p, payload].concat())
        }
        "frag" => {
            let (next, payload) = build(rest, ends, host);
            let place = layer.words[0];
            let more = place.ends_with('+');
            let place: u16 = place.trim_end_matches('+').parse().unwrap();
            let next = layer.number("protocol", u32::from(next)) as u8;
            let mut p = vec![next, 0];
            p.extend((place & 0xfff8 | u16::from(more)).to_be_bytes());
            p.extend(layer.number("id", 1).to_be_bytes());
            (44, [p, payload].concat())
        }
        "raw" => (253, hex(layer.words[0])),
        "zeros" => (253, vec![0; usize::from(layer.word(0))]),
        "text" => (253, layer.words.join(" ").into_bytes()),
        name => transport(name, layer, rest, ends.expect("an address family outside"), bad, host),
    }
}

fn ip(layer: &Layer<'_>, ends: (IpAddr, IpAddr), next: u8, payload: &[u8], bad: u8) -> Vec<u8> {
    let mut h;
    if ends.0.is_ipv4() {
        let options = layer.setting("options").map(hex).unwrap_or_default();
        h = vec![0x40 | (5 + options.len() / 4) as u8, 0];
        let total = layer.number("total", (20 + options.len() + payload.len()) as u32) as u16;
        h.extend(total.to_be_bytes());
        h.extend((layer.number("id", 1) as u16).to_be_bytes());
        let place = layer.setting("frag").unwrap_or("0");
        let more = u16::from(place.ends_with('+'));
        let place: u16 = place.trim_end_matches('+').parse().unwrap();
        let flags = if layer.setting("df").is_some() { 0x4000 } else { more << 13 };
        h.extend(((place / 8) | flags).to_be_bytes());
        h.extend([layer.number("ttl", 64) as u8, next, 0, 0]);
        h.extend(octets(ends.0));
        h.extend(octets(ends.1));
        h.extend(options);
        let [hi, lo] = checksum(&[&h]);
        h[10..12].copy_from_slice(&[hi ^ bad, lo]);
    } else {
        h = vec![0x60, 0, 0, 0];
        h.extend((layer.number("total", payload.len() as u32) as u16).to_be_bytes());
        h.extend([next, layer.number("ttl", 64) as u8]);
        h.extend(octets(ends.0));
        h.extend(octets(ends.1));
    }
    h.extend(payload);
    h
}

fn transport(
    name: &str,
    layer: &Layer<'_>,
    rest: &[Layer<'_>],
    ends: (IpAddr, IpAddr),
    bad: u8,
    host: &dyn Fn(&str, bool) -> IpAddr,
) -> (u16, Vec<u8>) {
    let payload = build(rest, Some(ends), host).1;
    let ports = || [layer.word(0).to_be_bytes(), layer.word(1).to_be_bytes()].concat();
    let (protocol, mut p, place) = match name {
        "udp" => {
            let mut p = ports();
            p.extend(((payload.len() + 8) as u16).to_be_bytes());
            p.extend([0, 0]);
            (17, p, 6)
        }
        "tcp" => {
            let mut p = ports();
            p.extend(layer.number("seq", 1).to_be_bytes());
            p.extend(layer.number("ack", 0).to_be_bytes());
            let flags = layer.words.get(2).copied().unwrap_or("");
            let bit = |c| match c {
                'F' => 1,
                'S' => 2,
                'R' => 4,
                'P' => 8,
                'A' => 16u8,
                c => panic!("TCP flag {c}"),
            };
            p.extend([(layer.number("words", 5) as u8) << 4, flags.chars().fold(0, |f, c| f | bit(c))]);
            p.extend([0xff, 0xff, 0, 0, 0, 0]);
            (6, p, 16)
        }
        // A chunk of the kind, as long as the payload.
        "sctp" => {
            let mut p = ports();
            p.extend([0, 0, 0, 7, 0, 0, 0, 0, layer.word(2) as u8, 0]);
            p.extend(((payload.len() + 4) as u16).to_be_bytes());
            (132, p, 8)
        }
        // Type, code; identifier and sequence, or the MTU of an error.
        "icmp" => {
            let mut p = vec![layer.word(0) as u8, layer.word(1) as u8, 0, 0];
            let low = layer.number("mtu", layer.number("sequence", 0));
            p.extend((layer.number("id", 0) << 16 | low).to_be_bytes());
            (if ends.0.is_ipv4() { 1 } else { 58 }, p, 2)
        }
        name => panic!("no layer {name}"),
    };
    p.extend(payload);
    if layer.setting("sum") != Some("none") {
        if protocol == 132 {
            let sum = crc32c(&p).to_le_bytes();
            p[8..12].copy_from_slice(&sum);
        } else {
            let sum = sum_of(protocol, ends, &p);
            p[place..place + 2].copy_from_slice(&sum);
        }
        p[place] ^= bad;
    }
    (u16::from(protocol), p)
}

/// Checksum of a transport header whose own field is zero, with the pseudo header where it counts.
fn sum_of(protocol: u8, ends: (IpAddr, IpAddr), p: &[u8]) -> [u8; 2] {
    let length = (p.len() as u32).to_be_bytes();
    match protocol {
        1 => checksum(&[p]),
        _ => match checksum(&[&octets(ends.0), &octets(ends.1), &length, &[0, 0, 0, protocol], p]) {
            [0, 0] if protocol == 17 => [0xff, 0xff],
            sum => sum,
        },
    }
}

/// Names of the checksums in a frame without options, extension headers or fragments that do not hold.
pub fn wrong_checksums(frame: &[u8]) -> Vec<&'static str> {
    match frame.get(12..14) {
        Some([8, 0] | [0x86, 0xdd]) => wrong_in(&frame[14..]),
        _ => Vec::new(),
    }
}

fn wrong_in(packet: &[u8]) -> Vec<&'static str> {
    let mut wrong = Vec::new();
    let v6 = packet.first().is_some_and(|b| b >> 4 == 6);
    let (header, protocol, source, destination) = if v6 { (40, 6, 8, 24) } else { (20, 9, 12, 16) };
    if packet.len() < header || (!v6 && packet[0] != 0x45) {
        return wrong;
    }
    if !v6 && checksum(&[&packet[..20]]) != [0, 0] {
        wrong.push("IPv4");
    }
    let size = if v6 { 16 } else { 4 };
    let ends = &packet[source..source + 2 * size];
    debug_assert_eq!(destination, source + size);
    let p = &packet[header..];
    let length = (p.len() as u32).to_be_bytes();
    let with_pseudo = |protocol| checksum(&[ends, &length, &[0, 0, 0, protocol], p]) != [0, 0];
    match packet[protocol] {
        6 if p.len() >= 20 && with_pseudo(6) => wrong.push("TCP"),
        17 if p.len() >= 8 && p[6..8] != [0, 0] && with_pseudo(17) => wrong.push("UDP"),
        1 if !v6 && p.len() >= 8 && checksum(&[p]) != [0, 0] => wrong.push("ICMP"),
        58 if v6 && p.len() >= 8 && with_pseudo(58) => wrong.push("ICMPv6"),
        132 if p.len() >= 12 => {
            let mut q = p.to_vec();
            q[8..12].fill(0);
            if crc32c(&q).to_le_bytes() != p[8..12] {
                wrong.push("SCTP");
            }
        }
        _ => {}
    }
    wrong
}
