"""What the hub's libraries need around them: a folder for their caches, and a network or none."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

_SECONDS_TO_CONNECT = 5.0


def ensure_cache(parent: Path) -> None:
    """Put the caches of `datasets` below `parent` where the home folder cannot be written.

    Without effect where the user chose a place (`HF_HOME`), and once `datasets` is imported.
    """
    if "HF_HOME" in os.environ or "HF_DATASETS_CACHE" in os.environ:
        return
    try:
        usual = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "huggingface"
        usual.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(usual, os.W_OK)
    except (OSError, RuntimeError):
        # A home folder that is not there or not known, or a read-only file system.
        is_writable = False
    if not is_writable:
        os.environ["HF_HOME"] = str(parent.absolute() / ".huggingface")
        logger.info("the home folder cannot be written: caches go to %s", os.environ["HF_HOME"])


@contextmanager
def offline_without_network() -> Iterator[str | None]:
    """Spare the libraries their half minute of retries where the hub cannot be reached.

    What lies in their caches is found all the same. Gives the reason where it was not reached.
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
