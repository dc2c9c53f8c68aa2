"""What is evaluated, and how: the settings of `mobilellm evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mobilellm.evaluation.harness.task_names import GROUP
from mobilellm.evaluation.text_protocols import PROTOCOLS, TextProtocol
from mobilellm.models.checks import check_choice
from mobilellm.ranges import Range, check_fields

COUNT = Range(at_least=1)
NUMBER = Range(at_least=0)
DEVICES = ("cpu", "cuda", "mps")
DEFAULT_PROTOCOL = "documents"


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is evaluated, and how.

    Raises:
        ValueError: a number is out of range, a setting would have no effect, or nothing is to be
            evaluated.
    """

    tasks: Sequence[str] = ()
    """Names of tasks, groups and tags of the harness, and `mobilellm`."""
    data: Path | None = None
    """Folder with rows of the tasks."""
    num_fewshot: int = 0
    limit: int | None = None
    """Use the first documents of each task only."""
    chat: bool = False
    """Whether prompts pass through the chat template."""
    again: bool = False
    """Whether to evaluate tasks anew that the folder has results for."""
    text: Sequence[Path] = ()
    """Files of text, or of documents: JSON lines (`.jsonl`) with the field `text`."""
    protocol: str = DEFAULT_PROTOCOL
    window: int | None = None
    stride: int | None = None
    max_windows: int | None = None
    add_bos: bool | None = None
    """Whether texts begin with the begin-of-text token; None: what the model's files say."""
    batch_tokens: int | None = None
    """The most tokens per forward pass; None: what suits the device."""
    device: str = "cpu"
    tokenizer: Path | None = None
    """None: that in the folder of the model."""
    out: Path | None = None
    """Folder for evaluation.json; None: the folder of each run."""

    def __post_init__(self) -> None:
        """Check the numbers, and that no setting is without effect."""
        check_fields(
            self, num_fewshot=NUMBER, limit=COUNT, max_windows=COUNT, batch_tokens=COUNT,
        )  # fmt: skip
        check_choice("protocol", self.protocol, tuple(PROTOCOLS))
        check_choice("device", self.device, DEVICES)
        if self.device != "cpu" and not getattr(torch, self.device).is_available():
            raise ValueError(f"device={self.device} is not available here; use --device cpu")
        if not self.tasks and not self.text:
            raise ValueError(f"nothing to evaluate; give --tasks {GROUP} or --text FILE, or both")
        for name, value, needs in (
            ("--data", self.data, "tasks"), ("--limit", self.limit, "tasks"),
            ("--num-fewshot", self.num_fewshot, "tasks"), ("--chat", self.chat, "tasks"),
            ("--window", self.window, "text"), ("--stride", self.stride, "text"),
            ("--max-windows", self.max_windows, "text"),
            ("--protocol", self.protocol if self.protocol != DEFAULT_PROTOCOL else None, "text"),
        ):  # fmt: skip
            if value and not getattr(self, needs):
                raise ValueError(f"{name} {value} has no effect without --{needs}; leave it out")

    @property
    def text_protocol(self) -> TextProtocol:
        """The protocol with the given sizes."""
        return PROTOCOLS[self.protocol].with_sizes(self.window, self.stride)
