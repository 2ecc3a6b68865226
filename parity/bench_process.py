"""What a bench says of its own process: memory, and how long it has run. Linux only; elsewhere None."""

import os
import threading
import time
from pathlib import Path


class Memory:
    """Peaks of this process; the anonymous one is looked at every 5 ms, because Linux keeps none."""

    def __init__(self):
        self.anonymous = 0
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while (now := status("RssAnon:")) is not None:
            self.anonymous = max(self.anonymous, now)
            time.sleep(0.005)

    def peaks(self):
        now = status("RssAnon:")
        anonymous = None if now is None else max(now, self.anonymous)
        return {"peak_anonymous_bytes": anonymous, "peak_resident_bytes": status("VmHWM:")}


def status(field):
    """A line of /proc/self/status in bytes; None where there is no such file."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(field)), None)


def age():
    """Seconds since this process was started; None where nobody knows."""
    try:
        fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return None
    return uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")
