//! What to run.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a job computes: exactly one of `sql` and `sqlFrom`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.sql) != has(self.sqlFrom)").message("spec.pipeline: exactly one of sql and sqlFrom; give the text, or name the ConfigMap that has it"))]
pub struct PipelineSpec {
    /// SQL statements, separated by semicolons: CREATE TABLE, CREATE VIEW, and at least one INSERT INTO.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 262144))]
    pub sql: String,

    /// Where the SQL statements are. An edit of them there is an edit of the job. Only on a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_from: Option<SqlSource>,

    /// Passwords and keys that options of tables name as `${secret:name}`. Their values come into the job's pods as files, and are
    /// in no plan, log or state. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.all(one, self.exists_one(other, other.name == one.name))").message("spec.pipeline.secrets: a name is declared twice"))]
    pub secrets: Vec<PipelineSecret>,
}

impl PipelineSpec {
    /// What is wrong if tables name a secret that is not declared. `named`: table, option, and the name in it.
    pub fn undeclared<'a>(
        &self,
        named: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>,
    ) -> Option<String> {
        let is_declared = |name: &str| self.secrets.iter().any(|secret| secret.name == name);
        let (table, option, name) = named.into_iter().find(|(_, _, name)| !is_declared(name))?;
        Some(format!(
            "spec.pipeline.secrets: the option '{option}' of the table '{table}' names the secret '{name}', which is not declared; \
             add {{name: {name}, secretKeyRef: {{name: …, key: …}}}}"
        ))
    }
}

/// Where SQL is that is not in the spec.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SqlSource {
    /// A text in a ConfigMap.
    pub config_map_key_ref: ConfigMapKeyReference,
}

/// Names a key of a ConfigMap.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapKeyReference {
    /// Name of the ConfigMap, in the job's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A secret value that SQL can name.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineSecret {
    /// What the SQL calls it: lower-case letters, digits and hyphens, beginning with a letter.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("spec.pipeline.secrets: a name has lower-case letters, digits and hyphens, and begins with a letter"))]
    pub name: String,
    /// Where its value is.
    pub secret_key_ref: SecretKeyReference,
}

/// Names a key of a Secret.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKeyReference {
    /// Name of the Secret, in the job's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}
