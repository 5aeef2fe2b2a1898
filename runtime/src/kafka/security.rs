//! What makes a connection to a broker safe: TLS, and a login by SASL.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use millrace_sql::connectors::Mistake;
use millrace_sql::connectors::kafka_security::{self, AUTHORITY, AUTHORITY_FILE, CHAIN, KEY, MECHANISM};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::scram::Hash;
use crate::options::{OptionError, TableOptions};
use crate::transport::Stream;

/// How brokers are spoken to.
#[derive(Default)]
pub struct Security {
    tls: Option<Tls>,
    login: Option<Login>,
}

/// Whom to trust, and whom to be.
struct Tls {
    authority: Authority,
    /// Certificates and key of this client, as PEM.
    client: Option<(String, String)>,
    config: OnceLock<Result<Arc<ClientConfig>, String>>,
}

/// Where the certificates are that brokers' certificates must come from.
enum Authority {
    Machine,
    Pem(String),
    File(PathBuf),
}

/// A user of the cluster.
pub struct Login {
    pub mechanism: Mechanism,
    pub user: String,
    pub password: String,
}

/// How a user shows the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    Scram(Hash),
}

impl Mechanism {
    const ALL: [Mechanism; 3] =
        [Mechanism::Plain, Mechanism::Scram(Hash::Sha256), Mechanism::Scram(Hash::Sha512)];

    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Scram(Hash::Sha256) => "SCRAM-SHA-256",
            Mechanism::Scram(Hash::Sha512) => "SCRAM-SHA-512",
        }
    }
}

impl Security {
    /// Reads the options, which are those of Kafka's clients.
    ///
    /// # Errors
    /// If they do not fit together, which may be seen only now that secrets are filled in.
    pub fn new(options: &mut TableOptions<'_>) -> Result<Self, OptionError> {
        let given = options.given(kafka_security::KEYS);
        let wrong = |mistake: Mistake| {
            let hint = mistake.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            options.mistake(mistake.message + &hint)
        };
        if let Some(mistake) = kafka_security::check(&given) {
            return Err(wrong(mistake));
        }
        let name = kafka_security::mechanism(&given);
        let mechanism = Mechanism::ALL.into_iter().find(|mechanism| mechanism.name() == name);
        let mechanism =
            mechanism.ok_or_else(|| options.mistake(format!("'{MECHANISM}' = '{name}' is not supported")))?;
        let login = kafka_security::login(&given).map_err(wrong)?;
        let login = login.map(|login| Login { mechanism, user: login.user, password: login.password });
        Ok(Security { tls: kafka_security::is_tls(&given).then(|| tls(&given)), login })
    }

    /// Whom to log in as.
    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// Puts TLS on a connection, if it is wanted.
    ///
    /// # Errors
    /// If certificates are missing or wrong, or either side does not trust the other.
    pub async fn protect(&self, stream: Stream, address: &str) -> io::Result<Stream> {
        let Some(tls) = &self.tls else { return Ok(stream) };
        let config = tls.config.get_or_init(|| tls.build()).clone().map_err(io::Error::other)?;
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let name =
            ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Box::new(stream))
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mechanism = self.login.as_ref().map(|login| login.mechanism.name());
        f.debug_struct("Security").field("tls", &self.tls.is_some()).field("login", &mechanism).finish()
    }
}

fn tls(options: &BTreeMap<String, String>) -> Tls {
    let option = |key: &str| options.get(key).cloned();
    let authority = match (option(AUTHORITY), option(AUTHORITY_FILE)) {
        (Some(pem), _) => Authority::Pem(pem),
        (None, Some(file)) => Authority::File(file.into()),
        (None, None) => Authority::Machine,
    };
    Tls { authority, client: option(CHAIN).zip(option(KEY)), config: OnceLock::new() }
}

impl Tls {
    fn build(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        for certificate in self.authorities()? {
            roots.add(certificate).map_err(|error| format!("a certificate to trust is wrong: {error}"))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let config = match &self.client {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates(chain.as_bytes(), CHAIN)?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                    .map_err(|error| format!("the option '{KEY}' has no private key as PEM: {error}"))?;
                config.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
            }
        };
        Ok(Arc::new(config))
    }

    fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        match &self.authority {
            Authority::Pem(pem) => certificates(pem.as_bytes(), AUTHORITY),
            Authority::File(file) => {
                let pem = std::fs::read(file).map_err(|error| {
                    format!(
                        "failed to read '{}', which the option '{AUTHORITY_FILE}' names: {error}",
                        file.display()
                    )
                })?;
                certificates(&pem, AUTHORITY_FILE)
            }
            Authority::Machine => {
                let found = rustls_native_certs::load_native_certs().certs;
                match found.is_empty() {
                    true => Err(format!(
                        "this machine trusts no certificates; name those of the brokers in '{AUTHORITY}'"
                    )),
                    false => Ok(found),
                }
            }
        }
    }
}

fn certificates(pem: &[u8], option: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("the option '{option}' has no certificates as PEM")),
        Err(error) => Err(format!("the option '{option}' has no certificates as PEM: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use millrace_sql::plan::Table;

    use super::*;

    fn security(options: &[(&str, &str)]) -> Result<Security, String> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let table = Table { name: "t".to_owned(), options, ..Table::default() };
        Security::new(&mut TableOptions::new(&table)).map_err(|error| error.to_string())
    }

    #[test]
    fn options_say_whom_to_trust_and_whom_to_be() {
        let none = security(&[]).unwrap();
        assert!(none.login().is_none() && none.tls.is_none());

        let jaas = ("properties.sasl.jaas.config", r#"x required username="ann" password="b";"#);
        let protocol = ("properties.security.protocol", "SASL_SSL");
        let found =
            security(&[protocol, jaas, ("properties.sasl.mechanism", "SCRAM-SHA-512"), (AUTHORITY, "x")]);
        let found = found.unwrap();
        let login = found.login().unwrap();
        assert_eq!((login.mechanism.name(), login.user.as_str()), ("SCRAM-SHA-512", "ann"));
        assert!(matches!(&found.tls.as_ref().unwrap().authority, Authority::Pem(pem) if pem == "x"));
        assert!(!format!("{found:?}").contains("ann"), "{found:?}");

        // What a secret holds is seen only now.
        for (options, part) in [
            (vec![protocol, (jaas.0, "nothing")], "has no username"),
            (vec![protocol, jaas, (MECHANISM, "GSSAPI")], "'GSSAPI' is not supported"),
        ] {
            let refused = security(&options).unwrap_err();
            assert!(refused.starts_with("table 't': ") && refused.contains(part), "{refused}");
        }
    }
}
