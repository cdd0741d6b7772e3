// SPDX-License-Identifier: GPL-3.0-or-later
//! What the process writes: logged line by line as it comes, kept in files, its end kept for error messages.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt};
use tracing::{debug, warn};

/// What has been written so far, as far as anybody asks.
#[derive(Debug, Default)]
pub(crate) struct Output {
    stderr_tail: Mutex<VecDeque<String>>,
    dump_errors: AtomicUsize,
}

impl Output {
    /// The last lines of stderr.
    pub(crate) fn stderr_tail(&self) -> String {
        let tail = self.stderr_tail.lock().unwrap_or_else(PoisonError::into_inner);
        Vec::from_iter(tail.iter().map(String::as_str)).join("\n")
    }

    /// How often a capture was given up.
    pub(crate) fn dump_errors(&self) -> usize {
        self.dump_errors.load(Ordering::Acquire)
    }

    /// Takes all of stdout.
    pub(crate) async fn read_stdout(&self, pipe: impl AsyncRead + Unpin, copy: Option<File>) {
        read_lines(pipe, copy, |line| debug!(target: "alpy_qemu::stdout", "{line}")).await;
    }

    /// Takes all of stderr.
    pub(crate) async fn read_stderr(&self, pipe: impl AsyncRead + Unpin, copy: Option<File>) {
        const KEPT: usize = 20;
        read_lines(pipe, copy, |line| {
            debug!(target: "alpy_qemu::stderr", "{line}");
            // QEMU, net/dump.c: the only sign that a capture has ended before its time.
            if line.contains("network dump write error") {
                self.dump_errors.fetch_add(1, Ordering::AcqRel);
            }
            let mut tail = self.stderr_tail.lock().unwrap_or_else(PoisonError::into_inner);
            if tail.len() == KEPT {
                tail.pop_front();
            }
            tail.push_back(line.to_owned());
        })
        .await;
    }
}

async fn read_lines(mut pipe: impl AsyncRead + Unpin, mut copy: Option<File>, mut line: impl FnMut(&str)) {
    /// A line that grows longer is cut here, so that memory is bounded.
    const LONGEST: usize = 16 << 10;
    let mut pending = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let got = match pipe.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(length) => &chunk[..length],
        };
        if let Some(Err(error)) = copy.as_mut().map(|file| file.write_all(got)) {
            warn!(%error, "output of QEMU no longer written to its file");
            copy = None;
        }
        for &byte in got {
            if byte != b'\n' {
                pending.push(byte);
            }
            if byte == b'\n' || pending.len() == LONGEST {
                line(String::from_utf8_lossy(&pending).trim_end_matches('\r'));
                pending.clear();
            }
        }
    }
    if !pending.is_empty() {
        line(&String::from_utf8_lossy(&pending));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        read_lines(bytes, None, |line| lines.push(line.to_owned())).await;
        lines
    }

    #[tokio::test]
    async fn cuts_output_into_lines() {
        assert_eq!(lines(b"one\r\n\ntwo\xff").await, ["one", "", "two\u{fffd}"]);
        assert!(lines(b"").await.is_empty());
    }

    #[tokio::test]
    async fn bounds_a_line_without_end() {
        let lengths: Vec<_> = lines(&[b'x'; 40_000]).await.iter().map(String::len).collect();
        assert_eq!(lengths, [16_384, 16_384, 7_232]);
    }

    #[tokio::test]
    async fn keeps_the_last_lines_and_counts_dump_errors() {
        let output = Output::default();
        let text: String = (0..30).map(|number| format!("line {number}\n")).collect();
        output.read_stderr(text.as_bytes(), None).await;
        assert_eq!(output.dump_errors(), 0);
        output
            .read_stderr(&b"qemu: network dump write error - stopping dump\n"[..], None)
            .await;
        assert_eq!(output.dump_errors(), 1);
        let tail = output.stderr_tail();
        assert_eq!(tail.lines().count(), 20);
        assert!(tail.starts_with("line 11\n"), "{tail}");
        assert!(tail.ends_with("stopping dump"), "{tail}");
    }
}
