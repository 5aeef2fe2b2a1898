//! Digests of strings, strings in other letters, and parts of addresses.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder};
use arrow::datatypes::DataType;
use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use md5::Digest as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use regex::Regex;

use super::scalar::{Argument, Scalar};
use super::shape::{text, text_and_number, texts};
use super::strings::{is_text, number, strings};

/// A function of one or more strings that gives a string for each row, or NULL.
macro_rules! of_text {
    ($name:literal, $usage:literal, |$text:ident| $value:expr) => {
        Scalar {
            names: &[$name],
            usage: $usage,
            accepts: |given| strings(given, 1, 1),
            returns: |_| DataType::Utf8,
            call: |arguments, rows| {
                texts(rows, |row| {
                    let $text = text(arguments, 0, row)?;
                    $value
                })
            },
        }
    };
}

pub const FUNCTIONS: &[Scalar] = &[
    Scalar {
        names: &["bytes_cut"],
        usage: "CAST(bytes AS VARBINARY(length))",
        accepts: bytes_and_length,
        returns: |_| DataType::Binary,
        call: |arguments, rows| Ok(of_length(arguments, rows, false)),
    },
    Scalar {
        names: &["bytes_padded"],
        usage: "CAST(bytes AS BINARY(length))",
        accepts: bytes_and_length,
        returns: |_| DataType::Binary,
        call: |arguments, rows| Ok(of_length(arguments, rows, true)),
    },
    of_text!("md5", "MD5(string)", |text| Some(digits(&md5::Md5::digest(text)))),
    of_text!("sha1", "SHA1(string)", |text| Some(digits(&sha1::Sha1::digest(text)))),
    of_text!("sha224", "SHA224(string)", |text| sha2(text, 224)),
    of_text!("sha256", "SHA256(string)", |text| sha2(text, 256)),
    of_text!("sha384", "SHA384(string)", |text| sha2(text, 384)),
    of_text!("sha512", "SHA512(string)", |text| sha2(text, 512)),
    Scalar {
        names: &["sha2"],
        usage: "SHA2(string, 224 | 256 | 384 | 512)",
        accepts: text_and_number,
        returns: |_| DataType::Utf8,
        call: |arguments, rows| {
            texts(rows, |row| sha2(text(arguments, 0, row)?, number(&arguments[1], row)?))
        },
    },
    of_text!("to_base64", "TO_BASE64(string)", |text| Some(STANDARD.encode(text))),
    of_text!("from_base64", "FROM_BASE64(string)", |text| {
        LENIENT.decode(text).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }),
    of_text!("url_encode", "URL_ENCODE(string)", |text| {
        Some(utf8_percent_encode(text, FORM).to_string().replace("%20", "+"))
    }),
    of_text!("url_decode", "URL_DECODE(string)", |text| decode_url(text)),
    Scalar {
        names: &["parse_url"],
        usage: "PARSE_URL(url, 'HOST' | 'PATH' | 'QUERY' | 'REF' | 'PROTOCOL' | 'AUTHORITY' | 'FILE' | 'USERINFO'[, key of QUERY])",
        accepts: |given| strings(given, 2, 3),
        returns: |_| DataType::Utf8,
        call: |arguments, rows| {
            texts(rows, |row| {
                let which = text(arguments, 1, row)?;
                let part = part_of_url(text(arguments, 0, row)?, which)?;
                match arguments.len() {
                    3 if which == "QUERY" => parameter(&part, text(arguments, 2, row)?),
                    3 => None,
                    _ => Some(part),
                }
            })
        },
    },
    Scalar {
        names: &["hex"],
        usage: "HEX(integer or string)",
        accepts: |given| match given {
            [given] if given.is_integer() => Some(vec![DataType::Int64]),
            given => strings(given, 1, 1),
        },
        returns: |_| DataType::Utf8,
        call: |arguments, rows| {
            let is_number = arguments[0].values.data_type().is_integer();
            texts(rows, |row| match is_number {
                true => number(&arguments[0], row).map(|number| format!("{number:X}")),
                false => text(arguments, 0, row).map(|text| digits(text.as_bytes()).to_uppercase()),
            })
        },
    },
    Scalar {
        names: &["unhex"],
        usage: "UNHEX(string)",
        accepts: |given| strings(given, 1, 1),
        returns: |_| DataType::Binary,
        call: |arguments, rows| {
            let mut out = BinaryBuilder::new();
            (0..rows).for_each(|row| out.append_option(text(arguments, 0, row).and_then(bytes_of_digits)));
            Ok(Arc::new(out.finish()) as ArrayRef)
        },
    },
    Scalar {
        names: &["bin"],
        usage: "BIN(integer)",
        accepts: integer,
        returns: |_| DataType::Utf8,
        call: |arguments, rows| {
            texts(rows, |row| number(&arguments[0], row).map(|number| format!("{number:b}")))
        },
    },
    Scalar {
        names: &["chr"],
        usage: "CHR(integer)",
        accepts: integer,
        returns: |_| DataType::Utf8,
        call: |arguments, rows| {
            texts(rows, |row| {
                let number = number(&arguments[0], row)?;
                // Of a negative number there is no character, and the text is empty.
                Some(if number < 0 { String::new() } else { char::from((number & 0xff) as u8).to_string() })
            })
        },
    },
    Scalar {
        names: &["elt"],
        usage: "ELT(position from 1, string, …)",
        accepts: |given| match given {
            [position, texts @ ..]
                if position.is_integer() && !texts.is_empty() && texts.iter().all(is_text) =>
            {
                Some([vec![DataType::Int64], vec![DataType::Utf8; texts.len()]].concat())
            }
            _ => None,
        },
        returns: |_| DataType::Utf8,
        call: |arguments, rows| {
            texts(rows, |row| {
                let position = usize::try_from(number(&arguments[0], row)?).ok()?;
                let is_there = (1..arguments.len()).contains(&position);
                is_there.then(|| text(arguments, position, row).map(str::to_owned)).flatten()
            })
        },
    },
    Scalar {
        names: &["translate"],
        usage: "TRANSLATE(string, characters, replacements)",
        accepts: |given| strings(given, 3, 3),
        returns: |_| DataType::Utf8,
        call: |arguments, rows| {
            texts(rows, |row| {
                // Without characters nothing changes, and without replacements they go.
                let (from, to) = (text(arguments, 1, row), text(arguments, 2, row));
                Some(translate(text(arguments, 0, row)?, from.unwrap_or_default(), to.unwrap_or_default()))
            })
        },
    },
];

