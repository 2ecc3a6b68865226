//! Prompts from pieces of syntax, each changed from one that showed something new.

/// The longest prompt in bytes, so that a reader in quadratic time is seen.
const MOST_BYTES: usize = 1 << 15;
/// The longest that is kept: short ones are read by the thousand.
const MOST_KEPT_BYTES: usize = 1 << 10;
/// Prompts that are kept at most.
const MOST_KEPT: usize = 1 << 13;

const PIECES: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ":",
    "|",
    "\\",
    ",",
    ".",
    " ",
    "\"",
    "+",
    "-",
    "=",
    "$",
    "_",
    "<",
    ">",
    "!",
    "%",
    "~",
    "@",
    "#",
    "'",
    "a",
    "cat",
    "red apple",
    "1",
    "0",
    "1.3",
    "0.5",
    ".5",
    "-1",
    "1e5",
    "++",
    "--",
    "\\(",
    "\\)",
    "\\[",
    "\\]",
    "\\\"",
    "\\\\",
    "\\|",
    "\\{",
    "\\}",
    "\\_",
    "()",
    "\"\"",
    "(a:1.3)",
    "(a:0)",
    "(a:-1)",
    "(a:nan)",
    "(a:inf)",
    ":1.2)",
    ": 1.2 )",
    "(a)++",
    ")0.4",
    ")++",
    "\"-",
    ".attend(",
    ".attend(1.2)",
    ".swap(",
    ".swap(dog)",
    ", s_start=0.1)",
    "withLora(",
    "withLora(x, 0.5)",
    "useLora(x)",
    ".and(",
    ".and()",
    ".and(1, 0.5)",
    ".add(",
    ".blend(",
    ".blend(0.7, 0.3)",
    ".blend(1, 1, no_normalize)",
    "(\"a\", \"b\").and()",
    "(\"a\", \"b\").blend(1, 2)",
    "\", \"",
    "[a:b:0.5]",
    "[a:b:5]",
    "[a|b]",
    "[a::3]",
    "[:b:.5]",
    ":0.5]",
    ":5]",
    "|b]",
    "BREAK",
    " BREAK ",
    "AND",
    " AND ",
    ":1.2 AND ",
    "<lora:",
    "<lora:x:1>",
    "<lora:x:te=0.5:unet=1>",
    "<hypernet:y:1>",
    "embedding:",
    " embedding:x,",
    "{a|b}",
    "{2$$",
    "$$",
    "{1-2$$ and $$a|b}",
    "3::",
    "0::",
    "__",
    "__fruit__",
    "__food/*__",
    "__round__",
    "${",
    "%{",
    "\n",
    "\t",
    "\r",
    "\u{b}",
    "\u{a0}",
    "\u{2028}",
    "\0",
    "\0\u{1}",
    "é",
    "e\u{301}",
    "日本",
    "😀",
    "\u{130}",
    "½",
    "٣",
    "<|endoftext|>",
    "<|startoftext|>",
    "!!!",
    "'s",
];

/// Splitmix64, so that a seed is the same prompts on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not zero.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A place between two characters.
    fn place(&mut self, text: &str) -> usize {
        let mut place = self.below(text.len() + 1);
        while !text.is_char_boundary(place) {
            place -= 1;
        }
        place
    }

    /// Two places in order, mostly near each other.
    fn range(&mut self, text: &str) -> std::ops::Range<usize> {
        let start = self.place(text);
        let longest = if self.below(4) == 0 { text.len() } else { 24 };
        let mut end = (start + self.below(longest + 1)).min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        start..end
    }
}

pub(crate) struct Prompts {
    random: Random,
    kept: Vec<String>,
}

impl Prompts {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random(seed), kept: vec![String::new()] }
    }

    /// One more prompt to change.
    pub(crate) fn keep(&mut self, text: String) {
        if text.len() > MOST_KEPT_BYTES {
            return;
        }
        if self.kept.len() < MOST_KEPT {
            self.kept.push(text);
        } else {
            let place = self.random.below(MOST_KEPT);
            self.kept[place] = text;
        }
    }

    pub(crate) fn next(&mut self) -> String {
        let place = self.random.below(self.kept.len());
        let mut text = self.kept[place].clone();
        for _ in 0..=self.random.below(6) {
            self.change(&mut text);
        }
        if self.random.below(256) == 0 {
            let range = self.random.range(&text);
            text.push_str(&text[range].repeat(self.random.below(4096)));
        }
        let mut end = text.len().min(MOST_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text
    }

    fn change(&mut self, text: &mut String) {
        let random = &mut self.random;
        match random.below(12) {
            0..4 => text.insert_str(random.place(text), PIECES[random.below(PIECES.len())]),
            4 | 5 => text.replace_range(random.range(text), ""),
            6 => text.replace_range(random.range(text), PIECES[random.below(PIECES.len())]),
            7 => {
                let copied = text[random.range(text)].to_owned();
                text.insert_str(random.place(text), &copied);
            }
            8 => {
                let repeated = text[random.range(text)].repeat(random.below(9));
                text.insert_str(random.place(text), &repeated);
            }
            9 => {
                let other = &self.kept[random.below(self.kept.len())];
                let taken = &other[random.range(other)];
                text.insert_str(random.place(text), taken);
            }
            10 => {
                const PAIRS: [(&str, &str); 6] = [
                    ("(", ")"),
                    ("[", "]"),
                    ("\"", "\""),
                    ("{", "}"),
                    ("(", ":1.1)"),
                    ("__", "__"),
                ];
                let range = random.range(text);
                let (open, close) = PAIRS[random.below(PAIRS.len())];
                text.insert_str(range.end, close);
                text.insert_str(range.start, open);
            }
            _ => {
                let any = char::from_u32(random.below(0x3000) as u32).unwrap_or(' ');
                text.insert(random.place(text), any);
            }
        }
    }
}
