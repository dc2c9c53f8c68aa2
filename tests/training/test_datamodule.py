"""What the data module gives beside the batches of training."""

import pytest
import torch
from small_run import make_data


def test_calibration_does_not_depend_on_where_the_run_stands():
    first, later = make_data(4), make_data(2)
    later.load_state_dict({"consumed_samples": 24})
    batches, again = first.calibration_batches(161), later.calibration_batches(161)
    assert [len(batch["input_ids"]) for batch in batches] == [8, 3]
    for a, b in zip(batches, again, strict=True):
        assert torch.equal(a["input_ids"], b["input_ids"])
    with pytest.raises(ValueError, match="calibration_tokens=2000 is more than the training split"):
        first.calibration_batches(2000)
