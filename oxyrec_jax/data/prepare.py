"""From a source to a prepared data set: read, filter, order, split, write."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset, filters, protocols, schema, ties
from oxyrec_jax.data.intake import Intake, Place
from oxyrec_jax.data.readers import (amazon, completejourney, minionerec, movielens,
                                     sequences, tables)
from oxyrec_jax.data.readers import items as item_fields
from oxyrec_jax.data.shop import ShopConfig, prepare_shop

SOURCES = ("sequences", "amazon2018", "amazon2023", "movielens", "minionerec",
           "completejourney", "table", "shop")
PROTOCOLS = ("auto", "P1", "P2", "official", "next-basket")
_BLOCK_SEQUENCES = 1 << 16
_READ_BY = {  # settings that not every source reads
    "shop": ("shop",), "columns": ("table",), "item_columns": ("table",),
    "time_unit": ("table",), "delimiter": ("table",),
    "items": ("amazon2018", "amazon2023", "table"),
    "min_rating": ("amazon2018", "amazon2023", "movielens", "table")}
_OF_SHOP = ("source", "protocol", "shop")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where a log lies and what is made of it.

    Attributes:
      source: one of `SOURCES`.
      path: the log: a folder ("sequences", "minionerec", "completejourney",
        "movielens"; for MovieLens also a zip archive) or the file of reviews or events
        ("amazon…", "table").
      items: the file of item metadata ("amazon…", "table"); "" for items without text.
      protocol: "P1" leave-one-out, "P2" global temporal 8:1:1, "next-basket" the last
        request of each user as a set, "official" the source's own splits, "auto"
        official where the source has them, else P1.
      tie_policy: "file order", "by id" or "shuffled(7)"; see `ties`.
      k_core: keep users and items with at least so many events; 0 and 1 keep all.
      duplicates: "drop" or "keep" events of one user that agree in item, time,
        behaviour, scenario and request. Without times none can be told.
      min_rating: fewer stars are no event ("amazon…", "movielens", "table").
      max_bad_share: the largest share of bad rows that is accepted.
      text_fields: fields that make the text of an item, in this order.
      columns, item_columns: column maps ("table").
      time_unit: "s", "ms", "us", "ns" or "iso" ("table").
      delimiter: of CSV; "" means by the file's name ("table").
      shop: the simulated shop's own knobs ("shop", which needs only `protocol` else).
    """

    source: str = "sequences"
    path: str = ""
    items: str = ""
    protocol: str = "auto"
    tie_policy: str = "file order"
    k_core: int = 0
    duplicates: str = "drop"
    min_rating: float = 0.0
    max_bad_share: float = 0.01  # ours
    text_fields: tuple[str, ...] = item_fields.TEXT_FIELDS
    columns: tables.TableColumns = tables.TableColumns()
    item_columns: tables.ItemColumns = tables.ItemColumns()
    time_unit: str = "s"
    delimiter: str = ""
    shop: ShopConfig = ShopConfig()


def prepare(cfg: DataConfig, folder: str | os.PathLike) -> dict[str, Any]:
    """Makes a prepared data set.

    Bad rows go to `<folder>.quarantine.jsonl` beside the data set.

    Args:
      cfg: what to make.
      folder: where the data set shall stand; an older one there is replaced.

    Returns:
      The manifest; its facts are listed in docs/data_formats.md.

    Raises:
      InputError: the configuration or the data cannot be used; an older data set stays
        as it was.
    """
    _check(cfg)
    folder = pathlib.Path(folder)
    if cfg.source == "shop":
        protocol = "P1" if cfg.protocol == "auto" else cfg.protocol
        return prepare_shop(cfg.shop, folder, protocol=protocol)
    quarantine = folder.with_name(f"{folder.name}.quarantine.jsonl")
    with Intake(quarantine, cfg.max_bad_share) as intake:
        log = _read(cfg, intake)
    intake.check()
    counts = {"rows": intake.good, "events_read": len(log.user)}
    with intake.naming():
        prepared = _arrange(_filter(log, cfg, counts), cfg, counts)
    facts = {
        "source": cfg.source, "protocol": prepared.protocol,
        "tie_policy": cfg.tie_policy, "config": dataclasses.asdict(cfg),
        "counts": counts, "quarantine": intake.facts(), "inputs": intake.sources(),
        "behaviours": list(log.behaviours), "scenarios": list(log.scenarios)}
    return dataset.write_dataset(folder, prepared.write, facts=facts,
                                 columns=list(prepared.columns))


