"""Distillation during training: losses that compare the student with a teacher."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from torch import Tensor

from mobilellm.callbacks.compression import CompressionCallback
from mobilellm.distillation import LogitMSE
from mobilellm.distillation.losses.direct_preference import DirectPreference
from mobilellm.distillation.losses.schedule import Scheduled, check_scheduled, value_at
from mobilellm.distillation.teachers.opening import (
    TeacherDescription,
    check_data,
    check_fits,
    check_options,
    check_windows,
    describe_model,
    describe_teacher,
    open_teacher,
)
from mobilellm.distillation.teachers.teacher import Teacher, check_teacher_options, structure_of
from mobilellm.distillation.terms import (
    DistillationLoss,
    distillation_terms,
    make_projections,
    required_captures,
)
from mobilellm.losses.loss_terms import Terms
from mobilellm.models.config import ModelConfig
from mobilellm.models.saved_config import CONFIG_FILE
from mobilellm.ranges import Range, checked

DENSE = "dense"
NO_TEACHER = (
    "distillation.teacher is not given; give the folder of a model, a run or a logit "
    "store, or `dense` with compression"
)
NO_COMPRESSION = (
    "teacher=dense is the model before compression, and this run has no compression; give a "
    "teacher's folder, or compression=…"
)


class DistillationCallback(Callback):
    """Adds distillation losses to the training step.

    The teacher runs once per micro-batch, without gradients and in evaluation mode; checkpoints do
    not contain it. `train/loss` is still the cross entropy; the further losses are logged as
    `train/loss/<name>`.

    Args:
        teacher: folder of a model, a run or a logit store; `dense`: in a run with compression, the
            model before its first stage.
        losses: the losses, by their names in the log.
        cross_entropy_weight: weight of the labels' cross entropy in the sum of all losses.
        teacher_precision: `auto` or a number type; see `ModelTeacher`.
        top_k: let the student see the k most likely tokens only.
        rounding: with `top_k`, round as a logit store of this precision does.

    Raises:
        ValueError: there are no losses, or a number is out of range.
        TypeError: an entry of `losses` is not a loss.
    """

    @checked(top_k=Range(at_least=1))
    def __init__(
        self,
        teacher: str | Path | None,
        losses: Mapping[str, DistillationLoss],
        *,
        cross_entropy_weight: Scheduled = 1.0,
        teacher_precision: str = "auto",
        top_k: int | None = None,
        rounding: str | None = None,
    ) -> None:
        """Check and keep the settings; the teacher is not loaded yet."""
        if not losses:
            raise ValueError("distillation has no losses; give at least one, or distillation=none")
        for name, loss in losses.items():
            if not isinstance(loss, DistillationLoss):
                raise TypeError(
                    f"losses.{name} is a {type(loss).__name__}; give it a _target_ such as "
                    "mobilellm.distillation.ForwardKL"
                )
        check_scheduled("cross_entropy_weight", cross_entropy_weight)
        check_teacher_options(teacher_precision, top_k, rounding)
        self.losses = dict(losses)
        self.teacher_folder = None if teacher is None else str(teacher)
        self.cross_entropy_weight = cross_entropy_weight
        self.options = {"precision": teacher_precision, "top_k": top_k, "rounding": rounding}
        self.capture = required_captures(self.losses.values())
        self.folder: Path | None = None
        """Folder of the teacher in this fit; None if the dense teacher is still the student."""
        self.teacher: Teacher | None = None
        self.facts: TeacherDescription | None = None
        """Description of the teacher, whose folder may be removed before the run ends."""

    @property
    def is_dense(self) -> bool:
        """Whether the teacher is the student before compression."""
        return self.teacher_folder == DENSE

    @property
    def has_projections(self) -> bool:
        """Whether a loss trains projections besides the student."""
        return any(getattr(loss, "projection", False) for loss in self.losses.values())

    @property
    def compares_pairs(self) -> bool:
        """Whether a loss compares better with worse answers, which the data must then have."""
        return any(isinstance(loss, DirectPreference) for loss in self.losses.values())

    def weight_bytes(self, student: ModelConfig) -> int:
        """Bytes of the teacher's weights while it runs."""
        size = 2 if self.options["precision"] in ("bfloat16", "float16") else 4
        return size * self._describe_teacher(student).parameters

    def _describe_teacher(self, student: ModelConfig) -> TeacherDescription:
        return (
            describe_model(student)
            if self.is_dense
            else describe_teacher(self.teacher_folder or "")
        )

    def check(
        self,
        student: ModelConfig,
        *,
        sequence_length: int,
        document_mask: bool,
        compressed: Sequence[ModelConfig] | None = None,
    ) -> None:
        """Check the teacher and the losses before any data or weights are read.

        Args:
            student: the model before any compression, which is the teacher for `dense`.
            sequence_length: tokens per window.
            document_mask: whether attention is limited to the tokens of one document.
            compressed: in a run with compression, every architecture that may learn from the
                teacher; None: no compression.

        Raises:
            FileNotFoundError: the teacher does not exist.
            ValueError: no teacher is given, or the teacher or a loss does not fit the student.
        """
        if self.teacher_folder is None:
            raise ValueError(NO_TEACHER)
        if self.is_dense and compressed is None:
            raise ValueError(NO_COMPRESSION)
        if compressed is not None and self.has_projections:
            raise ValueError(
                "projection=true cannot be combined with compression, because each stage starts a "
                "new model; a compressed model keeps its width: use projection=false"
            )
        facts = self._describe_teacher(student)
        check_fits(facts, structure_of(student), sequence_length)
        check_options(facts, **self.options)
        if not self.is_dense:
            check_windows(
                self.teacher_folder, sequence_length=sequence_length, document_mask=document_mask
            )
        self._check_losses([student] if compressed is None else compressed, student, facts)

    def _check_losses(
        self, learning: Sequence[ModelConfig], configured: ModelConfig, facts: TeacherDescription
    ) -> None:
        for name, loss in self.losses.items():
            for config in learning:
                try:
                    loss.check(structure_of(config), facts.structure)
                except ValueError as error:
                    if config == configured:
                        raise
                    raise ValueError(
                        f"losses.{name}, with the compressed student: {error}"
                    ) from error
            needs_all = isinstance(loss, LogitMSE | DirectPreference)
            if needs_all and self.options["top_k"] is not None:
                raise ValueError(
                    f"losses.{name} needs all logits; leave out top_k={self.options['top_k']}, "
                    "or use a divergence"
                )

    def check_data(
        self, prepared: Any, *, vocab_size: int, sequence_length: int, document_mask: bool
    ) -> None:
        """Check that the teacher has the tokenizer and, for a logit store, the data of the run.

        Raises:
            ValueError: it has others.
        """
        if not self.is_dense:
            check_data(
                self.teacher_folder or "",
                prepared,
                vocab_size=vocab_size,
                sequence_length=sequence_length,
                document_mask=document_mask,
            )

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Load the teacher, and add the trained projections to the module.

        Raises:
            ValueError, FileNotFoundError: there is no teacher, or it does not fit the student.
        """
        student = pl_module.model.config
        self.folder = self._find_teacher(trainer.callbacks)
        self.teacher = self.facts = None
        if self.folder is None:
            return
        self.facts = describe_teacher(self.folder)
        self.student = structure_of(student)
        check_fits(self.facts, self.student, trainer.datamodule.sequence_length)
        self._check_losses([student], student, self.facts)
        self.teacher = open_teacher(self.folder, **self.options)
        pl_module.auxiliary.update(
            make_projections(self.losses, self.student, self.teacher.structure)
        )

    def _find_teacher(self, callbacks: Iterable[Callback]) -> Path | None:
        """The folder of the teacher; None for `dense` before the first compression.

        Raises:
            ValueError: no teacher is given, or the model before compression was not kept.
        """
        if self.teacher_folder is None:
            raise ValueError(NO_TEACHER)
        if not self.is_dense:
            return Path(self.teacher_folder)
        compression = next((c for c in callbacks if isinstance(c, CompressionCallback)), None)
        if compression is None:
            raise ValueError(NO_COMPRESSION)
        if not compression.records:
            return None
        folder = compression.dense_folder
        if folder is None or not (folder / CONFIG_FILE).is_file():
            raise ValueError(
                f"teacher=dense is the model before compression, but {folder} has no model; call "
                "CompressionCallback.stages with keep_dense=True from the start of the run"
            )
        return folder

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Move the teacher to the device of the student."""
        if self.teacher is not None:
            self.teacher.to(pl_module.device)

    def describe(self) -> tuple[str, str]:
        """The row on the teacher in the table that is printed before the first step."""
        if self.folder is None:
            return "teacher", "the dense model, from the first stage of compression on"
        seen = "" if self.options["top_k"] is None else f", its top {self.options['top_k']} tokens"
        return "teacher", f"{self.folder}{seen}: {', '.join(self.losses)}"

    def summary(self) -> dict[str, Any]:
        """The teacher and the losses, for summary.json."""
        return {
            "distillation": {
                "teacher": str(self.folder),
                "teacher_parameters": self.facts and self.facts.parameters,
                **self.options,
                "losses": {name: type(loss).__name__ for name, loss in self.losses.items()},
            }
        }

    def label_weight(self, module: Any) -> float:
        """Weight of the labels' cross entropy at this step; 1 while there is no teacher."""
        if self.teacher is None:
            return 1.0
        return value_at(self.cross_entropy_weight, module.progress)

    def loss_terms(self, module: Any, batch: dict[str, Tensor], output: Any) -> Terms:
        """The losses of one micro-batch; none while there is no teacher."""
        if self.teacher is None:
            return {}
        return distillation_terms(
            self.losses,
            self.teacher.run(batch, self.capture),
            output,
            batch,
            unembed=module.model.unembed,
            student=self.student,
            teacher=self.teacher.structure,
            progress=module.progress,
            projections=dict(module.auxiliary.items()),
        )
