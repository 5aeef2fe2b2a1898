//! How much memory state may take in this process: said, or half of what the container or the machine has.

use std::fs;
use std::path::Path;

use tracing::info;

use super::job::UserError;
use crate::error::chain;
use crate::state::{LocalDisk, StateMemory};

/// State may take one part in so many. The rest is for rows on their way, for what checkpoints hold until they are stored, and for
/// what was written since the last of them, which is there twice.
const PART: u64 = 2;

/// Arguments about state in memory.
#[derive(clap::Args, Clone)]
pub struct StateArguments {
    /// Memory for the state of a worker, such as 512Mi; what is beyond it is on the local disk. Without it half of what the
    /// container or the machine has, divided by the workers on it.
    #[arg(long, env = "MILLRACE_STATE_MEMORY", value_parser = parse_bytes, value_name = "SIZE")]
    pub state_memory: Option<u64>,
    /// The folder for state that is not in memory. Without it that of temporary files.
    #[arg(long, env = "MILLRACE_STATE_FOLDER", value_name = "FOLDER")]
    pub state_folder: Option<std::path::PathBuf>,
    /// After a failure rows flow as soon as it is known which keys a state of at least this size has, and what is remembered of them
    /// comes meanwhile, through the folder; a smaller one is fetched whole before.
    #[arg(long, env = "MILLRACE_STATE_LAZY_FROM", value_parser = parse_bytes, value_name = "SIZE", default_value = "16Mi")]
    pub state_lazy_from: u64,
}

impl Default for StateArguments {
    fn default() -> Self {
        StateArguments { state_memory: None, state_folder: None, state_lazy_from: u64::MAX }
    }
}

impl StateArguments {
    /// The memory of each of so many workers on this machine.
    pub fn memory(&self, workers: u64) -> StateMemory {
        let budget = self.state_memory.unwrap_or_else(|| available() / PART / workers.max(1));
        let folder = self.state_folder.clone().unwrap_or_else(std::env::temp_dir);
        info!(bytes = budget, folder = %folder.display(), "memory for state, and where the rest goes");
        StateMemory::new(budget, LocalDisk::new(&folder))
    }

    /// Fails if the folder that was named does not serve, which would be seen only when state goes to it.
    pub fn check(&self) -> Result<(), UserError> {
        let Some(folder) = &self.state_folder else { return Ok(()) };
        LocalDisk::new(folder).check().map_err(|error| {
            UserError(format!(
                "--state-folder: {}; name a folder that is there and can be written to",
                chain(&error)
            ))
        })
    }

    /// The same for another process.
    pub fn arguments(&self) -> Vec<String> {
        let memory = self.state_memory.map(|bytes| format!("--state-memory={bytes}"));
        let folder = self.state_folder.as_ref().map(|folder| format!("--state-folder={}", folder.display()));
        let lazy_from = format!("--state-lazy-from={}", self.state_lazy_from);
        memory.into_iter().chain(folder).chain([lazy_from]).collect()
    }
}

/// Bytes that the container or the machine has; more than there can be if nobody tells.
fn available() -> u64 {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let machine = total_of(&read(Path::new("/proc/meminfo")));
    let limits = groups(&read(Path::new("/proc/self/cgroup")))
        .into_iter()
        .filter_map(|path| limit_of(&read(Path::new(&path))));
    limits.chain(machine).min().unwrap_or(u64::MAX)
}

/// Where limits of this process are: of its control group and of all that hold it, in the second version and the first.
fn groups(own: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        // Inside of a container the group may be the root although its path is another.
        let mut path = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{path}/{file}"));
            match path.rsplit_once('/') {
                Some((above, _)) => path = above,
                None => break,
            }
        }
    }
    files
}

fn limit_of(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Bytes as Kubernetes writes them.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: Option<u64> = match unit {
        "" => Some(1),
        "k" => Some(1000),
        "M" => Some(1000 * 1000),
        "G" => Some(1000 * 1000 * 1000),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        "Ti" => Some(1 << 40),
        _ => None,
    };
    let bytes =
        number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    bytes.ok_or_else(|| "write a number of bytes such as 512Mi or 2Gi".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_in_kubernetes() {
        for (text, expected) in
            [("0", Some(0)), ("1500", Some(1500)), ("512Mi", Some(512 << 20)), ("2G", Some(2_000_000_000))]
        {
            assert_eq!(parse_bytes(text).ok(), expected, "{text}");
        }
        for text in ["", "Mi", "1.5Gi", "12 Mi", "1mb", "-1", "99999999999Ti"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_are_those_of_all_groups_around() {
        assert_eq!(groups("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(
            groups("0::/kubepods/pod1\n"),
            [
                "/sys/fs/cgroup/kubepods/pod1/memory.max",
                "/sys/fs/cgroup/kubepods/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        let first = groups("5:cpu,cpuacct:/a\n4:memory:/a\n");
        assert_eq!(
            first,
            ["/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
        assert_eq!((limit_of("max\n"), limit_of("1048576\n")), (None, Some(1 << 20)));
        assert_eq!(total_of("MemTotal:        16 kB\nMemFree: 1 kB\n"), Some(16 << 10));
        assert!(available() > 1 << 20);
    }
}
