//! Leads while it holds the Lease of all controllers of an installation, so that one acts and the others stand by.

#![expect(clippy::disallowed_methods, reason = "the edge: what is decided gets times as values")]

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::decide::lease::{Candidate, Held, LEASE, Step};

/// The Lease's name.
const NAME: &str = "millrace-operator";

/// A request that takes longer counts as failed.
const REQUEST_MAX: Duration = Duration::from_secs(3);

/// Rest after a request that has failed.
const REST: Duration = Duration::from_millis(500);

/// A candidate and the Lease that it is about.
pub struct Election {
    api: Api<Lease>,
    candidate: Candidate,
    started: Instant,
}

impl Election {
    /// Of the controllers in a namespace. A pod's container that is started again is another candidate.
    pub fn new(client: Client, namespace: &str, pod: &str) -> Self {
        Election {
            api: Api::namespaced(client, namespace),
            candidate: Candidate::new(format!("{pod}_{}", now().as_millisecond())),
            started: Instant::now(),
        }
    }

    /// Returns once this one leads.
    pub async fn lead(&mut self) {
        while !self.candidate.leads() {
            self.step().await;
        }
        info!(name = self.candidate.name(), "leading");
    }

    /// Returns once this one leads no more.
    pub async fn keep(&mut self) {
        while self.candidate.step(self.started.elapsed()) != Step::Resign {
            let left = self.candidate.left(self.started.elapsed());
            if tokio::time::timeout(left, self.step()).await.is_err() {
                break;
            }
        }
        warn!(name = self.candidate.name(), "leading no more");
    }

    /// Gives the Lease back, so that the next one need not wait.
    pub async fn give_back(&mut self) {
        let Some(own) = self.candidate.own() else { return };
        let record = self.record(String::new(), own.transitions, &own.version);
        match self.replace(&record).await {
            Ok(_) => info!(name = self.candidate.name(), "has given the lease back"),
            Err(error) => {
                warn!(%error, "failed to give the lease back; it is taken when it has been silent for long enough")
            }
        }
    }

    async fn step(&mut self) {
        let looked = tokio::time::timeout(REQUEST_MAX, self.api.get_opt(NAME)).await;
        match looked {
            Ok(Ok(found)) => self.candidate.observe(found.as_ref().map(held), self.started.elapsed()),
            Ok(Err(error)) => return self.rest(&error.to_string()).await,
            Err(_) => return self.rest("the API server does not answer").await,
        }
        let begun = self.started.elapsed();
        let me = self.candidate.name().to_owned();
        let stored = match self.candidate.step(begun) {
            Step::Wait(time) => return tokio::time::sleep(time).await,
            Step::Resign => return,
            Step::Create => self.create(&self.record(me, 0, "")).await,
            Step::Take(before) => {
                self.replace(&self.record(me, before.transitions + 1, &before.version)).await
            }
            Step::Renew(own) => self.replace(&self.record(me, own.transitions, &own.version)).await,
        };
        match stored {
            Ok(lease) => self.candidate.renewed(held(&lease), begun),
            // Another one was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => tokio::time::sleep(REST).await,
            Err(error) => self.rest(&error.to_string()).await,
        }
    }

    async fn rest(&self, why: &str) {
        warn!(why, "the lease could not be looked after");
        tokio::time::sleep(REST).await;
    }

    async fn create(&self, record: &Lease) -> Result<Lease, kube::Error> {
        in_time(self.api.create(&PostParams::default(), record)).await
    }

    /// Fails if it has changed since it was seen.
    async fn replace(&self, record: &Lease) -> Result<Lease, kube::Error> {
        in_time(self.api.replace(NAME, &PostParams::default(), record)).await
    }

    fn record(&self, holder: String, transitions: i32, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                resource_version: Some(version.to_owned()).filter(|version| !version.is_empty()),
                ..Default::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder),
                lease_duration_seconds: Some(LEASE.as_secs() as i32),
                lease_transitions: Some(transitions),
                // For who looks at it; nobody decides by it.
                renew_time: Some(MicroTime(now())),
                ..Default::default()
            }),
        }
    }
}

async fn in_time<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match tokio::time::timeout(REQUEST_MAX, request).await {
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service("the API server does not answer".into())),
    }
}

fn held(lease: &Lease) -> Held {
    let spec = lease.spec.clone().unwrap_or_default();
    Held {
        holder: spec.holder_identity.unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or(0),
        version: lease.resource_version().unwrap_or_default(),
    }
}

/// Is only shown, and part of a name.
fn now() -> Timestamp {
    Timestamp::try_from(std::time::SystemTime::now()).unwrap_or_default()
}
