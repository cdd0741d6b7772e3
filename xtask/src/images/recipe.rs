// SPDX-License-Identifier: GPL-3.0-or-later
//! Recipes: which packages an image is made from and what of them it takes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::packages::System;
use super::programs::find_program;

/// Where the recipes are, in the workspace: the appliance's folder, one folder for each further machine, and one file for each container
/// image.
const APPLIANCE: &str = "rabbit/image";
const MACHINES: &str = "rabbit/machines";
const CONTAINERS: &str = "rabbit/containers";

/// In the folder of a machine: its recipe, and files that go into its root file system as they are.
const RECIPE: &str = "recipe.toml";
const FILES: &str = "files";

/// All recipes of the workspace.
pub struct Recipes {
    /// The appliance. It has a kernel.
    pub appliance: MachineRecipe,
    /// Further machines by name.
    pub machines: Vec<(String, MachineRecipe)>,
    /// Container images: name and recipe.
    pub containers: Vec<(String, Recipe)>,
}

/// One machine.
pub struct MachineRecipe {
    /// What it is made of.
    pub recipe: Recipe,
    /// The folder of the files that it has besides. It need not exist.
    pub files: PathBuf,
}

/// One image.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Packages to unpack; their dependencies come along.
    pub packages: Choice,
    /// Debian and Ubuntu: dependencies to take as met.
    #[serde(default)]
    pub absent: Vec<String>,
    /// Programs to take; the libraries that they load come along.
    #[serde(default)]
    pub programs: Choice,
    /// Programs to take where the packages have them: other releases do without.
    #[serde(default)]
    pub optional: Vec<String>,
    /// Further files to take where the packages have them, by their absolute paths, such as a configuration file that a program does not
    /// start without.
    #[serde(default)]
    pub files: Vec<String>,
    /// For a machine: the kernel.
    pub kernel: Option<Kernel>,
    /// For a machine that a package has as a whole: where.
    pub boot: Option<Boot>,
}

/// Names that may depend on the system that the packages are from.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Choice {
    all: Vec<String>,
    debian: Vec<String>,
    ubuntu: Vec<String>,
    alpine: Vec<String>,
}

/// The kernel of a machine.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Its command line.
    pub cmdline: String,
    /// Modules to load at boot, in this order.
    pub load: Vec<String>,
    /// Further modules to have.
    pub modules: Vec<String>,
    /// Modules to have where the kernel has them: others do without.
    pub optional: Vec<String>,
}

/// Kernel and initrd that are taken as they are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The command line that they need in any case.
    pub cmdline: String,
    /// Path of the kernel in the package. A `*` stands for one folder of any name.
    pub kernel: String,
    /// Path of the initrd, likewise.
    pub initrd: String,
}

impl Choice {
    /// The names on `system`.
    pub fn on(&self, system: System) -> impl Iterator<Item = &str> {
        let own = match system {
            System::Debian => &self.debian,
            System::Ubuntu => &self.ubuntu,
            System::Alpine => &self.alpine,
        };
        self.all.iter().chain(own).map(String::as_str)
    }
}

impl Recipe {
    /// The programs to take from the packages of `system` in the folder `root`.
    pub fn programs<'a>(&'a self, system: System, root: &Path) -> impl Iterator<Item = &'a str> {
        let optional = self.optional.iter().map(String::as_str);
        let present = optional.filter(move |name| find_program(root, name).is_ok());
        self.programs.on(system).chain(present)
    }
}

