"""What is evaluated, and how: the settings of `mobilellm evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellm.data.conversations.chat_format import ToolFormat
from mobilellm.data.conversations.layouts import Layout
from mobilellm.evaluation.conversations.names import API_CALLING, TASKS
from mobilellm.evaluation.harness.task_names import GROUP
from mobilellm.evaluation.text_protocols import PROTOCOLS, TextProtocol
from mobilellm.models.checks import check_choice
from mobilellm.pipeline.device import check_device
from mobilellm.ranges import Range, check_fields

COUNT = Range(at_least=1)
NUMBER = Range(at_least=0)
DEFAULT_PROTOCOL = "documents"
DEFAULT_DTYPE = "float32"
DTYPES = (DEFAULT_DTYPE, "bfloat16", "float16")
MAX_NEW_TOKENS = 256
"""The most tokens of an answer in a conversation, by default."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is evaluated, and how.

    Raises:
        ValueError: a number is out of range, a setting would have no effect, or nothing is to be
            evaluated.
    """

    tasks: Sequence[str] = ()
    """Names of tasks, groups and tags of the harness, `mobilellm`, and tasks on conversations."""
    data: Path | None = None
    """Folder with rows of the tasks."""
    num_fewshot: int = 0
    limit: int | None = None
    """Use the first documents of each task only."""
    chat: bool = False
    """Whether prompts pass through the chat template."""
    again: bool = False
    """Whether to evaluate tasks anew that the folder has results for."""
    conversations: Path | None = None
    """Held-out conversations: a file, or a folder of prepared data."""
    train: Path | None = None
    """Training conversations, for the baselines and the functions seen in training."""
    layout: Layout = "auto"
    constrained: bool = False
    """Whether function calls are also generated with constrained decoding."""
    max_new_tokens: int | None = None
    """The most tokens of an answer in a conversation; None: `MAX_NEW_TOKENS`."""
    parser_role: str | None = None
    """As `data.parser_role` of the training data, like the next two; None: their defaults."""
    tool_role: str | None = None
    tools: ToolFormat | None = None
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
    dtype: str = DEFAULT_DTYPE
    """Number type of weights and activations, one of `DTYPES`."""
    tokenizer: Path | None = None
    """None: that in the folder of the model."""
    out: Path | None = None
    """Folder for evaluation.json; None: the folder of each run."""

    def __post_init__(self) -> None:
        """Check the numbers, and that no setting is without effect."""
        check_fields(
            self, num_fewshot=NUMBER, limit=COUNT, max_windows=COUNT, batch_tokens=COUNT,
            max_new_tokens=COUNT,
        )  # fmt: skip
        check_choice("protocol", self.protocol, tuple(PROTOCOLS))
        check_choice("dtype", self.dtype, DTYPES)
        check_device(self.device, "--device cpu")
        if not self.tasks and not self.text:
            raise ValueError(f"nothing to evaluate; give --tasks {GROUP} or --text FILE, or both")
        self._check_effects()
        if self.conversation_tasks and self.conversations is None:
            raise ValueError(
                f"--tasks {self.conversation_tasks[0]} needs conversations that were not trained "
                "on; give --conversations FILE, or the folder of prepared data"
            )
        if self.constrained and API_CALLING not in self.tasks:
            raise ValueError(f"--constrained has no effect without --tasks {API_CALLING}")

    def _check_effects(self) -> None:
        """Check that no setting is without effect.

        Raises:
            ValueError: one is.
        """
        tasks, text = (self.tasks, "--tasks"), (self.text, "--text")
        harness = (self.harness_tasks, "a task of the harness") if self.tasks else tasks
        talks = (self.conversation_tasks, f"--tasks {' or '.join(TASKS)}")
        for name, value, (needed, words) in (
            ("--data", self.data, harness), ("--limit", self.limit, tasks),
            ("--num-fewshot", self.num_fewshot, harness),
            ("--chat", self.chat, harness), ("--again", self.again, tasks),
            ("--conversations", self.conversations, talks), ("--train", self.train, talks),
            ("--layout", self.layout if self.layout != "auto" else None, talks),
            ("--max-new-tokens", self.max_new_tokens, talks),
            ("--parser-role", self.parser_role, talks), ("--tool-role", self.tool_role, talks),
            ("--tools", self.tools, talks),
            ("--window", self.window, text), ("--stride", self.stride, text),
            ("--max-windows", self.max_windows, text),
            ("--protocol", self.protocol if self.protocol != DEFAULT_PROTOCOL else None, text),
        ):  # fmt: skip
            if value and not needed:
                given = name if value is True else f"{name} {value}"
                raise ValueError(f"{given} has no effect without {words}; leave it out")

    @property
    def conversation_tasks(self) -> tuple[str, ...]:
        """Those of `tasks` that are on conversations."""
        return tuple(name for name in dict.fromkeys(self.tasks) if name in TASKS)

    @property
    def harness_tasks(self) -> tuple[str, ...]:
        """The others of `tasks`."""
        return tuple(name for name in self.tasks if name not in TASKS)

    @property
    def text_protocol(self) -> TextProtocol:
        """The protocol with the given sizes."""
        return PROTOCOLS[self.protocol].with_sizes(self.window, self.stride)
