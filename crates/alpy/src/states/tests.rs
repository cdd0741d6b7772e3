// SPDX-License-Identifier: GPL-3.0-or-later
//! States without machines: a few files each.

use std::sync::atomic::{AtomicU32, Ordering};

use alpy_qemu::Identity;
use futures_util::future::join_all;

use super::*;

fn store(folder: &Path, limit_mib: u64) -> Store {
    SavedStates::at(folder.join("states"))
        .limit_mib(limit_mib)
        .open()
        .unwrap()
}

fn key(text: &str) -> Key {
    Key::new(format!("a machine {text}\n"))
}

/// Builds a state of this many MiB, and gives back its folder.
async fn build(store: &Store, key: &Key, mib: usize) -> PathBuf {
    let lock = store.lock_alone(key).await.unwrap();
    build_with(store, key, mib, lock).await.folder
}

async fn build_with(store: &Store, key: &Key, mib: usize, lock: Lock) -> Held {
    let unfinished = store
        .begin(key, store.unfinished_name(key, "run-1"), 0, lock)
        .unwrap();
    fs::write(unfinished.folder().join("memory"), vec![1; mib << 20]).unwrap();
    fs::write(unfinished.folder().join("devices"), "devices").unwrap();
    store.finish(unfinished, "7.2.0".to_owned()).await.unwrap()
}

/// What is wrong with a state; nothing if it is good.
fn wrong(store: &Store, key: &Key) -> Option<String> {
    match store.verify(key) {
        Ok(manifest) => {
            assert_eq!(manifest.qemu, "7.2.0");
            None
        }
        Err(reason) => Some(reason),
    }
}

/// All names in the folder.
fn names(store: &Store) -> Vec<String> {
    let entries = fs::read_dir(&store.folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_state_that_was_built_is_good_and_no_other_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), 100);
    assert_eq!(wrong(&store, &key("a")).unwrap(), "there is none yet");
    build(&store, &key("a"), 1).await;
    assert_eq!(wrong(&store, &key("a")), None);
    assert_eq!(wrong(&store, &key("b")).unwrap(), "there is none yet");
    // One that got the other's name would not be taken for it.
    fs::rename(
        store.folder.join(&key("a").name),
        store.folder.join(&key("b").name),
    )
    .unwrap();
    let reason = wrong(&store, &key("b")).unwrap();
    assert_eq!(reason, "it is that of another machine");
}

#[tokio::test]
async fn any_byte_that_is_changed_is_noticed_in_each_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), 100);
    let key = key("a");
    for remembered in [false, true] {
        for name in ["memory", "devices", "fingerprint", "manifest"] {
            let state = build(&store, &key, 1).await;
            if remembered {
                remember_as_verified(&store, &key, &state);
            }
            assert_eq!(wrong(&store, &key), None);
            let path = state.join(name);
            let whole = fs::read(&path).unwrap();
            for at in [0, whole.len() / 2, whole.len() - 1] {
                let mut bytes = whole.clone();
                bytes[at] ^= 1;
                fs::write(&path, bytes).unwrap();
                let reason = wrong(&store, &key);
                assert!(
                    reason.as_ref().is_some_and(|reason| reason.contains(name)),
                    "{name} {at}: {reason:?}"
                );
            }
            fs::write(&path, &whole[..whole.len() / 2]).unwrap();
            assert!(wrong(&store, &key).unwrap().contains(name), "{name} cut");
            fs::remove_file(&path).unwrap();
            assert!(wrong(&store, &key).unwrap().contains(name), "{name} gone");
        }
    }
}

#[tokio::test]
async fn a_manifest_names_no_file_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), 100);
    let key = key("a");
    let state = build(&store, &key, 1).await;
    fs::write(folder.path().join("victim"), "devices").unwrap();
    let manifest = fs::read_to_string(state.join("manifest")).unwrap();
    let (body, _) = manifest.rsplit_once("sum ").unwrap();
    for name in ["../../victim", "..", "a/../devices", "/etc/passwd", "devices/"] {
        let body = body.replace("file devices ", &format!("file {name} "));
        let sum = Checksum::of(body.as_bytes());
        fs::write(state.join("manifest"), format!("{body}sum {sum}\n")).unwrap();
        assert_eq!(wrong(&store, &key).unwrap(), "its manifest is damaged", "{name}");
    }
}

