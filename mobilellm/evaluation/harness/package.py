"""Whether the package of the lm-evaluation-harness is installed."""

import importlib.util

EXTRA = "mobilellm[evaluation]"


def check_installed() -> None:
    """Check that the package lm-eval is installed, without importing it.

    Raises:
        ValueError: it is not; the message names the extra that contains it.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError(
            "tasks need the package lm-eval, which is not installed; install it with "
            f"`pip install {EXTRA!r}`. Texts (--text FILE) need no further package"
        )
