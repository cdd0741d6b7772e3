// SPDX-License-Identifier: GPL-3.0-or-later
//! With the feature `embed`: builds the helper executable, for the library to include.
//!
//! The helper has to run in an image that holds nothing else, so it is a static program, and it is a program of this very
//! package with a feature that the library does without (`helper`). Cargo cannot express that, hence a cargo within cargo.

use std::env::{self, VarError};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A helper built beforehand, by its path: for builds that cannot run a nested cargo.
const PREBUILT: &str = "ALPY_NETNS_PREBUILT_HELPER";

/// What of the outer build must not reach the inner one: flags, wrappers (clippy is one), profiles and targets.
const OUTER: [&str; 9] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_RUST",
    "CARGO_FEATURE_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_DIR",
    "RUSTC_",
    "RUSTDOC",
    "RUSTFLAGS",
];

/// Small before fast: it is in every user's test executable and in an image.
const PROFILE: [(&str, &str); 6] = [
    ("OPT_LEVEL", "s"),
    ("LTO", "fat"),
    ("CODEGEN_UNITS", "1"),
    ("PANIC", "abort"),
    ("STRIP", "symbols"),
    ("DEBUG", "false"),
];

fn main() {
    for path in ["build.rs", "Cargo.toml", "src"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed={PREBUILT}");
    if env::var_os("CARGO_FEATURE_EMBED").is_none() {
        return;
    }
    let helper = match env::var(PREBUILT) {
        Ok(path) => {
            println!("cargo::rerun-if-changed={path}");
            PathBuf::from(path)
        }
        Err(VarError::NotPresent) => build(),
        Err(error) => panic!("{PREBUILT}: {error}"),
    };
    let bytes = fs::read(&helper).unwrap_or_else(|error| panic!("{}: {error}", helper.display()));
    println!("cargo::rustc-env=ALPY_NETNS_HELPER={}", helper.display());
    println!("cargo::rustc-env=ALPY_NETNS_HELPER_HASH={:032x}", fnv1a(&bytes));
}

#[expect(clippy::disallowed_methods, reason = "a nested cargo, waited for at once")]
fn build() -> PathBuf {
    let variable = |name: &str| env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let target = variable("TARGET");
    let folder = Path::new(&variable("OUT_DIR")).join("helper");

    let mut cargo = Command::new(variable("CARGO"));
    for (name, _) in env::vars_os() {
        let outer =
            |name: &str| OUTER.iter().any(|prefix| name.starts_with(prefix)) || name.ends_with("_RUSTFLAGS");
        if name.to_str().is_some_and(outer) {
            cargo.env_remove(name);
        }
    }
    cargo
        .args([
            "build",
            "--release",
            "--bin",
            "alpy-netns-helper",
            "--no-default-features",
        ])
        .args(["--features", "helper", "--target", &target])
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&folder)
        // Without --target, these flags would reach the procedural macros, which cannot be static.
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    for (key, value) in PROFILE {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
    }
    // The versions are those that were tested, and the sources may be on a read-only checkout.
    if package
        .ancestors()
        .any(|folder| folder.join("Cargo.lock").exists())
    {
        cargo.arg("--locked");
    }
    let status = cargo
        .status()
        .unwrap_or_else(|error| panic!("{cargo:?}: {error}"));
    assert!(
        status.success(),
        "the helper executable did not build ({status}); it needs a static C library (libc6-dev, glibc-static). {PREBUILT} may \
         name one that is built elsewhere"
    );
    folder.join(target).join("release/alpy-netns-helper")
}

/// FNV-1a of 128 bits: short to write down here, and the same on every machine.
fn fnv1a(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
            (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        })
}
