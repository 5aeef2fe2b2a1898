//! SQL types as the plan stores them, and how each is held in memory.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{self as arrow_types, DataType as ArrowType, TimeUnit};

/// A column type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DataType {
    #[prost(enumeration = "TypeKind", tag = "1")]
    pub kind: i32,
    /// Digits of a DECIMAL; fraction digits of a time.
    #[prost(uint32, tag = "2")]
    pub precision: u32,
    /// Fraction digits of a DECIMAL.
    #[prost(int32, tag = "3")]
    pub scale: i32,
    /// Fields of a ROW; the element of an ARRAY; key and value of a MAP.
    #[prost(message, repeated, tag = "4")]
    pub fields: Vec<Field>,
}

/// The kinds of SQL types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum TypeKind {
    Unknown = 0,
    Boolean = 1,
    TinyInt = 2,
    SmallInt = 3,
    Int = 4,
    BigInt = 5,
    Float = 6,
    Double = 7,
    Decimal = 8,
    String = 9,
    Bytes = 10,
    Date = 11,
    Time = 12,
    Timestamp = 13,
    TimestampLtz = 14,
    Row = 15,
    Array = 16,
    Interval = 17,
    Null = 18,
    Map = 19,
}

/// A named column or field.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Field {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub data_type: Option<DataType>,
    #[prost(bool, tag = "3")]
    pub nullable: bool,
}

/// The columns of a stream, in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Schema {
    #[prost(message, repeated, tag = "1")]
    pub fields: Vec<Field>,
}

impl DataType {
    /// A type without parameters.
    pub fn simple(kind: TypeKind) -> Self {
        DataType { kind: kind.into(), ..Default::default() }
    }

    /// A type with fraction digits.
    pub fn with_precision(kind: TypeKind, precision: u32) -> Self {
        DataType { kind: kind.into(), precision, ..Default::default() }
    }

    /// DECIMAL(precision, scale).
    pub fn decimal(precision: u32, scale: i32) -> Self {
        DataType { kind: TypeKind::Decimal.into(), precision, scale, ..Default::default() }
    }

    /// How values of this type are held in memory.
    pub fn to_arrow(&self) -> ArrowType {
        match self.kind() {
            TypeKind::Boolean => ArrowType::Boolean,
            TypeKind::TinyInt => ArrowType::Int8,
            TypeKind::SmallInt => ArrowType::Int16,
            TypeKind::Int => ArrowType::Int32,
            TypeKind::BigInt => ArrowType::Int64,
            TypeKind::Float => ArrowType::Float32,
            TypeKind::Double => ArrowType::Float64,
            TypeKind::Decimal => ArrowType::Decimal128(self.precision as u8, self.scale as i8),
            TypeKind::String => ArrowType::Utf8,
            TypeKind::Bytes => ArrowType::Binary,
            TypeKind::Date => ArrowType::Date32,
            TypeKind::Time => ArrowType::Time32(TimeUnit::Millisecond),
            TypeKind::Timestamp => ArrowType::Timestamp(time_unit(self.precision), None),
            TypeKind::TimestampLtz => ArrowType::Timestamp(time_unit(self.precision), Some("UTC".into())),
            TypeKind::Row => ArrowType::Struct(self.fields.iter().map(Field::to_arrow).collect()),
            TypeKind::Array => {
                let element = self.fields.first().cloned().unwrap_or_default();
                ArrowType::List(Arc::new(element.to_arrow()))
            }
            TypeKind::Map => {
                let part = |n: usize| self.fields.get(n).map(Field::data_type).unwrap_or_default().to_arrow();
                map_type(part(0), part(1))
            }
            TypeKind::Interval => ArrowType::Interval(arrow_types::IntervalUnit::MonthDayNano),
            TypeKind::Unknown | TypeKind::Null => ArrowType::Null,
        }
    }

