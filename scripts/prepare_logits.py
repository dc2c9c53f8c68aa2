r"""Run a teacher once over the training data and keep its top-k probabilities in a logit store.

The student then trains without the teacher: distillation.teacher=STORE. A store that
was cut short is gone on with by the same command; a finished one is reused. The data must have the
teacher's tokenizer, which they get where data.tokenizer is null.

  python scripts/prepare_logits.py outputs/default/<run>
  python scripts/prepare_logits.py MODEL_DIR data=text data.train=books/ sequence_length=512 k=64
  python scripts/prepare_logits.py MODEL_DIR precision=fixed8 packing=bits out=logits/small

TEACHER_DIR is the folder of a model, of a run, or of a Hugging Face model, and comes first.
"""

import functools
import sys
from pathlib import Path

sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent]

from mobilellm.hydra_app.command import hydra_command


def main() -> None:
    """Read the teacher's folder; the other arguments are Hydra's."""
    import argparse

    parser = argparse.ArgumentParser(
        add_help=False, usage="prepare_logits.py TEACHER_DIR key=value …"
    )
    parser.add_argument("teacher")
    help_asked = {"-h", "--help"} & set(sys.argv[1:])
    arguments, rest = parser.parse_known_args(["", "--help"] if help_asked else None)
    if "=" in arguments.teacher and not Path(arguments.teacher).exists():
        parser.error(f"TEACHER_DIR comes first, {arguments.teacher} is none")
    from mobilellm.pipeline.prepare_logits import prepare_logits

    task = functools.partial(prepare_logits, folder=arguments.teacher)
    hydra_command(task, "prepare_logits", description=__doc__ or "", arguments=rest)


if __name__ == "__main__":
    main()
