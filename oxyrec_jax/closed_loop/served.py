"""The generator as a policy: the serving search answers the visitors of the shop."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.closed_loop.context import Context, History
from oxyrec_jax.closed_loop.policies import Arm
from oxyrec_jax.data import pipeline
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.event_rows import CALENDAR
from oxyrec_jax.decode.recommend import recommend, with_item_keys
from oxyrec_jax.models.generator import Generator
from oxyrec_jax.tokenizer.catalogue import Catalogue
from oxyrec_jax.tokenizer.trie import Leaves

_PER_ID = 50  # items that one semantic ID may give, as in `decode.beam.expand_items`
_MADE = ("behaviour", "scenario", "price", "gap", "profile", *CALENDAR)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GeneratorArrays:
    """What the generator reads beside the context.

    Attributes:
      params: of the network. Put others here to serve with them.
      catalogue: the items.
      first: `[S + 1]` int32, where the items of each semantic ID begin in `items`.
      items: `[N]` int32, those of one semantic ID together, the preferred one first.
      prices: `[N]` float32.
      profiles: `[P, C]` int32, rows of the table of profiles, or None.
      texts: `[Q, F]` float32, a vector of each query, or None.
    """

    params: Any
    catalogue: Catalogue
    first: Array
    items: Array
    prices: Array
    profiles: Array | None = None
    texts: Array | None = None


@dataclasses.dataclass(frozen=True)
class GeneratorPolicy:
    """Asks the network by the constrained beam search that serving and rollouts run.

    Attributes:
      model: the network.
      slate: K.
      beams: of the search.
      recent: the most recent events that the encoder reads.
      start: the log's first midnight, seconds since 1970.
      behaviour: number of the behaviour that is asked for.
      experts: without it a model that mixes experts answers with its decoder alone.
    """

    model: Generator
    slate: int
    beams: int
    recent: int
    start: int
    behaviour: int = 0
    experts: bool = True

    @property
    def history(self) -> int:
        return self.recent + self.model.cfg.retrieval.events

    def show(self, arrays: GeneratorArrays, context: Context) -> Array:
        found = recommend(self.model, arrays.params, self.batch(arrays, context),
                          arrays.catalogue, beams=self.beams, experts=self.experts)
        return slates(found.leaves, arrays.first, arrays.items, self.slate)

    def batch(self, arrays: GeneratorArrays, context: Context) -> dict[str, Array]:
        """Lays requests out as the pipeline's mode "last" does."""
        history, recent = context.history, self.recent
        length = jnp.sum(history.items[:, :recent] >= 0, axis=1, keepdims=True)
        place = jnp.arange(recent)
        real, back = place < length, jnp.maximum(length - 1 - place, 0)

        def lay(values: Array, none: float = 0) -> Array:
            return jnp.where(real, jnp.take_along_axis(values, back, axis=1), none)
        batch = {"items": lay(history.items), "segments": real.astype(jnp.int32),
                 "target_positions": length - 1}
        for name in self.model.cfg.beside:
            if name == "profile":
                if arrays.profiles is None:
                    raise ValueError("the network reads profiles, and none are given")
                own = arrays.profiles[context.person][:, None]
                batch[name] = jnp.where(real[..., None], own, -1)
            else:
                batch[name] = lay(self._side(name, arrays, context))
        long = self.model.cfg.retrieval.events
        if long:
            older = history.items[:, recent:recent + long]
            count = jnp.sum(older >= 0, axis=1, keepdims=True)
            turned = count - 1 - jnp.arange(long)
            batch["long_items"] = jnp.where(turned >= 0, jnp.take_along_axis(
                older, jnp.maximum(turned, 0), axis=1), -1)
        return batch | self._asked(arrays, context)

    def _side(self, name: str, arrays: GeneratorArrays, context: Context) -> Array:
        """A column of the history, the newest first."""
        history: History = context.history
        if name in ("behaviour", "scenario"):
            return getattr(history, f"{name}s")
        if name == "price":
            return arrays.prices[jnp.maximum(history.items, 0)]
        # What follows each event: the next one, or the request.
        after = jnp.concatenate([context.second[:, None], history.seconds[:, :-1]], 1)
        if name == "gap":
            return (after - history.seconds).astype(jnp.float32)
        unit, kinds, first = CALENDAR[name]
        shift = self.start // unit % kinds + first
        return (1 + (after // unit + shift) % kinds).astype(jnp.float32)

    def _asked(self, arrays: GeneratorArrays, context: Context) -> dict[str, Array]:
        """What the instruction tokens are made of; the text is that of a search."""
        query = context.query[:, None]
        found = {"target_scenario": context.scenario[:, None],
                 "target_trigger": context.trigger[:, None],
                 "target_behaviour": jnp.full_like(query, self.behaviour)}
        if arrays.texts is not None:
            words = arrays.texts[jnp.maximum(query, 0)]
            found["target_instruction"] = jnp.where(query[..., None] >= 0, words, 0)
        return {name: found[name] for name in self.model.cfg.instructions.reads}


def slates(leaves: Array, first: Array, items: Array, size: int) -> Array:
    """The first items of ranked semantic IDs, as `decode.beam.expand_items`, in a
    program.

    Args:
      leaves: `[B, K']` int32, best first, -1 where dead.
      first: `[S + 1]` int32, where each semantic ID's items begin.
      items: `[N]` int32.
      size: K.

    Returns:
      `[B, K]` int32, -1 where there are no more.
    """
    safe = jnp.maximum(leaves, 0)
    held = jnp.where(leaves < 0, 0,
                     jnp.minimum(first[safe + 1] - first[safe], _PER_ID))
    ends = jnp.cumsum(held, axis=1)
    place = jnp.arange(size)
    beam = jnp.sum(ends[:, :, None] <= place, axis=1)
    known = beam < leaves.shape[1]
    beam = jnp.minimum(beam, leaves.shape[1] - 1)
    begin = jnp.take_along_axis(ends - held, beam, axis=1)
    start = first[jnp.take_along_axis(safe, beam, axis=1)]
    found = items[jnp.clip(start + place - begin, 0, items.shape[0] - 1)]
    return jnp.where(known, found, -1).astype(jnp.int32)


def generator_arm(name: str, model: Generator, params: Any, dataset: Dataset,
                  catalogue: Catalogue, leaves: Leaves, *, slate: int, beams: int,
                  recent: int, start: int, behaviour: str = "", experts: bool = True
                  ) -> Arm:
    """Puts a trained network into an arm.

    Args:
      name: of the arm.
      model: the network.
      params: its parameters.
      dataset: the shop that it was trained on; with profiles where it reads them and
        with the instructions of kind "query" where it reads texts.
      catalogue: the items.
      leaves: the items behind each leaf of the catalogue's trie.
      slate: K, at most `beams`.
      beams: of the search.
      recent: events of the encoder's history.
      start: the log's first midnight, seconds since 1970.
      behaviour: name of what is asked for; "": the log's last.
      experts: without it a model that mixes experts answers with its decoder alone.

    Raises:
      InputError: fewer beams than places of a slate, or the network reads what the
        loop does not know.
    """
    if beams < slate:
        raise InputError(f"{name} searches with {beams} beams for slates of {slate} "
                         f"items; set beams={slate} or more")
    odd = [side for side in (*model.cfg.beside, *model.cfg.opens) if side not in _MADE]
    if odd:
        raise InputError(f"the network of {name} reads {', '.join(odd)}, which the "
                         f"closed loop does not know; it knows {', '.join(_MADE)}")
    asked = pipeline.asked_behaviour(dataset, behaviour)
    texts = None
    if "target_instruction" in model.cfg.instructions.reads:
        if dataset.instructions is None:
            raise ValueError("the network reads texts, and the data set has none")
        texts = jnp.asarray(dataset.instructions.vectors, jnp.float32)
    profiles = None
    if dataset.profiles is not None:
        profiles = jnp.asarray(dataset.profiles.rows)
    prices = dataset.item_table()["price"].to_numpy().astype(np.float32)
    params = jax.device_put(params)
    arrays = GeneratorArrays(
        params, with_item_keys(model, params, catalogue),
        jnp.asarray(leaves.offsets, jnp.int32),
        jnp.asarray(leaves.items, jnp.int32), jnp.asarray(prices), profiles, texts)
    policy = GeneratorPolicy(model, slate, beams, recent, start, asked or 0, experts)
    return Arm(name, policy, arrays)


def with_params(arm: Arm, params: Any) -> Arm:
    """The same arm with other parameters, such as those of a training that goes on; it
    serves through the program that is compiled already."""
    if not isinstance(arm.arrays, GeneratorArrays):
        raise TypeError(f"{arm.name} is served by {type(arm.policy).__name__}, which "
                        "has no parameters")
    return dataclasses.replace(arm, arrays=dataclasses.replace(arm.arrays,
                                                               params=params))
