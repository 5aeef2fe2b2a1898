//! A bucket of an object store as checkpoint store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{BackoffConfig, Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig};

use super::store::{Created, Store, StoreError};

/// Tries within one request to the store; the protocol's own callers try again after that, and count it.
const RETRIES_MAX: usize = 3;

/// How long one request is retried.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);

/// How a bucket is reached; credentials come from the environment (`AWS_ACCESS_KEY_ID` and its kin, or the pod's identity).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketSettings {
    /// Address of the service; `None`: the cloud's own.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// The bucket is in the path of requests and not in the host name.
    pub is_path_style: bool,
    /// Allows an endpoint without TLS.
    pub allows_http: bool,
}

/// Opens a bucket; nothing is asked of it yet.
pub fn open_bucket(bucket: &str, settings: &BucketSettings) -> Result<AmazonS3, StoreError> {
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_TIMEOUT,
    };
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_virtual_hosted_style_request(!settings.is_path_style)
        .with_allow_http(settings.allows_http)
        .with_retry(retry);
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &settings.region {
        builder = builder.with_region(region);
    }
    builder.build().map_err(|error| StoreError {
        action: format!("open the bucket '{bucket}'"),
        reason: error.to_string(),
    })
}

/// Objects under a prefix of a bucket.
pub struct BucketStore {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    location: String,
}

impl BucketStore {
    /// A store at `s3://bucket/prefix`.
    pub fn s3(bucket: &str, prefix: &str, settings: &BucketSettings) -> Result<Self, StoreError> {
        let location = format!("s3://{bucket}/{prefix}");
        let store = open_bucket(bucket, settings)?;
        Ok(BucketStore { store: Arc::new(store), prefix: Path::from(prefix), location })
    }

    fn path(&self, key: &str) -> Path {
        Path::from(format!("{}/{key}", self.prefix))
    }

    fn failed(&self, action: &str, key: &str, error: &Error) -> StoreError {
        StoreError {
            action: format!("{action} '{key}' in '{}'", self.location),
            reason: crate::error::chain(error),
        }
    }
}

#[async_trait]
impl Store for BucketStore {
    async fn create(&self, key: &str, bytes: Vec<u8>) -> Result<Created, StoreError> {
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        match self.store.put_opts(&self.path(key), bytes.into(), options).await {
            Ok(_) => Ok(Created::Yes),
            // Also the answer to a race that nobody has won; the caller reads back what is there.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Created::Exists),
            Err(Error::NotImplemented { .. }) => Err(StoreError {
                action: format!("write '{key}' in '{}'", self.location),
                reason: "the store cannot create an object only if it is absent (If-None-Match), which checkpoints need; use \
                         a store that can"
                    .to_owned(),
            }),
            Err(error) => Err(self.failed("write", key, &error)),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let read = async { self.store.get(&self.path(key)).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            // A missing bucket looks alike, and is an error.
            Err(Error::NotFound { ref source, .. }) if !source.to_string().contains("NoSuchBucket") => {
                Ok(None)
            }
            Err(error) => Err(self.failed("read", key, &error)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.store.list(Some(&self.path(prefix))).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|error| self.failed("list", prefix, &error))?;
        let start = self.prefix.as_ref().len() + 1;
        let keys = listed.iter().filter_map(|object| object.location.as_ref().get(start..));
        let mut keys: Vec<String> = keys.map(str::to_owned).collect();
        keys.sort();
        Ok(keys)
    }

    fn location(&self) -> String {
        self.location.clone()
    }
}
