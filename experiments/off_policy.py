"""Off-policy estimators where the answer is known: the shop's truth, and two real logs.

    python experiments/off_policy.py --json
    python experiments/off_policy.py --quick

The first table is of the simulated shop. A logging policy shows slates at random with
probabilities that are known exactly; another policy's value is estimated from each of
many such logs and compared with its true value, which the shop's response model gives
without sampling. Each place of a slate draws from a part of the catalogue of its own,
so that no item can stand in a slate twice and the places' probabilities are exact for
every assumption. Requests are those that people make on the day after the log.

The second is of the Open Bandit data (ZOZO, campaign "all", the sample of 10,000 rows
each): a log of a uniform policy estimates the mean of the log of Bernoulli Thompson
sampling, and the other way round. Thompson sampling's own probabilities over a week are
taken from how often it showed each item at each position; the rewards of a place are
taken to depend on item and position alone. With about 40 clicks a log, intervals are
wide.

On one CPU core the whole takes 75 s of CPU time.
"""

import argparse
import dataclasses
import functools
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.csv

from oxyrec_jax import metrics, progress
from oxyrec_jax.base import Array, InputError
from oxyrec_jax.closed_loop import days
from oxyrec_jax.data import shop
from oxyrec_jax.data.shop import chance
from oxyrec_jax.evaluate.off_policy import (Estimate, Logged, RewardModel, estimate,
                                            tabular_model)

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
CLIP = 3.0  # ours
ESTIMATORS: Mapping[str, Mapping[str, Any]] = {
    "IPS, position": {"method": "ips"},
    f"clipped IPS at {CLIP:g}, position": {"method": "clipped", "clip": CLIP},
    "SNIPS, position": {"method": "snips"},
    "DR, position": {"method": "dr"},
    "IPS, cascade": {"method": "ips", "assumption": "cascade"},
    "IPS, slate": {"method": "ips", "assumption": "slate"},
}
# docs/abtest.md; commit 4bc3804, JAX 0.10.2. Nothing here is trained: tolerances are
# ours, of sums in another order.
EXPECTED = {"shop": """
| | mean | coverage |
|---|---|---|
| IPS, position | 0.2545 ~ .0010 | 0.940 ~ .02 |
| clipped IPS at 3, position | 0.2357 ~ .0010 | 0.700 ~ .02 |
| SNIPS, position | 0.2545 ~ .0010 | 0.920 ~ .02 |
| DR, position | 0.2548 ~ .0010 | 0.915 ~ .02 |
| IPS, cascade | 0.2538 ~ .0010 | 0.930 ~ .02 |
| IPS, slate | 0.2522 ~ .0010 | 0.920 ~ .02 |
""", "open bandit": """
| | own log | IPS, position | SNIPS, position | DR, position |
|---|---|---|---|---|
| random to bts | 0.0042 ~ .0001 | 0.0050 ~ .0001 | 0.0053 ~ .0001 | 0.0051 ~ .0001 |
| bts to random | 0.0038 ~ .0001 | 0.0024 ~ .0001 | 0.0023 ~ .0001 | 0.0028 ~ .0001 |
"""}
TOY = ("20 logs of 500 requests, 100 people",)
_LOGS = 50  # stream of chance
ITEMS = 80  # of the Open Bandit campaign "all"


@dataclasses.dataclass(frozen=True)
class Requests:
    """B requests of the shop, what was logged in them, and what is true of them.

    Attributes:
      actions: `[B, K]` int, which item of its place's part stood there.
      clicks: `[B, K]` float.
      propensities, target: `[B, K]` float.
      policy: `[B, K, M]` float, the target's probabilities.
      truth: `[B]` float, expected clicks of the target's slate.
    """

    actions: np.ndarray
    clicks: np.ndarray
    propensities: np.ndarray
    target: np.ndarray
    policy: np.ndarray
    truth: np.ndarray


