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

    _disturb(config)
    config.microscope = _microscope()

    # For networks that read atoms: a crystal's origin, cell and frame are free, and each time it
    # is described another way.
    config.redescription = ConfigDict()
    # Share of the crystals whose origin is anywhere.
    config.redescription.origin = 0.0
    # Share of the crystals with another cell of the same lattice.
    config.redescription.cell = 0.0
    # Most that a crystal is turned in the plane, either way.
    config.redescription.rotation = 0.0  # degrees

    config.model = ConfigDict()
    # default (reads spots), atoms (configs/twin.py) or paper (configs/paper.py).
    config.model.name = "default"
    config.model.width = 128
    config.model.layers = 3
    config.model.heads = 4
    config.model.embedding = 128
    # Of residuals, embeddings and keys, in networks that read atoms.
    config.model.dropout = 0.0
    # Compute type; parameters stay float32.
    config.model.dtype = "float32"

    config.train = _train()
    return config


def _disturb(config: ConfigDict) -> None:
    # The most that disturbs a training query (see dd2d_jax.networks.disturbances); each sample
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
    # Off: it costs a tenth of the perturbed queries, as the network then trusts cells too much
    # (docs/accuracy.md).
    config.thermal.share = 0.0
    config.thermal.displacement = 0.3  # angstrom, on each coordinate

    # And so many are distorted and hidden in part, as an image of a microscope, beside what
    # `disturbance` says. It costs the others next to nothing (docs/accuracy.md).
    config.measured = ConfigDict()
    config.measured.share = 0.3
    config.measured.scale = 0.025
    config.measured.ellipticity = 0.012
    config.measured.tilt = 2.5  # degrees
    config.measured.wedge = 24.0  # degrees
    config.measured.missing = 0.25
    config.measured.floor = 0.003


def _microscope() -> ConfigDict:
    # And so many as cameras and real flakes give them: everything that `measured` is and what
    # follows, each by itself from nothing to the most that is seen.
    part = ConfigDict()
    part.share = 0.25
    # The optics, as for `measured`.
    part.scale = 0.025
    part.ellipticity = 0.012
    part.wedge = 24.0  # degrees
    part.missing = 0.25
    # A flake lies on its support as it fell, and is bent: zone axes are off by a few degrees.
    part.tilt = 6.0  # degrees
    # Multiple scattering: kinematic intensities are off by 20 to 60 % even for one layer.
    part.noise = 0.4
    # Soft layers at room temperature and beam damage; the library is simulated at 0.5.
    part.b_iso = 0.5  # angstrom^2
    part.b_more = 2.5  # angstrom^2
    # A background taken off too far or too little, and the detector's own falling off.
    part.slope = 0.6  # angstrom^2
    # Tilt, thickness and multiple scattering part mates by 3 to 30 times.
    part.friedel = 1.7
    # From exfoliated single layers to flakes of 20 nm.
    part.layers = 30.0
    # From 60 keV, which spares carbon, to 300; the program is told one or nothing.
    part.energy = 1.0
    # Charge density waves, ordered vacancies: few per cent of the main spots. In training, where
    # every spot is indexed, nobody sees them.
    part.satellites = 0.0
    # Dust, hot pixels, a second flake: what falls on a spot of the lattice changes it.
    part.false = 0.12
    # From the 200 spots of a long exposure to the 20 of a short one.
    part.few = 2.3
    # What lies below the camera's noise, or below one grey value of an 8-bit export.
    part.floor = 0.004
    # Exports for the screen are stretched (a power of 0.5 to 2); strong spots are saturated.
    part.gamma = 0.7
    part.clip = 2.3
    return part


def _train() -> ConfigDict:
    part = ConfigDict()
    # The folder of a run, or dd2d_jax/weights, whose weights training starts from; empty: from
    # random ones. Crystals that these were trained on are no test.
    part.start = ""
    # Over all devices of all hosts.
    part.batch = 256
    # Crystals of a batch come in groups of at most so many with like cells, the rivals that count
    # in a library; 0 draws each by itself.
    part.alike = 16
    # Parts in which a device embeds its share: less memory, same gradient, one more forward pass.
    part.accumulate = 1
    # Compute each block again on the way back instead of keeping what is in it: less memory on
    # GPU and TPU.
    part.remat = False
    part.steps = 1000
    part.learning_rate = 1e-3
    part.warmup = 50
    # How fast the optimiser forgets the size of gradients.
    part.b2 = 0.98
    part.weight_decay = 0.05
    part.clip = 1.0
    # Steps between evaluations on the validation split; each saves a checkpoint.
    part.evaluate_every = 100
    # Stop after this many evaluations without a better top-1; 0 never stops early.
    part.patience = 5
    return part
