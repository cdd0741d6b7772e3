// SPDX-License-Identifier: GPL-3.0-or-later
//! Images: is it there, and if not, make it.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, Read};
use std::pin::pin;
use std::time::Duration;

use bollard::body_try_stream;
use bollard::query_parameters::{
    BuildImageOptions, CreateImageOptions, ImportImageOptions, ListImagesOptions, RemoveImageOptions,
};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};

use crate::archive::Opened;
use crate::engine::ask_within;
use crate::plain::{encode, post};
use crate::{Engine, Error, Result, Tar};

/// How long it may take to make an image: large ones come over a network.
const IMAGE_LIMIT: Duration = Duration::from_secs(600);

/// An image that lost its name stays for so many seconds: an engine finds an image by its name first, and uses it later. On a busy machine
/// that takes seconds; no request takes longer than its limit of 30.
const GRACE: i64 = 60;

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
    /// An image that had the name before loses it. Once another one has had the name for a minute, a later import removes it if nothing
    /// uses it: until then, a container may be under way to it. Not cancel safe: the engine may or may not finish the import.
    ///
    /// # Errors
    /// [`Error::ImageFailed`] with the engine's reason, or if the archive is not a regular file; [`Error::Timeout`] after 10 minutes.
    pub async fn import_image(&self, image: &str, root: impl Into<Tar>, changes: &[&str]) -> Result<()> {
        check_image(image)?;
        let label = format!("LABEL {TAG_LABEL}={image}");
        // Repository and tag together, as the Docker CLI does it: Podman has no parameter for the tag. And each change by
        // itself: of the one parameter that bollard makes of them, Podman makes one change.
        let mut path = format!("/images/create?fromSrc=-&repo={}", encode(image));
        for change in changes.iter().chain([&label.as_str()]) {
            path += &format!("&changes={}", encode(change));
        }
        let socket = self.socket();
        let (root, length) = root.into().open("import", image)?;
        let progress = stream::once(post(&socket, &path, length, body(root, length)));
        make("import", image, progress).await?;
        self.remove_superseded(image).await
    }

    /// Loads the images that `docker save` wrote, under the names that they had. Not cancel safe.
    ///
    /// # Errors
    /// As [`import_image`](Self::import_image).
    pub async fn load_images(&self, saved: impl Into<Tar>) -> Result<()> {
        let saved = saved.into();
        let name = saved.to_string();
        let (saved, length) = saved.open("load", &name)?;
        let options = ImportImageOptions {
            quiet: true,
            platform: None,
        };
        make(
            "load",
            &name,
            self.docker
                .import_image(options, body_try_stream(body(saved, length)), None),
        )
        .await
    }

    /// Builds an image from an archive with a `Dockerfile` at its top. Not cancel safe.
    ///
    /// # Errors
    /// As [`import_image`](Self::import_image).
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
        let (context, length) = context.into().open("build", image)?;
        let context = body_try_stream(body(context, length));
        let progress = self.docker.build_image(options, None, Some(context));
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
    /// two processes at once, does not pile them up. Those in use stay until next time, and so do those that lost the name
    /// [just now](GRACE).
    async fn remove_superseded(&self, image: &str) -> Result<()> {
        let filter = format!("{TAG_LABEL}={image}");
        let options = ListImagesOptions {
            filters: Some(HashMap::from([("label".to_owned(), vec![filter])])),
            ..Default::default()
        };
        let step = format!("look for images that {image} replaced");
        let listed = self.ask(&step, self.docker.list_images(Some(options))).await;
        // Podman cannot list while somebody else removes what it is about to list.
        let all = listed.or_else(|error| match error {
            Error::Refused { .. } => Ok(Vec::new()),
            error => Err(error),
        })?;
        let all = all.into_iter().map(|image| Listed {
            created: image.created,
            is_named: image.repo_tags.iter().any(|tag| tag != "<none>:<none>"),
            id: image.id,
        });
        for id in superseded(all.collect()) {
            if let Err(error) = self.remove_image(&id).await {
                tracing::debug!(%error, "a replaced image stays");
            }
        }
        Ok(())
    }
}

