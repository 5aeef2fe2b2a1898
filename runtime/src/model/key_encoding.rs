//! Key encoding 1: what is hashed, and the order of keys in segments.
//!
//! Each column is `00` for NULL, else `01` and its value in an order-preserving form. The bytes are part of the
//! state's format; golden tests hold them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int64Array,
    ListArray, StringArray, StructArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType as ArrowType, Decimal128Type, Float64Type, Int64Type, TimeUnit};
use arrow::error::ArrowError;
use millrace_sql::plan::{DataType, Field, TypeKind};
use snafu::{OptionExt, ResultExt, Snafu, ensure};

/// Version of the encoding, written into `job.pb`.
pub const KEY_ENCODING_VERSION: u32 = 1;

const NULL: u8 = 0;
const VALUE: u8 = 1;

/// A key could not be encoded or decoded.
#[derive(Debug, Snafu)]
pub enum KeyError {
    #[snafu(display("values of type {data_type} cannot be keys"))]
    NotAKey { data_type: ArrowType },
    #[snafu(display("failed to convert a key column"))]
    Convert { source: ArrowError },
    #[snafu(display("an encoded key is malformed"))]
    Malformed,
}

/// Encoded keys of many rows, one after the other.
#[derive(Debug, Default, Clone)]
pub struct EncodedKeys {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl EncodedKeys {
    /// How many keys.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True without keys.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The key of a row.
    pub fn key(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        &self.bytes[start..self.ends[row] as usize]
    }

    /// Appends a key.
    pub fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len() as u32);
    }

    /// Bytes held.
    pub fn byte_len(&self) -> usize {
        self.bytes.len() + self.ends.len() * 4
    }
}

/// Encodes the keys of `rows` rows; without columns all rows have the empty key.
pub fn encode(columns: &[ArrayRef], rows: usize) -> Result<EncodedKeys, KeyError> {
    let columns = columns.iter().map(KeyColumn::new).collect::<Result<Vec<_>, _>>()?;
    let mut keys =
        EncodedKeys { bytes: Vec::with_capacity(rows * columns.len() * 9), ends: Vec::with_capacity(rows) };
    for row in 0..rows {
        for column in &columns {
            column.write(row, &mut keys.bytes);
        }
        keys.ends.push(keys.bytes.len() as u32);
    }
    Ok(keys)
}

/// A column in the few forms that the encoding knows.
enum KeyColumn {
    Boolean(BooleanArray),
    Integer(Int64Array),
    Decimal(Decimal128Array),
    Float(Float64Array),
    String(StringArray),
    Bytes(BinaryArray),
    Millis(TimestampMillisecondArray),
    Micros(TimestampMicrosecondArray),
    Nanos(TimestampNanosecondArray),
    Row(StructArray, Vec<KeyColumn>),
    Array(ListArray, Box<KeyColumn>),
    AllNull,
}

