"""Writes a simulated shop's log as a prepared data set, in chunks of people."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oxyrec_jax import artifacts, progress
from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset, protocols
from oxyrec_jax.data.shop import (catalogue, contexts, images, knowledge, people,
                                  queries, simulate)
from oxyrec_jax.data.shop.config import ShopConfig
from oxyrec_jax.data.shop.world import SCENARIOS, Shop, build_shop

SOURCE = "shop"
BEHAVIOURS = ("click", "cart", "order")
COLUMNS = ("item", "time", "behaviour", "scenario", "trigger", "query", "price",
           "request")
_EVENTS_TOGETHER = 1 << 19  # ours: about 200 MiB while a chunk is being simulated


def prepare_shop(cfg: ShopConfig, folder: str | os.PathLike, *, protocol: str = "P1",
                 people_together: int | None = None) -> dict[str, Any]:
    """Simulates a shop and writes its log as a prepared data set.

    Beside the files of every data set (`dataset` describes them; the item table has
    further columns) the bundle holds what a log of a real shop would not:

    | file               | a row is                                                   |
    |--------------------|------------------------------------------------------------|
    | `people.parquet`   | a sequence's person: city, life, hobbies, profile …        |
    | `requests.parquet` | a request: `request` (as in the events), `sequence`,       |
    |                    | `time`, `scenario`, `trigger`, `query`, `city`, `weather`, |
    |                    | `calendar`, `temperature`, `need` (the truth), and `shown` |
    |                    | and `outcome` (0 none, 1 click, 2 cart, 3 order)           |
    | `needs.parquet`    | a need: kind, rule, category, feature and text             |
    | `images.npy`       | an item's picture as a vector (`Dataset.images`)           |

    The same configuration gives the same bits on the same machine, whatever
    `people_together` is.

    Args:
      cfg: the shop.
      folder: where the data set shall stand; an older one there is replaced.
      protocol: "P1" leave-one-out, streamed; or "P2" global temporal 8:1:1, which
        holds the times of all events in memory.
      people_together: people simulated at once; bounds the memory. The default takes
        as many as make half a million events.

    Returns:
      The manifest.

    Raises:
      InputError: the configuration cannot be used, or the disk is full.
    """
    if protocol not in ("P1", "P2"):
        raise InputError(f"the shop's protocol is {protocol!r}, expected P1 or P2")
    together = people_together or max(simulate.LANES,
                                      int(_EVENTS_TOGETHER / cfg.events_per_user))
    facts = {"source": SOURCE, "protocol": protocol, "tie_policy": "file order",
             "config": dataclasses.asdict(cfg), "behaviours": list(BEHAVIOURS),
             "scenarios": list(SCENARIOS), "inputs": [],
             "quarantine": {"file": None, "rows": 0, "reasons": {}, "share": 0.0}}
    with jax.default_device(simulate.cpu_device()):
        shop = build_shop(cfg)
        fill = functools.partial(_fill, shop, protocol, together)
        return dataset.write_dataset(pathlib.Path(folder), fill, columns=COLUMNS,
                                     facts=facts)


def load_shop(folder: str | os.PathLike) -> Shop:
    """Builds the shop again whose log a prepared data set is.

    Raises:
      InputError: the data set is no shop's.
    """
    manifest = artifacts.read_manifest(folder, kind=dataset.KIND,
                                       version=dataset.VERSION, verify=False)
    if manifest.get("source") != SOURCE:
        raise InputError(f"{folder} was made from {manifest.get('source')!r}, expected "
                         f"{SOURCE!r}: only a simulated shop knows its truth")
    return build_shop(ShopConfig(**manifest["config"]))


@dataclasses.dataclass
class _Totals:
    requests: int = 0
    shown: int = 0
    events: int = 0
    without_events: int = 0
    targets: dict[str, int] = dataclasses.field(
        default_factory=lambda: {"train": 0, "valid": 0, "test": 0})


def _fill(shop: Shop, protocol: str, together: int, out: dataset.DatasetWriter) -> None:
    for table in catalogue.item_rows(shop.items, shop.known):
        out.add_items(table)
    for vectors in images.item_images(shop.items, shop.known, shop.cfg.seed):
        out.add_images(vectors)
    words, first_query = queries.query_texts(shop.known)
    out.add_queries(words)
    totals, lengths, times = _Totals(), [], []
    with contextlib.ExitStack() as stack:
        write = {name: stack.enter_context(_table(out.folder / f"{name}.parquet"))
                 for name in ("people", "requests", "needs")}
        write["needs"](_needs_table(shop.known))
        advance = stack.enter_context(progress.bar("simulating people", shop.cfg.users))
        for first in range(0, shop.cfg.users, together):
            numbers = np.arange(first, min(first + together, shop.cfg.users))
            asked = len(numbers)
            requests = simulate.simulate_requests(
                shop.world, numbers, slate=shop.cfg.slate,
                candidates=shop.cfg.candidates)
            numbers, requests = _with_events(numbers, requests, totals)
            if len(numbers):
                sequence = out.num_sequences
                columns, counts = _add_chunk(shop, out, write, numbers, requests,
                                             totals, first_query)
                if protocol == "P1":
                    _add_targets(out, protocols.leave_one_out(counts, sequence), totals)
                else:
                    lengths.append(counts)
                    times.append(columns["time"])
            advance(asked)
    if protocol == "P2":
        splits = protocols.global_temporal(np.concatenate(lengths),
                                           np.concatenate(times))
        _add_targets(out, splits, totals)
    out.facts["counts"] = {
        "users": out.num_sequences, "items": shop.cfg.items, "events": totals.events,
        "requests": totals.requests, "shown": totals.shown,
        "people_without_events": totals.without_events, "duplicates": 0,
        **{f"{name}_targets": count for name, count in totals.targets.items()}}


def _with_events(numbers: np.ndarray, requests: simulate.Requests,
                 totals: _Totals) -> tuple[np.ndarray, simulate.Requests]:
    """Leaves out people who came and never clicked: they have no sequence."""
    place = np.searchsorted(numbers, requests.person)
    events = np.bincount(place, (requests.outcome > 0).sum(axis=1), len(numbers))
    some = events > 0
    totals.without_events += int((~some).sum())
    keep = some[place]
    return numbers[some], simulate.Requests(**{
        field.name: getattr(requests, field.name)[keep]
        for field in dataclasses.fields(requests)})


def _add_chunk(shop: Shop, out: dataset.DatasetWriter, write: Mapping[str, Any],
               numbers: np.ndarray, requests: simulate.Requests, totals: _Totals,
               first_query: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Adds some people's sequences, profiles and requests; returns columns, lengths."""
    place = np.searchsorted(numbers, requests.person)
    sequence = out.num_sequences + place
    start, needs = shop.cfg.first_midnight, shop.known.needs
    leaf, feature = (np.array([getattr(need, name) for need in needs])[requests.need]
                     for name in ("leaf", "feature"))
    query = queries.query_numbers(first_query, leaf, feature, requests.scenario,
                                  requests.exact)
    row, slot = np.nonzero(requests.outcome)  # in order of person, time and place
    item = requests.shown[row, slot]
    number = totals.requests + np.arange(len(requests.person))
    columns = {
        "item": item, "time": start + requests.second[row].astype(np.int64) + slot,
        "behaviour": requests.outcome[row, slot] - 1,
        "scenario": requests.scenario[row], "trigger": requests.trigger[row],
        "query": query[row], "price": shop.items.price[item], "request": number[row]}
    lengths = np.bincount(place[row], minlength=len(numbers))
    ids = [f"user-{person:08d}" for person in numbers]
    out.add_sequences(columns, lengths, ids)
    profiles = simulate.simulate_people(shop.world, numbers)
    write["people"](people.people_table(profiles, shop.known, shop.items.brands.names,
                                        ids))
    write["requests"](_requests_table(shop, requests, sequence, number, start, query,
                                      np.asarray(profiles.city)[place]))
    totals.requests += len(number)
    totals.shown += int((requests.shown >= 0).sum())
    totals.events += len(row)
    return columns, lengths


