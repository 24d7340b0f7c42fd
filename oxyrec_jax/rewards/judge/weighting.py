"""Stage B: how much each aspect counts for this person at this moment.

    w(x) = softmax of a small network of the request's features, aspects without
           context left out: w >= 0, sum 1
    r_sem(x, a) = w(x) · s(x, a), in [0, 1]

It learns from pairs of items of one request of which the first is known to be better.

    "reinforce"      as published, pairwise reinforcement learning: the weights are
                     drawn, logits z ~ N(mean(x), spread²), the reward is
                     1[w(z) · s_better > w(z) · s_worse] (a tie: 0.5), and the policy
                     gradient is the score function's, (reward - baseline) times the
                     gradient of log p(z), where the baseline is the mean reward of the
                     pair's other draws
    "bradley-terry"  a variant, no reinforcement learning: the likelihood
                     sigmoid(w(x) · (s_better - s_worse) / temperature), with a
                     temperature that is learnt as well

The reward is a step in w without a gradient of its own, hence the score function. The
estimator is unbiased for the expected reward under the drawn weights, on-policy, with
no clipping; the leave-one-out baseline lowers its variance and drops out of the mean.
Afterwards the mean alone is used, w(x) = softmax(mean(x)).

Source: S-GRec, arXiv 2602.10606, weights from user and context alone, trained by
reinforcement learning on pairs with reward 1[s_hol(i) > s_hol(j)]; it does not say how
weights are drawn. The drawing in logits, the baseline (RLOO, arXiv 2402.14740) and all
sizes are ours.
"""

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from oxyrec_jax import losses
from oxyrec_jax.base import Array, InputError
from oxyrec_jax.rewards.judge.aspects import ASPECTS, JudgeRequest

METHODS = ("reinforce", "bradley-terry")
_LEAST_PAIRS = 1_024
_HOURS, _PLAIN = 24 * 3_600, 5  # features that every log has, beside the buckets