/// Reads what Java reads: padding may be missing.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Letters that forms leave as they are; Java writes a space as `+`.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'*').remove(b'_');

fn integer(given: &[DataType]) -> Option<Vec<DataType>> {
    matches!(given, [given] if given.is_integer()).then(|| vec![DataType::Int64])
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `None` for other lengths.
fn sha2(text: &str, bits: i64) -> Option<String> {
    Some(match bits {
        224 => digits(&sha2::Sha224::digest(text)),
        256 => digits(&sha2::Sha256::digest(text)),
        384 => digits(&sha2::Sha384::digest(text)),
        512 => digits(&sha2::Sha512::digest(text)),
        _ => return None,
    })
}

fn bytes_and_length(given: &[DataType]) -> Option<Vec<DataType>> {
    match given {
        [DataType::Binary | DataType::Null, length] if length.is_integer() => {
            Some(vec![DataType::Binary, DataType::Int64])
        }
        _ => None,
    }
}

/// The first bytes of values, and zeros behind those that have fewer.
fn of_length(arguments: &[Argument], rows: usize, is_padded: bool) -> ArrayRef {
    let values: &BinaryArray = arguments[0].values.as_binary();
    let mut out = BinaryBuilder::new();
    for row in 0..rows {
        let index = arguments[0].index(row);
        let (true, Some(length)) = (values.is_valid(index), number(&arguments[1], row)) else {
            out.append_null();
            continue;
        };
        let length = usize::try_from(length).unwrap_or(0);
        let bytes = values.value(index);
        match bytes.get(..length) {
            Some(cut) => out.append_value(cut),
            None if is_padded => {
                let mut padded = bytes.to_vec();
                padded.resize(length, 0);
                out.append_value(padded);
            }
            None => out.append_value(bytes),
        }
    }
    Arc::new(out.finish())
}

/// Hexadecimal digits as bytes; an odd first one gives a byte of zero, as in Flink. `None` if there are other letters.
fn bytes_of_digits(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|letter| letter.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits?;
    let (first, pairs) = digits.split_at(digits.len() % 2);
    Some(first.iter().map(|_| 0).chain(pairs.chunks(2).map(|pair| pair[0] << 4 | pair[1])).collect())
}

/// `None` if a `%` is not followed by two digits. What is no UTF-8 becomes U+FFFD.
fn decode_url(text: &str) -> Option<String> {
    let is_whole = text.split('%').skip(1).all(|after| {
        let mut digits = after.chars().take(2);
        let mut is_digit = || digits.next().is_some_and(|letter| letter.is_ascii_hexdigit());
        is_digit() && is_digit()
    });
    let spaced = text.replace('+', " ");
    is_whole.then(|| percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

/// The parts of an address, as RFC 3986 (appendix B) finds them.
static PARTS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?s)^(?:([^:/?#]+):)(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?$").ok()
});

/// Protocols of which Java's URL knows the form.
const PROTOCOLS: [&str; 6] = ["http", "https", "ftp", "file", "jar", "mailto"];

/// `None` if the address has no such part, or is none.
fn part_of_url(url: &str, part: &str) -> Option<String> {
    let found = PARTS.as_ref()?.captures(url)?;
    let protocol = found.get(1)?.as_str();
    if !PROTOCOLS.iter().any(|known| protocol.eq_ignore_ascii_case(known)) {
        return None;
    }
    let group = |number: usize| found.get(number).map(|group| group.as_str());
    let authority = group(2);
    let (user, host) = match authority.and_then(|authority| authority.rsplit_once('@')) {
        Some((user, host)) => (Some(user), Some(host)),
        None => (None, authority),
    };
    // A port is after the last colon, unless that is within the brackets of an IPv6 address.
    let without_port = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name.to_owned(),
        _ => host.to_owned(),
    };
    match part {
        "PROTOCOL" => Some(protocol.to_lowercase()),
        "AUTHORITY" => authority.map(str::to_owned),
        "USERINFO" => user.map(str::to_owned),
        "HOST" => host.map(without_port),
        "PATH" => group(3).map(str::to_owned),
        "QUERY" => group(4).map(str::to_owned),
        "REF" => group(5).map(str::to_owned),
        "FILE" => {
            let query = group(4).map(|query| format!("?{query}")).unwrap_or_default();
            Some(format!("{}{query}", group(3).unwrap_or_default()))
        }
        _ => None,
    }
}

/// The value of a key in `a=1&b=2`.
fn parameter(query: &str, key: &str) -> Option<String> {
    query
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(name, _)| *name == key))
        .map(|(_, value)| value.to_owned())
}

/// Characters without a replacement are left out.
fn translate(text: &str, from: &str, to: &str) -> String {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let letters = text.chars().filter_map(|letter| match from.iter().position(|known| *known == letter) {
        Some(position) => to.get(position).copied(),
        None => Some(letter),
    });
    letters.collect()
}
