//! The `host` block of every record: names of this machine, and what answers
//! of the service passing by said of it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::value::RawValue;

/// For how long the machine's name is not asked for again.
const NAME_HOLDS: Duration = Duration::from_secs(1);

/// Rendered once, and again when a fact is learnt or the name has changed: the
/// daemon is there before cloud-init names the machine.
pub struct Host(Mutex<Rendered>);

struct Rendered {
    facts: Facts,
    json: Box<RawValue>,
    named: Instant,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Facts {
    name: Option<String>,
    machine_id: Option<String>,
    boot_id: Option<String>,
    instance_id: Option<String>,
    account: Option<String>,
    region: Option<String>,
}

/// What an answer passing by says of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceFacts {
    /// `i-…`.
    pub instance_id: Option<String>,
    /// The cloud account.
    pub account: Option<String>,
    /// The region.
    pub region: Option<String>,
}

impl Host {
    /// Reads what the machine itself knows.
    pub fn read() -> Self {
        let line = |path| {
            std::fs::read_to_string(path)
                .ok()
                .map(|text| text.trim().to_owned())
        };
        let facts = Facts {
            name: name(),
            machine_id: line("/etc/machine-id").filter(|id| !id.is_empty()),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            ..Facts::default()
        };
        Self(Mutex::new(Rendered {
            json: facts.json(),
            facts,
            named: Instant::now(),
        }))
    }

    /// The block as JSON.
    pub(super) fn json(&self) -> Box<RawValue> {
        let mut rendered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rendered.named.elapsed() >= NAME_HOLDS {
            rendered.named = Instant::now();
            let facts = Facts {
                name: name(),
                ..rendered.facts.clone()
            };
            rendered.take(facts);
        }
        rendered.json.clone()
    }

    /// Takes in what is new of it.
    pub(super) fn learn(&self, learnt: InstanceFacts) {
        let mut rendered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let facts = Facts {
            instance_id: learnt.instance_id.or(rendered.facts.instance_id.clone()),
            account: learnt.account.or(rendered.facts.account.clone()),
            region: learnt.region.or(rendered.facts.region.clone()),
            ..rendered.facts.clone()
        };
        rendered.take(facts);
    }
}

impl Rendered {
    fn take(&mut self, facts: Facts) {
        if facts != self.facts {
            self.json = facts.json();
            self.facts = facts;
        }
    }
}

/// As the kernel has it now.
fn name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

impl Facts {
    fn json(&self) -> Box<RawValue> {
        serde_json::value::to_raw_value(self).unwrap_or_else(|_| RawValue::NULL.to_owned())
    }
}
