"""Documented commands that end in half a minute once token counts are cut, run in their order.

The commands of a page are run in one folder. `COMPOSED_ONLY` lists the others with the reason.
"""

import os
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from doc_commands import ROOT, Command, all_commands
from simulated_ladder_runs import write_ladder

# A command that contains one of these patterns is composed by test_doc_commands.py, and not run.
COMPOSED_ONLY = {
    r"scripts/benchmark\.py|compression_methods|statistics_simulation|quantization_methods":
        "measures for minutes",
    r"scripts/time_to_loss": "trains dozens of models",
    r"scripts/harness_comparison": "needs accelerate, and measures for minutes",
    r"scripts/recipe_rule": "is run by tests/benchmarks/test_recipe_fit.py",
    r"^make |^source |apt-get|pytest|local_slurm": "installs, tests or starts services",
    r"hydra/launcher=slurm": "needs a SLURM; tests/slurm runs such sweeps",
    r"adapter=qlora": "needs widths that are divisible by 64; tests/pipeline trains such adapters",
    r"adapter.initial=": "needs an adapter; tests/pipeline/test_adapted_runs.py begins with one",
    r"compression.levels=normal": "needs widths that are divisible by 64",
    r"--format executorch": "needs executorch, and compiles for minutes",
    r"mobilellm chat": "talks until its input ends, or serves a page until it is stopped",
    r"--conversations": "needs conversations; tests/pipeline/test_evaluate_conversations.py",
    r"experiment=(chat|api_calling|preferences)|outputs/api_calling|--chat --data":
        "needs conversations; tests/conf/test_every_experiment.py trains on some",
    r"ADAPTER_DIR": "needs an adapter; tests/formats/test_peft.py imports one",
    r"mobilellm judge": "needs a server; tests/pipeline/test_judge.py has one",
    r"--tasks ifeval": "needs rows; tests/evaluation/test_instruction_following.py has some",
    r"device-profile .*mobilellm_|--results |--latency-from":
        "exports large models, or reads what they took on a device",
    r"data=hub": "reads from the Hugging Face hub",
    r"250e9|resume=true": "is long, or continues a run that was stopped: tests/pipeline does that",
    r"rank-shapes|head-start|outputs/supernet|evaluate outputs/ladder":
        "reads the runs of such a sweep",
    r"smollm2/": "needs a model of 30 blocks, and takes minutes",
    r"explain.* model.latency_profile=": "has a budget that depends on the machine",
    r"--out compressed/searched|compression=searched compression.num_": "searches for minutes",
    r"experiment=(demo|ladder|learning_rate_transfer|matched_\w+|depth_vs_width|layer_sharing|design_steps|kngpt2|minitron|tqcompressor|step_by_step|supernet\w*|head_start)":
        "is a sweep of minutes; tests/conf/test_every_experiment.py runs each of its models",
}  # fmt: skip

SWEEPS = (
    "learning_rate_transfer",
    "depth_vs_width",
    "depth_vs_width_wikitext2",
    "depth_vs_width_wikitext2_adamw",
    "depth_vs_width_books",
    "layer_sharing",
    "design_steps",
)

CUT = {
    "max_tokens": "2048", "tokens_per_step": "512", "sequence_length": "64",
    "validation_tokens": "512", "trainer.num_threads": "1",
}  # fmt: skip
# Keys of each command that are set to less, whatever the documentation gives.
CUTS = {
    "train": CUT,
    "compress": {"sequence_length": "64", "validation_tokens": "512", "prefill_tokens": "16",
                 "decode_tokens": "2", "compression.calibration_tokens": "512"},
    "extract": {"sequence_length": "64", "validation_tokens": "512", "calibration_tokens": "512"},
    "prepare-logits": {"sequence_length": "64"},
    "device-profile": {"--rounds": "1", "--tokens": "2"},
    "search": {**CUT, "search.n_trials": "2"},
    "coordinate-check": {"widths": "[64]", "depths": "[4]", "steps": "1", "seeds": "1"},
}  # fmt: skip

