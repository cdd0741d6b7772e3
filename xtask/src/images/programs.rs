// SPDX-License-Identifier: GPL-3.0-or-later
//! Programs out of unpacked packages, with the libraries that they load.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::elf;
use super::tree::Tree;
use crate::process::{Kind, command, output};

const PROGRAMS: &[&str] = &["usr/sbin", "usr/bin", "sbin", "bin"];
const LIBRARIES: &[&str] = &[
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
    "lib",
];

/// Adds what every root file system has. There is one folder for programs and one for libraries; the other usual names
/// lead there.
pub fn skeleton(tree: &mut Tree) {
    for folder in [
        "bin", "dev", "etc", "lib", "proc", "run", "srv", "sys", "usr", "var",
    ] {
        tree.folder(folder, 0o755);
    }
    tree.folder("root", 0o700);
    tree.folder("tmp", 0o1777);
    for (link, target) in [
        ("lib64", "lib"),
        ("sbin", "bin"),
        ("usr/bin", "../bin"),
        ("usr/lib", "../lib"),
    ] {
        tree.link(link, target);
    }
    for (link, target) in [
        ("usr/lib64", "../lib"),
        ("usr/sbin", "../bin"),
        ("var/run", "../run"),
    ] {
        tree.link(link, target);
    }
}

/// Adds programs from the packages in the folder `root`, the libraries that they load, and a link for each applet of a
/// busybox among them, unless a program has the name.
pub fn install<'a>(programs: impl Iterator<Item = &'a str>, root: &Path, tree: &mut Tree) -> Result<()> {
    let mut libraries = BTreeSet::new();
    let mut applets = Vec::new();
    for name in programs {
        let path = find_program(root, name)?;
        install_file(root, &path, &mut libraries, tree)?;
        if name.starts_with("busybox") {
            let names = self::applets(root, &path)?;
            applets.extend(names.into_iter().map(|applet| (applet, name)));
        }
    }
    for (applet, busybox) in applets {
        let path = format!("bin/{applet}");
        if !tree.contains(&path) {
            tree.link(&path, busybox);
        }
    }
    Ok(())
}

/// Adds one file, its path relative to `root`, and whatever it needs. Links are followed, so that a file is under the
/// name that others use.
fn install_file(root: &Path, path: &str, seen: &mut BTreeSet<String>, tree: &mut Tree) -> Result<()> {
    let bytes = read(root, path)?;
    let needs = if elf::is_elf(&bytes) {
        elf::needs(&bytes).with_context(|| format!("read {path}"))?
    } else {
        elf::Needs::default()
    };
    tree.file(&merged(path), true, bytes);
    if let Some(loader) = needs.loader {
        let name = loader.rsplit('/').next().unwrap_or_default();
        if seen.insert(name.to_owned()) {
            let found = find_loader(root, &loader);
            let found = found.with_context(|| format!("{path} needs {loader}, which no package has"))?;
            tree.file(&merged(&found), true, read(root, &found)?);
        }
    }
    for library in needs.libraries.into_iter().chain(needs.opened) {
        if seen.insert(library.clone()) {
            let own = needs.folders.iter().map(|folder| folder.trim_start_matches('/'));
            let folders: Vec<&str> = own.chain(LIBRARIES.iter().copied()).collect();
            let found = find(root, &folders, &library);
            let found = found.with_context(|| format!("{path} needs {library}, which no package has"))?;
            install_file(root, &found, seen, tree)?;
        }
    }
    Ok(())
}

/// Adds files from the packages in the folder `root`, where they have them, at the same absolute paths. A file that the tree has already
/// stays.
pub fn install_data(paths: &[String], root: &Path, tree: &mut Tree) -> Result<()> {
    for path in paths {
        let relative = path.strip_prefix('/');
        let relative = relative.with_context(|| format!("{path} is not an absolute path"))?;
        if real(root, relative).is_some() && !tree.contains(&merged(relative)) {
            tree.file(&merged(relative), false, read(root, relative)?);
        }
    }
    Ok(())
}

