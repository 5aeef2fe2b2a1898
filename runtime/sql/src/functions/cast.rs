//! CAST and TRY_CAST where Flink's meaning is not that of the kernels: texts, numbers that do not fit, rounding.
//!
//! Whole numbers that do not fit wrap around and fractions are cut, as in Java; decimals are rounded half up, and are NULL
//! if they have too many digits. A text that is not a value of the type is an error of CAST and NULL of TRY_CAST.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array, ListArray, MapArray, StringArray,
    StructArray, Time32MillisecondArray,
};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{
    DataType, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
};
use arrow::error::ArrowError;
use arrow::util::display::FormatOptions;
use datafusion_common::{DataFusionError, Result, ScalarValue, exec_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::decimals::{Rounding, of_integer, round};
use super::{text, time_texts};
use crate::plan;

/// Conversion to a type, with Flink's meaning.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct CastTo {
    pub to: DataType,
    /// NULL instead of an error.
    pub is_try: bool,
    signature: Signature,
}

impl CastTo {
    pub fn new(to: DataType, is_try: bool) -> Self {
        CastTo { to, is_try, signature: Signature::any(1, Volatility::Immutable) }
    }

    /// Looks whether a constant can be converted.
    pub fn check(&self, constant: &ScalarValue) -> Result<()> {
        convert(&constant.to_array()?, &self.to, self.is_try).map(drop)
    }

    /// What to write instead of a conversion that there is none of; `None` if there is one.
    pub fn cure(from: &DataType, to: &DataType) -> Option<&'static str> {
        use DataType::{Binary, Boolean, Date32, List, Map, Null, Struct, Time32, Time64, Timestamp, Utf8};
        let is_number = |kind: &DataType| kind.is_numeric() || *kind == Boolean;
        let is_time = |kind: &DataType| matches!(kind, Timestamp(..) | Date32 | Time32(_) | Time64(_));
        match (from, to) {
            (from, Timestamp(..)) if is_number(from) => Some(
                "TO_TIMESTAMP_LTZ(…, 3) makes a time of milliseconds since 1970, and TO_TIMESTAMP_LTZ(…, 0) of seconds",
            ),
            (Timestamp(..), to) if is_number(to) => Some(
                "UNIX_TIMESTAMP(CAST(… AS STRING)) gives the seconds since 1970, and EXTRACT(HOUR FROM …) a part",
            ),
            (from, to) if is_number(from) && is_time(to) => Some("make it of a text: CAST('…' AS DATE)"),
            (from, to) if is_time(from) && is_number(to) => Some("EXTRACT(DAY FROM …) gives a part of it"),
            (Date32, Time32(_) | Time64(_)) | (Time32(_) | Time64(_), Date32) => {
                Some("a TIMESTAMP has both a date and a time of day")
            }
            (from, Binary) if is_number(from) || is_time(from) => {
                Some("the bytes of its text are CAST(CAST(… AS STRING) AS BYTES)")
            }
            (Null, _) | (_, Null) | (List(_), List(_)) | (Map(..), Map(..)) | (Struct(_), Struct(_)) => None,
            (List(_), to) if *to != Utf8 => Some("take an element of it: …[1]"),
            (Map(..), to) if *to != Utf8 => Some("take a value of it: …['key']"),
            (Struct(_), to) if *to != Utf8 => Some("take a field of it: ….name"),
            (_, List(_)) => Some("ARRAY[…] makes one of its elements"),
            (_, Map(..)) => Some("MAP['key', …] makes one of keys and values"),
            (_, Struct(_)) => Some("ROW(…) makes one of its fields"),
            _ => None,
        }
    }

    /// True if the kernels do something else than Flink.
    pub fn is_needed(from: &DataType, to: &DataType) -> bool {
        use DataType::{Boolean, Decimal128, Float32, Float64, List, Map, Null, Struct, Timestamp, Utf8};
        match (from, to) {
            (Null, _) | (_, Null) => false,
            (from, to) if from == to => false,
            (Utf8, _) | (_, Utf8) => true,
            // By position, whatever the fields are called.
            (Struct(_), Struct(_)) | (List(_), List(_)) | (Map(..), Map(..)) => true,
            (Boolean, Decimal128(..)) | (Decimal128(..), Boolean) => true,
            (Timestamp(from, _), Timestamp(to, _)) => per_second(from) > per_second(to),
            (Decimal128(..), to) if to.is_integer() => true,
            (Float32 | Float64, to) => to.is_integer() || matches!(to, Decimal128(..)),
            (from, to) if from.is_integer() && to.is_integer() => {
                from.primitive_width() > to.primitive_width()
            }
            (from, Decimal128(precision, scale)) => match of_integer(from).as_ref().unwrap_or(from) {
                Decimal128(p, s) => {
                    s > scale || i32::from(*p) - i32::from(*s) > i32::from(*precision) - i32::from(*scale)
                }
                _ => false,
            },
            _ => false,
        }
    }
}