@dataclasses.dataclass(frozen=True)
class WeightingConfig:
    """How stage B learns. Values are ours.

    Attributes:
      method: one of `METHODS`; the second is a variant of what is published.
      hidden: inner width of the network; 0 for a linear one.
      steps, batch: of pairs.
      learning_rate: of Adam.
      draws: weights drawn for each pair, at least 2 (reinforce).
      spread: standard deviation of the drawn logits (reinforce).
      temperature: of score differences, to begin with (bradley-terry).
    """

    method: str = "reinforce"
    hidden: int = 16
    steps: int = 500
    batch: int = 256
    learning_rate: float = 1e-2
    draws: int = 16
    spread: float = 0.5
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"judge.weighting.method is {self.method!r}, expected "
                             f"{' or '.join(METHODS)}")
        for name, least in (("hidden", 0), ("steps", 1), ("batch", 1), ("draws", 2)):
            if getattr(self, name) < least:
                raise InputError(f"judge.weighting.{name} is {getattr(self, name)}, "
                                 f"expected at least {least}")
        for name in ("learning_rate", "spread", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"judge.weighting.{name} is {getattr(self, name)}, "
                                 "expected above 0")


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """What of a request the weights may depend on: nothing of the candidates.

    Attributes:
      scenarios: names, one feature each.
      buckets: of hashed profile entries such as "life=baby".
    """

    scenarios: tuple[str, ...] = ()
    buckets: int = 16

    @property
    def width(self) -> int:
        """F, a multiple of 32: logs of few scenarios share a compiled program."""
        return -(-(len(self.scenarios) + _PLAIN + self.buckets) // 32) * 32

    def of(self, requests: Sequence[JudgeRequest]) -> np.ndarray:
        """`[B, F]` float32: scenario, trigger, words typed, length of the history, hour
        of the day as a place on a circle, profile."""
        found = np.zeros((len(requests), self.width), np.float32)
        first = len(self.scenarios)
        for row, request in enumerate(requests):
            if request.scenario in self.scenarios:
                found[row, self.scenarios.index(request.scenario)] = 1
            turn = 2 * np.pi * (request.second % _HOURS) / _HOURS
            found[row, first:first + _PLAIN] = (
                request.trigger >= 0, bool(request.query),
                np.log1p(len(request.history)) / 3,
                np.sin(turn) if request.second else 0,
                np.cos(turn) if request.second else 0)
            for name, values in request.state.profile.items():
                for value in values.split(", "):
                    word = f"{name}={value}".encode(errors="replace")
                    found[row, first + _PLAIN + zlib.crc32(word) % self.buckets] = 1
        return found


class WeightNet(nn.Module):
    """Logits of the aspects from a request's features."""

    hidden: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """`[B, F]` float32 to `[B, 4]` float32; 0 everywhere before training."""
        if self.hidden:
            features = jnp.tanh(nn.Dense(self.hidden)(features))
        return nn.Dense(len(ASPECTS), kernel_init=nn.initializers.zeros)(features)


@dataclasses.dataclass(frozen=True)
class Weighting:
    """A stage B that is ready to use.

    Attributes:
      spec: of the features.
      cfg: how it learnt.
      params: of `WeightNet`; None weighs all aspects alike.
    """

    spec: FeatureSpec
    cfg: WeightingConfig
    params: Any = None

    def weights(self, requests: Sequence[JudgeRequest], given: np.ndarray
                ) -> np.ndarray:
        """`[B, 4]` float32, at least 0, each row sums to 1; 0 where not given."""
        if self.params is None:
            return (given / given.sum(1, keepdims=True)).astype(np.float32)
        size = 16
        while size < len(requests):  # sizes double, for few compilations
            size *= 2
        features = np.zeros((size, self.spec.width), np.float32)
        features[:len(requests)] = self.spec.of(requests)
        there = np.ones((size, len(ASPECTS)), bool)
        there[:len(requests)] = given
        weights = _weights(WeightNet(self.cfg.hidden), self.params, features, there)
        return np.asarray(weights)[:len(requests)]

    def scores(self, requests: Sequence[JudgeRequest], scores: np.ndarray,
               given: np.ndarray) -> np.ndarray:
        """r_sem `[B, G]` float32 of aspect scores `[B, G, 4]`."""
        return np.einsum("ba,bga->bg", self.weights(requests, given), scores)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """P pairs of items, each of one request, of which the first is the better one.

    Attributes:
      features: `[P, F]` float32 of the requests.
      given: `[P, 4]` bool.
      better, worse: `[P, 4]` float32 scores.
    """

    features: np.ndarray
    given: np.ndarray
    better: np.ndarray
    worse: np.ndarray


def in_simplex(logits: Array, given: Array) -> Array:
    """`[..., 4]` weights of logits, 0 where an aspect is not given."""
    masked = jnp.where(given, logits.astype(jnp.float32), -jnp.inf)
    return jax.nn.softmax(masked, axis=-1)


def fit_weighting(pairs: Pairs, spec: FeatureSpec, cfg: WeightingConfig, *, seed: int
                  ) -> tuple[Weighting, np.ndarray]:
    """Trains stage B; the same pairs and seed give the same weights.

    Args:
      pairs: at least one; those that are equal in every aspect teach nothing.
      spec: of the features.
      cfg: how.
      seed: of parameters, batches and draws.

    Returns:
      The weighting, and `[steps]` float32: the mean reward of each step, share of
      pairs put in the right order (reinforce) or the negative loss in nats
      (bradley-terry).

    Raises:
      InputError: there are no pairs.
    """
    if not len(pairs.better):
        raise InputError("no pair of candidates has a known better one: stage B has "
                         "nothing to learn from; judge more requests")
    count, size = len(pairs.better), _LEAST_PAIRS
    while size < count:  # sizes double, for few compilations
        size *= 2
    rows = [np.resize(values, (size, values.shape[1])) for values in (
        pairs.features, pairs.given, pairs.better - pairs.worse)]
    params, course = _train(WeightNet(cfg.hidden), cfg, jax.random.key(seed), *rows,
                            np.int32(count))
    return Weighting(spec, cfg, jax.tree.map(np.asarray, params)), np.asarray(course)


def reinforce_objective(logits: Array, given: Array, difference: Array, rng: Array, *,
                        draws: int, spread: float) -> tuple[Array, Array]:
    """The policy-gradient surrogate and the mean reward; see the module.

    Args:
      logits: `[P, 4]` float32, the mean; the only argument with a gradient.
      given: `[P, 4]` bool.
      difference: `[P, 4]` float32, scores of the better item less the worse one's.
      rng: key.
      draws: M, of each pair.
      spread: standard deviation of the draws.

    Returns:
      Two scalars; the gradient of the first is minus an unbiased estimate of the
      gradient of the expected reward.
    """
    noise = jax.random.normal(rng, (len(logits), draws, logits.shape[-1]))
    drawn = jax.lax.stop_gradient(logits[:, None] + spread * noise)
    weights = in_simplex(drawn, given[:, None])
    margin = jnp.einsum("pma,pa->pm", weights, difference)
    reward = jnp.where(margin > 0, 1.0, jnp.where(margin < 0, 0.0, 0.5))
    advantage = losses.leave_one_out_advantages(reward)
    away = jnp.where(given[:, None], (drawn - logits[:, None]) / spread, 0)
    log_density = -0.5 * jnp.sum(jnp.square(away), axis=-1)
    return -jnp.mean(advantage * log_density), jnp.mean(reward)


def bradley_terry_objective(logits: Array, given: Array, difference: Array, *,
                            temperature: float | Array) -> tuple[Array, Array]:
    """The mean negative log-likelihood in nats, and its negative; see the module."""
    margin = jnp.sum(in_simplex(logits, given) * difference, axis=-1) / temperature
    loss = -jnp.mean(jax.nn.log_sigmoid(margin))
    return loss, -loss


@functools.partial(jax.jit, static_argnames="net")
def _weights(net: WeightNet, params: Any, features: Array, given: Array) -> Array:
    logits: Any = net.apply(params, features)
    return in_simplex(logits, given)


@functools.partial(jax.jit, static_argnames=("net", "cfg"))
def _train(net: WeightNet, cfg: WeightingConfig, rng: Array, features: Array,
           given: Array, difference: Array, count: Array) -> tuple[Any, Array]:
    optimizer = optax.adam(cfg.learning_rate)
    rng, begin = jax.random.split(rng)
    heat = jnp.log(jnp.float32(cfg.temperature))
    params = net.init(begin, features[:1]), heat

    def objective(params: Any, rows: Array, key: Array) -> tuple[Array, Array]:
        own, heat = params
        logits: Any = net.apply(own, features[rows])
        if cfg.method == "reinforce":
            return reinforce_objective(logits, given[rows], difference[rows], key,
                                       draws=cfg.draws, spread=cfg.spread)
        return bradley_terry_objective(logits, given[rows], difference[rows],
                                       temperature=jnp.exp(heat))

    def step(carry: tuple[Any, Any], key: Array):
        params, state = carry
        rows_key, draw_key = jax.random.split(key)
        rows = jax.random.randint(rows_key, (cfg.batch,), 0, count)
        gradient, figure = jax.grad(objective, has_aux=True)(params, rows, draw_key)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), figure
    (params, _), course = jax.lax.scan(step, (params, optimizer.init(params)),
                                       jax.random.split(rng, cfg.steps))
    return params[0], course
