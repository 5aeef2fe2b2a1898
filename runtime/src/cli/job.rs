//! From a manifest to a job that can run: parsed, checked, compiled.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_crds::StreamJob;
use millrace_crds::manifest::{self, ManifestError};
use millrace_crds::v1alpha1::RestartStrategy as RestartSpec;
use millrace_sql::plan::{OperatorKind, Plan};

use tracing::warn;

use super::documents;
use crate::checkpoint::protocol::{self, JobIdentity};
use crate::checkpoint::records::JobRecord;
use crate::checkpoint::{
    BucketSettings, BucketStore, FolderStore, MountedCredentials, Store, StoreError, erasure, paths,
};
use crate::coordinator::JobSettings;
use crate::coordinator::failover::RestartStrategy;
use crate::error::chain;
use crate::fault::{CRASH_AFTER_ROWS, CrashAfterRows};
use crate::folders::local_path;
use crate::model::{Attempt, Epoch, JobUid, MaxParallelism};
use crate::options::OptionError;
use crate::outside::Outside;
use crate::secrets;
use crate::sink::SinkError;
use crate::source::SourceError;

/// Checkpoints are taken no more often than this.
const CHECKPOINT_INTERVAL_MIN: std::time::Duration = std::time::Duration::from_millis(10);

/// Of restart strategies whose times are not given.
const SECOND: std::time::Duration = std::time::Duration::from_secs(1);
const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

/// The user's input is wrong; the text says what and how to cure it.
#[derive(Debug)]
pub struct UserError(pub String);

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A job ready to run.
pub struct Job {
    pub manifest: StreamJob,
    pub plan: Plan,
}

/// Reads a manifest, compiles its SQL, and checks all table options.
pub fn read(file: &Path) -> Result<Job, UserError> {
    let manifest = parsed(file)?.map_err(|error| {
        let mistakes = fields_of(file, &error);
        // What is wrong in the SQL is not kept for the next try.
        let in_sql =
            error.sql.filter(|sql| !sql.trim().is_empty()).and_then(|sql| compiled(file, &sql).err());
        UserError([mistakes].into_iter().chain(in_sql.map(|error| error.0)).collect::<Vec<_>>().join("\n"))
    })?;
    let plan = compiled(file, &manifest.spec.pipeline.sql)?;
    let named = plan.secrets();
    let named = named.iter().map(|named| (named.table.as_str(), named.option.as_str(), named.name.as_str()));
    if let Some(message) = manifest.spec.pipeline.undeclared(named) {
        return Err(UserError(format!("{}: {message}", file.display())));
    }
    check_options(&plan, &manifest.spec.pipeline.sql)
        .map_err(|mistakes| UserError(format!("{}: spec.pipeline.sql:\n{mistakes}", file.display())))?;
    check_places(&manifest).map_err(|mistake| UserError(format!("{}: {mistake}", file.display())))?;
    Ok(Job { manifest, plan })
}

fn compiled(file: &Path, sql: &str) -> Result<Plan, UserError> {
    millrace_sql::compile(sql).map_err(|mistakes| {
        let rendered: Vec<String> = mistakes.iter().map(|mistake| mistake.render(sql)).collect();
        UserError(format!("{}: spec.pipeline.sql:\n{}", file.display(), rendered.join("\n")))
    })
}

/// The job of a manifest whose SQL this release does not compile, if the newest checkpoint was made by that very text: the plan that
/// is stored with it runs.
pub async fn stored(file: &Path) -> Option<Job> {
    let job = Job { manifest: read_manifest(file).ok()?, plan: Plan::default() };
    let newest = protocol::newest(job.store().ok()?.as_ref()).await.ok()??;
    let plan = newest.plan.filter(|_| newest.sql == job.manifest.spec.pipeline.sql)?;
    warn!(epoch = newest.epoch, "this release does not compile the SQL; the plan of the checkpoint runs");
    Some(Job { plan, ..job })
}

/// Reads and checks a manifest, without its SQL.
pub fn read_manifest(file: &Path) -> Result<StreamJob, UserError> {
    parsed(file)?.map_err(|error| UserError(fields_of(file, &error)))
}