impl ScalarUDFImpl for CastTo {
    /// It is no identifier, so that only CAST gives it.
    fn name(&self) -> &str {
        "cast to"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_constant = matches!(args.args[0], ColumnarValue::Scalar(_));
        let values = args.args[0].to_array(if is_constant { 1 } else { args.number_rows })?;
        let converted = convert(&values, &self.to, self.is_try)?;
        if is_constant {
            return ScalarValue::try_from_array(&converted, 0).map(ColumnarValue::Scalar);
        }
        Ok(ColumnarValue::Array(converted))
    }
}

fn convert(values: &ArrayRef, to: &DataType, is_try: bool) -> Result<ArrayRef> {
    use DataType::{Boolean, Decimal128, Float32, Float64, Int32, List, Map, Struct, Timestamp, Utf8};
    match (values.data_type(), to) {
        (Utf8, _) => from_text(values.as_string(), to, is_try),
        (_, Utf8) => Ok(Arc::new(text::of_column(values)?)),
        (Struct(given), Struct(fields)) if given.len() == fields.len() => {
            let (row, nulls) = (values.as_struct(), values.nulls().cloned());
            let columns = row.columns().iter().zip(fields);
            let columns = columns.map(|(column, field)| inner(column, field.data_type(), is_try));
            let columns = columns.collect::<Result<Vec<_>>>()?;
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, row.len())?))
        }
        (List(_), List(item)) => {
            let lists: &ListArray = values.as_list();
            let items = inner(lists.values(), item.data_type(), is_try)?;
            let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
            Ok(Arc::new(ListArray::try_new(Arc::clone(item), offsets, items, nulls)?))
        }
        (Map(..), Map(entries, is_sorted)) => {
            let maps = values.as_map();
            let rows: ArrayRef = Arc::new(maps.entries().clone());
            let rows = inner(&rows, entries.data_type(), is_try)?.as_struct().clone();
            let (offsets, nulls) = (maps.offsets().clone(), maps.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, rows, nulls, *is_sorted)?))
        }
        (Timestamp(..), Timestamp(unit, _)) => kernel(&at_or_before(values, *unit)?, to, is_try),
        (Boolean, Decimal128(..)) => convert(&cast(values, &Int32)?, to, is_try),
        (Decimal128(..), Boolean) => {
            let numbers = values.as_primitive::<Decimal128Type>().iter();
            Ok(Arc::new(numbers.map(|number| number.map(|number| number != 0)).collect::<BooleanArray>()))
        }
        (Float32 | Float64, to) if to.is_integer() => {
            let wide = cast(values, &Float64)?;
            let cut = |value: f64| match to {
                // Java has no narrower conversion than to INT, and cuts its bits.
                DataType::Int8 | DataType::Int16 | DataType::Int32 => i64::from(value as i32),
                _ => value as i64,
            };
            narrow(&wide.as_primitive::<Float64Type>().unary(cut), to)
        }
        (Decimal128(_, scale), to) if to.is_integer() => {
            let unit = 10_i128.pow(u32::from(scale.unsigned_abs()));
            narrow(&values.as_primitive::<Decimal128Type>().unary(|value| (value / unit) as i64), to)
        }
        (from, to) if from.is_integer() && to.is_integer() => {
            narrow(cast(values, &DataType::Int64)?.as_primitive::<Int64Type>(), to)
        }
        (Float32 | Float64, Decimal128(precision, scale)) => {
            let texts = text::of_column(values)?;
            let parsed = texts.iter().map(|text| decimal(text?, *precision, *scale).ok()?);
            decimals(parsed.collect(), *precision, *scale)
        }
        (from, Decimal128(precision, scale)) if from.is_integer() => {
            let wide = cast(values, &Decimal128(19, 0))?;
            rounded(wide.as_primitive(), *precision, *scale)
        }
        (Decimal128(..), Decimal128(precision, scale)) => rounded(values.as_primitive(), *precision, *scale),
        _ => kernel(values, to, is_try),
    }
}

