//! Durations as Kubernetes users write them: `500ms`, `10s`, `5m`, `1h`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration {
    millis: u64,
}

impl Duration {
    /// Whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Duration { millis: seconds * 1000 }
    }

    /// As the standard library's type.
    pub const fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.millis)
    }

    fn parse(text: &str) -> Option<Self> {
        // As many digits as the schema's pattern has.
        let end = text.find(|c: char| !c.is_ascii_digit()).filter(|digits| (1..=9).contains(digits))?;
        let number: u64 = text[..end].parse().ok()?;
        let unit = match &text[end..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        number.checked_mul(unit).map(|millis| Duration { millis })
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        match units.into_iter().find(|(unit, _)| self.millis > 0 && self.millis.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{}{name}", self.millis / unit),
            None => write!(f, "{}ms", self.millis),
        }
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Duration::parse(text)
            .ok_or_else(|| format!("'{text}' is not a duration; write one such as 500ms, 10s, 5m or 1h"))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 11, "pattern": "^[0-9]{1,9}(ms|s|m|h)$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, millis, shown) in [
            ("500ms", 500, "500ms"),
            ("10s", 10_000, "10s"),
            ("60s", 60_000, "1m"),
            ("2h", 7_200_000, "2h"),
            ("0s", 0, "0ms"),
        ] {
            let duration = Duration::parse(text).unwrap();

            assert_eq!(duration.millis, millis);
            assert_eq!(duration.to_string(), shown);
        }
        for wrong in ["", "10", "s", "1.5s", "10 s", "-1s", "10d", "1000000000ms"] {
            assert_eq!(Duration::parse(wrong), None, "{wrong}");
        }
    }
}