#[tokio::test]
async fn a_pipe_or_a_link_in_the_place_of_a_file_is_no_state() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), 100);
    let key = key("a");
    for name in ["memory", "devices", "fingerprint", "manifest"] {
        let state = build(&store, &key, 1).await;
        let outside = folder.path().join("outside");
        fs::rename(state.join(name), &outside).unwrap();
        std::os::unix::fs::symlink(&outside, state.join(name)).unwrap();
        assert!(wrong(&store, &key).is_some(), "{name} is a link");
        fs::remove_file(state.join(name)).unwrap();
        // It has as many bytes as an empty file.
        nix::unistd::mkfifo(&state.join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(wrong(&store, &key).is_some(), "{name} is a pipe");
    }
    // What is remembered only saves time.
    let state = build(&store, &key, 1).await;
    nix::unistd::mkfifo(&state.join("verified"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(wrong(&store, &key), None);
    let pipe = store.folder.join(format!("{}.lock", key.name));
    fs::remove_file(&pipe).unwrap();
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = store.look(&key).await.err().unwrap();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("No such device or address"), "{source}");
}

/// As a look does that comes a while after the state was built.
fn remember_as_verified(store: &Store, key: &Key, state: &Path) {
    // The time of the change of an inode cannot be set; the wait is for it to become old enough.
    let settled = |file: fs::DirEntry| Identity::of(file.path()).unwrap().is_settled();
    while !fs::read_dir(state).unwrap().all(|file| settled(file.unwrap())) {
        std::thread::yield_now();
    }
    store.verify(key).unwrap();
    assert!(state.join("verified").exists());
}

#[tokio::test]
async fn a_memory_of_an_earlier_boot_or_a_damaged_one_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), 100);
    let key = key("a");
    let state = build(&store, &key, 1).await;
    remember_as_verified(&store, &key, &state);
    let verified = fs::read_to_string(state.join("verified")).unwrap();
    for text in ["", "x", &verified[1..]] {
        fs::write(state.join("verified"), text).unwrap();
        store.verify(&key).unwrap();
        assert_eq!(fs::read_to_string(state.join("verified")).unwrap(), verified);
    }
}

#[tokio::test]
async fn many_that_need_it_at_once_build_it_once() {
    const MANY: u32 = 8;
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), 100);
    let key = key("a");
    let builds = AtomicU32::new(0);
    let one = || async {
        let lock = store.lock_alone(&key).await.unwrap();
        match store.look_with(&key, lock).await.unwrap() {
            Ok(held) => held,
            Err((lock, _)) => {
                builds.fetch_add(1, Ordering::Relaxed);
                build_with(&store, &key, 1, lock).await
            }
        }
        .folder
    };
    let folders = join_all((0..MANY).map(|_| one())).await;
    assert_eq!(builds.into_inner(), 1);
    assert!(folders.iter().all(|folder| *folder == folders[0]));
}

#[tokio::test]
async fn nobody_looks_at_a_state_while_it_is_built() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), 100);
    for name in ["a", "b"] {
        build(&store, &key(name), 1).await;
    }
    let lock = store.lock_alone(&key("a")).await.unwrap();
    assert!(store.look(&key("a")).await.unwrap().is_none());
    assert!(store.look(&key("b")).await.unwrap().is_some());
    drop(lock);
    assert!(store.look(&key("a")).await.unwrap().is_some());
    assert!(store.look(&key("c")).await.unwrap().is_none());
}

#[tokio::test]
async fn the_ones_not_used_for_the_longest_time_go_and_none_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), 5);
    for name in ["a", "b", "c", "d"] {
        build(&store, &key(name), 1).await;
    }
    // In this order they were used; `b` is being used.
    assert_eq!(wrong(&store, &key("a")), None);
    let _held = store.look(&key("b")).await.unwrap().unwrap();
    for (name, age) in [("b", 40), ("c", 30), ("a", 20), ("d", 10)] {
        let lock = File::options()
            .write(true)
            .open(store.folder.join(format!("{}.lock", key(name).name)))
            .unwrap();
        lock.set_modified(SystemTime::now() - std::time::Duration::from_secs(age))
            .unwrap();
    }
    build(&store, &key("e"), 3).await;
    let mut left = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        if wrong(&store, &key(name)).is_none() {
            left.push(name);
        }
    }
    // Five MiB, and some bytes: `c` and `a` are not enough.
    assert_eq!(left, ["b", "e"]);
}

