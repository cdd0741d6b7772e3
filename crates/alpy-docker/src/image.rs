// SPDX-License-Identifier: GPL-3.0-or-later
//! Images: is it there, and if not, make it.

use crate::{Engine, Error, Result, Tar};

impl Engine {
    /// True if the engine has an image of this name.
    pub async fn image_present(&self, _image: &str) -> Result<bool> {
        unimplemented!()
    }

    /// Makes sure that an image is there: if it is not, runs `make`, which shall import, load, build or pull it.
    ///
    /// ```no_run
    /// # async fn example(engine: &alpy_docker::Engine) -> alpy_docker::Result<()> {
    /// engine
    ///     .ensure_image("tool:1", async || engine.import_image("tool:1", alpy_docker::Tar::file("tool.tar"), &["ENV PATH=/bin"]).await)
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub async fn ensure_image<E: From<Error>>(
        &self,
        _image: &str,
        _make: impl AsyncFnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        unimplemented!()
    }

    /// Makes an image of the files in an archive, as `docker import`. The changes are lines of a Dockerfile: `ENV`, `CMD`,
    /// `ENTRYPOINT`, `USER`, `WORKDIR`, ... Give `ENV PATH=...`: without it the image has none.
    pub async fn import_image(&self, _image: &str, _root: impl Into<Tar>, _changes: &[&str]) -> Result<()> {
        unimplemented!()
    }

    /// Loads the images that `docker save` wrote.
    pub async fn load_images(&self, _saved: impl Into<Tar>) -> Result<()> {
        unimplemented!()
    }

    /// Builds an image from an archive with a `Dockerfile` at its top.
    pub async fn build_image(&self, _image: &str, _context: impl Into<Tar>) -> Result<()> {
        unimplemented!()
    }

    /// Pulls an image from its registry.
    pub async fn pull_image(&self, _image: &str) -> Result<()> {
        unimplemented!()
    }

    /// Removes an image. One that is not there is fine.
    pub async fn remove_image(&self, _image: &str) -> Result<()> {
        unimplemented!()
    }
}
