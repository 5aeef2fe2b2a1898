//! Flink's `datagen`: random values or sequences, a kind for each column.
//!
//! Unlike Flink's, random values are the same at every replay, and times do not ask the clock: a row's time is when the job was
//! started first, plus its number at the rate of the table.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, StringArray,
    TimestampMillisecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::DataType as ArrowType;
use millrace_sql::plan::{DataType, Field, Source as SourcePlan, TypeKind};
use xxhash_rust::xxh3::xxh3_64;

use super::super::SourceError;
use super::random::Bits;
use super::{Generated, Pace, Rows};
use crate::clock::Clock;
use crate::format::leaf_schema;
use crate::options::{OptionError, TableOptions};

/// As in Flink.
const DEFAULT_ROWS_PER_SECOND: u64 = 10_000;
const DEFAULT_LENGTH: u64 = 100;

/// Tells the bits of whether a value is NULL from those of the value.
const NULL_SALT: u64 = 0x6e75_6c6c;
/// And those of a text's length from those of its letters.
const LENGTH_SALT: u64 = 0x6c65_6e67;

/// The rows of a table.
struct Datagen {
    seed: u64,
    rows: Option<u64>,
    rows_per_second: u64,
    /// In the order of the leaves that are read.
    columns: Vec<Column>,
}

/// How a column's values come about.
#[derive(Debug, Clone)]
struct Column {
    salt: u64,
    data_type: DataType,
    values: Values,
    /// Of a million values, so many are NULL.
    nulls_ppm: u64,
}

#[derive(Debug, Clone)]
enum Values {
    /// From here on, one more each row.
    Sequence {
        start: i64,
    },
    Boolean,
    /// From here to there.
    Integer {
        min: i64,
        max: i64,
    },
    Double {
        min: f64,
        max: f64,
    },
    /// Unscaled.
    Decimal {
        min: i128,
        max: i128,
    },
    /// Hexadecimal digits, or bytes.
    Text {
        length: u64,
        varies: bool,
    },
    /// At most so long before the row's time.
    Time {
        past_ms: i64,
    },
}

/// Reads the options; those of columns are `fields.<column>.<option>`.
pub fn connector(
    plan: &SourcePlan,
    options: &mut TableOptions<'_>,
    clock: Clock,
) -> Result<Generated, SourceError> {
    let rows_per_second =
        options.parsed("rows-per-second", "a number of rows")?.unwrap_or(DEFAULT_ROWS_PER_SECOND);
    let pace = Pace {
        splits: options.parsed("splits", "a number of splits")?,
        rows_per_second: Some(rows_per_second),
    };
    pace.check(options)?;
    let seed = options.parsed("seed", "a number")?.unwrap_or(1);
    let mut rows: Option<u64> = options.parsed("number-of-rows", "a number of rows")?;
    let table = plan.table.clone().unwrap_or_default();
    let mut declared = Vec::new();
    for field in table.schema.iter().flat_map(|schema| &schema.fields) {
        let (column, count) = column(field, options)?;
        rows = [rows, count].into_iter().flatten().min();
        declared.push((field.name.clone(), column));
    }
    let read = plan.leaves.iter().filter_map(|leaf| {
        let name = leaf.path.first()?;
        declared.iter().find(|(declared, _)| declared == name).map(|(_, column)| column.clone())
    });
    let columns = read.collect();
    let rows = Datagen { seed, rows, rows_per_second, columns };
    Ok(Generated::new(rows, pace, leaf_schema(&plan.leaves), clock))
}

