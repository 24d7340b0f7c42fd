"""Rollouts a second of the aligner, and where its time goes.

    python benchmarks/align.py --quick --json      # under a minute on two cores
    python benchmarks/align.py --json              # groups of 16, 64 and 256

One process, the quickstart's network without its memory and item head, with random
weights on 1,000 items of 3 codes out of 32, 32 requests at once with 20 events of
history, rewards by codes and vectors, two updates on each experience. In turns:

    draw      G candidates for each request: the serving search, with sampling, joined
              with logged items
    serve     the same search as it serves: the best K = G
    appraise  log-probabilities under sampler and reference, signals, rewards
    update    one step of SA-GCPO with its anchor

`rollouts_per_s` is B x G over the time of draw, appraise and two updates;
`share.<part>` what each takes of that; `rollout_vs_decode` draw : serve, median over
turns (wanted: at most 1.1). Draw and serve are one program but for the noise.

The bound: matrix products. An update differentiates the network at G + 1 candidates,
three forward passes; it is printed beside the measured time.
"""

import argparse
import dataclasses
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import linen as nn  # noqa: E402

from oxyrec_jax import huge_pages, profiling, quickstart  # noqa: E402
from oxyrec_jax.decode import recommend, rollout  # noqa: E402
from oxyrec_jax.models.generator import Generator  # noqa: E402
from oxyrec_jax.rewards import mapping  # noqa: E402
from oxyrec_jax.tokenizer.catalogue import make_catalogue  # noqa: E402
from oxyrec_jax.train import align, signals  # noqa: E402
from oxyrec_jax.train.align_settings import AlignConfig  # noqa: E402
from oxyrec_jax.train.step import make_optimizer  # noqa: E402

WIDTHS, ITEMS, HISTORY, VECTOR = (32, 32, 32), 1_000, 20, 64
BATCH = 32
TARGET = 1.1
PARTS = ("draw", "appraise", "update")


