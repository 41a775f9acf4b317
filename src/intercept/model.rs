//! What the rules are about, whatever tool loads them.
//!
//! Must never hold a value that no correct rule set could be made of: every
//! constructor refuses what would leave a way around the daemon.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::account::{AccountError, daemon_uid};
use crate::config::{Backend, Config, HOST_CONNECTIONS, Limits, Marks, ROOT_RESERVE};
use crate::ids::{MetadataAddr, Uid, unmapped};

/// What each user gets of the daemon at most, so that nobody takes all of it.
/// Root is not held to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Connections of one uid open at once.
    pub connections: u32,
    /// New connections of one uid per second, on average.
    pub new_per_second: u32,
    /// New connections of one uid at once, after a pause.
    pub burst: u32,
    /// Connections of all users but root together: the rest is root's reserve.
    pub users: u32,
}

impl Shares {
    /// `[limits]`; `None` where they are off.
    pub fn from_limits(limits: &Limits) -> Option<Self> {
        limits.enabled.then_some(Self {
            connections: limits.connections,
            new_per_second: limits.new_connections_per_second,
            burst: limits.new_connections_per_second.saturating_mul(10),
            users: u32::from(HOST_CONNECTIONS - ROOT_RESERVE),
        })
    }
}

/// Everything the kernel rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    destinations: Vec<MetadataAddr>,
    closed: Vec<IpAddr>,
    listen_port: u16,
    daemon_uid: Uid,
    marks: Marks,
    shares: Option<Shares>,
    backend: Option<Backend>,
}

/// Why no rule set can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleSetError {
    /// Nothing to redirect.
    NoDestination,
    /// Two addresses of one family. They would share a listener, and the
    /// kernel would then rewrite source ports to keep their connections
    /// apart, so that a peer's port could be somebody else's socket.
    SameFamily(MetadataAddr, MetadataAddr),
    /// An address whose guards would cut off something else than a metadata
    /// service: this host's own loopback, everybody, nobody.
    NotAService(MetadataAddr),
    /// Port 0, for the listener.
    ListenPortZero,
    /// Marks that are equal, or that the mask does not cover.
    Marks(Marks),
    /// The daemon's account.
    Account(AccountError),
}

impl RuleSet {
    /// Rules that send `destinations`, one address per family, to the
    /// listeners on `listen_port` and exempt `daemon_uid` alone. With the
    /// default marks, without limits, and for the back end that the machine has.
    ///
    /// # Errors
    /// [`RuleSetError`], where such rules would leave a way around them.
    pub fn new(
        destinations: &[SocketAddr],
        listen_port: u16,
        daemon_uid: Uid,
    ) -> Result<Self, RuleSetError> {
        let mut accepted: Vec<MetadataAddr> = Vec::new();
        for destination in destinations {
            let destination = MetadataAddr(unmapped(*destination));
            if !is_service(destination) {
                return Err(RuleSetError::NotAService(destination));
            }
            if let Some(first) = accepted
                .iter()
                .find(|other| other.0.is_ipv4() == destination.0.is_ipv4())
            {
                return Err(RuleSetError::SameFamily(*first, destination));
            }
            accepted.push(destination);
        }
        if accepted.is_empty() {
            return Err(RuleSetError::NoDestination);
        }
        if listen_port == 0 {
            return Err(RuleSetError::ListenPortZero);
        }
        if daemon_uid == Uid::ROOT {
            return Err(RuleSetError::Account(AccountError::Root {
                user: daemon_uid.to_string(),
            }));
        }
        Ok(Self {
            destinations: accepted,
            closed: Vec::new(),
            listen_port,
            daemon_uid,
            marks: Marks::default(),
            shares: None,
            backend: None,
        })
    }

