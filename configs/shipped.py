"""The training of the weights in the package; `data.path` is the database of 2DMatPedia."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """`base` on the project's own crystals and those of 2DMatPedia, and a little longer."""
    config = base.get_config()
    config.data.source = "prototypes+ase_db"
    config.train.steps = 2000
    config.train.evaluate_every = 200
    config.train.patience = 0
    return config
