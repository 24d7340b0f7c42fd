"""What `decode.py` times: the network, its compiled request, what that must cost."""

import functools
import os
from collections.abc import Sequence

# JAX and PyTorch read these when they are imported; idle threads must not spin.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import peer_t5  # noqa: E402
from flax import linen as nn  # noqa: E402

from oxyrec_jax.decode import beam, scoring  # noqa: E402
from oxyrec_jax.models import flops, generator  # noqa: E402
from oxyrec_jax.tokenizer import trie as tries  # noqa: E402

WIDTHS = (256,) * 4
ITEMS = 12_000
HISTORY = 30
SIZE = peer_t5.Size(width=128, heads=6, head_width=64, mlp_width=1024, layers=4)
CONFIG = generator.ModelConfig(
    width=SIZE.width, heads=SIZE.heads, head_width=SIZE.head_width,
    mlp_width=SIZE.mlp_width, encoder_layers=SIZE.layers, decoder_layers=SIZE.layers,
    causal=False, item_embedding=False, dropout=0.0)


def make_codes(items: int, seed: int = 0) -> np.ndarray:
    """Distinct semantic IDs `[N, T]` with popular and rare codes on each level."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((0, len(WIDTHS)), np.int32)
    while len(ids) < items:
        columns = []
        for width in WIDTHS:
            share = rng.permutation(1 / (np.arange(width) + 8.0))
            columns.append(rng.choice(width, items, p=share / share.sum()))
        fresh = np.stack(columns, axis=1).astype(np.int32)
        ids = np.unique(np.concatenate([ids, fresh]), axis=0)
    return rng.permutation(ids)[:items]


class Ours:
    """The network with random weights and its compiled request."""

    def __init__(self, codes: np.ndarray):
        self.codes = codes
        self.trie, self.leaves = tries.build_trie(codes, WIDTHS)
        self.tables = generator.ItemTables(jnp.asarray(codes))
        self.model = generator.Generator(CONFIG, WIDTHS, len(codes))
        batch = self.batch(np.zeros((1, HISTORY), np.int32))
        batch["targets"] = jnp.zeros((1, 1), jnp.int32)
        params = nn.unbox(self.model.init(jax.random.key(0), batch, self.tables))
        # spread the logits, as a trained network does
        vectors = params["params"]["code_vectors"]
        params["params"]["code_vectors"] = vectors * SIZE.width**0.5
        self.params = params
        self._request = jax.jit(self._search, static_argnames="beams")

    def batch(self, items: np.ndarray) -> dict[str, jax.Array]:
        """What the network reads of `[B, L]` full histories."""
        last = np.full((len(items), 1), items.shape[1] - 1, np.int32)
        return {"items": jnp.asarray(items), "target_positions": jnp.asarray(last),
                "segments": jnp.ones(items.shape, jnp.int32)}

    def recommend(self, items: np.ndarray, beams: int) -> np.ndarray:
        """`[B, L]` histories to `[B, K]` leaves on the host."""
        found = self._request(self.params, self.tables, self.trie, self.batch(items),
                              beams=beams)
        return np.asarray(found.leaves)

    def _search(self, params, tables, trie, batch, *, beams: int) -> beam.Beams:
        call = functools.partial(self.model.apply, params)
        shared = call(batch, tables, method="start_search")

        def step(past, codes, level):
            return call(shared, past, codes, level, method="search_step")

        return beam.beam_search(step, (), trie, beams=beams, batch=len(batch["items"]),
                                parts=scoring.parts_of(beams))

    def rows_to_run(self, items: np.ndarray, beams: int) -> list[float]:
        """Beams of a request at each level that the network must run at least."""
        @jax.jit
        def count(params, tables, trie, batch):
            size, counts = len(batch["items"]), []
            call = functools.partial(self.model.apply, params)
            shared = call(batch, tables, method="start_search")

            def step(state, codes, level):
                past, nodes = state if level else ((), jnp.zeros((size, 1), jnp.int32))
                if level:
                    nodes = tries.advance(trie, level - 1, nodes, codes)
                    counts.append(jnp.sum(scoring.open_nodes(trie, level, nodes)))
                logits, past = call(shared, past, codes, level, method="search_step")
                return logits, (past, nodes)
            beam.beam_search(step, (), trie, beams=beams, batch=size)
            return counts
        counts = count(self.params, self.tables, self.trie, self.batch(items))
        return [1.0, *(float(number) / len(items) for number in counts)]


def request_cost(rows: Sequence[float], positions: int, batch: int,
                 ) -> tuple[float, float]:
    """What one request must cost at least: FLOPs of matrix products, bytes of memory.

    Weights are read once for a batch in the encoder and once at each level in the
    decoder; keys and values of the history once at each level for all beams; a beam's
    own keys and values and its logits are written and read. Other activations are
    taken to stay in cache. `rows` are the beams of each level with more than one
    semantic ID below them: the others need no network.
    """
    inner, width, layers = CONFIG.heads * CONFIG.head_width, CONFIG.width, SIZE.layers
    encoder = flops.forward_flops(CONFIG, WIDTHS, lengths=[positions], targets=[1])
    work = encoder.encoder + layers * positions * 4 * width * inner
    matrices = 4 * width * inner + 3 * width * CONFIG.mlp_width
    floats = layers * (matrices + 2 * width * inner) / batch
    for level, (codes, live) in enumerate(zip(WIDTHS, rows, strict=True)):
        own = 2 * inner * (level + 1)
        work += live * (layers * (2 * matrices + 4 * width * inner + 2 * own
                                  + 4 * positions * inner) + 2 * width * codes)
        floats += (layers * (matrices + 2 * width * inner) + width * codes) / batch
        floats += layers * 2 * positions * inner
        floats += live * (layers * 2 * own + 2 * codes)
    return work, 4 * floats
