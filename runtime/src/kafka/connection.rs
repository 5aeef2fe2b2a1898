//! One connection to one broker: a request at a time.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiVersionsRequest, RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use snafu::ResultExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::scram::{self, Scram};
use super::security::{Login, Mechanism};
use super::{KafkaError, NetworkSnafu, Security, UnsupportedSnafu, checked};
use crate::clock::Clock;
use crate::transport::{Stream, Transport};

/// Longest wait for an answer; brokers hold fetches back for half a second.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Answers above this are refused.
const ANSWER_BYTES_MAX: i32 = 256 << 20;

/// How brokers see this program.
const CLIENT_ID: &str = "millrace";

/// An open connection.
pub struct Connection {
    address: String,
    stream: Stream,
    clock: Clock,
    correlation: i32,
    /// Newest version of each request that the broker understands.
    versions: HashMap<i16, i16>,
    transaction_level: i16,
}

impl Connection {
    /// Connects, asks for the broker's versions, and logs in.
    pub async fn open(
        address: &str,
        security: &Security,
        clock: Clock,
        transport: &dyn Transport,
    ) -> Result<Self, KafkaError> {
        let stream = transport.connect(address).await.context(NetworkSnafu { action: "connect", address })?;
        let protected = tokio::select! {
            biased;
            stream = security.protect(stream, address) => stream,
            () = clock.sleep(ANSWER_MAX) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        let stream = protected.context(NetworkSnafu { action: "agree on TLS", address })?;
        let versions = HashMap::from([(ApiVersionsRequest::KEY, 3)]);
        let mut connection = Connection {
            address: address.to_owned(),
            stream,
            clock,
            correlation: 0,
            versions,
            transaction_level: 0,
        };
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(CLIENT_ID))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let answer = connection.call(&request, 3).await?;
        checked(answer.error_code, "tell its versions", address)?;
        connection.versions = answer.api_keys.iter().map(|api| (api.api_key, api.max_version)).collect();
        let level = answer.finalized_features.iter().find(|feature| &*feature.name == "transaction.version");
        connection.transaction_level = level.map_or(0, |feature| feature.max_version_level);
        if let Some(login) = security.login() {
            connection.log_in(login).await?;
        }
        Ok(connection)
    }

    async fn log_in(&mut self, login: &Login) -> Result<(), KafkaError> {
        let refused = |address: &str, message: String| KafkaError::Login {
            address: address.to_owned(),
            user: login.user.clone(),
            message,
        };
        let name = login.mechanism.name();
        let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(name));
        let answer = self.call(&request, 1).await?;
        if answer.error_code != 0 {
            let known: Vec<&str> = answer.mechanisms.iter().map(|known| &**known).collect();
            let message = format!("it does not know the mechanism '{name}', but {}", known.join(", "));
            return Err(refused(&self.address, message));
        }
        match login.mechanism {
            Mechanism::Plain => {
                let message = format!("\0{}\0{}", login.user, login.password);
                self.authenticate(login, message).await.map(drop)
            }
            Mechanism::Scram(hash) => {
                let nonce = scram::nonce().map_err(|message| refused(&self.address, message))?;
                let scram = Scram::new(hash, &login.user, nonce);
                let first = self.authenticate(login, scram.first()).await?;
                let proof = scram.proof(&login.password, &first);
                let (proof, expected) = proof.map_err(|message| refused(&self.address, message))?;
                match self.authenticate(login, proof).await? == expected {
                    true => Ok(()),
                    false => Err(refused(&self.address, "it does not know the password itself".to_owned())),
                }
            }
        }
    }

    async fn authenticate(&mut self, login: &Login, message: String) -> Result<String, KafkaError> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(message.into_bytes().into());
        let answer = self.call(&request, 2).await?;
        if answer.error_code != 0 {
            let message =
                answer.error_message.map_or_else(|| "it says no reason".to_owned(), |said| said.to_string());
            return Err(KafkaError::Login {
                address: self.address.clone(),
                user: login.user.clone(),
                message,
            });
        }
        Ok(String::from_utf8_lossy(&answer.auth_bytes).into_owned())
    }

    /// Where it leads.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The cluster's finalized feature `transaction.version`.
    pub fn transaction_level(&self) -> i16 {
        self.transaction_level
    }

    /// The newest version of a request up to `newest` that the broker understands.
    pub fn version_of<R: Request>(&self, newest: i16) -> i16 {
        self.versions.get(&R::KEY).map_or(-1, |version| newest.min(*version))
    }

    /// Sends a request in the newest version up to `newest` that the broker understands, and waits for the answer. After an
    /// error, or dropped half-way, the connection is out of step and must not be used again.
    pub async fn call<R: Request>(&mut self, request: &R, newest: i16) -> Result<R::Response, KafkaError> {
        let version = self.version_of::<R>(newest);
        if version < R::VERSIONS.min {
            let message = format!("request {} is not known to the broker; use Kafka 4.0 or newer", R::KEY);
            return UnsupportedSnafu { address: &self.address, message }.fail();
        }
        let action = || format!("answer request {} of version {version}", R::KEY);
        self.correlation = self.correlation.wrapping_add(1);
        let encoded = encode(request, version, self.correlation);
        let encoded = encoded.map_err(|message| KafkaError::Malformed {
            action: action(),
            address: self.address.clone(),
            message,
        })?;
        let clock = self.clock;
        let answered = tokio::select! {
            biased;
            answer = exchange(&mut self.stream, &encoded) => answer,
            () = clock.sleep(ANSWER_MAX) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        let answer = answered.context(NetworkSnafu { action: action(), address: &self.address })?;
        decode::<R>(answer, version, self.correlation).map_err(|message| KafkaError::Malformed {
            action: action(),
            address: self.address.clone(),
            message,
        })
    }
}

fn encode<R: Request>(request: &R, version: i16, correlation: i32) -> Result<Bytes, String> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
    let mut bytes = BytesMut::new();
    bytes.put_i32(0);
    header.encode(&mut bytes, R::header_version(version)).map_err(|error| error.to_string())?;
    request.encode(&mut bytes, version).map_err(|error| error.to_string())?;
    let length = (bytes.len() - 4) as i32;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes.freeze())
}

async fn exchange(stream: &mut Stream, request: &[u8]) -> std::io::Result<Bytes> {
    stream.write_all(request).await?;
    stream.flush().await?;
    let length = stream.read_i32().await?;
    if !(0..=ANSWER_BYTES_MAX).contains(&length) {
        return Err(std::io::Error::other(format!(
            "an answer of {length} bytes; is this a Kafka broker without TLS?"
        )));
    }
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).await?;
    Ok(answer.into())
}

fn decode<R: Request>(mut answer: Bytes, version: i16, correlation: i32) -> Result<R::Response, String> {
    let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version));
    let header = header.map_err(|error| error.to_string())?;
    if header.correlation_id != correlation {
        return Err(format!("it belongs to request {} and not to {correlation}", header.correlation_id));
    }
    let response = R::Response::decode(&mut answer, version).map_err(|error| error.to_string())?;
    match answer.remaining() {
        0 => Ok(response),
        left => Err(format!("{left} bytes are left over")),
    }
}
