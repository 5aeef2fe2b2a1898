//! The job's time zone, where points in time become times on a clock and the other way round.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchema, Result, exec_err};
use datafusion_expr::expr::{Cast, ScalarFunction, TryCast};
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, lit};
use datafusion_optimizer::AnalyzerRule;

use super::analysis::in_every_expression;
use crate::functions::{self, zones};

/// `table.local-time-zone`. TIMESTAMP_LTZ is a point in time whatever the zone; its texts, dates and fields are those of the zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    /// `None`: UTC, in which both are the same.
    name: Option<Arc<str>>,
}

impl Zone {
    /// A zone by its name.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn new(name: &str) -> Result<Self> {
        zones::zone(name)?;
        let is_utc = ["UTC", "Z", "Etc/UTC", "GMT", "UCT", "Zulu"].contains(&name);
        Ok(Zone { name: (!is_utc).then(|| name.into()) })
    }

    /// Its name, if it is not UTC.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

/// Comes once the types of all expressions are known, before Flink's casts take the place of the planner's.
#[derive(Debug)]
pub struct InZone(pub Zone);

impl AnalyzerRule for InZone {
    fn name(&self) -> &str {
        "in_zone"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        match self.0.name() {
            None => Ok(plan),
            Some(zone) => in_every_expression(plan, |inner, schema| in_expression(inner, schema, zone)),
        }
    }
}

fn is_point(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(_, Some(_)))
}

/// A text, or what a clock or a calendar shows.
fn is_shown(data_type: &DataType) -> bool {
    use DataType::{Date32, LargeUtf8, Time32, Time64, Timestamp, Utf8, Utf8View};
    matches!(data_type, Timestamp(_, None) | Date32 | Time32(_) | Time64(_) | Utf8 | LargeUtf8 | Utf8View)
}

/// What is done here is not done again when a plan is looked at twice.
fn in_expression(inner: Expr, schema: &DFSchema, zone: &str) -> Result<Transformed<Expr>> {
    let (value, to) = match &inner {
        Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
            (expr, field.data_type())
        }
        Expr::ScalarFunction(call) => {
            return of_call(call, zone).map(|new| new.map_or(Transformed::no(inner), Transformed::yes));
        }
        _ => return Ok(Transformed::no(inner)),
    };
    let (from, to) = (value.get_type(schema)?, to.clone());
    if is_point(&from) && is_shown(&to) {
        let shown = call(zones::IN_ZONE, vec![(**value).clone(), lit(zone)])?;
        return Ok(Transformed::yes(match shown.get_type(schema)? == to {
            true => shown,
            false => converted(&inner, shown, to),
        }));
    }
    if let (DataType::Timestamp(unit, Some(_)), true) = (&to, is_shown(&from)) {
        let shown = converted(&inner, (**value).clone(), DataType::Timestamp(*unit, None));
        return Ok(Transformed::yes(call(zones::OF_ZONE, vec![shown, lit(zone)])?));
    }
    Ok(Transformed::no(inner))
}

/// A cast of the same kind.
fn converted(like: &Expr, value: Expr, to: DataType) -> Expr {
    match like {
        Expr::TryCast(_) => datafusion_expr::try_cast(value, to),
        _ => datafusion_expr::cast(value, to),
    }
}

fn call(name: &str, arguments: Vec<Expr>) -> Result<Expr> {
    match functions::scalar(name) {
        Some(function) => Ok(Expr::ScalarFunction(ScalarFunction::new_udf(function, arguments))),
        None => exec_err!("there is no function '{name}'"),
    }
}

/// Functions that know the zone without being given one.
fn of_call(found: &ScalarFunction, zone: &str) -> Result<Option<Expr>> {
    let now = || call(zones::IN_ZONE, vec![call("current_timestamp", Vec::new())?, lit(zone)]);
    let arguments = &found.args;
    Ok(Some(match (found.func.name(), arguments.as_slice()) {
        ("localtimestamp", _) => now()?,
        ("current_date", _) => datafusion_expr::cast(now()?, DataType::Date32),
        ("current_time" | "localtime", _) => {
            let second = call("floor_to", vec![now()?, lit("SECOND")])?;
            datafusion_expr::cast(second, DataType::Time32(TimeUnit::Millisecond))
        }
        ("from_unixtime", [seconds, pattern @ ..]) => {
            let at = call("to_timestamp_ltz", vec![seconds.clone(), lit(0_i64)])?;
            let shown = call(zones::IN_ZONE, vec![at, lit(zone)])?;
            let pattern = pattern.first().cloned().unwrap_or_else(|| lit(functions::USUAL_TIME));
            call("date_format", vec![shown, pattern])?
        }
        ("unix_timestamp", [_, ..]) => {
            let shown = call(functions::SHOWN_SECONDS, arguments.clone())?;
            call(zones::SECONDS_OF_ZONE, vec![shown, lit(zone)])?
        }
        _ => return Ok(None),
    }))
}
