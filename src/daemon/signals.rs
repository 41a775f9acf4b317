//! What ends the daemon, and what has it open its log again.

use std::sync::{Arc, OnceLock};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::audit::Log;
use crate::notify::Manager;

/// SIGTERM and SIGINT end the daemon, SIGHUP opens the log again.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    pub(super) fn catch() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    pub(super) fn heed(
        mut self,
        log: Log,
        manager: Arc<Manager>,
        ended_by: Arc<OnceLock<&'static str>>,
    ) -> watch::Receiver<bool> {
        let (tell, told) = watch::channel(false);
        tokio::spawn(async move {
            let signal = loop {
                tokio::select! {
                    _ = self.hup.recv() => {
                        manager.reloading();
                        log.reopen();
                        manager.ready();
                    }
                    _ = self.term.recv() => break "SIGTERM",
                    _ = self.int.recv() => break "SIGINT",
                }
            };
            // Told once, here.
            let _ = ended_by.set(signal);
            manager.stopping();
            tell.send_replace(true);
        });
        told
    }
}
