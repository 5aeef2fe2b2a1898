//! One schedule: processes are started, killed, cut off and replaced until the job has ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace::checkpoint::BucketSettings;
use millrace::checkpoint::protocol::{self, JobIdentity};
use millrace::clock::Clock;
use millrace::coordinator::failover::RestartStrategy;
use millrace::coordinator::{
    self, CoordinatorContext, JobEnd, JobError, JobReport, JobSettings, Wish, Workers,
};
use millrace::fault::Safeguards;
use millrace::model::{Attempt, JobUid, MaxParallelism};
use millrace::outside::Outside;
use millrace::secrets::Secrets;
use millrace::state::{LocalDisk, StateMemory};
use millrace::transport::Transport;
use millrace::worker::{Worker, WorkerContext, WorkerError, WorkerSettings};
use millrace_crds::v1alpha1::UpgradeSpec;
use millrace_sql::functions::chance::Chance;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::network::{Network, ProcessId};
use super::world::{Dice, SimulatedSinks, SimulatedStore, World};

const SQL: &str = "
CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, price BIGINT, `dateTime` TIMESTAMP(3)>, ts AS bid.`dateTime`,
  WATERMARK FOR ts AS ts - INTERVAL '1' SECOND
) WITH ('connector' = 'nexmark', 'events' = '4000', 'splits' = '3', 'event-rate' = '1000', 'rows-per-second' = '2000');
CREATE TABLE totals (auction BIGINT, window_end TIMESTAMP(3), n BIGINT, total BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO totals SELECT bid.auction, window_end, COUNT(*), SUM(bid.price)
  FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' SECOND))
  WHERE event_type = 2 GROUP BY bid.auction, window_start, window_end;";

/// Where workers find a coordinator: whoever has taken the name last.
const COORDINATOR: &str = "coordinator:6121";
const PARALLELISM: u32 = 3;
const WORKERS: u32 = 2;
const SLOTS: u32 = 2;

/// Faults happen in this time; a schedule without progress ends after the longer one.
const FAULTS_MS: u64 = 3_000;
const STUCK: Duration = Duration::from_secs(300);

/// What was sent to the store has arrived after so long.
const LATEST: Duration = Duration::from_secs(2);

/// What a schedule gave.
pub struct Outcome {
    pub rows: Vec<String>,
    pub trace: Vec<String>,
    /// How often each kind of fault was caused.
    pub faults: BTreeMap<&'static str, u64>,
    /// Why the job has not ended well.
    pub stuck: Option<String>,
}

impl Outcome {
    pub fn is_right(&self, expected: &Outcome) -> bool {
        self.stuck.is_none() && self.rows == expected.rows
    }

    pub fn describe(&self, expected: &Outcome) -> String {
        let count = |rows: &[String]| {
            let mut counts: BTreeMap<String, i64> = BTreeMap::new();
            rows.iter().for_each(|row| *counts.entry(row.clone()).or_default() += 1);
            counts
        };
        let (found, wanted) = (count(&self.rows), count(&expected.rows));
        let more = |a: &BTreeMap<String, i64>, b: &BTreeMap<String, i64>| -> Vec<String> {
            a.iter()
                .filter(|(row, n)| b.get(*row).copied().unwrap_or(0) < **n)
                .map(|(row, _)| row.clone())
                .take(3)
                .collect()
        };
        format!(
            "{:?}, {} of {} rows; lost {:?}, doubled {:?}\n{}",
            self.stuck,
            self.rows.len(),
            expected.rows.len(),
            more(&wanted, &found),
            more(&found, &wanted),
            self.trace.join("\n")
        )
    }
}

/// Runs a schedule; `None`: without delays and faults.
pub fn simulate(seed: Option<u64>, safeguards: Safeguards) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let outcome = runtime.block_on(async {
        let clock = Clock::starting_at(1_000_000);
        let dice = Dice { seed };
        let (ended_sender, mut ended) = mpsc::unbounded_channel();
        let mut run = Run {
            clock,
            dice,
            safeguards,
            world: World::new(clock, dice),
            network: Network::new(clock, dice),
            processes: BTreeMap::new(),
            next: 0,
            attempt: 1,
            ended: ended_sender,
            wishes: BTreeMap::new(),
            faults: BTreeMap::new(),
        };
        let stuck = tokio::select! {
            biased;
            end = run.go(&mut ended) => end.err(),
            () = clock.sleep(STUCK) => Some("it has not ended".to_owned()),
        };
        let mut faults = run.faults;
        faults.insert("delayed message", run.network.delays());
        Outcome { rows: run.world.rows(), trace: run.world.trace(), faults, stuck }
    });
    runtime.shutdown_background();
    outcome
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Coordinator,
    Worker,
}

