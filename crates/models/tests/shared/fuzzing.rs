//! Random damage for some minutes, the same for the same seed.

#![expect(clippy::print_stderr, reason = "a run of ten minutes says what it did")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Longest that one file of a few kilobytes may take.
const LONGEST: Duration = Duration::from_secs(2);
/// Most memory of the whole run.
const MOST_MEMORY_MB: u64 = 1024;

/// `SplitMix64` of Steele, Lea and Flood 2014.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(crate) fn choose<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Tries files from `make` until the time is over; `read` says whether one was accepted.
pub(crate) fn fuzz(
    what: &str,
    mut make: impl FnMut(&mut Random) -> Vec<u8>,
    read: impl Fn(Vec<u8>) -> Result<(), String>,
) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("UNWRONG_FUZZ_SECONDS").unwrap_or(2);
    let seed = number("UNWRONG_FUZZ_SEED").unwrap_or(0);
    let first = number("UNWRONG_FUZZ_FIRST").unwrap_or(0);
    let start = Instant::now();
    let (mut tried, mut accepted, mut slowest) = (first, 0_u64, Duration::ZERO);
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    while start.elapsed() < Duration::from_secs(seconds) {
        let bytes = make(&mut Random(seed ^ tried.wrapping_mul(0xD134_2543_DE82_EF95)));
        let before = processor_time().unwrap_or_else(|| start.elapsed());
        let result = catch_unwind(AssertUnwindSafe(|| read(bytes)));
        let took = processor_time().unwrap_or_else(|| start.elapsed()).saturating_sub(before);
        let Ok(result) = result else { panic!("{what}: seed {seed}, file {tried} panics") };
        assert!(took < LONGEST, "{what}: seed {seed}, file {tried} takes {took:?}");
        slowest = slowest.max(took);
        tried += 1;
        match result {
            Ok(()) => accepted += 1,
            Err(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    let memory = peak_memory_mb();
    eprintln!(
        "{what}: seed {seed}, files {first} to {tried} in {seconds} s, {accepted} accepted, slowest \
        {slowest:?}, peak memory {memory:?} MB, {} kinds of refusal",
        reasons.len()
    );
    for (reason, count) in &reasons {
        eprintln!("  {count:>9}  {reason}");
    }
    // Else the damage reaches no more than the outermost check.
    assert!(first > 0 || accepted > 0 && reasons.len() > 3, "{what}");
    assert!(memory.is_none_or(|memory| memory < MOST_MEMORY_MB), "{what}: {memory:?} MB");
}

/// Time this thread has run, which does not count when the machine is busy with something else.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

fn peak_memory_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

/// Changes some bytes, takes some out, puts some in.
pub(crate) fn damage(bytes: &mut Vec<u8>, random: &mut Random, corpus: &[Vec<u8>]) {
    const ODD: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, b'(', b't', b'R', b'u', b's', b'.', 0x94];

    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let end = (at + random.below(16)).min(bytes.len());
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 if at < bytes.len() => bytes[at] = *random.choose(&ODD),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].repeat(1 + random.below(8));
                bytes.splice(at..at, again);
            }
            5 => {
                let other = random.choose(corpus);
                let from = random.below(other.len());
                let to = (from + random.below(64)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            _ => {
                let wide = random.next() >> random.below(64);
                let wide = &wide.to_le_bytes()[..[1, 2, 4, 8][random.below(4)]];
                let end = (at + wide.len()).min(bytes.len());
                bytes.splice(at..end, wide.iter().copied());
            }
        }
    }
}

/// The reason of a refusal without its names and numbers.
pub(crate) fn reason(message: &str) -> String {
    assert!(message.len() < 4096, "an error of {} bytes", message.len());
    // Every second part lies between backticks.
    let parts: Vec<&str> = message.split('`').step_by(2).collect();
    let text = parts.join("…").replace(|letter: char| letter.is_ascii_digit(), "");
    text.chars().take(100).collect()
}
