//! Manifests that are accepted or refused, and the committed definition.

use kube::CustomResourceExt;
use millrace_crds::contract::{ColumnChecksum, Report, ReportedCheckpoint, ReportedPhase};
use millrace_crds::{StreamJob, manifest};

const GOOD: &str = "
apiVersion: millrace.dev/v1alpha1
kind: StreamJob
metadata:
  name: totals
spec:
  pipeline:
    sql: INSERT INTO a SELECT 1
";

#[test]
fn defaults_are_those_of_the_documentation() {
    let job = manifest::read(GOOD).unwrap();

    assert_eq!(job.metadata.namespace.as_deref(), Some("default"));
    let spec = serde_json::to_value(&job.spec).unwrap();
    assert_eq!(
        spec,
        serde_json::json!({
            "pipeline": {"sql": "INSERT INTO a SELECT 1"},
            "parallelism": 1,
            "maxParallelism": 1024,
            "startFrom": "Latest",
            "suspend": false,
            "storage": {"pathStyle": false, "allowHttp": false},
            "checkpoint": {"interval": "10s", "timeout": "10m", "retain": 3},
            "restart": {"strategy": "Exponential", "initialDelay": "1s", "maxDelay": "1m"},
            "workers": {"slots": 2},
        })
    );
}

#[test]
fn mistakes_name_the_field_and_the_cure() {
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "apiVersion: millrace.dev/v1alpha1",
            "apiVersion: v1",
            &["apiVersion: is v1, write millrace.dev/v1alpha1"],
        ),
        ("apiVersion: millrace.dev/v1alpha1", "", &["apiVersion: is nothing, write millrace.dev/v1alpha1"]),
        ("kind: StreamJob", "kind: Deployment", &["kind: is Deployment, write StreamJob"]),
        ("name: totals", "name: Totals", &["metadata.name", "lower-case"]),
        ("name: totals", "labels: {}", &["metadata.name", "missing"]),
        (
            "    sql:",
            "    sqlFrom: {configMapKeyRef: {name: a, key: b}}\n    sql:",
            &["spec.pipeline: exactly one of sql and sqlFrom"],
        ),
        ("    sql: INSERT INTO a SELECT 1", "    secrets: []", &["spec.pipeline"]),
        (
            "sql: INSERT INTO a SELECT 1",
            "sqlFrom: {configMapKeyRef: {name: '', key: b}}",
            &["spec.pipeline.sqlFrom.configMapKeyRef.name: has not 1 to 253 characters"],
        ),
        ("spec:", "spec:\n  upgrade: {mode: Sometimes}", &["spec.upgrade.mode", "Sometimes", "LastState"]),
        ("spec:", "spec:\n  paralelism: 4", &["spec.paralelism: ", "line 7", "parallelism"]),
        ("spec:", "spec:\n  parallelism: many", &["spec.parallelism: ", "many"]),
        ("spec:", "spec:\n  parallelism: 0", &["spec.parallelism: 0 is not from 1 to 32768"]),
        ("spec:", "spec:\n  maxParallelism: 1000", &["spec.maxParallelism", "a power of two"]),
        (
            "spec:",
            "spec:\n  parallelism: 8\n  maxParallelism: 4",
            &["spec.parallelism", "at most spec.maxParallelism"],
        ),
        (
            "spec:",
            "spec:\n  checkpoint: {interval: 10 s}",
            &["spec.checkpoint.interval", "'10 s' is not a duration", "500ms, 10s"],
        ),
        (
            "spec:",
            "spec:\n  checkpoint: {interval: 9ms}",
            &["spec.checkpoint.interval: at least 10ms", "objects"],
        ),
        (
            "spec:",
            "spec:\n  checkpoint: {timeout: 0s}",
            &["spec.checkpoint.timeout: at least 100ms", "no checkpoint would ever be complete"],
        ),
        (
            "spec:",
            "spec:\n  restart: {initialDelay: 0s}",
            &["spec.restart.initialDelay: at least 10ms", "nothing but restart"],
        ),
        (
            "spec:",
            "spec:\n  restart: {maxDelay: 500ms}",
            &[
                "spec.restart.maxDelay: at least spec.restart.initialDelay",
                "they are 1m and 1s unless they are given",
            ],
        ),
        (
            "spec:",
            "spec:\n  restart: {strategy: Sometimes}",
            &["spec.restart.strategy: ", "Sometimes", "Exponential"],
        ),
        (
            "spec:",
            "spec:\n  restart: {strategy: FailureRate, maxRestarts: 3}",
            &[
                "spec.restart.maxRestarts: only with spec.restart.strategy FixedDelay and Exponential; set one",
            ],
        ),
        (
            "spec:",
            "spec:\n  restart: {strategy: None, backoffMultiplier: 3, jitter: 0.5, resetAfter: 1m}",
            &[
                "spec.restart.backoffMultiplier: only with spec.restart.strategy Exponential",
                "spec.restart.jitter: only with",
                "spec.restart.resetAfter: only with",
            ],
        ),
        (
            "spec:",
            "spec:\n  restart: {backoffMultiplier: 0.5, jitter: 1.5}",
            &[
                "spec.restart.backoffMultiplier: 0.5 is not from 1 to 100",
                "spec.restart.jitter: 1.5 is not from 0 to 1",
            ],
        ),
        (
            "spec:",
            "spec:\n  restart: {resetAfter: 0s, initialDelay: 2m}",
            &[
                "spec.restart.resetAfter: at least 1s",
                "spec.restart.maxDelay: at least spec.restart.initialDelay; they are 1m and 1s",
            ],
        ),
        (
            "spec:",
            "spec:\n  restart: {strategy: FailureRate, interval: 3s, delay: 3s, initialDelay: 2s, maxDelay: 2m}",
            &[
                "spec.restart.interval: longer than spec.restart.delay",
                "spec.restart.initialDelay: only with spec.restart.strategy Exponential",
                "spec.restart.maxDelay: only with spec.restart.strategy Exponential",
            ],
        ),
        (
            "spec:",
            "spec:\n  restart: {strategy: FixedDelay, maxFailures: 3}",
            &["spec.restart.maxFailures: only with spec.restart.strategy FailureRate"],
        ),
        (
            "spec:",
            "spec:\n  restart: {strategy: FixedDelay, delay: 1ms}",
            &["spec.restart.delay: at least 10ms"],
        ),
        (
            "spec:",
            "spec:\n  restart: {strategy: FixedDelay, maxRestarts: 0}",
            &["spec.restart.maxRestarts: 0 is not from 1 to 1000000"],
        ),
        ("spec:", "spec:\n  checkpoint: {retain: 0}", &["spec.checkpoint.retain: 0 is not from 1 to 1000"]),
        (
            "spec:",
            "spec:\n  checkpoint: {acceptLostResultsOf: 0}",
            &["spec.checkpoint.acceptLostResultsOf: 0 is no epoch: they begin at 1"],
        ),
        ("spec:", "spec:\n  workers: {slots: 65}", &["spec.workers.slots: 65 is not from 1 to 64"]),
        (
            "spec:",
            "spec:\n  startFrom: latest",
            &["spec.startFrom: Latest, None, or the place of a savepoint", "s3://bucket/folder"],
        ),
        ("spec:", "spec:\n  startFrom: ''", &["spec.startFrom: has not 1 to 1024 characters"]),
        ("sql: INSERT INTO a SELECT 1", "sql: ''", &["spec.pipeline.sql: is empty"]),
        ("spec:", "sepc: {}\nspec:", &["sepc: is not known", "spec, status"]),
        ("name: totals", "name: totals\n  lables: {}", &["metadata.lables: is not known", "labels"]),
        (
            "spec:",
            "spec:\n  storage: {credentials: {secretRef: {name: ''}}}",
            &["spec.storage.credentials.secretRef.name: has not 1 to 253 characters"],
        ),
        (
            "spec:",
            "spec:\n  restart: {maxDelay: 1000000000ms}",
            &["spec.restart.maxDelay", "'1000000000ms' is not a duration"],
        ),
        ("spec:", "spec:\n  image: ''", &["spec.image: has not 1 to 500 characters"]),
        ("spec:", "spec:\n  restartNonce: now", &["spec.restartNonce: ", "now"]),
        ("spec:", "spec:\n  workers: {podTemplate: none}", &["spec.workers.podTemplate: is no object"]),
        ("sql: INSERT INTO a SELECT 1", "file: a.sql", &["spec.pipeline.file: ", "sql"]),
    ];
    for (from, to, expected) in cases {
        let refused = manifest::read(&GOOD.replace(from, to)).expect_err(to).to_string();

        for part in *expected {
            assert!(refused.contains(part), "{to}: '{part}' is not in: {refused}");
        }
    }
}

