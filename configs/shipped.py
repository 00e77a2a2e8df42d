"""The training of the weights in the package; `data.path` is the database of 2DMatPedia."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """`base` on the project's own crystals and those of 2DMatPedia, four times as long."""
    config = base.get_config()
    config.data.source = "prototypes+ase_db"
    # With time for them, more patterns as poor as a microscope's, and smaller groups of like cells,
    # make *microscope* and real flakes better and nothing worse (docs/accuracy.md).
    config.microscope.share = 0.35
    config.train.alike = 8
    config.train.steps = 4000
    config.train.evaluate_every = 400
    config.train.patience = 0
    return config