fn parsed(file: &Path) -> Result<Result<StreamJob, ManifestError>, UserError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| UserError(format!("failed to read '{}': {error}", file.display())))?;
    let of_file = |mistake: String| UserError(format!("{}: {mistake}", file.display()));
    let mut read = manifest::read(&documents::job_in(&text).map_err(of_file)?);
    if let Ok(job) = &mut read {
        documents::resolve(job, &text).map_err(of_file)?;
    }
    Ok(read)
}

fn fields_of(file: &Path, error: &ManifestError) -> String {
    let lines = error.mistakes.iter().map(|mistake| format!("{}: {mistake}", file.display()));
    lines.collect::<Vec<_>>().join("\n")
}

/// Names the folder where the keys of the Secret `spec.storage.credentials` are mounted; the controller sets it.
const CREDENTIALS_FOLDER: &str = "MILLRACE_CREDENTIALS";

/// Refuses what a manifest asks of a cluster and cannot have here.
pub fn check_embedded(manifest: &StreamJob) -> Result<(), UserError> {
    if manifest.spec.suspend {
        return Err(UserError("spec.suspend: the job is suspended; set it to false to run it".to_owned()));
    }
    if let Some(credentials) = &manifest.spec.storage.credentials
        && std::env::var_os("AWS_ACCESS_KEY_ID").is_none()
        && std::env::var_os(CREDENTIALS_FOLDER).is_none()
    {
        return Err(UserError(format!(
            "spec.storage.credentials: the Secret '{}' can only be read on a cluster; here set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY in the environment",
            credentials.secret_ref.name
        )));
    }
    if std::env::var_os(secrets::FOLDER_VARIABLE).is_none() {
        for secret in &manifest.spec.pipeline.secrets {
            let variable = secrets::variable(&secret.name);
            if std::env::var_os(&variable).is_none_or(|value| value.is_empty()) {
                return Err(UserError(format!(
                    "spec.pipeline.secrets: '{}' is a key of the Secret '{}', which can only be read on a cluster; here set {variable} \
                     in the environment",
                    secret.name, secret.secret_key_ref.name
                )));
            }
        }
    }
    Ok(())
}

/// Opens the connectors of all tables without reaching for anything outside.
///
/// # Errors
/// All that is wrong with their options, with the places in the SQL.
pub fn check_options(plan: &Plan, sql: &str) -> Result<(), String> {
    let mut mistakes: Vec<String> = Vec::new();
    for operator in &plan.operators {
        let mistake = match &operator.kind {
            Some(OperatorKind::Source(source)) => {
                match crate::source::connector(source, &Outside::unreached()) {
                    Err(SourceError::Options { source }) => of_option(&source, sql),
                    opened => opened.err().map(|error| chain(&error)).unwrap_or_default(),
                }
            }
            Some(OperatorKind::Sink(sink)) => {
                match crate::sink::check(&sink.table.clone().unwrap_or_default()) {
                    Err(SinkError::Options { source }) => of_option(&source, sql),
                    opened => opened.err().map(|error| chain(&error)).unwrap_or_default(),
                }
            }
            _ => continue,
        };
        if !mistake.is_empty() && !mistakes.contains(&mistake) {
            mistakes.push(mistake);
        }
    }
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes.join("\n")) }
}

fn of_option(error: &OptionError, sql: &str) -> String {
    millrace_sql::mistake_of_table(sql, &error.table, error.option.as_deref(), &error.to_string()).render(sql)
}

/// A place for state.
enum Place {
    Folder(PathBuf),
    Bucket { bucket: String, prefix: String },
}

impl Job {
    /// The job's name.
    pub fn name(&self) -> &str {
        self.manifest.metadata.name.as_deref().unwrap_or_default()
    }

    /// The job's namespace.
    pub fn namespace(&self) -> &str {
        namespace(&self.manifest)
    }

    /// Removes the job's state, but for its savepoints, to start over. `nonce` is random.
    pub async fn remove_state(&self, nonce: u64) -> Result<(), UserError> {
        match place(&self.manifest)? {
            Place::Folder(folder) if folder.exists() => remove_all_but_savepoints(&folder).map_err(|error| {
                UserError(format!("failed to start over in '{}': {error}", folder.display()))
            }),
            Place::Folder(_) => Ok(()),
            Place::Bucket { .. } => {
                let store = self.store()?;
                let told = |error| UserError(format!("failed to start over: {}", chain(&error)));
                if let Some(owner) = protocol::owner(store.as_ref()).await.map_err(told)? {
                    not_of_cluster(&owner, store.as_ref())?;
                }
                erasure::erase(store.as_ref(), None, nonce).await.map(drop).map_err(told)
            }
        }
    }