#[test]
fn all_wrong_fields_are_told_at_once_and_the_sql_is_known() {
    let many = "spec:\n  paralelism: 4\n  parallelism: many\n  checkpoint: {interval: 10 s, retain: [1]}";
    let refused = manifest::read(&GOOD.replace("spec:", many)).unwrap_err();

    let fields: Vec<&str> =
        refused.mistakes.iter().filter_map(|mistake| mistake.split(": ").next()).collect();
    let mut sorted = fields.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        ["spec.checkpoint.interval", "spec.checkpoint.retain", "spec.paralelism", "spec.parallelism"],
        "{refused}"
    );
    assert_eq!(refused.sql.as_deref(), Some("INSERT INTO a SELECT 1"));

    // Each with its own field, and the line of that field.
    let wrong = "spec:\n  upgrade: {mode: Stateles}\n  checkpoint: {onDelete: Delet}";
    let refused = manifest::read(&GOOD.replace("spec:", wrong)).unwrap_err();
    let of = |field: &str| refused.mistakes.iter().find(|mistake| mistake.starts_with(field)).unwrap();
    assert_eq!(refused.mistakes.len(), 2, "{refused}");
    assert!(of("spec.upgrade.mode: ").contains("Stateles") && !of("spec.upgrade.mode: ").contains("Delet`"));
    assert!(of("spec.checkpoint.onDelete: ").contains("`Delet`"), "{refused}");

    // One that was wrong is not said to be missing, too.
    let refused = manifest::read(&GOOD.replace("sql: INSERT INTO a SELECT 1", "sql: [1]")).unwrap_err();
    assert_eq!((refused.mistakes.len(), refused.sql), (1, None), "{:?}", refused.mistakes);
}

