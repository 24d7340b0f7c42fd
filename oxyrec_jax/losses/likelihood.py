"""The likelihood of the next code: plain, and without ever holding all the logits."""

import functools

import jax
import jax.numpy as jnp

from oxyrec_jax.base import Array, Weighted
from oxyrec_jax.losses import checks


def next_code_loss(logits: Array, targets: Array, mask: Array, *,
                   sample_weights: Array | None = None, label_smoothing: float = 0.0,
                   z_loss: float = 0.0) -> Weighted:
    """Weighted cross-entropy of the next code under a softmax over the codebook.

    With z = log Σ_v exp(logits_v), a target y of weight w costs

        w · [z - (1 - s) logits_y - s mean_v(logits_v) + z_loss · z²]

    where s is `label_smoothing`: the target is mixed with the uniform distribution.

    Args:
      logits: `[..., V]` float, nats up to a constant; -inf forbids a code (then
        `label_smoothing` must be 0). Receives the gradient.
      targets: `[...]` int, in `[0, V)` where `mask` is true. One that is not makes loss
        and gradient NaN: wrong data must not train.
      mask: `[...]` bool, true = supervised. Elsewhere nothing is read.
      sample_weights: `[...]` float, unit-free, `>= 0`; a purchase may weigh more than a
        click. None weighs every target 1.
      label_smoothing: share of the uniform distribution, unit-free, in `[0, 1)`.
      z_loss: weight of z², `>= 0`: keeps the normaliser near 1.

    Returns:
      Scalar `Weighted`: the weighted sum of the costs in nats, and the sum of weights.

    Raises:
      ValueError: shapes disagree or an option is out of range.
      TypeError: a dtype is wrong.

    Source: weighted next-token prediction, OxygenREC 2025,
    https://arxiv.org/abs/2512.22386, eq. 3 (first term); label smoothing, Szegedy et
    al. 2016, https://arxiv.org/abs/1512.00567, §7; z-loss, Chowdhery et al. 2022,
    https://arxiv.org/abs/2204.02311, §5. Defaults: ours, both off.
    """
    logits = checks.as_float("logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits.shape={logits.shape}, expected [..., V] with V > 0")
    mask = checks.as_mask("mask", mask, logits.shape[:-1])
    targets = checks.as_index("targets", targets, logits.shape[:-1])
    logits = jnp.where(mask[..., None], logits, 0)  # a padded NaN stops here
    # A comparison instead of a gather: its gradient is elementwise, not a scatter.
    chosen = jnp.arange(logits.shape[-1]) == targets[..., None]
    figures = (
        jax.nn.logsumexp(logits, axis=-1),
        jnp.sum(jnp.where(chosen, logits, 0), axis=-1),
        None if checks.is_off(label_smoothing) else jnp.mean(logits, axis=-1),
    )
    return _weighted_costs(figures, targets, mask, sample_weights, logits.shape[-1],
                           label_smoothing, z_loss)


def chunked_next_code_loss(hidden: Array, table: Array, targets: Array, mask: Array, *,
                           chunk: int = 1024, sample_weights: Array | None = None,
                           label_smoothing: float = 0.0,
                           z_loss: float = 0.0) -> Weighted:
    """`next_code_loss` of `hidden @ table.T`, never holding all logits of a target.

    The codebook is read in chunks, once forward (running log-sum-exp) and once more
    backward, where each chunk's logits are computed again: a third more FLOPs, and
    `[..., chunk]` instead of `[..., V]` of memory. Value and gradient are exact.

    Args:
      hidden: `[..., D]` float: the decoder's output, already scaled where a tied head
        asks for it. Receives a gradient of its own dtype.
      table: `[V, D]` float: one row for each code. Receives a gradient of its own
        dtype, summed in float32. The products run in the wider dtype of the two,
        adding up in float32.
      targets: `[...]` int, in `[0, V)` where `mask` is true; else loss and gradient are
        NaN.
      mask: `[...]` bool, true = supervised. Elsewhere nothing is read.
      chunk: codes at once, `>= 1`. Ours: of 512 to 8192, 512 and 1024 were the
        fastest on CPU, and the memory needed grows with it.
      sample_weights: as in `next_code_loss`.
      label_smoothing: as in `next_code_loss`.
      z_loss: as in `next_code_loss`.

    Returns:
      Scalar `Weighted`: the weighted sum of the costs in nats, and the sum of weights.

    Raises:
      ValueError: shapes disagree or an option is out of range.
      TypeError: a dtype is wrong.

    Source: ours; the running normaliser is that of Milakov and Gimelshein 2018,
    https://arxiv.org/abs/1805.02867, algorithm 3.
    """
    hidden, table = jnp.asarray(hidden), jnp.asarray(table)
    checks.as_float("hidden", hidden)
    checks.as_float("table", table)
    checks.check_rank("table", table, "V D")
    checks.check_option("chunk", chunk, 1)
    if hidden.ndim == 0 or hidden.shape[-1] != table.shape[1]:
        raise ValueError(f"hidden.shape={hidden.shape}, expected (..., "
                         f"{table.shape[1]}), the width of table")
    mask = checks.as_mask("mask", mask, hidden.shape[:-1])
    targets = checks.as_index("targets", targets, hidden.shape[:-1])
    hidden = jnp.where(mask[..., None], hidden, 0)
    rows = hidden.reshape(-1, hidden.shape[-1])
    figures = tuple(
        figure.reshape(mask.shape) for figure in _chunked_figures(
            rows, table, targets.reshape(-1), min(chunk, table.shape[0])))
    return _weighted_costs(figures, targets, mask, sample_weights, table.shape[0],
                           label_smoothing, z_loss)


