//! One place that knows what each encapsulation costs.

/// One layer between a pod's packet and the wire. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encapsulation {
    /// Ethernet 14 + VXLAN 8 + UDP 8 + IPv4 20 (RFC 7348).
    VxlanV4,
    /// Ethernet 14 + VXLAN 8 + UDP 8 + IPv6 40.
    VxlanV6,
    /// Ethernet 14 + GENEVE 8 without options + UDP 8 + IPv4 20 (RFC 8926).
    GeneveV4,
    GeneveV6,
    /// WireGuard 32 + UDP 8 + IPv4 20.
    WireguardV4,
    WireguardV6,
}

impl Encapsulation {
    /// Bytes that the layer adds.
    pub const fn overhead(self) -> u32 {
        match self {
            Self::VxlanV4 | Self::GeneveV4 => 50,
            Self::VxlanV6 | Self::GeneveV6 => 70,
            Self::WireguardV4 => 60,
            Self::WireguardV6 => 80,
        }
    }
}

/// The device is too small for pods.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "device MTU {device} leaves {left} bytes for pods after {overhead} bytes of encapsulation, {least} are needed: raise the MTU of the device or use native routing"
)]
pub struct MtuError {
    pub device: u32,
    pub overhead: u32,
    pub left: u32,
    pub least: u32,
}

/// Least MTU of a link that carries IPv4: every host must accept 576 bytes (RFC 791).
pub const LEAST_V4: u32 = 576;
/// Least MTU of a link that carries IPv6 (RFC 8200, section 5).
pub const LEAST_V6: u32 = 1280;

/// What is left for a pod's packets on a device of that MTU.
pub fn payload(device: u32, layers: &[Encapsulation], ipv6: bool) -> Result<u32, MtuError> {
    let overhead = layers.iter().map(|l| l.overhead()).sum();
    let left = device.saturating_sub(overhead);
    let least = if ipv6 { LEAST_V6 } else { LEAST_V4 };
    if left < least { Err(MtuError { device, overhead, left, least }) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_add_up() {
        assert_eq!(payload(1500, &[], true), Ok(1500));
        assert_eq!(payload(1500, &[Encapsulation::VxlanV4], false), Ok(1450));
        assert_eq!(payload(1500, &[Encapsulation::VxlanV6], true), Ok(1430));
        assert_eq!(payload(1500, &[Encapsulation::VxlanV4, Encapsulation::WireguardV4], false), Ok(1390));
    }

    #[test]
    fn a_device_that_is_too_small_is_refused() {
        assert!(payload(1300, &[Encapsulation::VxlanV4], false).is_ok());
        let error = payload(1300, &[Encapsulation::VxlanV4], true).unwrap_err();
        assert_eq!((error.left, error.least), (1250, 1280));
        assert!(payload(40, &[Encapsulation::VxlanV6], false).is_err());
    }
}