    /// Tables of the job's that are written into folders in which there are files already.
    pub fn old_files(&self) -> Vec<(String, PathBuf)> {
        let has_files = |folder: &Path| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.into_iter().any(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        };
        let sinks = self.plan.operators.iter().filter_map(|operator| match &operator.kind {
            Some(OperatorKind::Sink(sink)) => sink.table.as_ref(),
            _ => None,
        });
        let folders =
            sinks.filter(|table| table.options.get("connector").is_some_and(|kind| kind == "filesystem"));
        let folders =
            folders.filter_map(|table| Some((table.name.clone(), local_path(table.options.get("path")?)?)));
        folders.filter(|(_, folder)| has_files(folder)).collect()
    }

    /// The store of the job's state.
    pub fn store(&self) -> Result<Arc<dyn Store>, UserError> {
        store(&self.manifest)
    }

    /// What the coordinator needs to know.
    pub fn settings(&self, uid: JobUid, attempt: Attempt) -> Result<JobSettings, UserError> {
        let spec = &self.manifest.spec;
        let max_parallelism = MaxParallelism::new(spec.max_parallelism)
            .ok_or_else(|| UserError("spec.maxParallelism: a power of two from 1 to 32768".to_owned()))?;
        if spec.checkpoint.interval.to_std() < CHECKPOINT_INTERVAL_MIN {
            return Err(UserError(format!(
                "spec.checkpoint.interval: at least {} ms; every checkpoint makes objects in the store",
                CHECKPOINT_INTERVAL_MIN.as_millis()
            )));
        }
        let delay = spec.restart.delay.map_or(SECOND, |delay| delay.to_std());
        let restart = match spec.restart.strategy {
            RestartSpec::None => RestartStrategy::None,
            RestartSpec::FixedDelay => {
                RestartStrategy::FixedDelay { delay, max: spec.restart.max_restarts.unwrap_or(1) }
            }
            RestartSpec::FailureRate => RestartStrategy::FailureRate {
                delay,
                max: spec.restart.max_failures.unwrap_or(1),
                interval: spec.restart.interval.map_or(MINUTE, |interval| interval.to_std()),
            },
            RestartSpec::Exponential => RestartStrategy::Exponential {
                initial: spec.restart.initial_delay.to_std(),
                max: spec.restart.max_delay.to_std(),
                multiplier: spec.restart.backoff_multiplier.unwrap_or(2.0),
                reset_after: spec
                    .restart
                    .reset_after
                    .map_or(spec.restart.max_delay.to_std() * 2, |after| after.to_std()),
                jitter: spec.restart.jitter.unwrap_or(0.1),
                most: spec.restart.max_restarts,
            },
        };
        Ok(JobSettings {
            identity: JobIdentity {
                uid,
                name: format!("{}/{}", self.namespace(), self.name()),
                attempt,
                max_parallelism,
            },
            sql: spec.pipeline.sql.clone(),
            parallelism: spec.parallelism,
            checkpoint_interval: spec.checkpoint.interval.to_std(),
            checkpoint_timeout: spec.checkpoint.timeout.to_std(),
            checkpoints_kept: spec.checkpoint.retain as usize,
            accepts_lost_of: spec.checkpoint.accept_lost_results_of.map(Epoch),
            restart,
            upgrade: spec.upgrade.clone(),
            is_patient: false,
            is_attended: true,
        })
    }
}

fn namespace(manifest: &StreamJob) -> &str {
    manifest.metadata.namespace.as_deref().unwrap_or("default")
}

/// Refuses the state of a cluster's job: a run here would take it from there.
pub fn not_of_cluster(owner: &JobRecord, store: &dyn Store) -> Result<(), UserError> {
    // Uids that Kubernetes gives are UUIDs in five groups; those of runs here have three.
    if owner.uid.split('-').count() != 5 {
        return Ok(());
    }
    Err(UserError(format!(
        "spec.checkpoint.location: '{}' holds the state of the job '{}' of a cluster (uid {}), and a run here would take it from there; \
         choose another location or another name",
        store.location(),
        owner.name,
        owner.uid
    )))
}

