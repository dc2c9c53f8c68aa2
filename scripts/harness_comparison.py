r"""Compare log-likelihoods and their time with the Hugging Face backend of lm-eval; print a table.

Both score the same requests of each task in this process, in float32; the backend with the batch
size that is fastest on the first documents. The time is measured on 50 documents, in alternating
rounds. A task that the file of results contains is not measured again, so that the command can be
interrupted. Needs the packages of `lm-eval[hf]` (accelerate, transformers), and a quiet machine.

  python scripts/harness_comparison.py MODEL_DIR --data DIR --limit 200 --out outputs/harness.json
"""

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from mobilellm.cli.command import run_command

HEADS = ("task", "requests", "batch", "ours s", "theirs s", "ratio", "difference", "1 to 64",
         "acc", "theirs", "differing")  # fmt: skip


def main() -> None:
    """Compare on the tasks that the command line names, and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="MODEL_DIR", help="a Hugging Face folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--tasks", default="mobilellm,lambada_openai")
    parser.add_argument("--limit", type=int, default=200, help="documents of each task")
    parser.add_argument("--batch-sizes", default="1,4,8,16,32,64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("outputs/harness_comparison.json"))
    options = parser.parse_args()

    from mobilellm.evaluation.harness.tasks import open_tasks
    from mobilellm.files import write_text_atomically
    from scripts.benchmarks.harness import compare_task, open_both

    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    opened = open_tasks(options.tasks.split(","), options.data)
    waiting = {name: task for name, task in opened.tasks.items() if name not in known}
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    both = open_both(options.folder) if waiting else ()
    for name, task in waiting.items():
        known[name] = compare_task(
            task, *both, limit=options.limit, batch_sizes=sizes, rounds=options.rounds
        )
        write_text_atomically(options.out, json.dumps(known, indent=2, allow_nan=False) + "\n")
        print(f"{name}: {known[name]['speed_ratio']:.2f} times as fast", file=sys.stderr)
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    for name in opened.tasks:
        print(f"| {' | '.join(_row(name, known[name]))} |")


def _row(name: str, found: dict) -> list[str]:
    return [
        name, str(found["requests"]), str(found["best_batch_size"]),
        f"{found['our_seconds']:.1f}", f"{found['their_seconds']:.1f}",
        f"{found['speed_ratio']:.2f}", f"{found['largest_difference']:.1e}",
        f"{found['largest_difference_between_batch_sizes']:.1e}",
        f"{100 * found['our_metrics'].get('acc', 0):.1f}",
        f"{100 * found['their_metrics'].get('acc', 0):.1f}",
        f"{found['differing_documents']} + {found['differing_documents_with_near_ties']}",
    ]  # fmt: skip


if __name__ == "__main__":
    run_command(main)
