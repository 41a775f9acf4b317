//! The life of the role's credentials, as answers passing by show it: a new
//! set, another role, a set that should have been replaced.
//!
//! Pure: the time is handed in. It asks for nothing, so what nobody reads it
//! does not know, and what was before this run neither. Each thing that happens
//! is said once, however often it is seen.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::log::Log;
use super::record::{CredentialRecord, Event};

/// New credentials appear at least this long before the old ones end.
const OVERLAP: Duration = Duration::from_secs(5 * 60);
/// SDKs take a set with less time left for an outage.
const EXPIRING: Duration = Duration::from_secs(25 * 60);
/// Roles told apart; an instance has one or two.
const ROLES_MAX: usize = 64;

/// What one answer shows.
#[derive(Clone, Copy, Debug)]
pub enum Sighting<'a> {
    /// The service names the instance's role, or says that it has none.
    Role(Option<&'a str>),
    /// `InstanceProfileArn` of `iam/info`.
    Profile(&'a str),
    /// Credentials, on their way to a caller.
    Credentials(Principal, &'a CredentialRecord),
}

/// Whose credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Principal {
    /// The instance's role.
    Instance,
    /// Something else on it that has a role, such as a task or the service
    /// itself.
    Other,
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Happened {
    Rotated {
        role: String,
        old: String,
        new: String,
        expiration: String,
    },
    RoleChanged {
        old: Option<String>,
        new: Option<String>,
    },
    OutOfStep {
        why: Why,
        role: String,
        profile: String,
    },
    Overdue {
        why: Why,
        role: String,
        access_key_id: String,
        expiration: String,
    },
    Expiring {
        role: String,
        access_key_id: String,
        expiration: String,
        left_s: u64,
    },
}

/// Why credentials are stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The instance has another profile now, and the role served is the one
    /// from before.
    ProfileChanged,
    /// Profile and role have different names. Many have; whether they belong
    /// together, nothing here can know.
    ProfileDiffers,
    /// The service gives out a set that it should have replaced.
    RotationMissed,
}

/// How it stands, for whoever looks on.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// When the newest set of the instance's role ends.
    pub ends: Option<SystemTime>,
    /// Why what is served is stale.
    pub stale: Vec<Why>,
    /// `credentials.rotated` so far.
    pub rotated: u64,
    /// `role.changed`.
    pub role_changed: u64,
    /// `credentials.stale`.
    pub told_stale: u64,
    /// `credentials.expiring`.
    pub expiring: u64,
}

#[derive(Debug, Default)]
pub(super) struct Life {
    role: Role,
    profile: Option<Profile>,
    /// The names of a role and a profile have been compared.
    compared: bool,
    out_of_step: Option<Why>,
    /// By role: the newest of each.
    of_instance: BTreeMap<String, Set>,
    of_others: BTreeMap<String, Set>,
    counts: Standing,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Role {
    #[default]
    Unknown,
    /// By the path of credentials, while no listing was seen.
    Guessed(String),
    Listed(Option<String>),
}

impl Role {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Unknown => None,
            Self::Guessed(name) => Some(name),
            Self::Listed(name) => name.as_deref(),
        }
    }
}

#[derive(Debug)]
struct Profile {
    arn: String,
    /// The role when it was last seen.
    role: Option<String>,
}

/// The newest of a role.
#[derive(Debug)]
struct Set {
    key_id: String,
    ends: SystemTime,
    told_overdue: bool,
    told_expiring: bool,
}

impl Log {
    /// Takes in what an answer shows of the credentials' life, and records what
    /// has happened.
    pub fn sight(&self, sighting: Sighting) {
        let happened = self.life().see(sighting, SystemTime::now());
        for happened in happened {
            self.event(happened.event(), &happened);
        }
    }
}

impl Happened {
    pub(super) fn event(&self) -> Event {
        match self {
            Self::Rotated { .. } => Event::CredentialsRotated,
            Self::RoleChanged { .. } => Event::RoleChanged,
            Self::OutOfStep { .. } | Self::Overdue { .. } => Event::CredentialsStale,
            Self::Expiring { .. } => Event::CredentialsExpiring,
        }
    }
}

impl Life {
    pub(super) fn see(&mut self, sighting: Sighting, now: SystemTime) -> Vec<Happened> {
        let mut happened = Vec::new();
        match sighting {
            Sighting::Role(name) => {
                if !matches!(&self.role, Role::Listed(known) if known.as_deref() == name) {
                    let role = Role::Listed(name.map(str::to_owned));
                    self.change_role(role, &mut happened);
                }
            }
            Sighting::Profile(arn) => self.see_profile(arn, &mut happened),
            Sighting::Credentials(of, record) => self.see_set(of, record, now, &mut happened),
        }
        self.count(&happened);
        happened
    }

    pub(super) fn standing(&self) -> Standing {
        let set = (self.role.name()).and_then(|role| self.of_instance.get(role));
        let mut served = set.into_iter().chain(self.of_others.values());
        let overdue = served.any(|set| set.told_overdue);
        Standing {
            ends: set.map(|set| set.ends),
            stale: (self.out_of_step.into_iter())
                .chain(overdue.then_some(Why::RotationMissed))
                .collect(),
            ..self.counts.clone()
        }
    }

