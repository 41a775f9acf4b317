//! A log of a test's own records, and the program asked about it.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_imdsfw");

/// Colours, a title, a bell, C1 controls, writing direction, an HTML tag.
pub(crate) const HOSTILE: &str = "\u{1b}[31mred\u{1b}]0;t\u{7}\u{9b}2J\u{202e}\r\n<script>\"x\",=1";

pub(crate) struct Log {
    pub(crate) dir: tempfile::TempDir,
}

impl Log {
    pub(crate) fn new(records: &[Value]) -> Self {
        let log = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        log.append(records);
        log
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }

    pub(crate) fn append(&self, records: &[Value]) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.path())
            .unwrap();
        for record in records {
            writeln!(file, "{record}").unwrap();
        }
    }

    /// What the program says of it.
    pub(crate) fn ask(&self, command: &[&str], words: &[&str]) -> Output {
        Command::new(BINARY)
            .args(command)
            .args(words)
            .arg(self.path())
            .output()
            .unwrap()
    }
}
