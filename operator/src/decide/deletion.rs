//! What to do with a deleted job whose state goes with it. Pure.

use std::time::Duration;

use millrace_crds::StreamJob;
use millrace_crds::v1alpha1::OnDelete;

/// Keeps a deleted job until its state is removed.
pub const FINALIZER: &str = "millrace.dev/state";

/// Pods are waited for, so that none of them writes while its state is removed; those of a dead node never go.
const PODS_MAX: Duration = Duration::from_secs(60);

/// Then the job goes, whatever has become of its state.
const DEADLINE: Duration = Duration::from_secs(300);

/// What is seen of a deleted job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Since it was deleted.
    pub elapsed: Duration,
    pub has_pods: bool,
    pub cleanup: Cleanup,
}

/// The pod that removes the state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Cleanup {
    #[default]
    Absent,
    Running {
        /// What is the matter, if it does not come to its end.
        obstacle: Option<String>,
    },
    Done,
    Failed {
        why: String,
    },
}

/// What becomes of a deleted job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Farewell {
    /// Take its pods away, and look again.
    RemovePods,
    /// Make the pod that removes the state.
    Clean,
    Wait,
    /// The state is gone, or there was none: the job may go.
    LetGo,
    /// The state is still there, and the job goes all the same.
    GiveUp {
        why: String,
    },
}

/// True if the job's state goes with it.
pub fn is_wanted(job: &StreamJob) -> bool {
    job.spec.checkpoint.on_delete == OnDelete::Delete
}

/// Decides on a deleted job that has the finalizer.
pub fn farewell(job: &StreamJob, seen: &Seen) -> Farewell {
    let has_begun = job.status.as_ref().is_some_and(|status| status.attempt > 0);
    match &seen.cleanup {
        _ if !is_wanted(job) || !has_begun => Farewell::LetGo,
        Cleanup::Done => Farewell::LetGo,
        Cleanup::Failed { why } => Farewell::GiveUp { why: why.clone() },
        Cleanup::Running { obstacle } if seen.elapsed >= DEADLINE => {
            let why = obstacle.clone().unwrap_or_else(|| "it takes too long".to_owned());
            Farewell::GiveUp { why }
        }
        Cleanup::Running { .. } => Farewell::Wait,
        Cleanup::Absent if seen.has_pods && seen.elapsed < PODS_MAX => Farewell::RemovePods,
        Cleanup::Absent => Farewell::Clean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_crds::manifest;
    use millrace_crds::v1alpha1::StreamJobStatus;

    #[test]
    fn a_job_goes_once_its_state_is_gone_or_has_not_gone_for_long() {
        let job = |on_delete: &str, attempt: u64| {
            let mut job = manifest::read(&format!(
                "{{apiVersion: millrace.dev/v1alpha1, kind: StreamJob, metadata: {{name: a}}, spec: {{pipeline: {{sql: x}}, \
                 checkpoint: {{onDelete: {on_delete}}}}}}}"
            ))
            .unwrap();
            job.status = Some(StreamJobStatus { attempt, ..Default::default() });
            job
        };
        let seen = |seconds: u64, has_pods: bool, cleanup: Cleanup| Seen {
            elapsed: Duration::from_secs(seconds),
            has_pods,
            cleanup,
        };
        let running = |why: Option<&str>| Cleanup::Running { obstacle: why.map(str::to_owned) };
        let failed = || Cleanup::Failed { why: "no bucket".to_owned() };
        let given_up = |why: &str| Farewell::GiveUp { why: why.to_owned() };
        let cases = [
            ("its state stays", job("Retain", 1), seen(0, true, Cleanup::Absent), Farewell::LetGo),
            ("it never began", job("Delete", 0), seen(0, false, Cleanup::Absent), Farewell::LetGo),
            ("it runs", job("Delete", 1), seen(1, true, Cleanup::Absent), Farewell::RemovePods),
            ("its pods are gone", job("Delete", 1), seen(1, false, Cleanup::Absent), Farewell::Clean),
            ("a pod of a dead node", job("Delete", 1), seen(60, true, Cleanup::Absent), Farewell::Clean),
            ("it is being removed", job("Delete", 1), seen(299, false, running(None)), Farewell::Wait),
            ("it is gone", job("Delete", 1), seen(9, false, Cleanup::Done), Farewell::LetGo),
            ("it cannot be removed", job("Delete", 1), seen(9, false, failed()), given_up("no bucket")),
            (
                "for too long",
                job("Delete", 1),
                seen(300, false, running(None)),
                given_up("it takes too long"),
            ),
            ("no image", job("Delete", 1), seen(300, false, running(Some("no image"))), given_up("no image")),
        ];
        for (case, job, seen, expected) in cases {
            assert_eq!(farewell(&job, &seen), expected, "{case}");
        }
    }
}
