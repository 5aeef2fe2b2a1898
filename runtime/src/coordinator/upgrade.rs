//! How a job goes on from a checkpoint, whatever has become of its SQL. Pure.

use millrace_crds::v1alpha1::{UpgradeMode, UpgradeSpec};
use millrace_sql::plan::{Plan, Succession, misfit, succeed};

use super::{JobError, Stop};
use crate::checkpoint::records::{Manifest, SubtaskState};

/// What goes on from a checkpoint.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Upgrade {
    pub plan: Plan,
    /// What it does otherwise than the plan of the checkpoint, in words.
    pub changes: Vec<String>,
    /// Operators that get a copy of another's state, and whose.
    copies: Vec<(String, String)>,
    /// Sinks of the checkpoint's plan that the new one does not have; with all that the checkpoint has prepared for them.
    pub given_up: Plan,
    /// Nothing of the state is taken over.
    pub is_anew: bool,
    /// A savepoint of the checkpoint is to be kept.
    pub keeps_savepoint: bool,
}

impl Upgrade {
    /// The plan that goes on from a checkpoint: the one that is stored with it, so that another release changes nothing; or that of
    /// SQL that was edited, if it fits the state or needs none.
    ///
    /// # Errors
    /// What of the state the edited SQL does not fit.
    pub(super) fn of(
        restored: Option<&Manifest>,
        sql: &str,
        compiled: &Plan,
        spec: &UpgradeSpec,
    ) -> Result<Upgrade, Stop> {
        let unchanged = |plan: &Plan| Upgrade { plan: plan.clone(), ..Upgrade::default() };
        let Some((manifest, stored)) =
            restored.and_then(|manifest| Some((manifest, manifest.plan.as_ref()?)))
        else {
            return Ok(unchanged(compiled));
        };
        // What has read its input to the end is what it was.
        if manifest.sql == sql || manifest.is_final && spec.mode == UpgradeMode::Stateless {
            return Ok(unchanged(stored));
        }
        let succession = succeed(stored, compiled, spec.allow_non_restored_state);
        if spec.mode == UpgradeMode::Stateless {
            return Ok(match succession {
                Ok(succession) if succession.changes.is_empty() => Upgrade::with(succession),
                Ok(Succession { changes, .. }) | Err(changes) => {
                    Upgrade { changes, given_up: stored.clone(), is_anew: true, ..unchanged(compiled) }
                }
            });
        }
        let succession = succession.map_err(|differences| {
            let message = format!(
                "spec.pipeline.sql: it does not fit the state of checkpoint {}: {}",
                manifest.epoch,
                misfit(stored, compiled, &differences)
            );
            Stop::Error(JobError::Failed { kind: "PlanChanged".to_owned(), message })
        })?;
        let keeps_savepoint = spec.mode == UpgradeMode::Savepoint && !succession.changes.is_empty();
        Ok(Upgrade { keeps_savepoint, ..Upgrade::with(succession) })
    }

    fn with(succession: Succession) -> Upgrade {
        let Succession { plan, changes, copies, given_up } = succession;
        let given_up = Plan { operators: given_up, edges: Vec::new() };
        Upgrade { plan, changes, copies, given_up, ..Upgrade::default() }
    }

