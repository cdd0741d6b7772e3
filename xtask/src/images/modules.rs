// SPDX-License-Identifier: GPL-3.0-or-later
//! Kernel modules: those that are wanted and those that they depend on, with the indexes that modprobe reads. Packages
//! come without indexes, depmod makes them at installation.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::elf;
use super::recipe;
use super::tree::Tree;
use crate::process::{Kind, command, output};

/// The modules of the kernel that is in an unpacked root file system.
pub struct Modules {
    /// Version of the kernel, as `uname -r` has it.
    pub release: String,
    /// The folder that has them.
    pub folder: PathBuf,
    /// Files by name of the module.
    files: BTreeMap<String, PathBuf>,
    /// Names of those that are part of the kernel itself.
    builtin: Vec<String>,
}

/// A module that was read.
struct Module {
    bytes: Vec<u8>,
    /// What it depends on, directly.
    depends: Vec<String>,
    aliases: Vec<String>,
}

impl Modules {
    /// Finds the modules below `root`.
    pub fn find(root: &Path) -> Result<Self> {
        let folder = ["usr/lib/modules", "lib/modules"]
            .map(|path| root.join(path))
            .into_iter()
            .find(|path| path.is_dir());
        let folder = folder.context("no kernel modules in the packages")?;
        let mut releases = fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
        let (Some(release), None) = (releases.pop(), releases.pop()) else {
            bail!("the packages must have modules for exactly one kernel");
        };
        let name = |path: &Path| {
            let file = path.file_name()?.to_str()?;
            file.split_once(".ko").map(|(name, _)| canonical(name))
        };
        let paths = recipe::files(&release.path())?;
        let files = paths
            .into_iter()
            .filter_map(|path| Some((name(&path)?, path)))
            .collect();
        let builtin = fs::read_to_string(release.path().join("modules.builtin"))?;
        let builtin = builtin.lines().filter_map(|line| name(Path::new(line))).collect();
        Ok(Self {
            release: release.file_name().to_string_lossy().into_owned(),
            folder: release.path(),
            files,
            builtin,
        })
    }

    /// Those of the modules that this kernel has, as files or in itself.
    pub fn present<'a>(&self, modules: &'a [String]) -> impl Iterator<Item = &'a String> {
        modules.iter().filter(|name| {
            let name = canonical(name);
            self.files.contains_key(&name) || self.builtin.contains(&name)
        })
    }

    /// Puts the modules into the tree, those in `load` and `modules` with all that they depend on, and
    /// `etc/modules` with the names of those in `load`.
    pub fn install(&self, load: &[String], modules: &[String], tree: &mut Tree) -> Result<()> {
        let mut found = BTreeMap::new();
        for name in load.iter().chain(modules) {
            self.collect(&canonical(name), &mut found)?;
        }
        let (mut dependencies, mut aliases) = (String::new(), String::new());
        for (name, module) in &found {
            write!(dependencies, "{name}.ko:")?;
            for dependency in closure(name, &found) {
                write!(dependencies, " {dependency}.ko")?;
            }
            dependencies.push('\n');
            for alias in &module.aliases {
                writeln!(aliases, "alias {alias} {name}")?;
            }
        }
        let load: String = load
            .iter()
            .filter(|name| found.contains_key(&canonical(name)))
            .map(|name| format!("{name}\n"))
            .collect();
        tree.file("etc/modules", false, load.into_bytes());
        let folder = format!("lib/modules/{}", self.release);
        tree.file(&format!("{folder}/modules.dep"), false, dependencies.into_bytes());
        tree.file(&format!("{folder}/modules.alias"), false, aliases.into_bytes());
        for (name, module) in found {
            tree.file(&format!("{folder}/{name}.ko"), false, module.bytes);
        }
        Ok(())
    }

    fn collect(&self, name: &str, found: &mut BTreeMap<String, Module>) -> Result<()> {
        if found.contains_key(name) || self.builtin.iter().any(|builtin| builtin == name) {
            return Ok(());
        }
        let path = self
            .files
            .get(name)
            .with_context(|| format!("kernel {} has no module {name}", self.release))?;
        let module = read(path).with_context(|| format!("read {}", path.display()))?;
        let depends = module.depends.clone();
        found.insert(name.to_owned(), module);
        depends.iter().try_for_each(|name| self.collect(name, found))
    }
}

