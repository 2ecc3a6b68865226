//! How much memory the program had at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// How often [`AnonymousPeak`] looks.
const EVERY: Duration = Duration::from_millis(5);

/// Peak resident memory of this process in bytes, where the system tells.
pub(crate) fn peak_bytes() -> Option<u64> {
    read("VmHWM:")
}

/// The peak of what is no file map, looked at every few milliseconds from now on: Linux keeps
/// no such peak itself.
pub(crate) struct AnonymousPeak {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
}

impl AnonymousPeak {
    pub(crate) fn watch() -> Self {
        let watch = Self { stop: Arc::default(), peak: Arc::default() };
        let (stop, peak) = (Arc::clone(&watch.stop), Arc::clone(&watch.peak));
        // Without the thread, the peak is what is there at the end.
        let looking = thread::Builder::new().spawn(move || {
            while !stop.load(Ordering::Relaxed)
                && let Some(bytes) = anonymous_bytes()
            {
                peak.fetch_max(bytes, Ordering::Relaxed);
                thread::sleep(EVERY);
            }
        });
        drop(looking);
        watch
    }

    /// The peak in bytes so far, where the system tells.
    pub(crate) fn bytes(&self) -> Option<u64> {
        anonymous_bytes().map(|now| now.max(self.peak.load(Ordering::Relaxed)))
    }
}

impl Drop for AnonymousPeak {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn anonymous_bytes() -> Option<u64> {
    read("RssAnon:")
}

fn read(field: &str) -> Option<u64> {
    bytes_of(&std::fs::read_to_string("/proc/self/status").ok()?, field)
}

/// Reads `VmHWM:    123456 kB` in Linux's `/proc/PID/status`.
fn bytes_of(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::bytes_of;

    #[test]
    fn a_peak_is_read_in_bytes() {
        let status = "Name:\tunwrong\nVmPeak:\t 9000 kB\nVmHWM:\t    2048 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(bytes_of(status, "VmHWM:"), Some(2 * 1024 * 1024));
        assert_eq!(bytes_of(status, "RssAnon:"), Some(1024));
        assert_eq!(bytes_of("Name:\tunwrong\n", "VmHWM:"), None);
    }
}
