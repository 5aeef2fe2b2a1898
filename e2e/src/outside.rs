//! The world around the test: kubectl, Kafka's own client, the bucket. Everything is awaited with a deadline.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use snafu::{OptionExt, ResultExt, Whatever, whatever};

/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(500);

/// What a step of the test gives, or why the test has failed.
pub type Outcome<T> = Result<T, Whatever>;

/// Waits; there is nothing else to await in another machine's state.
#[expect(clippy::disallowed_methods, reason = "polls the outside")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// The time of the machine, to measure how long something takes.
#[expect(clippy::disallowed_methods, reason = "the edge: an outage lasts for so long")]
pub fn now() -> Instant {
    Instant::now()
}

/// When the whole run must be over.
static END: OnceLock<Instant> = OnceLock::new();

/// Makes every later wait fail once this much time is over.
#[expect(clippy::disallowed_methods, reason = "the edge: limits a run in real time")]
pub fn end_after(limit: Duration) {
    // Only the first one counts.
    END.get_or_init(|| Instant::now() + limit);
}

#[expect(clippy::disallowed_methods, reason = "the edge: limits a run in real time")]
fn is_over() -> bool {
    END.get().is_some_and(|end| Instant::now() > *end)
}

/// Waits until something is there.
pub fn wait<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Outcome<Option<T>>) -> Outcome<T> {
    let looks = seconds * 1000 / LOOK.as_millis() as u64;
    let mut last = None;
    for _ in 0..looks {
        if is_over() {
            whatever!("the time for the whole run is over; it was waited until {what}");
        }
        match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            // Pods come and go while one looks.
            Err(error) => last = Some(error),
        }
        pause(LOOK);
    }
    match last {
        Some(error) => whatever!("waited {seconds} s in vain until {what}; the last error was: {error}"),
        None => whatever!("waited {seconds} s in vain until {what}"),
    }
}

