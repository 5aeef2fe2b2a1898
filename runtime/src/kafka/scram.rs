//! The client's side of SCRAM (RFC 5802, RFC 7677): two messages and the proof of the server.
//!
//! Neither side learns the password from the other, and the server shows that it knows it, too.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::{digest, hmac, pbkdf2};

/// Which hash is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha512 => &digest::SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Hash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Hash::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }
}

/// Fewer rounds than this make a password easy to guess for whoever listens; Kafka's brokers do at least as many.
const ROUNDS_MIN: u32 = 4096;

/// Channel binding is not used: `n,,` in base64.
const NO_BINDING: &str = "biws";

/// Letters that nobody can guess, from the machine: what is injected elsewhere would make logins that can be repeated.
///
/// # Errors
/// If the machine has none to give.
#[expect(clippy::disallowed_methods, reason = "a login that can be repeated is none")]
pub fn nonce() -> Result<String, String> {
    let mut bytes = [0; 24];
    let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    filled.map_err(|_| "this machine has no random numbers to give".to_owned())?;
    Ok(BASE64.encode(bytes))
}

/// A login that has begun.
pub struct Scram {
    hash: Hash,
    nonce: String,
    /// The first message without its head.
    bare: String,
}

impl Scram {
    /// Begins a login; the nonce must be random.
    pub fn new(hash: Hash, user: &str, nonce: String) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let bare = format!("n={user},r={nonce}");
        Scram { hash, nonce, bare }
    }

    /// The first message.
    pub fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    /// The second message, in answer to the server's first, and what the server's second must say.
    ///
    /// # Errors
    /// If the server's message is not one, or not for this login.
    pub fn proof(&self, password: &str, server: &str) -> Result<(String, String), String> {
        let field = |name: &str| server.split(',').find_map(|part| part.strip_prefix(name));
        let malformed = || "the broker's first message of the login is malformed".to_owned();
        let nonce = field("r=").filter(|nonce| nonce.starts_with(&self.nonce) && *nonce != self.nonce);
        let nonce = nonce.ok_or_else(|| "the broker's answer belongs to another login".to_owned())?;
        let salt = field("s=").and_then(|salt| BASE64.decode(salt).ok()).ok_or_else(malformed)?;
        let rounds: u32 = field("i=").and_then(|rounds| rounds.parse().ok()).ok_or_else(malformed)?;
        let rounds = NonZeroU32::new(rounds).filter(|rounds| rounds.get() >= ROUNDS_MIN);
        let rounds = rounds.ok_or_else(|| format!("the broker asks for fewer than {ROUNDS_MIN} rounds"))?;

        let mut salted = vec![0; self.hash.digest().output_len()];
        pbkdf2::derive(self.hash.pbkdf2(), rounds, &salt, password.as_bytes(), &mut salted);
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(self.hash.hmac(), key), text);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(self.hash.digest(), client_key.as_ref());
        let last = format!("c={NO_BINDING},r={nonce}");
        let all = format!("{},{server},{last}", self.bare);
        let signature = sign(stored_key.as_ref(), all.as_bytes());
        let proof: Vec<u8> = client_key
            .as_ref()
            .iter()
            .zip(signature.as_ref())
            .map(|(key, signature)| key ^ signature)
            .collect();
        let server_key = sign(&salted, b"Server Key");
        let server_proof = sign(server_key.as_ref(), all.as_bytes());
        Ok((format!("{last},p={}", BASE64.encode(proof)), format!("v={}", BASE64.encode(server_proof))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677.
    #[test]
    fn a_login_is_proved_as_the_standard_says() {
        let scram = Scram::new(Hash::Sha256, "user", "rOprNGfwEbeRWgbNEkqO".to_owned());
        let server = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

        let (proof, expected) = scram.proof("pencil", server).unwrap();

        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        assert_eq!(
            proof,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(expected, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn names_are_escaped_and_foreign_or_weak_answers_refused() {
        let scram = Scram::new(Hash::Sha512, "a=b,c", "mine".to_owned());
        assert_eq!(scram.first(), "n,,n=a=3Db=2Cc,r=mine");
        for (server, part) in [
            ("r=yours,s=W22Z,i=4096", "another login"),
            ("r=mine,s=W22Z,i=4096", "another login"),
            ("r=mine1,i=4096", "malformed"),
            ("r=mine1,s=W22Z,i=many", "malformed"),
            ("r=mine1,s=W22Z,i=100", "fewer than 4096 rounds"),
        ] {
            assert!(scram.proof("p", server).unwrap_err().contains(part), "{server}");
        }
    }
}