#[test]
fn a_wrong_version_hides_no_other_mistake() {
    let text = GOOD.replace("millrace.dev/v1alpha1", "v1").replace("spec:", "spec:\n  parallelism: many");
    let refused = manifest::read(&text).unwrap_err();
    let fields: Vec<&str> =
        refused.mistakes.iter().map(|mistake| mistake.split(": ").next().unwrap()).collect();
    assert_eq!(fields, ["apiVersion", "spec.parallelism"]);
    let refused = manifest::read(&GOOD.replace("apiVersion: millrace.dev/v1alpha1", "")).unwrap_err();
    assert_eq!(refused.mistakes, ["apiVersion: is nothing, write millrace.dev/v1alpha1"]);
}

#[test]
fn a_field_without_a_value_has_its_default_as_on_a_cluster() {
    let nulls = "spec:\n  restart:\n  parallelism: null\n  checkpoint: {interval: ~, retain: 5}";
    let mut expected = manifest::read(GOOD).unwrap();
    expected.spec.checkpoint.retain = 5;
    assert_eq!(manifest::read(&GOOD.replace("spec:", nulls)).unwrap().spec, expected.spec);
    let refused = manifest::read(&GOOD.replace("sql: INSERT INTO a SELECT 1", "sql: ")).unwrap_err();
    assert!(refused.to_string().starts_with("spec.pipeline.sql: is empty"), "{refused}");
}

#[test]
fn a_pipeline_too_long_to_be_stored_is_refused() {
    let sql = "x".repeat(262_145);

    let refused = manifest::read(&GOOD.replace("INSERT INTO a SELECT 1", &sql)).expect_err("too long");

    assert!(refused.to_string().starts_with("spec.pipeline.sql: is longer than 262144"), "{refused}");
}

