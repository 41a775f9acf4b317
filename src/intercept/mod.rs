//! The kernel rules: what sends every connection for the metadata address to
//! the daemon, and what refuses all that would slip past it.
//!
//! ```text
//!                      ┌─► nft       one table, one transaction
//! Config ─► RuleSet ───┤                                          ─► the kernel
//!           (model)    └─► iptables  own chains in mangle, filter and nat,
//!                                    a transaction a table and family
//! ```
//!
//! Each back end renders the same model, and gives the same guarantees: the
//! redirect, the exemption by uid and mark, the guards behind every nat, the
//! listener pinned by its answers. `apply` loads, `verify` compares the kernel
//! with the model (`Drift`), `remove` takes ours out. `older` ends the
//! connections that were there before the first rule.
//!
//! Must never leave a moment without rules while replacing them, touch a rule
//! that is not ours, or exempt anybody but the daemon's own uid.

mod account;
mod drift;
mod iptables;
mod model;
mod nft;
mod older;
mod probe;
mod saved;
mod tool;

use std::panic::resume_unwind;

pub use account::{AccountError, daemon_uid};
pub use drift::{Drift, DriftKind};
pub use model::{RuleSet, RuleSetError, Shares};
pub use older::Ended;
pub use probe::{Met, Open, probe};
pub use saved::{Saved, save};
pub use tool::{InterceptError, Tool};

pub use crate::config::{Backend, Marks};
use iptables::kernel::Variant;

const ALL: [Backend; 3] = [Backend::Nft, Backend::Iptables, Backend::IptablesLegacy];

impl Backend {
    /// As an admin knows what is loaded.
    pub fn place(self) -> &'static str {
        match self {
            Self::Nft => "table inet imdsfw",
            Self::Iptables => "the iptables chains IMDSFW-*",
            Self::IptablesLegacy => "the iptables-legacy chains IMDSFW-*",
        }
    }

    fn is_there(self) -> bool {
        match Variant::of(self) {
            None => Tool::nft().is_there(),
            Some(variant) => variant.is_there(),
        }
    }

    fn is_loaded(self) -> Result<bool, InterceptError> {
        match Variant::of(self) {
            None => nft::kernel::is_loaded(),
            Some(variant) => variant.is_loaded(),
        }
    }

    /// `None` where it holds no rules of ours.
    fn verify(self, rules: &RuleSet, hurry: Hurry) -> Result<Option<Verified>, InterceptError> {
        Ok(match Variant::of(self) {
            None => nft::kernel::verify(rules, hurry)?
                .map(|(drifts, expected)| (drifts, Afterwards(Some(expected)))),
            Some(variant) => {
                let drifts = variant.verify(rules)?;
                drifts.map(|drifts| (drifts, Afterwards::default()))
            }
        })
    }

    fn missing(self) -> Drift {
        match Variant::of(self) {
            None => nft::kernel::missing(),
            Some(variant) => variant.missing(),
        }
    }

    fn remove(self) -> Result<bool, InterceptError> {
        match Variant::of(self) {
            None => nft::kernel::remove(),
            Some(variant) => variant.remove(),
        }
    }
}

/// What was asked for, else nft, else the iptables that is there.
fn to_load(rules: &RuleSet) -> Backend {
    let there = || ALL.into_iter().find(|backend| backend.is_there());
    rules.backend().or_else(there).unwrap_or(Backend::Nft)
}

/// Those that could hold rules of ours: one that was asked for by name,
/// whatever becomes of it, else those whose tools are there.
fn candidates(asked: Option<Backend>) -> Result<Vec<Backend>, InterceptError> {
    let candidates: Vec<Backend> = match asked {
        Some(backend) => vec![backend],
        None => ALL.into_iter().filter(|it| it.is_there()).collect(),
    };
    match candidates.is_empty() {
        true => Err(InterceptError::Missing(Tool::nft())),
        false => Ok(candidates),
    }
}

/// The back ends that hold rules of ours. One that has its tool but no support
/// in the kernel holds nothing.
fn loaded(asked: Option<Backend>) -> Result<Vec<Backend>, InterceptError> {
    let mut holding = Vec::new();
    let mut failed = None;
    let mut has_answered = false;
    for (backend, answer) in ask(candidates(asked)?) {
        match answer {
            Ok(is_loaded) => {
                has_answered = true;
                holding.extend(is_loaded.then_some(backend));
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) if !has_answered => Err(error),
        _ => Ok(holding),
    }
}

/// Asks all at once whether they hold rules of ours.
fn ask(candidates: Vec<Backend>) -> Vec<(Backend, Result<bool, InterceptError>)> {
    std::thread::scope(|scope| {
        let ask = |backend: Backend| (backend, scope.spawn(move || backend.is_loaded()));
        let asked: Vec<_> = candidates.into_iter().map(ask).collect();
        let answered = asked.into_iter().map(|(backend, answer)| {
            let answer = answer.join().unwrap_or_else(|it| resume_unwind(it));
            (backend, answer)
        });
        answered.collect()
    })
}

/// What [`apply`] would load, as text for the tool that it would run.
pub fn render(rules: &RuleSet) -> String {
    match to_load(rules) {
        Backend::Nft => nft::render(rules),
        Backend::Iptables | Backend::IptablesLegacy => iptables::render(rules),
    }
}

/// What [`apply`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What holds the rules now.
    pub backend: Backend,
    /// Connections older than the rules; `None` when there were rules before.
    pub ended: Option<Ended>,
}

