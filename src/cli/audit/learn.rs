//! `imdsfw audit learn`.

use std::process::ExitCode;

use super::{LogArgs, Outcome};
use crate::adoption::learn::{Kind, Learnt, kind_on_this_host};
use crate::audit::reading::Filter;
use crate::cli::print;
use crate::provider::Provider;

/// Print a draft of a policy, from what was asked for and answered.
///
/// Few and general rules, each with the counts behind it. Only accounts of the
/// system's own programs are granted what is more than a routine fact: root,
/// uids below 1000, and accounts that nobody can log in with. What the others
/// asked for stands there as a comment.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imdsfw audit learn > draft.toml && imdsfw check ./draft.toml
  imdsfw audit learn --since 7d --service gitlab-runner")]
pub(super) struct Args {
    #[command(flatten)]
    logs: LogArgs,
    /// Take this account for a program's; may be given again
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// Learn from records since then: a time (UTC), or how long ago
    #[arg(long, value_name = "TIME|7d", value_parser = super::moment)]
    since: Option<String>,
    /// Learn from records before then
    #[arg(long, value_name = "TIME|7d", value_parser = super::moment)]
    until: Option<String>,
}

pub(super) fn run(args: Args) -> Outcome {
    let logs = args.logs.open()?;
    let filter = Filter {
        since: args.since,
        until: args.until,
        ..Filter::default()
    };
    let kind = |uid, user: &str| match args.service.iter().any(|it| it == user) {
        true => Kind::Service,
        false => kind_on_this_host(uid, user),
    };
    let mut learnt = Learnt::new(Provider::Aws);
    let tally = super::read(logs, &filter, &mut |record, _| {
        learnt.add(record, &kind);
        Ok(())
    })?;
    if let Some(tally) = &tally {
        super::say_passed_over(tally);
    }
    if learnt.is_empty() {
        return Err(
            "no read in the log was answered: there is nothing to learn from. With mode = \
             \"observe\" under [policy] everyone is answered as before"
                .into(),
        );
    }
    print(&learnt.to_string())?;
    Ok(ExitCode::SUCCESS)
}
