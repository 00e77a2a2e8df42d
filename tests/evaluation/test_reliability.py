"""Stated probabilities against what was true, by hand."""

import numpy as np
import pytest

from dd2d_jax.evaluation.reliability import reliability


def test_scores_are_those_written_out_by_hand():
    found = reliability(np.array([0.95, 0.91, 0.2, 1.0]), np.array([True, False, False, True]))
    assert found["count"] == 4
    assert found["brier"] == pytest.approx((0.05**2 + 0.91**2 + 0.2**2) / 4)
    assert found["log_loss"] == pytest.approx(-np.log([0.95, 0.09, 0.8, 1.0]).mean())
    last = found["bins"][-1]
    assert (last["from"], last["count"]) == (0.9, 3)
    assert last["stated"] == pytest.approx((0.95 + 0.91 + 1) / 3)
    assert last["true"] == pytest.approx(2 / 3)
    assert found["ece"] == pytest.approx(0.75 * abs(last["stated"] - 2 / 3) + 0.25 * 0.2)


def test_weights_count_as_so_many_queries():
    stated, true = np.array([0.95, 0.91, 0.2]), np.array([True, False, False])
    weighed = reliability(stated, true, np.array([3.0, 1.0, 2.0]))
    repeated = reliability(np.repeat(stated, [3, 1, 2]), np.repeat(true, [3, 1, 2]))
    for name in ("brier", "log_loss", "ece"):
        assert weighed[name] == pytest.approx(repeated[name])
    for one, other in zip(weighed["bins"], repeated["bins"], strict=True):
        assert (one["stated"], one["true"]) == pytest.approx((other["stated"], other["true"]))
    assert weighed["count"] == 3


def test_who_states_what_is_true_has_no_calibration_error():
    random = np.random.default_rng(0)
    stated = random.random(20000)
    assert reliability(stated, random.random(20000) < stated)["ece"] < 0.02
    assert reliability(stated, random.random(20000) < stated**2)["ece"] > 0.1


def test_of_nothing_there_is_nothing():
    assert reliability(np.zeros(0), np.zeros(0))["bins"] == []
