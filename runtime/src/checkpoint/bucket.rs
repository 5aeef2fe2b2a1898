//! A bucket of an object store as checkpoint store.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    BackoffConfig, CredentialProvider, Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig,
};

use super::store::{Created, Store, StoreError};

/// Tries within one request to the store; the protocol's own callers try again after that, and count it.
const RETRIES_MAX: usize = 3;

/// How long one request is retried.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);

/// How a bucket is reached. Without mounted credentials they come from the environment (`AWS_ACCESS_KEY_ID` and its kin, or the
/// pod's identity).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketSettings {
    /// Address of the service; `None`: the cloud's own.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// The bucket is in the path of requests and not in the host name.
    pub is_path_style: bool,
    /// Allows an endpoint without TLS.
    pub allows_http: bool,
    pub credentials: Option<MountedCredentials>,
}

/// The keys of a Secret, mounted as files. They are read for every request: a Secret that is made, corrected or rotated later is
/// seen by running processes as soon as the kubelet has written it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedCredentials {
    /// The Secret's name, for messages.
    pub secret: String,
    pub folder: PathBuf,
}

impl MountedCredentials {
    /// The value of a key, which may be absent.
    fn value(&self, key: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.folder.join(key)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// What the Secret has, whatever it is good for.
    fn keys(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort_unstable();
        names
    }

    fn required(&self, key: &str) -> object_store::Result<String> {
        self.value(key).ok_or_else(|| {
            let keys = self.keys();
            let what = match keys.is_empty() {
                true => format!("does not exist or has no key {key}"),
                false => format!("has no key {key}, but {}", keys.join(", ")),
            };
            let text = format!(
                "spec.storage.credentials: the Secret '{}' {what}; add it, and the job goes on",
                self.secret
            );
            Error::Generic { store: "S3", source: text.into() }
        })
    }
}

#[async_trait]
impl CredentialProvider for MountedCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        Ok(Arc::new(AwsCredential {
            key_id: self.required(KEY_ID)?,
            secret_key: self.required(SECRET_KEY)?,
            token: self.value(TOKEN),
        }))
    }
}

const KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";
const TOKEN: &str = "AWS_SESSION_TOKEN";

/// An error of a store with all its causes, and what to do about those that a user causes.
pub fn explain(error: &Error, settings: &BucketSettings) -> String {
    let text = without_document(&crate::error::chain(error));
    let is_refused = matches!(error, Error::Unauthenticated { .. } | Error::PermissionDenied { .. })
        || ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"]
            .iter()
            .any(|code| text.contains(code));
    if text.contains("NoSuchBucket") {
        format!("{text}; make the bucket, or name one that exists")
    } else if is_full(&text) {
        format!("{text}; the store is full: make room, and the job goes on")
    } else if is_refused {
        match &settings.credentials {
            Some(mounted) => format!(
                "{text}; spec.storage.credentials: correct {KEY_ID} and {SECRET_KEY} in the Secret '{}', or what they may do",
                mounted.secret
            ),
            None => format!("{text}; check {KEY_ID} and {SECRET_KEY}, or what they may do"),
        }
    } else if text.contains(NO_ANSWER) {
        format!("{text}; is spec.storage.endpoint right, and does it answer?")
    } else if is_failing(&text) {
        format!("{text}; the store does not work at the moment, and is asked again")
    } else {
        text
    }
}

/// True if a store does not answer, or answers that it does not work: it may at any time again.
pub fn is_outage(error: &Error) -> bool {
    // What is gone or there already stays so, whatever numbers its name has.
    let is_answer = matches!(
        error,
        Error::NotFound { .. }
            | Error::AlreadyExists { .. }
            | Error::Precondition { .. }
            | Error::NotModified { .. }
    );
    let text = crate::error::chain(error);
    if is_answer {
        return false;
    }
    text.contains(NO_ANSWER) || is_failing(&text) || is_full(&text)
}

const NO_ANSWER: &str = "error sending request";

fn is_full(text: &str) -> bool {
    ["507 Insufficient", "InsufficientStorage", "No space left", "QuotaExceeded", "XMinioStorageFull"]
        .iter()
        .any(|sign| text.contains(sign))
}

fn is_failing(text: &str) -> bool {
    ["503 ", "ServiceUnavailable", "500 Internal", "SlowDown"].iter().any(|sign| text.contains(sign))
}

/// A message with an S3 error document cut down to its code and message: the whole names keys and signatures.
fn without_document(text: &str) -> String {
    let Some(start) = text.find("<?xml").or_else(|| text.find("<Error>")) else { return text.to_owned() };
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.trim())
    };
    let parts: Vec<&str> = [element("Code"), element("Message")].into_iter().flatten().collect();
    format!("{}{}", &text[..start], parts.join(": "))
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
    if let Some(mounted) = &settings.credentials {
        if let Some(region) = mounted.value("AWS_REGION").filter(|_| settings.region.is_none()) {
            builder = builder.with_region(region);
        }
        builder = builder.with_credentials(Arc::new(mounted.clone()));
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
    settings: BucketSettings,
}

