"""The same program in a minute or two on two CPU cores: a small network, few steps."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """`base` made small."""
    config = base.get_config()
    config.data.limit = 1000
    config.diffraction.tokens = 24
    config.model.width = 48
    config.model.layers = 1
    config.model.embedding = 32
    config.train.batch = 64
    config.train.steps = 60
    config.train.warmup = 10
    config.train.evaluate_every = 20
    return config
