"""Draws the pictures of docs/tokenizer.md into docs/images, on the simulated shop.

    python docs/plot_tokenizer.py       # 3 min; needs the extra `plots`
    python docs/plot_tokenizer.py gini  # only this one

Every picture is made of the package's own codes and figures for the quickstart's shop,
so a picture cannot disagree with what `oxyrec tokenize` prints.
"""

import collections
import dataclasses
import pathlib
import sys
import tempfile

import jax
import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from oxyrec_jax.data import shop
from oxyrec_jax.data.dataset import Dataset, load_dataset
from oxyrec_jax.tokenizer import (code_map, collisions, embeddings, engagement,
                                  multisource, quality, quantiser, sources)

IMAGES = pathlib.Path(__file__).parent / "images"
STYLE = {
    "svg.hashsalt": "tokenizer",  # the same bytes on every run
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
WIDTHS = (32, 32, 32)
BLUE, ORANGE, GREEN, GREY = "#2563d9", "#d9822b", "#12856a", "#97a3b6"


@dataclasses.dataclass(frozen=True)
class World:
    """The shop, two kinds of item vectors, and codes of the better one."""

    dataset: Dataset
    text: np.ndarray
    both: np.ndarray
    categories: list[str]
    books: quantiser.Codebooks
    codes: np.ndarray


def main(only: list[str]) -> None:
    IMAGES.mkdir(exist_ok=True)
    matplotlib.use("svg")
    with tempfile.TemporaryDirectory() as folder, plt.rc_context(STYLE):
        world = make_world(pathlib.Path(folder))
        for picture in (levels, duplicates, coverage, perplexity, gini, reconstruction,
                        purity, information, agreement, first_codes):
            if only and picture.__name__ not in only:
                continue
            figure = picture(world)
            figure.tight_layout()
            path = IMAGES / f"tokenizer_{picture.__name__}.svg"
            figure.savefig(path, metadata={"Date": None}, dpi=90)
            plt.close(figure)
            print(f"docs/images/{path.name}", f"{path.stat().st_size / 1024:.0f} kB")


def make_world(folder: pathlib.Path) -> World:
    shop.prepare_shop(shop.ShopConfig(), folder / "shop")
    dataset = load_dataset(folder / "shop")
    text, both = (multisource.item_encoder(
        dataset, sources.SourceConfig(sources=names), embeddings.EmbeddingConfig(),
        folder / "cache").vectors for names in (("text",), ("text", "co-engagement")))
    books, codes = tokens(both, WIDTHS)
    return World(dataset, text, both, dataset.item_table()["category"].to_pylist(),
                 books, codes)


def tokens(x: np.ndarray, widths: tuple[int, ...], kind: str = "residual-kmeans"
           ) -> tuple[quantiser.Codebooks, np.ndarray]:
    """Fits a quantiser; networks for 500 steps, enough for a picture."""
    cfg = quantiser.Quantiser(kind=kind)
    cfg = dataclasses.replace(cfg, rq_vae=dataclasses.replace(cfg.rq_vae, steps=500),
                              fsq=dataclasses.replace(cfg.fsq, steps=500))
    books = quantiser.fit(jax.random.key(0), x, cfg, widths=widths)
    return books, quantiser.encode_catalogue(books, x, cfg)


def levels(world: World) -> plt.Figure:
    """Two levels in the plane: cells, then cells of what is left over in one."""
    plane, _ = code_map.principal_plane(world.both.astype(np.float64))
    plane = plane.astype(np.float32)
    books, codes = tokens(plane, (6, 4))
    first, second = (books.arrays[f"codebook_{level}"] for level in (0, 1))
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.8))
    axes[0].scatter(*plane.T, c=codes[:, 0], cmap="tab10", vmax=9, s=7, alpha=0.7,
                    linewidths=0, rasterized=True)
    for code, (x, y) in enumerate(first):
        axes[0].annotate(f"a{code}", (x, y), ha="center", va="center", weight="bold",
                         bbox={"boxstyle": "round", "fc": "white", "ec": "#999999"})
    chosen = int(np.bincount(codes[:, 0]).argmax())
    inside = codes[:, 0] == chosen
    axes[1].scatter(*plane[inside].T, c=codes[inside, 1], cmap="Set2", vmax=7, s=14,
                    linewidths=0, rasterized=True)
    for code in np.unique(codes[inside, 1]):
        x, y = first[chosen] + second[code]
        axes[1].annotate(f"a{chosen} b{code}", (x, y), ha="center", va="center",
                         bbox={"boxstyle": "round", "fc": "white", "ec": "#999999"})
    axes[0].set_title("level 1: six codes for all items")
    axes[1].set_title(f"level 2: what a{chosen} left over, in four")
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    return figure


