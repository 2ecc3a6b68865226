//! Lists and wildcards, of which every drawing of a prompt takes one: `a {red|green} __fruit__`.
//!
//! Stage 1 of the flow: text in, text out, before any weight is read. The notation is that of
//! the sd-dynamic-prompts extension, `docs/SYNTAX.md` and `parser/parse.py` of dynamicprompts
//! 0.31.0:
//!
//! | written | drawn |
//! |---|---|
//! | `{a\|b}` | one of the options; `{a\|}` may draw nothing |
//! | `{3::a\|0.5::b}` | `a` six times as often as `b`; an option without a weight has 1 |
//! | `{2$$a\|b\|c}` | two different ones in any order, with `, ` between |
//! | `{1-2$$ and $$a\|b\|c}` | one or two, with ` and ` between; `-2$$` is from 1, `1-$$` to all |
//! | `__fruit__` | one of the entries of the wildcard `fruit` |
//! | `{2$$__fruit__}` | two different entries |
//! | `__food/*__` | one of the entries of all wildcards whose names match; `*` is any characters, `/` too, and `?` is one |
//!
//! Options and entries may hold lists and wildcards. White space before an option is left out,
//! behind it stays. More options than there are is all of them, `0$$` is none. An option that
//! draws nothing gets no separator. `__fruit__` means `food/fruit` where there is no `fruit`. An
//! entry that stands twice counts once. A backslash makes text of `{`, `}`, `|` and `__`, and within
//! a list of `$`, and two before one of them are one; a backslash elsewhere is text. So is a `}`
//! or `__` that has no partner.
//!
//! Not here, each refused with what to write instead: variables (`${x=…}`), wrapping (`%{…}`),
//! the samplers `@` and `!`, wildcards with variables or with a list in their name. Comments are
//! lines of wildcards only: a `#` in a prompt is text. Numbers of the original are Python's, so
//! a seed draws other prompts there.
//!
//! # What a seed draws
//! Lists are drawn from the left, a list before those in its options. Each takes a number for
//! how many, if that is a range, then one for each option, which is out of those that are left,
//! weighted. The numbers are splitmix64's, scaled to the sum of weights in millionths.

mod parser;
mod random;
mod wildcards;

use std::collections::HashMap;

use random::Numbers;
pub use wildcards::Wildcards;

use crate::error::{Error, Result};

/// Characters of a drawn prompt at most.
const MOST_CHARACTERS: usize = 100_000;
/// Steps of one draw at most: lists in wildcards in lists can make any number out of little text.
const MOST_STEPS: usize = 4_000_000;

/// A prompt with lists and wildcards, read and ready to be drawn.
///
/// ```
/// use std::collections::BTreeMap;
/// use unwrong_prompt::Dynamic;
///
/// let wildcards = BTreeMap::from([("fruit".to_owned(), "apple\npear".to_owned())]);
/// let dynamic = Dynamic::parse("a {red|green} __fruit__", &wildcards)?;
/// assert_eq!(dynamic.combinations(), 4);
/// assert_eq!(dynamic.draw(7)?, "a red apple");
/// # Ok::<(), unwrong_prompt::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Dynamic {
    tables: Tables,
}

impl Dynamic {
    /// Reads `text` and every wildcard that it leads to.
    ///
    /// # Errors
    /// Where the notation is broken, here or in a wildcard; see [`Error`].
    pub fn parse(text: &str, wildcards: &dyn Wildcards) -> Result<Self> {
        Ok(Self { tables: parser::parse(text, wildcards)? })
    }

    /// Whether there is anything to draw.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        !self.tables.lists.is_empty()
    }

    /// The prompt of a seed: the same one for ever. Text without lists is itself.
    ///
    /// # Errors
    /// When it gets longer than 100,000 characters or takes millions of choices.
    pub fn draw(&self, seed: u64) -> Result<String> {
        Draw { tables: &self.tables, numbers: Numbers::new(seed), steps: 0 }.run()
    }

    /// How many draws there are, those that read the same counted apart; `u128::MAX` for more.
    #[must_use]
    pub fn combinations(&self) -> u128 {
        self.tables.combinations()
    }

    /// Text that draws as `text`, whatever that holds.
    #[must_use]
    pub fn escape(text: &str) -> String {
        let mut escaped = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(place) = rest.find(['{', '}', '|', '_']) {
            let (before, after) = rest.split_at(place);
            let length = if after.starts_with("__") { 2 } else { 1 };
            escaped.push_str(before);
            // Those that are there already would be halved.
            let backslashes = before.len() - before.trim_end_matches('\\').len();
            let is_syntax = match after.as_bytes()[0] {
                b'_' => length == 2,
                // Alone it means nothing outside of a list.
                b'|' => backslashes > 0,
                _ => true,
            };
            if is_syntax {
                escaped.extend(std::iter::repeat_n('\\', backslashes + 1));
            }
            escaped.push_str(&after[..length]);
            rest = &after[length..];
        }
        escaped.push_str(rest);
        escaped
    }
}

