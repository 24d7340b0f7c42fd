"""Searches in plain Python, and the tables of logits that they and ours read."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.tokenizer import trie as tries

BATCH = 3


def table_step(tables):
    """A model that is one table of logits for each level and request.

    `tables[l]` is `[B, V_0 ... V_{l-1}, V_l]`: the logits after every prefix, in the
    trie or not. The prefix is the state, so a wrong parent gives wrong logits.
    """

    def step(state, codes, level):
        prefix = state["prefix"]
        if level:
            prefix = prefix * tables[level - 1].shape[-1] + codes
        rows = jnp.arange(prefix.shape[0])[:, None]
        return tables[level][rows, prefix], {"prefix": prefix}

    return step


def random_tables(rng, widths, *, batch=BATCH, impossible=0.0):
    tables = []
    for level, width in enumerate(widths):
        shape = (batch, math.prod(widths[:level]), width)
        table = rng.normal(0, 2, shape)
        table[rng.random(shape) < impossible] = -np.inf
        tables.append(table.astype(np.float32))
    return tables


def random_catalogue(rng, widths):
    items = rng.integers(1, 2 * math.prod(widths))
    return np.stack([rng.integers(0, width, items) for width in widths], axis=1)


def full_trie(widths):
    every = np.array(list(itertools.product(*(range(width) for width in widths))))
    return tries.build_trie(every, widths)


# --- oracles: float64, Python tuples, no trie arrays ---------------------------------


def step_scores(tables, row, prefix, followers, normalise):
    """Log-probability of each follower of a prefix that can happen."""
    level = len(prefix)
    index = 0
    for code, table in zip(prefix, tables):
        index = index * table.shape[-1] + code
    logits = tables[level][row, index].astype(np.float64)
    pool = followers if normalise == "legal" else range(len(logits))
    peak = max((logits[code] for code in pool), default=-np.inf)
    if peak == -np.inf:
        return {}
    total = peak + math.log(sum(math.exp(logits[code] - peak) for code in pool))
    return {c: logits[c] - total for c in followers if logits[c] > -np.inf}


def python_levels(tables, row, sids, *, beams, normalise):
    """Of each level all that there was to choose from, ranked."""
    alive, levels = [(0.0, ())], []
    for level in range(len(tables)):
        found = []
        for score, prefix in alive:
            followers = sorted({sid[level] for sid in sids if sid[:level] == prefix})
            steps = step_scores(tables, row, prefix, followers, normalise)
            found += [(score + step, (*prefix, c)) for c, step in steps.items()]
        levels.append(sorted(found, key=lambda path: (-path[0], path[1])))
        alive = levels[-1][:beams]
    return levels


def python_beam_search(tables, row, sids, *, beams, normalise):
    """Ranked (log-probability, semantic ID): the definition, level by level."""
    return python_levels(tables, row, sids, beams=beams, normalise=normalise)[-1][
        :beams]


def enumerate_all(tables, row, sids, *, normalise):
    """Every possible semantic ID with its log-probability, ranked."""
    found = []
    for sid in sids:
        score = 0.0
        for level in range(len(sid)):
            prefix = sid[:level]
            followers = sorted({s[level] for s in sids if s[:level] == prefix})
            steps = step_scores(tables, row, prefix, followers, normalise)
            score += steps.get(sid[level], -np.inf)
        if score > -np.inf:
            found.append((score, sid))
    return sorted(found, key=lambda path: (-path[0], path[1]))


def assert_row_is(result, row, expected, sids, *, beams):
    """Codes, leaves and order must be equal, log-probabilities to float32 rounding."""
    expected = expected[:beams]
    count = len(expected)
    codes, leaves = result.codes[row], result.leaves[row]
    assert codes[:count].tolist() == [list(sid) for _, sid in expected]
    assert leaves[:count].tolist() == [sids.index(sid) for _, sid in expected]
    want = [score for score, _ in expected]
    np.testing.assert_allclose(
        result.log_probs[row, :count], want, rtol=1e-6, atol=2e-6
    )
    assert np.all(codes[count:] == -1) and np.all(leaves[count:] == -1)
    assert np.all(result.log_probs[row, count:] == -np.inf)
    assert codes.shape == (beams, len(sids[0]))


def host(result):
    return jax.tree.map(np.asarray, result)