@functools.partial(jax.jit, static_argnames=("places",))
def log_requests(world: shop.World, luck: Array, popularity: Array,
                 visitors: shop.Visitors, *, places: int) -> tuple[Array, ...]:
    """Lets people come once and shows them slates at random; fields of `Requests`.

    Both policies are a softmax within the place's part of the catalogue: logging over
    half the logarithm of popularity, the target over all of it and, 1.5 stronger, items
    of the leaf of the person's latest event.
    """
    lucky = dataclasses.replace(world, seed=luck)
    draws = shop.draw(lucky, visitors, places, places)
    # With few events left a visit may be made at any time of the day.
    now = shop.next_moment(world, dataclasses.replace(
        visitors, left=jnp.ones_like(visitors.left)), draws)
    now = dataclasses.replace(now, left=visitors.left)
    size = world.item_leaf.shape[0] // places
    items = (jnp.arange(size)[None, :] * places + jnp.arange(places)[:, None])
    latest = world.item_leaf[jnp.maximum(visitors.moment.items[:, 0], 0)]
    near = world.item_leaf[items] == latest[:, None, None]
    logits = jnp.log(popularity[items] + 1.0)
    batch = (visitors.step.shape[0], places, size)
    logging_p = jax.nn.softmax(jnp.broadcast_to(0.5 * logits, batch), axis=-1)
    target_p = jax.nn.softmax(logits + 1.5 * near, axis=-1)
    noise = chance.gumbel(chance.uniform(luck, _LOGS, visitors.people.number,
                                         visitors.step, places * size))
    actions = jnp.argmax(jnp.log(logging_p) + noise.reshape(batch), axis=-1)

    def chosen(chances: Array) -> Array:
        return jnp.take_along_axis(chances, actions[..., None], axis=-1)[..., 0]
    shown = items[jnp.arange(places), actions].astype(jnp.int32)
    all_items = jnp.broadcast_to(items.reshape(1, -1), (batch[0], places * size))
    every = shop.response_probabilities(world, now.people, now.moment, all_items)
    looks = shop.look_probabilities(places)
    truth = jnp.sum(target_p * every.click.reshape(batch) * looks[:, None], (1, 2))
    responses = shop.response_probabilities(world, now.people, now.moment, shown)
    clicks = shop.respond(now, shown, responses, draws) > 0
    return (actions, clicks.astype(jnp.float32), chosen(logging_p), chosen(target_p),
            target_p, truth)


class ShopLogs:
    """Logs of a small shop whose people have a past.

    Args:
      people: how many there are to draw from.
      items: of the catalogue.
      places: of a slate.
    """

    def __init__(self, people: int, items: int, places: int):
        cfg = shop.ShopConfig(users=people, items=items, events_per_user=8,
                              max_events=40)
        built = shop.build_shop(cfg)
        self._world = shop.days_after(built, 1).world(0)
        self._luck, self._places = jnp.asarray(days.luck_of(cfg, 0)), places
        numbers = np.arange(people, dtype=np.int32)
        visitors = shop.people_after(built.world, numbers, slate=8, candidates=24)
        staying = dataclasses.replace(  # whoever has made all events does nothing more
            visitors.people, events=np.full(people, 1 << 24, np.int32))
        self._people = dataclasses.replace(
            visitors, people=staying, left=np.full(people, 1 << 20, np.int32),
            inside=np.zeros(people, bool), place=np.zeros(people, np.float32))
        bought = visitors.moment.items
        self._popularity = jnp.asarray(np.bincount(bought[bought >= 0],
                                                   minlength=items), jnp.float32)

    def draw(self, requests: int, log: int) -> Requests:
        """Draws one log: people with replacement, each request a new one."""
        rng = np.random.default_rng([log, 7])
        rows = rng.integers(0, len(self._people.step), requests)
        visitors = jax.tree.map(lambda a: a[rows], self._people)
        step = (1 << 24) + log * requests + np.arange(requests)
        visitors = dataclasses.replace(visitors, step=step.astype(np.int32))
        return Requests(*(np.asarray(part, np.float64) if number else np.asarray(part)
                          for number, part in enumerate(log_requests(
                              self._world, self._luck, self._popularity, visitors,
                              places=self._places))))