/// Bytes of [`Tables::text`].
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: usize,
    end: usize,
}

/// A piece of a sequence.
#[derive(Clone, Copy, Debug)]
enum Node {
    Text(Span),
    /// Index of a list; a wildcard is a list of its entries.
    List(usize),
}

/// An option or an entry.
#[derive(Clone, Copy, Debug)]
struct Choice {
    /// In millionths, so that sums are exact on every machine.
    weight: u64,
    /// Index of a sequence.
    sequence: usize,
}

#[derive(Clone, Debug)]
enum Choices {
    Own(Vec<Choice>),
    /// Those of another list.
    Of(usize),
}

#[derive(Clone, Debug)]
struct List {
    least: usize,
    /// `None` for as many as there are.
    most: Option<usize>,
    separator: Span,
    choices: Choices,
}

/// The weights of a list's own choices.
#[derive(Clone, Copy, Debug, Default)]
struct Weights {
    total: u64,
    /// How many are above 0.
    positive: usize,
    /// The weight of each, where all are the same.
    each: Option<u64>,
}

impl Weights {
    fn new(choices: &[Choice]) -> Self {
        let weights = choices.iter().map(|choice| choice.weight);
        let first = weights.clone().next();
        Self {
            total: weights.clone().sum(),
            positive: weights.clone().filter(|weight| *weight > 0).count(),
            each: first.filter(|first| weights.clone().all(|weight| weight == *first)),
        }
    }
}

/// Everything that was read, flat: nothing here needs the call stack, not even to be dropped.
#[derive(Clone, Debug, Default)]
struct Tables {
    text: String,
    nodes: Vec<Node>,
    /// Ranges of `nodes`.
    sequences: Vec<Span>,
    lists: Vec<List>,
    /// Those of every list, once all are read.
    weights: Vec<Weights>,
    /// The lists, each after those that it draws from.
    order: Vec<usize>,
    /// The sequence of the prompt.
    root: usize,
}

impl Tables {
    fn push_text(&mut self, text: &str) -> Span {
        let start = self.text.len();
        self.text.push_str(text);
        Span { start, end: self.text.len() }
    }

    fn push_sequence(&mut self, nodes: Vec<Node>) -> usize {
        let start = self.nodes.len();
        self.nodes.extend(nodes);
        self.sequences.push(Span { start, end: self.nodes.len() });
        self.sequences.len() - 1
    }

    fn push_list(&mut self, list: List) -> usize {
        self.lists.push(list);
        self.lists.len() - 1
    }

    fn text(&self, span: Span) -> &str {
        &self.text[span.start..span.end]
    }

    fn sequence(&self, sequence: usize) -> &[Node] {
        let span = self.sequences[sequence];
        &self.nodes[span.start..span.end]
    }

    /// The list whose choices `list` draws.
    fn source(&self, list: usize) -> usize {
        match self.lists[list].choices {
            Choices::Own(_) => list,
            Choices::Of(other) => other,
        }
    }

    fn choices(&self, list: usize) -> &[Choice] {
        self.own(self.source(list))
    }

    /// Completes the tables once all lists are read; `names` are the wildcards'.
    fn finish(&mut self, names: &HashMap<usize, String>) -> Result<()> {
        self.weights = (0..self.lists.len()).map(|list| Weights::new(self.own(list))).collect();
        self.put_in_order(names)
    }

    fn own(&self, list: usize) -> &[Choice] {
        match &self.lists[list].choices {
            Choices::Own(choices) => choices,
            Choices::Of(_) => &[],
        }
    }

    /// The lists that `list` draws from.
    fn inner_lists(&self, list: usize) -> Vec<usize> {
        match &self.lists[list].choices {
            Choices::Of(other) => vec![*other],
            Choices::Own(choices) => {
                let nodes = choices.iter().flat_map(|choice| self.sequence(choice.sequence));
                let inner = nodes.filter_map(|node| match node {
                    Node::List(inner) => Some(*inner),
                    Node::Text(_) => None,
                });
                inner.collect()
            }
        }
    }

