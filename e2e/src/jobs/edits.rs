//! A job whose SQL is in a ConfigMap: it is made, edited so that state has to be let go, and the job's state goes with the job.

use serde_json::json;
use snafu::whatever;

use super::{FAST, Jobs, SECONDS, SLOW, bucket_folder};
use crate::outside::{Outcome, apply, kubectl, run, wait};

impl Jobs<'_> {
    pub(super) fn edits(&self) -> Outcome<()> {
        let one = self.sql("edited", SLOW);
        let two = format!(
            "{one} CREATE TABLE seen (auction BIGINT, n BIGINT) WITH ('connector' = 'blackhole'); \
             INSERT INTO seen SELECT auction, COUNT(*) FROM bids GROUP BY auction;"
        );
        let mut manifest = self.manifest(&self.job("edited", ""));
        manifest["spec"]["pipeline"] =
            json!({"sqlFrom": {"configMapKeyRef": {"name": "queries", "key": "edited.sql"}}});
        manifest["spec"]["checkpoint"]["onDelete"] = "Delete".into();
        apply(self.folder, "edited.json", &manifest.to_string())?;
        let cure = ["there is no ConfigMap 'queries'", "kubectl create configmap queries"];
        self.condition("edited", "Ready", "False", "SqlMissing", &cure)?;
        self.queries(&two)?;
        self.checkpoint("edited", 2)?;
        kubectl(&["delete", "configmap/queries", "-n", self.namespace])?;
        self.condition("edited", "Stalled", "True", "SqlMissing", &cure)?;
        self.phase("edited", "Running")?;
        (self.say)(
            "SQL in a ConfigMap that is missing: named; the job ran once it was made, and runs on without it",
        );

        self.queries(&one)?;
        let named = [
            "ConfigMap 'queries', key 'edited.sql'",
            "there is no 'seen/bids/group' any more",
            "allowNonRestoredState: true",
        ];
        self.condition("edited", "Stalled", "True", "PlanChanged", &named)?;
        self.phase("edited", "Running")?;
        let before = self.checkpoint("edited", 2)?;
        manifest["spec"]["upgrade"] = json!({"allowNonRestoredState": true});
        apply(self.folder, "edited.json", &manifest.to_string())?;
        self.wait_for("edited", "another attempt runs one INSERT less", |status| {
            status["attempt"] == 2 && status["phase"] == "Running"
        })?;
        self.restored("edited", before)?;
        // What is for later edits restarts nothing.
        let pods = self.pods("edited")?;
        manifest["spec"]["upgrade"] = json!({"mode": "Savepoint"});
        apply(self.folder, "edited.json", &manifest.to_string())?;
        self.phase("edited", "Running")?;
        self.checkpoint("edited", before + 4)?;
        if self.pods("edited")? != pods {
            whatever!("what is for later edits has replaced the pods {pods:?}");
        }
        self.queries(&self.sql("edited", FAST))?;
        let job = self.job("edited", &one);
        self.finish(&job)?;
        (self.say)("an INSERT that is taken away: refused, and let go with its state once that may be");

        let state = bucket_folder()?.join(format!("{0}/state/{0}/edited", self.namespace));
        let left = || -> Outcome<usize> {
            if !state.exists() {
                return Ok(0);
            }
            let found = run("find", &[&state.display().to_string(), "-type", "f"])?;
            Ok(found.lines().count())
        };
        if left()? == 0 {
            whatever!("there is no state in {}", state.display());
        }
        kubectl(&["delete", "streamjob/edited", "-n", self.namespace, "--timeout=90s"])?;
        if left()? != 0 {
            whatever!("{} objects are left in {}", left()?, state.display());
        }
        let told = ["get", "events", "-n", self.namespace, "-o", "name", "--field-selector"];
        let of_reason = "involvedObject.name=edited,reason=StateDeleted";
        wait("an event tells that the state is gone", SECONDS, || {
            let events = kubectl(&[&told[..], &[of_reason]].concat())?;
            Ok((!events.trim().is_empty()).then_some(()))
        })?;
        (self.say)("a job that was deleted with its state: nothing of it is left in the bucket");
        Ok(())
    }

    fn queries(&self, sql: &str) -> Outcome<()> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "queries", "namespace": self.namespace},
            "data": {"edited.sql": sql},
        });
        apply(self.folder, "queries.json", &config.to_string())
    }
}
