//! Objects of a bucket: read by ranges, the next one under way while the last one is decoded.

use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

use super::super::SourceError;
use super::{Found, Input, Ranges};
use crate::checkpoint::BucketSettings;
use crate::checkpoint::bucket::{explain, open_bucket};

/// Bytes asked for at a time: enough that the round trips do not count.
const RANGE_BYTES: u64 = 4 << 20;

/// The same where what was fetched ahead was not used: what is read at a time.
const RANGE_BYTES_MIN: u64 = super::READ_BYTES as u64;

/// Ranges that are asked for at a time.
const RANGES_MAX: usize = 8;

/// Begins the version of an object that has no entity tag.
const UNTAGGED: &str = "changed at ";

/// A folder of a bucket.
#[derive(Clone)]
pub struct Bucket {
    name: String,
    store: Arc<AmazonS3>,
    settings: BucketSettings,
}

impl Bucket {
    /// Opens a bucket; nothing is asked of it yet.
    pub fn open(name: &str, settings: &BucketSettings) -> Result<Self, SourceError> {
        let store = open_bucket(name, settings).map_err(|error| SourceError::Data {
            message: format!("failed to open the bucket '{name}': {}", error.reason),
        })?;
        Ok(Bucket { name: name.to_owned(), store: Arc::new(store), settings: settings.clone() })
    }

    /// Objects below a folder, or the one of that name. Those with a part that begins with `.` or `_` are not found.
    pub async fn list(&self, folder: &str) -> Result<Vec<Found>, SourceError> {
        let folder = path_of(folder);
        let action = || format!("list 's3://{}/{folder}'", self.name);
        let listed = self.store.list(Some(&folder)).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|error| self.failed(action(), &error))?;
        let is_hidden = |object: &ObjectMeta| {
            let below = object.location.prefix_match(&folder);
            below.is_some_and(|mut parts| parts.any(|part| part.as_ref().starts_with(['.', '_'])))
        };
        let mut found: Vec<Found> =
            listed.into_iter().filter(|object| !is_hidden(object) && object.size > 0).map(found).collect();
        if found.is_empty() {
            match self.store.head(&folder).await {
                Ok(object) => found.push(self::found(object)),
                // A bucket has no empty folders.
                Err(Error::NotFound { .. }) => {
                    let reason = "there is nothing; put files there, or correct the option 'path'";
                    let source = std::io::Error::new(std::io::ErrorKind::NotFound, reason);
                    return Err(SourceError::Io { action: action(), source });
                }
                Err(error) => return Err(self.failed(action(), &error)),
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Reads an object from a byte on.
    pub fn read(&self, found: Found, from: u64) -> Object {
        Object {
            key: path_of(&found.path),
            bucket: self.clone(),
            length: found.length,
            tag: found.tag,
            next: from,
            range_bytes: RANGE_BYTES,
            runtime: Handle::current(),
            fetching: None,
            at_hand: Bytes::new(),
            ranges: None,
            asked: 0,
        }
    }

    fn failed(&self, action: String, error: &Error) -> SourceError {
        SourceError::Io { action, source: std::io::Error::other(explain(error, &self.settings)) }
    }
}

/// A key as it is: names of partitions may be escaped already.
fn path_of(key: &str) -> Path {
    Path::parse(key).unwrap_or_else(|_| Path::from(key))
}

fn found(object: ObjectMeta) -> Found {
    let tag = Some(version(&object));
    Found { path: object.location.to_string(), length: object.size, tag }
}

/// The entity tag of an object, if the store has one.
fn entity_tag(object: &ObjectMeta) -> Option<&str> {
    object.e_tag.as_deref().filter(|tag| !tag.trim_matches('"').is_empty())
}

/// What differs once another object takes the place of one: its entity tag or, where a store has none for an object (one
/// that was put past it, into its folder), the second of its last change.
fn version(object: &ObjectMeta) -> String {
    match entity_tag(object) {
        Some(tag) => tag.to_owned(),
        None => format!("{UNTAGGED}{}", object.last_modified.timestamp()),
    }
}

/// An object, read in order.
pub struct Object {
    bucket: Bucket,
    key: Path,
    length: u64,
    /// Of the very object that was listed: another one under its name is refused.
    tag: Option<String>,
    /// First byte that was not asked for.
    next: u64,
    range_bytes: u64,
    /// Where requests run: not on the threads of tasks.
    runtime: Handle,
    fetching: Option<JoinHandle<Result<Bytes, Error>>>,
    at_hand: Bytes,
    /// Ranges that were asked for.
    ranges: Option<JoinHandle<Result<Vec<Bytes>, Error>>>,
    /// Bytes that are under way.
    asked: usize,
}

impl Object {
    fn fetch(&mut self) {
        if self.next >= self.length {
            return;
        }
        let end = (self.next + self.range_bytes).min(self.length);
        let fetch = self.range(self.next..end);
        self.asked = (end - self.next) as usize;
        self.next = end;
        self.fetching = Some(self.runtime.spawn(fetch));
    }

    fn range(&self, range: Range<u64>) -> impl Future<Output = Result<Bytes, Error>> + Send + use<> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: self.tag.clone().filter(|tag| !tag.starts_with(UNTAGGED)),
            ..Default::default()
        };
        let (store, key) = (Arc::clone(&self.bucket.store), self.key.clone());
        let (length, tag) = (self.length, self.tag.clone());
        async move { fetch_range(&store, &key, options, length, tag.as_deref()).await }
    }