def duplicates(world: World) -> plt.Figure:
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4))
    shared = np.bincount(quality.prefix_groups(world.codes)[-1])
    counts = np.bincount(shared)[1:]
    axes[0].bar(np.arange(1, len(counts) + 1), counts,
                color=[GREEN] + [ORANGE] * (len(counts) - 1))
    figures = quality.measure(world.codes, WIDTHS)
    for name, value in (("P99", figures["p99"]),
                        ("P999, most", figures["max_items_per_sid"])):
        axes[0].annotate(name, (value, counts[int(value) - 1]),
                         (value, counts.max() / 3), ha="center",
                         arrowprops={"arrowstyle": "-", "color": GREY})
    axes[0].set(xlabel="items behind one semantic ID", ylabel="semantic IDs",
                title=f"32 × 32 × 32: {figures['duplicates']:.0%} of the items share")
    widths = (16, 32, 64, 128, 256)
    curves = collections.defaultdict(list)
    for width in widths:
        for name, x in (("text", world.text), ("text and use", world.both)):
            books, codes = tokens(x, (width,) * 3)
            curves[f"{name}, list"].append(shares(codes))
            rest, last = quantiser.last_level(books, x, codes)
            moved = collisions.reassign(codes, rest, last)
            curves[f"{name}, reassign"].append(shares(moved))
    for (name, values), colour in zip(curves.items(), (GREY, GREY, BLUE, BLUE)):
        axes[1].plot(widths, values, color=colour, label=name, marker="o",
                     linestyle="-" if "list" in name else "--")
    axes[1].set(xlabel="codes of each of three levels", xscale="log", xticks=widths,
                xticklabels=[str(width) for width in widths], ylim=(-0.03, 1.03),
                title="items that share their ID")
    axes[1].minorticks_off()
    axes[1].yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    axes[1].legend(fontsize=8)
    return figure


def shares(codes: np.ndarray) -> float:
    return quality.measure(codes, codes.max(axis=0) + 1)["duplicates"]


def coverage(world: World) -> plt.Figure:
    figure, axis = plt.subplots(figsize=(6.4, 3.2))
    for place, width in enumerate((32, 128, 512)):
        _, codes = tokens(world.both, (width,) * 3)
        found = quality.measure(codes, (width,) * 3)
        bars = axis.bar(np.arange(3) + 0.28 * (place - 1), found["coverage"], 0.26,
                        color=(BLUE, GREEN, ORANGE)[place],
                        label=f"{width} codes a level")
        axis.bar_label(bars, [f"{dead} dead" for dead in found["dead_codes"]],
                       fontsize=8, padding=2)
    axis.axhline(0.95, color="#555555", linewidth=1, linestyle=":")
    axis.set(xticks=range(3), xticklabels=["level 1", "level 2", "level 3"],
             ylim=(0, 1.35), yticks=np.linspace(0, 1, 5),
             title="share of the codes in use; 1,000 items")
    axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    axis.legend(fontsize=8, ncols=3, loc="upper center")
    return figure


def perplexity(world: World) -> plt.Figure:
    load = np.sort(np.bincount(world.codes[:, 1], minlength=32))[::-1]
    value = quality.perplexity(load)
    figure, axis = plt.subplots(figsize=(6.4, 3.2))
    axis.bar(np.arange(32) + 0.5, load, width=1, color=BLUE, alpha=0.75,
             label="items of each code of level 2")
    axis.bar(value / 2, load.sum() / value, width=value, fill=False, edgecolor=ORANGE,
             linewidth=2, label=f"the same items on {value:.1f} equally used codes")
    axis.set(xlabel="codes, most used first", ylabel="items",
             title=f"perplexity {value:.1f} of 32")
    axis.legend(fontsize=8)
    return figure


def gini(world: World) -> plt.Figure:
    figure, axis = plt.subplots(figsize=(4.4, 3.8))
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="all codes alike, 0")
    found = quality.measure(world.codes, WIDTHS)["gini"]
    for level, colour in ((0, BLUE), (1, ORANGE)):
        load = np.sort(np.bincount(world.codes[:, level], minlength=32))
        rising = np.r_[0, np.cumsum(load)] / load.sum()
        codes = np.linspace(0, 1, 33)
        axis.plot(codes, rising, color=colour,
                  label=f"level {level + 1}, {found[level]:.2f}")
        axis.fill_between(codes, rising, codes, color=colour, alpha=0.12)
    axis.set(xlabel="share of the codes, least used first", ylabel="share of the items",
             title="Gini: twice the area below the line")
    axis.legend(fontsize=8)
    return figure


