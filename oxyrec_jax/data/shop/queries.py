"""What people type when they search: the leaf that they need, and mostly its feature.

The words are all that a policy gets to know of a need.
"""

from typing import Any

import numpy as np

from oxyrec_jax.data.shop.knowledge import Knowledge
from oxyrec_jax.data.shop.world import SCENARIOS

_VAGUE = 0.4  # share of queries that leave out the wanted feature; ours


def query_texts(known: Knowledge) -> tuple[list[str], np.ndarray]:
    """Returns the query strings, and `[C]` int32 the number of each leaf's plain one.

    A leaf's plain query is followed by one for each of its features.
    """
    queries: list[str] = []
    first = []
    for leaf in known.leaves:
        first.append(len(queries))
        name = leaf.name.lower()
        queries += [name, *(f"{feature} {name}" for feature in leaf.features)]
    return queries, np.array(first, np.int32)


def query_numbers(first_query: Any, leaf: Any, feature: Any, scenario: Any, exact: Any
                  ) -> Any:
    """Returns the number of the query of each request, -1 where none is typed.

    Args:
      first_query: `[C]` int32, from `query_texts`.
      leaf: `[R]` int32, of the need.
      feature: `[R]` int32, of the need, -1 if any will do.
      scenario: `[R]` int, of `SCENARIOS`.
      exact: `[R]` float32 in [0, 1), how exactly the need is put.

    Returns:
      `[R]` int32; all arrays are NumPy's, or all JAX's.
    """
    named = (feature >= 0) & (exact >= _VAGUE)
    search = scenario == SCENARIOS.index("search")
    query = first_query[leaf] + named * (1 + feature)
    return ((query + 1) * search - 1).astype(np.int32)
