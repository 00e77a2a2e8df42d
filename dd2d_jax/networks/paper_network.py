"""The published network of DD2D (Fu et al., Communications Physics 8, 221, 2025).

The details that the paper leaves open follow the authors' MIT-licensed code
(github.com/SuthPhy2Ai/DD2D) and are held by its outputs in tests/test_paper_model.py. A crystal is
a sequence of numbers, a pattern a cloud of points; the network sees no simulated spots. Dropout
acts where an rng "dropout" is given, as in training.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import diffraction as dx
from dd2d_jax.networks import checkpoint
from dd2d_jax.networks.twin_tower import unit
from dd2d_jax.spots import FLOOR, Spots
from dd2d_jax.util.files import new_folder
from dd2d_jax.util.limits import first_line, read_npz

# Tokens of a sequence that are no part of the crystal, and the end token's log intensity.
START, END, PADDING = 200.0, 210.0, -1.0
CLOUD_END = 3.0
# Start token and cell: all that the start token sees.
_HEAD = 7
VACUUM = 15.0  # angstrom, added to the thickness of a layer to make c
# The authors' images: 201 pixels from -2.5 to 2.5 1/angstrom, found from their example.
PIXELS = 201
PIXELS_PER_Q = PIXELS / 5.0
# What evaluate and retrieve simulate for imported weights, as in configs/paper.py.
CONDITIONS = {"energy": 80.0, "q_max": 1.25, "b_iso": 0.5, "tokens": 84}


def sequences(crystals: dx.Crystal, block: int | None = None) -> jax.Array:
    """Crystals as the authors' scalar sequences.

    Start token, a, b, c (angstrom), alpha, beta, gamma (degrees), then x, y, z (angstrom) and the
    atomic number of each atom, end token, padding. Atoms come by atomic number, then by their
    distance from the bottom of the cell (then y, x, so that their order in the crystal means
    nothing). c is the thickness plus 15 angstrom, the layer in its middle.

    Args:
        crystals: any batch axes, N atoms; x and y are taken as they are (canonical setting: a1
            along x).
        block: length of the sequences; None fits N atoms, 8 + 4 N. The authors' is 180.

    Returns:
        (..., block).

    Raises:
        ValueError: a crystal has more atoms than the block holds; under a transformation, where
            atoms cannot be counted, more slots.
    """
    numbers, (x, y, z) = crystals.numbers, jnp.moveaxis(crystals.positions, -1, 0)
    real = numbers > 0
    top = jnp.where(real, z, -jnp.inf).max(-1, keepdims=True)
    bottom = jnp.where(real, z, jnp.inf).min(-1, keepdims=True)
    c = top - bottom + VACUUM
    z = z + (c - top - bottom) / 2

    last = jnp.iinfo(jnp.int32).max
    order = jnp.lexsort((*jax.lax.stop_gradient((x, y, z)), jnp.where(real, numbers, last)))
    atoms = jnp.stack([x, y, z, numbers.astype(x.dtype)], -1)
    # A coordinate that is exactly the padding's number would be read as padding.
    atoms = atoms + 1e-5 * (atoms == PADDING)
    atoms = jnp.where(real[..., None], atoms, PADDING)
    atoms = jnp.take_along_axis(atoms, order[..., None], -2).reshape(*numbers.shape[:-1], -1)

    a1, a2 = crystals.lattice[..., 0, :], crystals.lattice[..., 1, :]
    cross = a1[..., 0] * a2[..., 1] - a1[..., 1] * a2[..., 0]
    gamma = jnp.degrees(jnp.arctan2(jnp.abs(cross), (a1 * a2).sum(-1)))
    right = jnp.full_like(gamma, 90.0)
    cell = [jnp.linalg.norm(a1, axis=-1), jnp.linalg.norm(a2, axis=-1), c[..., 0]]
    head = jnp.stack([jnp.full_like(gamma, START), *cell, right, right, gamma], -1)

    space = jnp.full_like(head[..., :1], PADDING)
    out = jnp.concatenate([head, atoms, space], -1).astype(x.dtype)
    count = real.sum(-1, keepdims=True)
    out = jnp.where(jnp.arange(out.shape[-1]) == _HEAD + 4 * count, END, out)
    return out if block is None else _fit(out, block, count)


def _fit(sequence: jax.Array, block: int, count: jax.Array) -> jax.Array:
    shortfall = block - sequence.shape[-1]
    if shortfall >= 0:
        # Padding is sorted last: it may be added, or cut where nothing else is there.
        pad = [(0, 0)] * (sequence.ndim - 1) + [(0, shortfall)]
        return jnp.pad(sequence, pad, constant_values=PADDING)
    held = (block - _HEAD - 1) // 4
    traced = isinstance(count, jax.core.Tracer)
    most = (sequence.shape[-1] - _HEAD - 1) // 4 if traced else int(count.max())
    if most > held:
        raise ValueError(
            f"{most} {'slots for ' if traced else ''}atoms, but a block of {block} holds {held}; "
            f"a block of {_HEAD + 1 + 4 * most} would do"
        )
    return sequence[..., :block]


def point_cloud(pattern: Spots | dx.Pattern) -> jax.Array:
    """Patterns as the authors' clouds of points.

    A point is (pixel x, pixel y, log intensity): q in pixels of 5 / 201 1/angstrom, q = 0 at 100.5,
    rounded (half a pixel up); the natural logarithm of the intensity relative to the pattern's
    strongest spot, at least log(1e-4). Spots beyond the 201 x 201 pixels are left out. The last
    point is the end token (0, 0, 3); padding is (0, 0, 0).

    Args:
        pattern: `Spots` (..., T) or a `dx.Pattern` (..., K).

    Returns:
        (..., 2 T + 1, 3) or (..., K + 1, 3).
    """
    if isinstance(pattern, Spots):
        q = jnp.concatenate([pattern.q, -pattern.q], -2)
        intensity, mask = (
            jnp.concatenate([x[..., 0], x[..., 1]], -1)
            for x in (pattern.intensity, pattern.measured)
        )
    else:
        q, intensity, mask = pattern.q, pattern.intensity, pattern.mask
    pixel = jnp.floor(q * PIXELS_PER_Q + PIXELS / 2 + 0.5)
    mask = mask & ((pixel >= 0) & (pixel < PIXELS)).all(-1)
    strongest = jnp.where(mask, intensity, 0).max(-1, keepdims=True)
    relative = intensity / jnp.where(strongest > 0, strongest, 1)
    level = jnp.log(jnp.maximum(jnp.where(mask, relative, 1), FLOOR))
    points = jnp.concatenate([pixel, level[..., None]], -1)
    points = jnp.where(mask[..., None], points, 0)
    end = jnp.zeros_like(points[..., :1, :]).at[..., 2].set(CLOUD_END)
    return jnp.concatenate([points, end], -2)


def position_code(length: int, width: int) -> np.ndarray:
    """Sinusoidal positions (length, width) float32 (Vaswani et al., 2017); they are not learned."""
    # Rounded to single precision where the authors' table is.
    exponent = np.arange(0, width, 2, dtype=np.float32) * np.float32(-np.log(10000.0) / width)
    step = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angle = np.arange(length, dtype=np.float32)[:, None] * step
    return np.stack([np.sin(angle), np.cos(angle)], -1).reshape(length, width)


def _dense(width: int, dtype: jnp.dtype, name: str) -> nn.Dense:
    return nn.Dense(width, dtype=dtype, kernel_init=nn.initializers.normal(0.02), name=name)


def _norm(dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


class Grid(NamedTuple):
    """Where the tokens of a batch stand: M tokens in N rows of T places, the rest left out.

    Attributes:
        shape: N, T.
        place: (M,) places of the tokens, row after row, ascending; N T where there is no token.
            None: all of them, M = N T.
    """

    shape: tuple[int, int]
    place: jax.Array | None

    @classmethod
    def of(cls, real: jax.Array, room: int | None) -> Grid:
        """Of tokens `real` (N, T); `room` is M, and more than all places are never needed."""
        if room is None or room >= real.size:
            return cls(real.shape, None)
        return cls(real.shape, jnp.flatnonzero(real, size=room, fill_value=real.size))

    def pack(self, x: jax.Array) -> jax.Array:
        """(N, T, C) -> (M, C)."""
        x = x.reshape(-1, x.shape[-1])
        return x if self.place is None else x.at[self.place].get(mode="fill", fill_value=0)

    def unpack(self, x: jax.Array) -> jax.Array:
        """(M, C) -> (N, T, C), zero where there is no token."""
        if self.place is not None:
            places = jnp.zeros((self.shape[0] * self.shape[1], x.shape[-1]), x.dtype)
            x = places.at[self.place].set(x, mode="drop")
        return x.reshape(*self.shape, -1)

    def find(self, column: jax.Array) -> jax.Array:
        """Columns (N, R) in each row -> which of the M tokens stand there (N, R)."""
        place = self.shape[1] * jnp.arange(self.shape[0])[:, None] + column
        return place if self.place is None else jnp.searchsorted(self.place, place)


def _kept(key: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """True with probability 1 - `rate`, in a mask of any shape.

    Numbers in sequence through a mixing function (Wellons' hash-prospector). `jax.random` needs
    a fifth of a training step on a CPU for as many numbers.
    """
    number = jax.lax.iota(jnp.uint32, math.prod(shape)) * jnp.uint32(0x9E3779B9)
    number = number ^ jax.random.bits(key)
    number = (number ^ (number >> 16)) * jnp.uint32(0x21F0AAAD)
    number = (number ^ (number >> 15)) * jnp.uint32(0x735A2D97)
    return (number ^ (number >> 15)).reshape(shape) >= round(rate * 2**32)


class _Dropping(nn.Module):
    """A module whose dropout acts where an rng "dropout" is given."""

    def _drop(self, x: jax.Array) -> jax.Array:
        if not self.has_rng("dropout"):
            return x
        kept = _kept(self.make_rng("dropout"), self.dropout, x.shape)
        return jnp.where(kept, x / (1 - self.dropout), 0)


class Block(_Dropping):
    """Transformer block with attention and MLP in parallel on the residual.

    In training keys are dropped before the softmax (DropKey, Li et al., CVPR 2023).
    """

    heads: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: jax.Array, grid: Grid, seen: jax.Array, rows: jax.Array | None = None
    ) -> jax.Array:
        """Tokens x (M, width) after the block, or only those that `rows` (N, R) names of them.

        seen (N, T or R, T): a token attends to these places of its row.
        """
        width = x.shape[-1]
        h = _norm(self.dtype, "norm_attention")(x)
        y, asking = (x, h) if rows is None else (x[rows], h[rows])

        def heads(name: str, h: jax.Array) -> jax.Array:
            h = _dense(width, self.dtype, name)(h)
            h = grid.unpack(h) if h.ndim == 2 else h
            return h.reshape(*h.shape[:2], self.heads, -1)

        q, k, v = heads("query", asking), heads("key", h), heads("value", h)
        logits = jnp.einsum("nthd,nshd->nhts", q, k) * (width // self.heads) ** -0.5
        seen = seen[:, None]
        if self.has_rng("dropout"):
            seen = seen & _kept(self.make_rng("dropout"), self.dropout, logits.shape)
        logits = jnp.where(seen, logits, -1e9).astype(jnp.promote_types(self.dtype, jnp.float32))
        weight = nn.softmax(logits)
        self.sow("intermediates", "attention", weight)
        h = jnp.einsum("nhts,nshd->nthd", weight.astype(v.dtype), v)
        h = h.reshape(*h.shape[:2], width)
        h = grid.pack(h) if rows is None else h
        attended = self._drop(_dense(width, self.dtype, "out")(h))
        h = _dense(4 * width, self.dtype, "up")(_norm(self.dtype, "norm_mlp")(y))
        h = _dense(width, self.dtype, "down")(nn.gelu(h, approximate=False))
        return y + attended + self._drop(h)


class _Encoder(_Dropping):
    """What both towers share."""

    width: int
    layers: int
    heads: int
    dropout: float
    dtype: jnp.dtype
    remat: bool = False

    def _blocks(self, x: jax.Array, grid: Grid, seen: jax.Array, columns: jax.Array) -> jax.Array:
        """Tokens x (M, width) through all blocks -> those in `columns` (N, R), (N, R, width)."""
        rows = grid.find(columns)
        # Of the last block nothing else is used, but where someone looks inside.
        inside = self.is_mutable_collection("intermediates")

        def through(block: Block, x: jax.Array, seen: jax.Array, rows=None) -> jax.Array:
            return block(x, grid, seen, rows)

        if self.remat:  # a block keeps what goes in alone, and is computed again on the way back
            through = nn.remat(through)
        for i in range(self.layers):
            block = Block(self.heads, self.dropout, self.dtype, name=f"block_{i}")
            if i < self.layers - 1 or inside:
                x = through(block, x, seen)
            else:
                x = through(block, x, jnp.take_along_axis(seen, columns[..., None], 1), rows)
        x = _norm(self.dtype, "norm")(x)
        return x[rows] if inside else x

    def _project(self, x: jax.Array) -> jax.Array:
        h = nn.gelu(_dense(2 * self.width, self.dtype, "project_up")(x), approximate=False)
        return self._drop(_dense(self.width, self.dtype, "project_down")(h))

    @property
    def _exact(self) -> jnp.dtype:
        # Positions in angstrom and pixels need more digits than bfloat16 has.
        return jnp.promote_types(self.dtype, jnp.float32)


class SequenceEncoder(_Encoder):
    """The CGE: attention over a crystal's sequence; its two class tokens added and projected."""

    @nn.compact
    def __call__(self, sequence: jax.Array, room: int | None = None) -> jax.Array:
        """(..., T) as from `sequences` -> (..., width), not normalised; `room` as of PaperTower."""
        axes, length = sequence.shape[:-1], sequence.shape[-1]
        sequence = sequence.reshape(-1, length).astype(self._exact)
        real = sequence != PADDING
        grid = Grid.of(real, room)
        seen = _pairs(real).at[:, 0, _HEAD:].set(False)
        x = _dense(self.width, self._exact, "embed")(grid.pack(sequence[..., None]))
        code = jnp.broadcast_to(position_code(length, self.width), (*real.shape, self.width))
        x = self._drop((x + grid.pack(code)).astype(self.dtype))
        end = (sequence == END).argmax(-1)
        classes = jnp.stack([jnp.zeros_like(end), end], -1)
        x = self._project(self._blocks(x, grid, seen, classes).sum(-2))
        return _whole(x, real, room).reshape(*axes, self.width)


class CloudEncoder(_Encoder):
    """The STE: attention over a pattern's points, without positions; its end token projected."""

    @nn.compact
    def __call__(self, cloud: jax.Array, room: int | None = None) -> jax.Array:
        """(..., K, 3) as from `point_cloud` -> (..., width), not normalised."""
        axes, cloud = cloud.shape[:-2], cloud.reshape(-1, *cloud.shape[-2:])
        real = (cloud != 0).any(-1)
        grid = Grid.of(real, room)
        part = self.width // 3
        widths = {"x": part, "y": part, "level": self.width - 2 * part}
        points = grid.pack(cloud)
        x = jnp.concatenate(
            [
                _dense(size, self._exact, f"embed_{name}")(points[:, i : i + 1])
                for i, (name, size) in enumerate(widths.items())
            ],
            -1,
        )
        end = (cloud[..., 2] == CLOUD_END).argmax(-1, keepdims=True)
        x = self._blocks(x.astype(self.dtype), grid, _pairs(real), end)[:, 0]
        return _whole(self._project(x), real, room).reshape(*axes, self.width)


def _pairs(real: jax.Array) -> jax.Array:
    """(..., T) -> (..., T, T); a row of padding sees nothing, which softmax makes everything."""
    return jnp.logical_and(real[..., :, None], real[..., None, :])


def _whole(x: jax.Array, real: jax.Array, room: int | None) -> jax.Array:
    """`x`, or NaN where tokens were left out because there are more than `room`."""
    return x if room is None else jnp.where(real.sum() <= room, x, jnp.nan)


class PaperTower(nn.Module):
    """Both encoders and the learned temperature; used as `twin_tower.TwoTower` is.

    15,380,737 parameters with the paper's width of 384, 4 layers and 4 heads.
    """

    width: int = 384
    layers: int = 4
    heads: int = 4
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        if self.width % 2 or self.width % self.heads:
            raise ValueError(
                f"model.width = {self.width} must be even and divisible by model.heads = "
                f"{self.heads}"
            )
        sizes = self.width, self.layers, self.heads, self.dropout, self.dtype, self.remat
        self.cge, self.ste = SequenceEncoder(*sizes), CloudEncoder(*sizes)
        # Strongly typed: a weak type compiles the step twice.
        self.log_scale = self.param("log_scale", lambda _: jnp.log(jnp.float32(1 / 0.07)))

    def encode_pattern(self, spots: Spots | dx.Pattern, room: int | None = None) -> jax.Array:
        """Unit vectors (..., width) of patterns; `room` as of `__call__`."""
        return unit(self.ste(point_cloud(spots), room))

    def encode_crystal(
        self, crystal: dx.Crystal, spots: Spots, room: int | None = None
    ) -> jax.Array:
        """Unit vectors (..., width) of crystals; `spots` are the default model's and not seen."""
        del spots
        return unit(self.cge(sequences(crystal), room))

    def __call__(
        self,
        crystal: dx.Crystal,
        crystal_spots: Spots,
        pattern_spots: Spots,
        room: tuple[int | None, int | None] = (None, None),
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Crystal and pattern embeddings (B, width) and the logits' scale.

        `room`: tokens of the whole batch's crystals and patterns (as `tokens` counts them) for
        which there is room. Padding is then not computed; with too little room every embedding is
        NaN. None has room for the padding too.
        """
        return (
            self.encode_crystal(crystal, crystal_spots, room[0]),
            self.encode_pattern(pattern_spots, room[1]),
            jnp.exp(self.log_scale),
        )

    @staticmethod
    def tokens(atoms: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens the two encoders read of crystals of so many atoms and pairs of spots."""
        return _HEAD + 1 + 4 * atoms, 1 + 2 * pairs

    @classmethod
    def from_config(cls, config) -> PaperTower:
        """From the `model` part of a config."""
        return cls(
            config.width, config.layers, config.heads, config.dropout, jnp.dtype(config.dtype)
        )


# Our names of modules and, after them, the authors'.
_TOWERS = {
    "log_scale": "logit_scale",
    "cge.embed": "tok_emb.fc1",
    "cge.norm": "ln_f",
    "cge.project_up": "fc_project_crystal.fc1",
    "cge.project_down": "fc_project_crystal.fc2",
    "ste.embed_x": "pattern_emb.fc1",
    "ste.embed_y": "pattern_emb.fc2",
    "ste.embed_level": "pattern_emb.fc3",
    "ste.norm": "ln_p",
    "ste.project_up": "fc_project_pattern.fc1",
    "ste.project_down": "fc_project_pattern.fc2",
}
_BLOCKS = {"cge": "Trans_crystal_encoder.blocks", "ste": "Trans_pattern_encoder.blocks"}
_IN_BLOCK = {
    "norm_attention": "ln1",
    "norm_mlp": "ln2",
    "key": "attn1.key",
    "query": "attn1.query",
    "value": "attn1.value",
    "out": "attn1.proj",
    "up": "mlp.0",
    "down": "mlp.2",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
# Buffers of the authors' modules, not learned.
_CODE, _LABELS = "pos_emb.pe", "total_labels"


def their_name(path: tuple[str, ...]) -> str:
    """The authors' name of the parameter at `path` of our tree."""
    if len(path) == 1:
        return _TOWERS[path[0]]
    if path[1].startswith("block_"):
        tower, block, module, leaf = path
        index = block.removeprefix("block_")
        return f"{_BLOCKS[tower]}.{index}.{_IN_BLOCK[module]}.{_LEAVES[leaf]}"
    return f"{_TOWERS['.'.join(path[:2])]}.{_LEAVES[path[2]]}"


def import_weights(file: str | Path, directory: str | Path, heads: int = 4) -> dict[str, Any]:
    """Make a checkpoint of the authors' weights that `load` reads like any other.

    Args:
        file: their state dict, .pt (needs the extra `torch`) or .npz with the same names, which
            may stand under `param/`.
        directory: a new folder.
        heads: attention heads, which the weights do not tell.

    Returns:
        {"checkpoint", "parameters", "width", "layers", "heads"}.

    Raises:
        FileExistsError: something is at `directory` already.
        FileNotFoundError: no such file.
        ValueError: no state dict of this network; names, shapes or values that do not fit.
        ImportError: a .pt file without torch.
    """
    file = Path(file)
    state = _read_state(file)
    try:
        model = _sizes(state, heads)
        config = ConfigDict({"seed": 0, "diffraction": CONDITIONS, "model": model})
        params = _params(state, config)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    with new_folder(directory) as part:
        checkpoint.write_config(part, config)
        checkpoint.save(part, "best", 0, {"params": params}, {"imported": file.name})
    count = sum(x.size for x in jax.tree.leaves(params))
    sizes = {name: model[name] for name in ("width", "layers", "heads")}
    return {"checkpoint": str(directory), "parameters": count, **sizes}


def _read_state(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    if file.suffix.lower() not in (".pt", ".pth", ".npz"):
        raise ValueError(f"{file}: the name must end in .pt, .pth or .npz")
    if file.suffix.lower() != ".npz":
        return _read_torch(file)
    arrays = read_npz(file)
    under = {n.removeprefix("param/"): x for n, x in arrays.items() if n.startswith("param/")}
    return under or arrays


def _read_torch(file: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{file}: reading it needs PyTorch: pip install 'dd2d-jax[torch]'; "
            "or save the state dict as .npz"
        ) from error
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of damaged files torch raises errors of many kinds
        reason = f"{type(error).__name__}: {first_line(error)}".split(". ")[0]
        raise ValueError(f"{file}: not a state dict that can be read safely ({reason})") from error
    if not isinstance(state, dict) or not all(isinstance(x, torch.Tensor) for x in state.values()):
        raise ValueError(f"{file}: not a state dict of names and tensors")
    return {str(name): x.float().numpy() for name, x in state.items()}


def _sizes(state: dict[str, np.ndarray], heads: int) -> dict[str, Any]:
    """The `model` part of a config."""
    name = _TOWERS["cge.embed"] + ".weight"
    if np.ndim(state.get(name)) != 2:
        raise ValueError(f"{name} (width, 1) is missing; not a state dict of the DD2D network")
    width = state[name].shape[0]
    found = (re.match(rf"{re.escape(_BLOCKS['cge'])}\.(\d+)\.", key) for key in state)
    layers = 1 + max((int(match[1]) for match in found if match), default=-1)
    if heads < 1 or width % heads:
        raise ValueError(f"{heads} heads do not divide its width of {width}")
    return {
        "name": "paper",
        "width": width,
        "layers": layers,
        "heads": heads,
        "dropout": 0.1,
        "dtype": "float32",
    }


def _params(state: dict[str, np.ndarray], config: ConfigDict) -> Any:
    """Our tree of parameters, every name and shape checked."""
    from dd2d_jax.networks.trained import check_config, initial_params

    check_config(config)
    like = flax.traverse_util.flatten_dict(jax.eval_shape(lambda: initial_params(config)))
    theirs = {path: their_name(path) for path in like}
    if any("formula" in name for name in state):
        raise ValueError(
            "names of the authors' earlier network (formula, points), whose attention and MLP "
            "follow each other; only the published one can be imported"
        )
    missing = sorted(set(theirs.values()) - set(state))
    unknown = sorted(set(state) - set(theirs.values()) - {_CODE, _LABELS})
    for names, what in ((missing, "missing"), (unknown, "not of this network")):
        if names:
            raise ValueError(f"{len(names)} arrays are {what}, the first is {names[0]}")
    if _CODE in state:
        _check_code(state[_CODE], config.model.width)
    out = {}
    for path, name in theirs.items():
        value, shape = np.asarray(state[name], np.float32), like[path].shape
        wanted = shape[::-1] if path[-1] == "kernel" else shape
        if value.shape != wanted:
            raise ValueError(f"{name} has shape {value.shape} where {wanted} is needed")
        if not np.isfinite(value).all():
            raise ValueError(f"{name} holds numbers that are not finite")
        out[path] = value.T if path[-1] == "kernel" else value
    return flax.traverse_util.unflatten_dict(out)


def _check_code(code: np.ndarray, width: int) -> None:
    if code.ndim != 3 or code.shape[::2] != (1, width):
        raise ValueError(f"{_CODE} has shape {code.shape} where (1, length, {width}) is needed")
    if not np.allclose(code[0], position_code(code.shape[1], width), atol=1e-3):
        raise ValueError(f"{_CODE} is not the sinusoidal code of the published network")
