//! The dataflow plan: what a job does, independent of parallelism, release and library.
//!
//! The plan is written into every checkpoint manifest and a restart runs the stored one, so its messages only
//! ever grow: tags are never reused, and no type of a library appears in them.

mod expr;
mod matching;
mod secrets;
mod shared;
mod succession;
pub mod text;
mod types;

pub use expr::{Branch, Call, Case, Cast, Expr, FieldAccess, Literal, Node, Value, function};
pub use secrets::NamedSecret;
pub use shared::share;
pub use succession::{Succession, misfit, succeed};
pub use types::{DataType, Field, Schema, TypeKind, map_type};

/// A job's dataflow: operators joined by edges, acyclic, in topological order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Plan {
    #[prost(message, repeated, tag = "1")]
    pub operators: Vec<Operator>,
    #[prost(message, repeated, tag = "2")]
    pub edges: Vec<Edge>,
}

/// One step of the dataflow.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Operator {
    /// Stable across releases, parallelism and cosmetic changes of the SQL: a path of the user's own names.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What comes out of it; for a sink, what goes in.
    #[prost(message, optional, tag = "2")]
    pub output: Option<Schema>,
    #[prost(oneof = "OperatorKind", tags = "3, 4, 5, 6, 7, 8, 9, 10, 12")]
    pub kind: Option<OperatorKind>,
    /// Operators of other INSERTs that would do the same with the same rows: this one does it for them.
    #[prost(message, repeated, tag = "11")]
    pub twins: Vec<Twin>,
}

/// An operator that another one stands for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Twin {
    #[prost(string, tag = "1")]
    pub id: String,
    /// The ids of those that would send it rows, in order.
    #[prost(string, repeated, tag = "2")]
    pub inputs: Vec<String>,
    /// Where it would be among the operators.
    #[prost(uint32, tag = "3")]
    pub place: u32,
}

/// What an operator does.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum OperatorKind {
    #[prost(message, tag = "3")]
    Source(Source),
    #[prost(message, tag = "4")]
    Calc(Calc),
    #[prost(message, tag = "5")]
    LocalAggregate(WindowAggregate),
    #[prost(message, tag = "6")]
    WindowAggregate(WindowAggregate),
    #[prost(message, tag = "7")]
    Sink(Sink),
    #[prost(message, tag = "8")]
    GroupAggregate(GroupAggregate),
    #[prost(message, tag = "9")]
    SessionAggregate(SessionAggregate),
    #[prost(message, tag = "10")]
    ChangelogNormalize(ChangelogNormalize),
    #[prost(message, tag = "12")]
    LocalGroupAggregate(GroupAggregate),
}

/// Reads a table from outside and says how far event time has come. Its output is its leaves.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Source {
    #[prost(message, optional, tag = "1")]
    pub table: Option<Table>,
    /// Which leaves of the table's physical columns are read, in the order of the connector's output.
    #[prost(message, repeated, tag = "2")]
    pub leaves: Vec<Leaf>,
    /// The watermark that a row carries, over the leaves; absent for tables without event time.
    #[prost(message, optional, tag = "3")]
    pub watermark: Option<Expr>,
}

/// A physical column, or a field inside of a ROW column, that a source delivers as a column of its own.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Leaf {
    /// Names from the column inwards.
    #[prost(string, repeated, tag = "1")]
    pub path: Vec<String>,
    #[prost(message, optional, tag = "2")]
    pub data_type: Option<DataType>,
    #[prost(bool, tag = "3")]
    pub nullable: bool,
    /// If it is no column of the record: what the connector knows of it, by its key in [`crate::metadata`].
    #[prost(string, tag = "4")]
    pub metadata: String,
}

/// A table of the user's, as CREATE TABLE declared it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Table {
    #[prost(string, tag = "1")]
    pub name: String,
    /// Physical columns only.
    #[prost(message, optional, tag = "2")]
    pub schema: Option<Schema>,
    /// The WITH options, ordered by key.
    #[prost(btree_map = "string, string", tag = "3")]
    pub options: std::collections::BTreeMap<String, String>,
    /// Columns that tell its rows apart, if it has such.
    #[prost(string, repeated, tag = "4")]
    pub primary_key: Vec<String>,
    /// Columns that a source fills with what it knows of each record.
    #[prost(message, repeated, tag = "5")]
    pub metadata: Vec<MetadataColumn>,
    /// Columns by whose values files are put into folders.
    #[prost(string, repeated, tag = "6")]
    pub partitioned_by: Vec<String>,
}

