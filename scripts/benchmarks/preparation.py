"""Measures data preparation with an existing tokenizer: bytes per second, and peak memory."""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VOCAB_SIZE = 8192
FILE_BYTES = 100_000
TOKENIZER_FILES = 40


def measure_preparation(*, megabytes: int) -> list[dict[str, Any]]:
    """Prepare a corpus of this size, which repeats the source text of the standard library."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = _write_corpus(folder / "corpus", megabytes * 10**6)
        small = folder / "small"
        small.mkdir()
        for number in range(TOKENIZER_FILES):
            shutil.copy(folder / "corpus" / f"{number}.txt", small)
        _prepare(small, folder / "first")
        tokenizer = next((folder / "first").rglob("tokenizer.model"))
        start = time.perf_counter()
        peak = _prepare(folder / "corpus", folder / "second", f"data.tokenizer={tokenizer}")
        seconds = time.perf_counter() - start
    return [
        {
            "text_bytes": size,
            "seconds": seconds,
            "text_bytes_per_second": size / seconds,
            "peak_bytes": peak,
        }
    ]


def _write_corpus(folder: Path, size: int) -> int:
    """Write files that start with different source files, so that no two are equal.

    Returns:
        The number of bytes written.
    """
    folder.mkdir()
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in sources]
    written, number, part, length = 0, 0, [], 0
    while written < size:
        text = f"# {number} {len(part)}\n{texts[(number * 7 + len(part)) % len(texts)]}"
        part.append(text)
        length += len(text.encode())
        if length >= FILE_BYTES:
            (folder / f"{number}.txt").write_text("".join(part), encoding="utf-8")
            written, number, part, length = written + length, number + 1, [], 0
    return written


def _prepare(text: Path, prepared: Path, *more: str) -> int:
    """Run the command; return the peak memory of its processes together, in bytes."""
    command = [
        sys.executable,
        "scripts/prepare_data.py",
        "data=text",
        f"data.train={text}",
        "data.held_out=0.2",
    ]
    command += [f"prepared_dir={prepared}", f"model.vocab_size={VOCAB_SIZE}", *more]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peaks: list[int] = [0]
    watcher = threading.Thread(target=_watch, args=(process, peaks))
    watcher.start()
    code = process.wait()
    watcher.join()
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {code}")
    return peaks[0]


def _watch(process: subprocess.Popen, peaks: list[int]) -> None:
    """Record the peak of the proportional set size, which counts shared memory once."""
    import psutil

    while process.poll() is None:
        total = 0
        try:
            parent = psutil.Process(process.pid)
            for one in [parent, *parent.children(recursive=True)]:
                total += one.memory_full_info().pss
        except psutil.Error:
            continue
        peaks[0] = max(peaks[0], total)
        time.sleep(0.05)
