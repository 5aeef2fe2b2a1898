//! Which options of a connection to Kafka's brokers fit together, and whom they log in. They are those of Kafka's clients.
//!
//! Values that are secrets are not known when a job is compiled; everything else is judged then.

use std::collections::BTreeMap;

use super::Mistake;
use crate::secrets;

pub const PROTOCOL: &str = "properties.security.protocol";
pub const MECHANISM: &str = "properties.sasl.mechanism";
pub const JAAS: &str = "properties.sasl.jaas.config";
pub const AUTHORITY: &str = "properties.ssl.truststore.certificates";
pub const AUTHORITY_FILE: &str = "properties.ssl.truststore.location";
pub const AUTHORITY_TYPE: &str = "properties.ssl.truststore.type";
pub const CHAIN: &str = "properties.ssl.keystore.certificate.chain";
pub const KEY: &str = "properties.ssl.keystore.key";
pub const KEY_TYPE: &str = "properties.ssl.keystore.type";

/// What a connection is made of.
pub const PROTOCOLS: &[&str] = &["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];

/// Every option that has to do with TLS.
const TLS: [&str; 6] = [AUTHORITY, AUTHORITY_FILE, AUTHORITY_TYPE, CHAIN, KEY, KEY_TYPE];

/// Every option that is looked at here.
pub const KEYS: [&str; 9] =
    [PROTOCOL, MECHANISM, JAAS, AUTHORITY, AUTHORITY_FILE, AUTHORITY_TYPE, CHAIN, KEY, KEY_TYPE];

/// A configuration of a login, as Java writes it.
pub const JAAS_EXAMPLE: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"user\" password=\"${secret:kafka-password}\";";

type Options = BTreeMap<String, String>;

/// A user of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: String,
}

/// True if brokers are spoken to by TLS.
pub fn is_tls(options: &Options) -> bool {
    matches!(protocol(options), "SSL" | "SASL_SSL")
}

/// True if a user logs in.
pub fn is_sasl(options: &Options) -> bool {
    matches!(protocol(options), "SASL_PLAINTEXT" | "SASL_SSL")
}

fn protocol(options: &Options) -> &str {
    options.get(PROTOCOL).map_or("PLAINTEXT", String::as_str)
}

/// How the user shows the password.
pub fn mechanism(options: &Options) -> &str {
    options.get(MECHANISM).map_or("PLAIN", String::as_str)
}

/// What does not fit together; `None`: all of it does, as far as it is known.
pub fn check(options: &Options) -> Option<Mistake> {
    let has = |key: &str| options.contains_key(key);
    // What the protocol itself will be, is only known later.
    let is_known = secrets::names(protocol(options)).is_empty();
    if is_known && !PROTOCOLS.contains(&protocol(options)) {
        return Some(mistake(
            PROTOCOL,
            format!("'{PROTOCOL}' = '{}' is not known", protocol(options)),
            format!("use {}", PROTOCOLS.join(", ")),
        ));
    }
    if let Some(key) = TLS.into_iter().find(|key| has(key) && is_known && !is_tls(options)) {
        let protocol = if is_sasl(options) { "SASL_SSL" } else { "SSL" };
        return Some(mistake(
            key,
            format!("the option '{key}' is one of TLS, and TLS is not used"),
            format!("add '{PROTOCOL}' = '{protocol}', or remove it"),
        ));
    }
    if has(AUTHORITY) && has(AUTHORITY_FILE) {
        return Some(mistake(
            AUTHORITY_FILE,
            format!("'{AUTHORITY}' and '{AUTHORITY_FILE}' cannot be together"),
            "remove one of them".to_owned(),
        ));
    }
    for (given, missing) in [(CHAIN, KEY), (KEY, CHAIN)] {
        if has(given) && !has(missing) {
            return Some(mistake(
                given,
                format!("the option '{given}' needs '{missing}'"),
                format!("add '{missing}', or remove it"),
            ));
        }
    }
    if let Some(key) = [JAAS, MECHANISM].into_iter().find(|key| has(key) && is_known && !is_sasl(options)) {
        let protocol = if is_tls(options) { "SASL_SSL" } else { "SASL_PLAINTEXT" };
        return Some(mistake(
            key,
            format!("the option '{key}' is one of SASL, and nobody logs in"),
            format!("add '{PROTOCOL}' = '{protocol}', or remove it"),
        ));
    }
    if is_sasl(options) && !has(JAAS) {
        return Some(mistake(
            PROTOCOL,
            format!("'{PROTOCOL}' = '{}' needs '{JAAS}'", protocol(options)),
            format!("add '{JAAS}' = '{JAAS_EXAMPLE}'"),
        ));
    }
    login(options).err()
}

