import pytest
from preparing import LIBRARY, MODULES


@pytest.fixture
def corpus(tmp_path):
    """Ten files for training, one for validation."""
    for split, names in (("train", MODULES), ("validation", ["heapq"])):
        folder = tmp_path / "corpus" / split
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name}.txt").write_bytes((LIBRARY / f"{name}.py").read_bytes())
    return tmp_path / "corpus"
