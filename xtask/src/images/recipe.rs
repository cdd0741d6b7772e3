// SPDX-License-Identifier: GPL-3.0-or-later
//! Recipes: which packages an image is made from and what of them it takes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::packages::System;

/// Where the recipes are, in the workspace: the appliance's, and one file for each container image.
const APPLIANCE: &str = "rabbit/image/recipe.toml";
const CONTAINERS: &str = "rabbit/containers";
/// Files that go into the appliance as they are.
const FILES: &str = "rabbit/image/files";

/// All recipes of the workspace.
pub struct Recipes {
    /// The appliance. It has a kernel.
    pub appliance: Recipe,
    /// Files of the appliance.
    pub files: PathBuf,
    /// Container images: name and recipe.
    pub containers: Vec<(String, Recipe)>,
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
    pub programs: Choice,
    /// For a machine: the kernel.
    pub kernel: Option<Kernel>,
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
        let appliance = read(&workspace.join(APPLIANCE))?;
        Ok(Self {
            appliance,
            files: workspace.join(FILES),
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
        std::iter::once(&self.appliance).chain(self.containers.iter().map(|(_, recipe)| recipe))
    }
}

/// Every file that the images are made of, apart from packages.
pub fn sources(workspace: &Path) -> Result<Vec<PathBuf>> {
    let mut sources = vec![workspace.join(APPLIANCE)];
    sources.extend(files(&workspace.join(CONTAINERS))?);
    sources.extend(files(&workspace.join(FILES))?);
    Ok(sources)
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
        assert_eq!(names, ["busybox", "http", "iperf3", "iproute2", "tcpreplay"]);
        assert!(recipes.appliance.kernel.is_some());
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
    fn an_unknown_word_in_a_recipe_is_refused() {
        let text = "[packages]\nall = []\n[programs]\nal = []\n";
        let error = toml::from_str::<Recipe>(text).unwrap_err().to_string();
        assert!(error.contains("`al`"), "{error}");
    }
}
