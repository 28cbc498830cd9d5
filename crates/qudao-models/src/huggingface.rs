//! Files from Hugging Face, with resumption of a broken download.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::error::ModelsError;
use crate::pull::Progress;

/// The publisher's site. `HF_ENDPOINT` names a mirror, as with Hugging Face's own tools.
const SITE: &str = "https://huggingface.co";
/// A machine without a way out should learn so within seconds and go on to the next source.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence after which a download counts as broken; it is resumed on the next run.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Hugging Face, or a mirror of it.
#[derive(Clone, Debug)]
pub struct HuggingFace {
    site: String,
}

impl Default for HuggingFace {
    fn default() -> Self {
        Self::at(SITE)
    }
}

impl HuggingFace {
    /// The site at this base URL.
    pub fn at(site: &str) -> Self {
        Self { site: site.trim_end_matches('/').to_owned() }
    }

    /// Fetches a file to `to`, which may hold the beginning of it from an earlier try.
    ///
    /// # Errors
    /// [`ModelsError::Fetch`], [`ModelsError::File`].
    pub async fn fetch(
        &self,
        repository: &str,
        file: &str,
        to: &Path,
        progress: &Progress<'_>,
    ) -> Result<(), ModelsError> {
        let failed =
            |reason: String| ModelsError::Fetch { what: format!("{repository}/{file}"), reason };
        let io = |source| ModelsError::File { path: to.to_owned(), source };
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| failed(chain(&error)))?;
        let mut have = tokio::fs::metadata(to).await.map_or(0, |meta| meta.len());
        let request = client.get(format!("{}/{repository}/resolve/main/{file}", self.site));
        let request =
            if have > 0 { request.header("range", format!("bytes={have}-")) } else { request };
        let mut response = request.send().await.map_err(|error| failed(chain(&error)))?;
        match response.status().as_u16() {
            206 => {}
            // What we hold is the whole file; the checksum will tell.
            416 if have > 0 => return Ok(()),
            200 => have = 0,
            status => return Err(failed(format!("the server answers {status}"))),
        }
        let total = response.content_length().map(|length| length + have);
        let mut options = tokio::fs::OpenOptions::new();
        options.create(true).write(true).append(have > 0).truncate(have == 0);
        let mut out = options.open(to).await.map_err(io)?;
        while let Some(piece) = response.chunk().await.map_err(|error| failed(chain(&error)))? {
            out.write_all(&piece).await.map_err(io)?;
            have += piece.len() as u64;
            progress(repository, have, total);
        }
        out.flush().await.map_err(io)
    }
}

/// An error with its causes: reqwest's own text leaves out why.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
