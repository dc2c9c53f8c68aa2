"""Set up the environment of the hub's libraries: a folder for caches, and offline mode."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

_SECONDS_TO_CONNECT = 5.0


def ensure_cache(parent: Path) -> None:
    """Put the caches of `datasets` below `parent` if the home folder is not writable.

    This has no effect if the user has set `HF_HOME`, or after `datasets` has been imported.
    """
    if "HF_HOME" in os.environ or "HF_DATASETS_CACHE" in os.environ:
        return
    try:
        usual = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "huggingface"
        usual.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(usual, os.W_OK)
    except (OSError, RuntimeError):
        # The home folder is unknown or does not exist, or the file system is read-only.
        is_writable = False
    if not is_writable:
        os.environ["HF_HOME"] = str(parent.absolute() / ".huggingface")
        logger.info("the home folder is not writable: caches are kept in %s", os.environ["HF_HOME"])


@contextmanager
def offline_without_network() -> Iterator[str | None]:
    """Use offline mode if the hub cannot be reached; the libraries would retry for 30 seconds.

    Cached data are still found. The context variable is the reason why the hub cannot be reached,
    or None.
    """
    from datasets import config
    from huggingface_hub import constants

    reason = None if constants.HF_HUB_OFFLINE else _why_unreachable(constants.ENDPOINT)
    if reason is None:
        yield None
        return
    before = (config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield reason
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _why_unreachable(endpoint: str) -> str | None:
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=_SECONDS_TO_CONNECT)
    except Exception as error:
        return f"{endpoint} cannot be reached: {' '.join(str(error).split())}"
    return None