    /// The state that the plan's operators begin with.
    pub fn state(&self, restored: Option<&Manifest>) -> Vec<SubtaskState> {
        let stored = match restored {
            Some(manifest) if !self.is_anew => manifest.subtasks.as_slice(),
            _ => &[],
        };
        let is_there =
            |state: &&SubtaskState| self.plan.operators.iter().any(|operator| operator.id == state.operator);
        let mut states: Vec<SubtaskState> = stored.iter().filter(is_there).cloned().collect();
        for (operator, of) in &self.copies {
            let of = stored.iter().filter(|state| state.operator == *of);
            // Late rows were counted once.
            states.extend(of.map(|state| SubtaskState {
                operator: operator.clone(),
                late_rows: 0,
                ..state.clone()
            }));
        }
        states
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(folder: u32) -> String {
        format!(
            "CREATE TABLE a (x BIGINT) WITH ('connector' = 'filesystem', 'path' = '/a{folder}', 'format' = 'json');
             CREATE TABLE b (x BIGINT) WITH ('connector' = 'blackhole');
             INSERT INTO b SELECT x FROM a WHERE x > 1;"
        )
    }

    fn checkpoint(sql: &str) -> Manifest {
        let plan = millrace_sql::compile(sql).unwrap();
        let subtask = |operator: &millrace_sql::plan::Operator| SubtaskState {
            operator: operator.id.clone(),
            late_rows: 3,
            ..Default::default()
        };
        let subtasks = plan.operators.iter().map(subtask).collect();
        Manifest { epoch: 7, sql: sql.to_owned(), plan: Some(plan), subtasks, ..Default::default() }
    }

    fn to(manifest: &Manifest, sql: &str, mode: UpgradeMode) -> Result<Upgrade, Stop> {
        let spec = UpgradeSpec { mode, allow_non_restored_state: false };
        Upgrade::of(Some(manifest), sql, &millrace_sql::compile(sql).unwrap(), &spec)
    }

    #[test]
    fn a_restart_runs_the_stored_plan_and_other_sql_is_refused() {
        let (first, second) = (sql(1), sql(2));
        let other = millrace_sql::compile(&second).unwrap();
        let manifest = checkpoint(&first);
        let stored = manifest.plan.clone().unwrap();
        let spec = UpgradeSpec::default();

        let upgrade = Upgrade::of(None, &second, &other, &spec).unwrap();
        assert_eq!(upgrade.plan, other, "nothing is restored");
        let upgrade = Upgrade::of(Some(&manifest), &first, &other, &spec).unwrap();
        assert_eq!(upgrade.plan, stored, "another release compiles differently");
        let commented = format!("-- a comment\n{first}");
        assert_eq!(to(&manifest, &commented, UpgradeMode::LastState).unwrap().plan, stored);
        let Err(Stop::Error(refused)) = to(&manifest, &second, UpgradeMode::LastState) else {
            panic!("let through")
        };
        assert!(refused.to_string().contains("checkpoint 7"), "{refused}");
    }

    #[test]
    fn only_sql_that_does_something_else_begins_without_state_or_keeps_a_savepoint() {
        let first = sql(1);
        let filtered = first.replace("x > 1", "x > 2");
        let manifest = checkpoint(&first);
        let cases = [
            (format!("-- a comment\n{first}"), UpgradeMode::Stateless, false, false),
            (first.clone(), UpgradeMode::Stateless, false, false),
            (sql(2), UpgradeMode::Stateless, true, false),
            (filtered.clone(), UpgradeMode::Stateless, true, false),
            (filtered.clone(), UpgradeMode::Savepoint, false, true),
            (first.clone(), UpgradeMode::Savepoint, false, false),
            (filtered.clone(), UpgradeMode::LastState, false, false),
        ];
        for (text, mode, is_anew, keeps_savepoint) in cases {
            let upgrade = to(&manifest, &text, mode).unwrap();
            assert_eq!(
                (upgrade.is_anew, upgrade.keeps_savepoint),
                (is_anew, keeps_savepoint),
                "{mode:?}: {text}"
            );
            assert_eq!(upgrade.state(Some(&manifest)).is_empty(), is_anew, "{mode:?}: {text}");
            assert_eq!(upgrade.given_up.operators.is_empty(), !is_anew, "{mode:?}: {text}");
        }
        let done = Manifest { is_final: true, ..manifest };
        assert!(!to(&done, &filtered, UpgradeMode::Stateless).unwrap().is_anew, "its results are all there");
    }

    #[test]
    fn state_goes_to_operators_that_are_there_and_to_those_that_were_one() {
        let manifest = checkpoint(&sql(1));
        let upgrade = Upgrade {
            plan: Plan {
                operators: manifest.plan.clone().unwrap().operators.split_off(1),
                edges: Vec::new(),
            },
            copies: vec![("c/c/sink".to_owned(), "b/a/source".to_owned())],
            ..Upgrade::default()
        };
        let states = upgrade.state(Some(&manifest));
        let told: Vec<(&str, u64)> =
            states.iter().map(|state| (state.operator.as_str(), state.late_rows)).collect();
        assert_eq!(told, [("b/b/calc", 3), ("b/b/sink", 3), ("c/c/sink", 0)]);
    }
}