impl BucketStore {
    /// A store at `s3://bucket/prefix`.
    pub fn s3(bucket: &str, prefix: &str, settings: &BucketSettings) -> Result<Self, StoreError> {
        let location = format!("s3://{bucket}/{prefix}");
        let store = open_bucket(bucket, settings)?;
        Ok(BucketStore {
            store: Arc::new(store),
            prefix: Path::from(prefix),
            location,
            settings: settings.clone(),
        })
    }

    fn path(&self, key: &str) -> Path {
        Path::from(format!("{}/{key}", self.prefix))
    }

    fn failed(&self, action: &str, key: &str, error: &Error) -> StoreError {
        StoreError {
            action: format!("{action} '{key}' in '{}'", self.location),
            reason: explain(error, &self.settings),
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
            Err(Error::NotImplemented { .. }) => Ok(Created::Unsupported),
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

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        match self.store.get_range(&self.path(key), range).await {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(Error::NotFound { ref source, .. }) if !source.to_string().contains("NoSuchBucket") => {
                Ok(None)
            }
            Err(error) => Err(self.failed("read", key, &error)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.store.list(Some(&self.path(prefix))).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|error| self.failed("list", prefix, &error))?;
        let start = match self.prefix.as_ref() {
            "" => 0,
            prefix => prefix.len() + 1,
        };
        let keys = listed.iter().filter_map(|object| object.location.as_ref().get(start..));
        let mut keys: Vec<String> = keys.map(str::to_owned).collect();
        keys.sort();
        Ok(keys)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let paths: Vec<object_store::Result<Path>> = keys.iter().map(|key| Ok(self.path(key))).collect();
        let mut deleted = self.store.delete_stream(futures::stream::iter(paths).boxed());
        while let Some(deleted) = deleted.next().await {
            match deleted {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(self.failed("remove", "old objects", &error)),
            }
        }
        Ok(())
    }

    fn location(&self) -> String {
        self.location.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_store_are_short_and_name_the_cure() {
        let document = "403 Forbidden: <?xml version=\"1.0\"?>\n<Error><Code>SignatureDoesNotMatch</Code>\
                        <Message>Check your key.</Message><StringToSign>signed-text</StringToSign></Error>";
        let error = |text: &str| Error::Generic { store: "S3", source: text.to_owned().into() };
        let credentials = MountedCredentials { secret: "s3".to_owned(), folder: PathBuf::new() };
        let on_cluster = BucketSettings { credentials: Some(credentials), ..Default::default() };
        let here = BucketSettings::default();
        let cases = [
            (
                document,
                &on_cluster,
                "403 Forbidden: SignatureDoesNotMatch: Check your key.; spec.storage.credentials: correct",
            ),
            (document, &on_cluster, "in the Secret 's3'"),
            (document, &here, "; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            ("<Error><Code>NoSuchBucket</Code></Error>", &here, "NoSuchBucket; make the bucket"),
            ("error sending request", &here, "is spec.storage.endpoint right"),
            ("503 Service Unavailable", &here, "does not work at the moment"),
            ("500 Internal: write: No space left on device", &here, "make room, and the job goes on"),
        ];
        for (text, settings, expected) in cases {
            let said = explain(&error(text), settings);
            assert!(
                said.contains(expected) && !said.contains("signed-text") && !said.contains('<'),
                "{said}"
            );
        }
        for (text, expected) in [
            ("503 Service Unavailable", true),
            ("507 Insufficient Storage", true),
            ("error sending request", true),
            ("NoSuchBucket", false),
        ] {
            assert_eq!(is_outage(&error(text)), expected, "{text}");
        }
        assert!(explain(&error("odd"), &here).ends_with("odd"), "what has no cure is left as it is");
    }

    #[tokio::test]
    async fn mounted_credentials_are_read_anew_and_what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mounted = MountedCredentials { secret: "s3".to_owned(), folder: folder.path().to_owned() };

        let missing = mounted.get_credential().await.unwrap_err().to_string();
        assert!(
            missing.contains("the Secret 's3' does not exist or has no key AWS_ACCESS_KEY_ID"),
            "{missing}"
        );

        for key in ["first", "second"] {
            std::fs::write(folder.path().join(KEY_ID), format!("{key}\n")).unwrap();
            std::fs::write(folder.path().join(SECRET_KEY), "x").unwrap();
            assert_eq!(mounted.get_credential().await.unwrap().key_id, key);
        }
    }
}
