r"""Compress a saved model without training: plan, apply, measure, save.

Prints the plan before it is applied. Then it prints, for the given model, the compressed model and
a low-rank model with equally many parameters: the share of parameters kept, bytes on disk, loss,
measured milliseconds, and memory including weights. compression.json in the new folder has all
details. The plan is saved as soon as it is made, and the same command continues from it. To train
between stages of compression, use mobilellm train init_from=MODEL_DIR compression=….

  mobilellm compress outputs/default/<run> --out compressed
  mobilellm compress outputs/default/<run> --out compressed compression=low_rank   # seconds
  mobilellm compress MODEL_DIR --out sparse compression=sparsegpt data=text data.train=a.txt
  mobilellm compress MODEL_DIR --out int4 compression=gptq compression.group=32
  mobilellm compress MODEL_DIR --out half compression=kronecker \
      compression.layers=[blocks.*.feed_forward.up_proj]

Without data=…, a run's model is compressed on the data that it was trained on. Other arguments,
key=value, are the settings of conf/compress.yaml. compression is one of searched (the default; it
prints an estimate of its time first), low_rank, pivoted, kronecker, permuted_kronecker, magnitude,
wanda, sparsegpt, structured, and of quantization: quantize, gptq, awq.
"""

import functools
from collections.abc import Sequence
from typing import NoReturn

from mobilellm.commands import command_parser
from mobilellm.hydra_app.command import hydra_command
from mobilellm.paths import user_path
from mobilellm.pipeline import compress_saved


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; arguments that it does not define are passed to Hydra."""
    parser = command_parser("compress", __doc__)
    parser.add_argument(
        "folder", type=user_path, metavar="MODEL_DIR", help="model, run or Hugging Face folder"
    )
    parser.add_argument(
        "--out", type=user_path, required=True, metavar="DIR", help="new folder for the result"
    )
    options, rest = parser.parse_known_args(arguments)
    task = functools.partial(compress_saved, folder=options.folder, out=options.out)
    hydra_command(task, "compress", arguments=rest)
