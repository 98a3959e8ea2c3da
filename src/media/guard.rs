//! Restricts the hosts from which media may be downloaded. Media URLs come from a third party, and must not give access
//! to the local network. Each address is checked after name resolution, and the client connects only to a checked
//! address, so a second DNS lookup cannot bypass the check. The target of each redirect is also checked.

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net;
use url::{Host, Url};

/// The addresses from which media may be downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostPolicy {
    /// Only public addresses are allowed.
    Public,
    /// Private, link-local and loopback addresses are also allowed.
    Private,
}

/// The scope of an IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddressScope {
    Public,
    /// Loopback, private, shared and link-local addresses. Cloud providers serve instance metadata at a link-local
    /// address.
    Private,
    /// Addresses that a server cannot have: multicast, unspecified, reserved and documentation addresses.
    Unusable,
}

/// A host that was refused before the client connected to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The name or address of the host, or an empty string if the URL has no host.
    host: String,
    /// Whether the host has a private address, which the user can allow.
    is_private: bool,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_private {
            write!(f, "{} has a private address; use --allow-private-hosts to allow it", self.host)
        } else if self.host.is_empty() {
            f.write_str("the URL has no host")
        } else {
            write!(f, "{} has no usable address (reserved or multicast)", self.host)
        }
    }
}

impl std::error::Error for Refused {}

/// Checks hosts against a policy.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    policy: HostPolicy,
    /// The hosts of the proxies, which may have private addresses, because the user has configured the proxies.
    proxies: Arc<HashSet<String>>,
}

impl Guard {
    /// Creates a guard with this policy. `proxies` contains the hosts of the configured proxies.
    pub(super) fn new(policy: HostPolicy, proxies: HashSet<String>) -> Self {
        Self { policy, proxies: Arc::new(proxies) }
    }

    /// Checks the host of a URL before a request. Without a proxy, a host name is checked later, when the client
    /// resolves the name. A proxy resolves host names itself, so if a proxy is configured, this method also resolves
    /// and checks the name. With a proxy, a name that cannot be resolved locally is accepted.
    pub(super) async fn check_host(&self, url: &Url) -> Result<(), Refused> {
        let host = url.host_str().unwrap_or_default();
        let address = |ip: IpAddr| std::iter::once(SocketAddr::new(ip, 0));
        match url.host() {
            Some(Host::Ipv4(ip)) => self.allowed_addresses(host, address(ip.into())).map(drop),
            Some(Host::Ipv6(ip)) => self.allowed_addresses(host, address(ip.into())).map(drop),
            Some(Host::Domain(name)) if !self.proxies.is_empty() => match net::lookup_host((name, 0)).await {
                Ok(found) => self.allowed_addresses(host, found).map(drop),
                Err(_) => Ok(()),
            },
            Some(Host::Domain(_)) => Ok(()),
            None => Err(Refused { host: String::new(), is_private: false }),
        }
    }