/// Runs a program to its end.
pub fn run(program: &str, arguments: &[&str]) -> Outcome<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_whatever_context(|_| format!("failed to start {program}"))?;
    if !output.status.success() {
        whatever!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs kubectl.
pub fn kubectl(arguments: &[&str]) -> Outcome<String> {
    run("kubectl", arguments)
}

/// Applies a manifest.
pub fn apply(folder: &Path, name: &str, manifest: &str) -> Outcome<()> {
    let file = folder.join(name);
    fs::write(&file, manifest).whatever_context("failed to write a manifest")?;
    kubectl(&["apply", "-f", &file.display().to_string()]).map(|_| ())
}

/// A process that ends with this value.
pub struct Process(pub Child);

impl Process {
    pub fn has_ended(&mut self) -> Outcome<bool> {
        Ok(self.0.try_wait().whatever_context("failed to look after a process")?.is_some())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Kafka's own client.
pub struct Kafka {
    jars: String,
    brokers: String,
    program: PathBuf,
}

impl Kafka {
    /// From the variables of `e2e/cluster/enter`.
    pub fn new() -> Outcome<Self> {
        let variable = |name: &str| {
            std::env::var(name)
                .with_whatever_context(|_| format!("{name} is not set; run this by `make e2e`"))
        };
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/Kafka.java");
        Ok(Kafka { jars: variable("MILLRACE_KAFKA_JARS")?, brokers: variable("MILLRACE_KAFKA")?, program })
    }

    fn command(&self, verb: &str, topic: &str, arguments: &[&str]) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", &format!("{}/*", self.jars)])
            .arg(&self.program)
            .args([verb, &self.brokers, topic])
            .args(arguments)
            .stdin(Stdio::null());
        java
    }

    /// Runs a verb to its end.
    pub fn run(&self, verb: &str, topic: &str, arguments: &[&str]) -> Outcome<()> {
        let output =
            self.command(verb, topic, arguments).output().whatever_context("failed to start java")?;
        if !output.status.success() {
            whatever!("{verb} of {topic}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Starts a verb, its output into a file.
    pub fn start(&self, verb: &str, topic: &str, arguments: &[&str], output: &Path) -> Outcome<Process> {
        let file =
            fs::File::create(output).whatever_context("failed to make a file for a client's output")?;
        let child = self.command(verb, topic, arguments).stdout(file).stderr(Stdio::inherit()).spawn();
        Ok(Process(child.whatever_context("failed to start java")?))
    }
}

/// Records that a reader has written so far, by partition and offset.
pub fn records(file: &Path) -> Outcome<BTreeMap<(i32, i64), String>> {
    let text = fs::read_to_string(file).whatever_context("failed to read a client's output")?;
    // The last line may not be complete yet.
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    let mut records = BTreeMap::new();
    for line in complete.lines() {
        let mut parts = line.splitn(3, '\t');
        let mut next = || parts.next().whatever_context::<_, Whatever>("a reader's line is malformed");
        let partition: i32 = next()?.parse().whatever_context("a partition is malformed")?;
        let offset: i64 = next()?.parse().whatever_context("an offset is malformed")?;
        records.insert((partition, offset), next()?.to_owned());
    }
    Ok(records)
}

/// A folder of the bucket, watched: what became visible must neither change nor disappear.
pub struct Watched {
    state: Arc<Mutex<State>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    /// Size and tag by key.
    seen: BTreeMap<String, (u64, String)>,
    looks: u64,
    failures: u64,
    broken: Option<String>,
}

fn bucket_name() -> Outcome<String> {
    std::env::var("MILLRACE_S3_BUCKET").whatever_context("MILLRACE_S3_BUCKET is not set")
}

fn open(bucket: &str) -> Outcome<impl ObjectStore> {
    let store = AmazonS3Builder::from_env().with_bucket_name(bucket).with_allow_http(true).build();
    store.whatever_context("failed to open the bucket")
}

fn runtime() -> Outcome<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.whatever_context("failed to start a runtime")
}

impl Watched {
    /// Watches from now on.
    pub fn start(folder: &str) -> Outcome<Self> {
        let (state, is_over) = (Arc::<Mutex<State>>::default(), Arc::<AtomicBool>::default());
        let (store, runtime) = (open(&bucket_name()?)?, runtime()?);
        let (folder, shared, over) = (Key::from(folder), Arc::clone(&state), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            loop {
                // What is there at the end is looked at, too.
                let is_last = over.load(Ordering::Relaxed);
                let listed = runtime.block_on(store.list(Some(&folder)).try_collect::<Vec<_>>());
                let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
                match listed {
                    Ok(listed) => {
                        let now = listed.into_iter().map(|object| {
                            (object.location.to_string(), (object.size, object.e_tag.unwrap_or_default()))
                        });
                        state.look(now.collect());
                    }
                    // A store that does not answer is looked at again.
                    Err(_) => state.failures += 1,
                }
                drop(state);
                if is_last {
                    return;
                }
                pause(LOOK);
            }
        });
        Ok(Watched { state, is_over, thread: Some(thread) })
    }

    /// Ends watching; returns how many looks there were.
    pub fn end(mut self) -> Outcome<u64> {
        self.is_over.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            whatever!("the watcher of the bucket has panicked");
        }
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.broken {
            Some(broken) => whatever!("{broken}"),
            None if state.looks <= state.failures => {
                whatever!(
                    "the bucket was seen {} times, and {} times it was not",
                    state.looks,
                    state.failures
                )
            }
            None => Ok(state.looks),
        }
    }
}

impl State {
    fn look(&mut self, now: BTreeMap<String, (u64, String)>) {
        self.looks += 1;
        let broken = self.seen.iter().find(|(key, object)| now.get(*key) != Some(object));
        if let Some((key, object)) = broken {
            let broken = format!("'{key}' was {object:?} and is {:?}", now.get(key));
            self.broken.get_or_insert(broken);
        }
        self.seen.extend(now);
    }
}

/// Follows the logs of all pods of a namespace into files, so that those of pods that are gone can be read, too.
pub struct FollowedLogs {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FollowedLogs {
    /// Follows from now on; a container that is started again gets another file.
    pub fn start(namespace: &str, folder: &Path) -> Outcome<Self> {
        // What an earlier run has left there would be taken for this one's.
        if folder.exists() {
            fs::remove_dir_all(folder).whatever_context("failed to remove the logs of an earlier run")?;
        }
        fs::create_dir_all(folder).whatever_context("failed to make the folder of logs")?;
        let is_over = Arc::<AtomicBool>::default();
        let (namespace, folder, over) = (namespace.to_owned(), folder.to_owned(), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            let mut following = BTreeMap::new();
            while !over.load(Ordering::Relaxed) {
                // An API server that does not answer is asked again.
                for container in containers(&namespace).unwrap_or_default() {
                    if !following.contains_key(&container) {
                        let follower = follow(&namespace, &container, &folder);
                        following.extend(follower.map(|follower| (container, follower)));
                    }
                }
                pause(LOOK);
            }
        });
        Ok(FollowedLogs { is_over, thread: Some(thread) })
    }
}

impl Drop for FollowedLogs {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it has written is there; the end of its processes is the end of the thread.
            let _ = thread.join();
        }
    }
}

/// The pods of a namespace whose containers have started, each with the number of its restarts.
fn containers(namespace: &str) -> Outcome<Vec<(String, String)>> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].restartCount} \
                {.status.containerStatuses[0].state.running.startedAt}{\"\\n\"}{end}";
    let listed = kubectl(&["get", "pods", "-n", namespace, "-o", path])?;
    let words = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let running = words.filter_map(|words| match words.as_slice() {
        [pod, restarts, _started] => Some(((*pod).to_owned(), (*restarts).to_owned())),
        _ => None,
    });
    Ok(running.collect())
}

fn follow(namespace: &str, (pod, restarts): &(String, String), folder: &Path) -> Option<Process> {
    let file = fs::File::create(folder.join(format!("{pod}.{restarts}.log"))).ok()?;
    let mut kubectl = Command::new("kubectl");
    kubectl.args(["logs", "--follow", "-n", namespace, pod]).stdin(Stdio::null()).stderr(Stdio::null());
    Some(Process(kubectl.stdout(file).spawn().ok()?))
}

/// All rows of the files below a folder of the bucket.
pub fn rows(folder: &str) -> Outcome<Vec<String>> {
    rows_in(&bucket_name()?, folder)
}

/// All rows of the files of a folder in a bucket.
///
/// # Errors
/// If they cannot be read.
pub fn rows_in(bucket: &str, folder: &str) -> Outcome<Vec<String>> {
    let (store, runtime) = (open(bucket)?, runtime()?);
    let read = async {
        let listed: Vec<_> = store.list(Some(&Key::from(folder))).try_collect().await?;
        let mut rows = Vec::new();
        for object in listed {
            let bytes = store.get(&object.location).await?.bytes().await?;
            rows.extend(String::from_utf8_lossy(&bytes).lines().map(str::to_owned));
        }
        Ok::<_, object_store::Error>(rows)
    };
    runtime.block_on(read).whatever_context("failed to read the files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_or_disappears_is_noticed() {
        let objects = |objects: &[(&str, u64)]| -> BTreeMap<String, (u64, String)> {
            objects.iter().map(|(key, size)| ((*key).to_owned(), (*size, String::new()))).collect()
        };
        let broken = |second: &[(&str, u64)]| {
            let mut state = State::default();
            state.look(objects(&[("a", 1)]));
            state.look(objects(second));
            state.broken.is_some()
        };

        assert!(!broken(&[("a", 1), ("b", 2)]));
        assert!(broken(&[("a", 2)]));
        assert!(broken(&[("b", 2)]));
    }
}
