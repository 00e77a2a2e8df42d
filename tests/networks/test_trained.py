"""Trained models: read back exactly, or refused in one line."""

import json

import jax
import numpy as np
import pytest
import tiny

import diffraction as dx
from dd2d_jax.networks import trained
from dd2d_jax.networks.checkpoint import save, write_config
from dd2d_jax.networks.disturbances import clean_spots
from dd2d_jax.spots import strongest_rods
from dd2d_jax.util.errors import CheckpointError


@pytest.fixture(scope="module")
def model() -> trained.Model:
    config = tiny.config()
    return trained.Model(config, jax.tree.map(np.asarray, trained.initial_params(config)))


@pytest.fixture(scope="module")
def crystals():
    return tiny.crystals().crystal


@pytest.fixture
def folder(model, tmp_path):
    write_config(tmp_path, model.config)
    save(tmp_path, "best", 5, {"params": model.params}, {})
    return tmp_path


def test_a_loaded_model_embeds_exactly_as_the_saved_one(model, crystals, folder):
    found = trained.load(folder)
    assert found.fingerprint == model.fingerprint
    assert found.config.to_dict() == model.config.to_dict()
    np.testing.assert_array_equal(found.embed_crystals(crystals), model.embed_crystals(crystals))


def test_the_packages_weights_fit_its_config():
    """They are read as they are; of any other folder the config is asked first."""
    if not (trained.DEFAULT_WEIGHTS / "config.json").is_file():
        pytest.skip(f"no default weights at {trained.DEFAULT_WEIGHTS}")
    one, other = trained.load(), trained.load(trained.DEFAULT_WEIGHTS)
    assert one.fingerprint == other.fingerprint


def test_the_folder_may_be_text(folder, model):
    assert trained.load(str(folder)).fingerprint == model.fingerprint


def test_chunks_do_not_change_a_row(model, crystals, monkeypatch):
    whole = model.embed_crystals(crystals)
    assert whole.shape == (32, 8)
    monkeypatch.setattr(trained, "CHUNK", 16)
    # 31 = 16 + 15: the last chunk is filled up, and what fills it is thrown away.
    np.testing.assert_allclose(model.embed_crystals(crystals[:31]), whole[:31], atol=1e-6)


def test_patterns_of_the_untrained_model_find_their_crystals(model, crystals):
    hk = strongest_rods(crystals, model.conditions, 8)
    spots = clean_spots(crystals, hk, model.conditions)
    np.testing.assert_allclose(
        model.embed_patterns(spots), model.embed_crystals(crystals, hk), atol=1e-4
    )


def test_models_of_one_config_share_their_compilation(model):
    other = trained.Model(
        model.config.copy_and_resolve_references(), jax.tree.map(np.zeros_like, model.params)
    )
    assert other._functions is model._functions
    changed = model.config.copy_and_resolve_references()
    changed.diffraction.b_iso = 0.7
    assert trained.Model(changed, model.params)._functions is not model._functions


def refused(folder) -> str:
    with pytest.raises(CheckpointError) as error:
        trained.load(folder)
    message = str(error.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_a_missing_folder_is_refused(tmp_path):
    assert "no checkpoint" in refused(tmp_path / "nothing")


def test_a_folder_without_weights_is_refused(model, tmp_path):
    write_config(tmp_path, model.config)
    assert "no weights" in refused(tmp_path)


def test_truncated_weights_are_refused(folder):
    data = max((folder / "best" / "5").rglob("d/*"), key=lambda p: p.stat().st_size)
    for path in (folder / "best" / "5").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: data.stat().st_size // 3])
    assert "damaged" in refused(folder)


@pytest.mark.parametrize("change", [{"width": 32}, {"layers": 2}, {"embedding": 4}])
def test_weights_of_another_model_are_refused(folder, change):
    config = tiny.config()
    config.model.update(change)
    write_config(folder, config)
    refused(folder)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda c: c.pop("model"),
        lambda c: c["model"].pop("width"),
        lambda c: c["model"].update(width="wide"),
        lambda c: c["model"].update(heads=0),
        lambda c: c["model"].update(dtype="float99"),
        lambda c: c["diffraction"].pop("tokens"),
        lambda c: c.update(model=3),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(folder, break_it):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    break_it(config)
    path.write_text(json.dumps(config))
    refused(folder)


def test_crystals_sorted_by_size_are_embedded_as_they_are(model, monkeypatch):
    found = tiny.crystals()
    numbers = np.pad(found.numbers, [(0, 0), (0, 13)])
    numbers[::3, :3] = np.pad(found.numbers[::3, :1], [(0, 0), (0, 2)])  # of one atom
    positions = np.pad(found.positions, [(0, 0), (0, 13), (0, 0)])
    crystals = dx.Crystal(found.lattice, positions, numbers)
    hk = strongest_rods(crystals, model.conditions, 8)
    hk[::2, 4:] = 0
    whole = model.embed_crystals(crystals, hk)
    monkeypatch.setattr(trained, "_SORT_FROM", 1)
    np.testing.assert_allclose(model.embed_crystals(crystals, hk), whole, atol=1e-5)
    sizes = [(slots, pairs) for _, slots, pairs in trained._alike(numbers, hk)]
    assert sizes == [(8, 4), (8, 8)]
