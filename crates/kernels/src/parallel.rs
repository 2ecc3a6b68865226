//! Sharing work between threads.
//!
//! A kernel cuts its output into tasks; which thread runs a task never changes a result.

use rayon::prelude::*;

/// Multiplications below which waking another thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 20;

/// Multiplications that one task should at least hold.
const WORTH_A_TASK: usize = 1 << 18;

/// How many tasks `work` multiplications should be cut into, so that no thread waits long.
pub(crate) fn wanted_tasks(work: usize) -> usize {
    if work < WORTH_SHARING {
        return 1;
    }
    let threads = rayon::current_num_threads();
    if threads == 1 { 1 } else { (work / WORTH_A_TASK).min(4 * threads) }
}

/// Runs `task` for `0..tasks`, on several threads when `work` multiplications are worth it.
pub(crate) fn for_each(tasks: usize, work: usize, task: impl Fn(usize) + Send + Sync) {
    if tasks <= 1 || work < WORTH_SHARING || rayon::current_num_threads() == 1 {
        (0..tasks).for_each(task);
    } else {
        let together = (tasks * WORTH_A_TASK / work).max(1);
        (0..tasks).into_par_iter().with_min_len(together).for_each(task);
    }
}
