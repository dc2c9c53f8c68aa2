"""The whole comparison: tune every contender, train all in alternation, report."""

import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mobilellm.cli.messages import print_message
from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline.plan import plan_run
from scripts.benchmarks.time_to_loss.corpus import write_corpus
from scripts.benchmarks.time_to_loss.measurement import measure, results
from scripts.benchmarks.time_to_loss.trials import ADAMW, OURS, Outcome, Trial, Trials, python_of
from scripts.benchmarks.time_to_loss.tuning import Tuned, tune

# Differs from the seeds of the measurement, so that the best settings are not chosen by their luck.
TUNING_SEED = 1000


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared."""

    overrides: tuple[str, ...]
    """Model, data and lengths of all contenders, as for `mobilellm train`."""
    recipe: tuple[str, ...]
    """Further overrides of this project's recipe; without any, its defaults are measured."""
    contenders: tuple[str, ...]
    learning_rates: tuple[float, ...]
    tokens_per_step: int
    """The batch size with which tuning begins."""
    widenings: int
    shares: tuple[float, ...]
    seeds: tuple[int, ...]
    threads: int

    def check(self) -> None:
        """Check what can be checked before data are prepared.

        Raises:
            ValueError: a contender cannot be run, or a share, rate or seed is not valid.
        """
        variables = {"litgpt": "LITGPT_PYTHON", "huggingface": "HUGGINGFACE_PYTHON"}
        needed = {"litgpt": "litgpt", "huggingface": "transformers and accelerate"}
        for name in self.contenders:
            if python_of(name) is None:
                raise ValueError(
                    f"the contender {name} needs {variables[name]}, the path of a Python that has "
                    f"{needed[name]}; set it, or choose others with --contenders"
                )
        if not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"--shares {self.shares} must be above 0 and at most 1")
        if not all(rate > 0 for rate in self.learning_rates):
            raise ValueError(f"--learning-rates {self.learning_rates} must be above 0")
        if len({*self.seeds, TUNING_SEED}) <= len(self.seeds):
            raise ValueError(
                f"--seeds {self.seeds} must differ from each other and from {TUNING_SEED}, the "
                "seed of the tuning"
            )


def compare(comparison: Comparison, path: Path) -> dict[str, Any]:
    """Tune, train and compare; the outcomes of trials are kept in `path`.

    Raises:
        ValueError: the settings are not valid, or do not fit the trials in the file.
        RuntimeError: a trial failed.
    """
    comparison.check()
    identity = plan_run(compose("train", [*comparison.overrides, *comparison.recipe])).identity
    with tempfile.TemporaryDirectory() as folder:
        settings = write_corpus(comparison.overrides, Path(folder), comparison.tokens_per_step)
        settings |= {"threads": comparison.threads}
        length = settings["sequence_length"]
        if comparison.tokens_per_step % length:
            raise ValueError(
                f"--tokens-per-step {comparison.tokens_per_step} must be a multiple of "
                f"sequence_length={length}"
            )
        trials = Trials(path, settings)
        runner = _Runner(trials, Path(folder), comparison.recipe, identity)
        runner.tuned = tune(
            comparison.contenders,
            runner.tuning_loss,
            learning_rates=comparison.learning_rates,
            tokens_per_step=comparison.tokens_per_step,
            smallest=length,
            widenings=comparison.widenings,
        )
        for name, best in runner.tuned.items():
            print_message(f"{name}: best of {best.trials} trials: {_described(best)}")
        found = measure(runner.measured, comparison.contenders, comparison.shares, comparison.seeds)
    trials.results = {
        "recipe": list(comparison.recipe),
        "identity": identity,
        "tuned": {name: asdict(best) for name, best in runner.tuned.items()},
        **results(found),
    }
    trials.write()
    return trials.results


def _described(best: Tuned) -> str:
    interior = {"learning rate": best.rate_is_interior, "batch": best.batch_is_interior}
    edges = " and ".join(name for name, inside in interior.items() if not inside)
    return (
        f"learning rate {best.learning_rate:g}, {best.tokens_per_step} tokens per step, loss "
        f"{best.loss:.4f}" + (f"; at the edge of the grid: {edges}" if edges else "")
    )


def _text(loss: float | None) -> str:
    return "diverged" if loss is None else f"loss {loss:.4f}"


@dataclass
class _Runner:
    """Turns names, rates and shares into trials, and runs them."""

    trials: Trials
    corpus: Path
    recipe: tuple[str, ...]
    measurement: str
    """Name of the rounds in which contenders are timed beside this recipe."""
    tuned: dict[str, Tuned] = field(default_factory=dict)

    def tuning_loss(self, name: str, rate: float, batch: int) -> float:
        """The loss of a contender with the whole budget; infinite if training diverged."""
        outcome = self.trials.outcome(self._trial(name, rate, batch, TUNING_SEED, ""), self.corpus)
        loss = outcome["loss"]
        print_message(f"{name}, learning rate {rate:g}, {batch} tokens per step: {_text(loss)}")
        return float("inf") if loss is None else loss

    def measured(self, name: str, share: float, seed: int) -> Outcome:
        """The outcome of a contender with its best settings, or of this project's recipe."""
        if name == OURS:
            trial = Trial(
                contender=name,
                max_tokens=round(share * self.trials.settings["max_tokens"]),
                seed=seed,
                overrides=self.recipe,
                measurement=self.measurement,
            )
        else:
            best = self.tuned[name]
            trial = self._trial(
                name, best.learning_rate, best.tokens_per_step, seed, self.measurement
            )
        outcome = self.trials.outcome(trial, self.corpus)
        print_message(f"{name}, seed {seed}, {share:.0%} of the tokens: {_text(outcome['loss'])}")
        return outcome

    def _trial(self, name: str, rate: float, batch: int, seed: int, measurement: str) -> Trial:
        settings = (f"optimizer.learning_rate={rate}", f"tokens_per_step={batch}")
        return Trial(
            contender=name,
            max_tokens=self.trials.settings["max_tokens"],
            seed=seed,
            tokens_per_step=batch,
            learning_rate=rate,
            overrides=("optimizer=adamw", "schedule=cosine", *settings) if name == ADAMW else (),
            measurement=measurement,
        )
