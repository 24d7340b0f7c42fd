"""Answers requests from this folder: an exported recommender; JAX and NumPy, no more.

    python run.py --check                     # the examples that were stored with it
    python run.py --items ITEM ITEM --k 5     # a history, oldest first

    import run
    engine = run.load("folder")
    engine.recommend([["item-1", "item-2"]], k=5)
    engine.search(batch)                      # arrays as manifest.json names them

The folder holds the whole search as StableHLO, made for several platforms, the arrays
that it works on, and `manifest.json`, which names every file with its size and SHA-256
digest. A file that is missing, cut short or changed is refused by name. This file
stands alone and is copied into every such folder.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import export

KIND, VERSION = "export", 1


class ArtefactError(ValueError):
    """What is wrong with the folder or the request, in one sentence."""


def load(folder: str | pathlib.Path, *, verify: bool = True) -> "Engine":
    """Opens an exported recommender.

    Args:
      folder: as `oxyrec export` wrote it.
      verify: check size and digest of every file first.

    Raises:
      ArtefactError: it holds something else, another version, a damaged file, or was
        not made for this platform.
    """
    folder = pathlib.Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{folder / 'manifest.json'} cannot be read ({error}); "
                            "export again") from None
    if manifest.get("kind") != KIND or manifest.get("version") != VERSION:
        raise ArtefactError(f"{folder} holds {manifest.get('kind')!r} of version "
                            f"{manifest.get('version')}, expected {KIND!r} of version "
                            f"{VERSION}; export again")
    if verify:
        for name, entry in manifest["files"].items():
            _check(folder / name, entry)
    if jax.default_backend() not in backends_of(manifest["platforms"]):
        raise ArtefactError(f"{folder} was made for {', '.join(manifest['platforms'])},"
                            f" this is {jax.default_backend()}; export for it")
    return Engine(folder, manifest)


class Engine:
    """Programs for a few sizes of a batch, and what they work on."""

    def __init__(self, folder: pathlib.Path, manifest: Mapping[str, Any]):
        self.folder, self.manifest = folder, manifest
        self.arguments = [jax.device_put(self._array(entry["name"]))
                          for entry in manifest["arguments"]]
        self.items = json.loads((folder / "items.json").read_text("utf-8"))
        self._row = {item: row for row, item in enumerate(self.items["item_id"])}
        self._default = {entry["name"]: self._array("default/" + entry["name"])
                         for entry in manifest["inputs"]}
        self._offsets = self._array("leaves/offsets")
        self._items = self._array("leaves/items")
        self._programs: dict[int, Any] = {}

    def search(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the search.

        Args:
          batch: arrays `[R, ...]` by the names, shapes and types under "inputs" in the
            manifest.

        Returns:
          `codes` `[R, K, T]`, `leaves` `[R, K]`, `log_probs` `[R, K]` nats, `bound`
          `[R]` nats: no semantic ID that is missing is more probable.
        """
        rows = [np.asarray(batch[entry["name"]], entry["dtype"])
                for entry in self.manifest["inputs"]]
        count, parts = len(rows[0]), []
        sizes = sorted(map(int, self.manifest["programs"]))
        begin = 0
        while begin < count:
            left = count - begin
            size = next((size for size in sizes if size >= left), sizes[-1])
            take = np.minimum(np.arange(begin, begin + size), count - 1)
            found = self._program(size)(self.arguments, [row[take] for row in rows])
            parts.append([np.asarray(part)[:left] for part in found])
            begin += size
        return {entry["name"]: np.concatenate([part[place] for part in parts])
                for place, entry in enumerate(self.manifest["outputs"])}

    def recommend(self, histories: Sequence[Sequence[str]], k: int = 10
                  ) -> list[list[dict[str, Any]]]:
        """Answers histories of item ids, oldest first, of which nothing else is known.

        Returns:
          For each at most k items, the best first, with title, semantic ID and its
          log-probability in nats.
        """
        beams = self.manifest["beams"]
        if not 1 <= k <= beams:
            raise ArtefactError(f"k is {k}, expected 1 to {beams}")
        batch = {name: np.repeat(row, len(histories), axis=0)
                 for name, row in self._default.items()}
        for place, history in enumerate(histories):
            unknown = [item for item in history if item not in self._row]
            if unknown or not len(history):
                raise ArtefactError(f"history {place}: no item {', '.join(unknown)}"
                                    if unknown else f"history {place} is empty")
            rows = [self._row[item] for item in history]
            length = batch["items"].shape[1]
            recent = rows[-length:]
            batch["items"][place, :len(recent)] = recent
            batch["segments"][place] = np.arange(length) < len(recent)
            batch["target_positions"][place] = len(recent) - 1
            if "long_items" in batch:
                older = rows[:-length][-batch["long_items"].shape[1]:]
                batch["long_items"][place, :len(older)] = older
        found = self.search(batch)
        return [self._answer(found, place, k) for place in range(len(histories))]

    def check(self) -> float:
        """Runs the stored examples.

        Returns:
          The largest difference of a log-probability from what was stored, nats.

        Raises:
          ArtefactError: another semantic ID came out whose log-probability differs
            from that of the stored one by more than the tolerance, or a value is
            further off than that.
        """
        inputs = {entry["name"]: self._array("examples/" + entry["name"])
                  for entry in self.manifest["inputs"]}
        found = self.search(inputs)
        known = {entry["name"]: self._array("examples/" + entry["name"])
                 for entry in self.manifest["outputs"]}
        live = known["leaves"] >= 0
        off = np.abs(np.where(live, found["log_probs"], 0)
                     - np.where(live, known["log_probs"], 0))
        most = float(off.max(initial=0))
        if not most <= self.manifest["tolerance"] or (
                (found["leaves"] >= 0) != live).any():
            raise ArtefactError(f"the examples of {self.folder} come out otherwise: "
                                f"log-probabilities are {most:.2g} nats off, at most "
                                f"{self.manifest['tolerance']:.2g} may be")
        return most

    def _answer(self, found: Mapping[str, np.ndarray], row: int, k: int
                ) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = []
        for codes, leaf, log_prob in zip(found["codes"][row], found["leaves"][row],
                                         found["log_probs"][row], strict=True):
            if leaf < 0 or len(answer) >= k:
                break
            own = self._items[self._offsets[leaf]:self._offsets[leaf + 1]]
            for item in own[:self.manifest["limit_per_sid"]].tolist():
                answer.append({"item_id": self.items["item_id"][item],
                               "title": self.items["title"][item],
                               "semantic_id": codes.tolist(),
                               "log_prob": round(float(log_prob), 4)})
        return [{"rank": place + 1, **one} for place, one in enumerate(answer[:k])]

    def _program(self, size: int) -> Any:
        if size not in self._programs:
            self._programs[size] = jax.jit(self._exported(size).call)
        return self._programs[size]

    def _exported(self, size: int) -> export.Exported:
        """The program of one size.

        A program that does nothing is made for the same arguments, and the stored
        StableHLO is put in its place: so no serialiser is needed beside JAX.
        """
        entry, manifest = self.manifest["programs"][str(size)], self.manifest

        def shapes(entries: Sequence[Mapping[str, Any]], *front: int) -> list[Any]:
            return [jax.ShapeDtypeStruct((*front, *one["shape"]),
                                         np.dtype(one["dtype"])) for one in entries]
        outputs = shapes(manifest["outputs"], size)

        def nothing(arguments: Any, inputs: Any) -> Any:
            return [jax.numpy.zeros(one.shape, one.dtype) for one in outputs]
        empty = export.export(jax.jit(nothing), platforms=manifest["platforms"])(
            shapes(manifest["arguments"]), shapes(manifest["inputs"], size))
        known = {field.name for field in dataclasses.fields(empty)}
        told: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in entry["calling"].items()}
        if not told.keys() <= known:
            raise ArtefactError(f"JAX {jax.__version__} calls exported programs in "
                                f"another way than {manifest['jax']}; use that release")
        module = (self.folder / entry["file"]).read_bytes()
        return dataclasses.replace(empty, mlir_module_serialized=module, **told)

    def _array(self, name: str) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ArtefactError(f"{path} is not a readable array ({error})") from None


