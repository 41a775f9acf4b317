//! Where the daemon's witness comes from, and what is said when it goes.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use serde::Serialize;

use crate::audit::{Event, Log};
use crate::caller::witness::{RunAs, Witness, WitnessError, start};
use crate::control::Acceptor;
use crate::ids::Uid;

/// A service manager starts one again well within this, and no client has
/// given up by then.
const RETURNS_WITHIN: Duration = Duration::from_millis(500);

pub(super) enum Source {
    /// It was started by this process, and not again: that takes root.
    Child(OwnedFd),
    /// It connects here as this uid, as often as it is started.
    DialsIn(UnixListener, Uid),
    /// Nobody starts one, or has a socket for it.
    Nowhere,
}

impl Source {
    /// To be called while this process is still root, if it is.
    pub(super) fn new(
        account: &str,
        daemon: Uid,
        handed: Option<UnixListener>,
        is_root: bool,
    ) -> Result<Self, WitnessError> {
        Ok(match handed {
            Some(listener) => Self::DialsIn(listener, RunAs::new(account, daemon)?.uid),
            None if is_root => Self::Child(start(RunAs::new(account, daemon)?)?),
            None => Self::Nowhere,
        })
    }

    /// To be called within the runtime.
    pub(super) fn open(self) -> io::Result<Contact> {
        let (returns_within, until) = match &self {
            Self::Child(_) => (Duration::ZERO, "the daemon is started again"),
            Self::DialsIn(..) => (RETURNS_WITHIN, "one connects"),
            Self::Nowhere => (
                Duration::ZERO,
                "the daemon is handed a socket for it (`ListenSequentialPacket=` in the socket \
                 unit), or started as root",
            ),
        };
        let witness = Witness::new(returns_within);
        let acceptor = match self {
            Self::Child(socket) => witness.meet(socket).map(|()| None)?,
            Self::DialsIn(listener, uid) => Some(Acceptor::new(listener, uid)?),
            Self::Nowhere => None,
        };
        Ok(Contact {
            witness,
            acceptor,
            until,
        })
    }
}

/// With the witness, whichever one it is just now.
pub(super) struct Contact {
    pub(super) witness: Witness,
    acceptor: Option<Acceptor>,
    /// There is none until this happens.
    until: &'static str,
}

impl Contact {
    /// For as long as the daemon lives.
    pub(super) async fn keep(self, log: Log) {
        tokio::join!(
            meet(self.acceptor, &self.witness),
            tell(&self.witness, self.until, log)
        );
    }
}

async fn meet(acceptor: Option<Acceptor>, witness: &Witness) {
    let Some(mut acceptor) = acceptor else {
        return;
    };
    loop {
        let connection = acceptor.accept().await;
        let met = connection.into_std().and_then(|it| witness.meet(it.into()));
        if let Err(error) = met {
            tracing::error!("a witness connected, and cannot be asked: {error}");
        }
    }
}

async fn tell(witness: &Witness, until: &'static str, log: Log) {
    loop {
        witness.gone().await;
        tracing::error!("there is no witness; no credentials are given out until {until}");
        log.event(Event::WitnessGone, &Gone { until });
        witness.back().await;
        tracing::warn!("there is a witness again");
        log.event(Event::WitnessBack, &serde_json::json!({}));
    }
}

#[derive(Serialize)]
struct Gone {
    until: &'static str,
}
