//! The ids of a long text, window by window, equal to those of the whole text at once.
//!
//! What a tokenizer makes of a place depends on the text around it, and at the ends of a window that text is missing:
//! some tokenizers put a space before a text, others strip one, and a word may be cut in two. So windows overlap. In
//! the middle of an overlap both windows must give the same tokens at the same bytes: neither end reaches that far.
//! There one window hands over to the next. Where they disagree nothing is guessed: a longer window is needed.

/// A token and the bytes of the text that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    /// Its id.
    pub id: u32,
    /// Its first byte.
    pub start: usize,
    /// The byte behind its last.
    pub end: usize,
    /// Whether a piece of text that is encoded by itself, such as a word, begins with it.
    pub first: bool,
}

/// Gives the ids of `text` to `take`, in order, from windows of `window` bytes that overlap by at least an eighth of
/// that. Returns false if two windows do not agree; what was taken until then is of no use.
pub(super) fn encode<E>(
    text: &str,
    window: usize,
    encode: impl Fn(&str) -> Result<Vec<Placed>, E>,
    mut take: impl FnMut(&[Placed]) -> Result<(), E>,
) -> Result<bool, E> {
    let place = |range: std::ops::Range<usize>| {
        let mut tokens = encode(&text[range.clone()])?;
        for token in &mut tokens {
            token.start += range.start;
            token.end += range.start;
        }
        Ok(tokens)
    };
    let end_of = |start: usize| {
        let mut end = start.saturating_add(window).min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        end
    };
    let (mut start, mut end) = (0, end_of(0));
    let mut left = place(start..end)?;
    // Tokens of the left window that are taken already.
    let mut done = 0;
    while end < text.len() {
        // A window that starts where one piece of the last one does cuts the text into the same pieces; where pieces are
        // long, one that starts with a token at least.
        let latest = end.saturating_sub(window / 8);
        let near = left.iter().rev().filter(|token| token.start <= latest && text.is_char_boundary(token.start));
        let near = near.take_while(|token| token.start + window / 8 >= latest);
        let next = near.clone().find(|token| token.first).or(near.clone().next()).map(|token| token.start);
        let Some(next) = next.filter(|next| *next > start) else { return Ok(false) };
        let right = place(next..end_of(next))?;
        let Some((upto, from)) = seam(&left, &right, next, end).filter(|(upto, _)| *upto >= done) else {
            return Ok(false);
        };
        take(&left[done..upto])?;
        (left, done, start, end) = (right, from, next, end_of(next));
    }
    take(&left[done..])?;
    Ok(true)
}

/// How many tokens of the left window come before the middle of the overlap `start..end`, and how many of the right one;
/// `None` if the windows differ in the middle half of it, or have nothing there to compare.
fn seam(left: &[Placed], right: &[Placed], start: usize, end: usize) -> Option<(usize, usize)> {
    let margin = (end - start) / 4;
    let inside = |token: &Placed| token.start >= start + margin && token.end <= end - margin;
    let middle = |tokens: &[Placed]| Some(tokens.iter().position(inside)?..tokens.iter().rposition(inside)? + 1);
    let (one, other) = (middle(left)?, middle(right)?);
    let half = one.len() / 2;
    (left[one.clone()] == right[other.clone()]).then_some((one.start + half, other.start + half))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn windows(text: &str, window: usize, tokens: impl Fn(&str) -> Vec<Placed>) -> Option<Vec<u32>> {
        let mut ids = Vec::new();
        let whole = encode(
            text,
            window,
            |text| Ok::<_, Infallible>(tokens(text)),
            |tokens| {
                ids.extend(tokens.iter().map(|token| token.id));
                Ok(())
            },
        );
        whole.unwrap().then_some(ids)
    }

    /// Groups of three characters from the start: windows that start anywhere would never agree.
    #[test]
    fn tokens_that_count_from_the_start_are_met() {
        let text: String = (0..5000).map(|i| char::from(b'a' + (i * i % 23) as u8)).collect();
        let threes = |text: &str| -> Vec<Placed> {
            let id = |group: &[u8]| group.iter().fold(0, |id, byte| id * 256 + u32::from(*byte));
            let groups = text.as_bytes().chunks(3).enumerate();
            groups
                .map(|(i, group)| Placed { id: id(group), start: 3 * i, end: 3 * i + group.len(), first: true })
                .collect()
        };
        let whole: Vec<u32> = threes(&text).iter().map(|token: &Placed| token.id).collect();
        assert_eq!(windows(&text, 640, threes), Some(whole));
    }

    /// An id that depends on the whole text can not be had from windows, and is not.
    #[test]
    fn windows_that_disagree_are_no_answer() {
        let text = "word ".repeat(1000);
        let counted = |text: &str| {
            let id = text.len() as u32;
            let words = text.match_indices("word");
            words.map(|(start, word)| Placed { id, start, end: start + word.len(), first: true }).collect()
        };
        assert_eq!(windows(&text, 640, counted), None);
        assert_eq!(windows(&text, 5000, counted), Some(vec![5000; 1000]));
    }

    /// Where an overlap holds no token at all, nothing says that the windows agree.
    #[test]
    fn an_empty_overlap_is_no_agreement() {
        let text = format!("one{}two", " ".repeat(5000));
        let words = |text: &str| {
            let words = text.split_whitespace().map(|word| (word, word.as_ptr() as usize - text.as_ptr() as usize));
            let placed = |(word, start): (&str, usize)| {
                let (id, end) = (word.len() as u32, start + word.len());
                Placed { id, start, end, first: true }
            };
            words.map(placed).collect()
        };
        assert_eq!(windows(&text, 640, words), None);
    }
}
