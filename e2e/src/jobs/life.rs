//! From suspended to finished: suspend, resume, scale, edit, delete.

use serde_json::Value;
use snafu::{OptionExt, ResultExt, whatever};

use super::{FAST, Jobs, SECONDS, SLOW, bucket_folder};
use crate::SYSTEM;
use crate::outside::{Outcome, apply, kubectl, run, wait};

impl Jobs<'_> {
    /// From suspended to finished, through every kind of edit.
    pub(super) fn life(&self) -> Outcome<()> {
        let mut job = self.job("life", &self.sql("life", SLOW));
        // State at a place of its own, which can be taken away without its results.
        let bucket = bucket_folder()?.with_file_name(format!("{}-life", self.namespace));
        let aside = bucket.with_extension("aside");
        std::fs::create_dir(&bucket).whatever_context("failed to make a bucket")?;
        job.location = format!("s3://{}-life/state", self.namespace);
        job.suspend = true;
        self.apply(&job)?;
        self.phase("life", "Suspended")?;
        self.no_pods("life")?;

        job.suspend = false;
        self.apply(&job)?;
        self.phase("life", "Running")?;
        self.checkpoint("life", 2)?;
        self.pods_have_no_rights("life")?;
        self.webhooks_reach_pods("life-coordinator")?;
        self.pods_go_one_at_a_time("life")?;

        // The bucket is away: a last checkpoint cannot be taken, which is said, and the job runs on until it can.
        std::fs::rename(&bucket, &aside).whatever_context("failed to take the bucket away")?;
        job.suspend = true;
        self.apply(&job)?;
        let said = self.condition(
            "life",
            "Ready",
            "False",
            "CheckpointFailed",
            &["The job runs on", "NoSuchBucket"],
        );
        let runs = said.and_then(|()| self.rows_go_on("life"));
        std::fs::rename(&aside, &bucket).whatever_context("failed to put the bucket back")?;
        runs?;
        self.phase("life", "Suspended")?;
        self.no_pods("life")?;
        let suspended = self.number("life", "/status/lastCheckpoint/epoch")?;
        job.suspend = false;
        self.apply(&job)?;
        self.restored("life", suspended)?;
        (self.say)(&format!("life: suspended at epoch {suspended}, resumed from it"));

        let before = self.checkpoint("life", suspended + 2)?;
        let restarts = self.number("life", "/status/restarts")?;
        job.parallelism = 3;
        kubectl(&["scale", "streamjob/life", "-n", self.namespace, "--replicas=3"])?;
        self.wait_for("life", "it runs with parallelism 3", |status| {
            status["parallelism"] == 3 && status["phase"] == "Running"
        })?;
        self.restored("life", before)?;
        if self.number("life", "/status/restarts")? != restarts {
            whatever!("what was asked for is counted as a restart");
        }
        (self.say)("life: scaled to 3");

        let pods = wait("only pods of the new attempt are left", SECONDS, || {
            let pods = self.pods("life")?;
            Ok(pods.iter().all(|pod| !pod.contains("-worker-2-")).then_some(pods))
        })?;
        let good = job.sql.clone();
        for (sql, reason, part) in [
            (good.replace("SUM(", "MAX("), "PlanChanged", "MAX(bid.price) of BIGINT per ("),
            (good.replace("/life'", "/elsewhere'"), "PlanChanged", "the option 'path' was"),
            (good.replace("event_type = 2", "event_typ = 2"), "InvalidSql", "line "),
        ] {
            job.sql = sql;
            self.apply(&job)?;
            self.condition("life", "Stalled", "True", reason, &[part])?;
            self.phase("life", "Running")?;
        }
        // While an edit is refused, what runs is kept up like any other job.
        let service = "service/life-coordinator";
        kubectl(&["delete", service, "-n", self.namespace])?;
        wait("the Service is back", SECONDS, || {
            Ok(kubectl(&["get", service, "-n", self.namespace, "-o", "name"]).ok())
        })?;
        job.sql = good;
        let place =
            std::mem::replace(&mut job.location, format!("s3://millrace/{}/elsewhere", self.namespace));
        self.apply(&job)?;
        let named = ["spec.checkpoint.location: the job's state is at", place.as_str(), "put it back"];
        self.condition("life", "Stalled", "True", "LocationChanged", &named)?;
        self.phase("life", "Running")?;
        job.location = place;
        self.apply(&job)?;
        self.condition("life", "Stalled", "False", "NotStalled", &[])?;
        if self.pods("life")? != pods {
            whatever!("a refused edit has replaced the pods {pods:?}");
        }
        (self.say)("life: edits that mean something else are refused, and the job runs on");

        // What the state fits may change.
        let before = self.number("life", "/status/lastCheckpoint/epoch")?;
        let edited = |sql: String| sql.replace("event_type = 2", "event_type > 1 AND event_type < 3");
        job.sql = edited(job.sql);
        self.apply(&job)?;
        self.wait_for("life", "another attempt runs the edited SQL", |status| {
            status["attempt"] == 4 && status["phase"] == "Running"
        })?;
        self.restored("life", before)?;
        (self.say)("life: an edit that its state fits goes on from it");

        self.templates("life")?;

        // And how the outside is reached: the rest of the input comes at full speed.
        job.sql = edited(self.sql("life", FAST));
        self.apply(&job)?;
        self.finish(&job)?;

        job.parallelism = 1;
        self.apply(&job)?;
        self.condition("life", "Stalled", "True", "JobFinished", &["another name"])?;
        kubectl(&["delete", "streamjob/life", "-n", self.namespace, "--timeout=60s"])?;
        wait("nothing of the job is left", SECONDS, || {
            let kinds =
                "deployments,services,configmaps,serviceaccounts,networkpolicies,poddisruptionbudgets,pods";
            let left =
                kubectl(&["get", kinds, "-n", self.namespace, "-l", "millrace.dev/job=life", "-o", "name"])?;
            Ok(left.trim().is_empty().then_some(()))
        })?;
        (self.say)("life: finished, and deleted with all that belonged to it");
        Ok(())
    }

    /// Who drains nodes is let to take one pod, and the next one only once the first one's successor is ready.
    fn pods_go_one_at_a_time(&self, job: &str) -> Outcome<()> {
        kubectl(&["get", "networkpolicy", &format!("{job}-pods"), "-n", self.namespace])?;
        let budget = format!("poddisruptionbudget/{job}-pods");
        let allowed = || {
            let path = "jsonpath={.status.disruptionsAllowed}";
            kubectl(&["get", &budget, "-n", self.namespace, "-o", path])
        };
        wait("one pod may be taken away", SECONDS, || Ok((allowed()? == "1").then_some(())))?;
        let epoch = self.number(job, "/status/lastCheckpoint/epoch")?;
        let pods = self.pods(job)?;
        let evict = |pod: &str| {
            let eviction = serde_json::json!({
                "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": self.namespace}
            });
            let file = self.folder.join("eviction.json");
            std::fs::write(&file, eviction.to_string()).whatever_context("failed to write an eviction")?;
            let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", self.namespace);
            kubectl(&["create", "--raw", &path, "-f", &file.display().to_string()])
        };
        let [first, second, ..] = pods.as_slice() else { whatever!("{job} has too few pods: {pods:?}") };
        evict(first)?;
        match evict(second) {
            Ok(_) => whatever!("{second} was taken away right after {first}"),
            Err(refused) if refused.to_string().contains("disruption budget") => {}
            Err(other) => return Err(other),
        }
        wait("one pod may be taken away again", SECONDS, || Ok((allowed()? == "1").then_some(())))?;
        self.checkpoint(job, epoch + 2)?;
        (self.say)(&format!("{job}: a pod was evicted, the next one only after it was replaced"));
        Ok(())
    }

    /// A template for the workers' pods is refused if pods have no such field, and laid over theirs if they have, with a restart.
    fn templates(&self, job: &str) -> Outcome<()> {
        let patch = |spec: &Value| {
            let patch = serde_json::json!({ "spec": spec }).to_string();
            kubectl(&["patch", "streamjob", job, "-n", self.namespace, "--type=merge", "-p", &patch])
        };
        patch(&serde_json::json!({"workers": {"podTemplate": {"spec": {"nodeSelektor": {"disk": "ssd"}}}}}))?;
        let named = ["spec.workers.podTemplate.spec.nodeSelektor: a pod has no such field"];
        self.condition(job, "Stalled", "True", "InvalidPodTemplate", &named)?;
        let label = serde_json::json!({"metadata": {"labels": {"team": "no label!"}}, "spec": null});
        patch(&serde_json::json!({"workers": {"podTemplate": label}}))?;
        let named = ["podTemplate: the pods of", "no label!"];
        self.condition(job, "Stalled", "True", "InvalidPodTemplate", &named)?;
        self.phase(job, "Running")?;
        let before = self.number(job, "/status/lastCheckpoint/epoch")?;
        let attempt = self.number(job, "/status/attempt")?;
        let container = serde_json::json!({"name": "worker", "env": [{"name": "TEAM", "value": "streams"}]});
        let template = serde_json::json!({
            "metadata": {"labels": {"team": "streams"}},
            "spec": {"terminationGracePeriodSeconds": 7, "containers": [container]}
        });
        patch(&serde_json::json!({"restartNonce": 1, "workers": {"podTemplate": template}}))?;
        self.wait_for(job, "another attempt has the template", |status| {
            status["attempt"] == attempt + 1 && status["phase"] == "Running"
        })?;
        self.restored(job, before)?;
        let selected = [
            "-l",
            "team=streams",
            "-o",
            "jsonpath={.items[*].spec.containers[*].env[?(@.name=='TEAM')].value}",
        ];
        let found = kubectl(&[&["get", "pods", "-n", self.namespace][..], &selected].concat())?;
        if !found.contains("streams") {
            whatever!("the workers do not have the template: {found}");
        }
        (self.say)(
            "life: a wrong template is refused; a right one is laid over the workers' pods, and the job goes on",
        );
        Ok(())
    }

    /// Another release of the controller, with another image for jobs and other settings, restarts no job; a job takes the image
    /// when it changes. The coordinators of jobs that have long been finished go.
    pub(super) fn upgrade(&self) -> Outcome<()> {
        let mut job = self.job("upgrade", &self.sql("upgrade", SLOW));
        self.apply(&job)?;
        self.checkpoint("upgrade", 1)?;
        let pods = self.pods("upgrade")?;
        if self.pods("topic")?.len() != 1 {
            whatever!("a finished job has another pod than its coordinator: {:?}", self.pods("topic")?);
        }

        let elsewhere = "MILLRACE_CHECKPOINT_LOCATION=s3://elsewhere/default";
        self.set_controller(&["MILLRACE_IMAGE=millrace:later", "MILLRACE_KEEP_FINISHED=1s", elsewhere])?;

        self.no_pods("topic")?;
        self.condition("topic", "Ready", "True", "Succeeded", &[])?;
        let status = self.status("upgrade")?;
        let (phase, image) = (&status["status"]["phase"], &status["status"]["image"]);
        if self.pods("upgrade")? != pods || phase != "Running" || image != "millrace:0.1.0" {
            whatever!("another release has changed a running job: it had the pods {pods:?}; {status}");
        }
        let kept = ["MILLRACE_IMAGE=millrace:0.1.0", "MILLRACE_KEEP_FINISHED=24h"];
        self.set_controller(&[&kept[..], &["MILLRACE_CHECKPOINT_LOCATION=s3://millrace/default"]].concat())?;
        job.sql = self.sql("upgrade", FAST);
        self.apply(&job)?;
        self.finish(&job)?;
        (self.say)(
            "another controller: restarted no job; the coordinators of jobs that had long been finished went",
        );
        Ok(())
    }

    /// One controller leads, and another takes its place when it is stopped, and when it is killed.
    pub(super) fn leaders(&self) -> Outcome<()> {
        let deployment = ["deployment/millrace-operator", "-n", SYSTEM];
        kubectl(&[&["scale", "--replicas=2"], &deployment[..]].concat())?;
        kubectl(&[&["rollout", "status", "--timeout=60s"], &deployment[..]].concat())?;
        let place = ["get", "lease/millrace-operator", "-n", SYSTEM, "-o", "jsonpath={.spec.holderIdentity}"];
        let leader = || -> Outcome<Option<String>> {
            let holder = kubectl(&place)?;
            Ok(Some(holder.trim().to_owned()).filter(|holder| !holder.is_empty()))
        };
        let another = |than: &str| {
            wait("another controller leads", SECONDS, || Ok(leader()?.filter(|holder| holder != than)))
        };
        let first = another("")?;
        let pod = |holder: &str| holder.rsplit_once('_').map_or(String::new(), |(pod, _)| pod.to_owned());
        (self.say)(&format!("controllers: {first} leads, and is stopped"));
        kubectl(&["delete", "pod", &pod(&first), "-n", SYSTEM, "--wait=false"])?;
        let second = another(&first)?;
        if pod(&second) == pod(&first) {
            whatever!("the pod {} was deleted, and leads", pod(&first));
        }
        // It may lead before the API server knows its container.
        let ready = format!("pod/{}", pod(&second));
        kubectl(&["wait", "--for=condition=Ready", &ready, "-n", SYSTEM, "--timeout=60s"])?;
        (self.say)(&format!("controllers: {second} leads, and is killed"));
        run(&crate::script("container-signal"), &["KILL", SYSTEM, &pod(&second)])?;
        let third = another(&second)?;
        (self.say)(&format!("controllers: {third} leads"));
        let job = self.job("led", &self.sql("led", FAST));
        self.apply(&job)?;
        self.finish(&job)?;
        (self.say)("controllers: another one leads, after a stop and after a kill, and runs what is applied");
        Ok(())
    }

    /// Gives the controller other settings and waits until it has them.
    fn set_controller(&self, settings: &[&str]) -> Outcome<()> {
        let deployment = ["deployment/millrace-operator", "-n", SYSTEM];
        kubectl(&[&["set", "env"], &deployment[..], settings].concat())?;
        kubectl(&[&["rollout", "status", "--timeout=60s"], &deployment[..]].concat()).map(|_| ())
    }

    /// The API server calls pods, and refuses what a webhook has not allowed. A job's port without TLS is a webhook that never does.
    fn webhooks_reach_pods(&self, service: &str) -> Outcome<()> {
        let label = "millrace.dev/e2e-webhook";
        let webhook = serde_json::json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": self.namespace},
            "webhooks": [{
                "name": "closed.millrace.dev",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "timeoutSeconds": 5,
                "clientConfig": {"service": {"namespace": self.namespace, "name": service, "port": 6123}},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}},
                "objectSelector": {"matchExpressions": [{"key": label, "operator": "Exists"}]},
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"],
                }],
            }],
        });
        let object = serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "webhook", "namespace": self.namespace, "labels": {label: "true"}},
        });
        apply(self.folder, "webhook.json", &webhook.to_string())?;
        // The API server learns of a webhook a moment after it was made.
        let refused = wait("a webhook's pod is called", SECONDS, || {
            match apply(self.folder, "webhook-object.json", &object.to_string()) {
                Err(error) => Ok(Some(error.to_string())),
                Ok(()) => {
                    kubectl(&["delete", "configmap/webhook", "-n", self.namespace])?;
                    Ok(None)
                }
            }
        });
        kubectl(&["delete", "validatingwebhookconfiguration", self.namespace])?;
        let refused = refused?;
        if !refused.contains("failed calling webhook") || !refused.contains("HTTP response to HTTPS client") {
            whatever!("a webhook's pod was not reached: {refused}");
        }
        (self.say)("life: a webhook in a pod is called, and without its consent nothing is made");
        Ok(())
    }

    /// A job runs code of its users: its pods can ask nothing of the API server, and have nothing to ask with.
    fn pods_have_no_rights(&self, job: &str) -> Outcome<()> {
        let of_job = format!("millrace.dev/job={job}");
        let pods = kubectl(&["get", "pods", "-n", self.namespace, "-l", &of_job, "-o", "json"])?;
        let pods: Value = serde_json::from_str(&pods).whatever_context("kubectl's answer is malformed")?;
        let pods = pods["items"].as_array().whatever_context("kubectl's answer is malformed")?;
        let mut accounts: Vec<&str> = Vec::new();
        for pod in pods {
            let spec = &pod["spec"];
            let mounts_token = spec["volumes"].as_array().into_iter().flatten().any(|volume| {
                let sources = volume.pointer("/projected/sources").and_then(Value::as_array);
                sources.is_some_and(|sources| {
                    sources.iter().any(|source| source.get("serviceAccountToken").is_some())
                })
            });
            if mounts_token || spec["automountServiceAccountToken"] != false {
                whatever!("a pod of {job} has a token: {spec}");
            }
            accounts.extend(spec["serviceAccountName"].as_str());
        }
        let account = accounts.first().whatever_context("the job has no pods")?;
        let account = format!("system:serviceaccount:{}:{account}", self.namespace);
        for (verb, what) in
            [("get", "secrets"), ("create", "pods"), ("list", "configmaps"), ("patch", "streamjobs")]
        {
            // kubectl ends with 1 if the answer is no.
            let asked = ["auth", "can-i", verb, what, "-n", self.namespace, "--as", &account];
            // Whoever runs this can: so a refusal is about the account.
            kubectl(&asked[..6])?;
            if let Ok(answer) = kubectl(&asked) {
                whatever!("{account} can {verb} {what}: {answer}");
            }
        }
        (self.say)("life: its pods have neither rights nor a token");
        Ok(())
    }
}
