//! From the first request to the last record.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::unistd::geteuid;

use super::events::{Greeting, Loaded, Started, Stopped};
use super::start::{Found, Ready, Refused};
use super::{StartError, guards};
use crate::audit::Event;
use crate::config::LoadedPolicy;
use crate::control::{self, Desk, From, Orders, Parts, Standing, Vitals, record_rejected};
use crate::metrics;
use crate::notify::Manager;
use crate::proxy::{Guards, Proxy};
use crate::token::TokenKey;

/// Serves until a signal ends it.
pub(super) fn serve(ready: Ready) -> Result<(), StartError> {
    let Ready {
        runtime,
        config,
        path,
        policy: Found { loaded, refused },
        control,
        store,
        listeners,
        post,
        metrics,
        witness,
        callers,
        owners,
        descriptors,
        signals,
        manager,
        sandbox,
        log,
        writer,
        tidying,
    } = ready;
    let manager = Arc::new(manager);
    let ended_by = Arc::new(OnceLock::new());
    let served = runtime.block_on(async {
        if !callers.know_names().await {
            tracing::error!(
                "not even root's name can be looked up: until names can be, what a user's or \
                 group's name could change is denied"
            );
        }
        let started = Started::new(config, &listeners, sandbox);
        log.event(Event::DaemonStarted, &started);
        let LoadedPolicy { policy, sources } = loaded;
        let from = match &refused {
            Some(_) => From::Snapshot,
            None => From::Start,
        };
        if let Some(Refused { found, .. }) = &refused {
            record_rejected(&log, found, From::Start, None, policy.hash());
        }
        log.event(
            Event::PolicyLoaded,
            &Loaded {
                from,
                mode: config.policy.mode,
                policy: policy.hash(),
                rules: policy.len(),
                files: sources.iter().map(|source| source.name()).collect(),
            },
        );
        let greeting = Greeting::new(&started, &policy, geteuid());
        let mut key = [0; 64];
        getrandom::fill(&mut key).map_err(StartError::Random)?;
        let orders = Orders::new(policy, config.policy.mode, TokenKey::new(&key));
        let standing = Standing::new(orders);
        let (guards, vitals, callers) = (Guards::default(), Vitals::default(), Arc::new(callers));
        let desk = Desk::open(Parts {
            config: config.clone(),
            path,
            standing: standing.clone(),
            sources,
            from,
            callers: Arc::clone(&callers),
            vitals: vitals.clone(),
            store,
            log: log.clone(),
        });
        let proxy = Proxy::new(
            config,
            standing,
            log.clone(),
            callers,
            guards.clone(),
            owners,
            descriptors,
        );
        if let Some(post) = post {
            tokio::spawn(guards::heed(post, guards, vitals, log.clone()));
        }
        if let Some((listener, process)) = metrics {
            let sources = metrics::Sources {
                desk: Arc::clone(&desk),
                log: log.clone(),
                traffic: proxy.traffic(),
                descriptors,
            };
            let serving = metrics::serve(listener, process, sources);
            tokio::spawn(serving.map_err(StartError::Runtime)?);
        }
        for control in control {
            tokio::spawn(control::serve(control, Arc::clone(&desk)));
        }
        if config.policy.watch {
            control::follow(Arc::clone(&desk)).map_err(StartError::Runtime)?;
        }
        tokio::spawn(witness.keep(log.clone()));
        let stop = signals.heed(
            log.clone(),
            desk,
            Arc::clone(&manager),
            Arc::clone(&ended_by),
        );
        if let Some(watchdog) = manager.watchdog() {
            tokio::spawn(heartbeat(Arc::clone(&manager), watchdog));
        }
        manager.ready();
        greeting.say();
        // Waits for it.
        tokio::task::spawn_blocking(|| drop(tidying));
        let served = Arc::new(proxy).run(listeners, stop).await;
        served.map_err(StartError::Runtime)
    });
    log.ending();
    // A cgroup tree without end may not hold up the end.
    runtime.shutdown_background();
    log.summarise_denials();
    log.event(
        Event::DaemonStopped,
        &Stopped {
            signal: ended_by.get().copied(),
        },
    );
    writer.close();
    served
}

/// From the thread that serves: while it does, the manager hears of it.
async fn heartbeat(manager: Arc<Manager>, watchdog: Duration) {
    // As sd_watchdog_enabled(3) recommends.
    let mut beat = tokio::time::interval(watchdog / 2);
    loop {
        beat.tick().await;
        manager.alive();
    }
}
