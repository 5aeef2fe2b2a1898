//! Flink's `parquet` format: files of columns, which only connectors of files have. How rows are written; reading is the source's.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use std::sync::Arc;

use crate::options::{OptionError, TableOptions};

/// Rows are held in memory until they come to so much.
const GROUP_BYTES: usize = 32 << 20;

/// How files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParquetStyle {
    compression: Compression,
}

impl ParquetStyle {
    /// Reads the options of the format. Files are compressed with Snappy by default, as Flink's.
    pub fn new(options: &mut TableOptions<'_>) -> Result<Self, OptionError> {
        const COMPRESSION: &str = "parquet.compression";
        let compression = match options.optional(COMPRESSION).as_deref() {
            None | Some("SNAPPY") => Compression::SNAPPY,
            Some("UNCOMPRESSED") => Compression::UNCOMPRESSED,
            Some("GZIP") => Compression::GZIP(GzipLevel::default()),
            Some("ZSTD") => Compression::ZSTD(ZstdLevel::default()),
            Some("LZ4_RAW") => Compression::LZ4_RAW,
            Some(_) => return Err(options.wrong(COMPRESSION, "is not supported")),
        };
        Ok(ParquetStyle { compression })
    }

    /// An encoder of one file.
    ///
    /// # Errors
    /// If the format has no values of a column's type.
    pub fn encoder(&self, schema: &Schema) -> Result<ParquetEncoder, ParquetError> {
        let properties = WriterProperties::builder()
            .set_compression(self.compression)
            .set_max_row_group_bytes(Some(GROUP_BYTES))
            // Lists and maps have the names of the format's specification.
            .set_coerce_types(true)
            .build();
        // Types are those that every reader of Parquet knows.
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true)
            .with_schema_root("schema".to_owned());
        Ok(ParquetEncoder {
            writer: ArrowWriter::try_new_with_options(Vec::new(), Arc::new(schema.clone()), options)?,
        })
    }
}

/// Encodes the rows of one file. What is ready to be written is handed out as it comes.
pub struct ParquetEncoder {
    writer: ArrowWriter<Vec<u8>>,
}

impl ParquetEncoder {
    /// Takes rows, and appends what is ready.
    pub fn encode(&mut self, records: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ParquetError> {
        self.writer.write(records)?;
        self.give(out);
        Ok(())
    }

    /// Appends all rows so far.
    pub fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), ParquetError> {
        self.writer.flush()?;
        self.give(out);
        Ok(())
    }

    /// Appends all rows and what ends the file.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), ParquetError> {
        self.writer.finish()?;
        self.give(out);
        Ok(())
    }

    /// Bytes of memory for rows that were not handed out.
    pub fn held(&self) -> usize {
        self.writer.memory_size()
    }

    /// How many bytes those rows will be in the file, about.
    pub fn pending(&self) -> usize {
        self.writer.in_progress_size()
    }

    /// The writer counts its bytes by itself, so that what it has written can be taken away.
    fn give(&mut self, out: &mut Vec<u8>) {
        out.append(self.writer.inner_mut());
    }
}
