"""A recipe rule that is made up, so that tests do not depend on the numbers in use."""

from dataclasses import replace

from mobilellm.optim.recipe_rule import RecipeRule, Setting

RULE = RecipeRule(
    reference=Setting(tokens=1024, width=8, depth=2),
    step=64, step_exponent=0.5, learning_rate=0.01,
    exponents={"tokens": 0.0, "width": -1.0, "depth": 1.0, "step": 0.5},
    fitted={"tokens": (256, 1e5), "width": (4, 64), "depth": (1, 8), "step": (1, 1e9)},
    schedule="wsd",
)  # fmt: skip
LATER_RULE = replace(RULE, step=16, learning_rate=0.5)
AUTO = ["tokens_per_step=auto", "optimizer=muon", "schedule=wsd", "optimizer.learning_rate=auto",
        "max_tokens=4096"]  # fmt: skip
STEP, RATE = "tokens_per_step", "optimizer.learning_rate"


def numbers(config):
    return config["tokens_per_step"], config["optimizer"]["learning_rate"]


def logged(caplog):
    """All that was logged, as one line."""
    return " ".join(" ".join(caplog.messages).split())


def folders(tmp_path, pattern="default/*"):
    return sorted(path.parent for path in tmp_path.glob(f"outputs/{pattern}/summary.json"))
