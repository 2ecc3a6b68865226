//! How much memory is free, and whether a picture fits into it.
//!
//! Weights lie in file maps, which the system takes back where it must; what counts is the
//! activations. Without `memory` in [`Options`](crate::Options) they may take what is free.

use std::fs;

use unwrong_models::kept_bytes;
use unwrong_models::unet::Unet;
use unwrong_models::vae::{Tiling, Work};

use crate::error::{Error, Result};
use crate::pipeline::{Pipeline, VAE_FACTOR};
use crate::plan::Plan;
use crate::request::Size;

/// Bytes that this process may still take: what the system calls available, or what is left of
/// the limits of its control group, those above and its address space, and what earlier layers
/// left for reuse.
/// Unknown outside Linux.
#[must_use]
pub fn free() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let system = read("/proc/meminfo").and_then(|text| available(&text));
    let groups = folders(&read("/proc/self/cgroup").unwrap_or_default());
    let groups = groups.iter().filter_map(|(folder, [limit, used])| {
        let read = |name: &str| read(&format!("{folder}/{name}"));
        left_of_group(&read(limit)?, &read(used)?, &read("memory.stat").unwrap_or_default())
    });
    let address_space = left_of_address_space(
        &read("/proc/self/limits").unwrap_or_default(),
        &read("/proc/self/statm").unwrap_or_default(),
    );
    let least = system.into_iter().chain(groups).chain(address_space).min()?;
    Some(least + kept_bytes() as u64)
}

/// What is left of `ulimit -v`, from the texts of `/proc/self/limits` and `/proc/self/statm`.
fn left_of_address_space(limits: &str, statm: &str) -> Option<u64> {
    const PAGE: u64 = 4096;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
    let pages: u64 = statm.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(pages * PAGE))
}

/// Names of the files that hold a group's limit and what it uses.
type Names = [&'static str; 2];

/// Where the limits of this process's group and of every group above it stand, from the text of
/// `/proc/self/cgroup`: lines `0::/path` (version 2) or `n:memory:/path` (version 1).
fn folders(groups: &str) -> Vec<(String, Names)> {
    const TWO: (&str, Names) = ("/sys/fs/cgroup", ["memory.max", "memory.current"]);
    const ONE: (&str, Names) =
        ("/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.usage_in_bytes"]);
    // In a container the path may be the host's, but the root there is the container's.
    let mut all = vec![(TWO.0.to_owned(), TWO.1), (ONE.0.to_owned(), ONE.1)];
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, names) = match controllers {
            "" => TWO,
            _ if controllers.split(',').any(|name| name == "memory") => ONE,
            _ => continue,
        };
        let ends = path.match_indices('/').skip(1).map(|(at, _)| at).chain([path.len()]);
        let above = ends.map(|end| (format!("{root}{}", &path[..end]), names));
        all.extend(above.filter(|_| path.len() > 1));
    }
    all
}

/// Reads `MemAvailable:    123456 kB`.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// A limit of `max` is none. Cached files count as used, and make room when asked to.
fn left_of_group(limit: &str, used: &str, stat: &str) -> Option<u64> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let cached = ["inactive_file", "active_file"].iter().filter_map(|name| {
        let line = stat.lines().find(|line| line.split(' ').next() == Some(name))?;
        number(line.split(' ').nth(1)?)
    });
    let used = number(used)?.saturating_sub(cached.sum());
    Some(number(limit)?.saturating_sub(used))
}

impl Pipeline {
    /// What activations may take now, in bytes; absent where nobody knows.
    #[must_use]
    pub fn memory(&self) -> Option<u64> {
        self.memory.or_else(free)
    }

    /// What encoding a picture of this size takes, in bytes, as estimated.
    #[must_use]
    pub fn encode_bytes(&self, size: Size) -> u64 {
        self.vae.plan_encode(latents(size), None).whole_bytes
    }

    /// What activations may take now, in bytes; absent where nobody knows.
    ///
    /// Refuses a picture whose steps, or whose decode even in the smallest tiles, need more.
    pub(crate) fn budget<'a>(&self, plans: impl Iterator<Item = &'a Plan>) -> Result<Option<u64>> {
        let Some(budget) = self.memory() else { return Ok(None) };
        let refiner = self.refiner.as_ref().map(|refiner| &refiner.unet);
        for plan in plans {
            let steps = [Some(&self.base.unet), refiner].into_iter().flatten();
            let steps = steps.map(|unet| ("a step", step_bytes(unet, plan, 1)));
            let decode = self.plan_decode(plan.size, Some(budget));
            let decode = (decoding(decode.tiling), decode.bytes);
            for (what, needs) in steps.chain([decode]) {
                if needs > budget {
                    return Err(Error::NotEnoughMemory { what, size: plan.size, needs, budget });
                }
            }
        }
        Ok(Some(budget))
    }

    /// How to decode a picture of this size.
    pub(crate) fn plan_decode(&self, size: Size, budget: Option<u64>) -> Work {
        self.vae.plan_decode(latents(size), budget)
    }
}

