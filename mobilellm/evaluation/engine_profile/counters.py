"""Memory of this process, and energy of this machine, as the operating system counts them."""

import sys
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows the energy counters of processors (RAPL)."""


def memory_bytes(field: str = "VmRSS") -> int | None:
    """Memory of this process that is in RAM, pages of mapped files included.

    Args:
        field: `VmRSS`: now; `VmHWM`: the most since the process began.

    Returns:
        Bytes. Without /proc, the peak that `getrusage` gives for `VmHWM`, and None for `VmRSS`.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return _peak_by_usage() if field == "VmHWM" else None
    found = next((line for line in lines if line.startswith(f"{field}:")), None)
    return None if found is None else 1024 * int(found.split()[1])


def _peak_by_usage() -> int | None:
    # Not read on Linux, where it includes the peak of the process that started this one.
    try:
        import resource  # does not exist on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class EnergyCounter:
    """The energy that the processors of this machine use, all of their work together.

    Args:
        folder: with the counters.
    """

    def __init__(self, folder: Path = POWERCAP) -> None:
        """Find the counters of whole processors that this user can read."""
        self._counters: list[tuple[Path, int]] = []
        # `intel-rapl:0` is a processor; `intel-rapl:0:1` is a part of it.
        for package in sorted(folder.glob("intel-rapl:*")):
            if package.name.count(":") != 1:
                continue
            try:
                limit = int((package / "max_energy_range_uj").read_text(encoding="utf-8"))
                int((package / "energy_uj").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            self._counters.append((package / "energy_uj", limit))
        self._before = self._read()

    @property
    def exists(self) -> bool:
        """Whether there is a counter."""
        return bool(self._counters)

    def start(self) -> None:
        """Begin a measurement."""
        self._before = self._read()

    def joules(self) -> float | None:
        """The energy since `start`; None without a counter. A counter may have overflowed once."""
        if not self._counters:
            return None
        limits = [limit for _, limit in self._counters]
        pairs = zip(self._before, self._read(), limits, strict=True)
        return sum((b - a) % (limit + 1) for a, b, limit in pairs) / 1e6

    def _read(self) -> list[int]:
        return [int(path.read_text(encoding="utf-8")) for path, _ in self._counters]
