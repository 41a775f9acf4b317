//! Tampering with the rules of iptables, and that `verify` names it.

use crate::common::iptables::{restore, run, tools};
use crate::kernel::{Kernel, on_iptables};

/// Our rules as `iptables-save` prints them, by table.
fn rules(tool: &str) -> Vec<(String, String)> {
    let output = std::process::Command::new(format!("{tool}-save"))
        .output()
        .unwrap();
    let mut table = String::new();
    let mut rules = Vec::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_owned();
        } else if line.contains(" IMDSFW-") {
            rules.push((table.clone(), line.to_owned()));
        }
    }
    rules
}

/// What `verify` says when this line of `iptables-save` is gone.
fn missing(tool: &str, table: &str, line: &str) -> String {
    let (chain, rule) = line.strip_prefix("-A ").unwrap().split_once(' ').unwrap();
    format!("missing: {tool} {table} {chain}: {rule}")
}

/// Every second one at once, then the others: as many loads as rules would
/// take minutes.
#[test]
fn each_rule_that_was_deleted_is_named_and_no_other() {
    on_iptables(|_, kernel| {
        for odd in [0, 1] {
            kernel.apply();
            assert_eq!(kernel.drift_lines(), [""; 0]);
            let mut expected = Vec::new();
            for tool in tools(kernel.0) {
                let all = rules(tool);
                assert!(all.len() > 30, "{}", all.len());
                for table in ["mangle", "filter", "nat"] {
                    let gone: Vec<_> = all
                        .iter()
                        .enumerate()
                        .filter(|(at, (of, _))| at % 2 == odd && of == table)
                        .map(|(_, (_, line))| line)
                        .collect();
                    expected.extend(gone.iter().map(|line| missing(tool, table, line)));
                    let commands: String = gone
                        .iter()
                        .map(|line| line.replacen("-A ", "-D ", 1) + "\n")
                        .collect();
                    restore(tool, &format!("*{table}\n{commands}COMMIT\n"));
                }
            }
            let mut drift = kernel.drift_lines();
            drift.sort();
            expected.sort();
            assert_eq!(drift, expected);
        }
    });
}

#[test]
fn whatever_was_added_or_changed_is_named() {
    on_iptables(|_, kernel| {
        kernel.apply();
        let [tool, v6] = tools(kernel.0);
        run(&format!(
            "{tool} -t nat -I IMDSFW-OUTPUT -m owner --uid-owner 4001 -j ACCEPT
             {tool} -A OUTPUT -j IMDSFW-OUTPUT
             {tool} -t mangle -I POSTROUTING 1 -s 10.0.0.1 -g IMDSFW-LISTENER
             {tool} -N IMDSFW-EXTRA
             {v6} -t mangle -R IMDSFW-INPUT 1 -j DROP"
        ));
        let drift = kernel.drift_lines();
        for line in [
            format!("unexpected: {tool} nat IMDSFW-OUTPUT: -m owner --uid-owner 4001 -j ACCEPT"),
            format!("unexpected: {tool} filter OUTPUT: -j IMDSFW-OUTPUT"),
            format!("unexpected: {tool} mangle POSTROUTING: -s 10.0.0.1/32 -g IMDSFW-LISTENER"),
            format!("unexpected: {tool} filter IMDSFW-EXTRA"),
            format!("unexpected: {v6} mangle IMDSFW-INPUT: -j DROP"),
        ] {
            assert!(drift.contains(&line), "{line}: {drift:#?}");
        }
        kernel.apply();
        assert_eq!(kernel.drift_lines(), [""; 0]);
    });
}

#[test]
fn nothing_loaded_is_one_difference() {
    on_iptables(|_, kernel| {
        let [tool, _] = tools(kernel.0);
        assert_eq!(
            kernel.drift_lines(),
            [format!("missing: {tool} chains IMDSFW-*")]
        );
    });
}

#[test]
fn verifying_leaves_nothing_behind_and_clears_up_after_killed_runs() {
    on_iptables(|_, kernel| {
        kernel.apply();
        let before = Kernel::everything();
        let [tool, _] = tools(kernel.0);
        // Above any process id that the kernel gives.
        run(&format!("{tool} -N IMDSFWX4194999-OUTPUT"));
        assert_eq!(kernel.drift_lines(), [""; 0]);
        assert_eq!(Kernel::everything(), before);
    });
}
