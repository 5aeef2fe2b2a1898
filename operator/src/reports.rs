//! Reports of all coordinators, each watched by a long poll: healthy jobs cost no timer and no request to the API server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::runtime::reflector::ObjectRef;
use millrace_crds::StreamJob;
use millrace_crds::contract::Report;
use std::sync::Mutex;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::debug;

use crate::names;

/// Longer than the coordinator's own limit of a long poll.
const ANSWER_MAX: Duration = Duration::from_secs(40);

/// Between tries to reach a coordinator that does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Bodies above this are refused: a report is some hundred bytes.
const BODY_BYTES_MAX: usize = 1 << 20;

/// How long the first look at a coordinator may take.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(2);

/// New checkpoints alone are news this often: an idle, healthy job costs no more requests to the API server.
const CHECKPOINT_NEWS_MS: u64 = 60_000;

/// True if a reconcile should look at a report, after one that it has looked at.
fn is_news(told: Option<&Report>, report: Option<&Report>) -> bool {
    let (Some(told), Some(report)) = (told, report) else { return told.is_some() != report.is_some() };
    let completed =
        |report: &Report| report.last_checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.completed_at_ms);
    let quiet =
        Report { version: told.version, last_checkpoint: told.last_checkpoint.clone(), ..report.clone() };
    quiet != *told || completed(report) >= completed(told) + CHECKPOINT_NEWS_MS
}

type HttpClient = Client<HttpConnector, Empty<axum::body::Bytes>>;
type Key = (String, String);

/// The watched reports.
#[derive(Clone)]
pub struct Reports {
    client: HttpClient,
    watched: Arc<Mutex<HashMap<Key, Watched>>>,
    changed: mpsc::Sender<ObjectRef<StreamJob>>,
}

struct Watched {
    report: Option<Report>,
    /// The newest report that a reconcile was asked for.
    told: Option<Report>,
    watching: AbortHandle,
}

impl Reports {
    /// `changed` is told of every job whose report changes.
    pub fn new(changed: mpsc::Sender<ObjectRef<StreamJob>>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Reports { client, watched: Arc::default(), changed }
    }

    /// What a job's coordinator reported last, if it answers.
    pub fn latest(&self, namespace: &str, job: &str) -> Option<Report> {
        self.lock().get(&(namespace.to_owned(), job.to_owned()))?.report.clone()
    }

    /// Watches a job's coordinator from now on. The first time it waits for an answer, so that a controller that has just
    /// started does not take running jobs for silent ones.
    #[expect(clippy::disallowed_methods, reason = "the edge: what follows from silence is decided elsewhere")]
    pub async fn watch(&self, namespace: &str, job: &str) {
        let key = (namespace.to_owned(), job.to_owned());
        if self.lock().contains_key(&key) {
            return;
        }
        let first = tokio::time::timeout(FIRST_ANSWER_MAX, self.report(namespace, job, None)).await;
        let report = first.ok().and_then(Result::ok);
        let mut watched = self.lock();
        let version = report.as_ref().map(|report| report.version);
        watched.entry(key.clone()).or_insert_with(|| {
            let watching = tokio::spawn(self.clone().run(key, version)).abort_handle();
            Watched { told: report.clone(), report, watching }
        });
    }

    /// Forgets a job.
    pub fn forget(&self, namespace: &str, job: &str) {
        if let Some(watched) = self.lock().remove(&(namespace.to_owned(), job.to_owned())) {
            watched.watching.abort();
        }
    }

    /// Asks a coordinator for a last checkpoint and the end of its run.
    pub async fn stop(&self, namespace: &str, job: &str) -> Result<(), String> {
        self.request(namespace, job, "POST", "/stop").await.map(|_| ())
    }

    /// Takes a stop back: the coordinator goes on if its last checkpoint is not complete yet.
    pub async fn go_on(&self, namespace: &str, job: &str) -> Result<(), String> {
        self.request(namespace, job, "POST", "/go-on").await.map(|_| ())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Watched>> {
        self.watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the edge: what follows from an answer is decided elsewhere, without time"
    )]
    async fn run(self, key: Key, mut version: Option<u64>) {
        loop {
            let report = self.report(&key.0, &key.1, version).await;
            let is_answered = report.is_ok();
            version = report.as_ref().ok().map(|report| report.version);
            if let Err(error) = &report {
                debug!(namespace = key.0, job = key.1, %error, "the coordinator does not answer");
            }
            self.store(&key, report.ok()).await;
            if !is_answered {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn report(&self, namespace: &str, job: &str, after: Option<u64>) -> Result<Report, String> {
        let path = match after {
            Some(version) => format!("/report?after={version}"),
            None => "/report".to_owned(),
        };
        let body = self.request(namespace, job, "GET", &path).await?;
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    }

    async fn store(&self, key: &Key, report: Option<Report>) {
        let is_news = {
            let mut watched = self.lock();
            let Some(known) = watched.get_mut(key) else { return };
            let is_news = is_news(known.told.as_ref(), report.as_ref());
            if is_news {
                known.told = report.clone();
            }
            known.report = report;
            is_news
        };
        if is_news {
            let reference = ObjectRef::new(&key.1).within(&key.0);
            // The controller only goes away together with this.
            let _ = self.changed.send(reference).await;
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the edge: what follows from silence is decided elsewhere")]
    async fn request(&self, namespace: &str, job: &str, method: &str, path: &str) -> Result<Vec<u8>, String> {
        let uri = format!("http://{}.{namespace}.svc:6123{path}", names::coordinator(job));
        let request = axum::http::Request::builder().method(method).uri(uri).body(Empty::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = async {
            let response = self.client.request(request).await.map_err(|error| error.to_string())?;
            if !response.status().is_success() {
                return Err(format!("answered {}", response.status()));
            }
            let body = http_body_util::Limited::new(response.into_body(), BODY_BYTES_MAX);
            body.collect().await.map(|body| body.to_bytes().to_vec()).map_err(|error| error.to_string())
        };
        tokio::time::timeout(ANSWER_MAX, answer).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_crds::contract::{ReportedCheckpoint, ReportedPhase};

    #[test]
    fn a_checkpoint_alone_is_news_once_a_minute() {
        let report = |version, phase: ReportedPhase, completed_at_ms| Report {
            version,
            phase,
            last_checkpoint: Some(ReportedCheckpoint { completed_at_ms, ..Default::default() }),
            ..Default::default()
        };
        let told = report(1, ReportedPhase::Running, 1_000);
        let cases = [
            ("the same", Some(told.clone()), false),
            ("a checkpoint ten seconds later", Some(report(2, ReportedPhase::Running, 11_000)), false),
            ("a checkpoint a minute later", Some(report(9, ReportedPhase::Running, 61_000)), true),
            ("another phase", Some(report(2, ReportedPhase::Recovering, 1_000)), true),
            ("silence", None, true),
        ];
        for (case, next, expected) in cases {
            assert_eq!(is_news(Some(&told), next.as_ref()), expected, "{case}");
        }
        assert!(is_news(None, Some(&told)));
        assert!(!is_news(None, None));
    }
}