/// How a column is generated, and how many rows that is enough for; `None`: for any number.
fn column(field: &Field, options: &mut TableOptions<'_>) -> Result<(Column, Option<u64>), OptionError> {
    let data_type = field.data_type();
    let key = |option: &str| format!("fields.{}.{option}", field.name);
    let is_sequence = match options.optional(&key("kind")).as_deref() {
        None | Some("random") => false,
        Some("sequence") => true,
        Some(_) => return Err(options.wrong(&key("kind"), "is neither 'random' nor 'sequence'")),
    };
    let (values, count) = if is_sequence {
        let (start, end) = sequence(&data_type, &key("start"), &key("end"), options)?;
        let count = (i128::from(end) - i128::from(start) + 1).try_into().unwrap_or(u64::MAX);
        (Values::Sequence { start }, Some(count))
    } else {
        (random(&data_type, &key, options)?, None)
    };
    let rate: f64 = options.parsed(&key("null-rate"), "a number from 0 to 1")?.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&rate) {
        return Err(options.wrong(&key("null-rate"), "is not a number from 0 to 1"));
    }
    if rate > 0.0 && !field.nullable {
        return Err(options.wrong(&key("null-rate"), "cannot be: the column is NOT NULL"));
    }
    let nulls_ppm = (rate * 1e6).round() as u64;
    Ok((Column { salt: xxh3_64(field.name.as_bytes()), data_type, values, nulls_ppm }, count))
}

fn sequence(
    data_type: &DataType,
    start: &str,
    end: &str,
    options: &mut TableOptions<'_>,
) -> Result<(i64, i64), OptionError> {
    use TypeKind::{BigInt, Decimal, Double, Float, Int, SmallInt, String, TinyInt};
    if !matches!(data_type.kind(), TinyInt | SmallInt | Int | BigInt | Float | Double | Decimal | String) {
        return Err(options.mistake(format!("'{start}': there is no sequence of {data_type}")));
    }
    let mut bound = |key: &str| -> Result<i64, OptionError> {
        let bound = options.parsed(key, "a whole number")?;
        bound.ok_or_else(|| {
            options.mistake(format!("the option '{key}' is missing; a sequence needs both its ends"))
        })
    };
    let (first, last) = (bound(start)?, bound(end)?);
    let (least, most) = range(data_type.kind());
    if first > last || first < least || last > most {
        return Err(options.wrong(end, &format!("and '{start}' are no range of {data_type}")));
    }
    Ok((first, last))
}

/// The whole numbers of a type.
fn range(kind: TypeKind) -> (i64, i64) {
    match kind {
        TypeKind::TinyInt => (i8::MIN.into(), i8::MAX.into()),
        TypeKind::SmallInt => (i16::MIN.into(), i16::MAX.into()),
        TypeKind::Int => (i32::MIN.into(), i32::MAX.into()),
        _ => (i64::MIN, i64::MAX),
    }
}

fn random(
    data_type: &DataType,
    key: &dyn Fn(&str) -> String,
    options: &mut TableOptions<'_>,
) -> Result<Values, OptionError> {
    use TypeKind::{
        BigInt, Boolean, Bytes, Date, Decimal, Double, Float, Int, SmallInt, String, Time, Timestamp,
        TimestampLtz, TinyInt,
    };
    let values =
        match data_type.kind() {
            Boolean => Values::Boolean,
            kind @ (TinyInt | SmallInt | Int | BigInt) => {
                let (least, most) = range(kind);
                let min = options.parsed(&key("min"), "a whole number")?.unwrap_or(least);
                let max = options.parsed(&key("max"), "a whole number")?.unwrap_or(most);
                if min > max || min < least || max > most {
                    return Err(options
                        .wrong(&key("max"), &format!("and '{}' are no range of {data_type}", key("min"))));
                }
                Values::Integer { min, max }
            }
            kind @ (Float | Double) => {
                let most = if kind == Float { f64::from(f32::MAX) } else { f64::MAX };
                let min = options.parsed(&key("min"), "a number")?.unwrap_or(0.0);
                let max = options.parsed(&key("max"), "a number")?.unwrap_or(most);
                if !(min <= max && min >= -most && max <= most) {
                    return Err(options
                        .wrong(&key("max"), &format!("and '{}' are no range of {data_type}", key("min"))));
                }
                Values::Double { min, max }
            }
            Decimal => {
                let most = 10_i128.pow(data_type.precision) - 1;
                let mut bound = |option: &str, default: i128| -> Result<i128, OptionError> {
                    let Some(text) = options.optional(&key(option)) else { return Ok(default) };
                    let (precision, scale) = (data_type.precision as u8, data_type.scale as i8);
                    match millrace_sql::functions::decimal(text.trim(), precision, scale) {
                        Ok(Some(value)) => Ok(value),
                        _ => Err(options.wrong(&key(option), &format!("is not a {data_type}"))),
                    }
                };
                let (min, max) = (bound("min", 0)?, bound("max", most)?);
                if min > max {
                    return Err(options.wrong(&key("max"), &format!("is below '{}'", key("min"))));
                }
                Values::Decimal { min, max }
            }
            String | Bytes => Values::Text {
                length: options.parsed(&key("length"), "a number of characters")?.unwrap_or(DEFAULT_LENGTH),
                varies: options.flag(&key("var-len"))?,
            },
            Date | Time | Timestamp | TimestampLtz => {
                let past = options.duration(&key("max-past"))?.unwrap_or_default();
                Values::Time { past_ms: past.as_millis().try_into().unwrap_or(i64::MAX) }
            }
            _ => return Err(options.mistake(format!("'{}': a {data_type} cannot be generated", key("kind")))),
        };
    Ok(values)
}

