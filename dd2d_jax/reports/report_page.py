"""The page of `dd2d report`: one HTML file with its figures inside, that loads nothing.

Every sentence with a number in it is made from the numbers of the report; every text from a file
is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dd2d_jax.reports.html_page import document, escaped, figure, html_table
from dd2d_jax.reports.report_figures import TOKENS

_TOP = (1, 3, 5, 10)
_READS = {
    "sequence": "The network reads the crystal as a sequence: a start token, the cell, then x, y, "
    "z and the atomic number Z of each atom, and an end token. The start token is made to look at "
    "itself and the cell only.",
    "spots": "The network reads the crystal's own simulated spots with the weights that read "
    "patterns: the first token holds the cell, the others are pairs of spots (h k) and (-h -k), "
    "strongest first.",
}


def page(numbers: Mapping[str, Any], images: Mapping[str, bytes]) -> str:
    """The report as HTML.

    Args:
        numbers: from `report.make`.
        images: SVG files by the figure's name.
    """
    sections = [
        _about(numbers["about"], numbers["accuracy"]["levels"]),
        _accuracy(numbers["accuracy"]),
        _attention(numbers["attention"], images),
        _point_groups(numbers["point_groups"], images),
        _candidates(numbers["candidates"], images),
        _ablation(numbers["ablation"]),
        _failures(numbers["failures"], numbers["accuracy"]["levels"], images),
    ]
    parts = []
    for number, (title, *rest) in enumerate(filter(None, sections), 1):
        parts += [f"<h2>{number}. {escaped(title)}</h2>", *rest]
    return document(f"Report on {numbers['about']['checkpoint']}", parts)


def _about(about: Mapping[str, Any], levels: Sequence[Mapping[str, Any]]) -> list[str]:
    config = about["config"]
    data, model, light = config.get("data", {}), config["model"], config["diffraction"]
    source = " ".join(str(data[k]) for k in ("source", "path") if data.get(k)) or "not known"
    if data.get("limit"):
        source += f", {data['limit']} crystals of it drawn at random"
    split = f"{data['split']}, seed {data.get('split_seed', 0)}" if "split" in data else "not known"
    steps = f"{about['steps']:,}"
    queries = "; ".join(f"{r['level']}: {r['queries']:,}" for r in levels)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    rows = [
        ("checkpoint", f"{about['checkpoint']} (fingerprint {about['fingerprint']})"),
        (
            "network",
            f"{model.get('name', 'default')}: {about['parameters']:,} parameters, width "
            f"{model['width']}, layers {model['layers']}, heads {model['heads']}",
        ),
        ("trained on", source),
        ("split", split),
        ("steps that the weights saw", steps),
        (
            "patterns",
            f"electrons of {light['energy']:g} keV, q up to {light['q_max']:g} 1/Å, "
            f"B = {light['b_iso']:g} Å²; the network reads {light['tokens']} pairs of spots",
        ),
        ("gallery", f"{about['library']}: {levels[0]['library']:,} crystals"),
        ("queries", f"{about['queries']} ({queries}); seed {about['seed']}"),
        ("made with", f"{versions} on {about['device']}"),
    ]
    flat = [f"{key} = {value}" for key, value in _flatten(config)]
    return [
        "What was measured",
        html_table(("", ""), rows),
        "<details><summary>The whole config</summary><pre>"
        + "\n".join(escaped(line) for line in flat)
        + "</pre></details>",
    ]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _accuracy(accuracy: Mapping[str, Any]) -> list[str]:
    rows, aside = [], []
    published = accuracy["published"]
    for result in accuracy["levels"]:
        level = result["level"]
        for method, values in result["methods"].items():
            speed = f"{values['ms_per_query']:.2f}"
            rows.append((level, method, *_tops(values), speed, f"{result['library']:,}"))
        aside.append(len(rows))
        size = f"{result['library']:,}"
        rows.append((level, "nearest cell", *_tops(result["cell_alone"]), "", size))
        if level in published:
            aside.append(len(rows))
            rows.append((level, "published", *_tops(published[level]), "", published["library"]))
    aside.append(len(rows))
    chance = [f"{float(format(accuracy['chance'][f'top{k}'], '.2g')):g}" for k in _TOP]
    size = f"{accuracy['levels'][0]['library']:,}"
    rows.append(("any", "drawn at random", *chance, "", size))
    head = ("level", "method", *(f"top-{k} (%)" for k in _TOP), "ms a query", "gallery")
    made = [r["snapshots"] for r in accuracy["levels"] if "snapshots" in r]
    thermal = [
        f"Thermal: snapshots at {s['temperature']:g} K of {s['crystals']:,} crystals by "
        f"{escaped(s['calculator'])}; {len(s['without'])} queries have none."
        for s in made
    ]
    notes = " ".join(
        [
            "A query counts as found in k attempts where its own crystal is among the first k; a "
            "tie counts against. <i>neural</i>: embeddings alone; <i>physics</i>: every pattern of "
            "the gallery simulated and compared, the likelihood of the best computed; "
            "<i>neural+rerank</i>: the network's first candidates ordered by their likelihood; "
            "<i>nearest cell</i>: no intensities at all, which says what a level gives away. "
            "Clean: the pattern of the crystal itself. Perturbed: strain, displacements and "
            "noise, as in the README.",
            *thermal,
            f"<i>Published</i>: {escaped(published['source'])}, their network, crystals and "
            f"gallery ({published['library']}); their perturbed patterns come from molecular "
            "dynamics.",
        ]
    )
    return [
        "Accuracy (Table 1 of the paper)",
        html_table(head, rows, aside=aside),
        f"<p>{notes}</p>",
    ]


def _tops(values: Mapping[str, float]) -> list[str]:
    return [f"{values[f'top{k}']:.1f}" for k in _TOP]


def _attention(attention: Mapping[str, Any], images: Mapping[str, bytes]) -> list[str]:
    crystal = f"{escaped(attention['formula'])} ({escaped(attention['uid'])})"
    return [
        "What the crystal's tower looks at (Fig. 2 of the paper)",
        f"<p>Attention in the crystal's tower for {crystal}. Each row is one token, and its "
        "colours say how much of its attention goes to each column.</p>",
        _figure(images, "attention", _attention_caption(attention)),
    ]


def _attention_caption(one: Mapping[str, Any]) -> str:
    count = len(one["tokens"])
    sentences = [_READS[one["encoder"]]]
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
            f"Layer {layer}: attention by kind of token, {text}; a row looks at "
            f"{effective.mean():.1f} of {count} tokens in effect ({effective.min():.1f} to "
            f"{effective.max():.1f} by head)."
        )
    return " ".join(sentences)


def _point_groups(groups: Mapping[str, Any], images: Mapping[str, bytes]) -> list[str]:
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
    sentences.append(
        f"Right: how often a true point group (row) was met by a candidate of some group (column) "
        f"in {', '.join(str(p['attempts']) for p in groups['attempts'])} attempts, level "
        f"{groups['level']}; the diagonal is right."
    )
    last = np.array(groups["attempts"][-1]["counts"])
    off = last - np.diag(np.diag(last))
    if off.any():
        i, j = np.unravel_index(off.argmax(), off.shape)
        sentences.append(
            f"After {groups['attempts'][-1]['attempts']} attempts the group taken most often for "
            f"another is {symbols[j]} for {symbols[i]} ({off[i, j]} candidates)."
        )
    rows = [
        (
            p["attempts"],
            _percent(p["right"]),
            _percent(p["chance"]),
            f"{p['others']:,}",
            _percent(p["others_right"]),
            _percent(p["others_chance"]),
        )
        for p in groups["attempts"]
    ]
    head = (
        "attempts",
        "right group (%)",
        "at random (%)",
        "other crystals",
        "of these right (%)",
        "at random (%)",
    )
    notes = (
        "<p>Share of the candidates that have the true point group, beside what as many candidates "
        "drawn at random from the gallery would give. <i>Other crystals</i>: the candidates that "
        "are not the query's own crystal. Point groups by spglib, as layers, tolerance "
        f"{groups['tolerance']:g} Å.</p>"
    )
    return [
        "Point groups (Fig. 3 of the paper)",
        _figure(images, "point_groups", " ".join(escaped(s) for s in sentences)),
        html_table(head, rows),
        notes,
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _candidates(found: Mapping[str, Any], images: Mapping[str, bytes]) -> list[str]:
    truth, rows = found["truth"], found["candidates"]
    count = len(rows)
    if 1 < found["rank"] <= count:
        chosen = "the first query that the network does not rank first but within ten"
    else:
        chosen = "the first query, as none is ranked second to tenth"
    place = (
        f"The true crystal has rank {found['rank']}."
        if found["rank"] <= count
        else f"The true crystal has rank {found['rank']} and is not among those drawn."
    )
    same = sum(row["point_group"] == truth["point_group"] for row in rows)
    formula = sum(row["formula"] == truth["formula"] for row in rows)
    caption = (
        f"Left: the pattern ({found['level']}) of {escaped(truth['formula'])} "
        f"({escaped(truth['uid'])}) and the layer that made it; {chosen}. Right: the network's "
        f"first {count} candidates, best first, the clean pattern of each above the layer from "
        f"above; all patterns at one scale. {place} {same} of the {count} have its point group, "
        f"{formula} its formula."
    )
    table = [
        (
            row["rank"],
            row["uid"],
            row["formula"],
            row["point_group"],
            *_cell(row),
            "-" if row["cosine"] is None else f"{row['cosine']:.4f}",
            "true" if row["true"] else "",
        )
        for row in rows
    ]
    head = ("rank", "uid", "formula", "point group", "a (Å)", "b (Å)", "γ (°)", "cosine", "")
    return [
        "One query and its candidates (Fig. 4 of the paper)",
        _figure(images, "candidates", caption),
        html_table(head, table, bold=[i for i, row in enumerate(rows) if row["true"]]),
    ]


def _cell(crystal: Mapping[str, Any]) -> tuple[str, str, str]:
    return f"{crystal['a']:.3f}", f"{crystal['b']:.3f}", f"{crystal['gamma']:.1f}"


def _ablation(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    columns = [(level, k) for level in ("clean", "perturbed") for k in _TOP]
    best = {(level, k): max(row[level][f"top{k}"] for row in rows) for level, k in columns}
    table = []
    for row in rows:
        marks = [
            f"{row[level][f'top{k}']:.1f}"
            + (" ★" if row[level][f"top{k}"] == best[level, k] else "")
            for level, k in columns
        ]
        steps = f"{row['steps']:,}"
        sizes = (row["heads"], row["layers"], row["width"], f"{row['parameters']:,}", steps)
        table.append((row["checkpoint"], row["network"], *sizes, *marks))
    head = ("checkpoint", "network", "heads", "layers", "width", "parameters", "steps")
    alike = all(row["diffraction"] == rows[0]["diffraction"] for row in rows)
    conditions = (
        "All of them read patterns taken under the same conditions."
        if alike
        else "Their patterns are not taken under the same conditions: each network is asked with "
        "patterns as its own config has them."
    )
    return [
        "Networks compared (Supplementary Table 1 of the paper)",
        html_table((*head, *(f"{level} top-{k}" for level, k in columns)), table),
        "<p>The network alone, in percent, the same queries and gallery for all; ★ marks the best "
        f"of each column. {conditions}</p>",
    ]


def _failures(
    failures: Mapping[str, Any], levels: Sequence[Mapping[str, Any]], images: Mapping[str, bytes]
) -> list[str]:
    asked = {result["level"]: result["queries"] for result in levels}
    sentences = []
    for level, found in failures["ranks"].items():
        failed = sum(found.values())
        sentences.append(
            f"{level}: {failed:,} of {asked[level]:,} queries ({100 * failed / asked[level]:.1f} %)"
        )
    caption = "Ranks of the queries whose crystal the network alone does not put first; "
    rows = [
        (
            row["rank"],
            *(x for one in (row["true"], row["predicted"]) for x in _crystal(one)),
            *(
                "-" if c is None else f"{c:.4f}"
                for c in (row["cosine_predicted"], row["cosine_true"])
            ),
        )
        for row in failures["worst"]
    ]
    head = (
        "rank", "true", "formula", "a, b (Å), γ (°)", "group",
        "taken for", "formula", "a, b (Å), γ (°)", "group", "cosine", "with true",
    )  # fmt: skip
    worst = (
        [
            html_table(head, rows),
            f"<p>The {len(rows)} worst answers, level {escaped(failures['level'])}: the true "
            "crystal's rank, what the network put first instead, and the query's cosine with "
            "either.</p>",
        ]
        if rows
        else [f"<p>Level {escaped(failures['level'])}: every query is found first.</p>"]
    )
    return [
        "What it gets wrong",
        _figure(images, "ranks", caption + "; ".join(sentences) + "."),
        *worst,
    ]


def _crystal(crystal: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return crystal["uid"], crystal["formula"], " ".join(_cell(crystal)), crystal["point_group"]


def _figure(images: Mapping[str, bytes], name: str, caption: str) -> str:
    return figure(name, images[name], "svg+xml", caption)
