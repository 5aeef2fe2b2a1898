//! The binary `millrace-operator`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use clap::Parser;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::Client;
use kube::ResourceExt;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::events::Reporter;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, controller, watcher};
use millrace_crds::StreamJob;
use millrace_operator::context::Context;
use millrace_operator::leader::Election;
use millrace_operator::metrics::Metrics;
use millrace_operator::model::Settings;
use millrace_operator::pipeline;
use millrace_operator::reconcile::{on_error, reconcile};
use millrace_operator::reports::Reports;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{debug, info};
use tracing_subscriber::EnvFilter;

/// Changed reports that wait for a reconcile; a full queue slows the watching of reports, nothing else.
const CHANGES_QUEUED_MAX: usize = 1024;

/// Runs StreamJobs on Kubernetes.
#[derive(Parser)]
#[command(name = "millrace-operator", version, about)]
struct Arguments {
    /// Image of coordinators and workers.
    #[arg(long, env = "MILLRACE_IMAGE")]
    image: String,
    /// When that image is pulled: IfNotPresent, Always or Never.
    #[arg(long, env = "MILLRACE_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    image_pull_policy: String,
    /// Where jobs that name no place keep their state, such as s3://bucket/prefix.
    #[arg(long, env = "MILLRACE_CHECKPOINT_LOCATION", value_parser = bucket)]
    checkpoint_location: Option<String>,
    /// How long the coordinator of a finished job stays to be read, such as 24h.
    #[arg(long, env = "MILLRACE_KEEP_FINISHED", default_value = "24h", value_parser = duration)]
    keep_finished: Duration,
    /// Leads only while it holds the Lease `millrace-operator` in this namespace, so that several may run; without it it leads at once.
    #[arg(long, env = "MILLRACE_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,
    /// What it is called in the Lease: the name of its pod.
    #[arg(long, env = "MILLRACE_POD", default_value = "millrace-operator")]
    pod: String,
    /// Where probes and metrics are served.
    #[arg(long, env = "MILLRACE_HTTP", default_value = "0.0.0.0:6123")]
    http: SocketAddr,
}

fn bucket(text: &str) -> Result<String, String> {
    match text.starts_with("s3://") {
        true => Ok(text.to_owned()),
        false => Err("give a bucket, such as s3://bucket/prefix: state must outlive pods".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<millrace_crds::v1alpha1::Duration>().map(millrace_crds::v1alpha1::Duration::to_std)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("MILLRACE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    let client = Client::try_default().await?;
    let metrics = Metrics::new()?;
    let mut stop = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut serving = tokio::spawn(serve(arguments.http, metrics.clone()));
    let mut election = arguments
        .lease_namespace
        .as_deref()
        .map(|namespace| Election::new(client.clone(), namespace, &arguments.pod));
    if let Some(election) = &mut election {
        info!(http = %arguments.http, "standing by");
        tokio::select! {
            () = election.lead() => {}
            _ = stop.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            served = &mut serving => return Ok(served??),
        }
    }
    metrics.leads.set(1);
    let (changed, changes) = mpsc::channel(CHANGES_QUEUED_MAX);
    let context = Context {
        client: client.clone(),
        reporter: Reporter { controller: "millrace-operator".into(), instance: None },
        reports: Reports::new(changed),
        metrics: metrics.clone(),
        settings: Settings {
            image: arguments.image,
            image_pull_policy: arguments.image_pull_policy,
            checkpoint_location: arguments.checkpoint_location,
            keeps_finished: arguments.keep_finished,
        },
    };
    let of_jobs = || watcher::Config::default().labels("millrace.dev/job");
    let reports = context.reports.clone();
    let changes =
        futures::stream::unfold(changes, |mut changes| async move { Some((changes.recv().await?, changes)) });
    let controller = Controller::new(Api::<StreamJob>::all(client.clone()), watcher::Config::default());
    let jobs = controller.store();
    // Any may hold the text of a pipeline; what is in the others is nobody's business here.
    let texts = Api::<PartialObjectMeta<ConfigMap>>::all(client.clone());
    let controller = controller
        .watches(texts, watcher::Config::default(), move |config| {
            let (namespace, name) = (config.namespace().unwrap_or_default(), config.name_any());
            let jobs = jobs.state().into_iter().filter(|job| pipeline::is_in(job, &namespace, &name));
            jobs.map(|job| ObjectRef::from_obj(job.as_ref())).collect::<Vec<_>>()
        })
        .owns(Api::<Deployment>::all(client.clone()), of_jobs())
        .owns(Api::<Service>::all(client.clone()), of_jobs())
        .owns(Api::<ConfigMap>::all(client), of_jobs())
        .reconcile_on(changes)
        .shutdown_on_signal()
        .run(reconcile, on_error, Arc::new(context))
        .for_each(|result| {
            // What belonged to a deleted job goes after it, and says so.
            if let Err(controller::Error::ObjectNotFound(job)) = &result
                && let Some(namespace) = &job.namespace
            {
                reports.forget(namespace, &job.name);
            }
            async move { debug!(?result, "reconciled") }
        });
    info!(http = %arguments.http, "watching StreamJobs");
    let lost = async {
        match &mut election {
            Some(election) => election.keep().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = controller => {}
        // It is started again, and stands by.
        () = lost => return Err("another controller leads, or nobody knows".into()),
        served = serving => return Ok(served??),
    }
    if let Some(election) = &mut election {
        election.give_back().await;
    }
    Ok(())
}

async fn serve(address: SocketAddr, metrics: Metrics) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(|| async { "ok" }))
        .route("/metrics", get(move || async move { metrics.text() }));
    axum::serve(tokio::net::TcpListener::bind(address).await?, routes).await
}
