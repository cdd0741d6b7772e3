// SPDX-License-Identifier: GPL-3.0-or-later
use std::fs;

use alpy_need::need;
use alpy_netns::{HELPER, HELPER_HASH, HELPER_PATH, image_tar};

use crate::lab::program;

/// Every user's test executable has the helper in it. Most of it is netlink's code and the standard library, whose size goes with the
/// compiler: 2,507,672 bytes by rustc 1.85 and 2,432,992 by 1.95. A tenth more leaves room for other compilers and C libraries, but not for
/// another dependency of that size or for symbols that were not stripped.
const LARGEST: usize = 2_750_000;

#[test]
fn the_helper_is_small_and_has_a_hash() {
    assert!(HELPER.len() <= LARGEST, "{} bytes", HELPER.len());
    assert!(
        HELPER_HASH.len() == 32 && HELPER_HASH.bytes().all(|c| c.is_ascii_hexdigit()),
        "{HELPER_HASH}"
    );
}

#[test]
fn the_image_holds_one_executable_that_needs_nothing_else() {
    need!(user_namespaces);
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("image.tar");
    let root = folder.path().join("root");
    fs::write(&archive, image_tar()).unwrap();
    fs::create_dir(&root).unwrap();
    let tar = program("tar")
        .args(["-xpf"])
        .arg(&archive)
        .arg("-C")
        .arg(&root)
        .output()
        .unwrap();
    assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
    let names: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, [HELPER_PATH.trim_start_matches('/')]);
    assert!(fs::read(root.join(&names[0])).unwrap() == HELPER);
    // Nothing else in its root: no loader, no library.
    let version = program("unshare")
        .args(["-Ur", "--root"])
        .arg(&root)
        .args([HELPER_PATH, "--version"])
        .output()
        .unwrap();
    let expected = format!("alpy-netns-helper {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&version.stdout), expected, "{version:?}");
}
