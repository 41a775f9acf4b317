//! A table as nft reads it.

use std::fmt;

pub(super) enum State {
    Active,
    Dormant,
}

pub(super) struct Table<'a> {
    pub(super) name: &'a str,
    pub(super) state: State,
    pub(super) sets: &'static [(&'static str, &'static str)],
    pub(super) chains: Vec<Chain>,
}

pub(super) struct Chain {
    pub(super) name: String,
    /// The hook line of a base chain.
    pub(super) hook: Option<String>,
    pub(super) rules: Vec<Rule>,
}

pub(super) struct Rule {
    pub(super) statement: String,
    /// For the admin; the kernel keeps at most 127 bytes.
    pub(super) why: &'static str,
}

impl Chain {
    pub(super) fn regular(name: impl Into<String>, rules: Vec<Rule>) -> Self {
        Self {
            name: name.into(),
            hook: None,
            rules,
        }
    }

    /// A base chain; the last word of its name is the hook's. Its policy
    /// accepts: what none of our rules speaks of is not ours to judge.
    pub(super) fn base(name: &str, kind: &str, priority: i32, rules: Vec<Rule>) -> Self {
        let hook = name.rsplit('_').next().unwrap_or(name);
        Self {
            name: name.into(),
            hook: Some(format!(
                "type {kind} hook {hook} priority {priority}; policy accept;"
            )),
            rules,
        }
    }
}

impl Rule {
    pub(super) fn new(statement: impl Into<String>, why: &'static str) -> Self {
        Self {
            statement: statement.into(),
            why,
        }
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.name)?;
        if let State::Dormant = self.state {
            writeln!(f, "\tflags dormant")?;
        }
        for (name, body) in self.sets {
            writeln!(f, "\tset {name} {{\n{body}\t}}\n")?;
        }
        for (at, chain) in self.chains.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            writeln!(f, "\tchain {} {{", chain.name)?;
            if let Some(hook) = &chain.hook {
                writeln!(f, "\t\t{hook}")?;
            }
            for Rule { statement, why } in &chain.rules {
                writeln!(f, "\t\t{statement} comment \"{why}\"")?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}