    fn change_role(&mut self, role: Role, happened: &mut Vec<Happened>) {
        let before = std::mem::replace(&mut self.role, role);
        if before == Role::Unknown || before.name() != self.role.name() {
            // Whatever was out of step has moved.
            self.out_of_step = None;
            if before != Role::Unknown {
                happened.push(Happened::RoleChanged {
                    old: before.name().map(str::to_owned),
                    new: self.role.name().map(str::to_owned),
                });
            }
        }
        self.compare(false, happened);
    }

    fn see_profile(&mut self, arn: &str, happened: &mut Vec<Happened>) {
        let role = self.role.name();
        if let Some(profile) = &mut self.profile
            && profile.arn == arn
        {
            if profile.role.as_deref() != role {
                profile.role = role.map(str::to_owned);
            }
            return;
        }
        let role = role.map(str::to_owned);
        let profile = Profile {
            arn: arn.to_owned(),
            role: role.clone(),
        };
        let before = self.profile.replace(profile);
        let changed = before.is_some_and(|before| before.role.is_some() && before.role == role);
        self.compare(changed, happened);
    }

    /// Whether profile and role go together. `changed`: the profile has, and
    /// the role has not.
    fn compare(&mut self, changed: bool, happened: &mut Vec<Happened>) {
        let (Some(profile), Some(role)) = (&self.profile, self.role.name()) else {
            return;
        };
        let first = !std::mem::replace(&mut self.compared, true);
        let agree = profile.arn.rsplit('/').next() == Some(role);
        let why = match (agree, changed) {
            (true, _) => {
                self.out_of_step = None;
                return;
            }
            (false, true) => Why::ProfileChanged,
            (false, false) if first => Why::ProfileDiffers,
            (false, false) => return,
        };
        self.out_of_step = Some(why);
        happened.push(Happened::OutOfStep {
            why,
            role: role.to_owned(),
            profile: profile.arn.clone(),
        });
    }

    fn see_set(
        &mut self,
        of: Principal,
        record: &CredentialRecord,
        now: SystemTime,
        happened: &mut Vec<Happened>,
    ) {
        let (Some(role), Some(key_id)) = (&record.role, &record.access_key_id) else {
            return;
        };
        let Some(expiration) = &record.expiration else {
            return;
        };
        let known = self.sets(of).get(role);
        if known.is_some_and(|it| it.key_id == *key_id && now + EXPIRING < it.ends) {
            return;
        }
        let Ok(ends) = humantime::parse_rfc3339(expiration) else {
            return;
        };
        if of == Principal::Instance {
            self.guess_role(role, ends, happened);
        }
        let sets = self.sets(of);
        if sets.len() >= ROLES_MAX && !sets.contains_key(role) {
            sets.clear();
        }
        let new = Set {
            key_id: key_id.clone(),
            ends,
            told_overdue: false,
            told_expiring: false,
        };
        let set = match sets.entry(role.clone()) {
            Entry::Vacant(place) => place.insert(new),
            Entry::Occupied(place) => {
                let set = place.into_mut();
                if set.key_id != new.key_id {
                    if ends <= set.ends {
                        // A newer one is known.
                        return;
                    }
                    let old = std::mem::replace(set, new);
                    happened.push(Happened::Rotated {
                        role: role.clone(),
                        old: old.key_id,
                        new: key_id.clone(),
                        expiration: expiration.clone(),
                    });
                }
                set
            }
        };
        let left = set.ends.duration_since(now).unwrap_or_default();
        if left < EXPIRING && !std::mem::replace(&mut set.told_expiring, true) {
            happened.push(Happened::Expiring {
                role: role.clone(),
                access_key_id: key_id.clone(),
                expiration: expiration.clone(),
                left_s: left.as_secs(),
            });
        }
        if left < OVERLAP && !std::mem::replace(&mut set.told_overdue, true) {
            happened.push(Happened::Overdue {
                why: Why::RotationMissed,
                role: role.clone(),
                access_key_id: key_id.clone(),
                expiration: expiration.clone(),
            });
        }
    }

    fn sets(&mut self, of: Principal) -> &mut BTreeMap<String, Set> {
        match of {
            Principal::Instance => &mut self.of_instance,
            Principal::Other => &mut self.of_others,
        }
    }

    /// Where no listing says it, the newest set does: whoever knows the name of
    /// a former role may still be given its older one.
    fn guess_role(&mut self, role: &str, ends: SystemTime, happened: &mut Vec<Happened>) {
        let newest = match &self.role {
            Role::Listed(_) => return,
            Role::Guessed(known) if known == role => return,
            Role::Guessed(known) => self.of_instance.get(known),
            Role::Unknown => None,
        };
        if newest.is_none_or(|newest| ends > newest.ends) {
            self.change_role(Role::Guessed(role.to_owned()), happened);
        }
    }

    fn count(&mut self, happened: &[Happened]) {
        for happened in happened {
            let count = match happened {
                Happened::Rotated { .. } => &mut self.counts.rotated,
                Happened::RoleChanged { .. } => &mut self.counts.role_changed,
                Happened::OutOfStep { .. } | Happened::Overdue { .. } => {
                    &mut self.counts.told_stale
                }
                Happened::Expiring { .. } => &mut self.counts.expiring,
            };
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests;
