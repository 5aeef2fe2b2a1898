//! What METADATA columns say of the records that are written. Pure.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampMillisecondType};
use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use super::{Record, Said, not_writable};
use crate::sink::SinkError;

/// Adds what a column says, a row a record. NULL says nothing: the time is that of writing, and there are no headers.
pub fn say(said: Said, column: &ArrayRef, records: &mut [Record]) -> Result<(), SinkError> {
    match said {
        Said::Timestamp => {
            let times =
                cast(column, &DataType::Timestamp(TimeUnit::Millisecond, None)).map_err(not_writable)?;
            let times = times.as_primitive::<TimestampMillisecondType>();
            for (record, time) in records.iter_mut().zip(times) {
                record.about.timestamp = time;
            }
        }
        Said::Headers => {
            let maps = column.as_map();
            let (names, values) = (maps.keys().as_string::<i32>(), maps.values().as_binary::<i32>());
            for (row, record) in records.iter_mut().enumerate().filter(|(row, _)| maps.is_valid(*row)) {
                let entries = maps.value_offsets()[row] as usize..maps.value_offsets()[row + 1] as usize;
                let header = |entry: usize| {
                    let value = values.is_valid(entry).then(|| Bytes::copy_from_slice(values.value(entry)));
                    (StrBytes::from_string(names.value(entry).to_owned()), value)
                };
                record.about.headers = entries.map(header).collect();
            }
        }
    }
    Ok(())
}
