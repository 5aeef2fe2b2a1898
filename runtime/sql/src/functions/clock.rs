//! Functions that ask the clock. All that one operator evaluates over one batch of rows is evaluated at one time.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::datatypes::{DataType, TimeUnit};
use datafusion_common::{Result, ScalarValue, plan_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

const DAY_MS: i64 = 86_400_000;

/// The time at which a batch is evaluated, in milliseconds since 1970 in UTC. Whoever evaluates sets it; copies are the same time.
#[derive(Debug, Clone, Default)]
pub struct BatchTime(Arc<AtomicI64>);

impl BatchTime {
    /// The next batch is evaluated at this time.
    pub fn set(&self, now_ms: u64) {
        self.0.store(now_ms as i64, Ordering::Relaxed);
    }

    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a function makes of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// TIMESTAMP_LTZ(3).
    Instant,
    /// TIMESTAMP(3), in UTC.
    Local,
    Date,
    /// Whole seconds of the day, as TIME(0) of Flink.
    Time,
    /// Seconds since 1970.
    Seconds,
}

/// UNIX_TIMESTAMP without arguments; with one it is another function.
pub const UNIX_SECONDS: &str = "unix_seconds";

/// Names, which plans store, how they are called, and what they are.
const FUNCTIONS: [(&str, &str, Part); 9] = [
    ("current_timestamp", "CURRENT_TIMESTAMP", Part::Instant),
    ("current_row_timestamp", "CURRENT_ROW_TIMESTAMP()", Part::Instant),
    ("now", "NOW()", Part::Instant),
    ("proctime", "PROCTIME()", Part::Instant),
    ("localtimestamp", "LOCALTIMESTAMP", Part::Local),
    ("current_date", "CURRENT_DATE", Part::Date),
    ("current_time", "CURRENT_TIME", Part::Time),
    ("localtime", "LOCALTIME", Part::Time),
    (UNIX_SECONDS, "UNIX_TIMESTAMP()", Part::Seconds),
];

/// The names by which users know the functions, and how they are called.
pub fn listed() -> impl Iterator<Item = (String, &'static str)> {
    let known = FUNCTIONS.iter().filter(|(name, ..)| *name != UNIX_SECONDS);
    known.map(|(name, usage, _)| (name.to_uppercase(), *usage))
}

/// The names that plans store.
pub fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|(name, ..)| *name)
}

/// The name of a function as users know it.
pub fn shown(name: &str) -> String {
    if name == UNIX_SECONDS { "UNIX_TIMESTAMP".to_owned() } else { name.to_uppercase() }
}

/// True for those that are written without parentheses.
pub fn is_bare(name: &str) -> bool {
    FUNCTIONS.iter().any(|(known, usage, _)| name.eq_ignore_ascii_case(known) && !usage.ends_with(')'))
}

/// A function at a time.
#[derive(Debug)]
pub struct AtTime {
    name: &'static str,
    usage: &'static str,
    part: Part,
    time: BatchTime,
    signature: Signature,
}

impl AtTime {
    /// The function of a name, at the time that others set.
    pub fn by_name(name: &str, time: &BatchTime) -> Option<Self> {
        let (name, usage, part) = FUNCTIONS.iter().find(|(known, ..)| *known == name)?;
        // Not the same twice, so that no constant is made of it.
        let signature = Signature::user_defined(Volatility::Volatile);
        Some(AtTime { name, usage, part: *part, time: time.clone(), signature })
    }
}

impl PartialEq for AtTime {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for AtTime {}

impl Hash for AtTime {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for AtTime {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        match given {
            [] => Ok(Vec::new()),
            _ => plan_err!("the arguments of {} do not fit; usage: {}", self.name, self.usage),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.part {
            Part::Instant => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            Part::Local => DataType::Timestamp(TimeUnit::Millisecond, None),
            Part::Date => DataType::Date32,
            Part::Time => DataType::Time32(TimeUnit::Millisecond),
            Part::Seconds => DataType::Int64,
        })
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let now = self.time.now_ms();
        Ok(ColumnarValue::Scalar(match self.part {
            Part::Instant => ScalarValue::TimestampMillisecond(Some(now), Some("UTC".into())),
            Part::Local => ScalarValue::TimestampMillisecond(Some(now), None),
            Part::Date => ScalarValue::Date32(Some(now.div_euclid(DAY_MS) as i32)),
            Part::Time => {
                let of_day = now.rem_euclid(DAY_MS);
                ScalarValue::Time32Millisecond(Some((of_day - of_day % 1_000) as i32))
            }
            Part::Seconds => ScalarValue::Int64(Some(now.div_euclid(1_000))),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::function::CLOCKS;

    #[test]
    fn plans_know_which_functions_ask_the_clock() {
        assert_eq!(names().collect::<Vec<_>>(), CLOCKS);
    }
}
