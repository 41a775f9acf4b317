//! Which Host names a request for the service: a page in a user's browser
//! that resolves its own name to the metadata address sends its own name.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::ids::unmapped;
use crate::provider::Provider;

/// The service that requests are for: its profile and where it listens.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its profile.
    pub provider: Provider,
    /// Its addresses, in their plain families.
    pub addresses: Vec<SocketAddr>,
}

impl Service {
    /// Whether a Host value names this service: one of its addresses (v4,
    /// bracketed v6 or bracketed v4-mapped) or host names, in any case, with
    /// or without its port.
    pub fn is_named_by(&self, host: &[u8]) -> bool {
        let Ok(host) = std::str::from_utf8(host) else {
            return false;
        };
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, Some(port)),
            _ => (host, None),
        };
        let ip = match name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
        {
            Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => name.parse().ok().filter(IpAddr::is_ipv4),
        };
        self.addresses.iter().any(|address| {
            let port_fits = port.is_none_or(|port| is_number(port, address.port()));
            let name_fits = match ip {
                Some(ip) => unmapped(SocketAddr::new(ip, 0)).ip() == address.ip(),
                None => self
                    .provider
                    .host_names()
                    .iter()
                    .any(|own| name.eq_ignore_ascii_case(own)),
            };
            port_fits && name_fits
        })
    }
}

/// In the one form that a port has.
fn is_number(text: &str, number: u16) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    plain && text.parse() == Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_service_are_its_names() {
        let service = Service {
            provider: Provider::Aws,
            addresses: Provider::Aws.addresses(),
        };
        for yes in [
            "169.254.169.254",
            "169.254.169.254:80",
            "[fd00:ec2::254]",
            "[FD00:EC2:0::254]:80",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]:80",
            "instance-data",
            "Instance-Data.EC2.internal:80",
        ] {
            assert!(service.is_named_by(yes.as_bytes()), "{yes}");
        }
        for no in [
            "",
            ":80",
            "169.254.169.254:81",
            "169.254.169.254:",
            "169.254.169.254.",
            "169.254.43518",
            "fd00:ec2::254",
            "[169.254.169.254]",
            "[fd00:ec2::254",
            "[fd00:ec2::254]:8",
            "localhost",
            "127.0.0.1",
            "instance-data.evil.example",
            "instance-data@evil",
            "evil.example, 169.254.169.254",
        ] {
            assert!(!service.is_named_by(no.as_bytes()), "{no}");
        }
    }
}
