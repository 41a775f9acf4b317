//! `imdsfw audit report` as its readers meet it: the file, and the page in a
//! browser.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice
)]

#[path = "../common/logs.rs"]
mod logs;

mod browser;
mod file;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_imdsfw");

/// A day of so many records, and where its report goes.
struct Day {
    dir: tempfile::TempDir,
}

impl Day {
    fn new(records: u64) -> Self {
        let day = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let mut file = BufWriter::new(File::create(day.log()).unwrap());
        logs::day(records, &mut file).unwrap();
        file.flush().unwrap();
        day
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }

    fn page(&self) -> PathBuf {
        self.dir.path().join("report.html")
    }

    fn report(&self) -> String {
        let output = report(&self.log(), &["-o", self.page().to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        std::fs::read_to_string(self.page()).unwrap()
    }
}

fn report(log: &Path, words: &[&str]) -> Output {
    Command::new(BINARY)
        .args(["audit", "report"])
        .args(words)
        .arg(log)
        .output()
        .unwrap()
}