def _weighted_costs(figures, targets: Array, mask: Array, sample_weights: Array | None,
                    codes: int, label_smoothing: float, z_loss: float) -> Weighted:
    """The costs from normaliser, chosen logit and mean logit of each target."""
    checks.check_option("label_smoothing", label_smoothing, 0, 1, open_high=True)
    checks.check_option("z_loss", z_loss, 0)
    normaliser, chosen, mean = figures
    cost = normaliser - (1 - label_smoothing) * chosen
    if mean is not None:
        cost = cost - label_smoothing * mean
    cost = cost + z_loss * jnp.square(normaliser)
    known = (targets >= 0) & (targets < codes)
    cost = cost * jnp.where(known | ~mask, 1, jnp.nan)
    weights = checks.as_weights(sample_weights, mask, cost.dtype)
    return Weighted(jnp.sum(weights * jnp.where(mask, cost, 0)), jnp.sum(weights))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _chunked_figures(rows: Array, table: Array, targets: Array, chunk: int):
    """Normaliser, chosen logit and mean logit of each row, `[N]` each."""
    count = table.shape[0]
    dtype = jnp.promote_types(jnp.result_type(rows, table), jnp.float32)

    def step(carry, index):
        top, total, chosen, added = carry
        logits, codes, _ = _chunk(rows, table, index, chunk)
        new_top = jnp.maximum(top, jnp.max(logits, axis=-1, where=codes >= 0,
                                           initial=-jnp.inf))
        # Before the first finite logit both are -inf: their difference would be NaN.
        base = jnp.where(jnp.isfinite(new_top), new_top, 0)
        part = jnp.sum(jnp.exp(logits - base[:, None]), axis=-1, where=codes >= 0)
        total = total * jnp.exp(top - base) + part
        hit = codes == targets[:, None]
        chosen = chosen + jnp.sum(jnp.where(hit, logits, 0), axis=-1)
        added = added + jnp.sum(logits, axis=-1, where=codes >= 0)
        return (new_top, total, chosen, added), None

    zeros = jnp.zeros(rows.shape[:1], dtype)
    start = (jnp.full_like(zeros, -jnp.inf), zeros, zeros, zeros)
    (top, total, chosen, added), _ = jax.lax.scan(
        step, start, jnp.arange(-(-count // chunk)))
    return top + jnp.log(total), chosen, added / count


def _chunk(rows: Array, table: Array, index: Array, chunk: int):
    """Logits `[N, chunk]`, codes `[1, chunk]` (-1 where seen before) and first code.

    The last chunk ends at the table's end and so may overlap the one before.
    """
    first = jnp.minimum(index * chunk, table.shape[0] - chunk)
    part = jax.lax.dynamic_slice_in_dim(table, first, chunk)
    logits = _product(rows, part.T)
    codes = first + jnp.arange(chunk)
    return logits, jnp.where(codes >= index * chunk, codes, -1)[None], first


def _product(left: Array, right: Array) -> Array:
    """The matrix product in the wider dtype of the two, adding up in float32."""
    dtype = jnp.result_type(left, right)
    return jnp.matmul(left.astype(dtype), right.astype(dtype),
                      preferred_element_type=jnp.promote_types(dtype, jnp.float32))


def _forward(rows: Array, table: Array, targets: Array, chunk: int):
    figures = _chunked_figures(rows, table, targets, chunk)
    return figures, (rows, table, targets, figures[0])


def _backward(chunk: int, saved, cotangents):
    rows, table, targets, normaliser = saved
    of_normaliser, of_chosen, of_mean = cotangents
    count = table.shape[0]
    narrow = jnp.result_type(rows, table)

    def step(carry, index):
        of_rows, of_table = carry
        logits, codes, first = _chunk(rows, table, index, chunk)
        share = jnp.exp(logits - normaliser[:, None]) * of_normaliser[:, None]
        hit = jnp.where(codes == targets[:, None], of_chosen[:, None], 0)
        of_logits = share + hit + of_mean[:, None] / count
        of_logits = jnp.where(codes >= 0, of_logits, 0).astype(narrow)
        part = jax.lax.dynamic_slice_in_dim(table, first, chunk)
        of_rows = of_rows + _product(of_logits, part)
        before = jax.lax.dynamic_slice_in_dim(of_table, first, chunk)
        of_table = jax.lax.dynamic_update_slice_in_dim(
            of_table, before + _product(of_logits.T, rows), first, axis=0)
        return (of_rows, of_table), None

    start = (jnp.zeros(rows.shape, normaliser.dtype),
             jnp.zeros(table.shape, normaliser.dtype))
    (of_rows, of_table), _ = jax.lax.scan(step, start, jnp.arange(-(-count // chunk)))
    return of_rows.astype(rows.dtype), of_table.astype(table.dtype), None


_chunked_figures.defvjp(_forward, _backward)
