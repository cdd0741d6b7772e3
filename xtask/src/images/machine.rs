// SPDX-License-Identifier: GPL-3.0-or-later
//! Machines out of unpacked packages: kernel and initrd, and for the appliance a disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::manifest::{Appliance, Machine};
use super::packages::System;
use super::recipe::{Kernel, MachineRecipe};
use super::tree::Tree;
use super::{disk, executable, kernel, modules, programs, recipe};
use crate::process::{Kind, command, output};

/// The file of the appliance's kernel, in the folder of the images. Further machines boot it too.
const KERNEL: &str = "kernel";

/// Writes kernel, initrd and disk image into the folder `new`. Paths in the result are relative to it.
pub fn appliance(system: System, recipe: &MachineRecipe, root: &Path, new: &Path) -> Result<Appliance> {
    let described = recipe
        .recipe
        .kernel
        .as_ref()
        .context("the recipe of rabbit has no kernel")?;
    let initrd = initrd(system, "initrd", recipe, described, root, new)?;
    let vmlinuz = vmlinuz(root)?;
    let image = fs::read(&vmlinuz)?;
    // As it comes if need be: that is slower.
    let unpacked = kernel::unpacked(&image, new)?;
    fs::write(new.join(KERNEL), unpacked.as_ref().unwrap_or(&image))?;
    disk::write(
        root,
        &new.join("disk.img"),
        &vmlinuz,
        &new.join(&initrd),
        &described.cmdline,
    )
    .context("make the disk image")?;
    Ok(Appliance {
        kernel: KERNEL.into(),
        initrd,
        cmdline: described.cmdline.clone(),
        disk: "disk.img".into(),
    })
}

/// Writes the initrd of a further machine into the folder `new`, and its kernel too if that is not the appliance's. Paths in the result are
/// relative to it.
pub fn further(
    system: System,
    name: &str,
    recipe: &MachineRecipe,
    root: &Path,
    new: &Path,
) -> Result<Machine> {
    if let Some(boot) = &recipe.recipe.boot {
        let copy = |pattern: &str, to: String| {
            fs::copy(programs::find_pattern(root, pattern)?, new.join(&to))?;
            Ok::<_, anyhow::Error>(PathBuf::from(to))
        };
        return Ok(Machine {
            kernel: copy(&boot.kernel, format!("{name}-kernel"))?,
            initrd: copy(&boot.initrd, format!("{name}-initrd"))?,
            cmdline: boot.cmdline.clone(),
        });
    }
    let described = recipe.recipe.kernel.as_ref();
    let described = described.context("its recipe has neither `kernel` nor `boot`")?;
    Ok(Machine {
        kernel: KERNEL.into(),
        initrd: initrd(system, &format!("{name}-initrd"), recipe, described, root, new)?,
        cmdline: described.cmdline.clone(),
    })
}

/// Writes the root file system of a machine into the folder `new`, under a name. The path in the result is relative to it.
fn initrd(
    system: System,
    name: &str,
    recipe: &MachineRecipe,
    described: &Kernel,
    root: &Path,
    new: &Path,
) -> Result<PathBuf> {
    let mut tree = Tree::default();
    programs::skeleton(&mut tree);
    for source in recipe::files(&recipe.files)? {
        let path = source
            .strip_prefix(&recipe.files)?
            .to_str()
            .with_context(|| format!("a file for {name} is not named in UTF-8"))?;
        match fs::read_link(&source) {
            Ok(target) => {
                let target = target.to_str();
                tree.link(
                    path,
                    target.with_context(|| format!("a link for {name} is not in UTF-8"))?,
                );
            }
            Err(_) => tree.file(path, executable(&source)?, fs::read(&source)?),
        }
    }
    programs::install(recipe.recipe.programs(system, root), root, &mut tree)?;
    programs::install_data(&recipe.recipe.files, root, &mut tree)?;
    let modules = modules::Modules::find(root)?;
    let wanted: Vec<String> = modules
        .present(&described.optional)
        .chain(&described.modules)
        .cloned()
        .collect();
    modules.install(&described.load, &wanted, &mut tree)?;
    // The kernel opens it for init, before there is a /dev.
    tree.terminal("dev/console", 5, 1);
    // Compressed it boots as fast, and fits a smaller machine.
    fs::write(new.join("root.cpio"), tree.cpio())?;
    let mut compress = command("zstd");
    compress
        .args(["--quiet", "--rm", "root.cpio", "-o", name])
        .current_dir(new);
    output(compress, Kind::Group)?.success(&format!("compress {name}"))?;
    Ok(name.into())
}

/// The kernel of the packages: in `boot`, or beside its modules, where later releases have it.
fn vmlinuz(root: &Path) -> Result<PathBuf> {
    let named_so = |folder: &Path| {
        let mut files: Vec<_> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz"))
            })
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        files.into_iter().next()
    };
    let beside_modules = || Some(modules::Modules::find(root).ok()?.folder);
    let found = named_so(&root.join("boot")).or_else(|| named_so(&beside_modules()?));
    found.context("no kernel in the packages: neither boot/vmlinuz* nor usr/lib/modules/*/vmlinuz is there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_kernel_in_boot_and_beside_its_modules() {
        let root = tempfile::tempdir().unwrap();
        let none = "no kernel in the packages: neither boot/vmlinuz* nor usr/lib/modules/*/vmlinuz is there";
        assert_eq!(vmlinuz(root.path()).unwrap_err().to_string(), none);
        let modules = root.path().join("usr/lib/modules/7.0.1-amd64");
        fs::create_dir_all(&modules).unwrap();
        fs::write(modules.join("modules.builtin"), "").unwrap();
        assert_eq!(vmlinuz(root.path()).unwrap_err().to_string(), none);
        fs::write(modules.join("vmlinuz"), "kernel").unwrap();
        assert_eq!(vmlinuz(root.path()).unwrap(), modules.join("vmlinuz"));
        let boot = root.path().join("boot");
        fs::create_dir(&boot).unwrap();
        fs::write(boot.join("config-7.0.1-amd64"), "").unwrap();
        assert_eq!(vmlinuz(root.path()).unwrap(), modules.join("vmlinuz"));
        fs::write(boot.join("vmlinuz-7.0.1-amd64"), "kernel").unwrap();
        assert_eq!(vmlinuz(root.path()).unwrap(), boot.join("vmlinuz-7.0.1-amd64"));
    }
}
