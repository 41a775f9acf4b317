//! What became of an attack, with the defence and without: for the tests that
//! try both, and for whoever runs `.ci/attacks`, which collects this.

use std::fmt::Display;
use std::thread;

/// To be called on the test's own thread, whose name is the test's, once both
/// have been seen.
pub(crate) fn shown(attack: &str, defended: impl Display, undefended: impl Display) {
    let thread = thread::current();
    let test = thread.name().expect("a test's own thread has its name");
    println!("attack: {attack}\n  test: {test}\n  on:   {defended}\n  off:  {undefended}");
}
