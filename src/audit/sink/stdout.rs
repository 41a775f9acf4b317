//! Records on standard output, a line each, for who runs the daemon in a
//! container or a supervisor that reads it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use super::super::lines::Lines;
use super::deliver::Output;
use super::render::render;
use crate::config::sinks::Format;

pub(super) struct Stdout {
    out: File,
    format: Format,
}

impl Stdout {
    pub(super) fn open(format: Format) -> io::Result<Self> {
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self {
            out: out.into(),
            format,
        })
    }
}

impl Output for Stdout {
    fn send(&mut self, lines: &Arc<Lines>, done: &mut usize) -> io::Result<()> {
        for line in lines.iter().skip(*done) {
            let mut whole = render(line.bytes, self.format).into_owned();
            whole.push(b'\n');
            self.out.write_all(&whole)?;
            *done += 1;
        }
        Ok(())
    }
}
