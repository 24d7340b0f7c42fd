"""A person's own CSV files, and a work directory made of them in seconds."""

import contextlib
import pathlib
import random

from oxyrec_jax import cli

KINDS = ("tea", "cup", "pot", "tin", "jar")
COLOURS = ("red", "blue", "green", "white", "black", "grey")
SETTINGS = (
    "data.source=table", "data.columns.user=visitor", "data.columns.item=sku",
    "data.columns.time=at", "data.time_unit=iso", "data.item_columns.item=sku",
    "data.item_columns.title=name", "data.item_columns.price=price",
    "text.source=hashed", "tokenizer.widths=[8,8]", "tokenizer.collisions=reassign",
    "model.width=16", "model.heads=2", "model.head_width=8", "model.mlp_width=16",
    "model.encoder_layers=1", "train.steps=4", "train.log_every=2",
    "train.evaluate_every=2", "train.checkpoint_every=2", "train.pipeline.batch=8",
    "train.pipeline.history=6", "train.pipeline.row_length=12",
    "train.optimizer.warmup=1", "evaluate.ks=[1,5,10]", "evaluate.samples=20",
    "beams=20")


def write_csv(folder: pathlib.Path, *, users=40, items=30, seed=0) -> pathlib.Path:
    """Writes `events.csv` (visitor, sku, at) and `items.csv` (sku, name, price)."""
    rng = random.Random(seed)
    skus = [f"sku{number}" for number in range(items)]
    lines = ["visitor,sku,at"]
    for user in range(users):
        liked = rng.sample(skus, rng.randint(5, 9))
        lines += [f"user-{user:08d},{sku},2024-03-{day:02d} 10:00:00"
                  for day, sku in enumerate(liked, 1)]
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    names = [f"{COLOURS[number // 5]} {KINDS[number % 5]}" for number in range(items)]
    (folder / "items.csv").write_text("\n".join(
        ["sku,name,price", *(f'{sku},"{name}",{2 + number}.50' for number, (sku, name)
                             in enumerate(zip(skus, names, strict=True)))]) + "\n")
    return folder


def settings(*more: str) -> list[str]:
    """The tiny settings as command-line options."""
    return [word for setting in (*SETTINGS, *more) for word in ("--set", setting)]


def train(folder: pathlib.Path) -> pathlib.Path:
    """Prepares, tokenizes, trains and evaluates below `folder`; returns the workdir.

    The log is named as seen from `folder`, so that another folder with the same files
    gives the same data set.
    """
    write_csv(folder)
    where = ["--workdir", "work"]
    with contextlib.chdir(folder):
        cli.main(["prepare", *where, *settings(), "--source", "table",
                  "--path", "events.csv", "--items", "items.csv"])
        for verb in ("tokenize", "train", "evaluate", "report"):
            cli.main([verb, *where])
    return folder / "work"
