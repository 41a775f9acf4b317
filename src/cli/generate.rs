//! `imdsfw generate`, which packages and `deploy/install.sh` call: manual
//! pages, completions and schemas say what the program itself goes by.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, Outcome};
use crate::diagnose::schema::{Key, json_schema};
use crate::{config, policy};

/// The section of the manual that is for administrators.
const SECTION: &str = "8";
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];

/// Write files that are made from this command line.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw generate man /usr/share/man/man8")]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// The manual, a page for each command.
    Man {
        /// Made where it is not there.
        directory: PathBuf,
    },
    /// Completions for bash, fish and zsh, under the names those look for.
    Completions {
        /// Made where it is not there.
        directory: PathBuf,
    },
    /// JSON Schemas of the config and of policy files, for editors.
    Schema {
        /// Made where it is not there.
        directory: PathBuf,
    },
}

pub(super) fn run(args: Args) -> Outcome {
    let mut cli = Cli::command();
    cli.build();
    let (What::Man { directory } | What::Completions { directory } | What::Schema { directory }) =
        &args.what;
    let written = fs::create_dir_all(directory).and_then(|()| match args.what {
        What::Man { .. } => write_pages(&cli, directory),
        What::Completions { .. } => write_completions(&mut cli, directory),
        What::Schema { .. } => write_schemas(directory),
    });
    written.map_err(|error| format!("cannot write into {}: {error}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// `imdsfw-rules-apply.8`, as git and systemctl name theirs.
fn write_pages(command: &clap::Command, directory: &Path) -> io::Result<()> {
    let page = Man::new(command.clone()).section(SECTION);
    page.render(&mut File::create(directory.join(page.get_filename()))?)?;
    let shown = |it: &&clap::Command| !it.is_hide_set() && it.get_name() != "help";
    command
        .get_subcommands()
        .filter(shown)
        .try_for_each(|subcommand| write_pages(subcommand, directory))
}

fn write_completions(command: &mut clap::Command, directory: &Path) -> io::Result<()> {
    SHELLS.into_iter().try_for_each(|shell| {
        clap_complete::generate_to(shell, command, "imdsfw", directory).map(|_| ())
    })
}

/// From the tables by which the readers themselves go.
fn write_schemas(directory: &Path) -> io::Result<()> {
    let write = |name: &str, title: &str, keys: &[Key]| {
        let schema = format!("{:#}\n", json_schema(title, keys));
        fs::write(directory.join(name), schema)
    };
    write("config.json", "imdsfw.toml", config::KEYS)?;
    write("policy.json", "imdsfw policy", policy::KEYS)
}
