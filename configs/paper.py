"""The published network of DD2D (Fu et al., Commun. Phys. 8, 221, 2025) and its training."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """`base` with the paper's network and its optimiser's settings."""
    config = base.get_config()
    # As many points as the authors' patterns have: 168 and the end token.
    config.diffraction.tokens = 84

    # The paper's unperturbed set: one clean pattern of each crystal.
    for name in config.disturbance:
        config.disturbance[name] = 0.0
    config.thermal.share = 0.0
    config.measured.share = 0.0
    config.microscope.share = 0.0

    config.model.name = "paper"
    config.model.width = 384
    config.model.layers = 4
    config.model.dropout = 0.1
    # Its vectors are as long as its tokens are wide.
    del config.model.embedding

    # 2,000 epochs of the authors' 6,361 crystals.
    config.train.steps = 48000
    config.train.alike = 0
    config.train.learning_rate = 4e-4
    # The authors warm up in a step or two and repeat their cosine every few epochs; here once.
    config.train.warmup = 100
    config.train.b2 = 0.95
    config.train.weight_decay = 0.1
    # Ten epochs.
    config.train.evaluate_every = 240
    config.train.patience = 20
    return config