    /// Returns the allowed addresses of a host, or [`Refused`] if the host has no allowed address.
    fn allowed_addresses(
        &self,
        host: &str,
        addresses: impl Iterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Refused> {
        let (mut allowed, mut is_private) = (Vec::new(), false);
        for address in addresses {
            match scope(address.ip()) {
                AddressScope::Private if self.policy == HostPolicy::Public => is_private = true,
                AddressScope::Public | AddressScope::Private => allowed.push(address),
                AddressScope::Unusable => {}
            }
        }
        if allowed.is_empty() { Err(Refused { host: host.to_owned(), is_private }) } else { Ok(allowed) }
    }
}

impl Resolve for Guard {
    /// Returns only the allowed addresses of a host. The client connects to no other address.
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let name = name.as_str();
            let found = net::lookup_host((name, 0)).await?;
            let allowed =
                if guard.proxies.contains(name) { found.collect() } else { guard.allowed_addresses(name, found)? };
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Whether the host of a URL is the local machine or in a private network. If the API is on such a host, its media may
/// also be on a private host.
pub(crate) async fn is_private_host(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => scope(ip.into()) == AddressScope::Private,
        Some(Host::Ipv6(ip)) => scope(ip.into()) == AddressScope::Private,
        Some(Host::Domain(name)) => match net::lookup_host((name, 0)).await {
            Ok(found) => found.map(|address| scope(address.ip())).all(|scope| scope == AddressScope::Private),
            Err(_) => false,
        },
        None => false,
    }
}

/// The scope of an address, according to the IANA special-purpose address registries (RFC 6890).
fn scope(ip: IpAddr) -> AddressScope {
    match ip {
        IpAddr::V4(ip) => scope_v4(ip),
        IpAddr::V6(ip) => embedded_ipv4(ip).map_or_else(|| scope_v6(ip), scope_v4),
    }
}

fn scope_v4(ip: Ipv4Addr) -> AddressScope {
    match ip.octets() {
        // Loopback, private, shared (RFC 6598), link-local and benchmarking (RFC 2544) addresses. A local proxy that
        // resolves names may use benchmarking addresses as placeholders for remote hosts.
        [10 | 127, ..]
        | [100, 64..=127, ..]
        | [169, 254, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..]
        | [198, 18 | 19, ..] => AddressScope::Private,
        // Addresses for "this network", protocol assignments, documentation, 6to4 relays, multicast, reserved use and
        // broadcast.
        [0 | 224.., ..] | [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 51, 100, _] | [203, 0, 113, _] => {
            AddressScope::Unusable
        }
        _ => AddressScope::Public,
    }
}

fn scope_v6(ip: Ipv6Addr) -> AddressScope {
    match ip.segments() {
        // Loopback, unique local, link-local, and deprecated site-local addresses.
        [0, 0, 0, 0, 0, 0, 0, 1] | [0xfc00..=0xfdff | 0xfe80..=0xfeff, ..] => AddressScope::Private,
        // Public addresses are allocated only from 2000::/3, which also contains the Teredo and documentation
        // prefixes.
        [0x2001, 0 | 0xdb8, ..] => AddressScope::Unusable,
        [0x2000..=0x3fff, ..] => AddressScope::Public,
        _ => AddressScope::Unusable,
    }
}

/// The IPv4 address that is embedded in an IPv4-mapped, NAT64 (RFC 6052) or 6to4 address.
fn embedded_ipv4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        Ipv4Addr::new(a, b, c, d)
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some(v4(high, low))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope_of(ip: &str) -> AddressScope {
        scope(ip.parse().unwrap())
    }

    #[test]
    fn private_loopback_link_local_and_metadata_addresses_are_recognized_in_every_notation() {
        for ip in [
            "127.0.0.1",
            "127.8.8.8",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "198.18.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::",
            "fd00:ec2::254",
        ] {
            assert_eq!(scope_of(ip), AddressScope::Private, "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
            "240.0.0.1",
            "192.0.2.1",
            "::",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "::ffff:0.0.0.0",
            "100::1",
        ] {
            assert_eq!(scope_of(ip), AddressScope::Unusable, "{ip}");
        }
        for ip in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "192.0.1.1"] {
            assert_eq!(scope_of(ip), AddressScope::Public, "{ip}");
        }
    }

    #[tokio::test]
    async fn a_literal_address_is_checked_in_every_notation() {
        let guard = Guard { policy: HostPolicy::Public, proxies: Arc::default() };
        for url in [
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:7f00:1]/",
            "http://169.254.169.254/latest/meta-data",
            "http://0/",
        ] {
            assert!(guard.check_host(&Url::parse(url).unwrap()).await.is_err(), "{url}");
        }
        let private = Guard { policy: HostPolicy::Private, proxies: Arc::default() };
        assert!(private.check_host(&Url::parse("http://127.1/").unwrap()).await.is_ok());
        assert!(private.check_host(&Url::parse("http://224.0.0.1/").unwrap()).await.is_err());
        let refused = private.check_host(&Url::parse("data:x").unwrap()).await.unwrap_err();
        assert_eq!(refused.to_string(), "the URL has no host");
    }

    #[tokio::test]
    async fn a_host_name_with_a_private_address_is_refused_on_resolution() {
        let resolve = |policy| Guard { policy, proxies: Arc::default() }.resolve("localhost".parse().unwrap());
        let refused = resolve(HostPolicy::Public).await.err().unwrap();
        assert!(refused.downcast_ref::<Refused>().is_some(), "{refused}");
        assert!(resolve(HostPolicy::Private).await.is_ok());
    }

    #[tokio::test]
    async fn a_private_api_host_is_detected() {
        for (url, private) in [
            ("http://127.0.0.1:8600", true),
            ("http://localhost:8600", true),
            ("http://192.168.1.7", true),
            ("https://1.1.1.1", false),
            ("http://no-such-name.invalid", false),
        ] {
            assert_eq!(is_private_host(&Url::parse(url).unwrap()).await, private, "{url}");
        }
    }
}