/// All of it or nothing: half of a state would be taken for another one.
fn remove_all_but_savepoints(folder: &Path) -> std::io::Result<()> {
    let aside = folder
        .with_file_name(format!(".removed-{}", folder.file_name().unwrap_or_default().to_string_lossy()));
    if aside.exists() {
        std::fs::remove_dir_all(&aside)?;
    }
    std::fs::rename(folder, &aside)?;
    let kept = aside.join(paths::SAVEPOINTS);
    if kept.exists() {
        std::fs::create_dir(folder)?;
        std::fs::rename(kept, folder.join(paths::SAVEPOINTS))?;
    }
    std::fs::remove_dir_all(aside)
}

/// Where a job's state is.
fn place(manifest: &StreamJob) -> Result<Place, UserError> {
    let below = Path::new(namespace(manifest)).join(manifest.metadata.name.as_deref().unwrap_or_default());
    let location = manifest.spec.checkpoint.location.as_ref().filter(|location| !location.is_empty());
    let Some(location) = location else {
        return Ok(Place::Folder(Path::new("./.millrace").join(below)));
    };
    place_below(location, &below).ok_or_else(|| {
        UserError(format!("spec.checkpoint.location: '{location}' is not supported; {PLACES}"))
    })
}

/// Refuses places of a kind that is not known, before they are reached for.
fn check_places(manifest: &StreamJob) -> Result<(), UserError> {
    place(manifest)?;
    match manifest.spec.start_place().filter(|start| place_below(start, Path::new("")).is_none()) {
        Some(start) => Err(UserError(format!("spec.startFrom: '{start}' is not supported; {PLACES}"))),
        None => Ok(()),
    }
}

const PLACES: &str = "use s3://bucket/prefix, a folder or a file:// address";

fn place_below(location: &str, below: &Path) -> Option<Place> {
    if let Some(rest) = location.strip_prefix("s3://") {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = Path::new(prefix.trim_matches('/')).join(below);
        return Some(Place::Bucket { bucket: bucket.to_owned(), prefix: prefix.display().to_string() });
    }
    // Joined with nothing it would end with a slash.
    let folder = |path: PathBuf| if below.as_os_str().is_empty() { path } else { path.join(below) };
    local_path(location).map(|path| Place::Folder(folder(path)))
}

/// A place that the user names for a savepoint, reached as the job's own.
pub fn store_at(location: &str, manifest: &StreamJob) -> Result<Arc<dyn Store>, UserError> {
    let place = place_below(location, Path::new(""));
    let place = place.ok_or_else(|| UserError(format!("'{location}' is not supported; {PLACES}")))?;
    open(place, manifest).map_err(|error| UserError(format!("'{location}': {error}")))
}

/// The store of a job's state.
pub fn store(manifest: &StreamJob) -> Result<Arc<dyn Store>, UserError> {
    open(place(manifest)?, manifest).map_err(|error| UserError(format!("spec.checkpoint.location: {error}")))
}

fn open(place: Place, manifest: &StreamJob) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match place {
        Place::Folder(folder) => Arc::new(FolderStore::new(folder)),
        Place::Bucket { bucket, prefix } => Arc::new(BucketStore::s3(&bucket, &prefix, &buckets(manifest))?),
    })
}

/// How the job's buckets are reached.
pub fn buckets(manifest: &StreamJob) -> BucketSettings {
    let storage = &manifest.spec.storage;
    BucketSettings {
        endpoint: storage.endpoint.clone(),
        region: storage.region.clone(),
        is_path_style: storage.path_style,
        allows_http: storage.allow_http,
        credentials: storage.credentials.as_ref().and_then(|credentials| {
            let folder = std::env::var_os(CREDENTIALS_FOLDER)?.into();
            Some(MountedCredentials { secret: credentials.secret_ref.name.clone(), folder })
        }),
    }
}

/// The crash that a test has asked for.
pub fn crash() -> Result<Option<Arc<CrashAfterRows>>, UserError> {
    let crash = CrashAfterRows::from_env();
    let crash =
        crash.map_err(|value| UserError(format!("{CRASH_AFTER_ROWS}: '{value}' is not a number of rows")))?;
    Ok(crash.map(Arc::new))
}
