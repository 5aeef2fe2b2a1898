//! Aggregate functions as the planner sees them: names and result types. Their states live in the runtime.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::{Result, internal_err, plan_err};
use datafusion_expr::expr::AggregateFunctionParams;
use datafusion_expr::function::AccumulatorArgs;
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, TypeSignature, Volatility};

use crate::plan::AggregateFunction;

/// Looks an aggregate function up by its SQL name, in any case.
pub fn aggregate(name: &str) -> Option<Arc<AggregateUDF>> {
    // Those of how far values lie apart are rewritten before anything runs; their types are those of an average.
    let function = by_name(name).or_else(|| spread(name).map(|_| AggregateFunction::Avg))?;
    let name = name.to_ascii_lowercase();
    let mut types = vec![TypeSignature::Any(1), TypeSignature::Nullary];
    types.extend((function == AggregateFunction::ListAgg).then_some(TypeSignature::Any(2)));
    let signature = Signature::one_of(types, Volatility::Immutable);
    Some(Arc::new(AggregateUDF::from(Marker { function, name, signature })))
}

/// The function of a name.
pub fn by_name(name: &str) -> Option<AggregateFunction> {
    Some(match name.to_ascii_lowercase().as_str() {
        "count" => AggregateFunction::Count,
        "sum" => AggregateFunction::Sum,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "avg" => AggregateFunction::Avg,
        "first_value" => AggregateFunction::FirstValue,
        "last_value" => AggregateFunction::LastValue,
        "listagg" => AggregateFunction::ListAgg,
        _ => return None,
    })
}

/// How far values lie apart: the mean of the squares of their distances from their mean, or the root of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// STDDEV, in the values' own unit.
    pub is_root: bool,
    /// Of a part of all values, from which those of all are guessed: divided by one value less.
    pub is_sample: bool,
}

/// The variance or deviation of a name.
pub fn spread(name: &str) -> Option<Spread> {
    let (is_root, is_sample) = match name.to_ascii_lowercase().as_str() {
        "var_pop" => (false, false),
        "var_samp" | "variance" => (false, true),
        "stddev_pop" => (true, false),
        "stddev_samp" | "stddev" => (true, true),
        _ => return None,
    };
    Some(Spread { is_root, is_sample })
}

/// Names of all aggregate functions.
pub const NAMES: [&str; 14] = [
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "first_value",
    "last_value",
    "listagg",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "var_pop",
    "var_samp",
    "variance",
];

#[derive(Debug, PartialEq, Eq, Hash)]
struct Marker {
    function: AggregateFunction,
    name: String,
    signature: Signature,
}

impl AggregateUDFImpl for Marker {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let Some(argument) = arguments.first() else {
            return if self.function == AggregateFunction::Count {
                Ok(DataType::Int64)
            } else {
                plan_err!("{} needs an argument", self.name)
            };
        };
        match result_type(self.function, argument) {
            Some(result) => Ok(result),
            None => {
                let argument = crate::plan::DataType::from_arrow(argument)
                    .map_or_else(|| argument.to_string(), |argument| argument.to_string());
                plan_err!("'{}' does not take values of the type {argument}", self.name.to_uppercase())
            }
        }
    }

    /// With casts, unlike the planner's own names: two aggregates of one column that is cast differently are two columns.
    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        let arguments: Vec<String> = params.args.iter().map(ToString::to_string).collect();
        let distinct = if params.distinct { "DISTINCT " } else { "" };
        let filter =
            params.filter.as_ref().map_or(String::new(), |filter| format!(" FILTER (WHERE {filter})"));
        Ok(format!("{}({distinct}{}){filter}", self.name, arguments.join(", ")))
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        internal_err!("aggregates run in the engine's own operators")
    }
}

/// Flink's result types: SUM and AVG keep integer types, decimals widen to 38 digits.
fn result_type(function: AggregateFunction, argument: &DataType) -> Option<DataType> {
    let is_summable =
        argument.is_integer() || argument.is_floating() || matches!(argument, DataType::Decimal128(..));
    match function {
        AggregateFunction::Count => Some(DataType::Int64),
        AggregateFunction::Sum | AggregateFunction::Avg if !is_summable => None,
        AggregateFunction::Sum => Some(match argument {
            DataType::Decimal128(_, scale) => DataType::Decimal128(38, *scale),
            other => other.clone(),
        }),
        AggregateFunction::Avg => Some(match argument {
            DataType::Decimal128(_, scale) => DataType::Decimal128(38, (*scale).max(6)),
            other => other.clone(),
        }),
        AggregateFunction::ListAgg => (*argument == DataType::Utf8).then(|| argument.clone()),
        AggregateFunction::FirstValue | AggregateFunction::LastValue if *argument == DataType::Binary => {
            Some(argument.clone())
        }
        AggregateFunction::Min
        | AggregateFunction::Max
        | AggregateFunction::FirstValue
        | AggregateFunction::LastValue => {
            let is_ordered = is_summable
                || matches!(
                    argument,
                    DataType::Utf8
                        | DataType::Date32
                        | DataType::Time32(_)
                        | DataType::Timestamp(..)
                        | DataType::Boolean
                );
            is_ordered.then(|| argument.clone())
        }
        AggregateFunction::Unknown => None,
    }
}
