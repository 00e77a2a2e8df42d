"""The main configuration: trains on `prototypes`, on whatever devices are there."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every knob of the training program with its default."""
    config = ConfigDict()
    # Fixes the initial parameters, the batches and every disturbance.
    config.seed = 0

    config.data = ConfigDict()
    # prototypes (made here, no download), ase_db, files, c2db, jarvis_2d or dd2d_json; two of
    # them together as prototypes+ase_db.
    config.data.source = "prototypes"
    # The file or folder of ase_db, files and dd2d_json.
    config.data.path = ""
    # Where prepared data sets are kept; empty: DD2D_DATA_DIR or ~/.cache/dd2d.
    config.data.data_dir = ""
    # Draw this many crystals at random first; 0 takes all.
    config.data.limit = 0
    # random, or formula (no reduced formula in two splits); 8:1:1.
    config.data.split = "random"
    config.data.split_seed = 0

    config.diffraction = ConfigDict()
    config.diffraction.energy = 80.0  # keV
    config.diffraction.q_max = 1.25  # 1/angstrom
    config.diffraction.b_iso = 0.5  # angstrom^2
    # Spot pairs (q and -q) that the encoders read, the strongest first.
    config.diffraction.tokens = 48

    # The most that disturbs a training query (see dd2d_jax.corrupt.Disturbance); each sample
    # draws its own share of it, from none to all.
    config.disturbance = ConfigDict()
    config.disturbance.strain = 0.015
    config.disturbance.displacement = 0.045  # angstrom
    config.disturbance.noise = 0.15
    config.disturbance.b_iso = 0.5  # angstrom^2
    config.disturbance.missing = 0.1
    config.disturbance.crop = 0.2
    config.disturbance.floor = 0.003

    # Instead of that, so many of the queries have the cell of their crystal and atoms that moved
    # far, as in molecular dynamics; each sample draws its own share of the displacement.
    config.thermal = ConfigDict()
    config.thermal.share = 0.25
    config.thermal.displacement = 0.3  # angstrom, on each coordinate

    # And so many are distorted and hidden in part, as an image of a microscope, beside what
    # `disturbance` says; the weights in the package have seen 0.35 (configs/shipped.py).
    config.measured = ConfigDict()
    config.measured.share = 0.0
    config.measured.scale = 0.025
    config.measured.ellipticity = 0.012
    config.measured.tilt = 2.5  # degrees
    config.measured.wedge = 24.0  # degrees
    config.measured.missing = 0.25
    config.measured.floor = 0.003

    config.model = ConfigDict()
    config.model.width = 128
    config.model.layers = 3
    config.model.heads = 4
    config.model.embedding = 128
    # Compute type; parameters stay float32.
    config.model.dtype = "float32"

    config.train = ConfigDict()
    # Over all devices of all hosts.
    config.train.batch = 256
    # Parts in which a device embeds its share: less memory, same gradient, one more forward pass.
    config.train.accumulate = 1
    # Compute each block again on the way back instead of keeping what is in it: less memory on
    # GPU and TPU.
    config.train.remat = False
    config.train.steps = 1000
    config.train.learning_rate = 1e-3
    config.train.warmup = 50
    config.train.weight_decay = 0.05
    config.train.clip = 1.0
    # Steps between evaluations on the validation split; each saves a checkpoint.
    config.train.evaluate_every = 100
    # Stop after this many evaluations without a better top-1; 0 never stops early.
    config.train.patience = 5
    return config
