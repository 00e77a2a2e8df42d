"""Which queries say how good a step is."""

import pytest

from configs import base
from train.accuracy import deciding


@pytest.mark.parametrize(
    ("shares", "levels"),
    [
        ({}, ["perturbed"]),
        ({"thermal": 0.2}, ["perturbed"]),
        ({"measured": 0.3}, ["perturbed", "measured"]),
        ({"measured": 0.3, "microscope": 0.2}, ["perturbed", "measured", "microscope"]),
    ],
)
def test_the_levels_decide_that_training_has_seen(shares, levels):
    config = base.get_config()
    for name in ("thermal", "measured", "microscope"):
        config[name].share = shares.get(name, 0.0)
    assert deciding(config) == levels


def test_the_clean_level_decides_where_training_saw_no_other():
    config = base.get_config()
    for part in ("thermal", "measured", "microscope"):
        config[part].share = 0.0
    for name in config.disturbance:
        config.disturbance[name] = 0.0
    assert deciding(config) == ["clean"]