/// A METADATA column, in the type that the connector gives it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetadataColumn {
    #[prost(message, optional, tag = "1")]
    pub field: Option<Field>,
    /// Its name in [`crate::metadata`].
    #[prost(string, tag = "2")]
    pub key: String,
}

impl Table {
    /// All columns that a source gives, in order: the physical ones, then the metadata.
    pub fn given_fields(&self) -> Vec<Field> {
        let physical = self.schema.iter().flat_map(|schema| schema.fields.iter().cloned());
        physical.chain(self.metadata.iter().filter_map(|column| column.field.clone())).collect()
    }

    /// Positions of the primary key's columns.
    pub fn key_columns(&self) -> Vec<usize> {
        let fields = self.schema.as_ref().map_or(&[][..], |schema| schema.fields.as_slice());
        let position = |name: &String| fields.iter().position(|field| field.name == *name);
        self.primary_key.iter().filter_map(position).collect()
    }
}

/// Filter, then projection, over one batch at a time.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Calc {
    #[prost(message, optional, tag = "1")]
    pub filter: Option<Expr>,
    #[prost(message, repeated, tag = "2")]
    pub output: Vec<Expr>,
}

/// Aggregates per key and event-time window. As local half it reduces rows to partial states per key and
/// slice; as global half it merges those and fires windows when the watermark has passed their end.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WindowAggregate {
    /// Input columns that form the key.
    #[prost(uint32, repeated, tag = "1")]
    pub keys: Vec<u32>,
    /// Input column with the event time, a TIMESTAMP(3).
    #[prost(uint32, tag = "2")]
    pub time: u32,
    #[prost(message, optional, tag = "3")]
    pub window: Option<Window>,
    #[prost(message, repeated, tag = "4")]
    pub aggregates: Vec<Aggregate>,
    /// Names and types of the key columns.
    #[prost(message, repeated, tag = "5")]
    pub key_fields: Vec<Field>,
    /// Columns of which the distinct values count. The local half has them among its keys, too, behind all others; to the global
    /// half they come behind its keys, and an aggregate of distinct values names its column by the position here.
    #[prost(message, repeated, tag = "6")]
    pub distinct_fields: Vec<Field>,
    /// Column of the partial states that counts the rows behind each: so many are late if it is. In plans of earlier releases there
    /// is none, and a partial state counts as one row.
    #[prost(uint32, optional, tag = "7")]
    pub rows_column: Option<u32>,
}

/// Aggregates per key and session: rows of a key with no longer gap than this between their times.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SessionAggregate {
    /// Input columns that form the key.
    #[prost(uint32, repeated, tag = "1")]
    pub keys: Vec<u32>,
    /// Input column with the event time, a TIMESTAMP(3).
    #[prost(uint32, tag = "2")]
    pub time: u32,
    #[prost(int64, tag = "3")]
    pub gap_ms: i64,
    #[prost(message, repeated, tag = "4")]
    pub aggregates: Vec<Aggregate>,
    /// Names and types of the key columns.
    #[prost(message, repeated, tag = "5")]
    pub key_fields: Vec<Field>,
}

/// Aggregates per key over all rows so far; a result that changes is taken back and given anew. As local half it adds rows up before
/// the exchange.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GroupAggregate {
    /// Input columns that form the key.
    #[prost(uint32, repeated, tag = "1")]
    pub keys: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    pub aggregates: Vec<Aggregate>,
    /// Names and types of the key columns.
    #[prost(message, repeated, tag = "3")]
    pub key_fields: Vec<Field>,
    /// What comes are partial states of local halves, and the columns of aggregates are those of what the halves read.
    #[prost(bool, tag = "4")]
    pub takes_states: bool,
}

/// Makes changes of rows that each take the place of the one before with their key, or take it away.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChangelogNormalize {
    /// Input columns that form the key.
    #[prost(uint32, repeated, tag = "1")]
    pub keys: Vec<u32>,
    /// All input columns but the last, which says whether a row only takes the one of its key away.
    #[prost(message, repeated, tag = "2")]
    pub fields: Vec<Field>,
}

