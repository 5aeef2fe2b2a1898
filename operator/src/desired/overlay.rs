//! A user's template laid over that of a pod, as `kubectl patch` does it with a strategic merge. Pure.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};

/// Lists whose elements are told apart by a field; of other lists of objects the user's elements are added, and of plain values they
/// take the place.
const KEYS: &[(&str, &str)] = &[
    ("containers", "name"),
    ("initContainers", "name"),
    ("volumes", "name"),
    ("env", "name"),
    ("imagePullSecrets", "name"),
    ("volumeMounts", "mountPath"),
    ("ports", "containerPort"),
    ("topologySpreadConstraints", "topologyKey"),
];

/// The template with the user's over it.
///
/// # Errors
/// A field that pods do not have, or of another type: its path, and what is wrong.
pub fn laid_over(template: &PodTemplateSpec, overlay: &Value) -> Result<PodTemplateSpec, String> {
    // Writing plain data to memory cannot fail.
    let mut merged = serde_json::to_value(template).unwrap_or_default();
    merge(&mut merged, overlay);
    let typed = serde_path_to_error::deserialize::<_, PodTemplateSpec>(&merged)
        .map_err(|error| format!("{}: {}", error.path(), error.inner()))?;
    let kept = serde_json::to_value(&typed).unwrap_or_default();
    match lost(&merged, &kept) {
        Some(path) => Err(format!("{path}: a pod has no such field; correct its name, or remove it")),
        None => Ok(typed),
    }
}

fn merge(value: &mut Value, overlay: &Value) {
    let (Value::Object(fields), Value::Object(overlays)) = (&mut *value, overlay) else {
        value.clone_from(overlay);
        return;
    };
    for (name, overlay) in overlays {
        match (fields.get_mut(name), overlay) {
            (_, Value::Null) => drop(fields.remove(name)),
            (Some(Value::Array(items)), Value::Array(overlays)) => merge_lists(name, items, overlays),
            (Some(field), overlay) => merge(field, overlay),
            (None, overlay) => drop(fields.insert(name.clone(), without_nulls(overlay))),
        }
    }
}

fn merge_lists(name: &str, items: &mut Vec<Value>, overlays: &[Value]) {
    if overlays.iter().any(|overlay| !overlay.is_object()) {
        *items = overlays.to_vec();
        return;
    }
    let key = KEYS.iter().find(|(list, _)| *list == name).map(|(_, key)| *key);
    for overlay in overlays {
        let same = key.and_then(|key| {
            let wanted = overlay.get(key)?;
            items.iter_mut().find(|item| item.get(key) == Some(wanted))
        });
        match same {
            Some(item) => merge(item, overlay),
            None => items.push(without_nulls(overlay)),
        }
    }
}

/// What is to be removed, and is not there.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, field)| !field.is_null());
            Value::Object(
                fields.map(|(name, field)| (name.clone(), without_nulls(field))).collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        value => value.clone(),
    }
}

/// The path of the first field that is not among those that were kept.
fn lost(given: &Value, kept: &Value) -> Option<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => given.iter().find_map(|(name, field)| {
            let found = match kept.get(name) {
                None => return (!field.is_null()).then(|| name.clone()),
                Some(kept) => lost(field, kept)?,
            };
            Some(if found.starts_with('[') { format!("{name}{found}") } else { format!("{name}.{found}") })
        }),
        (Value::Array(given), Value::Array(kept)) => given
            .iter()
            .zip(kept)
            .enumerate()
            .find_map(|(index, (item, kept))| lost(item, kept).map(|found| format!("[{index}].{found}"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template() -> PodTemplateSpec {
        serde_json::from_value(json!({
            "metadata": {"labels": {"app": "a"}},
            "spec": {
                "containers": [{"name": "worker", "image": "m:1", "args": ["worker"], "env": [{"name": "A", "value": "1"}],
                                "volumeMounts": [{"name": "config", "mountPath": "/etc/m", "readOnly": true}]}],
                "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists"}],
                "volumes": [{"name": "config", "configMap": {"name": "c"}}],
                "enableServiceLinks": false
            }
        }))
        .unwrap()
    }

    #[test]
    fn objects_are_merged_field_by_field_and_lists_by_name() {
        let overlay = json!({
            "metadata": {"annotations": {"team": "streams"}, "labels": {"cost": "7"}},
            "spec": {
                "nodeSelector": {"disk": "ssd"},
                "enableServiceLinks": null,
                "tolerations": [{"key": "dedicated", "operator": "Exists"}],
                "volumes": [{"name": "extra", "emptyDir": {}}],
                "containers": [
                    {"name": "worker", "args": ["worker", "--log-format", "text"],
                     "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}],
                     "volumeMounts": [{"name": "extra", "mountPath": "/extra"}]},
                    {"name": "sidecar", "image": "s:1"}
                ]
            }
        });

        let merged = serde_json::to_value(laid_over(&template(), &overlay).unwrap()).unwrap();

        let expected = json!({
            "metadata": {"annotations": {"team": "streams"}, "labels": {"app": "a", "cost": "7"}},
            "spec": {
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
                                {"key": "dedicated", "operator": "Exists"}],
                "volumes": [{"name": "config", "configMap": {"name": "c"}}, {"name": "extra", "emptyDir": {}}],
                "containers": [
                    {"name": "worker", "image": "m:1", "args": ["worker", "--log-format", "text"],
                     "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}],
                     "volumeMounts": [{"name": "config", "mountPath": "/etc/m", "readOnly": true},
                                      {"name": "extra", "mountPath": "/extra"}]},
                    {"name": "sidecar", "image": "s:1"}
                ]
            }
        });
        assert_eq!(merged, expected);
        assert_eq!(laid_over(&template(), &json!({})).unwrap(), template());
    }

    #[test]
    fn fields_that_pods_do_not_have_are_named() {
        let cases = [
            (
                json!({"spec": {"nodeSelektor": {"disk": "ssd"}}}),
                "spec.nodeSelektor: a pod has no such field",
            ),
            (
                json!({"spec": {"containers": [{"name": "worker", "env": [{"name": "A", "val": "2"}]}]}}),
                "spec.containers[0].env[0].val: a pod has no such field",
            ),
            (
                json!({"spec": {"terminationGracePeriodSeconds": "long"}}),
                "spec.terminationGracePeriodSeconds: ",
            ),
            (json!({"spec": []}), "spec: "),
        ];
        for (overlay, expected) in cases {
            let mistake = laid_over(&template(), &overlay).unwrap_err();

            assert!(mistake.starts_with(expected), "{overlay}: {mistake}");
        }
    }
}
