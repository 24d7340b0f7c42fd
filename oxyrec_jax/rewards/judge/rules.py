"""The offline judge of any log: item vectors, categories, words and rules, no model.

    s0 profile   share of the catalogue's items that resemble the history less than the
                 item does; where brands are known, the mean of that and of whether the
                 brand stands in the history
    s1 future    such a share for the latest events: each counts half as much as the one
                 three after it
    s2 novelty   0 the item is in the history, 0.5 its category is, 1 neither
    s3 context   the most of: share of the words typed that stand in the item's text;
                 share of items that resemble the trigger less; 1 where a rule that
                 holds asks for the item. 0.5 where none of these is there.

Source: the aspects are S-GRec's, arXiv 2602.10606; these rules are ours. They know
nothing of needs and are no match for a language model; they cost nothing.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from oxyrec_jax.rewards.judge.aspects import (ASPECTS, ItemTexts, Judged, JudgeRequest,
                                              Spent, given_aspects)
from oxyrec_jax.thinking.gate import content_words
from oxyrec_jax.thinking.reasoner import Rule

_SAMPLE = 512  # items with which a candidate is compared
_HALF = 3.0    # events after which one counts half


class RuleJudge:
    """Judges by resemblance; see above.

    Args:
      items: of the catalogue.
      vectors: `[N, D]` float of their texts; a zero row resembles nothing.
      rules: of a knowledge base, for requests whose facts are known.
    """

    name = "rules on item text, no language model"

    def __init__(self, items: ItemTexts, vectors: np.ndarray,
                 rules: Iterable[Rule] = ()):
        if len(vectors) != len(items.ids):
            raise ValueError(f"{vectors.shape=}, expected {len(items.ids)} rows")
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        self._vectors = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
        self._items, self._rules = items, [(frozenset(rule.when), rule.needs)
                                           for rule in rules]
        step = max(len(vectors) / _SAMPLE, 1.0)
        self._sample = np.arange(0, len(vectors), step).astype(int)
        self._words: dict[int, frozenset[str]] = {}

    def judge(self, requests: Sequence[JudgeRequest], items: np.ndarray, *,
              evidence: bool = False) -> Judged:
        """As `AspectJudge.judge`."""
        items = np.asarray(items)
        given, known = given_aspects(requests), items >= 0
        scores = np.zeros((*items.shape, len(ASPECTS)), np.float32)
        why = np.full(scores.shape, "", object) if evidence else None
        for row, request in enumerate(requests):
            real = np.flatnonzero(known[row])
            scores[row, real], told = self._one(request, items[row, real])
            if why is not None and len(real):
                why[row, real] = told
        scores *= known[..., None] & given[:, None, :]
        return Judged(scores, given, known, why, Spent(points=int(known.sum())))

    def prefer(self, requests: Sequence[JudgeRequest], pairs: np.ndarray) -> None:
        """As `AspectJudge.prefer`: rules have no opinions of their own."""

    def _one(self, request: JudgeRequest, items: np.ndarray
             ) -> tuple[np.ndarray, list[list[str]]]:
        past = np.asarray(request.history, int)
        age = np.arange(len(past))[::-1]
        profile = self._share(self._vectors[past].sum(0), items)
        future = self._share(0.5 ** (age / _HALF) @ self._vectors[past], items)
        brands = {self._items.brands[item] for item in past.tolist()} - {""}
        if any(self._items.brands[item] for item in items.tolist()):
            had = [self._items.brands[item] in brands for item in items.tolist()]
            profile = (profile + np.array(had)) / 2
        categories = {self._items.categories[item] for item in past.tolist()} - {""}
        novelty = np.array([
            0.0 if item in request.history else
            0.5 if self._items.categories[item] in categories else 1.0
            for item in items.tolist()])
        context, grounds = self._context(request, items)
        scores = np.stack([profile, future, novelty, context], axis=1)
        words = ("fits the history, score {:.2f}", "fits the latest events, score "
                 "{:.2f}")
        seen = {0.0: "seen before", 0.5: "its category was seen before",
                1.0: "its category is new"}
        return scores, [
            [words[0].format(one[0]), words[1].format(one[1]), seen[float(one[2])], why]
            for one, why in zip(scores, grounds)]

    def _context(self, request: JudgeRequest, items: np.ndarray
                 ) -> tuple[np.ndarray, list[str]]:
        found: list[tuple[np.ndarray, str]] = []
        if request.trigger >= 0:
            found.append((self._share(self._vectors[request.trigger], items),
                          "resembles what was looked at"))
        if words := content_words(request.query):
            found.append((np.array([len(words & self._text(item)) / len(words)
                                    for item in items.tolist()]), "was searched for"))
        if wanted := self._wanted(request):
            found.append((np.array([float(self._asked(item, wanted))
                                    for item in items.tolist()]),
                          "a rule that holds asks for it"))
        if not found:
            return np.full(len(items), 0.5), ["nothing speaks for or against"] * len(
                items)
        values = np.stack([value for value, _ in found])
        best = values.argmax(axis=0)
        return values.max(axis=0), [
            found[place][1] if value >= 0.5 else f"not so: {found[place][1]}"
            for place, value in zip(best.tolist(), values.max(axis=0))]

    def _share(self, towards: np.ndarray, items: np.ndarray) -> np.ndarray:
        """`[G]`: share of sampled items that lie less in a direction, ties half."""
        others = np.sort(self._vectors[self._sample] @ towards)
        own = self._vectors[items] @ towards
        places = [np.searchsorted(others, own, side) for side in ("left", "right")]
        return (places[0] + places[1]) / (2 * len(others))

    def _text(self, item: int) -> frozenset[str]:
        if item not in self._words:
            self._words[item] = frozenset(content_words(
                f"{self._items.titles[item]} {self._items.categories[item]}"))
        return self._words[item]

    def _wanted(self, request: JudgeRequest) -> list[tuple[str, str]]:
        holds = frozenset(request.state.facts)
        return [need for when, needs in self._rules if when <= holds for need in needs]

    def _asked(self, item: int, wanted: Sequence[tuple[str, str]]) -> bool:
        category, title = self._items.categories[item], self._items.titles[item]
        return any(category.endswith(product) and feature.lower() in title.lower()
                   for product, feature in wanted)