struct Process {
    kind: Kind,
    task: JoinHandle<()>,
}

/// How a process has ended by itself.
enum Ended {
    Job(ProcessId, Result<JobEnd, String>),
    /// A coordinator that is no longer in charge.
    Fenced(ProcessId),
}

struct Run {
    clock: Clock,
    dice: Dice,
    safeguards: Safeguards,
    world: World,
    network: Network,
    processes: BTreeMap<ProcessId, Process>,
    next: ProcessId,
    /// Of the processes that are started from now on.
    attempt: u64,
    ended: mpsc::UnboundedSender<Ended>,
    /// What is wished of each coordinator.
    wishes: BTreeMap<ProcessId, watch::Sender<Wish>>,
    faults: BTreeMap<&'static str, u64>,
}

impl Run {
    async fn go(&mut self, ended: &mut mpsc::UnboundedReceiver<Ended>) -> Result<(), String> {
        self.start_all();
        let mut step = 0_u64;
        loop {
            step += 1;
            let is_faulty =
                self.dice.seed.is_some() && self.clock.elapsed().as_millis() < u128::from(FAULTS_MS);
            let rest = self.dice.below(&format!("rest {step}"), 700) + 50;
            tokio::select! {
                biased;
                Some(end) = ended.recv() => match end {
                    Ended::Job(process, Ok(JobEnd::Stopped)) => {
                        self.is_at_rest(process).await?;
                        self.go_on();
                    }
                    Ended::Job(_, end) => return end.map(|_| ()),
                    Ended::Fenced(process) => self.fenced(process),
                },
                () = self.clock.sleep(Duration::from_millis(rest)), if is_faulty => self.fault(step).await,
            }
        }
    }

    fn start_all(&mut self) {
        self.start(Kind::Coordinator);
        for _ in 0..WORKERS {
            self.start(Kind::Worker);
        }
    }

    /// A job that was stopped has nothing left to be made visible, whatever still arrives: it may stay so for long.
    async fn is_at_rest(&self, stopped: ProcessId) -> Result<(), String> {
        // With another coordinator about there may be more by now, also if the one that has stopped is gone already.
        if self.all(Kind::Coordinator).iter().any(|process| *process != stopped) {
            return Ok(());
        }
        self.clock.sleep(LATEST).await;
        let store = SimulatedStore { world: self.world.clone(), process: self.next + 1 };
        match protocol::is_committed(&store).await {
            Ok(false) => Err("it was stopped with results that are not visible".to_owned()),
            // A store that fails says nothing.
            _ => Ok(()),
        }
    }

    /// A job that was stopped goes on with new processes.
    fn go_on(&mut self) {
        self.world.note("stopped".to_owned());
        let old: Vec<ProcessId> = self.processes.keys().copied().collect();
        old.into_iter().for_each(|process| self.kill(process));
        self.next_attempt();
        self.start_all();
    }

    /// From now on processes are of another attempt, maybe with another parallelism.
    fn next_attempt(&mut self) {
        let before = self.parallelism();
        self.attempt += 1;
        self.count("another attempt");
        if self.parallelism() != before {
            self.count("another parallelism");
        }
    }

    fn parallelism(&self) -> u32 {
        match self.attempt {
            1 => PARALLELISM,
            attempt => {
                1 + self.dice.below(&format!("parallelism {attempt}"), u64::from(WORKERS * SLOTS)) as u32
            }
        }
    }

