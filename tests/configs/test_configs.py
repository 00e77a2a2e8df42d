"""The configs: usable as modules and as files, locked, and variants that only change values."""

import importlib
import sys

import pytest
from absl import flags
from ml_collections import config_flags
from paths import ROOT

from configs import base, smoke
from dd2d_jax.networks.disturbances import Disturbance
from dd2d_jax.networks.redescription import Redescription
from dd2d_jax.networks.trained import tower_of
from dd2d_jax.spots import Conditions

NAMES = [p.stem for p in sorted((ROOT / "configs").glob("*.py")) if p.stem != "__init__"]


def from_flags(*arguments: str):
    values, command = flags.FlagValues(), ["program", *arguments]
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)  # where config_flags looks for overrides
        values(command)
    return values.config


def flat(config, prefix: str = "") -> dict:
    out = {}
    for key, value in config.to_dict().items() if hasattr(config, "to_dict") else config.items():
        if isinstance(value, dict):
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out


def test_the_named_configs_are_there():
    assert {"base", "smoke", "paper", "twin", "shipped"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_the_module(name):
    loaded = from_flags(f"--config={ROOT}/configs/{name}.py")
    module = importlib.import_module(f"configs.{name}")
    assert loaded.to_dict() == module.get_config().to_dict()
    # A fresh one each time: changing one changes no other.
    loaded.train.batch = 1
    assert module.get_config().train.batch != 1


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_has_the_keys_and_types_of_base(name):
    made = importlib.import_module(f"configs.{name}").get_config()
    types = {key: type(value) for key, value in flat(made).items()}
    wanted = {key: type(value) for key, value in flat(base.get_config()).items()}
    if name == "paper":  # its vectors are as long as its tokens are wide
        del wanted["model.embedding"]
    assert types == wanted


@pytest.mark.parametrize("name", NAMES)
def test_a_config_makes_everything_that_it_configures(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert Conditions.from_config(config.diffraction).tokens == config.diffraction.tokens
    Disturbance(**config.disturbance)
    for part in (config.measured, config.microscope):
        amounts = {name: value for name, value in part.items() if name != "share"}
        Disturbance(**{**config.disturbance, **amounts})
    Redescription(**config.redescription)
    shares = (config.thermal.share, config.measured.share, config.microscope.share)
    assert min(shares) >= 0 and sum(shares) <= 1
    tower = tower_of(config.model)
    assert tower.width % tower.heads == 0


def test_smoke_is_smaller():
    small, whole = flat(smoke.get_config()), flat(base.get_config())
    changed = {key for key in whole if small[key] != whole[key]}
    assert "data.limit" in changed
    for key in changed - {"data.limit"}:
        assert small[key] < whole[key]


def test_an_override_is_taken_and_keeps_its_type():
    config = from_flags(
        f"--config={ROOT}/configs/base.py", "--config.train.batch=7", "--config.data.path=x.db"
    )
    assert config.train.batch == 7 and config.data.path == "x.db"


@pytest.mark.parametrize("key", ["nonsense", "train.bacth", "model.depth"])
def test_a_key_that_does_not_exist_is_refused(key):
    with pytest.raises(AttributeError, match=key.split(".")[-1]):
        from_flags(f"--config={ROOT}/configs/base.py", f"--config.{key}=1")


def test_the_config_is_locked():
    config = from_flags(f"--config={ROOT}/configs/base.py")
    with pytest.raises(AttributeError):
        config.train.nonsense = 1
