//! Which files the daemon reaches, and which ports (landlock(7)).

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};

use super::{Extent, Reach};

/// The newest that is asked for (Linux 6.12). What an older kernel does not
/// know of it goes unrestricted there.
const ASKED: ABI = ABI::V6;

pub(super) fn restrict(reach: &Reach) -> Result<Extent, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let append = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg;
    let write = append | AccessFs::ReadDir | AccessFs::RemoveFile;
    let list: BitFlags<AccessFs> = AccessFs::ReadDir.into();
    let connected = |port: &u16| NetPort::new(*port, AccessNet::ConnectTcp);
    let ports = reach.ports.iter().map(connected);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ASKED))?
        .handle_access(AccessNet::from_all(ASKED))?
        .scope(Scope::from_all(ASKED))?
        .create()?
        .add_rules(path_beneath_rules(&reach.readable, read))?
        .add_rules(path_beneath_rules(&reach.listable, list))?
        .add_rules(path_beneath_rules(&reach.appendable, append))?
        .add_rules(path_beneath_rules(&reach.writable, write))?
        .add_rules(ports.map(Ok::<_, RulesetError>))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Extent::Full,
        RulesetStatus::PartiallyEnforced => Extent::Partial,
        RulesetStatus::NotEnforced => Extent::None,
    })
}
