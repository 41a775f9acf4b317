//! Paths as a policy writes them, for those who look for requests.

use super::pattern::Pattern;
use crate::provider::{Class, Provider};
use crate::request::CanonicalPath;

/// A pattern, or a set of the provider's.
#[derive(Clone, Debug)]
pub struct PathFilter {
    class: Option<Class>,
    patterns: Vec<Pattern>,
}

impl PathFilter {
    /// Reads `/meta-data/tags/**`, `@credentials` or `@role`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(provider: Provider, text: &str) -> Result<Self, String> {
        let pattern = |text: &str| {
            Pattern::parse(provider, text).map_err(|it| format!("{}; {}", it.message, it.expected))
        };
        let Some(name) = text.strip_prefix('@') else {
            return Ok(Self {
                class: None,
                patterns: vec![pattern(text)?],
            });
        };
        let class = Class::ALL.into_iter().find(|class| class.as_str() == name);
        let set = provider
            .path_sets()
            .iter()
            .find(|(known, _)| *known == name);
        if class.is_none() && set.is_none() {
            let classes = Class::ALL.iter().map(|class| class.as_str());
            let sets = provider.path_sets().iter().map(|(name, _)| *name);
            let known: Vec<_> = classes.chain(sets).map(|it| format!("@{it}")).collect();
            return Err(format!("expected one of {}", known.join(", ")));
        }
        let patterns = set.map_or(&[][..], |(_, patterns)| patterns).iter();
        Ok(Self {
            class,
            patterns: patterns.map(|it| pattern(it)).collect::<Result<_, _>>()?,
        })
    }

    /// Whether the path is among them.
    pub fn covers(&self, path: &CanonicalPath) -> bool {
        let segments: Vec<_> = path.segments().collect();
        self.class == Some(path.class()) || self.patterns.iter().any(|it| it.matches(&segments))
    }
}