    /// The SQL type of values in memory; `None` for types that no SQL type stands for.
    pub fn from_arrow(arrow: &ArrowType) -> Option<Self> {
        Some(match arrow {
            ArrowType::Null => DataType::simple(TypeKind::Null),
            ArrowType::Boolean => DataType::simple(TypeKind::Boolean),
            ArrowType::Int8 => DataType::simple(TypeKind::TinyInt),
            ArrowType::Int16 => DataType::simple(TypeKind::SmallInt),
            ArrowType::Int32 => DataType::simple(TypeKind::Int),
            ArrowType::Int64 => DataType::simple(TypeKind::BigInt),
            ArrowType::Float32 => DataType::simple(TypeKind::Float),
            ArrowType::Float64 => DataType::simple(TypeKind::Double),
            ArrowType::Decimal128(precision, scale) => {
                DataType::decimal(u32::from(*precision), i32::from(*scale))
            }
            ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View => {
                DataType::simple(TypeKind::String)
            }
            ArrowType::Binary => DataType::simple(TypeKind::Bytes),
            ArrowType::Date32 => DataType::simple(TypeKind::Date),
            ArrowType::Time32(TimeUnit::Millisecond) => DataType::with_precision(TypeKind::Time, 3),
            ArrowType::Timestamp(unit, None) => DataType::with_precision(TypeKind::Timestamp, digits(unit)),
            ArrowType::Timestamp(unit, Some(_)) => {
                DataType::with_precision(TypeKind::TimestampLtz, digits(unit))
            }
            ArrowType::Interval(_) => DataType::simple(TypeKind::Interval),
            ArrowType::Struct(fields) => DataType {
                kind: TypeKind::Row.into(),
                fields: fields.iter().map(|f| Field::from_arrow(f)).collect::<Option<_>>()?,
                ..Default::default()
            },
            ArrowType::List(element) => DataType {
                kind: TypeKind::Array.into(),
                fields: vec![Field::from_arrow(element)?],
                ..Default::default()
            },
            ArrowType::Map(entries, _) => {
                let ArrowType::Struct(fields) = entries.data_type() else { return None };
                DataType {
                    kind: TypeKind::Map.into(),
                    fields: fields.iter().map(|f| Field::from_arrow(f)).collect::<Option<_>>()?,
                    ..Default::default()
                }
            }
            _ => return None,
        })
    }

    /// MAP<key, value>.
    pub fn map(key: DataType, value: DataType) -> Self {
        let fields = vec![Field { nullable: false, ..Field::new("key", key) }, Field::new("value", value)];
        DataType { kind: TypeKind::Map.into(), fields, ..Default::default() }
    }
}

/// How a MAP of these is held in memory.
pub fn map_type(key: ArrowType, value: ArrowType) -> ArrowType {
    let (key, value) =
        (arrow_types::Field::new("key", key, false), arrow_types::Field::new("value", value, true));
    let entries = ArrowType::Struct([Arc::new(key), Arc::new(value)].into_iter().collect());
    ArrowType::Map(Arc::new(arrow_types::Field::new("entries", entries, false)), false)
}

fn time_unit(precision: u32) -> TimeUnit {
    match precision {
        0..=3 => TimeUnit::Millisecond,
        4..=6 => TimeUnit::Microsecond,
        _ => TimeUnit::Nanosecond,
    }
}

fn digits(unit: &TimeUnit) -> u32 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

impl Field {
    /// A nullable column.
    pub fn new(name: impl Into<String>, data_type: DataType) -> Self {
        Field { name: name.into(), data_type: Some(data_type), nullable: true }
    }

    /// The type; a field without one is malformed and counts as NULL.
    pub fn data_type(&self) -> DataType {
        self.data_type.clone().unwrap_or_else(|| DataType::simple(TypeKind::Null))
    }

    /// How the field is held in memory.
    pub fn to_arrow(&self) -> arrow_types::Field {
        arrow_types::Field::new(&self.name, self.data_type().to_arrow(), self.nullable)
    }

    /// The SQL field of one in memory.
    pub fn from_arrow(field: &arrow_types::Field) -> Option<Self> {
        Some(Field {
            name: field.name().clone(),
            data_type: Some(DataType::from_arrow(field.data_type())?),
            nullable: field.is_nullable(),
        })
    }
}

impl Schema {
    /// How rows of this schema are held in memory.
    pub fn to_arrow(&self) -> arrow_types::SchemaRef {
        Arc::new(arrow_types::Schema::new(self.fields.iter().map(Field::to_arrow).collect::<Vec<_>>()))
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            TypeKind::Decimal => write!(f, "DECIMAL({}, {})", self.precision, self.scale),
            TypeKind::Timestamp => write!(f, "TIMESTAMP({})", self.precision),
            TypeKind::TimestampLtz => write!(f, "TIMESTAMP_LTZ({})", self.precision),
            TypeKind::Row => {
                let fields: Vec<_> =
                    self.fields.iter().map(|field| format!("{} {}", field.name, field.data_type())).collect();
                write!(f, "ROW<{}>", fields.join(", "))
            }
            TypeKind::Array => {
                write!(f, "ARRAY<{}>", self.fields.first().map(Field::data_type).unwrap_or_default())
            }
            TypeKind::Map => {
                let part = |n: usize| self.fields.get(n).map(Field::data_type).unwrap_or_default();
                write!(f, "MAP<{}, {}>", part(0), part(1))
            }
            kind => f.write_str(&format!("{kind:?}").to_uppercase()),
        }
    }
}