/// Finds a file in one of some folders below `root`; the path is relative to `root`.
fn find(root: &Path, folders: &[&str], name: &str) -> Option<String> {
    folders
        .iter()
        .map(|folder| format!("{folder}/{name}"))
        .find(|path| real(root, path).is_some())
}

/// Finds the loader that programs name by an absolute path. A package may have it below `usr`.
fn find_loader(root: &Path, loader: &str) -> Option<String> {
    let (folder, name) = loader.trim_start_matches('/').rsplit_once('/')?;
    find(root, &[folder, &format!("usr/{folder}")], name)
}

/// The file that a path below `root` leads to, taking `root` for the root of absolute links too. A path that leads out of
/// `root`, to a file of the host, leads nowhere.
fn real(root: &Path, path: &str) -> Option<PathBuf> {
    let mut path = root.join(path);
    // As many links as Linux follows; what is still one then goes in circles.
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&path) else { break };
        path = match target.strip_prefix("/") {
            Ok(inside) => root.join(inside),
            Err(_) => path.parent()?.join(target),
        };
    }
    let path = fs::canonicalize(path).ok()?;
    (path.is_file() && path.starts_with(fs::canonicalize(root).ok()?)).then_some(path)
}

fn read(root: &Path, path: &str) -> Result<Vec<u8>> {
    let real = real(root, path).with_context(|| format!("no package has {path}"))?;
    fs::read(&real).with_context(|| format!("read {}", real.display()))
}

/// Where a file of the packages is in a tree with merged folders.
fn merged(path: &str) -> String {
    let path = path.strip_prefix("usr/").unwrap_or(path);
    match path.split_once('/') {
        Some(("sbin", rest)) => format!("bin/{rest}"),
        Some(("lib64", rest)) => format!("lib/{rest}"),
        _ => path.to_owned(),
    }
}

/// What runs a program of the packages in the folder `root`, whatever the host's libraries are.
pub struct Loader {
    /// The packages' own loader.
    pub path: PathBuf,
    /// The folders of their libraries, for its `--library-path`.
    pub libraries: OsString,
}

/// The loader for a program, its path relative to `root`. A static one needs none.
pub fn loader(root: &Path, path: &str) -> Result<Option<Loader>> {
    let Some(loader) = elf::needs(&read(root, path)?)?.loader else {
        return Ok(None);
    };
    let found = find_loader(root, &loader).and_then(|path| real(root, &path));
    let folders = LIBRARIES.iter().map(|folder| root.join(folder));
    Ok(Some(Loader {
        path: found.with_context(|| format!("{path} needs {loader}, which no package has"))?,
        libraries: std::env::join_paths(folders)?,
    }))
}

/// The file of a program in the packages in the folder `root`; the path is relative to `root`. The name may be an absolute path too.
pub fn find_program(root: &Path, name: &str) -> Result<String> {
    let found = match name.strip_prefix('/') {
        Some(path) => real(root, path).map(|_| path.to_owned()),
        None => find(root, PROGRAMS, name),
    };
    found.with_context(|| format!("no package has a program {name}"))
}

/// The file that a pattern stands for, in the packages in the folder `root`: the last one by name, as that of the newest release. A `*` is one
/// folder of any name.
pub fn find_pattern(root: &Path, pattern: &str) -> Result<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.split('/') {
        found = match part {
            "*" => {
                let folders = found
                    .iter()
                    .map(|folder| root.join(folder))
                    .filter_map(|folder| fs::read_dir(folder).ok());
                let entries = folders.flatten().collect::<Result<Vec<_>, _>>()?;
                let inside = entries.iter().map(fs::DirEntry::path);
                inside
                    .filter_map(|path| Some(path.strip_prefix(root).ok()?.to_owned()))
                    .collect()
            }
            name => found.iter().map(|folder| folder.join(name)).collect(),
        };
    }
    found.sort();
    let mut files = found.iter().rev().filter_map(|path| real(root, path.to_str()?));
    files.next().with_context(|| format!("no package has {pattern}"))
}

