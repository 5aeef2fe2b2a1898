//! CPU, memory and disk of containers.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::is_default;

/// What a container asks for, and what it may use at most.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ResourcesSpec {
    /// What a node must have left for the pod to be placed there. Default: cpu 100m and memory 128Mi, or what `limits` says.
    #[serde(skip_serializing_if = "is_default")]
    pub requests: Amounts,

    /// What the container may use. Beyond the memory it is ended, and started again; of CPU it gets no more. Default: no limits.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Amounts,
}

/// Amounts of what a node has.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Amounts {
    /// Processors, such as `2` or `500m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Amount>,

    /// Memory, such as `1Gi`. Of a worker's limit half may be state; what is beyond that is on its disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Amount>,

    /// Local disk, such as `10Gi`: logs, and state that does not fit into a worker's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage: Option<Amount>,
}

/// An amount as Kubernetes writes it: a number, and perhaps a unit. Kept as it was written, whatever that is: what is no amount is a
/// mistake of its job ([`ResourcesSpec::mistakes`]), and keeps nobody from reading others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amount(String);

/// Units, and how many thousandths they are.
const UNITS: [(&str, u128); 11] = [
    ("", 1000),
    ("m", 1),
    ("k", 1000 * 1000),
    ("M", 1000 * 1_000_000),
    ("G", 1000 * 1_000_000_000),
    ("T", 1000 * 1_000_000_000_000),
    ("Ki", 1000 << 10),
    ("Mi", 1000 << 20),
    ("Gi", 1000 << 30),
    ("Ti", 1000 << 40),
    ("Pi", 1000 << 50),
];

/// What the schema says of an amount.
const PATTERN: &str = "^[0-9]{1,19}(\\.[0-9]{1,3})?(m|k|M|G|T|Ki|Mi|Gi|Ti|Pi)?$";

impl Amount {
    /// Of the whole, in millionths: only to be compared.
    fn millionths(&self) -> Option<u128> {
        let end = self.0.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.0.len());
        let (number, unit) = self.0.split_at(end);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |digits: &str, most: usize| {
            (1..=most).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
        };
        if !is_number(whole, 19) || !is_number(part, 3) {
            return None;
        }
        let thousandths = whole.parse::<u128>().ok()? * 1000 + format!("{part:0<3}").parse::<u128>().ok()?;
        thousandths.checked_mul(*factor)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.millionths()?.cmp(&other.millionths()?))
    }
}

impl ResourcesSpec {
    /// What is no amount, and requests beyond their limits, which no node could fulfil, each with its field below this one.
    pub fn mistakes(&self, field: &str) -> Vec<String> {
        let (requests, limits) = (&self.requests, &self.limits);
        let pairs = [
            ("cpu", &requests.cpu, &limits.cpu),
            ("memory", &requests.memory, &limits.memory),
            ("ephemeral-storage", &requests.ephemeral_storage, &limits.ephemeral_storage),
        ];
        let mut mistakes = Vec::new();
        for (name, request, limit) in pairs {
            for (kind, amount) in [("requests", request), ("limits", limit)] {
                let wrong = amount.as_ref().and_then(|amount| amount.as_str().parse::<Amount>().err());
                mistakes.extend(wrong.map(|why| format!("{field}.{kind}.{name}: {why}")));
            }
            if let (Some(request), Some(limit)) = (request, limit)
                && request > limit
            {
                mistakes.push(format!(
                    "{field}.requests.{name}: {request} is more than the limit of {limit}; ask for less, or allow more"
                ));
            }
        }
        mistakes
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let amount = Amount(text.to_owned());
        match amount.millionths() {
            Some(_) => Ok(amount),
            None => Err(format!("'{text}' is not an amount; write one such as 500m, 2, 512Mi or 1Gi")),
        }
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount such as 500m, 2, 512Mi or 1Gi")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Amount, E> {
                Ok(Amount(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Amount, E> {
                Ok(Amount(number.to_string()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Amount, E> {
                Ok(Amount(number.to_string()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Amount, E> {
                Ok(Amount(number.to_string()))
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            // The pattern is not looked at for numbers.
            "minimum": 0,
            "pattern": PATTERN
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_those_of_kubernetes_and_compared_by_what_they_are() {
        let amount = |text: &str| text.parse::<Amount>().unwrap();
        for (less, more) in
            [("1", "1001m"), ("0.5", "501m"), ("1000Mi", "1Gi"), ("1G", "1Gi"), ("999k", "1M")]
        {
            assert!(amount(less) < amount(more), "{less} {more}");
        }
        assert!(amount("1024Mi") <= amount("1Gi") && amount("1024Mi") >= amount("1Gi"));
        for wrong in [
            "",
            "Mi",
            "1 Gi",
            "1gb",
            "-1",
            "1.2345",
            "1e3",
            "1.",
            ".5",
            "99999999999999999999",
            "9999999999999999999Pi",
        ] {
            assert!(wrong.parse::<Amount>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_request_beyond_its_limit_is_named() {
        let read = |text: &str| serde_json::from_str::<ResourcesSpec>(text).unwrap();
        let fits = read(r#"{"requests": {"cpu": 1}, "limits": {"cpu": "1", "memory": "1Gi"}}"#);
        assert!(fits.mistakes("f").is_empty());

        let beyond = read(
            r#"{"requests": {"memory": "2Gi", "ephemeral-storage": 5}, "limits": {"memory": "1500Mi"}}"#,
        );

        assert_eq!(
            beyond.mistakes("spec.workers.resources"),
            [
                "spec.workers.resources.requests.memory: 2Gi is more than the limit of 1500Mi; ask for less, or allow more"
            ]
        );
        assert!(serde_json::from_str::<ResourcesSpec>(r#"{"limits": {"gpu": 1}}"#).is_err());
        let tebibyte = read(r#"{"limits": {"ephemeral-storage": 1099511627776, "memory": 0.5}}"#);
        assert!(tebibyte.mistakes("f").is_empty());
        let odd =
            read(r#"{"limits": {"cpu": -1, "memory": "lots"}, "requests": {"ephemeral-storage": 1e30}}"#);
        let mistakes = odd.mistakes("f").join("\n");
        for part in [
            "f.limits.cpu: '-1' is not an amount",
            "f.limits.memory: 'lots'",
            "f.requests.ephemeral-storage: '1",
        ] {
            assert!(mistakes.contains(part), "{mistakes}");
        }
    }
}