def _check(path: pathlib.Path, entry: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise ArtefactError(f"{path} is missing; export again")
    if path.stat().st_size != entry["bytes"]:
        raise ArtefactError(f"{path} has {path.stat().st_size} bytes, the manifest says"
                            f" {entry['bytes']}; export again")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != entry["sha256"]:
        raise ArtefactError(f"{path} was changed: its SHA-256 digest is not the one in "
                            "the manifest; export again")


def backends_of(platforms: Sequence[str]) -> set[str]:
    """Names of JAX's backends for the names of platforms."""
    return {"gpu" if name in ("cuda", "rocm") else name for name in platforms}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parent)
    parser.add_argument("--check", action="store_true", help="run the stored examples")
    parser.add_argument("--items", nargs="+", default=[], metavar="ITEM",
                        help="item ids of a history, oldest first")
    parser.add_argument("--k", type=int, default=10, help="how many items (10)")
    options = parser.parse_args(arguments)
    try:
        engine = load(options.folder)
        found: dict[str, Any] = {}
        if options.check:
            found["check"] = {"largest_difference": engine.check()}
        if options.items:
            found["recommendations"] = engine.recommend([options.items], options.k)[0]
    except ArtefactError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    print(json.dumps(found))


if __name__ == "__main__":
    main()
