// SPDX-License-Identifier: GPL-3.0-or-later
//! Images: is it there, and if not, make it.

use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::pin::pin;
use std::time::{Duration, SystemTime};

use bollard::body_try_stream;
use bollard::models::ImageSummary;
use bollard::query_parameters::{
    BuildImageOptions, CreateImageOptions, ImportImageOptions, ListImagesOptions, RemoveImageOptions,
};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};

use crate::archive::Source;
use crate::engine::ask_within;
use crate::plain::{encode, post};
use crate::{Engine, Error, Result, Tar};

/// How long it may take to make an image: large ones come over a network.
const IMAGE_LIMIT: Duration = Duration::from_secs(600);

/// The label of images made here: what for.
const TAG_LABEL: &str = "alpy.tag";

impl Engine {
    /// True if the engine has an image of this name. Cancel safe.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn image_present(&self, image: &str) -> Result<bool> {
        check_image(image)?;
        let step = format!("look for image {image}");
        match self.ask(&step, self.docker.inspect_image(image)).await {
            Ok(_) => Ok(true),
            Err(Error::Refused { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes sure that an image is there: if it is not, runs `make`, which shall import, load, build or pull it. Two
    /// processes may do this at once.
    ///
    /// As cancel safe as `make` is.
    ///
    /// ```no_run
    /// # async fn example(engine: &alpy_docker::Engine) -> alpy_docker::Result<()> {
    /// use alpy_docker::Tar;
    ///
    /// let make = || engine.import_image("tool:1", Tar::file("tool.tar"), &["ENV PATH=/bin"]);
    /// engine.ensure_image("tool:1", make).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of the engine and of `make`; [`Error::ImageAbsent`] if the image is not there after `make`.
    pub async fn ensure_image<E, F>(&self, image: &str, make: impl FnOnce() -> F) -> Result<(), E>
    where
        E: From<Error>,
        F: Future<Output = Result<(), E>>,
    {
        if self.image_present(image).await? {
            return Ok(());
        }
        make().await?;
        if self.image_present(image).await? {
            return Ok(());
        }
        Err(Error::ImageAbsent {
            image: image.to_owned(),
        }
        .into())
    }

    /// Makes an image of the files in an archive, as `docker import`. The changes are lines of a Dockerfile: `ENV`, `CMD`,
    /// `ENTRYPOINT`, `USER`, `WORKDIR`, `LABEL`. Give `ENV PATH=...`: without it the image has none.
    ///
    /// An image that had the name before loses it, and is removed if nothing uses it. Not cancel safe: the engine may or may
    /// not finish the import.
    ///
    /// # Errors
    /// [`Error::ImageFailed`] with the engine's reason.
    pub async fn import_image(&self, image: &str, root: impl Into<Tar>, changes: &[&str]) -> Result<()> {
        check_image(image)?;
        let label = format!("LABEL {TAG_LABEL}={image}");
        // Repository and tag together, as the Docker CLI does it: Podman has no parameter for the tag. And each change by
        // itself: of the one parameter that bollard makes of them, Podman makes one change.
        let mut path = format!("/images/create?fromSrc=-&repo={}", encode(image));
        for change in changes.iter().chain([&label.as_str()]) {
            path += &format!("&changes={}", encode(change));
        }
        let (socket, root) = (self.socket(), root.into());
        let length = root.length()?;
        let progress = stream::once(post(&socket, &path, length, body(root)?));
        make("import", image, progress).await?;
        self.remove_superseded(image).await
    }

    /// Loads the images that `docker save` wrote, under the names that they had. Not cancel safe.
    ///
    /// # Errors
    /// [`Error::ImageFailed`] with the engine's reason.
    pub async fn load_images(&self, saved: impl Into<Tar>) -> Result<()> {
        let saved = saved.into();
        let name = saved.to_string();
        let options = ImportImageOptions {
            quiet: true,
            platform: None,
        };
        make(
            "load",
            &name,
            self.docker
                .import_image(options, body_try_stream(body(saved)?), None),
        )
        .await
    }

    /// Builds an image from an archive with a `Dockerfile` at its top. Not cancel safe.
    ///
    /// # Errors
    /// [`Error::ImageFailed`] with the engine's reason.
    pub async fn build_image(&self, image: &str, context: impl Into<Tar>) -> Result<()> {
        check_image(image)?;
        let options = BuildImageOptions {
            dockerfile: "Dockerfile".to_owned(),
            t: Some(image.to_owned()),
            labels: Some(HashMap::from([(TAG_LABEL.to_owned(), image.to_owned())])),
            rm: true,
            forcerm: true,
            ..Default::default()
        };
        let progress = self
            .docker
            .build_image(options, None, Some(body_try_stream(body(context.into())?)));
        make("build", image, progress).await?;
        self.remove_superseded(image).await
    }

    /// Pulls an image from its registry. Not cancel safe.
    ///
    /// # Errors
    /// [`Error::PullFailed`] with the engine's reason.
    pub async fn pull_image(&self, image: &str) -> Result<()> {
        check_image(image)?;
        let (repo, tag) = split_tag(image);
        let options = CreateImageOptions {
            from_image: Some(repo.to_owned()),
            tag: Some(tag.to_owned()),
            ..Default::default()
        };
        make("pull", image, self.docker.create_image(Some(options), None, None))
            .await
            .map_err(|error| match error {
                Error::ImageFailed { image, reason, .. } => Error::PullFailed { image, reason },
                other => other,
            })
    }

    /// Removes an image by name. One that is not there is fine. Cancel safe in that it can be called again.
    ///
    /// # Errors
    /// [`Error::Refused`] while a container uses it.
    pub async fn remove_image(&self, image: &str) -> Result<()> {
        check_image(image)?;
        let step = format!("remove image {image}");
        match self
            .ask(
                &step,
                self.docker.remove_image(image, None::<RemoveImageOptions>, None),
            )
            .await
        {
            Ok(_) | Err(Error::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes the images that had this name and lost it to a later one, so that importing one name again and again, or from
    /// two processes at once, does not pile them up. Those in use stay until next time, and on Podman those of the last minute.
    async fn remove_superseded(&self, image: &str) -> Result<()> {
        let filter = |name: &str, value: String| (name.to_owned(), vec![value]);
        let filters = [
            filter("dangling", "true".to_owned()),
            filter("label", format!("{TAG_LABEL}={image}")),
        ];
        let options = ListImagesOptions {
            filters: Some(HashMap::from(filters)),
            ..Default::default()
        };
        let step = format!("look for images that {image} replaced");
        let listed = self.ask(&step, self.docker.list_images(Some(options))).await;
        // Podman cannot list while somebody else removes what it is about to list.
        let old = listed.or_else(|error| match error {
            Error::Refused { .. } => Ok(Vec::new()),
            error => Err(error),
        })?;
        // Podman names an image after it has made it: one that is new may be that of somebody else, on its way to its name.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let settled = |image: &ImageSummary| !self.info().podman || image.created.unsigned_abs() + 60 < now;
        for old in old.into_iter().filter(settled) {
            if let Err(error) = self.remove_image(&old.id).await {
                tracing::debug!(%error, "a replaced image stays");
            }
        }
        Ok(())
    }
}

/// Refuses a name that would change the request's path.
pub(crate) fn check_image(image: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-:/@".contains(&byte);
    let parts = image.split(['/', ':', '@']);
    let sound = |part: &str| part.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_');
    if image.bytes().all(plain) && parts.into_iter().all(sound) {
        return Ok(());
    }
    Err(Error::Invalid {
        what: "image name",
        value: image.to_owned(),
        why: "it must read like registry.example/folder/name:tag",
    })
}

/// Repository and tag or digest. A colon before the last slash belongs to a port.
fn split_tag(image: &str) -> (&str, &str) {
    if let Some((repo, digest)) = image.split_once('@') {
        return (repo, digest);
    }
    match image.rsplit_once(':') {
        Some((repo, tag)) if !tag.contains('/') => (repo, tag),
        _ => (image, "latest"),
    }
}

/// Follows the engine's reports to their end.
async fn make<T>(
    verb: &'static str,
    image: &str,
    progress: impl Stream<Item = Result<T, bollard::errors::Error>>,
) -> Result<()> {
    let mut progress = pin!(progress);
    let all = async {
        while progress.try_next().await?.is_some() {}
        Ok(())
    };
    match ask_within(IMAGE_LIMIT, &format!("{verb} image {image}"), all).await {
        Err(Error::Refused { reason, .. }) => Err(Error::ImageFailed {
            verb,
            image: image.to_owned(),
            reason,
        }),
        other => other,
    }
}

/// The archive as the body of a request. A file is read as the engine takes it, never whole.
fn body(tar: Tar) -> Result<BoxStream<'static, io::Result<Bytes>>> {
    const CHUNK: u64 = 1 << 20;
    let path = match tar.0 {
        Source::Bytes(bytes) => return Ok(stream::iter([Ok(bytes)]).boxed()),
        Source::File(path) => path,
    };
    let file = File::open(&path).map_err(|source| Error::File { path, source })?;
    let chunks = stream::try_unfold(file, async |mut file| {
        let read = move || {
            let mut chunk = Vec::new();
            file.by_ref().take(CHUNK).read_to_end(&mut chunk)?;
            Ok((!chunk.is_empty()).then(|| (Bytes::from(chunk), file)))
        };
        tokio::task::spawn_blocking(read)
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    });
    Ok(chunks.boxed())
}
