//! `${secret:name}` in table options: found here, filled where connectors are opened.

const START: &str = "${secret:";

/// The first secret that a text names: what is before it, its name, and what follows.
pub fn next(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once(START)?;
    let (name, after) = rest.split_once('}')?;
    Some((before, name, after))
}

/// All secrets that a text names.
pub fn names(mut text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    while let Some((_, name, after)) = next(text) {
        names.push(name);
        text = after;
    }
    names
}

/// What is wrong with the secrets that an option names; `None`: nothing.
pub fn mistake(value: &str) -> Option<String> {
    let is_name = |name: &&str| {
        let letter = |byte: u8| byte.is_ascii_lowercase();
        let inner = |byte: u8| letter(byte) || byte.is_ascii_digit() || byte == b'-';
        name.bytes().next().is_some_and(letter) && name.bytes().all(inner) && !name.ends_with('-')
    };
    let names = names(value);
    if let Some(name) = names.iter().find(|name| !is_name(name)) {
        return Some(format!(
            "'{name}' is not a secret's name: lower-case letters, digits and hyphens, beginning with a letter"
        ));
    }
    (value.matches("${").count() > names.len()).then(|| "a ${ without a secret behind it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_what_is_none_is_told() {
        assert_eq!(names("a ${secret:x} b ${secret:y-1}"), ["x", "y-1"]);
        assert_eq!(mistake("a ${secret:x} b"), None);
        assert_eq!(mistake("$5 {x}"), None);
        for (value, part) in [
            ("${secret:X}", "'X' is not a secret's name"),
            ("${secret:}", "'' is not"),
            ("${secret:../a}", "'../a' is not"),
            ("${secret:a", "a ${ without a secret"),
            ("${env:HOME}", "a ${ without a secret"),
        ] {
            assert!(mistake(value).is_some_and(|found| found.contains(part)), "{value}");
        }
    }
}
