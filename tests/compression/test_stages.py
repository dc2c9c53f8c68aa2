"""When the stages of a compression begin, and which layers each of them takes."""

import pytest
from small_run import make_model

from mobilellm.compression.stages import Stages, group_layers, stage_starts

CONFIG = make_model().config
NAMES = [name for name in CONFIG.matrix_sizes if "feed_forward" in name]


@pytest.mark.parametrize(
    ("total", "number", "options", "starts"),
    [
        (100, 4, {}, (0, 25, 50, 75)),
        (None, 1, {}, (0,)),
        (100, 1, {"first_start": 0.3}, (30,)),
        (100, 2, {"first_start": 0.2}, (20, 60)),
        (100, 3, {"first_start": 0.2, "recovery_share": 0.1}, (20, 30, 40)),
        (7, 3, {}, (0, 2, 5)),
    ],
)
def test_starts(total, number, options, starts):
    assert stage_starts(total, number, **options) == starts


@pytest.mark.parametrize(
    ("total", "number", "options", "message"),
    [
        (100, 0, {}, "num_stages=0 must be a whole number of at least 1"),
        (100, 1, {"first_start": 1.0}, "first_start=1.0 is a share"),
        (100, 2, {"recovery_share": 0.0}, "recovery_share=0.0 is a share"),
        (
            100,
            3,
            {"first_start": 0.5, "recovery_share": 0.25},
            "begins at step 100, but the run ends",
        ),
        (2, 50, {}, "step 2, but the run ends at step 2; use fewer stages or more tokens"),
        (2, 50, {"first_start": 0.1}, "step 2; lower first_start=0.1, or use fewer stages"),
        (3, 5, {}, "begin at the steps 0, 1, 1, 2, 2, but these must increase"),
        (None, 2, {}, "limited only by time; give max_tokens or max_steps"),
    ],
)
def test_starts_that_cannot_be_are_refused(total, number, options, message):
    with pytest.raises(ValueError, match=message):
        stage_starts(total, number, **options)


@pytest.mark.parametrize(
    ("groups", "starts", "message"),
    [
        ((("a", "b"), ("b",)), (0, 1), "b is in stage 1 and in stage 2; compress each layer once"),
        ((("a",), ()), (0, 1), "stage 2 compresses no layer"),
        ((("a",), ("b",)), (3, 3), "the stages begin at the steps 3, 3, but these must increase"),
        ((("a",),), (-1,), "the stages begin at the steps -1, but these must increase and must"),
        ((("a",),), (0, 1), "there are 1 groups of layers and 2 starts"),
    ],
)
def test_stages_that_contradict_themselves_are_refused(groups, starts, message):
    with pytest.raises(ValueError, match=message):
        Stages(groups, starts)


def test_stages_are_plain_data():
    stages = Stages((("a", "b"), ("c",)), (0, 5))
    assert Stages.from_dict(stages.to_dict()) == stages


def test_orders_of_the_layers():
    shuffled = NAMES[::-1]
    forward = group_layers(CONFIG, shuffled, num_stages=2)
    assert forward == (tuple(NAMES[:3]), tuple(NAMES[3:]))
    backward = group_layers(CONFIG, NAMES, num_stages=4, order="backward")
    assert sum(backward, ()) == tuple(NAMES[::-1])
    assert sorted(map(len, backward)) == [1, 1, 2, 2]
    errors = dict(zip(NAMES, (0.3, 0.1, 0.2, 0.6, 0.5, 0.4), strict=True))
    tender = group_layers(CONFIG, NAMES, num_stages=3, order="least_sensitive", errors=errors)
    assert sum(tender, ()) == tuple(sorted(NAMES, key=errors.__getitem__))
    given = group_layers(
        CONFIG, NAMES, num_stages=2, order="given",
        patterns=[["*.down_proj"], ["*.gate_proj", "blocks.*.up_proj"]],
    )  # fmt: skip
    assert given[0] == (NAMES[2], NAMES[5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_stages": 7}, "num_stages=7 exceeds the number of layers to compress, 6"),
        ({"order": "sideways"}, "order='sideways' is not known"),
        ({"order": "least_sensitive", "errors": {}}, "does not estimate it for blocks.0"),
        ({"order": "given", "patterns": [["nothing"]]}, "nothing"),
        ({"order": "given", "patterns": [["embedding"]]}, "stage 1, embedding, matches none of th"),
        ({"order": "given", "patterns": [["blocks.0.*"]]}, "groups does not contain blocks.1"),
        ({"order": "given", "patterns": [["blocks.*"], ["blocks.0.*.up_proj"]]},
         "up_proj is in stage 1 and in stage 2"),
    ],
)  # fmt: skip
def test_groups_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        group_layers(CONFIG, NAMES, **{"num_stages": 1, **options})
