r"""Extract a smaller model from a supernet or any trained model, with its weights.

A supernet (mobilellm train distillation=supernet) contains smaller models as slices of its weights:
the result computes exactly what the slice computes. With units=important, a model that was trained
alone is cut by structured pruning instead, for a short training afterwards. The shape is given by
the sizes that differ. With layers=[...], whole layers are taken.

  mobilellm extract outputs/default/<run> --out small model.num_blocks=6 model.hidden_size=64
  mobilellm extract outputs/default/<run> --out cut model.num_blocks=8 units=important
  mobilellm extract outputs/default/<run> --out shallow 'layers=[0,2,4,7,9,11]'
  mobilellm train init_from=cut distillation=forward_kl distillation.teacher=outputs/default/<run>

Other arguments, key=value, are the settings of conf/extract.yaml.
"""

import functools
from collections.abc import Sequence
from typing import NoReturn

from mobilellm.commands import command_parser
from mobilellm.hydra_app.command import hydra_command
from mobilellm.paths import user_path
from mobilellm.pipeline import extract_saved


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; arguments that it does not define are passed to Hydra."""
    parser = command_parser("extract", __doc__)
    parser.add_argument(
        "folder", type=user_path, metavar="MODEL_DIR", help="model, run or Hugging Face folder"
    )
    parser.add_argument(
        "--out", type=user_path, required=True, metavar="DIR", help="new folder for the result"
    )
    options, rest = parser.parse_known_args(arguments)
    task = functools.partial(extract_saved, folder=options.folder, out=options.out)
    hydra_command(task, "extract", arguments=rest)
