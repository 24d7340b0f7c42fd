"""Fits what makes a network's logits mean what they say: a scale and a shift."""

import numpy as np

METHODS = ("platt", "temperature", "none")
_STEPS = 100
_PRIOR = 1.0  # of a row: pulls towards scale 1 and shift 0 where there is little data


def fit(logits: np.ndarray, labels: np.ndarray, method: str) -> tuple[float, float]:
    """Finds a and b such that s(a x + b) is the chance of a yes at logit x.

    Minimises `sum_i loss(a x_i + b, y_i) + ((a - 1)^2 + b^2) / 2` by Newton's method
    with halved steps; the second term is that of one row and keeps few or separable
    rows from running away (ours).

    Args:
      logits: `[R]` float.
      labels: `[R]` bool.
      method: "platt" fits both, "temperature" the scale alone, "none" neither.

    Returns:
      a and b; 1 and 0 where there are no rows.

    Raises:
      ValueError: an unknown method.

    Source: Platt 1999, scaling by a sigmoid; temperature: Guo et al. 2017,
      https://arxiv.org/abs/1706.04599, section 4.2.
    """
    if method not in METHODS:
        raise ValueError(f"{method=}, expected one of {METHODS}")
    point = np.array([1.0, 0.0])
    if method == "none" or not len(logits):
        return 1.0, 0.0
    inputs = np.stack([np.asarray(logits, np.float64), np.ones(len(logits))])
    if method == "temperature":
        inputs[1] = 0  # a shift that changes nothing stays at its prior, 0
    labels = np.asarray(labels, np.float64)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-point @ inputs))
        slope = inputs @ (chance - labels) + _PRIOR * (point - [1.0, 0.0])
        bend = (inputs * (chance * (1 - chance))) @ inputs.T + _PRIOR * np.eye(2)
        step, size = np.linalg.solve(bend, slope), 1.0
        while (_cost(point - size * step, inputs, labels)
               > _cost(point, inputs, labels) and size > 1e-10):
            size /= 2
        point = point - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    return float(point[0]), float(point[1])


def fit_funnel(logits: np.ndarray, outcome: np.ndarray, shown: np.ndarray, method: str
               ) -> np.ndarray:
    """Scale and shift of each step's logit, on the rows that the step was open to.

    Args:
      logits: `[R, C, S]` float, of S steps.
      outcome: `[R, C]` int, how many steps were taken.
      shown: `[R, C]` bool.
      method: as of `fit`.

    Returns:
      `[S, 2]` float32.
    """
    found = []
    for step in range(logits.shape[-1]):
        there = shown & (outcome >= step)
        found.append(fit(logits[..., step][there], outcome[there] > step, method))
    return np.array(found, np.float32)


def _cost(point: np.ndarray, inputs: np.ndarray, labels: np.ndarray) -> float:
    scores = point @ inputs
    prior = np.sum((point - [1.0, 0.0]) ** 2) / 2
    return float(np.sum(np.logaddexp(0, scores) - labels * scores) + _PRIOR * prior)
