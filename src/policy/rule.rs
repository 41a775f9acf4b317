//! One rule, and whether it speaks of a request.

use std::sync::Arc;

use super::Action;
use super::names::{Asker, NameId, Names, Truth};
use super::principal::Principal;
use super::sets::PathSet;
use crate::diagnose::Place;
use crate::provider::Class;
use crate::request::CanonicalPath;

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: Arc<str>,
    pub(super) action: Action,
    pub(super) who: Vec<Principal>,
    pub(super) except: Vec<Principal>,
    pub(super) paths: PathSet,
    pub(super) imdsv1: bool,
    pub(super) enforce: bool,
    pub(super) place: Place,
}

/// A path, cut up once for all rules.
pub(super) struct JudgedPath<'p> {
    pub(super) class: Class,
    pub(super) resource: &'p str,
    pub(super) segments: Vec<&'p str>,
}

impl<'p> JudgedPath<'p> {
    pub(super) fn new(path: &'p CanonicalPath) -> Self {
        Self {
            class: path.class(),
            resource: path.resource(),
            segments: path.segments().collect(),
        }
    }
}

/// What a rule says of a request: that it decides, or the first condition
/// that keeps it from deciding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status<'r> {
    Decides,
    OtherPath,
    OtherCaller,
    Excepted(&'r Principal),
    /// It hangs on a name that nobody could look up.
    Undecidable(NameId),
}

impl Rule {
    /// The one place where a rule is held against a request.
    pub(super) fn status(&self, asker: &Asker, path: &JudgedPath, names: &Names) -> Status<'_> {
        if !self.paths.covers(path) {
            return Status::OtherPath;
        }
        let who = any_covers(&self.who, asker, names);
        if who == Covered::No {
            return Status::OtherCaller;
        }
        let except = any_covers(&self.except, asker, names);
        match (who, except) {
            (_, Covered::By(principal)) => Status::Excepted(principal),
            (Covered::Undecidable(name), _) | (_, Covered::Undecidable(name)) => {
                Status::Undecidable(name)
            }
            _ => Status::Decides,
        }
    }
}

#[derive(PartialEq, Eq)]
enum Covered<'r> {
    By(&'r Principal),
    No,
    Undecidable(NameId),
}

/// One certain match outweighs any number of unknown ones.
fn any_covers<'r>(principals: &'r [Principal], asker: &Asker, names: &Names) -> Covered<'r> {
    let mut unknown = Covered::No;
    for principal in principals {
        match (principal.covers(asker, names), principal) {
            (Truth::Yes, _) => return Covered::By(principal),
            (Truth::Unknown, Principal::Name(name)) if unknown == Covered::No => {
                unknown = Covered::Undecidable(*name);
            }
            _ => {}
        }
    }
    unknown
}