impl Rows for Datagen {
    fn count(&self) -> Option<u64> {
        self.rows
    }

    fn columns(&self, numbers: Vec<u64>, began_ms: i64) -> Vec<ArrayRef> {
        self.columns.iter().map(|column| self.column(column, &numbers, began_ms)).collect()
    }
}

impl Datagen {
    fn column(&self, column: &Column, numbers: &[u64], began_ms: i64) -> ArrayRef {
        let bits = |number: u64, salt: u64| Bits::of(self.seed, number, column.salt ^ salt);
        let is_there = |number: &u64| bits(*number, NULL_SALT).below(1_000_000) >= column.nulls_ppm;
        let nulls = (column.nulls_ppm > 0).then(|| numbers.iter().map(is_there).collect::<NullBuffer>());
        let each = numbers.iter().copied();
        let values: ArrayRef = match &column.values {
            Values::Sequence { start } => {
                let numbers = each.map(|number| start.wrapping_add(number as i64));
                Arc::new(numbers.collect::<Vec<_>>().into_iter().collect::<Int64Array>())
            }
            Values::Boolean => {
                Arc::new(each.map(|number| Some(bits(number, 0).below(2) == 1)).collect::<BooleanArray>())
            }
            Values::Integer { min, max } => {
                let span = (i128::from(*max) - i128::from(*min)) as u64;
                let value = |number| {
                    let random = bits(number, 0).next();
                    let offset =
                        if span == u64::MAX { random } else { Bits::of(random, 0, 0).below(span + 1) };
                    min.wrapping_add(offset as i64)
                };
                Arc::new(each.map(value).map(Some).collect::<Int64Array>())
            }
            Values::Double { min, max } => {
                let value = |number| {
                    let fraction = bits(number, 0).fraction();
                    min * (1.0 - fraction) + max * fraction
                };
                Arc::new(each.map(value).map(Some).collect::<Float64Array>())
            }
            Values::Decimal { min, max } => {
                let value = |number| {
                    let mut bits = bits(number, 0);
                    let wide = (u128::from(bits.next()) << 64) | u128::from(bits.next());
                    min + (wide % (max.abs_diff(*min) + 1)) as i128
                };
                let values = each.map(value).map(Some).collect::<Decimal128Array>();
                let (precision, scale) = (column.data_type.precision as u8, column.data_type.scale as i8);
                // The bounds have no more digits than the type.
                values
                    .with_precision_and_scale(precision, scale)
                    .map_or_else(|_| missing(column, numbers), |values| Arc::new(values) as ArrayRef)
            }
            Values::Text { length, varies } => {
                let length_of = |number| match varies {
                    true => 1 + bits(number, LENGTH_SALT).below(*length),
                    false => *length,
                };
                let is_text = column.data_type.kind() == TypeKind::String;
                let text = |number| letters(bits(number, 0), length_of(number) as usize, is_text);
                match is_text {
                    true => Arc::new(
                        each.map(|number| String::from_utf8(text(number)).ok()).collect::<StringArray>(),
                    ),
                    false => Arc::new(each.map(|number| Some(text(number))).collect::<BinaryArray>()),
                }
            }
            Values::Time { past_ms } => {
                let value = |number: u64| {
                    let since = u128::from(number) * 1000 / u128::from(self.rows_per_second);
                    let past = bits(number, 0).below((*past_ms as u64).saturating_add(1)) as i64;
                    began_ms.saturating_add(since as i64).saturating_sub(past)
                };
                Arc::new(each.map(value).map(Some).collect::<TimestampMillisecondArray>())
            }
        };
        let wanted = column.data_type.to_arrow();
        let typed = match (&wanted, values.data_type()) {
            (wanted, held) if wanted == held => Ok(values),
            // Times of the day are those of the clock in UTC.
            (ArrowType::Timestamp(_, Some(_)), _) => cast(
                &values,
                &ArrowType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, Some("UTC".into())),
            )
            .and_then(|zoned| cast(&zoned, &wanted)),
            _ => cast(&values, &wanted),
        };
        let typed = typed.unwrap_or_else(|_| missing(column, numbers));
        match nulls {
            Some(nulls) => {
                arrow::compute::nullif(&typed, &BooleanArray::new(!nulls.inner(), None)).unwrap_or(typed)
            }
            None => typed,
        }
    }
}

