"""How a run begins: as the same run again, or from the parameters of another."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax import artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.train.step import TrainState


def check_same_run(path: pathlib.Path, settings: dict[str, Any],
                   defaults: dict[str, Any], *, keep: bool = True) -> None:
    """Writes down what a new run is made with, or checks an older run against it.

    Args:
      path: `run.json` in the run's folder.
      settings: JSON values that decide the run.
      defaults: dataclass instances by the names in `settings`, see `completed`.
      keep: without it nothing is written.

    Raises:
      InputError: the folder holds a run with other settings, which are named.
    """
    settings = json.loads(json.dumps(settings))
    if path.exists():
        found = artifacts.read_json(path)
        found = {name: completed(value, defaults[name]) if name in defaults else value
                 for name, value in found.items()}
        if found != settings:
            raise InputError(
                f"{path.parent} holds a run with another configuration "
                f"({', '.join(_differences(found, settings))}); use another work "
                "directory, or delete it to start anew")
    elif keep and jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(path, settings)


def completed(values: dict[str, Any], default: Any) -> dict[str, Any]:
    """A run's settings with the fields that did not exist when it was made.

    Such a field's default is what the run did.

    Args:
      values: JSON values of a dataclass.
      default: an instance with all its defaults.
    """
    found = dict(values)
    for field in dataclasses.fields(default):
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            found[field.name] = completed(found.get(field.name, {}), value)
        elif field.name not in found:
            found[field.name] = json.loads(json.dumps(value))
    return found


def start_from(state: TrainState, shardings: Any, params: Any,
               where: str) -> TrainState:
    """The first state of a run, with parameters of another run in place of random ones.

    Step and moments stay at zero; an average begins at the same parameters.

    Args:
      state: from `step.init_state`; consumed.
      shardings: the same tree holding each array's sharding.
      params: NumPy arrays, see `parameters.read_params`.
      where: named in errors: where they come from.

    Raises:
      InputError: they are of another network; the first parameter is named.
    """
    fresh, given = _shapes(state.params), _shapes(params)
    for name in sorted(fresh.keys() | given.keys()):
        if fresh.get(name) != given.get(name):
            raise InputError(
                f"train.start_from: {name} is {_spoken(given.get(name))} in {where} "
                f"and {_spoken(fresh.get(name))} in this experiment's network; start "
                "from a run with the same model")
    # A jitted copy: the step consumes its state and must not write into these arrays.
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree),
                   out_shardings=shardings.params)
    numbers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
    average = () if state.ema == () else {
        name: leaf for name, leaf in copy(numbers).items() if name in state.ema}
    return dataclasses.replace(state, params=copy(numbers), ema=average)


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {"/".join(str(key.key) for key in path): tuple(leaf.shape)
            for path, leaf in flat}


def _spoken(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))


def _differences(one: Any, other: Any, name: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        return [line for key in sorted(one.keys() | other.keys()) for line in
                _differences(one.get(key), other.get(key), f"{name}.{key}".lstrip("."))]
    return [] if one == other else [f"{name}: {one!r} there, {other!r} now"]
