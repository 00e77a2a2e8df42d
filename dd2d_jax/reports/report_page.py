"""The page of `dd2d report`: one HTML file with its figures inside, that loads nothing.

Every sentence with a number in it is made from the numbers of the report; every text from a file
is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dd2d_jax.reports.html_page import render, table
from dd2d_jax.reports.report_figures import TOKENS

_TOP = (1, 3, 5, 10)
_LEVELS = ("clean", "perturbed")
_HOLDS = {True: "holds", False: "does not hold"}
# What comes nearest to a microscope first.
_NEAREST = ("microscope", "measured", "thermal", "perturbed")


def page(numbers: Mapping[str, Any], images: Mapping[str, Mapping[str, str]]) -> str:
    """The report as HTML.

    Args:
        numbers: from `report.make`.
        images: for each figure's name its data links for "light" and "dark" screens.
    """
    levels = numbers["accuracy"]["levels"]
    figures = {
        name: {"name": name, "alt": name.replace("_", " "), **both}
        for name, both in images.items()
    }
    return render(
        "report.html",
        f"Report on {numbers['about']['checkpoint']}",
        figures=figures,
        conclusion=_conclusion(levels),
        about=_about(numbers["about"], levels),
        config=[f"{key} = {value}" for key, value in _flatten(numbers["about"]["config"])],
        accuracy=_accuracy(numbers["accuracy"]),
        attention=_attention(numbers["attention"]),
        groups=_point_groups(numbers["point_groups"]),
        candidates=_candidates(numbers["candidates"]),
        networks=_networks(numbers["ablation"]),
        learning=_learning(numbers["learning"], numbers["about"]["steps"]),
        failures=_failures(numbers["failures"], levels),
    )


def _conclusion(levels: Sequence[Mapping[str, Any]]) -> str:
    """What most readers want to know, of the level that comes nearest to a microscope."""
    by_name = {result["level"]: result for result in levels}
    level = next((name for name in _NEAREST if name in by_name), levels[-1]["level"])
    result = by_name[level]
    best = result["methods"]["neural+rerank"]
    return (
        f"Of {result['queries']:,} {level} patterns, the network with reranking finds the right "
        f"crystal among {result['library']:,} at the first attempt in {best['top1']:.1f} %, within "
        f"ten in {best['top10']:.1f} %."
    )


def _about(about: Mapping[str, Any], levels: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    config = about["config"]
    data, model, light = config.get("data", {}), config["model"], config["diffraction"]
    source = " ".join(str(data[k]) for k in ("source", "path") if data.get(k)) or "not known"
    if data.get("limit"):
        source += f", {data['limit']} of its crystals drawn at random"
    split = f"{data['split']}, seed {data.get('split_seed', 0)}" if "split" in data else "not known"
    queries = "; ".join(f"{r['level']}: {r['queries']:,}" for r in levels)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return [
        ("checkpoint", f"{about['checkpoint']} (fingerprint {about['fingerprint']})"),
        (
            "network",
            f"{model.get('name', 'default')}: {about['parameters']:,} parameters, width "
            f"{model['width']}, layers {model['layers']}, heads {model['heads']}",
        ),
        ("trained on", source),
        ("split", split),
        ("training steps", f"{about['steps']:,}"),
        (
            "patterns",
            f"electrons of {light['energy']:g} keV, q up to {light['q_max']:g} 1/Å, "
            f"B = {light['b_iso']:g} Å²; the network reads {light['tokens']} pairs of spots",
        ),
        ("gallery", f"{about['library']}: {levels[0]['library']:,} crystals"),
        ("queries", f"{about['queries']} ({queries}); seed {about['seed']}"),
        ("made with", f"{versions} on {about['device']}"),
    ]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _accuracy(accuracy: Mapping[str, Any]) -> dict[str, Any]:
    rows, aside = [], []
    published = accuracy["published"]
    for result in accuracy["levels"]:
        level, size = result["level"], f"{result['library']:,}"
        for method, values in result["methods"].items():
            rows.append((level, method, *_tops(values), f"{values['ms_per_query']:.2f}", size))
        aside.append(len(rows))
        rows.append((level, "nearest cell", *_tops(result["cell_alone"]), "", size))
        if level in published:
            aside.append(len(rows))
            rows.append((level, "published", *_tops(published[level]), "", published["library"]))
    aside.append(len(rows))
    chance = [f"{float(format(accuracy['chance'][f'top{k}'], '.2g')):g}" for k in _TOP]
    rows.append(("any", "drawn at random", *chance, "", f"{accuracy['levels'][0]['library']:,}"))
    head = ("level", "method", *(f"top-{k} (%)" for k in _TOP), "ms per query", "gallery")
    return {
        "table": table("Accuracy of three methods on each level", head, rows, aside=aside),
        "thermal": [
            f"Thermal: snapshots at {s['temperature']:g} K of {s['crystals']:,} crystals, made "
            f"with {s['calculator']}; {len(s['without'])} queries have none."
            for s in (r["snapshots"] for r in accuracy["levels"] if "snapshots" in r)
        ],
        "source": published["source"],
        "library": published["library"],
    }


def _tops(values: Mapping[str, float]) -> list[str]:
    return [f"{values[f'top{k}']:.1f}" for k in _TOP]


def _attention(one: Mapping[str, Any]) -> dict[str, Any]:
    count = len(one["tokens"])
    sentences = []
    if count > TOKENS:
        within = np.array(one["weights"])[..., :TOKENS, :TOKENS].sum(-1).mean()
        sentences.append(
            f"The first {TOKENS} of {count} tokens are drawn; {100 * within:.0f} % of their "
            "attention stays among them."
        )
    even = {kind: one["kinds"].count(kind) / count for kind in one["shares"]}
    for i, layer in enumerate(one["layers"]):
        shares = {kind: np.array(share)[i] for kind, share in one["shares"].items()}
        text = ", ".join(
            f"{kind} {100 * share.mean():.0f} % ({100 * share.min():.0f} to "
            f"{100 * share.max():.0f} by head; evenly {100 * even[kind]:.0f})"
            for kind, share in shares.items()
        )
        effective = np.array(one["effective"])[i]
        sentences.append(
            f"Layer {layer}: attention by kind of token, {text}; a row effectively attends to "
            f"{effective.mean():.1f} of {count} tokens ({effective.min():.1f} to "
            f"{effective.max():.1f} by head)."
        )
    sentences += _claims(one)
    return {**{k: one[k] for k in ("formula", "uid", "encoder")}, "sentences": sentences}


def _claims(one: Mapping[str, Any]) -> list[str]:
    """Whether what the paper says of its Fig. 2 holds where a and b are tokens."""
    tokens = one["tokens"]
    if not {"a", "b", "end"} <= set(tokens):
        return []
    weights, even = np.array(one["weights"]), 1 / len(tokens)
    first = weights[0].mean(-2)
    a, b = first[:, tokens.index("a")], first[:, tokens.index("b")]
    apart = a.argmax() != b.argmax() and min(a.max(), b.max()) > 2 * even
    cell = np.array(one["kinds"]) == "cell"
    end = weights[-1, :, tokens.index("end")][:, cell].sum(-1)
    looks = end.max() > 2 * even * cell.sum()
    return [
        "According to the paper, some heads look at a and others at b. Here, in layer "
        f"{one['layers'][0]}, head {a.argmax() + 1} looks most at a ({100 * a.max():.0f} % of its "
        f"attention) and head {b.argmax() + 1} at b ({100 * b.max():.0f} %; evenly "
        f"{100 * even:.0f}): this {_HOLDS[bool(apart)]}.",
        "According to the paper, the class tokens of the last layer look at the lattice. Here the "
        f"end token puts {100 * end.max():.0f} % of its attention on the cell in head "
        f"{end.argmax() + 1} and {100 * end.mean():.0f} % on average over heads (evenly "
        f"{100 * even * cell.sum():.0f}): this {_HOLDS[bool(looks)]}.",
        "A claim holds here where one head gives more than twice the even share.",
    ]


def _learning(curves: Mapping[str, Any] | None, best: int) -> str | None:
    if curves is None:
        return None
    last = curves["loss"][-1][0]
    where = (
        "the last step: validation was still improving"
        if best == last
        else f"step {best:,} of {last:,}"
    )
    return (
        "Left: the loss of the training batches. Right: top-1 on the validation crystals, which "
        "are also the gallery, so that it is not comparable with other galleries. The weights of "
        f"this report are those of {where}."
    )


def _point_groups(groups: Mapping[str, Any]) -> dict[str, Any]:
    symbols, apart = groups["symbols"], np.array(groups["distances"])
    sentences = [
        f"Left: the {len(symbols)} point groups that occur, clustered by the Jaccard distance of "
        "their operations in the standard settings (average linkage)."
    ]
    if len(symbols) > 1:
        i, j = np.unravel_index((apart + 2 * np.eye(len(symbols))).argmin(), apart.shape)
        sentences.append(
            f"Among the nearest: {symbols[i]} and {symbols[j]}, at {apart[i, j]:.2f}."
        )
    attempts = groups["attempts"]
    sentences.append(
        "Right: how often candidates had each point group (column) when the true one was that of "
        f"the row, in {', '.join(str(p['attempts']) for p in attempts)} attempts, level "
        f"{groups['level']}; on the diagonal they are right."
    )
    last = np.array(attempts[-1]["counts"])
    off = last - np.diag(np.diag(last))
    if off.any():
        i, j = np.unravel_index(off.argmax(), off.shape)
        sentences.append(
            f"After {attempts[-1]['attempts']} attempts the commonest mistake is {symbols[j]} for "
            f"{symbols[i]} ({off[i, j]} candidates)."
        )
    rows = [
        (
            p["attempts"], _percent(p["right"]), _percent(p["chance"]), f"{p['others']:,}",
            _percent(p["others_right"]), _percent(p["others_chance"]),
        )
        for p in attempts
    ]  # fmt: skip
    head = (
        "attempts", "right group (%)", "at random (%)", "other crystals", "of these right (%)",
        "at random (%)",
    )  # fmt: skip
    return {
        "caption": " ".join(sentences),
        "table": table("Candidates with the right point group", head, rows),
        "tolerance": f"{groups['tolerance']:g}",
    }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _candidates(found: Mapping[str, Any]) -> dict[str, Any]:
    truth, rows = found["truth"], found["candidates"]
    count, rank = len(rows), found["rank"]
    chosen = (
        "the crystal that was asked for, added to the gallery"
        if found["chosen"]
        else "the first query that the network does not rank first but within ten"
        if 1 < rank <= count
        else "the first query, as none is ranked second to tenth"
    )
    place = f"The true crystal has rank {rank}" + (
        "." if rank <= count else " and is not among those drawn."
    )
    same = sum(row["point_group"] == truth["point_group"] for row in rows)
    formula = sum(row["formula"] == truth["formula"] for row in rows)
    cells = [
        (
            row["rank"], row["uid"], row["formula"], row["point_group"], *_cell(row),
            _cosine(row["cosine"]), "true" if row["true"] else "",
        )
        for row in rows
    ]  # fmt: skip
    head = ("rank", "uid", "formula", "point group", "a (Å)", "b (Å)", "γ (°)", "cosine", "")
    bold = [i for i, row in enumerate(rows) if row["true"]]
    return {
        "caption": (
            f"Left: the pattern ({found['level']}) of {truth['formula']} ({truth['uid']}) and the "
            f"layer that made it; {chosen}. Right: the network's first {count} candidates, best "
            "first, the clean pattern of each above the layer seen from above; all patterns at one "
            f"scale. {place} {same} of the {count} have its point group, {formula} its formula."
        ),
        "table": table("The candidates of this query", head, cells, bold=bold),
    }


def _cell(crystal: Mapping[str, Any]) -> tuple[str, str, str]:
    return f"{crystal['a']:.3f}", f"{crystal['b']:.3f}", f"{crystal['gamma']:.1f}"


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _networks(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    columns = [(level, k) for level in _LEVELS for k in _TOP]
    best = {(level, k): max(row[level][f"top{k}"] for row in rows) for level, k in columns}
    cells = []
    for row in rows:
        marks = [
            f"{row[level][f'top{k}']:.1f}"
            + (" ★" if row[level][f"top{k}"] == best[level, k] else "")
            for level, k in columns
        ]
        sizes = (row["heads"], row["layers"], row["width"], f"{row['parameters']:,}")
        cells.append((row["checkpoint"], row["network"], *sizes, f"{row['steps']:,}", *marks))
    head = ("checkpoint", "network", "heads", "layers", "width", "parameters", "steps")
    names = (*head, *(f"{level} top-{k}" for level, k in columns))
    return {
        "table": table("The network alone, in percent", names, cells),
        "alike": all(row["diffraction"] == rows[0]["diffraction"] for row in rows),
    }


def _failures(
    failures: Mapping[str, Any], levels: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    asked = {result["level"]: result["queries"] for result in levels}
    counts = {level: sum(found.values()) for level, found in failures["ranks"].items()}
    sentences = [
        f"{level}: {count:,} of {asked[level]:,} queries ({100 * count / asked[level]:.1f} %)"
        for level, count in counts.items()
    ]
    rows = [
        (
            row["rank"], *_crystal(row["true"]), *_crystal(row["predicted"]),
            _cosine(row["cosine_predicted"]), _cosine(row["cosine_true"]),
        )
        for row in failures["worst"]
    ]  # fmt: skip
    head = (
        "rank", "true", "formula", "a, b (Å), γ (°)", "group",
        "taken for", "formula", "a, b (Å), γ (°)", "group", "cosine", "with true",
    )  # fmt: skip
    return {
        "counts": "; ".join(sentences),
        "level": failures["level"],
        "table": table("The worst answers", head, rows) if rows else None,
        "listed": len(rows),
    }


def _crystal(crystal: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return crystal["uid"], crystal["formula"], " ".join(_cell(crystal)), crystal["point_group"]
