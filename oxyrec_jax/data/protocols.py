"""Which events are targets of training, validation and test.

Each function gives split rows `(sequence, first, last)`: the events at positions
`first <= p < last` are targets, and what a target's history may hold is every event
before it; of `next_basket` every event before its request.
"""

from collections.abc import Sequence

import numpy as np

from oxyrec_jax.data import schema

Splits = dict[str, np.ndarray]


def leave_one_out(lengths: np.ndarray, first_sequence: int = 0) -> Splits:
    """P1: a sequence's last event is test, the one before is validation.

    Training targets are all events between the first and the validation event. A
    sequence of two events is too short to be held out from and trains only; one event
    gives no target.

    Args:
      lengths: `[S]` int, events of each sequence.
      first_sequence: the number of the first, where the data set is made in blocks.

    Returns:
      Rows of "train", "valid" and "test".

    Source: the leave-one-out protocol of Kang and McAuley 2018 (SASRec), §IV-A.
    """
    lengths = np.asarray(lengths, np.int64)
    sequence = first_sequence + np.arange(len(lengths))
    held = lengths >= 3
    train_end = np.where(held, lengths - 2, lengths)
    return {
        "train": _rows(sequence, np.ones_like(lengths), train_end),
        "valid": _rows(sequence[held], lengths[held] - 2, lengths[held] - 1),
        "test": _rows(sequence[held], lengths[held] - 1, lengths[held]),
    }


def next_basket(lengths: np.ndarray, request: np.ndarray) -> Splits:
    """A sequence's last request is test, the one before is validation, as sets.

    Training targets are all events between the first and the validation request. A
    sequence of two requests trains only; one request gives no target. Events of one
    request are answered together: none of them is in the history of another.

    Args:
      lengths: `[S]` int, events of each sequence.
      request: `[E]` int, of all events, in order of sequence; those of one request
        stand beside each other, an event without one (negative) is one by itself.

    Returns:
      Rows of "train", "valid" and "test", of the last two one for each request.

    Source: the split by last baskets is usual in next-basket recommendation, as in Li
      et al. 2023, https://doi.org/10.1145/3587153; that the first basket trains as
      history alone is ours.
    """
    lengths = np.asarray(lengths, np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    opens = np.flatnonzero(schema.opens_request(offsets, request))
    sequence = np.searchsorted(offsets, opens, side="right") - 1
    first = opens - offsets[sequence]
    count = np.bincount(sequence, minlength=len(lengths))
    last = np.cumsum(count) - 1  # number of each sequence's last request
    trained, held = np.flatnonzero(count >= 2), np.flatnonzero(count >= 3)
    end = np.where(count >= 3, first[last - 1], lengths)
    return {
        "train": _rows(trained, first[(last - count + 2)[trained]], end[trained]),
        "valid": _rows(held, first[last[held] - 1], first[last[held]]),
        "test": _rows(held, first[last[held]], lengths[held]),
    }


def global_temporal(lengths: np.ndarray, time: np.ndarray,
                    shares: Sequence[int] = (8, 1, 1)) -> Splits:
    """P2: all targets in order of time are cut once for everybody.

    Every event but a sequence's first is a target. They are ordered by (time, sequence,
    position) and cut into parts of the given shares, rounded down but for the last.

    Args:
      lengths: `[S]` int, events of each sequence.
      time: `[E]` int, of all events, in order of sequence, rising within each.
      shares: of train, valid and test.

    Returns:
      Rows of "train" (one for each sequence that has some), and of "valid" and "test"
      (one for each target, in order of time).

    Source: 8:1:1 as in MiniOneRec, Kong et al. 2025, https://arxiv.org/abs/2510.24431;
      the order among equal times is ours.
    """
    lengths = np.asarray(lengths, np.int64)
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    start = np.cumsum(lengths) - lengths
    position = np.arange(len(sequence)) - start[sequence]
    targets = np.flatnonzero(position >= 1)
    order = targets[np.argsort(time[targets], kind="stable")]
    train_end = len(order) * shares[0] // sum(shares)
    valid_end = len(order) * (shares[0] + shares[1]) // sum(shares)
    counts = np.bincount(sequence[order[:train_end]], minlength=len(lengths))
    parts = {"valid": order[train_end:valid_end], "test": order[valid_end:]}
    return {
        # A sequence's times rise, so its training targets are its first ones.
        "train": _rows(np.arange(len(lengths)), np.ones_like(lengths), 1 + counts),
        **{name: _rows(sequence[events], position[events], position[events] + 1)
           for name, events in parts.items()},
    }


def _rows(sequence: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    some = first < last
    return np.stack([sequence[some], first[some], last[some]], axis=1).astype(np.int64)