#[tokio::test]
async fn what_a_killed_builder_left_is_removed_by_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), 100);
    let [dead, alive] = ["dead", "alive"].map(key);
    for (key, run) in [(&dead, "1"), (&alive, "2")] {
        let unfinished = store.unfinished_name(key, run);
        fs::create_dir(&unfinished).unwrap();
        fs::write(unfinished.join("memory"), "half").unwrap();
    }
    let lock = store.lock_alone(&alive).await.unwrap();
    build(&store, &key("next"), 1).await;
    assert!(!store.unfinished_name(&dead, "1").exists());
    assert!(store.unfinished_name(&alive, "2").exists());
    drop(lock);
    build(&store, &key("after"), 1).await;
    assert!(names(&store).iter().all(|name| !name.starts_with(UNFINISHED)));
}

#[tokio::test]
async fn what_is_not_finished_is_no_state() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), 100);
    let key = key("a");
    let lock = store.lock_alone(&key).await.unwrap();
    let unfinished = store
        .begin(&key, store.unfinished_name(&key, "1"), 0, lock)
        .unwrap();
    fs::write(unfinished.folder().join("memory"), "half").unwrap();
    drop(unfinished);
    assert_eq!(wrong(&store, &key).unwrap(), "there is none yet");
    assert_eq!(names(&store), [format!("{}.lock", key.name)]);
}

#[test]
fn obeys_the_environment() {
    let states = |set: &[(&str, &str)]| {
        SavedStates::from(|name| {
            let value = set.iter().find(|(variable, _)| *variable == name)?.1;
            Some(value.into())
        })
    };
    let home = tempfile::tempdir().unwrap();
    let home = home.path().to_str().unwrap();
    let off = states(&[("ALPY_SAVED_STATES", "off"), ("HOME", home)]).unwrap();
    assert_eq!(off.open().unwrap_err(), "ALPY_SAVED_STATES=off");
    let place = |set: &[(&str, &str)]| states(set).unwrap().place.unwrap();
    assert_eq!(
        place(&[("HOME", home)]),
        Path::new(home).join(".cache/alpy/states")
    );
    assert_eq!(
        place(&[("HOME", home), ("XDG_CACHE_HOME", "/x")]),
        Path::new("/x/alpy/states")
    );
    assert_eq!(place(&[("HOME", home), ("ALPY_STATES_DIR", "d")]), Path::new("d"));
    // What does not exist and is not a cache is not made for one.
    for name in ["HOME", "XDG_CACHE_HOME"] {
        let absent = format!("{home}/absent/cache");
        let reason = states(&[(name, &absent)]).unwrap().open().unwrap_err();
        assert!(reason.contains("is not a directory; remedy: "), "{reason}");
        assert!(!Path::new(home).join("absent").exists());
    }
    let limited = states(&[("ALPY_STATES_DIR", "d"), ("ALPY_STATES_LIMIT_MIB", "7")]).unwrap();
    assert_eq!(limited, SavedStates::at("d").limit_mib(7));
    for (name, value) in [("ALPY_SAVED_STATES", "no"), ("ALPY_STATES_LIMIT_MIB", "2G")] {
        let set = |asked: &str| (asked == name).then(|| value.into());
        let error = SavedStates::from(set).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}={value:?} is not ")), "{error}");
    }
    let none = states(&[]).unwrap().open().unwrap_err();
    assert_eq!(none, "neither ALPY_STATES_DIR nor HOME is set");
}

#[test]
fn refuses_a_folder_that_is_open_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let states = SavedStates::at(folder.path().join("states"));
    let made = states.open().unwrap();
    assert_eq!(fs::metadata(&made.folder).unwrap().mode() & 0o777, 0o700);
    fs::set_permissions(&made.folder, fs::Permissions::from_mode(0o777)).unwrap();
    let reason = states.open().unwrap_err();
    assert!(reason.contains("chmod 700"), "{reason}");
}

#[tokio::test]
async fn a_state_for_which_there_is_no_room_is_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), 10);
    let key = key("large");
    let lock = store.lock_alone(&key).await.unwrap();
    let begun = store.begin(&key, store.unfinished_name(&key, "1"), u64::MAX, lock);
    let error = crate::failure::chain(&begun.unwrap_err());
    assert!(
        error.contains("MiB are free there, and a state may take"),
        "{error}"
    );
    assert!(!names(&store).iter().any(|name| name.starts_with(UNFINISHED)));
}
