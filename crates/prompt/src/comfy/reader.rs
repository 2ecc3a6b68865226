//! Brackets to weighted segments.
//!
//! ComfyUI's `token_weights` calls itself for what a bracket holds and reads it again each
//! time. Here brackets are paired once. Two cases are not what one would expect:
//!
//! - After a `)` without partner the next `(` has none either.
//! - The last `(` without partner starts a segment up to the end. If that ends in a `)`, the
//!   two are taken for a pair, and the one that the `)` belonged to is without partner next.

use std::collections::VecDeque;
use std::ops::Range;

use crate::python::float;

/// The segments of `text` and their weights, in order.
pub(super) fn read(text: &str) -> Vec<(&str, f64)> {
    let (pairs, mut unclosed) = Pairs::new(text);
    let mut segments = Vec::new();
    let (mut rest, mut weight) = (0..text.len(), 1.0);
    loop {
        let last = unclosed.pop_front().unwrap_or(rest.end).min(rest.end);
        pairs.read(rest.start..last, weight, &mut segments);
        if last == rest.end {
            return segments;
        }
        let item = last..rest.end;
        let Some(close) = item.end.checked_sub(1).filter(|&end| text.as_bytes()[end] == b')')
        else {
            segments.push((&text[item], weight));
            return segments;
        };
        unclosed.extend(pairs.partner[close]);
        (rest, weight) = pairs.content(item, weight);
    }
}

/// Where brackets and colons are.
struct Pairs<'a> {
    text: &'a str,
    /// Brackets that open at level zero or above it.
    opening: Vec<usize>,
    /// For each place, the bracket that belongs to the one there.
    partner: Vec<Option<usize>>,
    brackets: Vec<usize>,
    colons: Vec<usize>,
}

impl<'a> Pairs<'a> {
    /// Also returns the brackets that nothing closes.
    fn new(text: &'a str) -> (Self, VecDeque<usize>) {
        let partner = vec![None; text.len()];
        let (opening, brackets, colons) = (Vec::new(), Vec::new(), Vec::new());
        let mut pairs = Self { text, opening, partner, brackets, colons };
        let mut open = Vec::new();
        let mut below_zero = 0_usize;
        for (place, byte) in text.bytes().enumerate() {
            match byte {
                b'(' if below_zero > 0 => below_zero -= 1,
                b'(' => {
                    open.push(place);
                    pairs.opening.push(place);
                }
                b')' => match open.pop() {
                    Some(start) => {
                        pairs.partner[start] = Some(place);
                        pairs.partner[place] = Some(start);
                    }
                    None => below_zero += 1,
                },
                b':' => pairs.colons.push(place),
                _ => {}
            }
            if matches!(byte, b'(' | b')') {
                pairs.brackets.push(place);
            }
        }
        (pairs, open.into())
    }

    /// The segments of `range`, in which every bracket has its partner or is text.
    fn read(&self, range: Range<usize>, weight: f64, segments: &mut Vec<(&'a str, f64)>) {
        let mut ranges = vec![(range, weight)];
        while let Some((range, weight)) = ranges.pop() {
            if range.is_empty() {
                continue;
            }
            let next = self.opening.partition_point(|&place| place < range.start);
            let start = self.opening.get(next).map_or(range.end, |&start| start.min(range.end));
            if start > range.start {
                segments.push((&self.text[range.start..start], weight));
            }
            if let Some(end) =
                self.partner.get(start).copied().flatten().filter(|_| start < range.end)
            {
                ranges.push((end + 1..range.end, weight));
                ranges.push(self.content(start..end + 1, weight));
            }
        }
    }

    /// What the brackets at both ends of `item` hold, less its weight, and that weight.
    fn content(&self, item: Range<usize>, weight: f64) -> (Range<usize>, f64) {
        let content = item.start + 1..item.end - 1;
        let before_end = |places: &[usize]| {
            let count = places.partition_point(|&place| place < content.end);
            places[..count].last().copied().filter(|&place| place > content.start)
        };
        // A weight is a number, so no bracket can follow the colon.
        let colon =
            before_end(&self.colons).filter(|&colon| before_end(&self.brackets) < Some(colon));
        let number = colon.and_then(|colon| float(&self.text[colon + 1..content.end]));
        match colon.zip(number) {
            Some((colon, number)) => (content.start..colon, number),
            None => (content, weight * 1.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn numbers_replace_and_brackets_multiply() {
        let plain = 1.1;
        assert_eq!(
            read("a (b (c:2) (d)) e"),
            [("a ", 1.0), ("b ", plain), ("c", 2.0), (" ", plain), ("d", plain * 1.1), (" e", 1.0),]
        );
        assert_eq!(
            read("((a:1.5):0.5)(:3)(b:x)(c: 1e1 )"),
            [("a", 1.5), (":3", plain), ("b:x", plain), ("c", 10.0),]
        );
    }

    #[test]
    fn brackets_without_partners_shift_what_follows() {
        assert_eq!(read("a) (b) (c)"), [("a) (b) (c)", 1.0)]);
        assert_eq!(read("(a (b)"), [("a ", 1.1), ("(b", 1.1)]);
        assert_eq!(read("(a (b:2)"), [("a ", 2.0), ("(b", 2.0)]);
        assert_eq!(read("(a (b"), [("(a (b", 1.0)]);
    }
}
