//! What several commands are given: config and policy files, and users.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use nix::unistd;

use crate::config::trusted::Replacement;
use crate::config::{Config, Mode, drop_in_directory, read_policy, read_policy_files};
use crate::diagnose::{Diagnostics, Place, Source, Style, plain_text};
use crate::ids::Uid;
use crate::policy::Draft;

/// Where to read from.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) config: PathBuf,
    /// These policy files alone, unless there are none.
    pub(super) files: Vec<PathBuf>,
    pub(super) replacements: Vec<Replacement>,
}

/// What was read.
pub(super) struct Loaded {
    /// Of the config.
    pub(super) mode: Mode,
    pub(super) sources: Vec<Arc<Source>>,
    /// `None` when any error was recorded.
    pub(super) draft: Option<Draft>,
}

impl Inputs {
    /// Reads everything, also the policy behind a config with errors, so that
    /// all errors come at once.
    pub(super) fn load(&self, found: &mut Diagnostics) -> Loaded {
        let config = Config::survey(&self.config, &self.replacements, found);
        self.refuse_strays(&config, found);
        let sources = if self.files.is_empty() {
            read_policy(&config, &self.replacements, found)
        } else {
            read_policy_files(&self.files, found)
        };
        let draft = Draft::parse(&sources, config.provider, config.policy.default, found);
        Loaded {
            mode: config.policy.mode,
            sources,
            draft,
        }
    }

    /// A replacement that stands in for nothing would be checked by nobody.
    fn refuse_strays(&self, config: &Config, found: &mut Diagnostics) {
        let drop_ins = drop_in_directory(&self.config);
        for Replacement { installed, .. } in &self.replacements {
            let is_read = *installed == self.config
                || installed.extension().is_some_and(|it| it == "toml")
                    && installed.parent().is_some_and(|parent| {
                        parent == drop_ins
                            || config.policy.directories.iter().any(|it| it == parent)
                    });
            if !is_read {
                found.error(
                    Place::of_file(installed.to_string_lossy()),
                    "`--replace` names a file that would not be read from there",
                    "expected the config file, or a *.toml in its .d or a policy directory",
                );
            }
        }
    }
}

/// Shows findings to people.
pub(super) fn show(found: &Diagnostics) {
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let style = if colours {
        Style::Coloured
    } else {
        Style::Plain
    };
    eprint!("{}", found.render(style));
}

/// The uid of a `NAME|UID`; `None` where no account has the name.
pub(super) fn uid_of(user: &str) -> Result<Option<Uid>, String> {
    if let Ok(uid) = user.parse() {
        return Ok(Some(Uid(uid)));
    }
    match unistd::User::from_name(user) {
        Ok(account) => Ok(account.map(|account| Uid(account.uid.as_raw()))),
        Err(error) => Err(format!(
            "the name service could not look up {}: {}; give a uid instead",
            plain_text(user),
            error.desc()
        )),
    }
}
