"""What another policy would have earned, from logs of a policy that is known.

A logged row is a request: K places of a slate, what stood in each, the probability with
which the logging policy put it there, and what it earned. Each estimator weighs what
was earned by how much likelier the other policy, the target, does the same:

    IPS    mean of w r: unbiased, whatever the rewards, where logging puts everything
           that the target may put
    clipped IPS   w at most a bound: less variance, biased towards 0
    SNIPS  sum of w r / sum of w: consistent, biased by order 1/R, less variance
    DR     mean of q(target) + w (r - q(logged)), q a model of the reward: unbiased
           whatever the model, of less variance the better it is ("position" alone)

What w is depends on what the reward of a place may depend on:

    "position"  on the request and the item at that place alone (item-position model):
                w is the ratio of that place's own probabilities, and the value of a
                slate is the sum over its places
    "cascade"   also on the places before it: w is the product of the ratios so far,
                with probabilities given the places before
    "slate"     on the whole slate: w is the product over all places, given the places
                before; no assumption, and of so much variance that it serves short
                slates alone

Estimates tell about the requests that were logged: a policy that changes who comes back
and with which history is judged in the closed loop (`oxyrec abtest`).

Source: IPS and SNIPS, Horvitz and Thompson 1952 and Swaminathan and Joachims 2015; DR,
Dudík et al. 2011, https://arxiv.org/abs/1103.4601; item-position model, Li et al. 2018,
https://arxiv.org/abs/1804.10488; cascade, McInerney et al. 2020,
https://arxiv.org/abs/2007.12986.
"""

import dataclasses
from typing import Literal, get_args

import numpy as np

from oxyrec_jax import metrics
from oxyrec_jax.base import InputError

Assumption = Literal["position", "cascade", "slate"]
METHODS = ("ips", "clipped", "snips", "dr")


@dataclasses.dataclass(frozen=True)
class Logged:
    """R requests with slates of K places.

    Attributes:
      rewards: `[R, K]` float, what each place earned.
      propensities: `[R, K]` float in (0, 1], with which the logging policy put there
        what stood there; "position": of the place alone, else given the places before.
      target: `[R, K]` float in [0, 1], the same of the policy that is judged.
      users: `[R]`, whose request it was; None: each is another user's.
    """

    rewards: np.ndarray
    propensities: np.ndarray
    target: np.ndarray
    users: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = self.rewards.shape
        if len(shape) != 2 or not (shape == self.propensities.shape
                                   == self.target.shape):
            raise ValueError(f"{shape=} {self.propensities.shape=} "
                             f"{self.target.shape=}, expected [R, K] of all three")
        if self.users is not None and self.users.shape != shape[:1]:
            raise ValueError(f"{self.users.shape=}, expected {shape[:1]}")
        if not shape[0] or not shape[1]:
            raise InputError("the log has no rows; there is nothing to estimate from")
        known, asked = self.propensities, self.target
        for name, values, good, expected in (
                ("propensity", known, (known > 0) & (known <= 1),
                 "above 0 and at most 1; without it no estimate is possible"),
                ("target's probability", asked, (asked >= 0) & (asked <= 1),
                 "0 to 1"),
                ("reward", self.rewards, np.isfinite(self.rewards),
                 "a finite number")):
            if not good.all():
                row, place = np.argwhere(~good)[0]
                raise InputError(
                    f"row {row} of the log has the {name} {values[row, place]} at "
                    f"place {place}, expected {expected} ({int((~good).sum())} such "
                    "places)")


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """What a model expects, for DR; made of other rows than those it is used on.

    Attributes:
      logged: `[R, K]` float, of what stood at each place.
      target: `[R, K]` float, the mean over what the target puts there.
    """

    logged: np.ndarray
    target: np.ndarray


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The value of a policy for each request, summed over its places.

    Attributes:
      value: the estimate.
      low, high: ends of its bootstrap interval over users.
      ess: effective sample size, the least of all places: how many rows of the
        target's own log this one is worth, (sum of w)^2 / sum of w^2.
      weight: mean of w, of the place where it is furthest from 1, which it is in
        expectation: far from it, logging did not do all that the target does.
    """

    value: float
    low: float
    high: float
    ess: float
    weight: float


def estimate(logged: Logged, method: str = "snips", *,
             assumption: Assumption = "position", clip: float | None = None,
             model: RewardModel | None = None, samples: int = 1000,
             level: float = 0.95, seed: int = 0) -> Estimate:
    """Estimates what the target would have earned.

    Args:
      logged: the log.
      method: one of `METHODS`.
      assumption: what a place's reward may depend on, see the module's docstring.
      clip: of "clipped": the most that a weight counts.
      model: of "dr".
      samples, level, seed: of the bootstrap over users.

    Returns:
      The estimate with its interval. That of SNIPS is of its linear part, as its value
      is a ratio.

    Raises:
      ValueError: an unknown method or assumption, or one without what it needs.
      InputError: no weight at all: the target does nothing that was logged.
    """
    if method not in METHODS or assumption not in get_args(Assumption):
        raise ValueError(f"{method=} {assumption=}, expected one of {METHODS} and one "
                         f"of {get_args(Assumption)}")
    if (method == "clipped") != (clip is not None):
        raise ValueError(f"{method=} {clip=}: clip goes with 'clipped'")
    if clip is not None and not clip > 0:
        raise ValueError(f"{clip=}, expected a number above 0")
    if (method == "dr") != (model is not None) or (
            method == "dr" and assumption != "position"):
        raise ValueError(f"{method=} {assumption=}: a reward model goes with 'dr', "
                         "and 'dr' with 'position'")
    weights = weights_of(logged, assumption)
    if not weights.any():
        raise InputError("the target's probability of everything that was logged is 0, "
                         "so that the log tells nothing about it")
    used = np.minimum(weights, clip) if clip is not None else weights
    parts = used * logged.rewards
    if method == "snips":
        total = used.mean(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(total > 0, parts.mean(axis=0) / total, 0)
            parts = np.where(total > 0, ratio + (parts - ratio * used) / total, 0)
    elif model is not None:
        parts = model.target + used * (logged.rewards - model.logged)
    found = metrics.bootstrap(parts.sum(axis=1), logged.users, samples=samples,
                              level=level, seed=seed)
    means = weights.mean(axis=0)
    return Estimate(float(found.mean[0]), float(found.low[0]), float(found.high[0]),
                    float(effective_size(weights).min()),
                    float(means[np.argmax(np.abs(means - 1))]))


def weights_of(logged: Logged, assumption: Assumption) -> np.ndarray:
    """`[R, K]` float64: how much likelier the target does what was logged."""
    ratio = logged.target.astype(np.float64) / logged.propensities
    if assumption == "position":
        return ratio
    product = np.cumprod(ratio, axis=1)
    return product if assumption == "cascade" else np.repeat(
        product[:, -1:], ratio.shape[1], axis=1)


def effective_size(weights: np.ndarray) -> np.ndarray:
    """Kish's effective sample size of each column, `[K]`; 0 without any weight."""
    square = (weights ** 2).sum(axis=0)
    return np.where(square > 0, weights.sum(axis=0) ** 2 / np.where(square > 0, square,
                                                                    1), 0)


