"""The law that ties a loss to the size of a network and of what it learnt from."""

import dataclasses
import itertools

import numpy as np
from scipy import optimize

from oxyrec_jax.base import InputError

FEWEST = 6  # points: five numbers are fitted
_FLOORS, _SLOPES = (0.3, 0.7, 0.95), (0.2, 0.6, 1.2)  # where the search begins
STEEPEST = 4.0
"""The largest power that is searched: one that stands there was not told by the points.
"""


@dataclasses.dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta.

    Attributes:
      floor: E, nats: the loss of an endless network on endless data.
      size_factor: A, nats.
      size_power: alpha.
      data_factor: B, nats.
      data_power: beta.
      error: root mean square of log(predicted / seen) over the points of the fit.
    """

    floor: float
    size_factor: float
    size_power: float
    data_factor: float
    data_power: float
    error: float

    def __call__(self, sizes: np.ndarray, data: np.ndarray) -> np.ndarray:
        """The loss, nats, of networks `[...]` parameters large on `[...]` targets."""
        return (self.floor + self.size_factor * np.asarray(sizes, float)
                ** -self.size_power + self.data_factor * np.asarray(data, float)
                ** -self.data_power)


def fit(sizes: np.ndarray, data: np.ndarray, losses: np.ndarray,
        begin: Law | None = None) -> Law:
    """The law that is nearest to some points by squares of log(predicted / seen).

    Args:
      sizes: `[C]` N of each point, parameters.
      data: `[C]` D of each point, training targets.
      losses: `[C]` float, nats, above 0.
      begin: where the search begins; None: in many places, the best end is taken.

    Raises:
      InputError: fewer than `FEWEST` points, fewer than two sizes or two amounts of
        data, or a loss that is not above 0.

    Source: Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556, eq. 10; squares in
    place of their Huber loss are ours: with few points none is an outlier.
    """
    sizes, data, losses = (np.asarray(each, float) for each in (sizes, data, losses))
    if len(losses) < FEWEST or min(len(set(sizes)), len(set(data))) < 2:
        raise InputError(f"{len(losses)} points of {len(set(sizes))} sizes and "
                         f"{len(set(data))} amounts of data; a law needs {FEWEST}, and "
                         "two of each")
    if not (losses > 0).all():
        raise InputError(f"the lowest loss is {losses.min()}, expected above 0")
    # Powers of N and D around their middle: the five numbers then move apart.
    middle = [float(np.exp(np.log(each).mean())) for each in (sizes, data)]
    powers = [np.log(each / centre) for each, centre in zip((sizes, data), middle)]
    seen = np.log(losses)

    def gap(x: np.ndarray) -> np.ndarray:
        parts = [np.full(len(seen), x[0]), x[1] - x[2] * powers[0],
                 x[3] - x[4] * powers[1]]
        return np.logaddexp.reduce(parts, axis=0) - seen

    low, high = np.array([[-20, -20, 0, -20, 0], [5, 5, STEEPEST, 5, STEEPEST]])
    found = min((optimize.least_squares(gap, np.clip(x, low + 1e-6, high - 1e-6),
                                        bounds=(low, high))
                 for x in _starts(losses, begin, middle)), key=lambda one: one.cost)
    floor, size, alpha, amount, beta = found.x
    return Law(float(np.exp(floor)), float(np.exp(size) * middle[0] ** alpha),
               float(alpha), float(np.exp(amount) * middle[1] ** beta), float(beta),
               float(np.sqrt(np.mean(found.fun ** 2))))


def _starts(losses: np.ndarray, begin: Law | None, middle: list[float]
            ) -> list[np.ndarray]:
    if begin is not None:
        terms = (begin.floor, begin.size_factor * middle[0] ** -begin.size_power,
                 begin.data_factor * middle[1] ** -begin.data_power)
        floor, size, data = np.log(np.maximum(terms, 1e-8))
        return [np.array([floor, size, begin.size_power, data, begin.data_power])]
    rest = max(float(np.ptp(losses)), 1e-3)
    return [np.array([np.log(share * losses.min()), np.log(rest / 3), alpha,
                      np.log(rest / 3), beta])
            for share, alpha, beta in itertools.product(_FLOORS, _SLOPES, _SLOPES)]
