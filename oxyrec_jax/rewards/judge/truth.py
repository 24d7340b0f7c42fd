"""The judge that knows: a simulated shop's own aspect labels.

    s0 profile   sigmoid of the logits of taste, style, brand, price tier and audience
    s1 future    fit with the need behind the request: 2.4 of 3.3 for its leaf, 0.9 for
                 its feature as well, 0.5 for a leaf that goes with it
    s2 novelty   0 the item is in memory, 0.5 its leaf is, 1 neither
    s3 context   sigmoid of the logits of season and trigger less 0.4, and 1.2 more
                 where a rule of the knowledge base that holds now asks for the item

All in all the truth prefers what the person more probably clicks, given the need. In a
shop with standing intents what an intent adds is left out: a log does not tell which
was pursued.

Source: the four aspects are those of S-GRec, arXiv 2602.10606; the labels are ours.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.data.shop import needs, simulate
from oxyrec_jax.data.shop.log_moments import LogMoments
from oxyrec_jax.data.shop.people import People
from oxyrec_jax.data.shop.prepare import load_shop
from oxyrec_jax.data.shop.response import Moment, click_parts, response_probabilities
from oxyrec_jax.data.shop.world import World
from oxyrec_jax.rewards.judge.aspects import (ASPECTS, Judged, JudgeRequest, Spent,
                                              given_aspects)

_SERVED = 1.2     # logits of an item that a rule asks for; ours
_PLAIN = -0.4     # logits of an item that nothing speaks for: it counts as unfit; ours
_NEED_MOST = 3.3  # leaf and feature of the need, `response._Coefficients`
_ROWS = 16, 256   # requests looked at together: two compilations for each G


class ShopTruth:
    """Knows what people are after; see above.

    Args:
      dataset: made by the shop.

    Raises:
      InputError: it was not.
    """

    name = "truth of the simulated shop"

    def __init__(self, dataset: Dataset):
        self.shop = load_shop(dataset.folder)
        self._log = LogMoments(dataset, self.shop.cfg)

    def judge(self, requests: Sequence[JudgeRequest], items: np.ndarray, *,
              evidence: bool = False) -> Judged:
        """As `AspectJudge.judge`."""
        seen = self.look(requests, items)
        given, known = given_aspects(requests), np.asarray(items) >= 0
        scores = np.stack([seen[name] for name in ASPECTS], axis=-1)
        scores *= known[..., None] & given[:, None, :]
        why = self._evidence(requests, items, seen) if evidence else None
        return Judged(scores.astype(np.float32), given, known, why,
                      Spent(points=int(known.sum())))

    def prefer(self, requests: Sequence[JudgeRequest], pairs: np.ndarray
               ) -> tuple[np.ndarray, Spent]:
        """As `AspectJudge.prefer`: what is more probably clicked."""
        click = self.look(requests, pairs)["click"]
        return preferred(click[:, 0] - click[:, 1]), Spent()

    def look(self, requests: Sequence[JudgeRequest], items: np.ndarray
             ) -> dict[str, np.ndarray]:
        """Everything that is true of B requests and `[B, G]` items.

        Returns:
          `[B, G]` by name: the aspects; "click", "cart" and "order", probabilities
          where the person looks; "value", US dollars; and bools "wanted", "beside",
          "served", "seen" and "leaf_seen".
        """
        items = np.asarray(items)
        numbers = np.array([self._number(request) for request in requests], np.int64)
        rows = _ROWS[len(numbers) > _ROWS[0]]
        parts = [self._part(numbers[start:start + rows], items[start:start + rows],
                            rows) for start in range(0, max(len(numbers), 1), rows)]
        return {name: np.concatenate([part[name] for part in parts])
                for name in parts[0]}

    def _part(self, numbers: np.ndarray, items: np.ndarray, rows: int
              ) -> dict[str, np.ndarray]:
        filled = np.resize(numbers, rows)
        people = simulate.simulate_people(self.shop.world, self._log.person[filled])
        moment = self._log.of(filled)
        wide = np.maximum(np.resize(items, (rows, items.shape[1])), 0)
        with jax.default_device(simulate.cpu_device()):
            found = _look(self.shop.world, people, moment, wide.astype(np.int32))
        return {name: np.asarray(values)[:len(numbers)]
                for name, values in found.items()}

    def _number(self, request: JudgeRequest) -> int:
        if not 0 <= request.number < len(self._log.need):
            raise InputError(f"{request.id} is no request of the simulated shop's log, "
                             "whose truth is known for these alone; take the judge "
                             "rules or llm")
        return request.number

    def _evidence(self, requests: Sequence[JudgeRequest], items: np.ndarray,
                  seen: dict[str, np.ndarray]) -> np.ndarray:
        known, catalogue = self.shop.known, self.shop.items
        found = np.full((*np.shape(items), len(ASPECTS)), "", object)
        for row, place in np.argwhere(np.asarray(items) >= 0).tolist():
            request = requests[row]
            need = known.needs[int(self._log.need[request.number])]
            leaf = known.leaves[int(catalogue.leaf[items[row][place]])].name
            is_so = {name: bool(seen[name][row, place]) for name in
                     ("wanted", "beside", "served", "seen", "leaf_seen")}
            fits = ("is what is needed" if is_so["wanted"] else
                    "goes with what is needed" if is_so["beside"] else "is not needed")
            told = ", ".join(f"{name} {value}" for name, value in
                             request.state.profile.items())
            spoken = ", ".join(filter(None, (
                request.state.weather, request.state.holiday, request.scenario)))
            found[row, place] = (
                f"{'suits' if seen['profile'][row, place] >= 0.5 else 'does not suit'} "
                f"a person of: {told}",
                f"{need.text} {leaf} {fits}.",
                "seen before" if is_so["seen"] else f"{leaf} seen before, this item "
                "not" if is_so["leaf_seen"] else f"{leaf} not seen before",
                f"{'asked for by a rule' if is_so['served'] else 'no rule asks for it'}"
                f" at: {spoken}")
        return found


def preferred(difference: np.ndarray) -> np.ndarray:
    """`[P]` float32: 1 above zero, 0 below, 0.5 at zero, NaN stays."""
    return np.where(np.isnan(difference), np.nan,
                    0.5 + 0.5 * np.sign(difference)).astype(np.float32)


@jax.jit
def _look(world: World, people: People, moment: Moment, items: Array
          ) -> dict[str, Array]:
    parts = click_parts(world, people, moment, items)
    responses = response_probabilities(world, people, moment, items)
    leaf, remembered = world.item_leaf[items], moment.items[:, None, :]
    seen = (remembered == items[..., None]).any(-1)
    same_leaf = world.item_leaf[jnp.maximum(remembered, 0)] == leaf[..., None]
    leaf_seen = (same_leaf & (remembered >= 0)).any(-1)
    need_leaf = world.need_leaf[moment.need][:, None]
    served = _served(world, people, moment, items, leaf)
    return {
        "profile": jax.nn.sigmoid(parts["personal"]),
        "future": jnp.clip(parts["need"] / _NEED_MOST, 0, 1),
        "novelty": jnp.where(seen, 0.0, jnp.where(leaf_seen, 0.5, 1.0)),
        "context": jax.nn.sigmoid(parts["season"] + parts["trigger"]
                                  + _SERVED * served + _PLAIN),
        "click": responses.click, "cart": responses.cart, "order": responses.order,
        "value": responses.value, "wanted": leaf == need_leaf,
        "beside": world.goes_with[need_leaf, leaf], "served": served, "seen": seen,
        "leaf_seen": leaf_seen}


def _served(world: World, people: People, moment: Moment, items: Array, leaf: Array
            ) -> Array:
    """Whether a rule that fires asks for each item, `[B, K]` bool."""
    fires = needs.active_rules(world, needs.facts_of(world, people, moment.second))
    number = jnp.arange(world.need_leaf.shape[0])
    rule = jnp.searchsorted(world.rule_start, number, side="right") - 1
    of_rule = number < world.rule_start[-1]  # needs of taste and the past come after
    asked = fires[:, jnp.minimum(rule, fires.shape[1] - 1)] & of_rule
    feature = world.need_feature
    match = (world.need_leaf == leaf[..., None]) & (
        (feature < 0) | (feature == world.item_feature[items][..., None]))
    return (match & asked[:, None, :]).any(-1)
