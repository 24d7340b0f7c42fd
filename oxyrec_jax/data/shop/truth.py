"""The true chances of what a simulated shop's log shows: the ceiling of any model.

Moments are put together again from the log, which lacks standing intents: shops that
have them have no truth here.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.impressions import Impressions
from oxyrec_jax.data.shop.log_moments import LogMoments
from oxyrec_jax.data.shop.prepare import SOURCE, load_shop
from oxyrec_jax.data.shop.response import (look_probabilities,
                                           response_probabilities)
from oxyrec_jax.data.shop.simulate import cpu_device, simulate_people

_TOGETHER = 2_048  # requests in one call; ours


def knows_truth(dataset: Dataset) -> bool:
    """Whether the true chances of a data set's impressions can be told."""
    return (dataset.manifest.get("source") == SOURCE
            and not dataset.manifest["config"]["intents"])


def true_chances(dataset: Dataset, shown: Impressions, items: np.ndarray | None = None
                 ) -> dict[str, np.ndarray]:
    """Chances of each item of a request, once the person looks at it.

    Args:
      dataset: made by the shop, without standing intents.
      shown: R of its requests.
      items: `[R, C]` int, -1 at empty places; None: what was shown.

    Returns:
      "click", "cart", "order" `[R, C]` float32, each at most the one before; 0 at empty
      places.

    Raises:
      InputError: the data set is no shop's, or its people have standing intents.
    """
    if not knows_truth(dataset):
        raise InputError(f"{dataset.folder}: the truth is known of a simulated shop "
                         "without standing intents alone")
    with jax.default_device(cpu_device()):
        return _true_chances(dataset, shown, shown.shown if items is None else items)


def true_looks(places: int) -> np.ndarray:
    """`[places]` float32: how likely a person looks at each place of a list."""
    return np.asarray(look_probabilities(places))


def _true_chances(dataset: Dataset, shown: Impressions, items: np.ndarray
                  ) -> dict[str, np.ndarray]:
    shop = load_shop(dataset.folder)
    world, log = shop.world, LogMoments(dataset, shop.cfg)
    numbers, owner = np.unique(log.person[shown.row], return_inverse=True)
    everybody = simulate_people(world, numbers)
    moments = log.of(shown.row)
    respond = jax.jit(functools.partial(response_probabilities, world))
    parts = []
    for first in range(0, len(shown.row), _TOGETHER):
        # The last call is filled up, so that one program serves all.
        rows = np.minimum(np.arange(first, first + _TOGETHER), len(shown.row) - 1)
        own = jax.tree.map(lambda leaf: jnp.asarray(leaf[owner[rows]]), everybody)
        moment = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), moments)
        found = respond(own, moment, jnp.maximum(items[rows], 0))
        parts.append([np.asarray(values) for values in
                      (found.click, found.cart, found.order)])
    joined = [np.concatenate(values)[:len(shown.row)] for values in zip(*parts)]
    there = items >= 0
    return {name: np.where(there, values, 0) for name, values in
            zip(("click", "cart", "order"), joined)}