def reconstruction(world: World) -> plt.Figure:
    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    for kind in quantiser.KINDS:
        books, codes = tokens(world.both, WIDTHS, kind)
        left = quality.measure(
            codes, WIDTHS, embeddings=world.both,
            decode=lambda part, books=books: quantiser.decode(books, part)
        )["reconstruction"]
        axis.plot(range(4), [1, *left], marker="o", label=kind,
                  linestyle="--" if kind == "balanced-kmeans" else "-")
    axis.set(xticks=range(4), xticklabels=["no code", "first", "first 2", "first 3"],
             title="variance of the item vectors that codes do not restore")
    axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    axis.legend(fontsize=8)
    return figure


def purity(world: World) -> plt.Figure:
    figure, axis = plt.subplots(figsize=(8.4, 3.4))
    found = quality.measure(world.codes, WIDTHS, categories=world.categories)
    loads = np.bincount(world.codes[:, 0])
    for place, code in enumerate(np.argsort(-loads, kind="stable")[:16].tolist()):
        names = collections.Counter(
            world.categories[item]
            for item in np.flatnonzero(world.codes[:, 0] == code))
        bottom = 0
        for rank, (name, count) in enumerate(sorted(
                names.items(), key=lambda pair: (-pair[1], pair[0]))):
            axis.bar(place, count, bottom=bottom, width=0.8, edgecolor="white",
                     color=BLUE if not rank else "#d5dae3", linewidth=0.6)
            bottom += count
        top = min(names, key=lambda name: (-names[name], name))
        axis.text(place, bottom + 1, top.split(" > ")[-1], rotation=40, fontsize=7.5)
    axis.set(xticks=range(16), xticklabels=[f"a{code}" for code in np.argsort(
        -loads, kind="stable")[:16]], ylabel="items", ylim=(0, loads.max() * 1.45),
        title=f"purity {found['purity'][0]:.0%}: the blue share, over all first codes")
    axis.grid(axis="x", visible=False)
    return figure


def information(world: World) -> plt.Figure:
    widths = (2, 4, 8, 16, 32, 64, 128, 256, 512)
    names = quality.number_names(world.categories)
    found = [quality.prefix_groups(tokens(world.both, (width,))[1])[0]
             for width in widths]
    kinds = len(set(world.categories))
    figure, axis = plt.subplots(figsize=(6.4, 3.2))
    axis.plot(widths, [quality.purity(groups, names) for groups in found], "o-",
              color=BLUE, label="purity")
    axis.plot(widths, [quality.mutual_information(groups, names) for groups in found],
              "o-", color=GREEN, label="normalised mutual information")
    axis.axvline(kinds, color="#555555", linewidth=1, linestyle=":",
                 label=f"{kinds} categories")
    axis.set(xscale="log", xticks=widths, xticklabels=[str(width) for width in widths],
             xlabel="codes of the first level", ylim=(0, 1.03))
    axis.minorticks_off()
    axis.legend(fontsize=8, loc="lower right")
    return figure


def agreement(world: World) -> plt.Figure:
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
    rows = [world.dataset.column("item"), world.dataset.offsets(),
            world.dataset.split("train")]
    for axis, title, codes in (
            (axes[0], "from text alone", tokens(world.text, WIDTHS)[1]),
            (axes[1], "from text and training use", world.codes)):
        found = quality.agreement(quality.prefix_groups(codes),
                                  engagement.co_engaged(*rows))
        bars = axis.bar(np.arange(3) - 0.2, found["share"], width=0.38, color=BLUE,
                        label="pairs used together")
        axis.bar_label(bars, [f"×{lift:.1f}" for lift in found["lift"]], padding=2)
        axis.bar(np.arange(3) + 0.2, found["chance"], width=0.38, color=GREY,
                 label="partners by chance")
        axis.set(yscale="log", ylim=(1e-3, 1.2), title=title, xticks=range(3),
                 xticklabels=["first code", "first 2", "first 3"])
        axis.grid(axis="x", visible=False)
    axes[0].set_ylabel("share with one prefix")
    axes[0].yaxis.set_major_formatter(lambda value, place: f"{value:.3%}".rstrip("0%.")
                                      + "%" if value < 0.01 else f"{value:.0%}")
    axes[1].legend(fontsize=8)
    return figure


def first_codes(world: World) -> plt.Figure:
    found = code_map.code_map(world.codes[:, 0], world.both, world.categories)
    figure, axis = plt.subplots(figsize=(6.4, 4))
    dots = axis.scatter(*found.points.T, s=found.items * 7, c=found.purity, alpha=0.8,
                        vmin=0, vmax=1, edgecolors="white")
    for code in np.argsort(-found.items, kind="stable")[:11]:
        axis.annotate(found.category[code].split(" > ")[-1], found.points[code],
                      ha="center", va="center", fontsize=7.5)
    figure.colorbar(dots, label="purity",
                    format=matplotlib.ticker.PercentFormatter(1))
    axis.set(xticks=[], yticks=[], title=f"{len(found.codes)} first codes, "
             f"{found.kept:.0%} of their variance")
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
