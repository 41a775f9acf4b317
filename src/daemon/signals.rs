//! What ends the daemon, and what has it open its log and read its policy
//! again.

use std::sync::{Arc, OnceLock};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::audit::Log;
use crate::control::{Desk, From};
use crate::notify::Manager;

/// SIGTERM and SIGINT end the daemon, SIGHUP opens the log again, and takes
/// what the policy files say now.
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
        desk: Arc<Desk>,
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
                        // What is wrong with it, the log says.
                        let _ = desk.reload(From::Signal, None).await;
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
