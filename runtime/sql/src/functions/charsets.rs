//! Strings as bytes of a character set, and back. What a set does not have is `?`, and bytes that are no text are U+FFFD, as in Java.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryArray, BinaryBuilder, StringBuilder};
use arrow::datatypes::DataType;
use datafusion_common::{Result, exec_err};

use super::scalar::Scalar;
use super::shape::text;
use super::strings::{is_text, strings};

pub const FUNCTIONS: &[Scalar] = &[
    Scalar {
        names: &["encode"],
        usage: "ENCODE(string, 'UTF-8' | 'UTF-16' | 'UTF-16BE' | 'UTF-16LE' | 'ISO-8859-1' | 'US-ASCII')",
        accepts: |given| strings(given, 2, 2),
        returns: |_| DataType::Binary,
        call: |arguments, rows| {
            let mut out = BinaryBuilder::new();
            for row in 0..rows {
                match (text(arguments, 0, row), text(arguments, 1, row)) {
                    (Some(text), Some(name)) => out.append_value(Charset::of("encode", name)?.encode(text)),
                    _ => out.append_null(),
                }
            }
            Ok(Arc::new(out.finish()))
        },
    },
    Scalar {
        names: &["decode"],
        usage: "DECODE(bytes, 'UTF-8' | 'UTF-16' | 'UTF-16BE' | 'UTF-16LE' | 'ISO-8859-1' | 'US-ASCII')",
        accepts: |given| match given {
            [DataType::Binary | DataType::Null, name] if is_text(name) => {
                Some(vec![DataType::Binary, DataType::Utf8])
            }
            _ => None,
        },
        returns: |_| DataType::Utf8,
        call: |arguments, rows| {
            let values: &BinaryArray = arguments[0].values.as_binary();
            let mut out = StringBuilder::new();
            for row in 0..rows {
                let index = arguments[0].index(row);
                match (values.is_valid(index), text(arguments, 1, row)) {
                    (true, Some(name)) => {
                        out.append_value(Charset::of("decode", name)?.decode(values.value(index)))
                    }
                    _ => out.append_null(),
                }
            }
            Ok(Arc::new(out.finish()))
        },
    },
];

/// U+FFFD as a unit of UTF-16.
const REPLACEMENT: u16 = 0xfffd;

#[derive(Debug, Clone, Copy)]
enum Charset {
    Utf8,
    /// Big-endian unless a mark says otherwise, which is written.
    Utf16,
    Utf16Be,
    Utf16Le,
    Latin1,
    Ascii,
}

const NAMES: [(&str, Charset); 6] = [
    ("UTF-8", Charset::Utf8),
    ("UTF-16", Charset::Utf16),
    ("UTF-16BE", Charset::Utf16Be),
    ("UTF-16LE", Charset::Utf16Le),
    ("ISO-8859-1", Charset::Latin1),
    ("US-ASCII", Charset::Ascii),
];

/// # Errors
/// If there is no character set of this name.
pub fn check_name(function: &str, name: &str) -> Result<()> {
    Charset::of(function, name).map(drop)
}

impl Charset {
    fn of(function: &str, name: &str) -> Result<Charset> {
        match NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some((_, charset)) => Ok(*charset),
            None => exec_err!(
                "{}: the character set '{name}' is not known; known are UTF-8, UTF-16, UTF-16BE, UTF-16LE, ISO-8859-1 and US-ASCII",
                function.to_uppercase()
            ),
        }
    }

    fn encode(self, text: &str) -> Vec<u8> {
        let up_to =
            |last: u32| text.chars().map(move |letter| letter_or_question_mark(letter, last)).collect();
        let units = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes);
        match self {
            Charset::Utf8 => text.as_bytes().to_vec(),
            // Of nothing there is no mark either.
            Charset::Utf16 if text.is_empty() => Vec::new(),
            Charset::Utf16 => [0xfe, 0xff].into_iter().chain(units(u16::to_be_bytes)).collect(),
            Charset::Utf16Be => units(u16::to_be_bytes).collect(),
            Charset::Utf16Le => units(u16::to_le_bytes).collect(),
            Charset::Latin1 => up_to(0xff),
            Charset::Ascii => up_to(0x7f),
        }
    }

    fn decode(self, bytes: &[u8]) -> String {
        let units = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
            let pairs = bytes.chunks(2);
            // Half a unit at the end is no text.
            let units = pairs.map(|pair| pair.try_into().map_or(REPLACEMENT, unit));
            char::decode_utf16(units).map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        };
        match (self, bytes) {
            (Charset::Utf8, _) => String::from_utf8_lossy(bytes).into_owned(),
            (Charset::Utf16, [0xff, 0xfe, rest @ ..]) => units(rest, u16::from_le_bytes),
            (Charset::Utf16, [0xfe, 0xff, rest @ ..]) => units(rest, u16::from_be_bytes),
            (Charset::Utf16 | Charset::Utf16Be, _) => units(bytes, u16::from_be_bytes),
            (Charset::Utf16Le, _) => units(bytes, u16::from_le_bytes),
            (Charset::Latin1, _) => bytes.iter().map(|byte| char::from(*byte)).collect(),
            (Charset::Ascii, _) => {
                let letter =
                    |byte: &u8| if byte.is_ascii() { char::from(*byte) } else { char::REPLACEMENT_CHARACTER };
                bytes.iter().map(letter).collect()
            }
        }
    }
}

fn letter_or_question_mark(letter: char, last: u32) -> u8 {
    u8::try_from(u32::from(letter)).ok().filter(|byte| u32::from(*byte) <= last).unwrap_or(b'?')
}