/// How event time is cut into windows. All in milliseconds; a tumbling window slides by its size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Window {
    /// For cumulating windows the size of the longest one.
    #[prost(int64, tag = "1")]
    pub size_ms: i64,
    /// From one window's end to the next one's.
    #[prost(int64, tag = "2")]
    pub slide_ms: i64,
    #[prost(int64, tag = "3")]
    pub offset_ms: i64,
    /// Windows begin every `size_ms` only, and several of them together, one for each end.
    #[prost(bool, tag = "4")]
    pub is_cumulating: bool,
}

/// One aggregate call over an input column.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Aggregate {
    #[prost(enumeration = "AggregateFunction", tag = "1")]
    pub function: i32,
    /// Absent for COUNT(*).
    #[prost(uint32, optional, tag = "2")]
    pub argument: Option<u32>,
    #[prost(message, optional, tag = "3")]
    pub argument_type: Option<DataType>,
    #[prost(message, optional, tag = "4")]
    pub result_type: Option<DataType>,
    /// A boolean input column: only rows where it is true count.
    #[prost(uint32, optional, tag = "5")]
    pub filter: Option<u32>,
    /// Equal arguments count once.
    #[prost(bool, tag = "6")]
    pub is_distinct: bool,
    /// What stands between the texts of LISTAGG.
    #[prost(string, tag = "7")]
    pub separator: String,
    /// Its rows are taken back later, and it shows one or all of them: it must know each.
    #[prost(bool, tag = "8")]
    pub is_changing: bool,
}

/// Aggregate functions with a state layout of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum AggregateFunction {
    Unknown = 0,
    Count = 1,
    Sum = 2,
    Min = 3,
    Max = 4,
    Avg = 5,
    /// Of values other than NULL, in the order in which rows come.
    FirstValue = 6,
    LastValue = 7,
    /// Texts behind each other, with the separator between them.
    ListAgg = 8,
}

impl AggregateFunction {
    /// Its name in SQL.
    pub fn sql_name(self) -> &'static str {
        match self {
            AggregateFunction::Unknown => "?",
            AggregateFunction::Count => "COUNT",
            AggregateFunction::Sum => "SUM",
            AggregateFunction::Min => "MIN",
            AggregateFunction::Max => "MAX",
            AggregateFunction::Avg => "AVG",
            AggregateFunction::FirstValue => "FIRST_VALUE",
            AggregateFunction::LastValue => "LAST_VALUE",
            AggregateFunction::ListAgg => "LISTAGG",
        }
    }

    /// True if a row that was added can be taken out again.
    pub fn takes_back(self) -> bool {
        matches!(self, AggregateFunction::Count | AggregateFunction::Sum | AggregateFunction::Avg)
    }

    /// True if the result depends on which row came first.
    pub fn minds_order(self) -> bool {
        use AggregateFunction::{FirstValue, LastValue, ListAgg};
        matches!(self, FirstValue | LastValue | ListAgg)
    }
}

/// Writes a table outside.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sink {
    #[prost(message, optional, tag = "1")]
    pub table: Option<Table>,
}

/// Rows travel along an edge from one operator to the next.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Edge {
    /// Index of the operator that sends.
    #[prost(uint32, tag = "1")]
    pub from: u32,
    /// Index of the operator that receives.
    #[prost(uint32, tag = "2")]
    pub to: u32,
    /// Columns whose key group chooses the receiver. Unset: to the subtask of the same number.
    #[prost(message, optional, tag = "3")]
    pub hash: Option<HashKeys>,
    /// The id of the sender's twin whose rows they would be, if it is one's.
    #[prost(string, tag = "4")]
    pub twin: String,
}

/// The columns that rows are partitioned by. Without a column all rows go to one subtask.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HashKeys {
    #[prost(uint32, repeated, tag = "1")]
    pub columns: Vec<u32>,
}

impl Aggregate {
    /// COUNT(*).
    pub fn count_of_rows() -> Self {
        Aggregate {
            function: AggregateFunction::Count.into(),
            result_type: Some(DataType::simple(TypeKind::BigInt)),
            ..Default::default()
        }
    }