/// Loads the rules, replacing what an earlier run loaded, also by another back
/// end. With nft in one transaction: either all of them are in force
/// afterwards or nothing has changed. With iptables in one for each table and
/// family, the guards first.
///
/// Connections through the daemon survive a second `apply`; the first one
/// destroys the sockets that already talk to a metadata address.
///
/// # Errors
/// [`InterceptError`] when the tool is missing, not permitted or refuses.
pub fn apply(rules: &RuleSet) -> Result<Applied, InterceptError> {
    let backend = to_load(rules);
    // Asked by name, it alone must be there; others are looked for as well.
    let before = loaded(None).or_else(|_| loaded(Some(backend)))?;
    match Variant::of(backend) {
        None => nft::kernel::apply(rules)?,
        Some(variant) => variant.apply(rules)?,
    }
    for other in before.iter().filter(|it| **it != backend) {
        other.remove()?;
    }
    let ended = before.is_empty().then(|| older::end_connections(rules));
    Ok(Applied { backend, ended })
}

/// Loads the rules again by the back end that [`apply`] has used, without a
/// look at any other: for who has to be quick.
///
/// # Errors
/// [`InterceptError`] when the tool is missing, not permitted or refuses.
pub fn restore(rules: &RuleSet, backend: Backend) -> Result<(), InterceptError> {
    match Variant::of(backend) {
        None => nft::kernel::apply(rules),
        Some(variant) => variant.apply(rules),
    }
}

/// Every difference between `rules` and what the kernel holds, in whichever
/// back end holds it; none means that the whole rule set is in force.
///
/// # Errors
/// [`InterceptError`] when the rules cannot be read: neither good nor drifted.
pub fn verify(rules: &RuleSet) -> Result<Vec<Drift>, InterceptError> {
    compare(rules, Hurry::ToRestore).map(|(drifts, _)| drifts)
}

/// The same, for who wants to go on as soon as all is known to be well, while
/// what was loaded to compare with is still taken out of the kernel.
///
/// # Errors
/// Those of [`verify`].
pub fn verify_to_serve(rules: &RuleSet) -> Result<Verified, InterceptError> {
    compare(rules, Hurry::ToServe)
}

/// What somebody waits for most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hurry {
    /// To hear that rules are missing.
    ToRestore,
    /// To hear that all are there.
    ToServe,
}

fn compare(rules: &RuleSet, hurry: Hurry) -> Result<Verified, InterceptError> {
    let likely = to_load(rules);
    let asked = rules.backend();
    // Compared with while the others are looked for and asked.
    let (compared, answers) = std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut others = candidates(asked)?;
            others.retain(|it| *it != likely);
            Ok(ask(others))
        });
        let compared = likely.verify(rules, hurry);
        (
            compared,
            others.join().unwrap_or_else(|it| resume_unwind(it)),
        )
    });
    let holds = |(backend, answer)| matches!(answer, Ok(true)).then_some(backend);
    let others: Vec<Backend> = answers?.into_iter().filter_map(holds).collect();
    let verified = |backend: Backend, it: Option<Verified>| {
        it.unwrap_or_else(|| (vec![backend.missing()], Afterwards::default()))
    };
    let ((mut drifts, afterwards), unexpected) = match (compared, others.split_first()) {
        // It has rules of ours that cannot be compared.
        (Err(error), Some(_)) if likely.is_loaded().unwrap_or(false) => return Err(error),
        (Ok(None) | Err(_), Some((other, rest))) => {
            (verified(*other, other.verify(rules, hurry)?), rest)
        }
        (compared, _) => (verified(likely, compared?), others.as_slice()),
    };
    drifts.extend(unexpected.iter().map(|other| Drift {
        kind: DriftKind::Unexpected,
        place: other.place().to_owned(),
        line: None,
    }));
    Ok((drifts, afterwards))
}

/// The differences, and what is left to be done.
pub type Verified = (Vec<Drift>, Afterwards);

/// What [`verify_to_serve`] has left to be done. Dropped, it waits for that.
#[derive(Debug, Default)]
pub struct Afterwards(
    // Held for what happens when it is dropped.
    #[expect(dead_code)] Option<nft::kernel::Expected>,
);

/// Whether any back end holds rules of ours.
///
/// # Errors
/// [`InterceptError`] when the tool is missing or not permitted.
pub fn are_loaded() -> Result<bool, InterceptError> {
    Ok(!loaded(None)?.is_empty())
}

/// What holds rules of ours; `None` where nothing does, or it cannot be told.
pub fn in_use(rules: &RuleSet) -> Option<Backend> {
    loaded(rules.backend()).ok()?.first().copied()
}

/// Takes our rules, and only ours, out of the kernel; `None`: out of every
/// back end. From then on every user of the host reaches the metadata service
/// directly. Names what held rules.
///
/// # Errors
/// [`InterceptError`] when the tool is missing or not permitted.
pub fn remove(backend: Option<Backend>) -> Result<Vec<Backend>, InterceptError> {
    let holding = loaded(backend)?;
    for backend in &holding {
        backend.remove()?;
    }
    Ok(holding)
}
