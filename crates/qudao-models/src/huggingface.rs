//! Files from Hugging Face, with resumption of a broken download.

use std::path::Path;
use std::time::Duration;

use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE};
use tokio::io::AsyncWriteExt;

use crate::error::ModelsError;
use crate::pull::{Progress, validator_path};

/// The publisher's site.
const SITE: &str = "https://huggingface.co";
/// A machine without a way out should learn so within seconds and go on to the next source.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence after which a download counts as broken.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a download that broke after some bytes is taken up again at once. What is here stays, so
/// that the next run goes on from there as well.
const TRIES: u32 = 5;
/// The pause before the first of them; each further one waits twice as long.
const PAUSE: Duration = Duration::from_millis(250);

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

/// Why one try ended.
enum Fault {
    /// The connection broke, or was never made.
    Broken(String),
    /// Another try would end the same way.
    Refused(String),
    /// This machine's disk.
    Disk(std::io::Error),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error)
    }
}

/// A download under way: where it goes and what vouches for the part that is here.
struct Download<'a> {
    client: &'a reqwest::Client,
    url: &'a str,
    to: &'a Path,
}

impl HuggingFace {
    /// The site at this base URL.
    pub fn at(site: &str) -> Self {
        Self { site: site.trim_end_matches('/').to_owned() }
    }

    /// Fetches a file to `to`, which may hold the beginning of it from an earlier try. A part is
    /// continued only if the site says that it still has the same file, where it says such things.
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
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| failed(chain(&error)))?;
        let url = format!("{}/{repository}/resolve/main/{file}", self.site);
        let download = Download { client: &client, url: &url, to };
        let heard = |have, total| progress(repository, have, total);
        let mut pause = PAUSE;
        for left in (0..=TRIES).rev() {
            let before = download.have().await;
            match download.attempt(before, &heard).await {
                Ok(()) => break,
                Err(Fault::Broken(_)) if left > 0 && before < download.have().await => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(Fault::Broken(reason) | Fault::Refused(reason)) => return Err(failed(reason)),
                Err(Fault::Disk(source)) => {
                    return Err(ModelsError::File { path: to.to_owned(), source });
                }
            }
        }
        drop(tokio::fs::remove_file(validator_path(to)).await);
        Ok(())
    }
}

impl Download<'_> {
    /// Bytes that are here.
    async fn have(&self) -> u64 {
        tokio::fs::metadata(self.to).await.map_or(0, |meta| meta.len())
    }

    async fn attempt(
        &self,
        mut have: u64,
        heard: &(dyn Fn(u64, Option<u64>) + Sync),
    ) -> Result<(), Fault> {
        let validator = validator_path(self.to);
        let mut request = self.client.get(self.url);
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
            if let Ok(known) = tokio::fs::read_to_string(&validator).await {
                request = request.header(IF_RANGE, known);
            }
        }
        let mut response = request.send().await.map_err(|error| Fault::Broken(chain(&error)))?;
        match response.status().as_u16() {
            206 if sent_range(response.headers()).0 == Some(have) => {}
            206 => return Err(Fault::Refused("the server sends another part than asked".into())),
            416 if have > 0 => return self.beyond(have, response.headers()).await,
            200 => {
                have = 0;
                match vouching(response.headers()) {
                    Some(known) => tokio::fs::write(&validator, known).await?,
                    None => drop(tokio::fs::remove_file(&validator).await),
                }
            }
            status => return Err(Fault::Refused(format!("the server answers {status}"))),
        }
        let total = response.content_length().map(|length| length + have);
        let mut options = tokio::fs::OpenOptions::new();
        options.create(true).write(true).append(have > 0).truncate(have == 0);
        let mut out = options.open(self.to).await?;
        let ended = loop {
            match response.chunk().await {
                Ok(Some(piece)) => {
                    out.write_all(&piece).await?;
                    have += piece.len() as u64;
                    heard(have, total);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(Fault::Broken(chain(&error))),
            }
        };
        out.flush().await?;
        ended
    }

    /// The server has nothing after what is here: it is the whole file, or one that is shorter by now.
    async fn beyond(&self, have: u64, headers: &HeaderMap) -> Result<(), Fault> {
        match sent_range(headers).1 {
            Some(total) if total != have => {
                tokio::fs::remove_file(self.to).await?;
                Err(Fault::Refused(format!(
                    "the server's file has {total} bytes and {have} were here; run again to begin anew"
                )))
            }
            // The checksum will tell.
            _ => Ok(()),
        }
    }
}

/// What the server names a file's content by: a strong tag, else its date. Weak tags may not continue a
/// download.
fn vouching(headers: &HeaderMap) -> Option<&str> {
    let text = |name| headers.get(name)?.to_str().ok();
    text(ETAG).filter(|tag| tag.starts_with('"')).or_else(|| text(LAST_MODIFIED))
}

/// The first byte of a `Content-Range`, and the length of the whole.
fn sent_range(headers: &HeaderMap) -> (Option<u64>, Option<u64>) {
    let text = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some((range, total)) = text.strip_prefix("bytes ").and_then(|rest| rest.split_once('/'))
    else {
        return (None, None);
    };
    let first = range.split_once('-').and_then(|(first, _)| first.trim().parse().ok());
    (first, total.trim().parse().ok())
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