    /// Finds `order`, or the wildcards that lead back to themselves.
    fn put_in_order(&mut self, names: &HashMap<usize, String>) -> Result<()> {
        #[derive(Clone, Copy, PartialEq)]
        enum State {
            New,
            Open,
            Done,
        }
        let mut states = vec![State::New; self.lists.len()];
        for root in 0..self.lists.len() {
            let mut path = vec![(root, None)];
            while let Some((list, inner)) = path.pop() {
                let mut inner: Vec<usize> = match (inner, states[list]) {
                    (Some(inner), _) => inner,
                    (None, State::New) => self.inner_lists(list),
                    (None, _) => continue,
                };
                states[list] = State::Open;
                let Some(next) = inner.pop() else {
                    states[list] = State::Done;
                    self.order.push(list);
                    continue;
                };
                path.push((list, Some(inner)));
                if states[next] == State::Open {
                    let round = path.iter().skip_while(|(list, _)| *list != next);
                    let round = round.map(|(list, _)| *list).chain([next]);
                    let names = round.filter_map(|list| names.get(&list).cloned()).collect();
                    return Err(Error::WildcardCycle { names });
                }
                path.push((next, None));
            }
        }
        Ok(())
    }

    fn combinations(&self) -> u128 {
        let mut counts = vec![1_u128; self.lists.len()];
        let count = |sequence: usize, counts: &[u128]| {
            self.sequence(sequence).iter().fold(1_u128, |count, node| match node {
                Node::List(list) => count.saturating_mul(counts[*list]),
                Node::Text(_) => count,
            })
        };
        for &list in &self.order {
            let choices = self.choices(list).iter().filter(|choice| choice.weight > 0);
            let each: Vec<u128> = choices.map(|choice| count(choice.sequence, &counts)).collect();
            counts[list] = self.lists[list].combinations(&each);
        }
        count(self.root, &counts)
    }
}

impl List {
    /// How many options are drawn at least and at most, of `available`.
    fn range(&self, available: usize) -> (usize, usize) {
        (self.least.min(available), self.most.unwrap_or(available).min(available))
    }

    /// The number of draws where the options have `each`.
    fn combinations(&self, each: &[u128]) -> u128 {
        /// Orders of more options than this are more than `u128::MAX`.
        const MOST: usize = 35;
        let (least, most) = self.range(each.len());
        // Sets of n options, n = 0, 1, …
        let mut sets = vec![0_u128; most.min(MOST) + 1];
        sets[0] = 1;
        for &count in each {
            for n in (1..sets.len()).rev() {
                sets[n] = sets[n].saturating_add(sets[n - 1].saturating_mul(count));
            }
        }
        let mut orders = 1_u128;
        let mut total = 0_u128;
        for (n, sets) in sets.into_iter().enumerate() {
            orders = orders.saturating_mul((n as u128).max(1));
            if n >= least {
                total = total.saturating_add(sets.saturating_mul(orders));
            }
        }
        if least > MOST { u128::MAX } else { total }
    }
}

/// One draw under way.
struct Draw<'a> {
    tables: &'a Tables,
    numbers: Numbers,
    steps: usize,
}

/// What is still to be written.
enum Task {
    Nodes(Span),
    /// The separator of a list whose first option starts at this byte of what is drawn.
    Separator(Span, usize),
    /// The option after the separator ends.
    OptionEnd,
}

