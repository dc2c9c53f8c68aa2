r"""Run a teacher over the training data and store its top-k probabilities.

A student then trains without the teacher in memory: distillation.teacher=STORE. If the command was
interrupted, the same command continues; a finished store is reused. Teacher and data must have the
same tokenizer; if data.tokenizer is null, the teacher's is used.

  mobilellm prepare-logits outputs/default/<run>
  mobilellm prepare-logits MODEL_DIR data=text data.train=books/ sequence_length=512 k=64
  mobilellm prepare-logits MODEL_DIR precision=fixed8 packing=bits out=logits/small

TEACHER_DIR, the folder of a model, a run, or a Hugging Face model, must be the first argument.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mobilellm.command_names import command_for
from mobilellm.commands import description
from mobilellm.hydra_app.command import hydra_command
from mobilellm.pipeline import store_logits


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; arguments after the teacher's folder are passed to Hydra."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        add_help=False, usage=f"{command_for('prepare_logits')} TEACHER_DIR key=value …"
    )
    parser.add_argument("teacher")
    is_help = bool({"-h", "--help"} & set(line))
    options, rest = parser.parse_known_args(["", "--help"] if is_help else line)
    if "=" in options.teacher and not Path(options.teacher).exists():
        parser.error(f"TEACHER_DIR must come first, and {options.teacher} is not a folder")
    task = functools.partial(store_logits, folder=options.teacher)
    hydra_command(task, "prepare_logits", description=description(__doc__), arguments=rest)
