//! One rule, and whether it speaks of a request.

use std::sync::Arc;

use super::Action;
use super::names::{Asker, NameId, Names, Truth};
use super::narrow::{Methods, Narrow};
use super::principal::Principal;
use super::sets::PathSet;
use crate::diagnose::Place;
use crate::ids::Borrower;
use crate::provider::Class;
use crate::request::{CanonicalPath, ReadMethod};

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: Arc<str>,
    pub(super) action: Action,
    pub(super) who: Vec<Principal>,
    pub(super) except: Vec<Principal>,
    pub(super) paths: PathSet,
    pub(super) methods: Methods,
    /// Where it asks for more than that.
    pub(super) narrow: Option<Box<Narrow>>,
    pub(super) imdsv1: bool,
    pub(super) enforce: bool,
    pub(super) place: Place,
}

/// What is asked for, cut up once for all rules.
pub(super) struct JudgedPath<'p> {
    pub(super) method: ReadMethod,
    pub(super) class: Class,
    pub(super) resource: &'p str,
    pub(super) segments: Vec<&'p str>,
}

impl<'p> JudgedPath<'p> {
    pub(super) fn new(method: ReadMethod, path: &'p CanonicalPath) -> Self {
        Self {
            method,
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
    OtherMethod,
    OtherCaller,
    OtherUnit,
    OtherProgram,
    OtherLogin,
    Excepted(&'r Principal),
    /// It hangs on what nobody could look up.
    Undecidable(NameId),
}

impl Rule {
    /// The one place where a rule is held against a request.
    pub(super) fn status(&self, asker: &Asker, path: &JudgedPath, names: &Names) -> Status<'_> {
        if !self.paths.covers(path) {
            return Status::OtherPath;
        }
        if !self.methods.contain(path.method) {
            return Status::OtherMethod;
        }
        // Whom a uid was lent to keeps it out, and never lets it in.
        let nobody: &[Borrower] = &[];
        let (borrowers, excepted) = match self.action {
            Action::Deny => (asker.borrowers, nobody),
            Action::Allow => (nobody, asker.borrowers),
        };
        let who = any_covers(&self.who, asker, borrowers, names);
        if who == Covered::No {
            return Status::OtherCaller;
        }
        let narrow = match &self.narrow {
            None => Status::Decides,
            Some(narrow) => narrow.status(asker, names),
        };
        if !matches!(narrow, Status::Decides | Status::Undecidable(_)) {
            return narrow;
        }
        let except = any_covers(&self.except, asker, excepted, names);
        match (who, except) {
            (_, Covered::By(principal)) => Status::Excepted(principal),
            (Covered::Undecidable(name), _) | (_, Covered::Undecidable(name)) => {
                Status::Undecidable(name)
            }
            _ => narrow,
        }
    }
}

#[derive(PartialEq, Eq)]
enum Covered<'r> {
    By(&'r Principal),
    No,
    Undecidable(NameId),
}

/// One certain match, or one of `borrowers`, outweighs any number of
/// unknown ones.
fn any_covers<'r>(
    principals: &'r [Principal],
    asker: &Asker,
    borrowers: &[Borrower],
    names: &Names,
) -> Covered<'r> {
    let mut unknown = Covered::No;
    for principal in principals {
        if principal.may_cover(borrowers) {
            return Covered::By(principal);
        }
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
