//! How buckets are reached.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Access to the object store that holds checkpoints.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct StorageSpec {
    /// Address of the store, such as `https://minio.storage:9000`. Default: the cloud's own for the region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,

    /// Region of the buckets. Default: from the environment, else `us-east-1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,

    /// The bucket is named in the path of requests instead of the host name. Default: false. Most stores outside of the
    /// clouds need true.
    pub path_style: bool,

    /// Allows an endpoint without TLS. Default: false.
    pub allow_http: bool,

    /// Where the job's pods get their credentials from. Default: the environment or the pods' identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsSpec>,
}

/// Credentials for the object store.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialsSpec {
    /// A Secret in the job's namespace whose keys are variables such as `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    pub secret_ref: SecretReference,
}

/// Names a Secret.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
