"""A judge on disk: stage B, the records of stage A, and what was measured."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.rewards.judge.records import Record, record_schema, to_line
from oxyrec_jax.rewards.judge.weighting import FeatureSpec, Weighting, WeightingConfig

RECORDS = "records.jsonl"
_KIND, _VERSION = "judge", 1


def write_judge(folder: str | os.PathLike, weighting: Weighting,
                records: Iterable[Record], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the bundle: stage B as arrays, `records.jsonl` and its JSON schema.

    Args:
      folder: where it shall stand; an older judge there is replaced.
      weighting: stage B.
      records: of stage A.
      facts: JSON values for the manifest.

    Returns:
      The manifest.
    """
    def write_files(beside: pathlib.Path) -> None:
        with open(beside / RECORDS, "w", encoding="utf-8") as file:
            for record in records:
                file.write(to_line(record) + "\n")
        artifacts.write_json(beside / "record.schema.json", record_schema())
    flat = flax.traverse_util.flatten_dict(weighting.params, sep="/")
    return artifacts.write_bundle(
        folder, kind=_KIND, version=_VERSION,
        arrays={f"weighting/{name}": np.asarray(value) for name, value in flat.items()},
        facts={**facts, "features": dataclasses.asdict(weighting.spec),
               "weighting": dataclasses.asdict(weighting.cfg), "arrays": sorted(flat)},
        write_files=write_files)


def read_judge(folder: str | os.PathLike) -> tuple[Weighting, dict[str, Any]]:
    """Reads stage B and the manifest of a judge.

    Raises:
      InputError: none is there, or it is damaged.
    """
    manifest = artifacts.read_manifest(folder, kind=_KIND, version=_VERSION)
    try:
        spec = FeatureSpec(tuple(manifest["features"]["scenarios"]),
                           manifest["features"]["buckets"])
        cfg, names = WeightingConfig(**manifest["weighting"]), manifest["arrays"]
    except (KeyError, TypeError):
        raise InputError(f"{folder} does not tell of its weighting; make it again with "
                         "oxyrec judge") from None
    flat = {name: np.array(artifacts.read_array(folder, f"weighting/{name}"))
            for name in names}
    return Weighting(spec, cfg, flax.traverse_util.unflatten_dict(flat, sep="/")
                     ), manifest