def shop_table(logs: ShopLogs, *, requests: int, replicates: int, samples: int = 400
               ) -> dict[str, Any]:
    """Bias and coverage of every estimator over many logs.

    Args:
      logs: where they come from.
      requests: of each log.
      replicates: how many logs.
      samples: of the bootstrap.

    Returns:
      "truth" and "logging" (clicks of a request under both policies) and "estimators":
      name to mean, bias, error (of the bias), sd, coverage and ess.
    """
    values: dict[str, list[Estimate]] = {name: [] for name in ESTIMATORS}
    truths, logged = [], []
    for log in progress.track(range(replicates), "logs of the shop"):
        found = logs.draw(requests, log)
        truths.append(found.truth.mean())
        logged.append(found.clicks.sum(axis=1).mean())
        rows = Logged(found.clicks, found.propensities, found.target)
        for name, options in ESTIMATORS.items():
            model = None
            if options["method"] == "dr":
                model = tabular_model(found.actions, found.clicks, found.policy)
            values[name].append(estimate(rows, model=model, samples=samples, seed=log,
                                         **options))
    truth = float(np.mean(truths))
    table = {}
    for name, parts in values.items():
        value = np.array([part.value for part in parts])
        table[name] = {
            "mean": float(value.mean()), "bias": float(value.mean() - truth),
            "error": float(value.std(ddof=1) / np.sqrt(len(value))),
            "sd": float(value.std(ddof=1)),
            "coverage": float(np.mean([part.low <= truth <= part.high
                                       for part in parts])),
            "ess": float(np.mean([part.ess for part in parts]))}
    return {"truth": truth, "logging": float(np.mean(logged)), "requests": requests,
            "replicates": replicates, "estimators": table}


