//! "Did you mean".

/// The candidate that a misspelt word most likely stands for.
pub fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // A third of the word may be wrong, and a swap counts as one mistake.
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| match candidate.eq_ignore_ascii_case(word) {
            true => (0, candidate),
            false => (strsim::osa_distance(word, candidate), candidate),
        })
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let classes = ["credentials", "secrets", "routine"];
        assert_eq!(did_you_mean("credentails", classes), Some("credentials"));
        assert_eq!(did_you_mean("rutine", classes), Some("routine"));
        assert_eq!(did_you_mean("ROUTINE", classes), Some("routine"));
        assert_eq!(did_you_mean("everything", classes), None);
    }
}
