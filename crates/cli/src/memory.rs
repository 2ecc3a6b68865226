//! How much memory the program had at most.

/// Peak resident memory of this process in bytes, where the system tells.
pub(crate) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    peak_of(&status)
}

/// Reads `VmHWM:    123456 kB` in Linux's `/proc/PID/status`.
fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::peak_of;

    #[test]
    fn the_peak_is_read_in_bytes() {
        let status = "Name:\tunwrong\nVmPeak:\t 9000 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(peak_of(status), Some(2 * 1024 * 1024));
        assert_eq!(peak_of("Name:\tunwrong\n"), None);
    }
}