def main() -> None:
    options = _options()
    matmul = profiling.matmul_peak("float32", size=512, seconds=1.0)
    print(f"device: {jax.devices()[0].device_kind}, {os.cpu_count()} cores, "
          f"{platform.machine()}; Python {platform.python_version()}, JAX "
          f"{jax.__version__}; measured peak {matmul / 1e9:.0f} GFLOP/s (float32)")
    print(f"shapes: {BATCH} requests of {HISTORY} events, {ITEMS:,} items of "
          f"{len(WIDTHS)} codes of {WIDTHS[0]}; one warm-up, {options.turns} turns")
    found = {group: measure(group, options.turns) for group in options.groups}
    print(f"\n{'G':>4} {'rollouts/s':>11} {'draw ms':>9} {'serve ms':>9} "
          f"{'draw/serve':>10} {'appraise ms':>12} {'update ms':>10}   shares")
    for group, one in found.items():
        print(f"{group:>4} {one['rollouts_per_s']:>11,.0f} {one['draw_ms']:>9.1f} "
              f"{one['serve_ms']:>9.1f} {one['rollout_vs_decode']:>10.2f} "
              f"{one['appraise_ms']:>12.1f} {one['update_ms']:>10.1f}   "
              + "  ".join(f"{name} {one[f'share.{name}']:.0%}" for name in
                          ("rollout", "reward", "update")))
    first = found[options.groups[0]]
    verdict = "met" if first["rollout_vs_decode"] <= TARGET else "not met"
    print(f"rollout against decode, wanted at most {TARGET}: {verdict} at "
          f"G = {options.groups[0]}")
    if options.json:
        print(json.dumps({**first, "group": options.groups[0], "by_group": found}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="groups of 16 alone")
    parser.add_argument("--json", action="store_true",
                        help="one JSON object as the last line")
    parser.add_argument("--groups", type=int, nargs="+", help="G (16, 64, 256)")
    parser.add_argument("--turns", type=int, help="timed turns (15; quick: 7)")
    options = parser.parse_args()
    options.groups = options.groups or ([16] if options.quick else [16, 64, 256])
    options.turns = options.turns or (7 if options.quick else 15)
    return options


def measure(group: int, turns: int) -> dict[str, Any]:
    """Times all parts in turns; medians in milliseconds, and the figures."""
    cfg = AlignConfig(batch=BATCH, group=group, synthetic=0.5, reward={
        "tokens": mapping.Component(), "relevance": mapping.Component(),
        "diversity": mapping.Component()})
    world = _World(cfg)
    calls: dict[str, Callable[[], Any]] = {
        "draw": world.draw, "serve": world.serve, "appraise": world.appraise,
        "update": world.update}
    for call in calls.values():
        jax.block_until_ready(call())
    wall: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            wall[name].append(time.perf_counter() - begin)
    middle = {name: statistics.median(times) for name, times in wall.items()}
    spent = {"rollout": middle["draw"], "reward": middle["appraise"],
             "update": cfg.updates * middle["update"]}
    whole = sum(spent.values())
    ratio = statistics.median(one / other for one, other
                              in zip(wall["draw"], wall["serve"]))
    return {"rollouts_per_s": BATCH * group / whole,
            **{f"share.{name}": value / whole for name, value in spent.items()},
            "rollout_vs_decode": ratio,
            **{f"{name}_ms": 1e3 * value for name, value in middle.items()}}


class _World:
    """A network, items and requests, all random, and the compiled parts."""

    def __init__(self, cfg: AlignConfig):
        rng = np.random.default_rng(0)
        model_cfg = dataclasses.replace(quickstart.get_config().model, memory=False,
                                        item_head=False)
        self.cfg = cfg
        self.model = Generator(model_cfg, WIDTHS, ITEMS)
        codes = np.stack(np.unravel_index(
            rng.choice(np.prod(WIDTHS), ITEMS, replace=False), WIDTHS), 1)
        vectors = rng.normal(size=(ITEMS, VECTOR)).astype(np.float32)
        self.catalogue, leaves = make_catalogue(
            codes.astype(np.int32), WIDTHS, popularity=rng.integers(0, 9, ITEMS),
            features=vectors if model_cfg.item_features else None)
        self.batch = jax.tree.map(jnp.asarray, {
            "items": rng.integers(0, ITEMS, (BATCH, HISTORY)).astype(np.int32),
            "segments": np.ones((BATCH, HISTORY), np.int32),
            "target_positions": np.full((BATCH, 1), HISTORY - 1, np.int32),
            "targets": rng.integers(0, ITEMS, (BATCH, 1)).astype(np.int32),
            "asked_scenario": np.zeros(BATCH, np.int32),
            "logged": rng.integers(0, ITEMS, (BATCH, cfg.logged)).astype(np.int32)})
        self.params = nn.meta.unbox(jax.jit(self.model.init)(
            jax.random.key(0), self.batch, self.catalogue.tables)["params"])
        self.sources = signals.SignalSources(
            self.catalogue.tables.codes, jnp.asarray(vectors), None, tuple(cfg.reward))
        self.mapping = mapping.fit_mapping(
            {name: rng.normal(size=1_000) for name in cfg.reward}, cfg.reward, ["all"])
        self.preferred = rollout.first_items(leaves)
        self.optimizer = make_optimizer(cfg.optimizer, cfg.steps)
        self.moments = self.optimizer.init(self.params)
        self._draw = jax.jit(functools.partial(align.draw, self.model, cfg))
        self._appraise = jax.jit(functools.partial(align.appraise, self.model, cfg))
        self._update = jax.jit(functools.partial(align.update, self.model, cfg,
                                                 self.optimizer))
        self.found = self.draw()
        self.seen = self.appraise()

    def draw(self) -> Any:
        return self._draw(self.params, self.batch, self.catalogue, self.preferred,
                          jax.random.key(1))

    def serve(self) -> Any:
        return recommend.recommend(self.model, self.params, self.batch, self.catalogue,
                                   beams=self.cfg.group, experts=False)

    def appraise(self) -> Any:
        return self._appraise(self.params, self.params, self.batch, self.catalogue,
                              self.found, self.sources, self.mapping)

    def update(self) -> Any:
        return self._update(self.params, self.moments, self.batch, self.catalogue,
                            self.seen)


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    main()