    /// Types of the columns that hold the aggregate's state per key and slice.
    ///
    /// Part of the state's format: a change is a new aggregate function number.
    pub fn state_types(&self) -> Vec<DataType> {
        let count = DataType::simple(TypeKind::BigInt);
        let argument = self.argument_type.clone().unwrap_or_default();
        match self.function() {
            AggregateFunction::Unknown => Vec::new(),
            AggregateFunction::Count => vec![count],
            AggregateFunction::Sum | AggregateFunction::Avg => vec![sum_type(&argument), count],
            AggregateFunction::Min
            | AggregateFunction::Max
            | AggregateFunction::FirstValue
            | AggregateFunction::LastValue
            | AggregateFunction::ListAgg => vec![argument],
        }
    }
}

/// Sums are kept as wide as their family goes.
fn sum_type(argument: &DataType) -> DataType {
    match argument.kind() {
        TypeKind::Decimal => DataType::decimal(38, argument.scale),
        TypeKind::Float | TypeKind::Double => DataType::simple(TypeKind::Double),
        _ => DataType::simple(TypeKind::BigInt),
    }
}

impl WindowAggregate {
    /// What the local half sends to the global one: end of the slice in milliseconds, keys, states, and rows unless one of the
    /// states counts them.
    pub fn partial_schema(&self) -> Schema {
        let mut fields = self.slices_keys_and_states();
        if self.counts_rows_apart() {
            fields.push(Field::new("rows", DataType::simple(TypeKind::BigInt)));
        }
        Schema { fields }
    }

    /// True if no aggregate of the local half counts the rows, and they are counted in a column behind those of all states.
    pub fn counts_rows_apart(&self) -> bool {
        self.rows_column == Some(self.slices_keys_and_states().len() as u32)
    }

    /// The local half's column that counts rows: the state of a COUNT(*), or else one of its own behind all others.
    pub fn column_of_rows(&self) -> u32 {
        let first = 1 + self.key_fields.len();
        let counts = |aggregate: &Aggregate| {
            let takes_all = aggregate.argument.is_none() && aggregate.filter.is_none();
            takes_all && !aggregate.is_distinct && aggregate.function() == AggregateFunction::Count
        };
        let before = self.aggregates.iter().take_while(|aggregate| !counts(aggregate));
        (first + before.map(|aggregate| aggregate.state_types().len()).sum::<usize>()) as u32
    }

    fn slices_keys_and_states(&self) -> Vec<Field> {
        let mut fields =
            vec![Field { nullable: false, ..Field::new("slice_end", DataType::simple(TypeKind::BigInt)) }];
        fields.extend(self.key_fields.iter().cloned());
        fields.extend(state_fields(&self.aggregates));
        fields
    }

    /// What the global half emits: keys, window_start, window_end, window_time, results.
    pub fn output_schema(&self) -> Schema {
        let fields = self.key_fields.iter().cloned().chain(window_fields());
        Schema { fields: fields.chain(result_fields(&self.aggregates)).collect() }
    }
}

impl SessionAggregate {
    /// What it emits: keys, window_start, window_end, window_time, results.
    pub fn output_schema(&self) -> Schema {
        let fields = self.key_fields.iter().cloned().chain(window_fields());
        Schema { fields: fields.chain(result_fields(&self.aggregates)).collect() }
    }
}

impl GroupAggregate {
    /// What a local half gives: keys, how many rows came and were not taken back, and the states of the aggregates.
    pub fn partial_schema(&self) -> Schema {
        let rows = Field { nullable: false, ..Field::new("rows", DataType::simple(TypeKind::BigInt)) };
        let states = state_fields(&self.aggregates);
        Schema { fields: self.key_fields.iter().cloned().chain([rows]).chain(states).collect() }
    }

    /// What it emits: keys, results.
    pub fn output_schema(&self) -> Schema {
        let fields = self.key_fields.iter().cloned().chain(result_fields(&self.aggregates));
        Schema { fields: fields.collect() }
    }
}

impl ChangelogNormalize {
    /// What it emits.
    pub fn output_schema(&self) -> Schema {
        Schema { fields: self.fields.clone() }
    }
}

fn window_fields() -> impl Iterator<Item = Field> {
    let time = DataType::with_precision(TypeKind::Timestamp, 3);
    let names = ["window_start", "window_end", "window_time"].into_iter();
    names.map(move |name| Field { nullable: false, ..Field::new(name, time.clone()) })
}

fn state_fields(aggregates: &[Aggregate]) -> impl Iterator<Item = Field> {
    aggregates.iter().enumerate().flat_map(|(number, aggregate)| {
        let types = aggregate.state_types().into_iter().enumerate();
        types.map(move |(part, data_type)| Field::new(format!("state_{number}_{part}"), data_type))
    })
}

