//! Texts that come again and again, kept once, and no more of them than there
//! is room for: whoever fills a log with names of his own fills no memory.

use std::collections::HashMap;
use std::rc::Rc;

/// Characters of a text that are kept.
const KEPT: usize = 256;

/// A text that was seen, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Word {
    /// The record has none.
    None,
    /// One for which there was no room any more.
    Other,
    /// See [`Words::text`].
    Known(u32),
}

#[derive(Debug)]
pub(super) struct Words {
    max: usize,
    numbers: HashMap<Rc<str>, u32>,
    texts: Vec<Rc<str>>,
}

impl Words {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            numbers: HashMap::new(),
            texts: Vec::new(),
        }
    }

    pub(super) fn word(&mut self, text: Option<&str>) -> Word {
        let Some(text) = text else {
            return Word::None;
        };
        // Those with one beginning are taken for one.
        let cut = text.char_indices().nth(KEPT).map(|(at, _)| at);
        let text = cut.and_then(|at| text.get(..at)).unwrap_or(text);
        if let Some(number) = self.numbers.get(text) {
            return Word::Known(*number);
        }
        let Some(number) = u32::try_from(self.texts.len())
            .ok()
            .filter(|_| self.texts.len() < self.max)
        else {
            return Word::Other;
        };
        let kept: Rc<str> = match cut {
            Some(_) => format!("{text}…").into(),
            None => text.into(),
        };
        self.texts.push(Rc::clone(&kept));
        self.numbers.insert(text.into(), number);
        Word::Known(number)
    }

    /// `None` where the records had none; for [`Word::Other`], `others`.
    pub(super) fn text<'a>(&'a self, word: Word, others: &'a str) -> Option<&'a str> {
        match word {
            Word::None => None,
            Word::Other => Some(others),
            Word::Known(number) => self
                .texts
                .get(usize::try_from(number).ok()?)
                .map(AsRef::as_ref),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_texts_takes_bounded_room() {
        let mut words = Words::new(100);
        let alice = words.word(Some("alice"));
        for number in 0..1000 {
            words.word(Some(&format!("{number}{}", "é".repeat(9000))));
        }
        assert_eq!(words.word(Some("alice")), alice);
        assert_eq!(words.text(alice, "…"), Some("alice"));
        assert_eq!(words.word(Some("late")), Word::Other);
        assert_eq!(words.text(Word::Other, "others"), Some("others"));
        assert_eq!(words.word(None), Word::None);
        assert!(words.texts.len() <= 100);
        assert!(words.texts.iter().all(|it| it.chars().count() <= KEPT + 1));
    }
}
