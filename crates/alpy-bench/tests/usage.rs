// SPDX-License-Identifier: GPL-3.0-or-later
//! Arguments that the program refuses. `cargo xtask bench --smoke` runs what it measures.

use std::path::PathBuf;
use std::process::{Command, Output};

/// The program beside this test. xtask runs copies of both, so Cargo's `CARGO_BIN_EXE_alpy-bench` would name another file.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("this test's own path");
    let folder = test.ancestors().nth(2).expect("it is in deps/");
    folder.join("alpy-bench")
}

#[expect(clippy::disallowed_methods, reason = "the program ends at once, by itself")]
fn bench(arguments: &[&str]) -> Output {
    Command::new(program())
        .args(arguments)
        .output()
        .expect("the program starts")
}

#[test]
fn names_the_argument_that_it_refuses() {
    for (arguments, expected) in [
        (&["qmp"][..], "usage: alpy-bench AREA RUNS LINKS SIZE"),
        (&["disk", "1", "2", "smoke"], "no such area: disk"),
        (
            &["qmp", "1", "2", "small"],
            "the size is full or smoke, not small",
        ),
        (&["qmp", "one", "2", "smoke"], "Error: one"),
        (&["qmp", "1", "2,x", "smoke"], "Error: 2,x"),
    ] {
        let output = bench(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?} printed a figure");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}