/// NULL for each row: of what cannot be, which the options exclude.
fn missing(column: &Column, numbers: &[u64]) -> ArrayRef {
    arrow::array::new_null_array(&column.data_type.to_arrow(), numbers.len())
}

/// Hexadecimal digits, as Flink's random texts, or any bytes.
fn letters(mut bits: Bits, length: usize, are_digits: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        let random = bits.next();
        if are_digits {
            out.extend((0..16).map(|digit| b"0123456789abcdef"[(random >> (4 * digit)) as usize & 15]));
        } else {
            out.extend(random.to_le_bytes());
        }
    }
    out.truncate(length);
    out
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use arrow::array::{AsArray, RecordBatch};
    use arrow::datatypes::{Int64Type, TimestampMillisecondType};
    use millrace_sql::plan::OperatorKind;

    use super::*;
    use crate::source::{Read, SourceConnector};

    fn source(columns: &str, options: &str) -> Result<Generated, String> {
        let names: Vec<&str> = columns.split(", ").map(|column| column.split(' ').next().unwrap()).collect();
        let names = names.join(", ");
        let sql = format!(
            "CREATE TABLE t ({columns}) WITH ('connector' = 'datagen', 'rows-per-second' = '1000000'{options});
             CREATE TABLE out ({columns}) WITH ('connector' = 'blackhole');
             INSERT INTO out SELECT {names} FROM t;"
        );
        let plan = millrace_sql::compile(&sql).map_err(|mistakes| mistakes[0].to_string())?;
        let Some(OperatorKind::Source(source)) = &plan.operators[0].kind else { panic!("a source") };
        let table = source.table.clone().unwrap();
        let mut options = TableOptions::new(&table);
        options.required("connector").unwrap();
        let generated = connector(source, &mut options, Clock::starting_at(1_000));
        let generated = generated.map_err(|error| error.to_string())?;
        options.finish().map_err(|error| error.to_string())?;
        Ok(generated)
    }

    async fn rows(source: &Generated) -> RecordBatch {
        let mut batches = Vec::new();
        for split in source.splits(2).await.unwrap() {
            let mut reader = source.open(&split).unwrap();
            loop {
                match std::future::poll_fn(|cx: &mut Context<'_>| reader.poll_read(cx)).await {
                    Ok(Read::Rows(rows)) => batches.push(rows),
                    Ok(Read::End) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn columns_are_generated_as_the_options_say() {
        let columns = "n INT, id BIGINT, small TINYINT, price DECIMAL(5,2), x DOUBLE, s STRING, v STRING, b BYTES, is_it BOOLEAN, ts TIMESTAMP(3), z TIMESTAMP_LTZ(3), d DATE";
        let source = source(
            columns,
            ", 'fields.n.kind' = 'sequence', 'fields.n.start' = '5', 'fields.n.end' = '1004',
              'fields.id.min' = '-3', 'fields.id.max' = '3', 'fields.price.max' = '9.99', 'fields.x.max' = '0.5',
              'fields.s.length' = '7', 'fields.v.length' = '9', 'fields.v.var-len' = 'true', 'fields.v.null-rate' = '0.5',
              'fields.ts.max-past' = '10 s'",
        )
        .unwrap();

        let rows = rows(&source).await;

        assert_eq!(rows.num_rows(), 1000, "the sequence has no more");
        let column = |index: usize| rows.column(index);
        let mut numbers: Vec<i32> = column(0).as_primitive::<arrow::datatypes::Int32Type>().values().to_vec();
        numbers.sort_unstable();
        assert_eq!(numbers, (5..=1004).collect::<Vec<_>>());
        let ids = column(1).as_primitive::<Int64Type>();
        assert_eq!((arrow::compute::min(ids), arrow::compute::max(ids)), (Some(-3), Some(3)));
        let prices = column(3).as_primitive::<arrow::datatypes::Decimal128Type>();
        assert!(arrow::compute::min(prices).unwrap() >= 0 && arrow::compute::max(prices).unwrap() <= 999);
        let halves = column(4).as_primitive::<arrow::datatypes::Float64Type>();
        assert!(arrow::compute::min(halves).unwrap() >= 0.0 && arrow::compute::max(halves).unwrap() < 0.5);
        assert!(column(5).as_string::<i32>().iter().all(|text| text.unwrap().len() == 7));
        let varying = column(6).as_string::<i32>();
        assert!((400..600).contains(&varying.null_count()), "{}", varying.null_count());
        assert!(varying.iter().flatten().all(|text| (1..=9).contains(&text.len())));
        assert!(column(7).as_binary::<i32>().iter().all(|bytes| bytes.unwrap().len() == 100));
        let times = column(9).as_primitive::<TimestampMillisecondType>();
        assert!(
            arrow::compute::min(times).unwrap() >= 1_000 - 10_000
                && arrow::compute::max(times).unwrap() <= 1_001
        );
        assert!(
            rows.columns().iter().enumerate().all(|(index, column)| index == 6 || column.null_count() == 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_rows_come_again() {
        let columns = "id BIGINT, s STRING, ts TIMESTAMP(3)";
        let once = source(columns, ", 'number-of-rows' = '500'").unwrap();
        let split = once.splits(1).await.unwrap().remove(0);
        let mut first = once.open(&split).unwrap();
        let again = source(columns, ", 'number-of-rows' = '500'").unwrap();
        let mut second = again.open(&split).unwrap();
        for _ in 0..2 {
            let one = std::future::poll_fn(|cx| first.poll_read(cx)).await.unwrap();
            let other = std::future::poll_fn(|cx| second.poll_read(cx)).await.unwrap();
            match (one, other) {
                (Read::Rows(one), Read::Rows(other)) => assert_eq!(one, other),
                (Read::End, Read::End) => {}
                pair => panic!("{pair:?}"),
            }
        }
    }

    #[test]
    fn options_that_cannot_be_are_refused() {
        for (columns, options, part) in [
            ("n INT", ", 'fields.n.kind' = 'sequence', 'fields.n.start' = '5'", "'fields.n.end' is missing"),
            (
                "n TINYINT",
                ", 'fields.n.max' = '300'",
                "'fields.n.max' = '300' and 'fields.n.min' are no range of TINYINT",
            ),
            ("b BOOLEAN", ", 'fields.b.kind' = 'sequence'", "there is no sequence of BOOLEAN"),
            ("d DECIMAL(3,1)", ", 'fields.d.max' = '1000'", "is not a DECIMAL(3, 1)"),
            ("n INT NOT NULL", ", 'fields.n.null-rate' = '0.5'", "the column is NOT NULL"),
            ("n INT", ", 'fields.n.length' = '5'", "'fields.n.length' is not known here"),
            ("n INT", ", 'fields.m.min' = '5'", "it has no column 'm' for"),
            ("n INT", ", 'fields.n.mim' = '5'", "'fields.n.mim' is not known here"),
            ("r ROW<a INT>", "", "is ROW<a INT>, and such values cannot be generated yet"),
        ] {
            let refused = source(columns, options).map(drop).unwrap_err();
            assert!(refused.contains(part), "{columns} {options}: {refused}");
        }
    }
}