def read_bandit(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a log of the Open Bandit data: item, place (0 to 2), click, propensity.

    Raises:
      InputError: the file cannot be read, or a column is missing.
    """
    names = ("item_id", "position", "click", "propensity_score")
    try:
        table = pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(
            include_columns=list(names)))
    except (OSError, pyarrow.ArrowInvalid, KeyError, pyarrow.ArrowKeyError) as error:
        raise InputError(f"{path} cannot be read as a log of the Open Bandit data "
                         f"({error}); give --data the folder that holds obd_all"
                         ) from error
    item, position, click, propensity = (table[name].to_numpy() for name in names)
    return {"item": item, "place": position - 1, "click": click.astype(np.float64),
            "propensity": propensity}


def bandit_table(folder: pathlib.Path, *, samples: int = 1000) -> dict[str, Any]:
    """Each log's estimate of the other policy's click rate beside that policy's own.

    Args:
      folder: with `random.all.csv.gz` and `bts.all.csv.gz`.
      samples: of the bootstrap.

    Returns:
      "random to bts" and "bts to random": "own" (value, low and high of the policy's
      own log), "logging" (the mean that was logged) and "estimators".
    """
    logs = {name: read_bandit(folder / f"{name}.all.csv.gz")
            for name in ("random", "bts")}
    shown = np.zeros((3, ITEMS))
    np.add.at(shown, (logs["bts"]["place"], logs["bts"]["item"]), 1)
    policies = {"random": np.full((3, ITEMS), 1 / ITEMS),
                "bts": shown / shown.sum(axis=1, keepdims=True)}
    found = {}
    for source, other in (("random", "bts"), ("bts", "random")):
        log, policy = logs[source], policies[other]
        rows = Logged(log["click"][:, None], log["propensity"][:, None],
                      policy[log["place"], log["item"]][:, None])
        # An action of the model is an item at a position.
        wide = np.zeros((3, 1, 3 * ITEMS))
        for place in range(3):
            wide[place, 0, place * ITEMS:(place + 1) * ITEMS] = policy[place]
        model = tabular_model((log["place"] * ITEMS + log["item"])[:, None],
                              log["click"][:, None], wide[log["place"]])
        own = metrics.bootstrap(logs[other]["click"], samples=samples)
        found[f"{source} to {other}"] = {
            "own": {"value": float(own.mean[0]), "low": float(own.low[0]),
                    "high": float(own.high[0])},
            "logging": float(log["click"].mean()),
            "estimators": _bandit_estimates(rows, model, samples)}
    return found


def _bandit_estimates(rows: Logged, model: RewardModel, samples: int
                      ) -> dict[str, dict[str, float]]:
    return {name: dataclasses.asdict(estimate(
        rows, model=model if options["method"] == "dr" else None, samples=samples,
        **options)) for name, options in ESTIMATORS.items()
        if "assumption" not in options}  # one place is all of its slate


def reproduce(table: str, names: Sequence[str], workdir: pathlib.Path, *,
              settings: Sequence[str], toy: bool) -> dict[str, dict[str, list[float]]]:
    """Figures of rows of a table for `oxyrec reproduce`; `data` is the only setting."""
    data = {"data": str(SHARED)} | dict(one.split("=", 1) for one in settings)
    if table == "open bandit":
        logs = bandit_table(pathlib.Path(data["data"]) / "obd_all" / "orig")
        return {name: {"own log": [logs[name]["own"]["value"]],
                       **{estimator: [one["value"]] for estimator, one
                          in logs[name]["estimators"].items()}} for name in names}
    people, requests, replicates = (100, 500, 20) if toy else (2_000, 2_000, 200)
    found = shop_table(ShopLogs(people, 240, 4), requests=requests,
                       replicates=replicates)["estimators"]
    return {name: {column: [found[name][column]] for column in ("mean", "coverage")}
            for name in names}


def show(found: Mapping[str, Any]) -> str:
    """The tables in Markdown."""
    own = found["shop"]
    lines = [f"The shop: {own['replicates']} logs of {own['requests']} requests; "
             f"clicks a request {own['truth']:.4f} under the target, "
             f"{own['logging']:.4f} logged.", "",
             "| estimator | mean | bias | its error | sd | coverage of 95 % | ESS |",
             "|---|---|---|---|---|---|---|"]
    lines += [f"| {name} | {row['mean']:.4f} | {row['bias']:+.4f} | {row['error']:.4f} "
              f"| {row['sd']:.4f} | {row['coverage']:.1%} | {row['ess']:.0f} |"
              for name, row in own["estimators"].items()]
    for name, part in (found.get("open_bandit") or {}).items():
        mine = part["own"]
        lines += ["", f"Open Bandit, {name}: own log {mine['value']:.4f} "
                  f"({mine['low']:.4f} to {mine['high']:.4f}), logging policy "
                  f"{part['logging']:.4f}.", "",
                  "| estimator | value | 95 % | ESS | mean weight |",
                  "|---|---|---|---|---|"]
        lines += [f"| {label} | {row['value']:.4f} | {row['low']:.4f} to "
                  f"{row['high']:.4f} | {row['ess']:.0f} | {row['weight']:.3f} |"
                  for label, row in part["estimators"].items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the tables and prints them."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Example: python experiments/off_policy.py --quick")
    parser.add_argument("--data", type=pathlib.Path, default=SHARED,
                        help="folder that holds obd_all; left out where it does not")
    parser.add_argument("--replicates", type=int, help="logs of the shop (200)")
    parser.add_argument("--requests", type=int, default=2_000, help="of each log")
    parser.add_argument("--quick", action="store_true", help="20 logs, 200 people")
    parser.add_argument("--json", action="store_true",
                        help="one JSON object as the last line")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logs = ShopLogs(200 if options.quick else 2_000, 240, 4)
    replicates = options.replicates or (20 if options.quick else 200)
    found: dict[str, Any] = {"shop": shop_table(logs, requests=options.requests,
                                                replicates=replicates)}
    bandit = options.data / "obd_all" / "orig"
    found["open_bandit"] = bandit_table(bandit) if bandit.is_dir() else None
    print(show(found), flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
