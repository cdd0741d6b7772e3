// SPDX-License-Identifier: GPL-3.0-or-later
//! The contexts of the Docker CLI, as its files have them.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{Error, Result};

/// `currentContext` of `config.json`. A file that cannot be read names none, as for the CLI.
pub(crate) fn current(config: &Path) -> Result<Option<String>> {
    let file = config.join("config.json");
    let Ok(text) = fs::read(&file) else {
        return Ok(None);
    };
    let settings: Value = serde_json::from_slice(&text).map_err(|error| Error::BadContext {
        context: "current".to_owned(),
        place: file,
        reason: error.to_string(),
    })?;
    Ok(settings["currentContext"]
        .as_str()
        .filter(|name| !name.is_empty())
        .map(str::to_owned))
}

/// The address in the context of this name.
///
/// The folder of a context is named by the SHA-256 of its name. The name itself is in the file too, so reading each file saves a hash.
pub(crate) fn address(config: Option<&Path>, name: &str) -> Result<String> {
    let place = config.map_or_else(|| "$HOME/.docker".into(), |config| config.join("contexts/meta"));
    let bad = |reason: &str| Error::BadContext {
        context: name.to_owned(),
        place: place.clone(),
        reason: reason.to_owned(),
    };
    if config.is_none() {
        return Err(bad("HOME is not set"));
    }
    let folders = match fs::read_dir(&place) {
        Ok(folders) => folders,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(bad("no such context")),
        Err(error) => return Err(bad(&error.to_string())),
    };
    folders
        .filter_map(|folder| fs::read(folder.ok()?.path().join("meta.json")).ok())
        .filter_map(|text| serde_json::from_slice::<Value>(&text).ok())
        .find(|meta| meta["Name"] == name)
        .ok_or_else(|| bad("no such context"))?["Endpoints"]["docker"]["Host"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| bad("it has no Docker endpoint"))
}