RUN_COMMANDS = [
    command
    for command in all_commands()
    if not any(re.search(pattern, command.line) for pattern in COMPOSED_ONLY)
]


def shortened(command: Command) -> list[str]:
    """The command's arguments with smaller numbers of tokens."""
    cuts = dict(CUTS.get(command.name, {}))
    arguments = list(command.arguments)
    if command.name == "train" and any(a.startswith("extend_from=") for a in arguments):
        cuts = {"max_tokens": "2048"}  # All else is the extended run's.
    elif command.name == "search":
        # A study of its own: the documented searches differ in their settings.
        cuts["experiment_name"] = f"search_{zlib.crc32(command.line.encode()):08x}"
    elif command.name == "train" and any("compression=" in a for a in arguments):
        cuts["compression.calibration_tokens"] = "512"
    if any(re.fullmatch(r"compression=(quantize|gptq|awq|qat)", a) for a in arguments):
        cuts["compression.group"] = "16"  # the widths of the example are not divisible by 32
    if "compression.fit=reconstructed" in arguments:
        cuts["compression.calibration_tokens"] = "2048"  # some batches are held out
    if any(a in ("compression=quantize", "compression=qat") for a in arguments):
        cuts.pop("compression.calibration_tokens", None)  # they read no text
    if command.name == "extract" and "units=important" not in arguments:
        cuts = {}  # slices and layers are copied without text
    kept = [a for a in arguments if a.partition("=")[0] not in cuts]
    # Beside the other overrides: flags may stand before or after them, but not between them.
    place = next((i for i, a in enumerate(kept) if re.match(r"[+\w./]+=", a)), len(kept))
    return [*kept[:place], *(f"{key}={value}" for key, value in cuts.items()), *kept[place:]]


@pytest.fixture(scope="module")
def sweep(example_runs: Path, run_in: Callable[..., str]) -> Path:
    """A finished sweep of two shapes, as the commands that read one expect it."""
    run_in(
        example_runs,
        ["train", "-m", "model=by_budget", "model.budget=1e6", "model.match=body",
         "model.group_size=1", "model.vocab_size=2048", "model.num_blocks=4,8", "seed=0,1,2",
         "data=text", "data.train=corpus/", "experiment_name=sweep",
         *(f"{key}={value}" for key, value in CUT.items())],
    )  # fmt: skip
    return example_runs / "outputs/sweep"


@pytest.fixture(scope="module")
def folder_of(
    example_runs: Path, sweep: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder in which the commands of a page are run."""
    folders: dict[str, Path] = {}

    def folder(page: str) -> Path:
        if page not in folders:
            folders[page] = made = tmp_path_factory.mktemp(Path(page).stem)
            for path in example_runs.iterdir():
                if path.name != "outputs":
                    (made / path.name).symlink_to(path)
            for name in SWEEPS:
                # Files that exist are replaced and never changed, and copies would take gigabytes.
                shutil.copytree(sweep, made / "outputs" / name, copy_function=os.link)
            write_ladder(made / "outputs/ladder")
            (made / "docs").symlink_to(ROOT / "docs")
        return folders[page]

    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN_COMMANDS, ids=str)
def test_a_documented_command_runs(command: Command, folder_of, run_in):
    arguments, starter = [command.name, *shortened(command)], ()
    if command.program == "torchrun":
        options = command.words[1 : -len(command.arguments) - 1]
        arguments = [str(ROOT / "scripts/train.py"), *arguments[1:]]
        starter = ("-m", "torch.distributed.run", *options)
    output = run_in(folder_of(command.page), arguments, starter)
    assert output.strip() or command.name in ("train", "prepare-data", "extract")


@pytest.mark.parametrize("pattern", COMPOSED_ONLY)
def test_a_reason_not_to_run_is_still_needed(pattern: str):
    assert any(re.search(pattern, command.line) for command in all_commands())