/// An image of a name, or one that had it before.
struct Listed {
    id: String,
    /// In seconds since 1970.
    created: i64,
    is_named: bool,
}

/// The images that have lost their name for so long that no request can be about them any more.
///
/// An image is created just before it gets its name. So one has lost its name about when the next one was created. All times are the engine's,
/// and the newest image, which was made just now, tells what time it is there.
fn superseded(mut all: Vec<Listed>) -> Vec<String> {
    all.sort_by_key(|image| image.created);
    let now = all.last().map_or(0, |newest| newest.created);
    let lost = all.iter().skip(1).map(|next| next.created);
    let with_end = all.iter().zip(lost);
    let over = with_end.filter(|(image, lost)| !image.is_named && lost + GRACE < now);
    over.map(|(image, _)| image.id.clone()).collect()
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

/// The archive as the body of a request: so many bytes, or an error. A file is read as the engine takes it, never whole.
fn body(archive: Opened, length: u64) -> BoxStream<'static, io::Result<Bytes>> {
    const CHUNK: u64 = 1 << 20;
    let file = match archive {
        Opened::Bytes(bytes) => return stream::iter([Ok(bytes)]).boxed(),
        Opened::File(file) => file,
    };
    let chunks = stream::try_unfold((file, length), move |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let read = move || {
            let mut chunk = Vec::new();
            file.by_ref().take(CHUNK.min(left)).read_to_end(&mut chunk)?;
            let left = left - chunk.len() as u64;
            match chunk.is_empty() {
                // The engine would wait for the rest.
                true => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the archive ends {left} bytes before its length of {length}"),
                )),
                false => Ok(Some((Bytes::from(chunk), (file, left)))),
            }
        };
        tokio::task::spawn_blocking(read)
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    });
    chunks.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str, created: i64, is_named: bool) -> Listed {
        let id = id.to_owned();
        Listed {
            id,
            created,
            is_named,
        }
    }

    #[tokio::test]
    async fn an_archive_that_becomes_shorter_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(3 << 20).unwrap();
        let (opened, length) = Tar::file(file.path()).open("import", "name:1").unwrap();
        let mut chunks = body(opened, length);
        assert_eq!(chunks.try_next().await.unwrap().unwrap().len(), 1 << 20);
        file.as_file().set_len(1 << 20).unwrap();
        let error = chunks.try_next().await.unwrap_err().to_string();
        assert_eq!(
            error,
            "the archive ends 2097152 bytes before its length of 3145728"
        );
    }

    /// The engine has been told how many bytes come.
    #[tokio::test]
    async fn of_an_archive_that_becomes_longer_the_rest_is_left_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(10).unwrap();
        let (opened, length) = Tar::file(file.path()).open("import", "name:1").unwrap();
        file.as_file().set_len(20).unwrap();
        let sent: Vec<Bytes> = body(opened, length).try_collect().await.unwrap();
        assert_eq!(sent.concat(), [0; 10]);
    }

    #[test]
    fn an_image_that_has_just_lost_its_name_stays() {
        // The name's present image is two minutes old: another process has imported it.
        let all = |newest| {
            vec![
                listed("third", 1200, false),
                listed("first", 1000, false),
                listed("newest", newest, true),
                listed("second", 1100, false),
            ]
        };
        // "third" lost its name when "newest" was made, which is now; "second" lost it when "third" was made.
        assert_eq!(superseded(all(1260)), ["first"]);
        assert_eq!(superseded(all(1261)), ["first", "second"]);
        assert_eq!(superseded(all(1201)), ["first"]);
    }

    #[test]
    fn only_images_without_a_name_go() {
        assert_eq!(superseded(Vec::new()), [""; 0]);
        assert_eq!(superseded(vec![listed("only", 1000, true)]), [""; 0]);
        let all = vec![
            listed("with another name", 1000, true),
            listed("old", 1010, false),
            listed("between", 1020, true),
            // Nothing tells when it lost the name to an older one, but the next import.
            listed("last", 2000, false),
        ];
        assert_eq!(superseded(all), ["old"]);
    }
}