impl Draw<'_> {
    fn run(mut self) -> Result<String> {
        let mut drawn = String::new();
        let mut characters = 0;
        let mut tasks = vec![Task::Nodes(self.tables.sequences[self.tables.root])];
        // Where the separators stand that nothing may come after yet.
        let mut separators: Vec<Span> = Vec::new();
        while let Some(task) = tasks.pop() {
            let text = match task {
                Task::OptionEnd => {
                    let separator = separators.pop().expect("every option end has a separator");
                    if drawn.len() == separator.end {
                        drawn.truncate(separator.start);
                    }
                    continue;
                }
                Task::Separator(text, list) => {
                    let start = drawn.len();
                    let text = if start == list { Span::default() } else { text };
                    separators.push(Span { start, end: start + text.end - text.start });
                    text
                }
                Task::Nodes(nodes) if nodes.start == nodes.end => continue,
                Task::Nodes(nodes) => {
                    tasks.push(Task::Nodes(Span { start: nodes.start + 1, ..nodes }));
                    match self.tables.nodes[nodes.start] {
                        Node::Text(text) => text,
                        Node::List(list) => {
                            self.push_options(list, drawn.len(), &mut tasks)?;
                            continue;
                        }
                    }
                }
            };
            let text = self.tables.text(text);
            drawn.push_str(text);
            characters += text.chars().count();
            // Without anything to draw it is what was written, of any length.
            if characters > MOST_CHARACTERS && !self.tables.lists.is_empty() {
                return Err(Error::DrawnTooLong { limit: MOST_CHARACTERS });
            }
        }
        Ok(drawn)
    }

    /// Draws from a list at byte `at`; what was drawn comes first on the stack.
    fn push_options(&mut self, list: usize, at: usize, tasks: &mut Vec<Task>) -> Result<()> {
        let tables = self.tables;
        let weights = tables.weights[tables.source(list)];
        let choices = tables.choices(list);
        let list = &tables.lists[list];
        let (least, most) = list.range(weights.positive);
        let mut count = least;
        if most > least {
            count += self.numbers.below((most - least + 1) as u64) as usize;
        }
        let quick = count == 1 && weights.each.is_some();
        self.steps += if quick { 1 } else { 1 + choices.len() };
        if self.steps > MOST_STEPS {
            return Err(Error::TooManyChoices { limit: MOST_STEPS });
        }
        let drawn = match weights.each {
            Some(each) if quick => vec![(self.numbers.below(weights.total) / each) as usize],
            _ => self.options(choices, weights.total, count),
        };
        for (n, option) in drawn.into_iter().enumerate().rev() {
            let option = Task::Nodes(tables.sequences[choices[option].sequence]);
            if n == 0 {
                tasks.push(option);
            } else {
                tasks.extend([Task::OptionEnd, option, Task::Separator(list.separator, at)]);
            }
        }
        Ok(())
    }

    /// The indices of `count` different choices, in the order in which they are drawn.
    fn options(&mut self, choices: &[Choice], mut total: u64, count: usize) -> Vec<usize> {
        let mut sums = Sums::new(choices.iter().map(|choice| choice.weight));
        let mut drawn = Vec::with_capacity(count);
        for _ in 0..count {
            let option = sums.find(self.numbers.below(total));
            let weight = choices[option].weight;
            sums.remove(option, weight);
            total -= weight;
            drawn.push(option);
        }
        drawn
    }
}

/// Partial sums of weights, from which one can be removed in logarithmic time.
///
/// Fenwick 1994, "A new data structure for cumulative frequency tables".
struct Sums(Vec<u64>);

impl Sums {
    fn new(weights: impl Iterator<Item = u64>) -> Self {
        let mut sums: Vec<u64> = [0].into_iter().chain(weights).collect();
        for place in 1..sums.len() {
            let parent = place + (place & place.wrapping_neg());
            if parent < sums.len() {
                sums[parent] += sums[place];
            }
        }
        Self(sums)
    }

    /// The index whose weight, after those before it, reaches above `left`.
    fn find(&self, mut left: u64) -> usize {
        let mut place = 0;
        let mut step = (self.0.len() - 1).checked_ilog2().map_or(0, |bits| 1 << bits);
        while step > 0 {
            if place + step < self.0.len() && self.0[place + step] <= left {
                place += step;
                left -= self.0[place];
            }
            step /= 2;
        }
        place
    }

    fn remove(&mut self, index: usize, weight: u64) {
        let mut place = index + 1;
        while place < self.0.len() {
            self.0[place] -= weight;
            place += place & place.wrapping_neg();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_options_are_drawn_as_one_after_the_other_would_be() {
        let weights = [3, 0, 5, 1, 1, 0, 7, 2, 4];
        let mut sums = Sums::new(weights.into_iter());
        let mut left = weights;
        let mut numbers = Numbers::new(1);
        while left.iter().sum::<u64>() > 0 {
            let number = numbers.below(left.iter().sum());
            let mut before = 0;
            let expected = left.iter().position(|weight| {
                before += weight;
                before > number
            });
            let found = sums.find(number);
            assert_eq!(Some(found), expected);
            sums.remove(found, left[found]);
            left[found] = 0;
        }
    }
}
