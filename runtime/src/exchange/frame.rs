//! The wire form of elements: `u32 length, u32 channel, u8 kind, u8 flags, u32 crc32c, body`, little-endian.
//!
//! `length` counts what follows it. The checksum covers the body. A batch's body is an Arrow IPC record batch without
//! its schema, which both ends know from the plan, and the hashes of its rows.

use std::collections::HashMap;
use std::io;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use arrow::ipc::{MetadataVersion, reader, root_as_message};
use prost::Message;
use snafu::{OptionExt, ResultExt, Snafu, ensure};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::model::{Barrier, Batch, Element, Epoch, EventTime, RowKind};

/// Frames above this are refused: no batch is that large, so the stream is broken.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// Channel, kind, flags, checksum.
const HEADER_BYTES: usize = 4 + 1 + 1 + 4;

const HAS_HASHES: u8 = 1;
const HAS_KINDS: u8 = 2;

/// A frame could not be read or written.
#[derive(Debug, Snafu)]
pub enum FrameError {
    #[snafu(display("the connection broke"))]
    Read { source: io::Error },
    #[snafu(display("a frame of {bytes} bytes"))]
    Length { bytes: usize },
    #[snafu(display("a frame of channel {channel} does not have its checksum"))]
    Checksum { channel: u32 },
    #[snafu(display("a frame of kind {kind} is malformed"))]
    Malformed { kind: u8 },
    #[snafu(display("a batch could not be decoded"))]
    Decode { source: ArrowError },
    #[snafu(display("a batch could not be encoded"))]
    Encode { source: ArrowError },
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    Batch = 1,
    Watermark = 2,
    Barrier = 3,
    Idle = 4,
    Active = 5,
    /// Bytes that the consumer has taken.
    Credit = 6,
    /// First frame of a connection.
    Handshake = 7,
}

/// A frame as read.
#[derive(Debug)]
pub struct Frame {
    pub channel: u32,
    pub kind: u8,
    pub flags: u8,
    pub body: Vec<u8>,
}

/// Who connects to whom. Any mismatch closes the connection: pod addresses are reused by other jobs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Handshake {
    #[prost(fixed64, tag = "1")]
    pub magic: u64,
    #[prost(uint32, tag = "2")]
    pub protocol: u32,
    #[prost(string, tag = "3")]
    pub job_uid: String,
    #[prost(uint64, tag = "4")]
    pub generation: u64,
    #[prost(uint32, tag = "5")]
    pub from: u32,
    #[prost(uint32, tag = "6")]
    pub to: u32,
}

/// `millrace`.
pub const MAGIC: u64 = u64::from_be_bytes(*b"millrace");
/// Version of this wire form.
pub const PROTOCOL_VERSION: u32 = 1;

