//! No credentials for anyone, at once, and back: it waits for nothing else.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;

use super::Desk;
use crate::audit::Event;
use crate::control::orders::{By, Lockdown};
use crate::control::protocol::{Done, Reply, Why};
use crate::diagnose::Style;
use crate::token::TokenKey;
use crate::utc;

impl Desk {
    pub(super) async fn lock_down(
        &self,
        except: Vec<String>,
        reason: Option<String>,
        by: By,
    ) -> Reply {
        let since = utc::rfc3339_seconds(SystemTime::now());
        let lockdown = match Lockdown::new(except, reason, since, by) {
            Ok(lockdown) => Arc::new(lockdown),
            Err(found) => return Reply::refused(Why::Invalid, found.render(Style::Plain)),
        };
        let detail = json!({ "except": lockdown.except, "reason": lockdown.reason, "by": by });
        let tokens = new_tokens();
        let keyless = tokens.is_none();
        self.standing.change(|orders| {
            orders.lockdown = Some(lockdown);
            if let Some(tokens) = tokens {
                orders.tokens = Arc::new(tokens);
            }
        });
        tracing::warn!("locked down: no credentials for anyone");
        self.log.event(Event::LockdownStarted, &detail);
        let mut done = Done {
            said: "locked down: no credentials leave, and tokens minted before are void".into(),
            changed: true,
            ..Done::default()
        };
        if keyless {
            let what = "the kernel gave no random numbers: tokens minted before are not void";
            done.warnings.push(what.into());
        }
        if self.config.tokens == crate::config::TokenMode::Relay {
            let what = "tokens are the service's own (`mode = \"relay\"`): they are not void";
            done.warnings.push(what.into());
        }
        done.warnings.extend(self.keep_orders().await);
        Reply::Done(done)
    }

    pub(super) async fn lift_lockdown(&self, by: By) -> Reply {
        let mut before = None;
        self.standing
            .change(|orders| before = orders.lockdown.take());
        let mut done = Done {
            said: "there was no lockdown".into(),
            ..Done::default()
        };
        if let Some(lockdown) = before {
            tracing::warn!("the lockdown is lifted");
            let detail = json!({ "since": lockdown.since, "by": by });
            self.log.event(Event::LockdownEnded, &detail);
            done.said = "the lockdown is lifted: the policy decides again".into();
            done.changed = true;
        }
        done.warnings.extend(self.keep_orders().await);
        Reply::Done(done)
    }
}

fn new_tokens() -> Option<TokenKey> {
    let mut key = [0; 64];
    getrandom::fill(&mut key).ok()?;
    Some(TokenKey::new(&key))
}
