//! Words in, words out: one file per subcommand. Nothing here decides
//! anything; it reads arguments, calls the module that does, and prints.

mod check;
mod demo;
mod explain;
mod inputs;
mod rules;
mod run;
mod sim;
mod test;
mod witness;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::diagnose::Style;

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
    Sim(sim::Args),
    Witness(witness::Args),
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
        Command::Sim(args) => sim::run(args),
        Command::Witness(args) => witness::run(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("imdsfw: {error}");
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

/// Prints to standard output. A reader that has seen enough, such as `head`,
/// is no error.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
