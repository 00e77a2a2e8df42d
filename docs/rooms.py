"""Draws the rooms of the code from its imports: docs/figures/rooms.svg.

    python docs/rooms.py
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("diffraction", "dd2d_jax", "train", "configs")
# The rooms of dd2d_jax, in the order in which a pattern passes them: each imports from itself and
# from those before it.
ROOMS = (
    "util", "crystals", "data", "spots", "lattices", "images", "networks", "libraries",
    "refinement", "matching", "evaluation", "reports", "app", "commands",
)  # fmt: skip
WHAT = {
    "diffraction": "physics: crystals, form factors, patterns",
    "util": "files, limits, errors, text, progress",
    "crystals": "one crystal: reading, canonical setting, symmetry",
    "data": "many crystals: sources, data sets, prototypes",
    "spots": "the spots of a pattern, as Friedel pairs",
    "lattices": "spots to lattices",
    "images": "images and spot lists to spots",
    "networks": "twin towers, loss, disturbances, checkpoints",
    "libraries": "crystals to search",
    "refinement": "least squares through the simulator",
    "matching": "from a pattern to a ranked list",
    "evaluation": "accuracy of the methods",
    "reports": "tables, JSON, figures, pages",
    "app": "the window in the browser",
    "commands": "the command line",
    "train": "the training program",
}


def modules() -> dict[str, Path]:
    """Every module of the program and its file."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
        for p in paths
    }


def module_imports(type_checking: bool = True) -> dict[str, set[str]]:
    """What each module imports of the program, late imports included.

    type_checking: also what only type checkers read.
    """
    paths = modules()
    out = {}
    for name, path in paths.items():
        found = set()
        for node in _imports(ast.parse(path.read_text()), type_checking):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            else:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                found.update(x if x in paths else node.module for x in inner)
        out[name] = found & set(paths) - {name}
    return out


def _imports(tree: ast.AST, type_checking: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            if not type_checking:
                continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        yield from _imports(child, type_checking)


def room(module: str) -> str:
    """The room of a module: a folder of dd2d_jax, or another package."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "dd2d_jax" and rest else package


def draw(path: Path) -> None:
    """Rooms from the first to the last; a band for each pair, as wide as its imports are many."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch, PathPatch
    from matplotlib.path import Path as Curve

    plt.rcParams["svg.hashsalt"] = "rooms"
    found = module_imports(type_checking=False)
    sizes = Counter(room(name) for name in found)
    order = [r for r in ("diffraction", *ROOMS, "train") if sizes[r]]
    place = {name: -i for i, name in enumerate(order)}
    pairs = Counter(
        (room(a), room(b)) for a, others in found.items() for b in others if room(a) != room(b)
    )
    figure, axes = plt.subplots(figsize=(10.5, 0.52 * len(order) + 0.4))
    for (user, used), count in sorted(pairs.items()):
        if user not in place or used not in place:
            continue
        low, high = place[user], place[used]
        reach = 7.4 + 0.34 * abs(high - low)
        curve = Curve([(7.2, low), (reach, low), (reach, high), (7.2, high)], [1, 4, 4, 4])
        upward = high < low  # the one place where what was found shows itself
        axes.add_patch(PathPatch(
            curve, fill=False, lw=0.5 + 0.16 * count, alpha=0.55,
            color="#d55e00" if upward else "#0072b2",
        ))  # fmt: skip
    for name, y in place.items():
        axes.add_patch(FancyBboxPatch(
            (0.1, y - 0.32), 7.0, 0.64, boxstyle="round,pad=0.02", fc="#f4f4f4", ec="#555555",
            lw=0.8,
        ))  # fmt: skip
        axes.text(0.25, y, name, va="center", weight="bold", size=10)
        axes.text(1.75, y, WHAT[name], va="center", size=8.5)
        axes.text(7.0, y, sizes[name], va="center", ha="right", size=8, color="#777777")
    axes.set(xlim=(0, 12.2), ylim=(-len(order) + 0.3, 0.7))
    axes.axis("off")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    draw(ROOT / "docs" / "figures" / "rooms.svg")