def tabular_model(actions: np.ndarray, rewards: np.ndarray, policy: np.ndarray, *,
                  folds: int = 2, prior: float = 10.0, users: np.ndarray | None = None
                  ) -> RewardModel:
    """A reward model of counts: the mean reward of each action at each place.

    Each row is told by rows of other users alone (cross-fitting), so that DR stays
    unbiased. Means are drawn to that of their place as if `prior` more rows had it.

    Args:
      actions: `[R, K]` int, what stood at each place.
      rewards: `[R, K]` float.
      policy: `[R, K, A]` or `[K, A]` float, the target's probabilities of all actions.
      folds: into how many parts the users are cut, at least 2.
      prior: rows, above 0.
      users: `[R]`; None: each row is another user's.

    Source: doubly robust with cross-fitting, Chernozhukov et al. 2018,
    https://arxiv.org/abs/1608.00060; the model is ours.
    """
    rows, places = actions.shape
    if folds < 2 or prior <= 0 or policy.shape[-2] != places:
        raise ValueError(f"{folds=} {prior=} {policy.shape=}, expected 2 folds or "
                         f"more, a prior above 0 and [{places}, A] probabilities")
    if actions.size and not 0 <= actions.min() <= actions.max() < policy.shape[-1]:
        raise ValueError(f"actions from {actions.min()} to {actions.max()}, expected 0 "
                         f"to {policy.shape[-1] - 1}, the policy's")
    _, owner = np.unique(np.arange(rows) if users is None else users,
                         return_inverse=True)
    fold, size = owner % folds, policy.shape[-1]
    cell = actions + size * np.arange(places)
    logged, target = np.empty((rows, places)), np.empty((rows, places))
    for part in range(folds):
        mine, others = fold == part, fold != part
        count = np.bincount(cell[others].ravel(), minlength=places * size)
        total = np.bincount(cell[others].ravel(), rewards[others].ravel(),
                            places * size)
        mean = rewards[others].mean(axis=0) if others.any() else np.zeros(places)
        table = ((total.reshape(places, size) + prior * mean[:, None])
                 / (count.reshape(places, size) + prior))
        logged[mine] = table.ravel()[cell[mine]]
        own = policy[mine] if policy.ndim == 3 else policy
        target[mine] = (own * table).sum(axis=-1)
    return RewardModel(logged, target)
