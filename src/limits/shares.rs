//! The table of shares. Pure but for the queues, which it only hands out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::bucket::{Bucket, Rate};
use crate::config::{self, HOST_CONNECTIONS, ROOT_RESERVE};
use crate::ids::Uid;

/// Holders with a share of their own at one time; who comes beyond that
/// shares with all others who do.
const SHARES_MAX: usize = 4096;
/// Looking for shares that nobody needs any more costs as many steps as there
/// are; their number must not be a lever.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Requests of one holder under way to the service at once.
const LANES: usize = 16;
/// One place in so many, and at least one, is for root alone: the share that
/// the kernel rules keep for it too.
const RESERVED_OF: usize = (HOST_CONNECTIONS / ROOT_RESERVE) as usize;

/// Who holds a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A uid with all that is subordinate to it.
    Owner(Uid),
    /// All who cannot be named, and all for whom there was no room.
    Others,
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Connections open at once.
    Connections,
    /// New connections in a short time.
    NewConnections,
    /// Connections of everybody but root.
    HostConnections,
    /// Tokens.
    Tokens,
}

impl Over {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Connections,
        Self::NewConnections,
        Self::HostConnections,
        Self::Tokens,
    ];

    /// The word for the record's `detail`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::NewConnections => "new_connections",
            Self::HostConnections => "host_connections",
            Self::Tokens => "tokens",
        }
    }
}

#[derive(Debug)]
pub(super) struct Shares {
    connections: u32,
    arrivals: Rate,
    tokens: Rate,
    /// For all holders together.
    places: usize,
    taken: usize,
    shares: HashMap<Holder, Share>,
    swept: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Share {
    connections: u32,
    arrivals: Bucket,
    tokens: Bucket,
    /// Passed by one request at a time.
    pub(super) turnstile: Arc<Semaphore>,
    /// To the service.
    pub(super) lanes: Arc<Semaphore>,
}

impl Shares {
    pub(super) fn new(config: &config::Limits, places: usize) -> Self {
        let per_second = config.new_connections_per_second;
        let burst = per_second.saturating_mul(10);
        Self {
            connections: config.connections,
            arrivals: Rate::new(per_second, Duration::from_secs(1), burst),
            tokens: Rate::new(
                config.tokens_per_minute,
                Duration::from_secs(60),
                config.tokens_per_minute,
            ),
            places: places.saturating_sub((places / RESERVED_OF).max(1)).max(1),
            taken: 0,
            shares: HashMap::new(),
            swept: None,
        }
    }

    /// Says whose connection it counts as: `holder`'s or, where the table is
    /// full, everybody's.
    pub(super) fn connect(&mut self, holder: Holder, now: Instant) -> Result<Holder, Over> {
        let (most, arrivals) = (self.connections, self.arrivals);
        let is_full = self.taken >= self.places;
        let (holder, share) = self.share(holder, now);
        if !share.arrivals.take(arrivals, now) {
            return Err(Over::NewConnections);
        }
        if share.connections >= most {
            return Err(Over::Connections);
        }
        if is_full {
            return Err(Over::HostConnections);
        }
        share.connections += 1;
        self.taken += 1;
        Ok(holder)
    }

    pub(super) fn disconnect(&mut self, holder: Holder) {
        if let Some(share) = self.shares.get_mut(&holder) {
            share.connections = share.connections.saturating_sub(1);
            self.taken = self.taken.saturating_sub(1);
        }
    }

    pub(super) fn token(&mut self, holder: Holder, now: Instant) -> Result<(), Over> {
        let rate = self.tokens;
        let taken = self.share(holder, now).1.tokens.take(rate, now);
        taken.then_some(()).ok_or(Over::Tokens)
    }

    pub(super) fn share(&mut self, holder: Holder, now: Instant) -> (Holder, &mut Share) {
        let mut holder = holder;
        if !self.shares.contains_key(&holder) {
            if self.shares.len() >= SHARES_MAX {
                self.sweep(now);
            }
            if self.shares.len() >= SHARES_MAX {
                holder = Holder::Others;
            }
        }
        let share = self.shares.entry(holder).or_insert_with(Share::new);
        (holder, share)
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|at| now - at >= SWEEP_EVERY) {
            self.swept = Some(now);
            self.shares.retain(|_, share| !share.is_unused(now));
        }
    }
}

