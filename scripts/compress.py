r"""Compress a saved model without training: plan, apply, measure, save.

Prints the plan before anything changes, then kept share, bytes on disk, loss, counts, and measured
milliseconds and memory (weights included) of the model given, the compressed one, and its low-rank
twin at equal parameters; compression.json in the new folder has all details. The plan is saved as
soon as it is made: the same command goes on from it. To train between stages of compression use
scripts/train.py init_from=MODEL_DIR compression=….

  python scripts/compress.py outputs/default/<run> --out compressed
  python scripts/compress.py outputs/default/<run> --out compressed compression=low_rank   # seconds
  python scripts/compress.py MODEL_DIR --out sparse compression=sparsegpt data=text data.train=a.txt
  python scripts/compress.py MODEL_DIR --out half compression=kronecker \
      compression.layers=[blocks.*.feed_forward.up_proj]

Without data= a run is compressed on the data that it was trained on. key=value goes to Hydra
(conf/compress.yaml). compression= is one of searched (the default: it says how long it will take
before it begins), low_rank, kronecker, permuted_kronecker, magnitude, wanda, sparsegpt, structured.
"""

import argparse
import functools
import sys
from pathlib import Path

sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent]

from mobilellm.hydra_app.command import hydra_command
from mobilellm.paths import user_path


def main() -> None:
    """Read the arguments; what is left of them is Hydra's."""
    from mobilellm.pipeline.compress import compress_folder

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=user_path, metavar="MODEL_DIR", help="model, run or Hugging Face folder"
    )
    parser.add_argument(
        "--out", type=user_path, required=True, metavar="DIR", help="new folder for the result"
    )
    arguments, rest = parser.parse_known_args()
    task = functools.partial(compress_folder, folder=arguments.folder, out=arguments.out)
    hydra_command(task, "compress", arguments=rest)


if __name__ == "__main__":
    main()