impl KeyColumn {
    fn new(column: &ArrayRef) -> Result<Self, KeyError> {
        Ok(match column.data_type() {
            ArrowType::Null => KeyColumn::AllNull,
            ArrowType::Boolean => KeyColumn::Boolean(column.as_boolean().clone()),
            ArrowType::Int64 => KeyColumn::Integer(column.as_primitive::<Int64Type>().clone()),
            ArrowType::Int8
            | ArrowType::Int16
            | ArrowType::Int32
            | ArrowType::Date32
            | ArrowType::Time32(_) => {
                let wide = cast(column, &ArrowType::Int64).context(ConvertSnafu)?;
                KeyColumn::Integer(wide.as_primitive::<Int64Type>().clone())
            }
            ArrowType::Decimal128(..) => KeyColumn::Decimal(column.as_primitive::<Decimal128Type>().clone()),
            ArrowType::Float32 | ArrowType::Float64 => {
                let wide = cast(column, &ArrowType::Float64).context(ConvertSnafu)?;
                KeyColumn::Float(wide.as_primitive::<Float64Type>().clone())
            }
            ArrowType::Utf8 => KeyColumn::String(column.as_string().clone()),
            ArrowType::Binary => KeyColumn::Bytes(column.as_binary().clone()),
            ArrowType::Timestamp(TimeUnit::Millisecond, _) => {
                KeyColumn::Millis(column.as_primitive().clone())
            }
            ArrowType::Timestamp(TimeUnit::Microsecond, _) => {
                KeyColumn::Micros(column.as_primitive().clone())
            }
            ArrowType::Timestamp(TimeUnit::Nanosecond, _) => KeyColumn::Nanos(column.as_primitive().clone()),
            ArrowType::Struct(_) => {
                let rows = column.as_struct();
                let fields = rows.columns().iter().map(KeyColumn::new).collect::<Result<_, _>>()?;
                KeyColumn::Row(rows.clone(), fields)
            }
            ArrowType::List(_) => {
                let lists: &ListArray = column.as_list();
                KeyColumn::Array(lists.clone(), Box::new(KeyColumn::new(lists.values())?))
            }
            other => return NotAKeySnafu { data_type: other.clone() }.fail(),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            KeyColumn::Boolean(values) => values.is_null(row),
            KeyColumn::Integer(values) => values.is_null(row),
            KeyColumn::Decimal(values) => values.is_null(row),
            KeyColumn::Float(values) => values.is_null(row),
            KeyColumn::String(values) => values.is_null(row),
            KeyColumn::Bytes(values) => values.is_null(row),
            KeyColumn::Millis(values) => values.is_null(row),
            KeyColumn::Micros(values) => values.is_null(row),
            KeyColumn::Nanos(values) => values.is_null(row),
            KeyColumn::Row(values, _) => values.is_null(row),
            KeyColumn::Array(values, _) => values.is_null(row),
            KeyColumn::AllNull => true,
        }
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            return out.push(NULL);
        }
        out.push(VALUE);
        match self {
            KeyColumn::Boolean(values) => out.push(u8::from(values.value(row))),
            KeyColumn::Integer(values) => out.extend(flip_i64(values.value(row)).to_be_bytes()),
            KeyColumn::Decimal(values) => {
                out.extend(((values.value(row) as u128) ^ (1 << 127)).to_be_bytes());
            }
            KeyColumn::Float(values) => out.extend(ordered_f64(values.value(row)).to_be_bytes()),
            KeyColumn::String(values) => write_bytes(values.value(row).as_bytes(), out),
            KeyColumn::Bytes(values) => write_bytes(values.value(row), out),
            KeyColumn::Millis(values) => write_time(values.value(row), 1_000, out),
            KeyColumn::Micros(values) => write_time(values.value(row), 1_000_000, out),
            KeyColumn::Nanos(values) => write_time(values.value(row), 1_000_000_000, out),
            KeyColumn::Row(_, fields) => fields.iter().for_each(|field| field.write(row, out)),
            KeyColumn::Array(lists, elements) => {
                let offsets = lists.value_offsets();
                for element in offsets[row]..offsets[row + 1] {
                    out.push(VALUE);
                    elements.write(element as usize, out);
                }
                out.push(NULL);
            }
            KeyColumn::AllNull => {}
        }
    }
}

fn flip_i64(value: i64) -> u64 {
    (value as u64) ^ (1 << 63)
}

/// Total order, with one NaN and −0 equal to 0.
fn ordered_f64(value: f64) -> u64 {
    let value = if value.is_nan() {
        f64::NAN.abs()
    } else if value == 0.0 {
        0.0
    } else {
        value
    };
    let bits = value.to_bits();
    if bits >> 63 == 1 { !bits } else { bits | (1 << 63) }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
    out.extend([0, 0]);
}

fn write_time(value: i64, units_per_second: i64, out: &mut Vec<u8>) {
    let seconds = value.div_euclid(units_per_second);
    let nanos = value.rem_euclid(units_per_second) * (1_000_000_000 / units_per_second);
    out.extend(flip_i64(seconds).to_be_bytes());
    out.extend((nanos as u32).to_be_bytes());
}

/// Turns encoded keys back into columns.
pub fn decode<'a>(fields: &[Field], keys: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, KeyError> {
    let mut columns: Vec<_> =
        fields.iter().map(|field| DecodedColumn::new(&field.data_type())).collect::<Result<_, _>>()?;
    for key in keys {
        let mut rest = key;
        for column in &mut columns {
            column.read(&mut rest)?;
        }
        ensure!(rest.is_empty(), MalformedSnafu);
    }
    columns.into_iter().map(DecodedColumn::finish).collect()
}

/// Values of one key column while they are decoded.
struct DecodedColumn {
    data_type: ArrowType,
    values: Decoded,
}

enum Decoded {
    Boolean(Vec<Option<bool>>),
    Integer(Vec<Option<i64>>),
    Decimal(Vec<Option<i128>>),
    Float(Vec<Option<f64>>),
    String(Vec<Option<String>>),
    Bytes(Vec<Option<Vec<u8>>>),
    Time(i64, Vec<Option<i64>>),
    Row(Vec<bool>, Vec<DecodedColumn>),
    /// Whether each is there, how many elements it has, and all elements.
    Array(Vec<bool>, Vec<usize>, Box<DecodedColumn>),
}

