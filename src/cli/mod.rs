//! Words in, words out: one file per subcommand. Nothing here decides
//! anything; it reads arguments, calls the module that does, and prints.

mod adoption;
mod audit;
mod bypass;
mod check;
mod demo;
mod doctor;
mod explain;
mod generate;
mod grant;
mod inputs;
mod lockdown;
mod names;
mod orders;
mod reload;
mod rules;
mod run;
mod sim;
mod status;
mod test;
mod top;
mod witness;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::diagnose::{Style, plain_text, wrap};

/// A firewall between the users of a host and its instance metadata service.
#[derive(Parser)]
#[command(name = "imdsfw", version, max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    Run(run::Args),
    Rules(rules::Args),
    Check(check::Args),
    Explain(explain::Args),
    Test(test::Args),
    Doctor(doctor::Args),
    Audit(audit::Args),
    Top(top::Args),
    Enable(adoption::Enable),
    Confirm(adoption::Confirm),
    Enforce(adoption::Enforce),
    Disable(adoption::Disable),
    Status(status::Args),
    Reload(reload::Args),
    Rollback(reload::RollbackArgs),
    Grant(grant::Args),
    Revoke(grant::RevokeArgs),
    Lockdown(lockdown::Args),
    Bypass(bypass::Args),
    Sim(sim::Args),
    Witness(witness::Args),
    #[command(hide = true)]
    Generate(generate::Args),
    #[command(hide = true)]
    Names(names::Args),
    #[command(hide = true)]
    Undo(adoption::Undo),
    #[command(hide = true)]
    Detach(adoption::Detach),
}

/// `--config`, for every command that reads one.
#[derive(Args, Debug)]
struct ConfigArg {
    /// The config file; `NAME.d/*.toml` beside it is read after it.
    #[arg(long, value_name = "FILE", default_value = crate::config::DEFAULT_PATH)]
    config: PathBuf,
}

impl ConfigArg {
    /// Reads the config, or says everything that is wrong with it.
    fn load(&self) -> Result<Config, String> {
        Config::load(&self.config)
            .map_err(|found| format!("the config is refused\n{}", found.render(Style::Plain)))
    }
}

/// What a subcommand ends with. The error text stands alone: what happened,
/// where, and what to do.
type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

/// Runs the command line this process was started with.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(args) => demo::run(args),
        Command::Run(args) => run::run(args),
        Command::Rules(args) => rules::run(args),
        Command::Check(args) => check::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Test(args) => test::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Top(args) => top::run(args),
        Command::Enable(args) => adoption::enable(args),
        Command::Confirm(args) => adoption::confirm(args),
        Command::Enforce(args) => adoption::enforce(args),
        Command::Disable(args) => adoption::disable(args),
        Command::Status(args) => status::run(args),
        Command::Reload(args) => reload::run(args),
        Command::Rollback(args) => reload::rollback(args),
        Command::Grant(args) => grant::run(args),
        Command::Revoke(args) => grant::revoke(args),
        Command::Lockdown(args) => lockdown::run(args),
        Command::Bypass(args) => bypass::run(args),
        Command::Sim(args) => sim::run(args),
        Command::Witness(args) => witness::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Names(args) => names::run(args),
        Command::Undo(args) => adoption::undo(args),
        Command::Detach(args) => adoption::detach(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{}", fold(&format!("imdsfw: {error}")));
        ExitCode::FAILURE
    })
}

/// For what stays in the foreground: the service manager has the time.
fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .without_time()
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .init();
}

/// Breaks lines of more than 80 columns at their spaces. What was laid out
/// before, such as the findings in a file, is left as it is.
fn fold(text: &str) -> String {
    let folded: Vec<_> = text
        .lines()
        .map(|line| {
            let laid_out = line.starts_with(' ') || line.starts_with("-->");
            match laid_out || line.chars().count() <= 80 {
                true => line.to_owned(),
                false => wrap(line, 78).replace('\n', "\n  "),
            }
        })
        .collect();
    folded.join("\n")
}

/// Lines of at most 80 columns, the first of them behind `mark`.
fn paragraph(mark: &str, text: &str) -> String {
    let indent = " ".repeat(mark.len());
    let wrapped = wrap(&plain_text(text), 80 - mark.len());
    wrapped
        .lines()
        .enumerate()
        .map(|(at, line)| format!("{}{line}\n", if at == 0 { mark } else { &indent }))
        .collect()
}

/// Prints to standard output. A reader that has seen enough, such as `head`,
/// is no error.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_folded_and_the_lay_of_findings_is_kept() {
        let long = "imdsfw: port 253 is taken by another program; find it with `ss -ltnp` and stop it, or choose another port";
        let snippet = format!("4 | x = 1\n  |{}^ expected 2", " ".repeat(90));
        let folded = fold(&format!("{long}\n{snippet}"));
        assert!(folded.ends_with(&snippet), "{folded}");
        assert_eq!(
            folded.split_whitespace().collect::<Vec<_>>().join(" "),
            format!("{long} {snippet}")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        );
        assert!(
            folded
                .lines()
                .take(2)
                .all(|line| line.chars().count() <= 80),
            "{folded}"
        );
        assert!(folded.starts_with("imdsfw: port 253 is taken"));
    }
}