/// Times in a unit. What lies between two of a coarser one is at the earlier, also before 1970; the kernels go towards 1970.
///
/// # Errors
/// If the values are no times, or are out of a finer unit's range.
pub fn at_or_before(values: &ArrayRef, unit: TimeUnit) -> Result<ArrayRef, ArrowError> {
    let DataType::Timestamp(from, zone) = values.data_type() else {
        return Err(ArrowError::CastError(format!("{} is no time", values.data_type())));
    };
    let to = DataType::Timestamp(unit, zone.clone());
    let coarser = per_second(from) / per_second(&unit);
    if coarser <= 1 {
        return cast_with_options(values, &to, &CastOptions { safe: false, ..Default::default() });
    }
    let numbers = cast(values, &DataType::Int64)?;
    let floored: Int64Array = numbers.as_primitive::<Int64Type>().unary(|time| time.div_euclid(coarser));
    cast(&floored, &to)
}

fn per_second(unit: &TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// A part of another value.
fn inner(values: &ArrayRef, to: &DataType, is_try: bool) -> Result<ArrayRef> {
    match CastTo::is_needed(values.data_type(), to) {
        true => convert(values, to, is_try),
        false => kernel(values, to, is_try),
    }
}

fn kernel(values: &ArrayRef, to: &DataType, is_try: bool) -> Result<ArrayRef> {
    let options = CastOptions { safe: is_try, format_options: FormatOptions::default() };
    Ok(cast_with_options(values, to, &options)?)
}

/// Whole numbers as a type that may be too small, as Java cuts them.
fn narrow(values: &Int64Array, to: &DataType) -> Result<ArrayRef> {
    Ok(match to {
        DataType::Int8 => Arc::new(values.unary::<_, Int8Type>(|value| value as i8)),
        DataType::Int16 => Arc::new(values.unary::<_, Int16Type>(|value| value as i16)),
        DataType::Int32 => Arc::new(values.unary::<_, Int32Type>(|value| value as i32)),
        _ => Arc::new(values.clone()),
    })
}

fn rounded(values: &Decimal128Array, precision: u8, scale: i8) -> Result<ArrayRef> {
    let one = |value| round(value, values.scale(), i64::from(scale), Rounding::HalfUp, (precision, scale));
    decimals(values.iter().map(|value| one(value?)).collect(), precision, scale)
}

fn decimals(values: Decimal128Array, precision: u8, scale: i8) -> Result<ArrayRef> {
    Ok(Arc::new(values.with_precision_and_scale(precision, scale)?))
}

fn from_text(values: &StringArray, to: &DataType, is_try: bool) -> Result<ArrayRef> {
    match texts(values, to, is_try) {
        Ok(converted) => Ok(converted),
        Err(TextError::Kernel { source }) => Err(source),
        Err(TextError::NotAValue { text }) => {
            let to = plan::DataType::from_arrow(to).map(|to| to.to_string()).unwrap_or_default();
            exec_err!("CAST: '{text}' is not a value of the type {to}; TRY_CAST makes NULL of such texts")
        }
    }
}

/// A text cannot be converted.
#[derive(Debug)]
pub enum TextError {
    /// The beginning of a text that is no value of the type.
    NotAValue {
        text: String,
    },
    Kernel {
        source: DataFusionError,
    },
}

/// Texts as values of a type, as CAST reads them.
///
/// # Errors
/// If a text is no value of the type.
pub fn of_texts(values: &StringArray, to: &DataType) -> Result<ArrayRef, TextError> {
    texts(values, to, false)
}

fn texts(values: &StringArray, to: &DataType, is_try: bool) -> Result<ArrayRef, TextError> {
    let kernel =
        |values: ArrayRef, is_try| kernel(&values, to, is_try).map_err(|source| TextError::Kernel { source });
    let converted: ArrayRef = match to {
        DataType::Binary => return kernel(Arc::new(values.clone()), is_try),
        DataType::Boolean => {
            Arc::new(values.iter().map(|text| boolean(text?.trim())).collect::<BooleanArray>())
        }
        DataType::Float32 => {
            let parsed = values.iter().map(|text| text?.trim().parse::<f32>().ok());
            Arc::new(parsed.collect::<arrow::array::PrimitiveArray<Float32Type>>())
        }
        DataType::Float64 => {
            let parsed = values.iter().map(|text| text?.trim().parse::<f64>().ok());
            Arc::new(parsed.collect::<arrow::array::PrimitiveArray<Float64Type>>())
        }
        to if to.is_integer() => {
            let parsed: Int64Array = values.iter().map(|text| integer(text?.trim())).collect();
            kernel(Arc::new(parsed), true)?
        }
        DataType::Decimal128(precision, scale) => {
            return decimals_from_text(values, *precision, *scale, is_try);
        }
        DataType::Time32(TimeUnit::Millisecond) => {
            let times = values.iter().map(|text| time_texts::time_of_day(text?.trim()));
            Arc::new(times.collect::<Time32MillisecondArray>())
        }
        _ => {
            let known = kernel(Arc::new(values.clone()), true)?;
            match known.null_count() > values.null_count() {
                // Of the few in another form the kernels take a text in theirs.
                true => kernel(Arc::new(in_usual_form(values, to)), true)?,
                false => known,
            }
        }
    };
    if !is_try && converted.null_count() > values.null_count() {
        let wrong = (0..values.len()).find(|row| values.is_valid(*row) && converted.is_null(*row));
        return Err(not_a_value(wrong.map(|row| values.value(row)).unwrap_or_default()));
    }
    Ok(converted)
}

/// Dates and times in a form that Flink takes beside ISO's, such as `2024-1-5`, in ISO's; other texts stay as they are.
fn in_usual_form(values: &StringArray, to: &DataType) -> StringArray {
    let usual = |text: &str| match to {
        DataType::Date32 => Some(time_texts::date(text.trim())?.format("%Y-%m-%d").to_string()),
        DataType::Timestamp(_, None) => {
            Some(time_texts::usual(text)?.format("%Y-%m-%dT%H:%M:%S%.f").to_string())
        }
        _ => None,
    };
    let texts =
        values.iter().map(|text| text.map(|text| usual(text).map_or(Cow::Borrowed(text), Cow::Owned)));
    texts.collect()
}

fn decimals_from_text(
    values: &StringArray,
    precision: u8,
    scale: i8,
    is_try: bool,
) -> Result<ArrayRef, TextError> {
    let mut parsed = Vec::with_capacity(values.len());
    for text in values {
        parsed.push(match text.map(|text| decimal(text.trim(), precision, scale)) {
            None => None,
            Some(Ok(value)) => value,
            Some(Err(NotANumber)) if is_try => None,
            Some(Err(NotANumber)) => {
                return Err(not_a_value(text.unwrap_or_default()));
            }
        });
    }
    decimals(parsed.into(), precision, scale).map_err(|source| TextError::Kernel { source })
}

fn not_a_value(text: &str) -> TextError {
    /// Longer texts are cut in messages.
    const SHOWN_MAX: usize = 80;
    let mut shown: String = text.chars().take(SHOWN_MAX).collect();
    if shown.len() < text.len() {
        let _ = write!(shown, "…");
    }
    TextError::NotAValue { text: shown }
}

/// Flink's words for true and false.
fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "t" | "true" | "y" | "yes" | "1" => Some(true),
        "f" | "false" | "n" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// A whole number; a fraction is cut, if it is one.
fn integer(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    fraction.bytes().all(|byte| byte.is_ascii_digit()).then(|| whole.parse().ok()).flatten()
}

/// A text that is no number.
#[derive(Debug, PartialEq, Eq)]
pub struct NotANumber;

/// The unscaled value of a number's text, rounded half up, or NULL if it has too many digits.
///
/// # Errors
/// If the text is not a number, such as `-1.5` or `2e3`.
pub fn decimal(text: &str, precision: u8, scale: i8) -> Result<Option<i128>, NotANumber> {
    let (is_negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| NotANumber)?),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = || whole.bytes().chain(fraction.bytes());
    if (whole.is_empty() && fraction.is_empty()) || !all().all(|byte| byte.is_ascii_digit()) {
        return Err(NotANumber);
    }
    let point = whole.len() as i64 + i64::from(exponent);
    let kept = point + i64::from(scale);
    let Ok(kept) = usize::try_from(kept) else { return Ok(Some(0)) };
    // Zero has few digits whatever its exponent is.
    if all().all(|byte| byte == b'0') {
        return Ok(Some(0));
    }
    let mut digits = all().map(|byte| i128::from(byte - b'0'));
    let mut value: i128 = 0;
    for _ in 0..kept {
        let digit = digits.next().unwrap_or(0);
        match value.checked_mul(10).and_then(|value| value.checked_add(digit)) {
            Some(next) => value = next,
            None => return Ok(None),
        }
    }
    value += i128::from(digits.next().is_some_and(|digit| digit >= 5));
    let limit = 10_i128.checked_pow(u32::from(precision));
    let fits = limit.is_none_or(|limit| value < limit);
    Ok(fits.then_some(if is_negative { -value } else { value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_texts_become_decimals() {
        let cases = [
            // text, digits, behind the point, unscaled value
            ("1.005", 10, 2, Ok(Some(101))),
            ("-1.005", 10, 2, Ok(Some(-101))),
            ("1.0049", 10, 2, Ok(Some(100))),
            ("0.5", 3, 0, Ok(Some(1))),
            (".5", 3, 1, Ok(Some(5))),
            ("+7", 3, 1, Ok(Some(70))),
            ("1.5e3", 10, 2, Ok(Some(150_000))),
            ("15E-1", 10, 2, Ok(Some(150))),
            ("4e-9", 10, 2, Ok(Some(0))),
            ("0e999999999", 10, 2, Ok(Some(0))),
            ("1e999999999", 10, 2, Ok(None)),
            ("999.995", 5, 2, Ok(None)),
            ("99999999999999999999999999999999999999", 38, 0, Ok(Some(10_i128.pow(38) - 1))),
            ("", 5, 2, Err(NotANumber)),
            ("-", 5, 2, Err(NotANumber)),
            (".", 5, 2, Err(NotANumber)),
            ("1,5", 5, 2, Err(NotANumber)),
            ("1e", 5, 2, Err(NotANumber)),
            ("٣", 5, 2, Err(NotANumber)),
        ];
        for (text, precision, scale, expected) in cases {
            assert_eq!(decimal(text, precision, scale), expected, "{text}");
        }
    }
}
