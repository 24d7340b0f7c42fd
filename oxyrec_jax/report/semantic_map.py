"""What the semantic IDs look like: a map, how codes are used, what they hold."""

import collections
import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.colors
import plotly.graph_objects as go

from oxyrec_jax.report import figures
from oxyrec_jax.report.fragments import cut
from oxyrec_jax.tokenizer import code_map

_MAP_POINTS = 15_000  # more make the file large and the page slow
_LABELS = 14
_TITLE = 90  # characters
_WORD = re.compile(r"[^\W\d_]{3,}")


def spell(codes: Sequence[int]) -> str:
    """A semantic ID in letters and numbers: `a17 b203 c5`."""
    return " ".join(f"{chr(ord('a') + level % 26)}{code}"
                    for level, code in enumerate(codes))


def share_counts(codes: np.ndarray) -> np.ndarray:
    """How many items stand behind each semantic ID that is used: `[IDs]`."""
    return np.unique(codes, axis=0, return_counts=True)[1]


def typical_words(first: np.ndarray, titles: Sequence[str], *, count: int = 3
                  ) -> dict[int, str]:
    """The words that tell each level-1 code's titles from the rest.

    A word scores `p log(p / q)`: p the share of the code's titles that hold it, q the
    share of all titles; words held by a single title of the code are left out.
    """
    bags = [set(_WORD.findall(title.lower())) for title in titles]
    everywhere = collections.Counter(word for bag in bags for word in bag)
    inside: dict[int, collections.Counter] = collections.defaultdict(
        collections.Counter)
    for code, bag in zip(first.tolist(), bags):
        inside[code].update(bag)
    sizes = collections.Counter(first.tolist())
    found = {}
    for code, counter in inside.items():
        scores = {}
        for word, n in counter.items():
            lift = n / sizes[code] * len(bags) / everywhere[word]
            if lift > 1 and (n > 1 or sizes[code] == 1):
                scores[word] = n / sizes[code] * np.log(lift)
        best = sorted(scores, key=lambda word: (-scores[word], word))[:count]
        found[code] = ", ".join(best)
    return found