impl DecodedColumn {
    fn new(data_type: &DataType) -> Result<Self, KeyError> {
        let arrow = data_type.to_arrow();
        let values = match data_type.kind() {
            TypeKind::Boolean => Decoded::Boolean(Vec::new()),
            TypeKind::TinyInt
            | TypeKind::SmallInt
            | TypeKind::Int
            | TypeKind::BigInt
            | TypeKind::Date
            | TypeKind::Time => Decoded::Integer(Vec::new()),
            TypeKind::Decimal => Decoded::Decimal(Vec::new()),
            TypeKind::Float | TypeKind::Double => Decoded::Float(Vec::new()),
            TypeKind::String => Decoded::String(Vec::new()),
            TypeKind::Bytes => Decoded::Bytes(Vec::new()),
            TypeKind::Timestamp | TypeKind::TimestampLtz => {
                let units = match &arrow {
                    ArrowType::Timestamp(TimeUnit::Microsecond, _) => 1_000_000,
                    ArrowType::Timestamp(TimeUnit::Nanosecond, _) => 1_000_000_000,
                    _ => 1_000,
                };
                Decoded::Time(units, Vec::new())
            }
            TypeKind::Row => {
                let fields = data_type.fields.iter().map(|field| DecodedColumn::new(&field.data_type()));
                Decoded::Row(Vec::new(), fields.collect::<Result<_, _>>()?)
            }
            TypeKind::Array => {
                let element = data_type.fields.first().map(Field::data_type).unwrap_or_default();
                Decoded::Array(Vec::new(), Vec::new(), Box::new(DecodedColumn::new(&element)?))
            }
            TypeKind::Map | TypeKind::Interval | TypeKind::Null | TypeKind::Unknown => {
                return NotAKeySnafu { data_type: arrow }.fail();
            }
        };
        Ok(DecodedColumn { data_type: arrow, values })
    }

    fn read(&mut self, rest: &mut &[u8]) -> Result<(), KeyError> {
        if take::<1>(rest)?[0] == NULL {
            self.push_null();
            return Ok(());
        }
        match &mut self.values {
            Decoded::Boolean(values) => values.push(Some(take::<1>(rest)?[0] != 0)),
            Decoded::Integer(values) => {
                values.push(Some((u64::from_be_bytes(take(rest)?) ^ (1 << 63)) as i64))
            }
            Decoded::Decimal(values) => {
                values.push(Some((u128::from_be_bytes(take(rest)?) ^ (1 << 127)) as i128))
            }
            Decoded::Float(values) => {
                let bits = u64::from_be_bytes(take(rest)?);
                let bits = if bits >> 63 == 1 { bits ^ (1 << 63) } else { !bits };
                values.push(Some(f64::from_bits(bits)));
            }
            Decoded::String(values) => {
                let text = String::from_utf8(read_bytes(rest)?).ok().context(MalformedSnafu)?;
                values.push(Some(text));
            }
            Decoded::Bytes(values) => values.push(Some(read_bytes(rest)?)),
            Decoded::Time(units, values) => {
                let seconds = (u64::from_be_bytes(take(rest)?) ^ (1 << 63)) as i64;
                let nanos = i64::from(u32::from_be_bytes(take(rest)?));
                values.push(Some(seconds * *units + nanos / (1_000_000_000 / *units)));
            }
            Decoded::Row(valid, fields) => {
                valid.push(true);
                fields.iter_mut().try_for_each(|field| field.read(rest))?;
            }
            Decoded::Array(valid, lengths, elements) => {
                let mut length = 0;
                while take::<1>(rest)?[0] == VALUE {
                    elements.read(rest)?;
                    length += 1;
                }
                valid.push(true);
                lengths.push(length);
            }
        }
        Ok(())
    }

    fn push_null(&mut self) {
        match &mut self.values {
            Decoded::Boolean(values) => values.push(None),
            Decoded::Integer(values) | Decoded::Time(_, values) => values.push(None),
            Decoded::Decimal(values) => values.push(None),
            Decoded::Float(values) => values.push(None),
            Decoded::String(values) => values.push(None),
            Decoded::Bytes(values) => values.push(None),
            Decoded::Row(valid, fields) => {
                valid.push(false);
                fields.iter_mut().for_each(DecodedColumn::push_null);
            }
            Decoded::Array(valid, lengths, _) => {
                valid.push(false);
                lengths.push(0);
            }
        }
    }