def in_use(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the values of a `DataConfig` those that its source reads.

    Args:
      values: by the names of its fields.
    """
    source = values["source"]
    if source == "shop":
        return {name: values[name] for name in _OF_SHOP}
    return {name: value for name, value in values.items()
            if source in _READ_BY.get(name, SOURCES)}


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """Events of the data set in their final order, one sequence after the other."""

    columns: Mapping[str, np.ndarray]
    lengths: np.ndarray
    users: list[str]
    items: pa.Table
    queries: tuple[str, ...]
    splits: protocols.Splits
    protocol: str

    def write(self, out: dataset.DatasetWriter) -> None:
        out.add_items(self.items)
        if self.queries:
            out.add_queries(self.queries)
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        for first in range(0, len(self.lengths), _BLOCK_SEQUENCES):
            last = min(first + _BLOCK_SEQUENCES, len(self.lengths))
            events = slice(ends[first], ends[last])
            out.add_sequences({name: values[events]
                               for name, values in self.columns.items()},
                              self.lengths[first:last], self.users[first:last])
        for split, rows in self.splits.items():
            out.add_targets(split, rows)


def _check(cfg: DataConfig) -> None:
    ties.parse(cfg.tie_policy)
    for name, choices in (("source", SOURCES),
                          ("protocol", PROTOCOLS),
                          ("duplicates", ("drop", "keep"))):
        if getattr(cfg, name) not in choices:
            raise InputError(f"data.{name} is {getattr(cfg, name)!r}, expected one of "
                             f"{', '.join(choices)}")
    if not 0 <= cfg.max_bad_share <= 1:
        raise InputError(f"data.max_bad_share is {cfg.max_bad_share}, expected 0 to 1")
    fields = ("title", "brand", "category", "description", "keywords")
    for field in cfg.text_fields:
        if field not in fields:
            raise InputError(f"data.text_fields names {field!r}, expected any of "
                             f"{', '.join(fields)}")
    if not cfg.path and cfg.source != "shop":
        raise InputError(f"data.path is empty; name the {cfg.source} log to read")


def _filter(log: schema.Log, cfg: DataConfig, counts: dict[str, int]) -> schema.Log:
    """Drops duplicates, what is outside the k-core, and users of one event."""
    if log.splits is not None:
        if cfg.k_core > 1:
            raise InputError(f"data.k_core is {cfg.k_core}, but {cfg.source} comes "
                             "with rows that must stay as they are; set it to 0")
        return log
    keep = np.ones(len(log.user), bool)
    counts["duplicates"] = 0
    if log.clock is not None:
        keys = [log.user, log.item, log.clock] + [
            log.columns[name] for name in ("behaviour", "scenario", "request")
            if name in log.columns]
        again = filters.duplicates(keys)
        counts["duplicates"] = int(again.sum())
        if cfg.duplicates == "drop":
            keep &= ~again
    if cfg.k_core > 1:
        inside = np.flatnonzero(keep)
        core = filters.k_core(log.user[inside], log.item[inside], cfg.k_core)
        counts["outside_k_core"] = int((~core).sum())
        keep[inside[~core]] = False
    events = np.bincount(log.user[keep], minlength=len(log.users))
    counts["one_item_users"] = int((events == 1).sum())
    keep &= events[log.user] >= 2
    if not keep.any():
        raise InputError(
            f"{cfg.path} leaves no user with two events (read {len(log.user)} events "
            f"of {len(log.users)} users; data.k_core is {cfg.k_core}, data.min_rating "
            f"is {cfg.min_rating}); give more data or lower them")
    return _select(log, keep, cfg.k_core)


def _select(log: schema.Log, keep: np.ndarray, k_core: int) -> schema.Log:
    """Keeps some events, and of users and items only those that still have one."""
    used = np.zeros(len(log.users), bool)
    used[log.user[keep]] = True
    names = np.flatnonzero(used).tolist()
    found = np.zeros(len(log.items), bool)
    found[log.item[keep]] = True
    if log.fixed_catalogue and k_core <= 1:
        found[:] = True
    new_user, new_item = np.cumsum(used) - 1, np.cumsum(found) - 1
    columns = {name: values[keep] for name, values in log.columns.items()}
    if "trigger" in columns:
        trigger = columns["trigger"]
        known = (trigger >= 0) & found[trigger]
        columns["trigger"] = np.where(known, new_item[trigger], -1)
    return dataclasses.replace(
        log, user=new_user[log.user[keep]], item=new_item[log.item[keep]],
        columns=columns, users=[log.users[number] for number in names],
        items=log.items.filter(pa.array(found)),
        clock=None if log.clock is None else log.clock[keep])


def _arrange(log: schema.Log, cfg: DataConfig, counts: dict[str, int]) -> _Prepared:
    """Orders the events, cuts the splits and counts them."""
    order = ties.order(cfg.tie_policy, log.user, log.clock, log.item,
                       log.items["item_id"].to_pylist())
    lengths = np.bincount(log.user, minlength=len(log.users))
    protocol, splits = _split(log, lengths, order, cfg)
    seed = ties.parse(cfg.tie_policy)
    if log.clock is None and seed is not None:
        heads = lengths.copy()
        if log.splits is not None:  # a row's target stays; held-out rows stay whole
            heads[splits["train"][:, 0]] = splits["train"][:, 1]
        for held in ("valid", "test"):
            rows = splits[held]
            stays = 0 if log.splits is not None else rows[:, 1]
            heads[rows[:, 0]] = np.minimum(heads[rows[:, 0]], stays)
        order = order[ties.shuffle_heads(lengths, heads, seed)]
    columns = {"item": log.item[order],
               **{name: values[order] for name, values in log.columns.items()}}
    counts |= {"users": len(set(log.users)), "items": len(log.items),
               "events": len(order),
               "items_without_text": log.items["text"].null_count}
    for name, rows in splits.items():
        counts[f"{name}_targets"] = int((rows[:, 2] - rows[:, 1]).sum())
    return _Prepared(columns, lengths, list(log.users), log.items, log.queries, splits,
                     protocol)


def _split(log: schema.Log, lengths: np.ndarray, order: np.ndarray,
           cfg: DataConfig) -> tuple[str, protocols.Splits]:
    protocol = cfg.protocol
    if protocol == "auto":
        protocol = "P1" if log.splits is None else "official"
    if (protocol == "official") != (log.splits is not None):
        raise InputError(f"data.protocol is {protocol!r}, but {cfg.source} "
                         + ("has no splits of its own; take P1, P2 or next-basket"
                            if log.splits is None else
                            "comes with its own splits; take official"))
    if log.splits is not None:
        return protocol, dict(log.splits)
    if protocol == "P1":
        return protocol, protocols.leave_one_out(lengths)
    if protocol == "next-basket":
        if "request" not in log.columns:
            raise InputError("data.protocol is next-basket, and the source does not "
                             "tell which events are of one request; take P1 or P2")
        return protocol, protocols.next_basket(lengths, log.columns["request"][order])
    if log.clock is None:
        raise InputError("data.protocol is P2, which cuts by time, but the source has "
                         "no times; take P1")
    return protocol, protocols.global_temporal(lengths, log.clock[order])


def _read(cfg: DataConfig, intake: Intake) -> schema.Log:
    texts = cfg.text_fields
    match cfg.source:
        case "sequences":
            return sequences.read_sequences(cfg.path, intake, text_fields=texts)
        case "amazon2018" | "amazon2023":
            return amazon.read_amazon(
                cfg.path, cfg.items or None, intake, release=int(cfg.source[-4:]),
                min_rating=cfg.min_rating, text_fields=texts)
        case "movielens":
            return movielens.read_movielens(
                cfg.path, intake, min_rating=cfg.min_rating, text_fields=texts)
        case "minionerec":
            return minionerec.read_minionerec(cfg.path, intake, text_fields=texts)
        case "completejourney":
            return completejourney.read_completejourney(cfg.path, intake,
                                                        text_fields=texts)
        case "table":
            items = Place(pathlib.Path(cfg.items)) if cfg.items else None
            return tables.read_table(
                Place(pathlib.Path(cfg.path)), items, intake, columns=cfg.columns,
                item_columns=cfg.item_columns, time_unit=cfg.time_unit,
                delimiter=cfg.delimiter, min_rating=cfg.min_rating, text_fields=texts)
    raise ValueError(f"{cfg.source=}, expected one of {SOURCES}")
