// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds rabbit, the appliance of the tests, further machines, and the root file systems of the containers, from the recipes in
//! `rabbit/image`, `rabbit/machines` and `rabbit/containers` and the packages of a Linux distribution. Works for any user, with no container
//! engine.
//!
//! What was built stays until a recipe or this program changes; newer packages are looked for only on request, so a
//! second run needs no network. The folder of the images has
//!
//! - `manifest.json`: what there is, for the tests;
//! - `current`: a link to the folder with the files of the manifest;
//! - a folder named by a hash of all that was built from, with the images; the one before it is kept, for tests that
//!   still run;
//! - `packages`: what was downloaded.

mod apk;
mod apt;
mod disk;
mod elf;
mod kernel;
// One definition for the writer and the reader; rabbit depends on alpy, which xtask must build without.
#[path = "../../rabbit/src/images/manifest.rs"]
mod manifest;
mod modules;
mod packages;
mod programs;
mod recipe;
mod tree;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::process::{self, Kind, command, output};
use manifest::Appliance;
use packages::System;
use recipe::{Kernel, MachineRecipe, Recipe, Recipes};
use tree::Tree;

pub use manifest::{Container, Machine, Manifest};

/// Programs that a build needs, with the package of Debian that has each.
pub const PROGRAMS: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("gzip", "gzip"),
    ("sha256sum", "coreutils"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// The sources of this builder: a change to them is a reason to build again.
const BUILDER: &[&str] = &[
    include_str!("images.rs"),
    include_str!("images/apk.rs"),
    include_str!("images/apt.rs"),
    include_str!("images/disk.rs"),
    include_str!("images/elf.rs"),
    include_str!("images/kernel.rs"),
    include_str!("images/modules.rs"),
    include_str!("images/packages.rs"),
    include_str!("images/programs.rs"),
    include_str!("images/recipe.rs"),
    include_str!("images/tree.rs"),
    include_str!("../../rabbit/src/images/manifest.rs"),
];

/// The file of the appliance's kernel, in the folder of the images. Further machines boot it too.
const KERNEL: &str = "kernel";

/// Environment of every container image: an import sets none, and engines then know no PATH.
const ENVIRONMENT: &[&str] = &["PATH=/usr/sbin:/usr/bin:/sbin:/bin"];

/// Where packages come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// The host's own distribution: Debian or Ubuntu.
    #[default]
    Host,
    /// A mirror of Alpine Linux.
    Alpine,
}

/// What to build, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Root of the workspace, for the recipes.
    pub workspace: PathBuf,
    /// Cargo's target folder; the images are in its `alpy/images`.
    pub target: PathBuf,
    /// Where packages come from.
    pub base: Base,
    /// Look for newer packages even if nothing else has changed.
    pub refresh: bool,
}

/// Builds the images unless they are there already. Paths in the manifest that it returns can be used as they are.
pub fn build(options: &Options) -> Result<Manifest> {
    // apt takes relative folders for its own.
    let images = std::path::absolute(options.target.join("alpy/images"))?;
    fs::create_dir_all(&images).with_context(|| format!("create {}", images.display()))?;
    let _lock = lock(&images)?;
    let (system, release) = match options.base {
        Base::Host => System::of_host()?,
        Base::Alpine => (System::Alpine, format!("Alpine Linux at {}", apk::mirror())),
    };
    let key = key(&options.workspace, &release)?;
    let present = Manifest::read(&images).ok();
    if let Some(mut present) = present.clone() {
        let usable = present.key == key && present.paths_mut().all(|path| path.is_file());
        if usable && !options.refresh {
            return Ok(present);
        }
    }
    eprintln!("Build the images from packages of {release}...");
    let start = Instant::now();
    let manifest = build_from(system, &key, &Recipes::read(&options.workspace)?, &images)?;
    remove_old(&images, &manifest, present.as_ref())?;
    eprintln!(
        "Build the images from packages of {release}... done ({:.1} s)",
        start.elapsed().as_secs_f32()
    );
    Manifest::read(&images).context("read the images just built")
}

/// Waits until no one else builds in this folder.
fn lock(images: &Path) -> Result<Flock<File>> {
    let path = images.join("lock");
    let mut file = Some(File::create(&path).with_context(|| format!("create {}", path.display()))?);
    let mut waiting = false;
    let lock = process::poll(Duration::from_secs(1800), || {
        match Flock::lock(
            file.take().expect("it comes back below"),
            FlockArg::LockExclusiveNonblock,
        ) {
            Ok(lock) => return Ok(Some(lock)),
            Err((returned, Errno::EWOULDBLOCK)) => file = Some(returned),
            Err((_, error)) => return Err(error).with_context(|| format!("lock {}", path.display())),
        }
        if !waiting {
            eprintln!("Wait for another build of the images...");
            waiting = true;
        }
        Ok(None)
    })?;
    lock.with_context(|| format!("{} has been locked for half an hour", path.display()))
}

/// Hash of all that the images are made of, apart from the packages.
fn key(workspace: &Path, release: &str) -> Result<String> {
    let mut parts = vec![release.as_bytes().to_vec()];
    parts.extend(BUILDER.iter().map(|source| source.as_bytes().to_vec()));
    for source in recipe::sources(workspace)? {
        parts.push(
            source
                .strip_prefix(workspace)?
                .as_os_str()
                .as_encoded_bytes()
                .to_vec(),
        );
        parts.push(match fs::read_link(&source) {
            Ok(target) => target.into_os_string().into_encoded_bytes(),
            Err(_) => [fs::read(&source)?, vec![u8::from(executable(&source)?)]].concat(),
        });
    }
    hash(&parts)
}

