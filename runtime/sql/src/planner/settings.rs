//! SET: settings of a whole job, by Flink's names. Most of them are fields of the manifest here, and say so.

use super::mistakes::at;
use super::zones::Zone;
use crate::connectors::parse_duration;
use crate::diagnostic::Diagnostic;
use crate::dialect::{SetOption, Statement};
use crate::similar::closest;

/// What a job is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// Of sources that do not say it themselves: the option and its value.
    OfSources(&'static str, String),
    /// Of the whole job: nothing is left to be done at its place.
    Given,
}

const IDLE_TIMEOUT: &str = "table.exec.source.idle-timeout";
const TIME_ZONE: &str = "table.local-time-zone";

/// Settings of Flink's that have another place here.
const ELSEWHERE: &[(&str, &str)] = &[
    ("parallelism.default", "spec.parallelism"),
    ("pipeline.max-parallelism", "spec.maxParallelism"),
    ("pipeline.name", "metadata.name"),
    ("execution.checkpointing.interval", "spec.checkpoint.interval"),
    ("execution.checkpointing.timeout", "spec.checkpoint.timeout"),
    ("execution.checkpointing.dir", "spec.checkpoint.location"),
    ("state.checkpoints.dir", "spec.checkpoint.location"),
    ("state.checkpoints.num-retained", "spec.checkpoint.retain"),
    ("restart-strategy.type", "spec.restart.strategy"),
    ("taskmanager.numberOfTaskSlots", "spec.workers.slots"),
];

/// What a SET means.
///
/// # Errors
/// Settings that are not known, are elsewhere, or cannot be so.
pub fn read(set: &SetOption) -> Result<Setting, Diagnostic> {
    let (key, value) = (set.key.text.as_str(), set.value.text.as_str());
    match key {
        IDLE_TIMEOUT if parse_duration(value).is_some() => {
            Ok(Setting::OfSources("scan.watermark.idle-timeout", value.to_owned()))
        }
        IDLE_TIMEOUT => Err(at(set.value.span, format!("'{key}' = '{value}' is not a duration"))
            .hint("write such as '10 s' or '500 ms'")),
        TIME_ZONE if Zone::new(value).is_ok() => Ok(Setting::Given),
        TIME_ZONE => Err(at(set.value.span, format!("'{key}' = '{value}' is no time zone"))
            .hint("write a name such as 'Europe/Berlin', or a difference such as 'GMT+02:00'")),
        _ => Err(unknown(set)),
    }
}

/// The time zone of a job: that of the last SET, as if it came first. One that is wrong is told where it is.
pub fn zone(statements: &[Statement]) -> Zone {
    let set = statements.iter().rev().find_map(|statement| match statement {
        Statement::Set(set) if set.key.text == TIME_ZONE => Some(&set.value.text),
        _ => None,
    });
    set.and_then(|name| Zone::new(name).ok()).unwrap_or_default()
}

fn unknown(set: &SetOption) -> Diagnostic {
    let key = &set.key.text;
    if let Some((_, field)) = ELSEWHERE.iter().find(|(known, _)| known == key) {
        return at(set.key.span, format!("'{key}' is no setting of the SQL"))
            .hint(format!("set {field} in the manifest"));
    }
    let known = [IDLE_TIMEOUT.to_owned(), TIME_ZONE.to_owned()];
    at(set.key.span, format!("the setting '{key}' is not known")).hint(match closest(key, &known) {
        Some(similar) => format!("did you mean '{similar}'?"),
        None => format!("known are {}; other settings are fields of the manifest", known.join(", ")),
    })
}
