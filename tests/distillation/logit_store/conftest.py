"""A finished store."""

import pytest
from small_logit_store import write


@pytest.fixture
def store(tmp_path):
    return write(tmp_path / "store")