    fn not_read(&self, ended: Result<Error, JoinError>) -> SourceError {
        match ended {
            Ok(error) => self.failed(&error),
            Err(error) => SourceError::Io { action: format!("read '{}'", self.key), source: error.into() },
        }
    }

    fn failed(&self, error: &Error) -> SourceError {
        let address = format!("s3://{}/{}", self.bucket.name, self.key);
        match error {
            Error::Precondition { .. } => SourceError::Data {
                message: format!(
                    "'{address}' has changed since the job began to read it, and cannot be read on from where it was; put the \
                     former object back, or start over"
                ),
            },
            error => self.bucket.failed(format!("read '{address}'"), error),
        }
    }
}

/// A part of the very object that was listed. Not every store minds `If-Match`, so what comes is looked at as well.
async fn fetch_range(
    store: &AmazonS3,
    key: &Path,
    options: GetOptions,
    length: u64,
    tag: Option<&str>,
) -> Result<Bytes, Error> {
    let is_other =
        |object: &ObjectMeta| object.size != length || tag.is_some_and(|tag| tag != version(object));
    let changed = || Error::Precondition { path: key.to_string(), source: "it is another object".into() };
    match store.get_opts(key, options).await {
        Ok(found) if is_other(&found.meta) => Err(changed()),
        Ok(found) => found.bytes().await,
        // A range that a shorter object does not have is an error of its own.
        Err(error) => match store.head(key).await {
            Ok(object) if is_other(&object) => Err(changed()),
            _ => Err(error),
        },
    }
}

impl Input for Object {
    fn poll_append(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Vec<u8>,
        most: usize,
    ) -> Poll<Result<usize, SourceError>> {
        if self.at_hand.is_empty() {
            if self.fetching.is_none() {
                self.fetch();
            }
            let Some(fetching) = &mut self.fetching else { return Poll::Ready(Ok(0)) };
            let fetched = ready!(fetching.poll_unpin(cx));
            (self.fetching, self.asked) = (None, 0);
            match fetched {
                Ok(Ok(bytes)) => self.at_hand = bytes,
                Ok(Err(error)) => return Poll::Ready(Err(self.not_read(Ok(error)))),
                Err(error) => return Poll::Ready(Err(self.not_read(Err(error)))),
            }
            self.fetch();
            self.range_bytes = (2 * self.range_bytes).min(RANGE_BYTES);
        }
        let given = self.at_hand.split_to(most.min(self.at_hand.len()));
        buffer.extend_from_slice(&given);
        Poll::Ready(Ok(given.len()))
    }

    fn held(&self) -> usize {
        self.at_hand.len() + self.asked
    }

    fn go_on_at(&mut self, next: u64) {
        if let Some(fetching) = self.fetching.take() {
            fetching.abort();
        }
        (self.at_hand, self.asked, self.next) = (Bytes::new(), 0, next);
        self.range_bytes = (self.range_bytes / 4).max(RANGE_BYTES_MIN);
    }
}

impl Ranges for Object {
    fn poll_ranges(
        &mut self,
        cx: &mut Context<'_>,
        ranges: &[Range<u64>],
    ) -> Poll<Result<Vec<Bytes>, SourceError>> {
        if self.ranges.is_none() {
            let fetches: Vec<_> = ranges.iter().map(|range| self.range(range.clone())).collect();
            let fetches = futures::stream::iter(fetches).buffered(RANGES_MAX).try_collect();
            self.asked = ranges.iter().map(|range| (range.end - range.start) as usize).sum();
            self.ranges = Some(self.runtime.spawn(fetches));
        }
        let Some(fetching) = &mut self.ranges else { return Poll::Ready(Ok(Vec::new())) };
        let fetched = ready!(fetching.poll_unpin(cx));
        (self.ranges, self.asked) = (None, 0);
        Poll::Ready(match fetched {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(self.not_read(Ok(error))),
            Err(error) => Err(self.not_read(Err(error))),
        })
    }

    fn asked(&self) -> usize {
        self.asked
    }

    fn forget(&mut self) {
        if let Some(fetching) = self.ranges.take() {
            fetching.abort();
        }
        self.asked = 0;
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if let Some(fetching) = &self.fetching {
            fetching.abort();
        }
        if let Some(fetching) = &self.ranges {
            fetching.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn another_object_has_another_version() {
        let object = |tag: Option<&str>, second| ObjectMeta {
            location: Path::from("in/rows.jsonl"),
            last_modified: DateTime::from_timestamp(second, 7).unwrap(),
            size: 3,
            e_tag: tag.map(str::to_owned),
            version: None,
        };
        assert_eq!(version(&object(Some("\"a\""), 1)), version(&object(Some("\"a\""), 2)));
        assert_ne!(version(&object(Some("\"a\""), 1)), version(&object(Some("\"b\""), 1)));
        // A listing may say an empty tag where a read says none.
        assert_eq!(version(&object(Some("\"\""), 1)), version(&object(None, 1)));
        assert_ne!(version(&object(None, 1)), version(&object(None, 2)));
    }
}