    /// The rules that a config asks for; looks up the daemon's account.
    ///
    /// # Errors
    /// [`RuleSetError`], each naming what to change.
    pub fn from_config(config: &Config) -> Result<Self, RuleSetError> {
        let uid = daemon_uid(&config.user).map_err(RuleSetError::Account)?;
        let rules = Self::new(&config.upstream.addresses, config.listen_port, uid)?;
        Ok(rules
            .closing(&config.provider.addresses())
            .marking(config.rules.marks)?
            .sharing(Shares::from_limits(&config.limits))
            .through(config.rules.backend))
    }

    /// Uses these marks.
    ///
    /// # Errors
    /// [`RuleSetError::Marks`], where they cannot be told apart or from none.
    pub fn marking(mut self, marks: Marks) -> Result<Self, RuleSetError> {
        let Marks {
            connection,
            listener,
            mask,
        } = marks;
        let covered = (connection | listener) & !mask == 0;
        if !covered || connection == listener || connection == 0 || listener == 0 {
            return Err(RuleSetError::Marks(marks));
        }
        self.marks = marks;
        Ok(self)
    }

    /// Holds users to these shares.
    #[must_use]
    pub fn sharing(mut self, shares: Option<Shares>) -> Self {
        self.shares = shares;
        self
    }

    /// Has the rules loaded by this back end; `None`: by what the machine has.
    #[must_use]
    pub fn through(mut self, backend: Option<Backend>) -> Self {
        self.backend = backend;
        self
    }

    /// Refuses everybody the addresses among these that are not redirected:
    /// one that the config leaves out must not be the way around.
    #[must_use]
    pub fn closing(mut self, addresses: &[SocketAddr]) -> Self {
        let redirected = |ip: &IpAddr| self.destinations.iter().any(|it| it.0.ip() == *ip);
        let closed = addresses
            .iter()
            .map(SocketAddr::ip)
            .filter(|ip| !redirected(ip));
        self.closed = closed.collect();
        self
    }

    /// The addresses that nobody reaches, the daemon included.
    pub fn closed(&self) -> &[IpAddr] {
        &self.closed
    }

    /// The metadata addresses: at least one, at most one of each family.
    pub fn destinations(&self) -> &[MetadataAddr] {
        &self.destinations
    }

    /// The port of the listeners, never 0.
    pub fn listen_port(&self) -> u16 {
        self.listen_port
    }

    /// The uid that reaches the service directly, never root's.
    pub fn daemon_uid(&self) -> Uid {
        self.daemon_uid
    }

    /// The marks of the daemon's connections and listeners.
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// What users are held to.
    pub fn shares(&self) -> Option<Shares> {
        self.shares
    }

    /// The back end that was asked for.
    pub fn backend(&self) -> Option<Backend> {
        self.backend
    }

    /// Where the kernel's redirect of a locally made connection lands: the
    /// loopback address of its family, whatever the client's interface.
    pub fn listener(&self, destination: MetadataAddr) -> SocketAddr {
        let loopback = match destination.0 {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        SocketAddr::new(loopback, self.listen_port)
    }
}

fn is_service(MetadataAddr(addr): MetadataAddr) -> bool {
    let ip = addr.ip();
    let is_broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || is_broadcast)
        && addr.port() != 0
}

impl fmt::Display for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, destination) in self.destinations.iter().enumerate() {
            let separator = if at == 0 { "" } else { " and " };
            write!(f, "{separator}{destination}")?;
        }
        write!(
            f,
            " to port {} on loopback, exempting uid {}",
            self.listen_port, self.daemon_uid
        )
    }
}

