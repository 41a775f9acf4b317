//! What must hold for any bytes whatever, one function for each reader of
//! bytes from outside. The targets in `fuzz/` feed them what a fuzzer makes
//! up, the tests below the seeds that it starts from. Compiled for these two
//! alone, and never part of the program.
//!
//! Each function panics where a property does not hold.

mod files;
mod wire;

pub use files::{audit_tail, config, policy};
pub use wire::{answer, netlink, request, token};

#[cfg(test)]
mod tests {
    use std::path::Path;

    type Target = fn(&[u8]);

    /// So that a seed nobody reads, or a target without seeds, is noticed.
    fn replay(target: &str, run: Target) {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let source = fuzz.join(format!("fuzz_targets/{target}.rs"));
        let source = std::fs::read_to_string(source).unwrap();
        assert!(source.contains(&format!("imdsfw::fuzzing::{target}(")));
        let seeds: Vec<_> = std::fs::read_dir(fuzz.join("seeds").join(target))
            .unwrap()
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        assert!(seeds.len() >= 4, "{target} has {} seeds", seeds.len());
        for seed in &seeds {
            run(seed);
            // What a reader meets while the rest has not arrived.
            run(&seed[..seed.len() / 2]);
        }
    }

    #[test]
    fn the_seeds_of_every_target() {
        let targets: [(&str, Target); 7] = [
            ("answer", super::answer),
            ("audit_tail", super::audit_tail),
            ("config", super::config),
            ("netlink", super::netlink),
            ("policy", super::policy),
            ("request", super::request),
            ("token", super::token),
        ];
        for (target, run) in targets {
            replay(target, run);
        }
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        for kind in ["fuzz_targets", "seeds"] {
            let there = std::fs::read_dir(fuzz.join(kind)).unwrap().count();
            assert_eq!(there, targets.len(), "fuzz/{kind}");
        }
    }
}
