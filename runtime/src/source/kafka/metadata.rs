//! What Kafka says of a record besides its value.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanArray, Int32Array, Int64Array, MapBuilder, MapFieldNames, StringArray,
    StringBuilder, TimestampMillisecondArray,
};
use arrow::compute::take;
use kafka_protocol::records::{NO_PARTITION_LEADER_EPOCH, Record, TimestampType};

use millrace_sql::metadata;

use super::super::SourceError;

/// What is kept of records while they are decoded.
#[derive(Debug, Default)]
pub struct Metadata {
    rows: Vec<Row>,
    /// Headers are as good as any value in size: they are kept only if they are read.
    keeps_headers: bool,
}

#[derive(Debug)]
struct Row {
    offset: i64,
    timestamp: i64,
    timestamp_type: TimestampType,
    leader_epoch: i32,
    headers: Vec<(String, Option<Vec<u8>>)>,
    is_removed: bool,
}

impl Metadata {
    /// For records of which these are read.
    pub fn new(keys: &[String]) -> Self {
        Metadata { rows: Vec::new(), keeps_headers: keys.iter().any(|key| key == "headers") }
    }

    /// Adds a record.
    pub fn push(&mut self, record: &Record) {
        let header = |(name, value): (&kafka_protocol::protocol::StrBytes, &Option<bytes::Bytes>)| {
            (name.to_string(), value.as_ref().map(|value| value.to_vec()))
        };
        self.rows.push(Row {
            offset: record.offset,
            timestamp: record.timestamp,
            timestamp_type: record.timestamp_type,
            leader_epoch: record.partition_leader_epoch,
            is_removed: record.value.is_none(),
            headers: if self.keeps_headers {
                record.headers.iter().map(header).collect()
            } else {
                Vec::new()
            },
        });
    }

    /// The columns of these keys for the records that became rows; `None`: all of them.
    pub fn columns(
        &self,
        keys: &[String],
        topic: &str,
        partition: i32,
        kept: Option<&arrow::array::UInt32Array>,
    ) -> Result<Vec<ArrayRef>, SourceError> {
        let column = |key: &String| {
            let column = self.column(key, topic, partition)?;
            match kept {
                Some(kept) => take(&column, kept, None).map_err(|error| error.to_string()),
                None => Ok(column),
            }
        };
        let columns: Result<_, String> = keys.iter().map(column).collect();
        columns.map_err(|message| SourceError::Data { message })
    }

    fn column(&self, key: &str, topic: &str, partition: i32) -> Result<ArrayRef, String> {
        let rows = self.rows.iter();
        Ok(match key {
            "topic" => Arc::new(rows.map(|_| Some(topic)).collect::<StringArray>()),
            "partition" => Arc::new(rows.map(|_| Some(partition)).collect::<Int32Array>()),
            "offset" => Arc::new(rows.map(|row| Some(row.offset)).collect::<Int64Array>()),
            "timestamp" => {
                let times = rows.map(|row| Some(row.timestamp)).collect::<TimestampMillisecondArray>();
                Arc::new(times.with_timezone("UTC"))
            }
            "timestamp-type" => Arc::new(rows.map(|row| Some(type_name(row))).collect::<StringArray>()),
            "leader-epoch" => {
                let epoch =
                    |row: &Row| Some(row.leader_epoch).filter(|epoch| *epoch != NO_PARTITION_LEADER_EPOCH);
                Arc::new(rows.map(epoch).collect::<Int32Array>())
            }
            metadata::IS_REMOVED => Arc::new(rows.map(|row| Some(row.is_removed)).collect::<BooleanArray>()),
            "headers" => self.headers().map_err(|error| error.to_string())?,
            _ => return Err(format!("Kafka has no metadata '{key}'")),
        })
    }

    fn headers(&self) -> Result<ArrayRef, arrow::error::ArrowError> {
        let names =
            MapFieldNames { entry: "entries".to_owned(), key: "key".to_owned(), value: "value".to_owned() };
        let mut maps = MapBuilder::new(Some(names), StringBuilder::new(), BinaryBuilder::new());
        for row in &self.rows {
            for (name, value) in &row.headers {
                maps.keys().append_value(name);
                maps.values().append_option(value.as_deref());
            }
            maps.append(true)?;
        }
        Ok(Arc::new(maps.finish()))
    }
}

/// As Flink spells it.
fn type_name(row: &Row) -> &'static str {
    match row.timestamp_type {
        _ if row.timestamp < 0 => "NoTimestampType",
        TimestampType::Creation => "CreateTime",
        TimestampType::LogAppend => "LogAppendTime",
    }
}
