"""Checks that the optional package `executorch` is there."""

import importlib.util
import logging


def require_executorch(purpose: str) -> None:
    """Check that the package is installed.

    Args:
        purpose: what it is needed for, for the message.

    Raises:
        ValueError: it is not.
    """
    if importlib.util.find_spec("executorch") is None:
        raise ValueError(
            f"{purpose} needs the package executorch, which is not installed; install it with pip "
            "install 'mobilellm[executorch]'"
        )
    # torchao, which comes with it, reports kernels for other machines that cannot be loaded here,
    # and torch reports a class of torchao.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
