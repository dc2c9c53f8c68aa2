"""A device profile: latencies of many shapes on one device, as a JSON file.

`mobilellm device-profile` measures it; a budget of latency is solved from it (`search.latency`).
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobilellm.models import ModelConfig
from mobilellm.strict_json import to_json

FORMAT = 1
"""Version of the format of the file."""
KIND = "device profile"
TIMES = ("decode_ms_per_token", "decode_ms_p95", "prefill_ms", "prefill_ms_p95")


@dataclass(frozen=True, kw_only=True)
class MeasuredShape:
    """The latency of one model with random weights."""

    model: ModelConfig
    decode_ms_per_token: float
    """Milliseconds per generated token at batch size 1; the median over the rounds."""
    decode_ms_p95: float | None = None
    """The 95th percentile over the rounds; None if it was not measured, as below."""
    prefill_ms: float | None = None
    """Milliseconds to read the context and to compute the logits after it; the median."""
    prefill_ms_p95: float | None = None
    """The 95th percentile over the rounds."""


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """Measurements that were made side by side, and their conditions.

    Raises:
        ValueError: there is no shape, or a latency is not above 0.
    """

    accelerator: str
    """`cpu`, `cuda` or `mps`."""
    device: str
    """Name of the processor or of the GPU."""
    threads: int
    """CPU threads of torch."""
    context: int
    """Tokens in the KV cache before the tokens that were timed."""
    decode_tokens: int
    """Tokens that were generated one by one in each round."""
    rounds: int
    versions: Mapping[str, str]
    command: str
    shapes: tuple[MeasuredShape, ...]

    def __post_init__(self) -> None:
        """Check the measurements."""
        if not self.shapes:
            raise ValueError("a device profile needs at least one measured shape; 0 were given")
        for shape in self.shapes:
            for name in TIMES:
                time = getattr(shape, name)
                if time is not None and not (math.isfinite(time) and time > 0):
                    raise ValueError(f"{name}={time} must be above 0; measure it again")

    @property
    def content_hash(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the content."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @property
    def conditions(self) -> str:
        """Device, threads and context in words."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.device}, {threads}, context of {self.context} tokens"

    def to_json(self) -> str:
        """The content of the file."""
        shapes = [asdict(shape) | {"model": shape.model.to_dict()} for shape in self.shapes]
        values = {name: value for name, value in vars(self).items() if name != "shapes"}
        return to_json({"kind": KIND, "format": FORMAT, **values, "shapes": shapes}) + "\n"


def read_profile(path: Path) -> DeviceProfile:
    """Read the file of a device profile.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a device profile, or one of another version.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not a file; measure it with `mobilellm device-profile --out {path}`"
        )
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, Mapping) or content.get("kind") != KIND:
            raise ValueError("it is another kind of file")
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is {content.get('format')}, and {FORMAT} is required")
        values = {k: v for k, v in content.items() if k not in ("kind", "format", "shapes")}
        shapes = tuple(
            MeasuredShape(
                model=ModelConfig.from_dict(shape["model"]),
                **{
                    name: float(shape[name])
                    for name in TIMES
                    if name == TIMES[0] or shape.get(name) is not None
                },
            )
            for shape in content["shapes"]
        )
        return DeviceProfile(**values, shapes=shapes)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is not a device profile ({error}); measure one with `mobilellm device-profile`"
        ) from error
