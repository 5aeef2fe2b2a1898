//! What makes a connection to a broker safe: TLS, and a login by SASL.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

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
    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Scram(Hash::Sha256) => "SCRAM-SHA-256",
            Mechanism::Scram(Hash::Sha512) => "SCRAM-SHA-512",
        }
    }
}

const PROTOCOL: &str = "properties.security.protocol";
const MECHANISM: &str = "properties.sasl.mechanism";
const JAAS: &str = "properties.sasl.jaas.config";
const AUTHORITY: &str = "properties.ssl.truststore.certificates";
const AUTHORITY_FILE: &str = "properties.ssl.truststore.location";
const CHAIN: &str = "properties.ssl.keystore.certificate.chain";
const KEY: &str = "properties.ssl.keystore.key";
/// Stores other than of PEM belong to Java.
const STORE_TYPES: [&str; 2] = ["properties.ssl.truststore.type", "properties.ssl.keystore.type"];

impl Security {
    /// Reads the options, which are those of Kafka's clients.
    pub fn new(options: &mut TableOptions<'_>) -> Result<Self, OptionError> {
        let protocol = options.optional(PROTOCOL).unwrap_or_else(|| "PLAINTEXT".to_owned());
        let (is_tls, is_sasl) = match protocol.as_str() {
            "PLAINTEXT" => (false, false),
            "SSL" => (true, false),
            "SASL_PLAINTEXT" => (false, true),
            "SASL_SSL" => (true, true),
            _ => {
                return Err(
                    options.wrong(PROTOCOL, "is not 'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'")
                );
            }
        };
        let (tls, login) = (tls(options)?, login(options)?);
        match (tls, login) {
            (Some(_), _) if !is_tls => {
                Err(options.mistake(format!("options of TLS need '{PROTOCOL}' = 'SSL' or 'SASL_SSL'")))
            }
            (_, Some(_)) if !is_sasl => Err(options
                .mistake(format!("options of SASL need '{PROTOCOL}' = 'SASL_SSL' or 'SASL_PLAINTEXT'"))),
            (_, None) if is_sasl => {
                Err(options.mistake(format!("'{PROTOCOL}' = '{protocol}' needs '{JAAS}'")))
            }
            (tls, login) => {
                let machine = || Tls { authority: Authority::Machine, client: None, config: OnceLock::new() };
                Ok(Security { tls: tls.or_else(|| is_tls.then(machine)), login })
            }
        }
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

fn tls(options: &mut TableOptions<'_>) -> Result<Option<Tls>, OptionError> {
    let mut is_given = false;
    for key in STORE_TYPES {
        if let Some(kind) = options.optional(key) {
            is_given = true;
            if kind != "PEM" {
                return Err(
                    options.wrong(key, "is not supported; use 'PEM', and write the certificates as text")
                );
            }
        }
    }
    let authority = match (options.optional(AUTHORITY), options.optional(AUTHORITY_FILE)) {
        (Some(_), Some(_)) => {
            return Err(options.mistake(format!("'{AUTHORITY}' and '{AUTHORITY_FILE}' cannot be together")));
        }
        (Some(pem), None) => Authority::Pem(pem),
        (None, Some(file)) => Authority::File(file.into()),
        (None, None) => Authority::Machine,
    };
    let client = match (options.optional(CHAIN), options.optional(KEY)) {
        (Some(chain), Some(key)) => Some((chain, key)),
        (None, None) => None,
        _ => return Err(options.mistake(format!("'{CHAIN}' and '{KEY}' need each other"))),
    };
    is_given |= client.is_some() || !matches!(authority, Authority::Machine);
    Ok(is_given.then(|| Tls { authority, client, config: OnceLock::new() }))
}

fn login(options: &mut TableOptions<'_>) -> Result<Option<Login>, OptionError> {
    let mechanism = match options.optional(MECHANISM).as_deref() {
        None | Some("PLAIN") => Mechanism::Plain,
        Some("SCRAM-SHA-256") => Mechanism::Scram(Hash::Sha256),
        Some("SCRAM-SHA-512") => Mechanism::Scram(Hash::Sha512),
        Some(_) => {
            return Err(
                options.wrong(MECHANISM, "is not supported; use 'PLAIN', 'SCRAM-SHA-256' or 'SCRAM-SHA-512'")
            );
        }
    };
    let Some(jaas) = options.optional(JAAS) else {
        return match options.optional(MECHANISM) {
            Some(_) => Err(options.mistake(format!("'{MECHANISM}' needs '{JAAS}'"))),
            None => Ok(None),
        };
    };
    let missing = || {
        options.mistake(format!(
            "the option '{JAAS}' has no username=\"…\" and password=\"…\"; write such as 'org.apache.kafka.common.security.plain.PlainLoginModule required username=\"user\" password=\"${{secret:kafka-password}}\";'"
        ))
    };
    // Where values are not read, the whole of it may be a secret.
    if !millrace_sql::secrets::names(&jaas).is_empty() {
        return Ok(Some(Login { mechanism, user: String::new(), password: String::new() }));
    }
    let of_module = match (jaas.contains("ScramLoginModule"), jaas.contains("PlainLoginModule")) {
        (true, false) => mechanism == Mechanism::Plain,
        (false, true) => mechanism != Mechanism::Plain,
        _ => false,
    };
    if of_module {
        let name = mechanism.name();
        return Err(options.mistake(format!(
            "'{JAAS}' names the module of another mechanism than '{MECHANISM}' = '{name}'"
        )));
    }
    let user = quoted(&jaas, "username").ok_or_else(missing)?;
    let password = quoted(&jaas, "password").ok_or_else(missing)?;
    Ok(Some(Login { mechanism, user, password }))
}

/// The value of `name="value"` in the configuration of a login, as Java writes it; a backslash is before quotes and itself.
fn quoted(jaas: &str, name: &str) -> Option<String> {
    let mut rest = jaas;
    loop {
        let (before, after) = rest.split_once(name)?;
        let starts_word = before.chars().next_back().is_none_or(char::is_whitespace);
        let value = after.trim_start().strip_prefix('=').map(str::trim_start);
        let Some(value) = value.filter(|_| starts_word) else {
            rest = after;
            continue;
        };
        let quote = value.chars().next().filter(|quote| ['"', '\''].contains(quote))?;
        let mut text = String::new();
        let mut letters = value.chars().skip(1);
        while let Some(letter) = letters.next() {
            match letter {
                '\\' => text.push(letters.next()?),
                letter if letter == quote => return Some(text),
                letter => text.push(letter),
            }
        }
        return None;
    }
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
    fn users_are_read_from_what_java_reads_them_from() {
        for (jaas, user, password) in [
            (r#"a.b.PlainLoginModule required username="ann" password="p\"w\\d";"#, "ann", r#"p"w\d"#),
            ("x required\n  username = 'ann'\n  password='a b';", "ann", "a b"),
            (r#"x required myusername="no" username="ann" password="";"#, "ann", ""),
        ] {
            let found = security(&[(PROTOCOL, "SASL_PLAINTEXT"), (JAAS, jaas)]).unwrap();

            let login = found.login().unwrap();
            assert_eq!((login.user.as_str(), login.password.as_str()), (user, password), "{jaas}");
            assert!(!format!("{found:?}").contains("ann"), "{found:?}");
        }
    }

    #[test]
    fn options_that_do_not_fit_together_are_refused() {
        let jaas = (JAAS, r#"x required username="a" password="b";"#);
        for (options, part) in [
            (vec![(PROTOCOL, "TLS")], "is not 'PLAINTEXT', 'SSL'"),
            (vec![(PROTOCOL, "SASL_SSL")], "needs 'properties.sasl.jaas.config'"),
            (vec![(PROTOCOL, "SASL_SSL"), (MECHANISM, "PLAIN")], "needs 'properties.sasl.jaas.config'"),
            (vec![jaas], "options of SASL need 'properties.security.protocol'"),
            (vec![(PROTOCOL, "SASL_SSL"), jaas, (MECHANISM, "GSSAPI")], "use 'PLAIN', 'SCRAM-SHA-256'"),
            (vec![(PROTOCOL, "SASL_SSL"), (JAAS, "x required username=\"a\";")], "has no username"),
            (
                vec![
                    (PROTOCOL, "SASL_SSL"),
                    (JAAS, r#"a.ScramLoginModule required username="a" password="b";"#),
                ],
                "another mechanism",
            ),
            (vec![(AUTHORITY, "x")], "options of TLS need"),
            (vec![(PROTOCOL, "SSL"), (STORE_TYPES[0], "JKS")], "use 'PEM'"),
            (vec![(PROTOCOL, "SSL"), (AUTHORITY, "x"), (AUTHORITY_FILE, "y")], "cannot be together"),
            (vec![(PROTOCOL, "SSL"), (KEY, "x")], "need each other"),
        ] {
            let refused = security(&options).unwrap_err();
            assert!(refused.contains(part), "{options:?}: {refused}");
        }
        assert!(security(&[]).unwrap().login().is_none());
        assert!(security(&[(PROTOCOL, "SASL_SSL"), (JAAS, "${secret:jaas}")]).unwrap().login().is_some());
    }
}
