"""The judge as a service to an aligner: between drawing candidates and updating."""

import collections
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from oxyrec_jax.rewards.judge import sampling
from oxyrec_jax.rewards.judge.aspects import AspectJudge, JudgeRequest, Spent
from oxyrec_jax.rewards.judge.weighting import Weighting


class Judge:
    """Stage A and stage B behind one call, on the host.

    Args:
      aspects: stage A.
      weighting: stage B.
      share: of the requests that are judged, 0 to 1.
      seed: of the hash that says which.
      identity: JSON values that tell it from other judges, by which an alignment knows
        that it is continued under the same one.
    """

    def __init__(self, aspects: AspectJudge, weighting: Weighting, *,
                 share: float = 1.0, seed: int = 0,
                 identity: Mapping[str, Any] = MappingProxyType({})):
        self.aspects, self.weighting = aspects, weighting
        self.identity = dict(identity)
        self._share, self._seed = share, seed
        self._counts: collections.Counter[str] = collections.Counter()
        self._spent = Spent()

    def score(self, requests: Sequence[JudgeRequest], items: np.ndarray
              ) -> tuple[np.ndarray, np.ndarray]:
        """Judges groups of candidates.

        The same requests and items give the same scores, whatever stands beside them
        in the batch, and the same requests are sampled in every run.

        Args:
          requests: B of them.
          items: `[B, G]` int candidates, -1 where there is none.

        Returns:
          semantic: `[B, G]` float32 in [0, 1], r_sem = w(x) · s(x, a); 0 at places
            without a candidate and in groups that were not judged.
          judged: `[B]` bool. False where the request is not in the sample, where a
            candidate has no judgement (budget spent, no usable answer), and where all
            candidates are worth the same: such a group gets no semantic signal.

        Raises:
          ValueError: shapes disagree.
        """
        items = np.asarray(items)
        if items.ndim != 2 or len(items) != len(requests):
            raise ValueError(f"{items.shape=}, expected [{len(requests)}, G]")
        semantic = np.zeros(items.shape, np.float32)
        judged = np.zeros(len(requests), bool)
        names = [request.id for request in requests]
        rows = np.flatnonzero(sampling.chosen(names, self._share, self._seed))
        self._counts.update(requests=len(requests), sampled=len(rows))
        if not len(rows):
            return semantic, judged
        own, real = [requests[row] for row in rows.tolist()], items[rows] >= 0
        found = self.aspects.judge(own, items[rows])
        self._spent += found.spent
        scores = np.where(real, self.weighting.scores(own, found.scores, found.given),
                          0)
        whole = (found.known == real).all(axis=1)
        silent = whole & sampling.without_signal(scores, real)
        good = whole & ~silent
        semantic[rows[good]], judged[rows] = scores[good], good
        self._counts.update(judged=int(good.sum()), silent=int(silent.sum()),
                            lost=int((~whole).sum()))
        return semantic, judged

    def figures(self) -> dict[str, Any]:
        """What was asked and given so far, as JSON values.

        requests = not sampled + sampled, sampled = judged + `silent` (all candidates
        alike) + `lost` (a candidate without a judgement); and the fields of
        `aspects.Spent`.
        """
        counts = {name: self._counts[name] for name in
                  ("requests", "sampled", "judged", "silent", "lost")}
        return counts | {"spent": spent_figures(self._spent)}


def spent_figures(spent: Spent) -> dict[str, Any]:
    """The fields of `Spent`, and "cache_hits": the share of the "points" that an
    earlier call had judged, and of the "questions" for the others that had been
    answered; None where there were none."""
    hits = {"points": spent.recorded / spent.points if spent.points else None,
            "questions": spent.cached / spent.questions if spent.questions else None}
    return dict(vars(spent)) | {"cache_hits": hits}