fn result_fields(aggregates: &[Aggregate]) -> impl Iterator<Item = Field> {
    aggregates.iter().enumerate().map(|(number, aggregate)| {
        let result = aggregate.result_type.clone().unwrap_or_default();
        let nullable = aggregate.function() != AggregateFunction::Count;
        Field { nullable, ..Field::new(format!("result_{number}"), result) }
    })
}

impl Window {
    /// Windows are sums of slices of this length.
    pub fn slice_ms(&self) -> i64 {
        let (mut a, mut b) = (self.size_ms, self.slide_ms);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    }

    /// End of the slice that a time falls into.
    pub fn slice_end(&self, time_ms: i64) -> i64 {
        let slice = self.slice_ms();
        let shifted = time_ms - self.offset_ms;
        shifted - shifted.rem_euclid(slice) + slice + self.offset_ms
    }

    /// Start of the window that ends then.
    pub fn window_start(&self, window_end: i64) -> i64 {
        if self.is_cumulating {
            let last = window_end - 1;
            return last - (last - self.offset_ms).rem_euclid(self.size_ms);
        }
        window_end - self.size_ms
    }

    /// Ends of the windows that a slice belongs to, earliest first.
    pub fn window_ends(&self, slice_end: i64) -> impl Iterator<Item = i64> + use<> {
        let Window { size_ms, slide_ms, offset_ms, is_cumulating } = *self;
        let start = slice_end - self.slice_ms();
        // The last window that begins at or before the slice begins here.
        let begins_every = if is_cumulating { size_ms } else { slide_ms };
        let last = start - (start - offset_ms).rem_euclid(begins_every) + size_ms;
        let count = (last - slice_end) / slide_ms;
        (0..=count).rev().map(move |n| last - n * slide_ms)
    }
}

impl Plan {
    /// Edges that end at an operator.
    pub fn inputs(&self, operator: usize) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.to as usize == operator)
    }

    /// Edges that start at an operator.
    pub fn outputs(&self, operator: usize) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.from as usize == operator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_belongs_to_every_window_that_covers_it() {
        type Case = ((i64, i64, i64), i64, i64, &'static [i64]);
        let sliding: &[Case] = &[
            // (size, slide, offset), time, end of its slice, ends of its windows
            ((10, 10, 0), 0, 10, &[10]),
            ((10, 10, 0), 9, 10, &[10]),
            ((10, 10, 0), -1, 0, &[0]),
            ((10, 10, 3), 2, 3, &[3]),
            ((10, 2, 0), 5, 6, &[6, 8, 10, 12, 14]),
            ((10, 2, 0), -1, 0, &[0, 2, 4, 6, 8]),
            ((10, 4, 0), 5, 6, &[6, 10, 14]),
            ((10, 4, 0), 9, 10, &[10, 14, 18]),
            ((10, 4, 1), 5, 7, &[7, 11, 15]),
        ];
        let cumulating: &[Case] = &[
            ((20, 5, 0), 0, 5, &[5, 10, 15, 20]),
            ((20, 5, 0), 14, 15, &[15, 20]),
            ((20, 5, 0), 19, 20, &[20]),
            ((20, 5, 0), 20, 25, &[25, 30, 35, 40]),
            ((20, 5, 0), -1, 0, &[0]),
            ((20, 5, 3), 2, 3, &[3]),
            ((20, 5, 3), 3, 8, &[8, 13, 18, 23]),
            ((10, 10, 0), 3, 10, &[10]),
        ];
        let cases =
            sliding.iter().map(|case| (case, false)).chain(cumulating.iter().map(|case| (case, true)));
        for (((size_ms, slide_ms, offset_ms), time, slice_end, ends), is_cumulating) in cases {
            let window =
                Window { size_ms: *size_ms, slide_ms: *slide_ms, offset_ms: *offset_ms, is_cumulating };

            assert_eq!(window.slice_end(*time), *slice_end, "{window:?} at {time}");
            assert_eq!(window.window_ends(*slice_end).collect::<Vec<_>>(), *ends, "{window:?} at {time}");
            for end in *ends {
                let start = window.window_start(*end);
                assert!((start..*end).contains(time), "{window:?} at {time}: {start} to {end}");
            }
        }
    }
}