/// The first of these files that the packages in the folder `root` have; the paths are relative to `root`.
pub fn find_file(root: &Path, paths: &[&str]) -> Result<PathBuf> {
    paths
        .iter()
        .find_map(|path| real(root, path))
        .with_context(|| format!("no package has {}", paths.join(" or ")))
}

/// Asks a busybox for its applets.
fn applets(root: &Path, path: &str) -> Result<Vec<String>> {
    let busybox = root.join(path);
    let mut list = match loader(root, path)? {
        Some(loader) => {
            let mut list = command(loader.path);
            list.arg("--library-path").arg(loader.libraries).arg(&busybox);
            list
        }
        None => command(&busybox),
    };
    list.arg("--list");
    let names = output(list, Kind::Group)?.success(&format!("{path} --list"))?;
    Ok(names.lines().map(ToOwned::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A root file system that has one program, this very test, and nothing that it needs.
    fn bare() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/sbin")).unwrap();
        fs::copy(
            std::env::current_exe().unwrap(),
            root.path().join("usr/sbin/program"),
        )
        .unwrap();
        root
    }

    #[test]
    fn a_program_brings_its_loader_and_its_libraries() {
        let root = bare();
        for library in LIBRARIES {
            if let Ok(real) = fs::canonicalize(Path::new("/").join(library)) {
                fs::create_dir_all(root.path().join(library)).unwrap();
                for name in ["libc.so.6", "libgcc_s.so.1", "libm.so.6", "ld-linux-x86-64.so.2"] {
                    let _ = fs::copy(real.join(name), root.path().join(library).join(name));
                }
            }
        }
        let mut tree = Tree::default();
        install(["program"].into_iter(), root.path(), &mut tree).unwrap();
        assert!(tree.contains("bin/program"));
        assert!(tree.contains("lib/ld-linux-x86-64.so.2"));
        assert!(tree.contains("lib/x86_64-linux-gnu/libc.so.6"));
        assert!(
            !tree.contains("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
            "the loader is there once"
        );
    }

    #[test]
    fn a_program_brings_the_library_that_glibc_opens_for_it() {
        let root = bare();
        let folder = root.path().join(LIBRARIES[0]);
        fs::create_dir_all(&folder).unwrap();
        let library = "extern void pthread_exit(void *); void leave(void) { pthread_exit(0); }";
        fs::write(root.path().join("leave.c"), library).unwrap();
        fs::write(
            root.path().join("main.c"),
            "extern void leave(void); int main(void) { leave(); }",
        )
        .unwrap();
        let compile = |arguments: &str| {
            let mut compile = command("cc");
            compile.current_dir(root.path()).args(arguments.split(' '));
            output(compile, Kind::Group).unwrap().success("cc").unwrap();
        };
        let library = format!("{}/libleave.so", LIBRARIES[0]);
        compile(&format!(
            "-shared -fPIC -Wl,-soname,libleave.so -o {library} leave.c"
        ));
        compile(&format!(
            "-o usr/sbin/leaves main.c {library} -Wl,--no-as-needed -lm"
        ));
        let needs = elf::needs(&fs::read(folder.join("libleave.so")).unwrap()).unwrap();
        assert_eq!(needs.opened, ["libgcc_s.so.1"]);
        assert!(!needs.libraries.contains(&"libgcc_s.so.1".to_owned()));
        let main = elf::needs(&fs::read(root.path().join("usr/sbin/leaves")).unwrap()).unwrap();
        assert_eq!(main.opened, Vec::<String>::new());
        let loader = main.loader.unwrap();
        fs::create_dir_all(root.path().join("lib64")).unwrap();
        fs::write(root.path().join(&loader[1..]), "").unwrap();
        for name in ["libc.so.6", "libm.so.6"] {
            fs::write(folder.join(name), "").unwrap();
        }
        let mut tree = Tree::default();
        let error = install(["leaves"].into_iter(), root.path(), &mut tree).unwrap_err();
        let expected = format!("{library} needs libgcc_s.so.1, which no package has");
        assert_eq!(error.to_string(), expected);
        fs::write(folder.join("libgcc_s.so.1"), "").unwrap();
        install(["leaves"].into_iter(), root.path(), &mut tree).unwrap();
        assert!(tree.contains("lib/x86_64-linux-gnu/libgcc_s.so.1"));
    }

    #[test]
    fn a_file_of_the_packages_is_taken_where_they_have_it() {
        let root = bare();
        fs::create_dir_all(root.path().join("etc/daemon")).unwrap();
        for name in ["options", "own"] {
            fs::write(root.path().join("etc/daemon").join(name), "package").unwrap();
        }
        let mut tree = Tree::default();
        tree.folder("etc/daemon/own", 0o755);
        let paths = ["/etc/daemon/options", "/etc/daemon/own", "/etc/daemon/absent"].map(str::to_owned);
        install_data(&paths, root.path(), &mut tree).unwrap();
        assert!(tree.contains("etc/daemon/options") && !tree.contains("etc/daemon/absent"));
        let tar = tree.tar().unwrap();
        assert_eq!(tar.windows(7).filter(|bytes| bytes == b"package").count(), 1);
        let error = install_data(&["etc/x".to_owned()], root.path(), &mut tree).unwrap_err();
        assert_eq!(error.to_string(), "etc/x is not an absolute path");
    }

    #[test]
    fn what_no_package_has_is_named_with_who_needs_it() {
        let error = install(["program"].into_iter(), bare().path(), &mut Tree::default())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("usr/sbin/program needs /lib"), "{error}");
        let error = install(["other"].into_iter(), bare().path(), &mut Tree::default())
            .unwrap_err()
            .to_string();
        assert_eq!(error, "no package has a program other");
    }

    #[test]
    fn a_program_may_be_named_by_its_path() {
        let root = bare();
        let path = find_program(root.path(), "/usr/sbin/program").unwrap();
        assert_eq!(path, "usr/sbin/program");
        let error = find_program(root.path(), "/usr/lib/program")
            .unwrap_err()
            .to_string();
        assert_eq!(error, "no package has a program /usr/lib/program");
    }

    #[test]
    fn a_pattern_stands_for_the_file_of_the_newest_release() {
        let root = tempfile::tempdir().unwrap();
        for release in ["11", "12", "13"] {
            let folder = root.path().join("images").join(release).join("text");
            fs::create_dir_all(&folder).unwrap();
            if release != "13" {
                fs::write(folder.join("linux"), release).unwrap();
            }
        }
        let found = find_pattern(root.path(), "images/*/text/linux").unwrap();
        assert_eq!(fs::read_to_string(found).unwrap(), "12");
        let error = find_pattern(root.path(), "images/*/gtk/linux")
            .unwrap_err()
            .to_string();
        assert_eq!(error, "no package has images/*/gtk/linux");
    }

    #[test]
    fn absolute_links_stay_in_the_packages_and_no_link_leads_out() {
        let root = bare();
        symlink("/usr/sbin/program", root.path().join("usr/sbin/absolute")).unwrap();
        symlink("/bin/sh", root.path().join("usr/sbin/host")).unwrap();
        symlink("../".repeat(30) + "bin/sh", root.path().join("usr/sbin/out")).unwrap();
        assert_eq!(
            find(root.path(), PROGRAMS, "absolute").unwrap(),
            "usr/sbin/absolute"
        );
        assert_eq!(find(root.path(), PROGRAMS, "host"), None);
        assert_eq!(find(root.path(), PROGRAMS, "out"), None);
    }
}
