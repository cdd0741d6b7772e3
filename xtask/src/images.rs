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
mod machine;
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

use crate::needs::Need;
use crate::process::{self, Kind, command, output};
use packages::System;
use recipe::{Recipe, Recipes};
use tree::Tree;

pub use manifest::{Container, Manifest};

/// The link to the folder with the images that were built last.
pub const CURRENT: &str = "current";

/// Programs that a build needs.
pub const PROGRAMS: &[Need] = &[
    ("apt-get", "apt", BUILD),
    ("dpkg-deb", "dpkg", BUILD),
    ("gzip", "gzip", BUILD),
    ("sha256sum", "coreutils", BUILD),
    ("xz", "xz-utils", BUILD),
    ("zstd", "zstd", BUILD),
];

const BUILD: &str = "the build of the images";

/// The sources of this builder: a change to them is a reason to build again.
const BUILDER: &[&str] = &[
    include_str!("images.rs"),
    include_str!("images/apk.rs"),
    include_str!("images/apt.rs"),
    include_str!("images/disk.rs"),
    include_str!("images/elf.rs"),
    include_str!("images/kernel.rs"),
    include_str!("images/machine.rs"),
    include_str!("images/modules.rs"),
    include_str!("images/packages.rs"),
    include_str!("images/programs.rs"),
    include_str!("images/recipe.rs"),
    include_str!("images/tree.rs"),
    include_str!("../../rabbit/src/images/manifest.rs"),
];

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
    let rabbit = machine::appliance(system, &recipes.appliance, root.path(), new.path())?;
    let mut machines = BTreeMap::new();
    for (name, recipe) in recipes.machines.iter().filter(|(_, recipe)| recipe.is_on(system)) {
        let machine = machine::further(system, name, recipe, root.path(), new.path());
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
    fs::rename(link, images.join(CURRENT))?;
    let mut file = tempfile::NamedTempFile::new_in(images)?;
    serde_json::to_writer_pretty(&mut file, &manifest)?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))?;
    file.persist(images.join(manifest::FILE))?;
    Ok(manifest)
}

/// Writes a root file system into the folder `new`. Paths in the result are relative to it.
fn container(system: System, name: &str, recipe: &Recipe, root: &Path, new: &Path) -> Result<Container> {
    ensure!(
        recipe.kernel.is_none(),
        "the container image {name} cannot have a kernel"
    );
    let mut tree = Tree::default();
    programs::skeleton(&mut tree);
    programs::install(recipe.programs(system, root), root, &mut tree)
        .with_context(|| format!("image {name}"))?;
    programs::install_data(&recipe.files, root, &mut tree).with_context(|| format!("image {name}"))?;
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
