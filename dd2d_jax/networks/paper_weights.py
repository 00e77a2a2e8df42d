"""The authors' trained weights as a checkpoint of ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from ml_collections import ConfigDict

from dd2d_jax.networks import checkpoint
from dd2d_jax.networks.paper_inputs import position_code
from dd2d_jax.networks.trained import check_config, initial_params
from dd2d_jax.util.files import new_folder
from dd2d_jax.util.limits import first_line, read_npz

# What evaluate and retrieve simulate for imported weights, as in configs/paper.py.
CONDITIONS = {"energy": 80.0, "q_max": 1.25, "b_iso": 0.5, "tokens": 84}

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