impl Share {
    fn new() -> Self {
        Self {
            connections: 0,
            arrivals: Bucket::default(),
            tokens: Bucket::default(),
            turnstile: Arc::new(Semaphore::new(1)),
            lanes: Arc::new(Semaphore::new(LANES)),
        }
    }

    /// Made anew, it would be the same.
    fn is_unused(&self, now: Instant) -> bool {
        self.connections == 0
            && self.arrivals.is_full(now)
            && self.tokens.is_full(now)
            && Arc::strong_count(&self.turnstile) == 1
            && Arc::strong_count(&self.lanes) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use proptest::prelude::*;

    const ALICE: Holder = Holder::Owner(Uid(4001));
    const BOB: Holder = Holder::Owner(Uid(4002));

    fn shares(connections: u32, places: usize) -> Shares {
        let limits = config::Limits {
            connections,
            new_connections_per_second: 1000,
            ..Config::default().limits
        };
        Shares::new(&limits, places)
    }

    #[test]
    fn one_holder_reaches_its_limit_and_another_has_all_of_its_own() {
        let mut shares = shares(3, 100);
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(shares.connect(ALICE, now), Ok(ALICE));
        }
        assert_eq!(shares.connect(ALICE, now), Err(Over::Connections));
        assert_eq!(shares.connect(BOB, now), Ok(BOB));
        shares.disconnect(ALICE);
        assert_eq!(shares.connect(ALICE, now), Ok(ALICE));
    }

    #[test]
    fn all_others_together_leave_places_for_root() {
        let mut shares = shares(1, 32);
        let now = Instant::now();
        let taken = (0..32)
            .filter(|uid| shares.connect(Holder::Owner(Uid(5000 + uid)), now).is_ok())
            .count();
        assert_eq!(taken, 30);
        assert_eq!(shares.connect(ALICE, now), Err(Over::HostConnections));
    }

    #[test]
    fn tokens_come_back_with_time() {
        let mut shares = shares(1, 32);
        let now = Instant::now();
        let minted = |shares: &mut Shares, now| {
            (0..500)
                .filter(|_| shares.token(ALICE, now).is_ok())
                .count()
        };
        assert_eq!(minted(&mut shares, now), 120);
        assert_eq!(shares.token(BOB, now), Ok(()));
        assert_eq!(minted(&mut shares, now + Duration::from_secs(1)), 2);
    }

    #[test]
    fn more_uids_than_the_table_holds_share_and_leave_when_idle() {
        let mut shares = shares(2, 100_000);
        let now = Instant::now();
        for uid in 0..2 * u32::try_from(SHARES_MAX).unwrap() {
            let holder = Holder::Owner(Uid(100_000 + uid));
            let _ = shares.connect(holder, now);
        }
        assert!(shares.shares.len() <= SHARES_MAX + 1);
        assert_eq!(shares.connect(ALICE, now), Err(Over::Connections));
        for uid in 0..u32::try_from(SHARES_MAX).unwrap() {
            shares.disconnect(Holder::Owner(Uid(100_000 + uid)));
        }
        let later = now + Duration::from_secs(5);
        assert_eq!(shares.connect(ALICE, later), Ok(ALICE));
        assert!(shares.shares.len() < 4);
    }

    proptest! {
        /// Whatever comes and goes: no holder over its limit, all of them
        /// never over the places, and the count is that of the open ones.
        #[test]
        fn counts_hold(moves in proptest::collection::vec((0u32..6, any::<bool>()), 0..300)) {
            let mut shares = shares(4, 12);
            let now = Instant::now();
            let mut open: Vec<Holder> = Vec::new();
            for (who, comes) in moves {
                let holder = Holder::Owner(Uid(4001 + who));
                if comes {
                    open.extend(shares.connect(holder, now));
                } else if let Some(at) = open.iter().position(|it| *it == holder) {
                    shares.disconnect(open.swap_remove(at));
                }
                prop_assert_eq!(shares.taken, open.len());
                prop_assert!(open.len() <= 11);
                let own = open.iter().filter(|it| **it == holder).count();
                prop_assert!(own <= 4);
            }
        }
    }
}