/// Builds the bytes of a frame.
pub fn encode(channel: u32, kind: FrameKind, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + HEADER_BYTES + body.len());
    out.extend(((HEADER_BYTES + body.len()) as u32).to_le_bytes());
    out.extend(channel.to_le_bytes());
    out.extend([kind as u8, flags]);
    out.extend(crc32c::crc32c(body).to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// Builds the bytes of the first frame of a connection.
pub fn encode_handshake(handshake: &Handshake) -> Vec<u8> {
    encode(0, FrameKind::Handshake, 0, &handshake.encode_to_vec())
}

/// Builds the bytes of a credit.
pub fn encode_credit(channel: u32, bytes: u64) -> Vec<u8> {
    encode(channel, FrameKind::Credit, 0, &bytes.to_le_bytes())
}

/// Builds the bytes of an element.
pub fn encode_element(channel: u32, element: &Element) -> Result<Vec<u8>, FrameError> {
    Ok(match element {
        Element::Batch(batch) => {
            let (flags, body) = encode_batch(batch).context(EncodeSnafu)?;
            encode(channel, FrameKind::Batch, flags, &body)
        }
        Element::Watermark(time) => encode(channel, FrameKind::Watermark, 0, &time.0.to_le_bytes()),
        Element::Barrier(barrier) => encode(channel, FrameKind::Barrier, 0, &barrier.epoch.0.to_le_bytes()),
        Element::Idle => encode(channel, FrameKind::Idle, 0, &[]),
        Element::Active => encode(channel, FrameKind::Active, 0, &[]),
    })
}

fn encode_batch(batch: &Batch) -> Result<(u8, Vec<u8>), ArrowError> {
    let mut dictionaries = DictionaryTracker::new(false);
    let options = IpcWriteOptions::default();
    let generator = IpcDataGenerator::default();
    let (_, encoded) =
        generator.encode(&batch.records, &mut dictionaries, &options, &mut Default::default())?;
    let hashes = batch.hashes.as_deref().unwrap_or(&[]);
    let mut body =
        Vec::with_capacity(8 + encoded.ipc_message.len() + encoded.arrow_data.len() + hashes.len() * 8);
    body.extend((encoded.ipc_message.len() as u32).to_le_bytes());
    body.extend((encoded.arrow_data.len() as u32).to_le_bytes());
    body.extend_from_slice(&encoded.ipc_message);
    body.extend_from_slice(&encoded.arrow_data);
    hashes.iter().for_each(|hash| body.extend(hash.to_le_bytes()));
    body.extend(batch.kinds.iter().flat_map(|kinds| kinds.iter()).map(|kind| *kind as u8));
    let has = |is_there, flag| if is_there { flag } else { 0 };
    Ok((has(batch.hashes.is_some(), HAS_HASHES) | has(batch.kinds.is_some(), HAS_KINDS), body))
}

/// Reads the next frame and checks it.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Frame, FrameError> {
    let length = stream.read_u32_le().await.context(ReadSnafu)? as usize;
    ensure!((HEADER_BYTES..=FRAME_BYTES_MAX).contains(&length), LengthSnafu { bytes: length });
    let channel = stream.read_u32_le().await.context(ReadSnafu)?;
    let kind = stream.read_u8().await.context(ReadSnafu)?;
    let flags = stream.read_u8().await.context(ReadSnafu)?;
    let crc = stream.read_u32_le().await.context(ReadSnafu)?;
    let mut body = vec![0; length - HEADER_BYTES];
    stream.read_exact(&mut body).await.context(ReadSnafu)?;
    ensure!(crc32c::crc32c(&body) == crc, ChecksumSnafu { channel });
    Ok(Frame { channel, kind, flags, body })
}

impl Frame {
    /// The handshake, if this is one.
    pub fn handshake(&self) -> Option<Handshake> {
        (self.kind == FrameKind::Handshake as u8)
            .then(|| Handshake::decode(self.body.as_slice()).ok())
            .flatten()
    }

    /// The credit in bytes, if this is one.
    pub fn credit(&self) -> Option<u64> {
        (self.kind == FrameKind::Credit as u8).then(|| number(&self.body)).flatten()
    }

    /// The element; batches have this schema.
    pub fn element(self, schema: &SchemaRef) -> Result<Element, FrameError> {
        let kind = self.kind;
        let malformed = MalformedSnafu { kind };
        Ok(match kind {
            kind if kind == FrameKind::Batch as u8 => {
                Element::Batch(decode_batch(self.flags, self.body, schema)?)
            }
            kind if kind == FrameKind::Watermark as u8 => {
                Element::Watermark(EventTime(number(&self.body).context(malformed)? as i64))
            }
            kind if kind == FrameKind::Barrier as u8 => {
                Element::Barrier(Barrier { epoch: Epoch(number(&self.body).context(malformed)?) })
            }
            kind if kind == FrameKind::Idle as u8 => Element::Idle,
            kind if kind == FrameKind::Active as u8 => Element::Active,
            _ => return malformed.fail(),
        })
    }
}