impl fmt::Display for RuleSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDestination => write!(
                f,
                "`addresses` under [upstream] is empty: there is nothing to redirect; \
                 leave the key out for the provider's own addresses"
            ),
            Self::SameFamily(first, second) => write!(
                f,
                "`addresses` under [upstream] has two of one family, {first} and {second}: \
                 connections to both through one listener could not be told apart by their \
                 ports; keep one"
            ),
            Self::NotAService(addr) => write!(
                f,
                "`addresses` under [upstream] has {addr}, which cannot be a metadata service \
                 to redirect: the rules cut off everything else on that address; give a \
                 unicast address outside loopback, and a port"
            ),
            Self::ListenPortZero => write!(
                f,
                "`port` under [listen] is 0; the rules need a fixed port, best one below 1024"
            ),
            Self::Marks(Marks {
                connection,
                listener,
                mask,
            }) => write!(
                f,
                "under [rules], `mark` {connection:#x} and `listener_mark` {listener:#x} must \
                 differ, and have no bit outside `mask` {mask:#x}"
            ),
            Self::Account(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RuleSetError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(destinations: &[&str]) -> Result<RuleSet, RuleSetError> {
        let destinations: Vec<_> = destinations.iter().map(|a| a.parse().unwrap()).collect();
        RuleSet::new(&destinations, 253, Uid(4001))
    }

    fn addr(text: &str) -> MetadataAddr {
        MetadataAddr(text.parse().unwrap())
    }

    #[test]
    fn two_addresses_of_one_family_are_refused_also_in_mapped_form() {
        for second in ["169.254.170.2:80", "[::ffff:169.254.170.2]:80"] {
            assert_eq!(
                new(&["169.254.169.254:80", second]),
                Err(RuleSetError::SameFamily(
                    addr("169.254.169.254:80"),
                    addr("169.254.170.2:80")
                ))
            );
        }
    }

    #[test]
    fn addresses_whose_guards_would_cut_off_others_are_refused() {
        for bad in [
            "127.0.0.1:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "0.0.0.0:80",
            "[::]:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "169.254.169.254:0",
        ] {
            assert!(
                matches!(new(&[bad]), Err(RuleSetError::NotAService(_))),
                "{bad}"
            );
        }
        assert_eq!(new(&[]), Err(RuleSetError::NoDestination));
    }

    #[test]
    fn root_and_port_zero_are_refused() {
        let service = ["169.254.169.254:80".parse().unwrap()];
        assert_eq!(
            RuleSet::new(&service, 0, Uid(4001)),
            Err(RuleSetError::ListenPortZero)
        );
        assert!(matches!(
            RuleSet::new(&service, 253, Uid::ROOT),
            Err(RuleSetError::Account(AccountError::Root { .. }))
        ));
    }

    #[test]
    fn marks_that_cannot_be_told_apart_are_refused() {
        let marks = |connection, listener, mask| Marks {
            connection,
            listener,
            mask,
        };
        for bad in [
            marks(0x60, 0x60, 0x7f),
            marks(0, 0x61, 0x7f),
            marks(0x60, 0, 0x7f),
            marks(0x80, 0x61, 0x7f),
            marks(0x60, 0x161, 0x7f),
        ] {
            let rules = new(&["169.254.169.254:80"]).unwrap();
            assert_eq!(rules.marking(bad), Err(RuleSetError::Marks(bad)));
        }
    }

    #[test]
    fn limits_that_are_off_hold_nobody() {
        let mut config = Config {
            user: "4001".into(),
            ..Config::default()
        };
        let shares = RuleSet::from_config(&config).unwrap().shares().unwrap();
        assert_eq!((shares.connections, shares.burst), (64, 1000));
        config.limits.enabled = false;
        assert_eq!(RuleSet::from_config(&config).unwrap().shares(), None);
    }

    #[test]
    fn a_config_gives_its_own_values() {
        let config = Config {
            user: "4001".into(),
            listen_port: 999,
            ..Config::default()
        };
        let rules = RuleSet::from_config(&config).unwrap();
        assert_eq!(
            rules.destinations(),
            [addr("169.254.169.254:80"), addr("[fd00:ec2::254]:80")]
        );
        assert_eq!((rules.listen_port(), rules.daemon_uid()), (999, Uid(4001)));
        assert_eq!(
            rules.listener(addr("[fd00:ec2::254]:80")),
            "[::1]:999".parse().unwrap()
        );
    }
}