/// The kernel takes `-` and `_` in names of modules for the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn read(path: &Path) -> Result<Module> {
    let unpack = match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Some("gzip"),
        Some("xz") => Some("xz"),
        Some("zst") => Some("zstd"),
        _ => None,
    };
    let mut path = path.to_owned();
    if let Some(program) = unpack {
        let mut unpack = command(program);
        unpack.args(["--quiet", "--decompress", "--force"]).arg(&path);
        output(unpack, Kind::Group)?.success(program)?;
        path.set_extension("");
    }
    let bytes = fs::read(path)?;
    let info = elf::module_info(&bytes)?;
    let values = |wanted| {
        info.iter()
            .filter(move |(key, _)| key == wanted)
            .map(|(_, value)| value)
    };
    Ok(Module {
        depends: values("depends")
            .flat_map(|names| names.split(','))
            .filter(|name| !name.is_empty())
            .map(canonical)
            .collect(),
        aliases: values("alias").cloned().collect(),
        bytes,
    })
}

/// All that a module depends on, in modprobe's order: the last is to be loaded first.
fn closure(name: &str, found: &BTreeMap<String, Module>) -> Vec<String> {
    fn visit(name: &str, found: &BTreeMap<String, Module>, order: &mut Vec<String>) {
        for dependency in found.get(name).into_iter().flat_map(|module| &module.depends) {
            if found.contains_key(dependency) && !order.contains(dependency) {
                visit(dependency, found, order);
                order.push(dependency.clone());
            }
        }
    }
    let mut order = Vec::new();
    visit(name, found, &mut order);
    order.reverse();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(depends: &[&str]) -> Module {
        let depends = depends.iter().map(ToString::to_string).collect();
        Module {
            bytes: Vec::new(),
            depends,
            aliases: Vec::new(),
        }
    }

    #[test]
    fn what_others_depend_on_comes_later_in_the_list() {
        let found = BTreeMap::from([
            ("virtio".to_owned(), module(&["virtio_ring"])),
            (
                "virtio_net".to_owned(),
                module(&["virtio", "virtio_ring", "failover"]),
            ),
            ("virtio_ring".to_owned(), module(&[])),
            ("failover".to_owned(), module(&[])),
        ]);
        assert_eq!(
            closure("virtio_net", &found),
            ["failover", "virtio", "virtio_ring"]
        );
        assert_eq!(closure("virtio_ring", &found), Vec::<String>::new());
    }

    #[test]
    fn a_module_of_the_kernel_itself_needs_no_file_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let modules = folder.path().join("lib/modules/6.1.0-test");
        fs::create_dir_all(&modules).unwrap();
        fs::write(
            modules.join("modules.builtin"),
            "kernel/drivers/virtio/virtio-pci.ko\n",
        )
        .unwrap();
        let modules = Modules::find(folder.path()).unwrap();
        let both = ["virtio-pci", "sch_tbf"].map(ToOwned::to_owned);
        assert_eq!(modules.present(&both).collect::<Vec<_>>(), ["virtio-pci"]);
        let mut tree = Tree::default();
        modules
            .install(&["virtio_pci".to_owned()], &[], &mut tree)
            .unwrap();
        assert!(tree.contains("lib/modules/6.1.0-test/modules.dep"));
        let error = modules
            .install(&[], &["sch_tbf".to_owned()], &mut tree)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "kernel 6.1.0-test has no module sch_tbf");
    }
}
