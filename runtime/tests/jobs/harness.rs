//! A folder with a manifest, and the binary run in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

/// A place where a job runs.
pub struct Place {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
}

impl Place {
    /// A folder with `job.yaml`.
    pub fn new(parallelism: u32, sql: &str) -> Self {
        let place = Place { folder: tempfile::tempdir().unwrap(), env: Vec::new() };
        place.set_job(parallelism, sql);
        place
    }

    /// Runs with these variables, too.
    #[allow(dead_code, reason = "used by one of the two test programs that share this file")]
    pub fn with_env(mut self, env: &[(&str, &str)]) -> Self {
        self.env.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    /// Writes `job.yaml`.
    pub fn set_job(&self, parallelism: u32, sql: &str) {
        let indented: String = sql.lines().map(|line| format!("      {line}\n")).collect();
        let manifest = format!(
            "apiVersion: millrace.dev/v1alpha1\nkind: StreamJob\nmetadata:\n  name: job\nspec:\n  \
             parallelism: {parallelism}\n  checkpoint:\n    interval: 300ms\n  pipeline:\n    sql: |\n{indented}"
        );
        fs::write(self.path().join("job.yaml"), manifest).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs the job to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs another verb on the job to its end.
    #[allow(dead_code, reason = "used by one of the two test programs that share this file")]
    pub fn verb(&self, verb: &str, arguments: &[&str]) -> Output {
        self.verb_command(verb, arguments).output().unwrap()
    }

    /// Replaces a part of `job.yaml`.
    #[allow(dead_code, reason = "used by one of the two test programs that share this file")]
    pub fn edit_job(&self, from: &str, to: &str) {
        let path = self.path().join("job.yaml");
        let manifest = fs::read_to_string(&path).unwrap();
        assert!(manifest.contains(from), "{manifest}");
        fs::write(path, manifest.replacen(from, to, 1)).unwrap();
    }

    /// Starts the job; its log goes to the file `log`, its standard output to `out`.
    pub fn start(&self, arguments: &[&str]) -> Job {
        self.spawn(self.command(arguments))
    }

    /// Starts a job that crashes where a variable says.
    pub fn start_crashing(&self, variable: &str, value: &str) -> Job {
        self.start_with(&[], variable, value)
    }

    /// Starts a job with a variable for all of its processes.
    pub fn start_with(&self, arguments: &[&str], variable: &str, value: &str) -> Job {
        let mut command = self.command(arguments);
        command.env(variable, value);
        self.spawn(command)
    }

    /// Starts a job whose standard output is for [`Job::stdout`], and waits there until it is taken.
    #[allow(dead_code, reason = "used by one of the two test programs that share this file")]
    pub fn start_printing(&self, arguments: &[&str]) -> Job {
        let log = fs::File::create(self.path().join("log")).unwrap();
        Job(self.command(arguments).stdout(Stdio::piped()).stderr(log).spawn().unwrap())
    }

    /// Starts the job by way of another program, whose first arguments these are.
    #[allow(dead_code, reason = "used by one of the two test programs that share this file")]
    pub fn start_through(&self, program: &[&str]) -> Job {
        let through = self.command(&[]);
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(through.get_program()).args(through.get_args());
        command.current_dir(self.path()).stdin(Stdio::null());
        self.spawn(command)
    }

    /// Starts a role that pods run; its log goes to a file.
    #[allow(dead_code, reason = "used by one of the two test programs that share this file")]
    pub fn start_role(&self, role: &str, arguments: &[&str], log: &str) -> Job {
        let mut command = self.verb_command(role, arguments);
        let log = fs::File::create(self.path().join(log)).unwrap();
        Job(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn spawn(&self, mut command: Command) -> Job {
        let [log, out] = ["log", "out"].map(|name| fs::File::create(self.path().join(name)).unwrap());
        Job(command.stdout(out).stderr(log).spawn().unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.verb_command("run", arguments)
    }

    fn verb_command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        command.current_dir(self.path()).arg(verb).arg("job.yaml").args(arguments).stdin(Stdio::null());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Waits until a condition holds; shows the log if it does not.
    #[allow(dead_code, reason = "used by one of the two test programs that share this file")]
    pub fn wait_until(&self, what: &str, holds: impl FnMut() -> bool) {
        let holds = std::panic::AssertUnwindSafe(holds);
        let waited = std::panic::catch_unwind(move || {
            let holds = holds;
            wait_until(what, holds.0);
        });
        assert!(waited.is_ok(), "waited in vain until {what}:\n{}", self.log());
    }

    /// What the job has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// What a started job has printed so far.
    #[allow(dead_code, reason = "used by one of the two test programs that share this file")]
    pub fn out(&self) -> String {
        fs::read_to_string(self.path().join("out")).unwrap_or_default()
    }

    /// All visible rows of a sink folder, sorted.
    pub fn rows(&self, folder: &str) -> Vec<String> {
        let mut rows: Vec<String> = self
            .files(folder)
            .iter()
            .flat_map(|file| fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        rows.sort();
        rows
    }

    /// All visible files of a sink folder.
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path().join(folder)) else { return Vec::new() };
        let visible = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.'));
        visible.collect()
    }
}

/// A job's process. It ends with the test that started it, and takes its workers with it.
pub struct Job(Child);

impl Job {
    #[allow(dead_code, reason = "used by one of the two test programs that share this file")]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// What a job that was started for it prints.
    #[allow(dead_code, reason = "used by one of the two test programs that share this file")]
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.0.stdout.take()
    }

    pub fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.0.wait()
    }

    #[allow(dead_code, reason = "used by one of the two test programs that share this file")]
    pub fn try_wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    #[allow(dead_code, reason = "used by one of the two test programs that share this file")]
    pub fn kill(&mut self) -> std::io::Result<()> {
        self.0.kill()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // A process that has ended already cannot be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a signal to a process that a test has started.
#[allow(dead_code, reason = "used by one of the two test programs that share this file")]
pub fn signal(process: u32, signal: i32) {
    // SAFETY: sending a signal touches no memory of this process.
    let sent = unsafe { libc::kill(process as i32, signal) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
}

/// Everything a finished process has written.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

/// Waits until a condition holds; fails after a minute.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut tries = 0;
    while !holds() {
        tries += 1;
        assert!(tries < 6_000, "waited in vain until {what}");
        // There is nothing to await in another process's log.
        #[expect(clippy::disallowed_methods, reason = "polls another process")]
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
