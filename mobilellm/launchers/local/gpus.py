"""The GPUs of this machine, found without importing torch."""

import os
import shutil
import subprocess


def visible_gpus() -> list[str]:
    """Identifiers in the form of `CUDA_VISIBLE_DEVICES`, without the GPUs that it hides."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return [name.strip() for name in shown.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        encoding="utf-8",
    )
    return listing.stdout.split() if listing.returncode == 0 else []
