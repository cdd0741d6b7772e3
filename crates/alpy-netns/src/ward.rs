// SPDX-License-Identifier: GPL-3.0-or-later
//! What a guardian is told, a line of JSON each.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::InterfaceName;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Word {
    /// From now on this is to be removed.
    Ward(Ward),
    /// All is in order: there is nothing to remove any more.
    Done,
}

/// What may be there when its maker is gone.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ward {
    /// The containers of an engine that have a label, `name=value`.
    Containers { socket: PathBuf, label: String },
    /// A folder with all that is in it.
    Folder(PathBuf),
    /// A tap that stays without a descriptor, in the namespace of the guardian.
    Tap(InterfaceName),
}