#[test]
fn max_parallelism_cannot_be_changed() {
    let old = manifest::read(GOOD).unwrap();
    let mut new = old.clone();
    new.spec.max_parallelism = 2048;

    let refused = new.validate_cel_update(&old).unwrap_err();

    assert!(format!("{refused:?}").contains("cannot be changed"), "{refused:?}");
    assert!(old.validate_cel_update(&old).is_ok());
}

/// `kubectl explain` tells of every field; only Kubernetes' own conditions say the rest themselves.
#[test]
fn every_field_is_described() {
    fn undescribed(schema: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if field["description"].as_str().is_none_or(|text| text.len() < 10) {
                found.push(path.clone());
            }
            undescribed(field, &path, found);
            undescribed(&field["items"], &path, found);
        }
    }
    let definition = serde_json::to_value(StreamJob::crd()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut found = Vec::new();
    for part in ["spec", "status"] {
        undescribed(&schema[part], part, &mut found);
    }

    assert_eq!(found, Vec::<String>::new());
    assert!(schema["spec"]["properties"]["checkpoint"]["properties"]["interval"].is_object());
}

#[test]
fn the_committed_definition_is_current() {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/streamjobs.yaml");
    let of_chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/millrace/files/crds/streamjobs.yaml");
    let current = millrace_crds::definition(&StreamJob::crd()).unwrap();
    for path in [own, of_chart] {
        if std::env::var_os("MILLRACE_REGENERATE").is_some() {
            std::fs::write(path, &current).unwrap();
        }

        let is_current = std::fs::read_to_string(path).unwrap_or_default() == current;
        assert!(is_current, "{path} is not what the types say: run `make generate`");
    }
}

/// A report as the first release writes it: a later controller must read it, and every field of it.
#[test]
fn a_report_of_each_release_is_read() {
    let stored = include_str!("reports/0.1.json");
    let expected = Report {
        contract: 1,
        version: 42,
        name: "totals".to_owned(),
        uid: "5f0c9a52-9c6e-4a0e-8a5c-0d3c6f1f7a11".to_owned(),
        attempt: 3,
        phase: ReportedPhase::Recovering,
        tries_again: true,
        generation: 7,
        restored_epoch: 118,
        restarts: 2,
        parallelism: 4,
        last_checkpoint: Some(ReportedCheckpoint {
            epoch: 118,
            completed_at_ms: 1_790_000_000_123,
            duration_ms: 310,
            bytes: 1 << 20,
            rows_in: 9_007_199_254_740_993,
            rows_out: 123_456,
            late_rows: 17,
            checksums: vec![ColumnChecksum {
                sink: "totals".to_owned(),
                column: "total".to_owned(),
                checksum: "00ff00ff00ff00ff".to_owned(),
            }],
        }),
        failed_checkpoints: 5,
        last_checkpoint_failure: Some("the store answered 503".to_owned()),
        last_failure: Some("lost worker 2: its connection was closed".to_owned()),
        last_failure_kind: Some("WorkerLost".to_owned()),
        failures_since_checkpoint: 1,
        workers: 2,
    };

    let read: Report = serde_json::from_str(stored).unwrap();

    assert_eq!(read, expected);
    assert_eq!(read.refusal(), None);
    // This release writes what it has in that form: whoever changes it must think of the controllers that are there.
    let written = serde_json::to_value(&expected).unwrap();
    assert_eq!(written, serde_json::from_str::<serde_json::Value>(stored).unwrap());
}

#[test]
fn a_report_of_a_later_release_is_read_unless_its_form_is_another() {
    let later = r#"{"contract": 1, "phase": "Rescaling", "attempt": 2, "autoscaler": {"wanted": 7}}"#;
    let later: Report = serde_json::from_str(later).unwrap();
    assert_eq!((later.phase, later.attempt, later.refusal()), (ReportedPhase::Unknown, 2, None));

    let other: Report = serde_json::from_str(r#"{"contract": 2}"#).unwrap();
    let refusal = other.refusal().unwrap();
    assert!(refusal.contains("form 2") && refusal.contains("upgrade the controller"), "{refusal}");
}
