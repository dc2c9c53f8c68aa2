"""A process that forks children which write checkpoints, and kills each at a random moment.

python killed_saves.py FOLDER KILLS WAY: they wait for each file, or (`background`) write it in a
thread. It prints a line of JSON about each kill. The children inherit
what is imported here, so that a kill costs milliseconds.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import lean_start  # noqa: F401
import torch

from mobilellm.checkpoint_files import find_damage, last_checkpoint, latest_valid_checkpoint
from mobilellm.files import remove_temporary_files
from mobilellm.training.atomic_save import save_atomically
from mobilellm.training.background_writer import BackgroundWriter
from mobilellm.training.checkpoint_io import AtomicCheckpointIO


def content(step):
    """As large as takes some milliseconds to write."""
    return {"step": step, "weight": torch.full((300_000,), float(step))}


def write_for_ever(path, step, way):
    io = AtomicCheckpointIO()
    io.writer = BackgroundWriter() if way == "background" else None
    while True:
        step += 1
        io.save_checkpoint(content(step), path)


def kill_one(folder, step, seconds, way):
    """Start a child after checkpoint `step`, kill it after `seconds`; what is there."""
    path = folder / "checkpoints/last.ckpt"
    child = os.fork()
    if child == 0:
        write_for_ever(path, step, way)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    leftovers = [p.name for p in path.parent.glob("*.tmp*")]
    damage = {p.name: find_damage(p) for p in path.parent.glob("*.ckpt")}
    valid = latest_valid_checkpoint(folder)
    assert valid is not None
    state = torch.load(valid, weights_only=True)
    remove_temporary_files(path.parent)
    return {
        "step": state["step"],
        "is_whole": torch.equal(state["weight"], content(state["step"])["weight"]),
        "is_last": valid == last_checkpoint(folder) == path,
        "damage": [text for text in damage.values() if text],
        "leftovers": leftovers,
    }


def main():
    folder, kills, way = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    start = time.monotonic()
    for step in (1, 2, 3):
        save_atomically(content(step), folder / "checkpoints/last.ckpt")
    longest = 2 * (time.monotonic() - start)
    random_moment = random.Random(0)
    for _ in range(kills):
        found = kill_one(folder, step, random_moment.uniform(0, longest), way)
        step = found["step"]
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