fn decoding(tiling: Tiling) -> &'static str {
    match tiling {
        Tiling::Whole => "decoding",
        Tiling::Tiles { .. } => "decoding, even in tiles,",
    }
}

/// What the user should know of a decode in tiles.
pub(crate) fn tiling_warning(work: &Work, budget: Option<u64>) -> Option<String> {
    let Tiling::Tiles { side } = work.tiling else { return None };
    Some(format!(
        "the picture is decoded in overlapping tiles of {} pixels, so tones may differ and edges \
         may show between them: at once it would take {}, and {} may be used",
        side as u32 * VAE_FACTOR,
        gigabytes(work.whole_bytes),
        gigabytes(budget.unwrap_or_default()),
    ))
}

/// `1.43 GB`, of 10⁹ bytes.
#[must_use]
pub fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// What a step of so many pictures takes, in bytes, as estimated.
pub(crate) fn step_bytes(unet: &Unet, plan: &Plan, pictures: usize) -> u64 {
    let batch = pictures * plan.rows();
    // A chunk of 75 tokens is seldom less than 150 bytes; keys are a small part of the whole.
    let tokens = 77 * (1 + plan.prompt.len() / 150);
    unet.bytes(batch, latents(plan.size), tokens)
}

fn latents(size: Size) -> [usize; 2] {
    [size.height, size.width].map(|side| (side / VAE_FACTOR) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_space_has_a_limit_or_none() {
        let limits = |limit: &str| {
            format!(
                "Max cpu time   unlimited  unlimited  seconds\nMax address space   {limit}  x  bytes\n"
            )
        };
        assert_eq!(left_of_address_space(&limits("unlimited"), "3 2 1"), None);
        assert_eq!(left_of_address_space(&limits("20480"), "3 2 1"), Some(8192));
        assert_eq!(left_of_address_space(&limits("4096"), "3 2 1"), Some(0));
        assert_eq!(left_of_address_space("", ""), None);
    }

    #[test]
    fn available_memory_is_read_in_bytes() {
        let meminfo = "MemTotal:  9000 kB\nMemFree:  100 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available(meminfo), Some(2 * 1024 * 1024));
        assert_eq!(available("MemTotal:  9000 kB\n"), None);
    }

    #[test]
    fn the_limits_of_the_groups_above_count_too() {
        let places = |text| {
            folders(text).into_iter().map(|(folder, [limit, _])| format!("{folder}/{limit}"))
        };
        let two: Vec<_> = places("0::/user.slice/a.scope\n").skip(2).collect();
        assert_eq!(
            two,
            [
                "/sys/fs/cgroup/user.slice/memory.max",
                "/sys/fs/cgroup/user.slice/a.scope/memory.max"
            ]
        );
        let one: Vec<_> = places("5:cpu,memory:/job\n4:pids:/job\n0::/\n").skip(2).collect();
        assert_eq!(one, ["/sys/fs/cgroup/memory/job/memory.limit_in_bytes"]);
        assert_eq!(places("").count(), 2);
    }

    #[test]
    fn a_control_group_leaves_its_limit_less_what_cannot_go() {
        let stat = "anon 700\nfile 250\ninactive_file 200\nactive_file 50\n";
        assert_eq!(left_of_group("2000\n", "1000\n", stat), Some(1250));
        assert_eq!(left_of_group("max\n", "1000\n", stat), None);
        assert_eq!(left_of_group("500\n", "1000\n", ""), Some(0));
    }

    #[test]
    fn tiles_are_explained_and_the_whole_is_not() {
        let work = |tiling| Work { tiling, bytes: 1_900_000_000, whole_bytes: 5_400_000_000 };
        assert_eq!(tiling_warning(&work(Tiling::Whole), None), None);
        let tiles = work(Tiling::Tiles { side: 128 });
        let warning = tiling_warning(&tiles, Some(2_000_000_000)).expect("there are tiles");
        assert!(warning.contains("tiles of 1024 pixels"), "{warning}");
        assert!(warning.contains("5.40 GB, and 2.00 GB may be used"), "{warning}");
    }
}