def item_map(codes: np.ndarray, embeddings: np.ndarray, titles: Sequence[str],
             words: Mapping[int, str]) -> tuple[go.Figure, int, float]:
    """Items in the plane of their embeddings' two main directions.

    Args:
      codes: `[N, T]` int semantic IDs.
      embeddings: `[N, D]` float, what was quantised.
      titles: of the N items.
      words: typical words of each first code, for the labels.

    Returns:
      The figure, how many items it shows, and the share of the variance that the plane
      keeps.
    """
    chosen = np.arange(len(codes))
    if len(chosen) > _MAP_POINTS:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, _MAP_POINTS, False))
    vectors = np.asarray(embeddings[chosen], np.float64)
    plane, share = code_map.principal_plane(vectors / np.maximum(
        np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
    codes = codes[chosen]
    present, code_of = np.unique(codes[:, 0], return_inverse=True)
    sizes = np.bincount(code_of)
    centres = np.stack([np.bincount(code_of, plane[:, axis]) / sizes
                        for axis in (0, 1)], 1)
    hue = np.arctan2(centres[:, 1], centres[:, 0]) / (2 * np.pi) % 1
    text = [f"{html.escape(cut(titles[item], _TITLE))}<br>{spell(codes[row])}"
            for row, item in enumerate(chosen.tolist())]
    view = np.quantile(plane, [0.001, 0.999], axis=0)  # a few items lie outside
    view += np.array([[-0.05], [0.05]]) * np.ptp(view, axis=0)
    figure = go.Figure(layout=figures.layout(
        580, xaxis={"visible": False, "range": view[:, 0]},
        yaxis={"visible": False, "range": view[:, 1]},
        showlegend=False, hovermode="closest", meta="map",
        margin={"l": 0, "r": 0, "t": 30, "b": 0}, modebar={
            "bgcolor": "rgba(0,0,0,0)", "color": "var(--rival)",
            "activecolor": "var(--ink)"}))
    figure.add_scattergl(
        x=plane[:, 0].astype(np.float32), y=plane[:, 1].astype(np.float32),
        mode="markers", text=text, hovertemplate="%{text}<extra></extra>",
        marker={"color": hue[code_of].astype(np.float32), "cmin": 0, "cmax": 1,
                "colorscale": plotly.colors.cyclical.Phase, "size": 5, "opacity": 0.7})
    _label(figure, centres, [words.get(code, "") for code in present.tolist()],
           _spread(centres, sizes, np.ptp(view, axis=0)))
    return figure, len(chosen), share


def usage(counts: np.ndarray) -> go.Figure:
    """Items behind each code of a level, most used first, and what equal use gives."""
    ordered = np.sort(counts)[::-1]
    figure = go.Figure(layout=figures.layout(
        250, xaxis={"title": {"text": "codes, most used first"}, "showgrid": False},
        yaxis={"title": {"text": "items"}, "rangemode": "tozero"}, showlegend=False))
    figure.add_scatter(
        x=np.arange(1, len(ordered) + 1), y=ordered, mode="lines", fill="tozeroy",
        line={"color": "var(--model)", "width": 1.5, "shape": "hvh"},
        fillcolor="var(--model-soft)",
        hovertemplate="%{y} items<extra>code number %{x} by use</extra>")
    figure.add_hline(y=counts.sum() / len(counts), line={
        "color": "var(--s2)", "width": 1.4, "dash": "dash"})
    return figure


def by_depth(quality: Mapping[str, Any]) -> go.Figure:
    """Purity and mutual information with the categories, for each prefix length."""
    depths = [_codes(depth) for depth in range(1, len(quality["purity"]) + 1)]
    figure = go.Figure(layout=figures.layout(
        270, xaxis={"type": "category", "showgrid": False, "tickangle": 0},
        yaxis={"range": [0, 1.05], "tickformat": ".0%"}, hovermode="x unified"))
    for name, label, colour in (("purity", "purity", "var(--model)"),
                                ("nmi", "mutual information", "var(--s3)")):
        figure.add_scatter(x=depths, y=quality[name], name=label, hovertemplate="%{y}",
                           mode="lines+markers", line={"color": colour, "width": 2.4},
                           marker={"size": 8})
    figure.add_scatter(
        x=depths, y=[quality["largest_category"]] * len(depths), mode="lines",
        name="purity without codes", hovertemplate="%{y}",
        line={"color": "var(--rival)", "width": 1.4, "dash": "dash"})
    return figure


def agreement(found: Mapping[str, Any]) -> go.Figure:
    """How often items used together share a prefix, beside chance, on a log scale."""
    depths = [_codes(depth) for depth in range(1, len(found["share"]) + 1)]
    positive = [value for value in (*found["share"], *found["chance"]) if value > 0]
    low, high = min(positive, default=1e-3), max(positive, default=1)
    figure = go.Figure(layout=figures.layout(
        270, xaxis={"type": "category", "showgrid": False, "tickangle": 0},
        yaxis={"type": "log", "dtick": 1, "tickformat": "~%",
               "range": [np.log10(low) - 0.6, np.log10(high) + 0.5]},
        bargap=0.3, bargroupgap=0.06))
    lifts = ["" if lift is None else f"×{lift:,.{1 if lift < 10 else 0}f}"
             for lift in found["lift"]]
    figure.add_bar(x=depths, y=found["share"], name="items used together", text=lifts,
                   textposition="outside", cliponaxis=False, constraintext="none",
                   marker_color="var(--model)", textfont={"color": "var(--ink)"},
                   hovertemplate="%{y:.3~%}<extra>%{fullData.name}</extra>")
    figure.add_bar(x=depths, y=found["chance"], name="chance",
                   marker_color="var(--rival)",
                   hovertemplate="%{y:.3~%}<extra>%{fullData.name}</extra>")
    return figure


def bubbles(found: code_map.CodeMap, words: Mapping[int, str]) -> go.Figure:
    """The first codes in the plane: size by items, colour by purity where known."""
    known = np.isfinite(found.purity)
    largest = float(np.clip(260 / np.sqrt(len(found.codes)), 7, 44))  # pixels
    text = [f"<b>{spell([code])}</b>, {items:,} items<br>{html.escape(part)}"
            for code, items, part in zip(
                found.codes.tolist(), found.items.tolist(),
                [", ".join(filter(None, (
                    f"{share:.0%} {cut(name, _TITLE)}" if sure else "",
                    words.get(code, ""))))
                 for code, share, sure, name in zip(
                     found.codes.tolist(), found.purity.tolist(), known.tolist(),
                     found.category)])]
    figure = go.Figure(layout=figures.layout(
        360, xaxis={"visible": False}, yaxis={"visible": False}, showlegend=False,
        hovermode="closest", margin={"l": 0, "r": 0, "t": 6, "b": 6}))
    scale = {"showscale": True, "cmin": 0, "cmax": 1, "colorscale": "Viridis",
             "colorbar": {"thickness": 10, "outlinewidth": 0, "tickformat": ".0%",
                          "title": {"text": "purity<br> ", "font": {"size": 12}}}}
    figure.add_scatter(
        x=found.points[:, 0].astype(np.float32),
        y=found.points[:, 1].astype(np.float32), mode="markers", text=text,
        hovertemplate="%{text}<extra></extra>", marker={
            "size": np.maximum(5, largest * np.sqrt(found.items / found.items.max())),
            "opacity": 0.75, "line": {"width": 0.6, "color": "var(--card)"},
            **({"color": np.where(known, found.purity, 0), **scale} if known.any()
               else {"color": "var(--model)"})})
    _label(figure, found.points, [words.get(code, "") for code in found.codes.tolist()],
           _spread(found.points, found.items,
                   np.ptp(found.points, axis=0) * (1, 1.6)))  # a lower chart
    return figure


def collisions(shared: np.ndarray) -> go.Figure:
    """How many semantic IDs stand for one item, two items, and so on."""
    sizes, counts = np.unique(shared, return_counts=True)
    shown = sizes < 8
    labels = [str(size) for size in sizes[shown]]
    values = counts[shown].tolist()
    if not shown.all():
        labels.append("8+")
        values.append(int(counts[~shown].sum()))
    figure = go.Figure(layout=figures.layout(
        250, xaxis={"title": {"text": "items behind one semantic ID"},
                    "type": "category", "showgrid": False, "tickangle": 0,
                    "range": [-1.0, len(labels) - 0.4]},
        yaxis={"title": {"text": "semantic IDs"}, "type": "log",
               "dtick": 1, "range": [-0.3, np.log10(max(values)) + 0.5]},
        showlegend=False))
    colours = ["var(--good)" if label == "1" else "var(--s2)" for label in labels]
    figure.add_bar(x=labels, y=values, text=[f"{value:,}" for value in values],
                   textposition="outside", cliponaxis=False, hoverinfo="skip",
                   constraintext="none", marker_color=colours,
                   textfont={"size": 10.5, "color": "var(--ink)"})
    return figure


def _spread(centres: np.ndarray, sizes: np.ndarray, extent: np.ndarray) -> list[int]:
    """Large groups whose labels stand far enough apart to be read."""
    extent = np.maximum(extent, 1e-12)
    picked: list[int] = []
    for code in np.argsort(-sizes, kind="stable"):
        gaps = [np.abs(centres[code] - centres[other]) / extent for other in picked]
        if all(gap[0] > 0.24 or gap[1] > 0.055 for gap in gaps):
            picked.append(int(code))
        if len(picked) == _LABELS:
            break
    return picked


def _label(figure: go.Figure, points: np.ndarray, words: Sequence[str],
           shown: Sequence[int]) -> None:
    """Writes the first two typical words of some codes at their place."""
    for code in shown:
        label = words[code].split(", ")[:2]
        if label != [""]:
            figure.add_annotation(
                x=points[code, 0], y=points[code, 1], text=html.escape(" ".join(label)),
                showarrow=False, bgcolor="var(--card)", bordercolor="var(--line)",
                borderpad=2, opacity=0.88, font={"size": 11, "color": "var(--ink)"})


def _codes(depth: int) -> str:
    return "first code" if depth == 1 else f"first {depth}"