fn build_from(system: System, key: &str, recipes: &Recipes, images: &Path) -> Result<Manifest> {
    // Both on the same file system as the images, and removed whatever happens.
    let root = tempfile::Builder::new().prefix("root-").tempdir_in(images)?;
    let new = tempfile::Builder::new()
        .prefix("new-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in(images)?;
    let wanted = recipes.packages(system);
    let versions = if system == System::Alpine {
        apk::unpack(&wanted, root.path(), root.path())?
    } else {
        apt::unpack(&wanted, &recipes.absent(), &images.join("packages"), root.path())?
    };
    let name = hash(&[key.as_bytes().to_vec(), format!("{versions:?}").into_bytes()])?;
    let rabbit = appliance(system, recipes, root.path(), new.path())?;
    let mut machines = BTreeMap::new();
    for (name, recipe) in recipes.machines.iter().filter(|(_, recipe)| recipe.is_on(system)) {
        let machine = machine(system, name, recipe, root.path(), new.path());
        machines.insert(name.clone(), machine.with_context(|| format!("machine {name}"))?);
    }
    let mut containers = BTreeMap::new();
    for (name, recipe) in &recipes.containers {
        let container = container(system, name, recipe, root.path(), new.path())?;
        containers.insert(name.clone(), container);
    }
    let built = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs();
    let mut manifest = Manifest {
        key: key.to_owned(),
        built,
        packages: versions,
        rabbit,
        machines,
        containers,
    };
    let folder = Path::new(&name[..16]);
    for path in manifest.paths_mut() {
        *path = folder.join(&path);
    }
    if !images.join(folder).exists() {
        fs::rename(new.keep(), images.join(folder))?;
    }
    // For those who want the files without the manifest: a path that stays.
    let link = images.join(format!("{}.link", folder.display()));
    match fs::remove_file(&link) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        // At most one that a killed build left.
        _ => symlink(folder, &link)?,
    }
    fs::rename(link, images.join("current"))?;
    let mut file = tempfile::NamedTempFile::new_in(images)?;
    serde_json::to_writer_pretty(&mut file, &manifest)?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))?;
    file.persist(images.join(manifest::FILE))?;
    Ok(manifest)
}

/// Writes kernel, initrd and disk image into the folder `new`. Paths in the result are relative to it.
fn appliance(system: System, recipes: &Recipes, root: &Path, new: &Path) -> Result<Appliance> {
    let recipe = &recipes.appliance;
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
fn machine(system: System, name: &str, recipe: &MachineRecipe, root: &Path, new: &Path) -> Result<Machine> {
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
    programs::install(recipe.recipe.programs.on(system), root, &mut tree)?;
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

/// The kernel of the packages.
fn vmlinuz(root: &Path) -> Result<PathBuf> {
    let boot = recipe::files(&root.join("boot"))?;
    let found = boot.into_iter().find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    });
    found.context("no kernel in the packages")
}

/// Writes a root file system into the folder `new`. Paths in the result are relative to it.
fn container(system: System, name: &str, recipe: &Recipe, root: &Path, new: &Path) -> Result<Container> {
    ensure!(
        recipe.kernel.is_none(),
        "the container image {name} cannot have a kernel"
    );
    let mut tree = Tree::default();
    programs::skeleton(&mut tree);
    programs::install(recipe.programs.on(system), root, &mut tree)
        .with_context(|| format!("image {name}"))?;
    let bytes = tree.tar()?;
    let rootfs = PathBuf::from(format!("{name}.tar"));
    fs::write(new.join(&rootfs), &bytes)?;
    let tag = format!(
        "alpy/{name}:{}",
        &hash(&[bytes, ENVIRONMENT.concat().into_bytes()])?[..16]
    );
    Ok(Container {
        tag,
        rootfs,
        env: ENVIRONMENT.iter().map(ToString::to_string).collect(),
    })
}

/// Removes all images but those just built and those before them.
fn remove_old(images: &Path, new: &Manifest, previous: Option<&Manifest>) -> Result<()> {
    // Any path will do: they all begin with the folder that is to be kept.
    let keep = [Some(new), previous]
        .into_iter()
        .flatten()
        .filter_map(|manifest| {
            let kernel = &manifest.rabbit.kernel;
            kernel.parent()?.file_name()
        });
    let keep: Vec<_> = keep.chain(["packages".as_ref()]).collect();
    for entry in fs::read_dir(images)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && !keep.contains(&entry.file_name().as_os_str()) {
            fs::remove_dir_all(entry.path()).with_context(|| format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn executable(path: &Path) -> Result<bool> {
    Ok(path.metadata()?.permissions().mode() & 0o100 != 0)
}

/// SHA-256 in hexadecimal digits, of each part and its length.
fn hash(parts: &[Vec<u8>]) -> Result<String> {
    let mut file = tempfile::NamedTempFile::new()?;
    for part in parts {
        use std::io::Write;
        file.write_all(&(part.len() as u64).to_le_bytes())?;
        file.write_all(part)?;
    }
    let mut sum = command("sha256sum");
    sum.arg(file.path());
    let sum = output(sum, Kind::Group)?.success("sha256sum")?;
    sum.split_whitespace()
        .next()
        .map(ToOwned::to_owned)
        .context("sha256sum says nothing")
}