def _add_targets(out: dataset.DatasetWriter, splits: protocols.Splits,
                 totals: _Totals) -> None:
    for name, rows in splits.items():
        out.add_targets(name, rows)
        totals.targets[name] += int((rows[:, 2] - rows[:, 1]).sum())


@contextlib.contextmanager
def _table(path: pathlib.Path) -> Iterator[Any]:
    """Yields a function that appends tables to a Parquet file."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path, "wb"))
        writers: list[pq.ParquetWriter] = []

        def append(table: pa.Table) -> None:
            if not writers:
                writers.append(pq.ParquetWriter(file, table.schema))
            writers[0].write_table(table)
        yield append
        for writer in writers:
            writer.close()


def _requests_table(shop: Shop, requests: simulate.Requests, sequence: np.ndarray,
                    number: np.ndarray, start: int, query: np.ndarray,
                    city: np.ndarray) -> pa.Table:
    days = shop.days
    day = np.minimum(requests.second // contexts.SECONDS_A_DAY, shop.cfg.days - 1)
    split = len(knowledge.WEATHER)
    columns: dict[str, Any] = {
        "request": pa.array(number), "sequence": pa.array(sequence),
        "time": pa.array(start + requests.second.astype(np.int64)),
        "scenario": pa.DictionaryArray.from_arrays(requests.scenario, list(SCENARIOS)),
        "trigger": pa.array(requests.trigger), "query": pa.array(query),
        "city": pa.DictionaryArray.from_arrays(
            city.astype(np.int16), [place.name for place in shop.known.cities]),
        "weather": _words(days.facts[..., :split], knowledge.DAY_FACTS[:split],
                          city, day),
        "calendar": _words(days.facts[..., split:], knowledge.DAY_FACTS[split:],
                           city, day),
        "temperature": pa.array(days.temperature[city, day]),
        "need": pa.array(requests.need)}
    if shop.cfg.keep_exposures:
        for name, values in (("shown", requests.shown), ("outcome", requests.outcome)):
            columns[name] = pa.FixedSizeListArray.from_arrays(
                pa.array(values.reshape(-1)), shop.cfg.slate)
    return pa.table(columns)


def _words(facts: np.ndarray, names: tuple[str, ...], city: np.ndarray,
           day: np.ndarray) -> pa.DictionaryArray:
    """Returns the facts that hold at each request as words, "cold damp rain"."""
    kinds, code = np.unique(facts.reshape(-1, facts.shape[-1]), axis=0,
                            return_inverse=True)
    words = [" ".join(name for name, holds in zip(names, kind) if holds)
             for kind in kinds]
    code = code.reshape(facts.shape[:-1]).astype(np.int32)
    return pa.DictionaryArray.from_arrays(code[city, day], words)


def _needs_table(known: knowledge.Knowledge) -> pa.Table:
    leaves, rules = known.leaves, known.rules
    return pa.table({
        "kind": [need.kind for need in known.needs],
        "rule": [rules[need.rule].name if need.rule >= 0 else None
                 for need in known.needs],
        "leaf": pa.array([need.leaf for need in known.needs], pa.int32()),
        "category": [leaves[need.leaf].path for need in known.needs],
        "feature": [leaves[need.leaf].features[need.feature] if need.feature >= 0
                    else None for need in known.needs],
        "text": [need.text for need in known.needs]})
