//! One test for every back end: the rules loaded, taken out one by one, and
//! read back, in the words of whichever back end it is.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::process::Command;

use imdsfw::ids::Uid;
use imdsfw::intercept::{self, Backend, Drift, RuleSet};

use crate::common::iptables;
use crate::common::net::{Net, families, in_network};
use crate::common::nft;
use crate::common::user::{DAEMON, assert_refused};

/// A back end, in the network of a test.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kernel(pub(crate) Backend);

pub(crate) const NFT: Kernel = Kernel(Backend::Nft);
pub(crate) const IPTABLES: [Kernel; 2] =
    [Kernel(Backend::Iptables), Kernel(Backend::IptablesLegacy)];

/// Runs a test once for each back end, each time in a network of its own.
pub(crate) fn on_each(test: impl Fn(&Net, Kernel) + Copy + Send + 'static) {
    on(&[NFT, IPTABLES[0], IPTABLES[1]], test);
}

/// Runs a test for the variants of iptables.
pub(crate) fn on_iptables(test: impl Fn(&Net, Kernel) + Copy + Send + 'static) {
    on(&IPTABLES, test);
}

fn on(kernels: &[Kernel], test: impl Fn(&Net, Kernel) + Copy + Send + 'static) {
    for kernel in kernels {
        let kernel = *kernel;
        in_network(move |net| {
            // Shown where the test fails.
            println!("with {kernel:?}");
            kernel.assert_there();
            test(net, kernel);
        });
    }
}

/// The rules for both families, exempting [`DAEMON`].
pub(crate) fn rule_set() -> RuleSet {
    let services = families().map(|family| family.service);
    RuleSet::new(&services, 253, Uid(DAEMON.uid)).unwrap()
}

impl Kernel {
    fn assert_there(self) {
        let version = |tool: &str| {
            let output = Command::new(tool).arg("--version").output();
            let output = output.expect("the tests need the packages nftables and iptables");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        match self.0 {
            Backend::Nft => {}
            Backend::Iptables => assert!(
                version("iptables").contains("nf_tables"),
                "the tests need `iptables` to be iptables-nft: update-alternatives --config iptables"
            ),
            Backend::IptablesLegacy => {
                let output = Command::new("iptables-legacy").arg("-S").output().unwrap();
                assert!(
                    output.status.success(),
                    "this kernel has no legacy tables (CONFIG_IP_NF_IPTABLES_LEGACY), so the \
                     rules of iptables-legacy cannot be tested here: {output:?}"
                );
            }
        }
    }

    pub(crate) fn is_nft(self) -> bool {
        self.0 == Backend::Nft
    }

    pub(crate) fn rule_set(self) -> RuleSet {
        rule_set().through(Some(self.0))
    }

    pub(crate) fn apply(self) {
        intercept::apply(&self.rule_set()).unwrap();
    }

    /// The rules alone: what was there before goes on, if they let it.
    pub(crate) fn load(self) {
        self.load_text(&intercept::render(&self.rule_set()));
    }

    /// In place of what is loaded.
    pub(crate) fn load_text(self, text: &str) {
        if self.is_nft() {
            nft::load(text);
        } else {
            intercept::remove(Some(self.0)).unwrap();
            iptables::load_rendered(self.0, text);
        }
    }

    /// The rules alone, but for those whose comment begins with `why`.
    pub(crate) fn load_without(self, why: &str) {
        let comment = format!("comment \"{why}");
        let text = intercept::render(&self.rule_set());
        let kept: Vec<_> = text.lines().filter(|it| !it.contains(&comment)).collect();
        assert!(kept.len() < text.lines().count(), "no rule says {why:?}");
        self.load_text(&(kept.join("\n") + "\n"));
    }

    /// Takes every rule out whose comment begins with `why`.
    pub(crate) fn without(self, why: &str) {
        match self.0 {
            Backend::Nft => nft::delete_commented(why),
            backend => iptables::delete_commented(backend, why),
        }
    }

    pub(crate) fn drift(self) -> Vec<Drift> {
        intercept::verify(&self.rule_set()).unwrap()
    }

    pub(crate) fn drift_lines(self) -> Vec<String> {
        self.drift().iter().map(ToString::to_string).collect()
    }

    /// Everything loaded, ours or not.
    pub(crate) fn everything() -> String {
        let mut text = nft::output(&["-s", "list", "ruleset"]);
        for backend in [Backend::Iptables, Backend::IptablesLegacy] {
            text += &iptables::saved(backend);
        }
        text
    }

    /// That a connection was stopped. iptables knows no reset where packets
    /// come in, so there it may hang.
    #[track_caller]
    pub(crate) fn assert_stopped(self, outcome: io::Result<TcpStream>) {
        match &outcome {
            Err(error) if !self.is_nft() && error.kind() == io::ErrorKind::TimedOut => {}
            _ => assert_refused(outcome),
        }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Backend::Nft => "nft",
            Backend::Iptables => "iptables-nft",
            Backend::IptablesLegacy => "iptables-legacy",
        })
    }
}