fn number(body: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(body.try_into().ok()?))
}

fn decode_batch(flags: u8, body: Vec<u8>, schema: &SchemaRef) -> Result<Batch, FrameError> {
    let malformed = MalformedSnafu { kind: FrameKind::Batch as u8 };
    let length = |at: usize| -> Option<usize> {
        Some(u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?) as usize)
    };
    let message_end = 8 + length(0).context(malformed)?;
    let data_end = message_end + length(4).context(malformed)?;
    ensure!(data_end <= body.len(), MalformedSnafu { kind: FrameKind::Batch as u8 });
    let body = Buffer::from_vec(body);
    let message = root_as_message(&body[8..message_end]).ok().context(malformed)?;
    let header = message.header_as_record_batch().context(malformed)?;
    let data = body.slice_with_length(message_end, data_end - message_end);
    let records: RecordBatch =
        reader::read_record_batch(&data, header, schema.clone(), &HashMap::new(), None, &MetadataVersion::V5)
            .context(DecodeSnafu)?;
    let rows = records.num_rows();
    let mut rest = &body[data_end..];
    let mut part = |flag: u8, bytes: usize| -> Option<Option<&[u8]>> {
        if flags & flag == 0 {
            return Some(None);
        }
        let (part, tail) = rest.split_at_checked(bytes)?;
        rest = tail;
        Some(Some(part))
    };
    let hashes = part(HAS_HASHES, rows * 8).context(malformed)?;
    let kinds = part(HAS_KINDS, rows).context(malformed)?;
    let number = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().unwrap_or_default());
    let hashes = hashes.map(|bytes| bytes.chunks_exact(8).map(number).collect());
    let kinds = kinds.map(|bytes| bytes.iter().map(|kind| RowKind::of(*kind)).collect::<Option<_>>());
    let kinds = kinds.map(|kinds| kinds.context(malformed)).transpose()?;
    Ok(Batch { records, kinds, hashes })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    fn batch() -> Batch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("a", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
            ("b", Arc::new(StringArray::from(vec!["x", "", "long enough"]))),
        ];
        let records =
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        let kinds = Some(Arc::from([RowKind::UpdateBefore, RowKind::UpdateAfter]));
        Batch { records: records.slice(1, 2), kinds, hashes: Some(Arc::from([7, 8])) }
    }

    #[tokio::test]
    async fn a_batch_comes_out_as_it_went_in() {
        let sent = batch();
        let bytes = encode_element(5, &Element::Batch(sent.clone())).unwrap();

        let frame = read(&mut bytes.as_slice()).await.unwrap();
        assert_eq!(frame.channel, 5);
        let Element::Batch(received) = frame.element(&sent.records.schema()).unwrap() else {
            panic!("a batch")
        };

        assert_eq!(received.records, sent.records);
        assert_eq!(received.hashes, sent.hashes);
        assert_eq!(received.kinds, sent.kinds);
    }

    #[tokio::test]
    async fn control_elements_come_out_as_they_went_in() {
        for element in [
            Element::Watermark(EventTime(-5)),
            Element::Barrier(Barrier { epoch: Epoch(9) }),
            Element::Idle,
            Element::Active,
        ] {
            let bytes = encode_element(1, &element).unwrap();
            let frame = read(&mut bytes.as_slice()).await.unwrap();

            let schema = batch().records.schema();
            assert_eq!(format!("{:?}", frame.element(&schema).unwrap()), format!("{element:?}"));
        }
    }

    #[tokio::test]
    async fn a_changed_byte_is_found() {
        let bytes = encode_element(1, &Element::Batch(batch())).unwrap();
        for position in 14..bytes.len() {
            let mut broken = bytes.clone();
            broken[position] ^= 1;

            assert!(
                matches!(read(&mut broken.as_slice()).await, Err(FrameError::Checksum { .. })),
                "byte {position}"
            );
        }
    }
}
