//! What a user may have meant by a name that is not known.

use strsim::damerau_levenshtein;

/// The most similar name, if one is similar at all.
pub fn closest<'a>(wanted: &str, names: &'a [String]) -> Option<&'a String> {
    let wanted = wanted.to_lowercase();
    let length = wanted.chars().count();
    let similar = names.iter().filter_map(|name| {
        let lower = name.to_lowercase();
        let distance = damerau_levenshtein(&wanted, &lower);
        // A name is more often begun than mistyped; and one that has no letter in common is another.
        let is_begun = lower.starts_with(&wanted) || wanted.starts_with(&lower);
        let is_similar = distance <= (length / 3).max(1) && (distance < length || is_begun);
        is_similar.then_some(((distance, !is_begun), name))
    });
    similar.min_by_key(|(rank, _)| *rank).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_similar_name_is_found() {
        let cases = [
            ("t", "k ts", Some("ts")),
            ("t", "k v", None),
            ("prise", "id price bid", Some("price")),
            ("Price", "id price", Some("price")),
            ("window_strat", "window_start window_end", Some("window_start")),
            ("colour", "id price", None),
        ];
        for (wanted, names, expected) in cases {
            let names: Vec<String> = names.split(' ').map(str::to_owned).collect();
            assert_eq!(closest(wanted, &names).map(String::as_str), expected, "{wanted}");
        }
    }
}
