//! What to do with a deleted job whose state goes with it. Pure.

use std::time::Duration;

use millrace_crds::StreamJob;
use millrace_crds::v1alpha1::OnDelete;

/// Keeps a deleted job until its state is removed.
pub const FINALIZER: &str = "millrace.dev/state";

/// After it the job goes, whatever the pod that removes its state has come to.
const DEADLINE: Duration = Duration::from_secs(300);

/// What is seen of a deleted job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of its own, which make pods.
    pub has_deployments: bool,
    /// That may still write. Those of a dead node never go, and do not count once they should have gone.
    pub has_pods: bool,
    pub cleanup: Cleanup,
}

/// The pod that removes the state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Cleanup {
    #[default]
    Absent,
    Running {
        /// Since it was made.
        elapsed: Duration,
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
        Cleanup::Running { obstacle, elapsed } if *elapsed >= DEADLINE => {
            let why = obstacle.clone().unwrap_or_else(|| "it takes too long".to_owned());
            Farewell::GiveUp { why }
        }
        Cleanup::Running { .. } => Farewell::Wait,
        // Also with no pod just now: there may be one in a moment.
        Cleanup::Absent if seen.has_deployments || seen.has_pods => Farewell::RemovePods,
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
        let seen = |has_deployments: bool, has_pods: bool, cleanup: Cleanup| Seen {
            has_deployments,
            has_pods,
            cleanup,
        };
        let running = |seconds: u64, why: Option<&str>| Cleanup::Running {
            elapsed: Duration::from_secs(seconds),
            obstacle: why.map(str::to_owned),
        };
        let failed = || Cleanup::Failed { why: "no bucket".to_owned() };
        let given_up = |why: &str| Farewell::GiveUp { why: why.to_owned() };
        let cases = [
            ("its state stays", job("Retain", 1), seen(true, true, Cleanup::Absent), Farewell::LetGo),
            ("it never began", job("Delete", 0), seen(false, false, Cleanup::Absent), Farewell::LetGo),
            ("it runs", job("Delete", 1), seen(true, true, Cleanup::Absent), Farewell::RemovePods),
            (
                "its pods are not there yet",
                job("Delete", 1),
                seen(true, false, Cleanup::Absent),
                Farewell::RemovePods,
            ),
            (
                "its pods are ending",
                job("Delete", 1),
                seen(false, true, Cleanup::Absent),
                Farewell::RemovePods,
            ),
            ("its pods are gone", job("Delete", 1), seen(false, false, Cleanup::Absent), Farewell::Clean),
            ("it is being removed", job("Delete", 1), seen(false, false, running(299, None)), Farewell::Wait),
            ("it is gone", job("Delete", 1), seen(false, false, Cleanup::Done), Farewell::LetGo),
            ("it cannot be removed", job("Delete", 1), seen(false, false, failed()), given_up("no bucket")),
            (
                "for too long",
                job("Delete", 1),
                seen(false, false, running(300, None)),
                given_up("it takes too long"),
            ),
            (
                "no image",
                job("Delete", 1),
                seen(false, false, running(300, Some("no image"))),
                given_up("no image"),
            ),
        ];
        for (case, job, seen, expected) in cases {
            assert_eq!(farewell(&job, &seen), expected, "{case}");
        }
    }
}