    fn finish(self) -> Result<ArrayRef, KeyError> {
        let array: ArrayRef = match self.values {
            Decoded::Boolean(values) => Arc::new(BooleanArray::from(values)),
            Decoded::Integer(values) => integers(Int64Array::from(values), &self.data_type)?,
            Decoded::Time(_, values) => {
                cast(&(Arc::new(Int64Array::from(values)) as ArrayRef), &self.data_type)
                    .context(ConvertSnafu)?
            }
            Decoded::Decimal(values) => {
                Arc::new(Decimal128Array::from(values).with_data_type(self.data_type))
            }
            Decoded::Float(values) => {
                cast(&(Arc::new(Float64Array::from(values)) as ArrayRef), &self.data_type)
                    .context(ConvertSnafu)?
            }
            Decoded::String(values) => Arc::new(StringArray::from(values)),
            Decoded::Bytes(values) => Arc::new(values.iter().map(Option::as_deref).collect::<BinaryArray>()),
            Decoded::Row(valid, fields) => {
                let ArrowType::Struct(types) = &self.data_type else { return MalformedSnafu.fail() };
                let columns = fields.into_iter().map(DecodedColumn::finish).collect::<Result<_, _>>()?;
                Arc::new(
                    StructArray::try_new(types.clone(), columns, Some(valid.into())).context(ConvertSnafu)?,
                )
            }
            Decoded::Array(valid, lengths, elements) => {
                let ArrowType::List(element) = &self.data_type else { return MalformedSnafu.fail() };
                let (offsets, values) = (OffsetBuffer::from_lengths(lengths), elements.finish()?);
                Arc::new(
                    ListArray::try_new(Arc::clone(element), offsets, values, Some(valid.into()))
                        .context(ConvertSnafu)?,
                )
            }
        };
        Ok(array)
    }
}

/// Narrows 64-bit integers to the type that they were widened from.
pub fn integers(values: Int64Array, to: &ArrowType) -> Result<ArrayRef, KeyError> {
    let values: ArrayRef = Arc::new(values);
    if let ArrowType::Date32 | ArrowType::Time32(_) = to {
        let narrow = cast(&values, &ArrowType::Int32).context(ConvertSnafu)?;
        return cast(&narrow, to).context(ConvertSnafu);
    }
    cast(&values, to).context(ConvertSnafu)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], KeyError> {
    let (head, tail) = rest.split_first_chunk::<N>().context(MalformedSnafu)?;
    *rest = tail;
    Ok(*head)
}