/// Whom the options log in. A login of which something is still a secret has the secret's name in it.
///
/// # Errors
/// If the login has no user, no password or the module of another mechanism.
pub fn login(options: &Options) -> Result<Option<Login>, Mistake> {
    let Some(jaas) = options.get(JAAS) else { return Ok(None) };
    let (user, password) = (quoted(jaas, "username"), quoted(jaas, "password"));
    let (user, password) = match (user, password) {
        (Some(user), Some(password)) => (user, password),
        // The whole of it may be a secret, or the rest of it.
        _ if !secrets::names(jaas).is_empty() => return Ok(None),
        _ => {
            return Err(mistake(
                JAAS,
                format!("the option '{JAAS}' has no username=\"…\" and password=\"…\""),
                format!("write such as '{JAAS_EXAMPLE}'"),
            ));
        }
    };
    let mechanism = mechanism(options);
    let is_other = match (jaas.contains("ScramLoginModule"), jaas.contains("PlainLoginModule")) {
        (true, false) => mechanism == "PLAIN",
        (false, true) => mechanism.starts_with("SCRAM"),
        _ => false,
    };
    match is_other {
        true => Err(mistake(
            JAAS,
            format!("'{JAAS}' names the module of another mechanism than '{MECHANISM}' = '{mechanism}'"),
            "use ScramLoginModule with 'SCRAM-SHA-256' and 'SCRAM-SHA-512', PlainLoginModule with 'PLAIN'"
                .to_owned(),
        )),
        false => Ok(Some(Login { user, password })),
    }
}

fn mistake(key: &str, message: String, hint: String) -> Mistake {
    Mistake { key: Some(key.to_owned()), message, hint: Some(hint) }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn options(options: &[(&str, &str)]) -> Options {
        options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn users_are_read_from_what_java_reads_them_from() {
        for (jaas, user, password) in [
            (r#"a.b.PlainLoginModule required username="ann" password="p\"w\\d";"#, "ann", r#"p"w\d"#),
            ("x required\n  username = 'ann'\n  password='a b';", "ann", "a b"),
            (r#"x required myusername="no" username="ann" password="";"#, "ann", ""),
        ] {
            let login = login(&options(&[(PROTOCOL, "SASL_PLAINTEXT"), (JAAS, jaas)])).unwrap().unwrap();

            assert_eq!((login.user.as_str(), login.password.as_str()), (user, password), "{jaas}");
        }
    }

    #[test]
    fn options_that_do_not_fit_together_are_refused() {
        let jaas = (JAAS, r#"x required username="a" password="b";"#);
        let of_scram = (JAAS, r#"a.ScramLoginModule required username="a" password="${secret:p}";"#);
        let sasl = (PROTOCOL, "SASL_SSL");
        for (given, key, part) in [
            (vec![(PROTOCOL, "TLS")], PROTOCOL, "is not known"),
            (vec![sasl], PROTOCOL, "needs 'properties.sasl.jaas.config'"),
            (vec![sasl, (MECHANISM, "PLAIN")], PROTOCOL, "needs 'properties.sasl.jaas.config'"),
            (vec![jaas], JAAS, "nobody logs in"),
            (vec![(MECHANISM, "PLAIN")], MECHANISM, "nobody logs in"),
            (vec![sasl, (JAAS, "x required username=\"a\";")], JAAS, "has no username"),
            (vec![sasl, of_scram], JAAS, "another mechanism"),
            (vec![(AUTHORITY, "x")], AUTHORITY, "TLS is not used"),
            (vec![(PROTOCOL, "SASL_PLAINTEXT"), jaas, (KEY_TYPE, "PEM")], KEY_TYPE, "TLS is not used"),
            (vec![(PROTOCOL, "SSL"), (AUTHORITY, "x"), (AUTHORITY_FILE, "y")], AUTHORITY_FILE, "together"),
            (vec![(PROTOCOL, "SSL"), (KEY, "x")], KEY, "needs 'properties.ssl.keystore.certificate.chain'"),
            (vec![(PROTOCOL, "SSL"), (CHAIN, "x")], CHAIN, "needs 'properties.ssl.keystore.key'"),
        ] {
            let found = check(&options(&given)).unwrap_or_else(|| panic!("{given:?} is accepted"));
            assert_eq!(found.key.as_deref(), Some(key), "{given:?}");
            assert!(found.message.contains(part), "{given:?}: {}", found.message);
            assert!(found.hint.is_some(), "{given:?}");
        }
        for given in [
            vec![],
            vec![sasl, jaas],
            vec![sasl, (MECHANISM, "SCRAM-SHA-512"), of_scram],
            vec![sasl, (JAAS, "${secret:jaas}")],
            vec![(PROTOCOL, "${secret:protocol}"), jaas, (AUTHORITY, "x")],
        ] {
            assert_eq!(check(&options(&given)), None, "{given:?}");
        }
    }
}
