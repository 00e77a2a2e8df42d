"""The paper's twin tower in its own right, at a size that a laptop trains: it reads atoms."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """`base` with a network whose crystal's tower reads the cell and the atoms, and no spots."""
    config = base.get_config()
    # A token costs time in one tower only.
    config.diffraction.tokens = 32

    # The paper's patterns: the crystal's own, or of a snapshot of molecular dynamics, whose cell
    # is exact.
    config.disturbance.strain = 0.01
    config.thermal.share = 0.4
    config.measured.share = 0.0
    config.microscope.share = 0.0

    config.redescription.origin = 1.0
    config.redescription.cell = 0.2
    config.redescription.rotation = 5.0

    config.model.name = "atoms"
    # As the paper has them.
    config.model.layers = 4
    config.model.heads = 4

    # 166 epochs of 6,360 crystals.
    config.train.steps = 4000
    config.train.alike = 0
    config.train.learning_rate = 1e-3
    config.train.warmup = 100
    config.train.evaluate_every = 100
    config.train.patience = 10
    return config