fn read_bytes(rest: &mut &[u8]) -> Result<Vec<u8>, KeyError> {
    let mut out = Vec::new();
    loop {
        match take::<1>(rest)?[0] {
            0 => match take::<1>(rest)?[0] {
                0 => return Ok(out),
                0xff => out.push(0),
                _ => return MalformedSnafu.fail(),
            },
            byte => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        Date32Array, Float32Array, Int8Array, Int16Array, Int32Array, Time32MillisecondArray,
    };
    use arrow::datatypes::Field as ArrowField;

    fn hex(column: ArrayRef) -> Vec<String> {
        let rows = column.len();
        let keys = encode(&[column], rows).unwrap();
        (0..rows).map(|row| keys.key(row).iter().map(|byte| format!("{byte:02x}")).collect()).collect()
    }

    #[test]
    fn bytes_are_those_of_encoding_1() {
        let rows = StructArray::from(vec![
            (
                Arc::new(ArrowField::new("a", ArrowType::Int32, true)),
                Arc::new(Int32Array::from(vec![Some(1), None])) as ArrayRef,
            ),
            (
                Arc::new(ArrowField::new("b", ArrowType::Utf8, true)),
                Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef,
            ),
        ]);
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
            Some(vec![Some(1), None]),
            Some(vec![]),
            None,
        ]);
        let one_list: ArrayRef =
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1)])]));
        let row_of_list = StructArray::from(vec![
            (
                Arc::new(ArrowField::new("a", ArrowType::Int32, true)),
                Arc::new(Int32Array::from(vec![1])) as ArrayRef,
            ),
            (Arc::new(ArrowField::new("b", one_list.data_type().clone(), true)), one_list),
        ]);
        let list_of_rows = ListArray::new(
            Arc::new(ArrowField::new("item", rows.data_type().clone(), true)),
            OffsetBuffer::from_lengths([2]),
            Arc::new(rows.clone()),
            None,
        );
        let cases: Vec<(ArrayRef, Vec<&str>)> = vec![
            (Arc::new(row_of_list), vec!["01018000000000000001010101800000000000000100"]),
            (Arc::new(list_of_rows), vec!["010101018000000000000001017800000101000179000000"]),
            (
                Arc::new(StringArray::from(vec![None, Some(""), Some("é"), Some("e\u{301}"), Some("a\0b")])),
                vec!["00", "010000", "01c3a90000", "0165cc810000", "016100ff620000"],
            ),
            (Arc::new(BooleanArray::from(vec![false, true])), vec!["0100", "0101"]),
            (
                Arc::new(Int64Array::from(vec![i64::MIN, -1, 0, 1])),
                vec!["010000000000000000", "017fffffffffffffff", "018000000000000000", "018000000000000001"],
            ),
            (Arc::new(Int32Array::from(vec![-1])), vec!["017fffffffffffffff"]),
            (
                Arc::new(Float64Array::from(vec![-0.0, 0.0, f64::NAN, -f64::NAN, -1.5])),
                vec![
                    "018000000000000000",
                    "018000000000000000",
                    "01fff8000000000000",
                    "01fff8000000000000",
                    "014007ffffffffffff",
                ],
            ),
            (Arc::new(Float32Array::from(vec![-1.5])), vec!["014007ffffffffffff"]),
            (
                Arc::new(Decimal128Array::from(vec![-150]).with_precision_and_scale(10, 2).unwrap()),
                vec!["017fffffffffffffffffffffffffffff6a"],
            ),
            (
                Arc::new(TimestampMillisecondArray::from(vec![-1, 1_500])),
                vec!["017fffffffffffffff3b8b87c0", "0180000000000000011dcd6500"],
            ),
            (Arc::new(TimestampMicrosecondArray::from(vec![1_500_000])), vec!["0180000000000000011dcd6500"]),
            (
                Arc::new(TimestampNanosecondArray::from(vec![-1, 1])),
                vec!["017fffffffffffffff3b9ac9ff", "01800000000000000000000001"],
            ),
            (
                Arc::new(TimestampMillisecondArray::from(vec![1_500]).with_timezone("UTC")),
                vec!["0180000000000000011dcd6500"],
            ),
            (Arc::new(BinaryArray::from(vec![&[0_u8, 255][..], b""])), vec!["0100ffff0000", "010000"]),
            (Arc::new(Int8Array::from(vec![-1])), vec!["017fffffffffffffff"]),
            (Arc::new(Int16Array::from(vec![2])), vec!["018000000000000002"]),
            (Arc::new(Date32Array::from(vec![-1, 19_782])), vec!["017fffffffffffffff", "018000000000004d46"]),
            (Arc::new(Time32MillisecondArray::from(vec![86_399_999])), vec!["018000000005265bff"]),
            (Arc::new(rows), vec!["0101800000000000000101780000", "010001790000"]),
            (Arc::new(lists), vec!["0101018000000000000001010000", "0100", "00"]),
        ];
        for (column, expected) in cases {
            let data_type = column.data_type().clone();

            assert_eq!(hex(column), expected, "{data_type}");
        }
    }

    #[test]
    fn without_columns_there_is_one_key() {
        let keys = encode(&[], 2).unwrap();

        assert_eq!((keys.key(0), keys.key(1)), (&[][..], &[][..]));
    }

    #[test]
    fn decoding_gives_the_columns_back() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(7), None])),
            Arc::new(StringArray::from(vec![Some("a\0"), Some("")])),
            Arc::new(TimestampMillisecondArray::from(vec![Some(-1), None])),
            Arc::new(Decimal128Array::from(vec![Some(-5), None]).with_precision_and_scale(10, 2).unwrap()),
            Arc::new(Float64Array::from(vec![Some(-2.5), Some(3.0)])),
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([
                Some(vec![Some(1), None, Some(-3)]),
                None,
            ])),
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![]), Some(vec![Some(2)])])),
        ];
        let fields: Vec<Field> = columns
            .iter()
            .map(|column| Field::new("k", DataType::from_arrow(column.data_type()).unwrap()))
            .collect();
        let keys = encode(&columns, 2).unwrap();

        let decoded = decode(&fields, (0..2).map(|row| keys.key(row))).unwrap();

        assert_eq!(decoded, columns);
        assert!(decode(&fields, [&b"\x01"[..]].into_iter()).is_err());
    }
}
