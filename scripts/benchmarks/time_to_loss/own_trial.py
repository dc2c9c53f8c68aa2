"""A trial of this project: the run that the overrides describe, as `mobilellm train` trains it.

Checkpoints are left out, as in the other projects, and so is the display of progress.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from mobilellm.checkpoint import load_model
from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline.train import train as train_run
from mobilellm.run_folder import MODEL, SUMMARY
from mobilellm.training.divergence import TrainingDiverged
from scripts.benchmarks.time_to_loss.child import Clock, Settings, Trained, run_trial
from scripts.benchmarks.time_to_loss.training_clock import CLOCK, TrainingClockCallback


def train(settings: Settings, clock: Clock) -> Trained:
    """Train the run, and load the model that it saved; `clock` is that of the callback."""
    with TemporaryDirectory() as folder:
        cfg = compose("train", [*settings["overrides"], *watching_overrides(settings, folder)])
        try:
            summary = train_run(cfg)
        except TrainingDiverged:
            return Trained(None)
        [written] = Path(folder).rglob(SUMMARY)
        model = load_model(written.parent / MODEL)
    model.eval()
    return Trained(
        lambda tokens: model(tokens).logits,
        parameters=sum(each.numel() for each in model.parameters()),
        steps=summary["steps"],
        tokens_per_step=summary["tokens"] // summary["steps"],
        learning_rate=summary["learning_rate"],
    )


def watching_overrides(settings: Settings, folder: str) -> list[str]:
    """Settings that do not change what is trained."""
    clock = f"{TrainingClockCallback.__module__}.{TrainingClockCallback.__name__}"
    return [
        f"output_dir={folder}",
        f"trainer.num_threads={settings['threads']}",
        f"validation_interval_tokens={10 * settings['max_tokens']}",
        f"log_interval_steps={settings['log_interval_steps']}",
        "callbacks.checkpoint=null",
        "callbacks.progress=null",
        "callbacks.run_summary=null",
        f"+callbacks.training_clock._target_={clock}",
    ]


if __name__ == "__main__":
    run_trial(train, CLOCK)