impl Recipes {
    /// Reads the recipes of the workspace.
    pub fn read(workspace: &Path) -> Result<Self> {
        let mut containers = Vec::new();
        for path in files(&workspace.join(CONTAINERS))? {
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            containers.push((name, read(&path)?));
        }
        let mut machines = Vec::new();
        for entry in fs::read_dir(workspace.join(MACHINES)).context("read the folder of machines")? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            machines.push((name, MachineRecipe::read(&entry.path())?));
        }
        machines.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(Self {
            appliance: MachineRecipe::read(&workspace.join(APPLIANCE))?,
            machines,
            containers,
        })
    }

    /// What all recipes want, each once.
    pub fn packages(&self, system: System) -> BTreeSet<&str> {
        self.all().flat_map(|recipe| recipe.packages.on(system)).collect()
    }

    /// What no recipe needs of the dependencies.
    pub fn absent(&self) -> BTreeSet<&str> {
        self.all()
            .flat_map(|recipe| &recipe.absent)
            .map(String::as_str)
            .collect()
    }

    fn all(&self) -> impl Iterator<Item = &Recipe> {
        let machines = self.machines.iter().map(|(_, machine)| machine);
        std::iter::once(&self.appliance)
            .chain(machines)
            .map(|machine| &machine.recipe)
            .chain(self.containers.iter().map(|(_, recipe)| recipe))
    }
}

impl MachineRecipe {
    fn read(folder: &Path) -> Result<Self> {
        Ok(Self {
            recipe: read(&folder.join(RECIPE))?,
            files: folder.join(FILES),
        })
    }

    /// Whether there is such a machine where packages are from this system: its recipe names packages of it.
    pub fn is_on(&self, system: System) -> bool {
        self.recipe.packages.on(system).next().is_some()
    }
}

/// Every file that the images are made of, apart from packages.
pub fn sources(workspace: &Path) -> Result<Vec<PathBuf>> {
    let folders = [APPLIANCE, MACHINES, CONTAINERS].map(|folder| files(&workspace.join(folder)));
    Ok(folders.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

/// The files and symbolic links below a folder, sorted.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(self::files(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Recipe> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("recipe {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the test runs, which need not be where it was built.
    fn workspace() -> PathBuf {
        Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..")
    }

    #[test]
    fn the_recipes_of_the_workspace_parse() {
        let recipes = Recipes::read(&workspace()).unwrap();
        let names: Vec<_> = recipes.containers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "bird",
                "busybox",
                "dnsmasq",
                "http",
                "iperf3",
                "iproute2",
                "tcpreplay"
            ]
        );
        assert!(recipes.appliance.recipe.kernel.is_some());
        let machines = recipes.machines.iter();
        let of = |system| {
            let machines = machines.clone().filter(|(_, machine)| machine.is_on(system));
            machines.map(|(name, _)| name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(of(System::Debian), ["frr", "installer"]);
        assert_eq!(of(System::Ubuntu), ["frr"]);
    }

    #[test]
    fn each_system_has_a_kernel_of_its_own() {
        let recipes = Recipes::read(&workspace()).unwrap();
        let kernel = |system| {
            let packages = recipes.packages(system);
            packages
                .iter()
                .filter(|name| name.starts_with("linux-"))
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(kernel(System::Debian), ["linux-image-amd64"]);
        assert_eq!(kernel(System::Ubuntu), ["linux-image-generic"]);
        assert_eq!(kernel(System::Alpine), ["linux-lts"]);
    }

    #[test]
    fn an_optional_program_is_taken_where_a_package_has_it() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("sbin")).unwrap();
        fs::write(root.path().join("sbin/there"), "").unwrap();
        let text = "optional = [\"/sbin/there\", \"/sbin/absent\"]\n[packages]\nall = []\n[programs]\nall = [\"needed\"]\n";
        let recipe: Recipe = toml::from_str(text).unwrap();
        let programs: Vec<_> = recipe.programs(System::Debian, root.path()).collect();
        assert_eq!(programs, ["needed", "/sbin/there"]);
    }

    #[test]
    fn an_unknown_word_in_a_recipe_is_refused() {
        let text = "[packages]\nall = []\n[programs]\nal = []\n";
        let error = toml::from_str::<Recipe>(text).unwrap_err().to_string();
        assert!(error.contains("`al`"), "{error}");
    }
}