    fn start(&mut self, kind: Kind) -> ProcessId {
        self.next += 1;
        let process = self.next;
        self.world.note(format!("start {kind:?} {process} of attempt {}", self.attempt));
        let task = match kind {
            Kind::Coordinator => {
                let (sender, wish) = watch::channel(Wish::Run);
                self.wishes.insert(process, sender);
                tokio::spawn(self.coordinator(process, wish))
            }
            Kind::Worker => tokio::spawn(self.worker(process)),
        };
        self.processes.insert(process, Process { kind, task });
        process
    }

    fn kill(&mut self, process: ProcessId) {
        self.world.note(format!("kill {process}"));
        self.network.kill(process);
        if let Some(process) = self.processes.remove(&process) {
            process.task.abort();
        }
    }

    fn all(&self, kind: Kind) -> Vec<ProcessId> {
        self.processes.iter().filter(|(_, process)| process.kind == kind).map(|(id, _)| *id).collect()
    }

    /// One that is not in charge ends; if it was the only one, it is started again.
    fn fenced(&mut self, process: ProcessId) {
        self.kill(process);
        if self.all(Kind::Coordinator).is_empty() {
            self.start(Kind::Coordinator);
        }
    }

    fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_insert(0) += 1;
    }

    async fn fault(&mut self, step: u64) {
        let pick = |run: &Self, kind: Kind| {
            let all = run.all(kind);
            all.get(run.dice.below(&format!("which {step}"), all.len().max(1) as u64) as usize).copied()
        };
        match self.dice.below(&format!("fault {step}"), 8) {
            0 | 1 => {
                if let Some(process) = pick(self, Kind::Worker) {
                    self.count("crash of a worker");
                    self.kill(process);
                    self.start(Kind::Worker);
                }
            }
            2 => {
                if let Some(process) = pick(self, Kind::Coordinator) {
                    self.count("crash of a coordinator");
                    self.kill(process);
                    self.start(Kind::Coordinator);
                }
            }
            3 => {
                // Everything stays alive, and is replaced: its node cannot be reached by those who decide.
                self.count("zombies");
                self.world.note("replace all".to_owned());
                let old: Vec<ProcessId> = self.processes.keys().copied().collect();
                if self.dice.below(&format!("attempt {step}"), 2) == 0 {
                    self.next_attempt();
                }
                self.start_all();
                // Some of them cannot store anything for a while, and then can again.
                let unwell = self.dice.below(&format!("unwell {step}"), 1_000);
                old.iter().for_each(|process| self.world.set_unwell(*process, true));
                self.clock.sleep(Duration::from_millis(unwell)).await;
                old.iter().for_each(|process| self.world.set_unwell(*process, false));
                let lives = self.dice.below(&format!("lives {step}"), 1_500);
                self.clock.sleep(Duration::from_millis(lives)).await;
                for process in old {
                    if self.processes.contains_key(&process) {
                        self.kill(process);
                    }
                }
            }
            4 | 5 => {
                if let Some(process) = pick(self, Kind::Coordinator) {
                    self.count("stop");
                    self.wish(process, Wish::Stop);
                    if self.dice.below(&format!("back {step}"), 3) == 0 {
                        let after = self.dice.below(&format!("back after {step}"), 100);
                        self.clock.sleep(Duration::from_millis(after)).await;
                        self.count("stop taken back");
                        self.wish(process, Wish::Run);
                    }
                }
            }
            _ => {
                let kind = if step.is_multiple_of(2) { Kind::Worker } else { Kind::Coordinator };
                if let Some(process) = pick(self, kind) {
                    self.count("partition");
                    self.world.note(format!("cut {process}"));
                    self.network.set_cut(process, true);
                    let lasts = self.dice.below(&format!("lasts {step}"), 8_000);
                    self.clock.sleep(Duration::from_millis(lasts)).await;
                    self.network.set_cut(process, false);
                }
            }
        }
    }

    fn wish(&self, process: ProcessId, wish: Wish) {
        self.world.note(format!("wish {wish:?} of {process}"));
        if let Some(sender) = self.wishes.get(&process) {
            sender.send_replace(wish);
        }
    }

    fn outside(&self, process: ProcessId) -> Outside {
        let (clock, transport) = (self.clock, Arc::new(self.network.of(process)));
        Outside {
            clock,
            transport,
            buckets: BucketSettings::default(),
            secrets: Secrets::Unread,
            chance: Chance::default(),
        }
    }

    fn coordinator(
        &self,
        process: ProcessId,
        wish: watch::Receiver<Wish>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (clock, endpoint, ended) = (self.clock, self.network.of(process), self.ended.clone());
        let (attempt, parallelism) = (Attempt(self.attempt), self.parallelism());
        let context = CoordinatorContext {
            clock,
            store: Arc::new(SimulatedStore { world: self.world.clone(), process }),
            begins_from: None,
            random: Arc::new(Mutex::new(StdRng::seed_from_u64(u64::from(process)))),
            outside: self.outside(process),
            sinks: Arc::new(SimulatedSinks { world: self.world.clone(), process }),
            safeguards: self.safeguards,
        };
        async move {
            let uid = JobUid("uid".to_owned());
            let listener = endpoint.listen(COORDINATOR).await.unwrap();
            let workers = Workers::accept(listener, uid.clone(), attempt, clock);
            let settings = JobSettings {
                is_patient: true,
                is_attended: false,
                identity: JobIdentity {
                    uid,
                    name: "default/simulated".to_owned(),
                    attempt,
                    max_parallelism: MaxParallelism::new(16).unwrap(),
                },
                sql: SQL.to_owned(),
                parallelism,
                checkpoint_interval: Duration::from_millis(100),
                checkpoint_timeout: Duration::from_secs(1),
                checkpoints_kept: 2,
                accepts_lost_of: None,
                upgrade: UpgradeSpec::default(),
                restart: RestartStrategy::Exponential {
                    initial: Duration::from_millis(50),
                    max: Duration::from_millis(500),
                    reset_after: Duration::from_secs(1),
                    jitter: 0.1,
                    multiplier: 2.0,
                    most: None,
                },
            };
            let plan = millrace_sql::compile(SQL).unwrap();
            let report = watch::channel(JobReport::default()).0;
            let end = match coordinator::run(settings, plan, context, workers, wish, report).await {
                Err(JobError::Fenced { .. }) => Ended::Fenced(process),
                end => Ended::Job(process, end.map_err(|error| error.to_string())),
            };
            // The schedule may be over.
            let _ = ended.send(end);
        }
    }

    /// In every second schedule all state is on the disk but for what a batch needs of it.
    fn memory(&self) -> StateMemory {
        match self.dice.seed {
            Some(seed) if seed % 2 == 0 => StateMemory::new(0, LocalDisk::new(&std::env::temp_dir())),
            _ => StateMemory::unlimited(),
        }
    }

    fn worker(&self, process: ProcessId) -> impl Future<Output = ()> + Send + 'static {
        let (clock, endpoint) = (self.clock, self.network.of(process));
        let context = WorkerContext {
            memory: self.memory(),
            // Who waits for rows keeps the only thread.
            lazy_from: u64::MAX,
            clock,
            store: Arc::new(SimulatedStore { world: self.world.clone(), process }),
            transport: Arc::new(endpoint.clone()),
            tasks: tokio::runtime::Handle::current(),
            outside: self.outside(process),
            sinks: Arc::new(SimulatedSinks { world: self.world.clone(), process }),
            crash: None,
            safeguards: self.safeguards,
        };
        let settings = WorkerSettings {
            job: JobUid("uid".to_owned()),
            attempt: Attempt(self.attempt),
            slots: SLOTS,
            listen: format!("worker{process}:0"),
            host: format!("worker{process}"),
        };
        async move {
            let mut worker = Worker::new(settings, context).await.unwrap();
            loop {
                if let Ok(stream) = endpoint.connect(COORDINATOR).await
                    && let Err(WorkerError::Dismissed { .. }) = worker.follow(stream).await
                {
                    clock.sleep(Duration::from_millis(500)).await;
                }
                clock.sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
