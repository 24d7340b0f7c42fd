"""One interface to every quantiser: vectors to codes and back.

    residual-kmeans  each level clusters what the levels before left over
    balanced-kmeans  the same, and no code of a level gets more than its share
    rq-vae           residual levels in the latent space of a network trained with it
    product          each level clusters its own slice of the vector, turned before
    fsq              a network's latents are rounded; no codebook

    codebooks = fit(rng, x, Quantiser(), widths=(256, 256, 256))
    codes = encode_catalogue(codebooks, x, Quantiser())  # [N, 3] int32
    later = encode(codebooks, new_x)          # items that come one by one
    rebuilt = decode(codebooks, codes[:, :2])  # [N, D] float32, from two of the codes
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.tokenizer import balanced, kmeans, residual, rqvae
from oxyrec_jax.tokenizer import fsq as fsq_lib
from oxyrec_jax.tokenizer import product as product_lib

KINDS = ("residual-kmeans", "balanced-kmeans", "rq-vae", "product", "fsq")
MOST_CODES = 1 << 16  # ours: a level wider than this is a mistake of the configuration
_ROWS_AT_ONCE = 1 << 16
_MOST = 1e16  # of a number of a vector: float32 holds sums of its squares


@dataclasses.dataclass(frozen=True)
class Quantiser:
    """Which quantiser, and how it is fitted.

    Attributes:
      kind: one of `KINDS`.
      sample: for the kinds made of k-means: training points per code of the widest
        level; more are sampled down. 256, as in faiss.
      lloyd: for the kinds made of k-means: how each codebook is fitted.
      balance, rq_vae, product, fsq: what one kind alone needs.
    """

    kind: str = "residual-kmeans"
    sample: int = 256
    lloyd: kmeans.KMeans = kmeans.KMeans()
    balance: balanced.Balance = balanced.Balance()
    rq_vae: rqvae.RqVae = rqvae.RqVae()
    product: product_lib.Product = product_lib.Product()
    fsq: fsq_lib.Fsq = fsq_lib.Fsq()


@dataclasses.dataclass(frozen=True)
class Codebooks:
    """A fitted quantiser: plain arrays, so that any bundle can hold it.

    Attributes:
      kind: which quantiser.
      widths: T numbers: codes on each level.
      arrays: by name, as the module of the kind says. Kinds made of residual k-means:
        `codebook_<level>` `[V, D]`.
    """

    kind: str
    widths: tuple[int, ...]
    arrays: dict[str, np.ndarray]


def fit(rng: Array, x: np.ndarray, cfg: Quantiser, *, widths: tuple[int, ...],
        mesh: jax.sharding.Mesh | None = None, start: Codebooks | None = None
        ) -> Codebooks:
    """Fits a quantiser.

    Args:
      rng: key, consumed. The same key, points and config give the same bits.
      x: `[N, D]` float points, N >= 1, all finite; may be memory-mapped.
      cfg: which quantiser, and how.
      widths: T numbers: codes on each level.
      mesh: devices that share the work along their data axis; None: one device.
      start: of the same kind and widths: where the fit starts from instead of from
        nothing.

    Raises:
      InputError: the kind is unknown, a width is not positive, `x` has no rows or a
        row that is not finite, or `start` does not fit, with the row or field.
      ValueError: `x` is not a matrix.
    """
    widths = tuple(int(width) for width in widths)
    if cfg.kind not in KINDS:
        raise InputError(f"the quantiser is {cfg.kind!r}, expected one of "
                         f"{', '.join(KINDS)}")
    if not widths or not all(1 <= width <= MOST_CODES for width in widths):
        raise InputError(f"the quantiser's widths are {widths}, expected one or more "
                         f"numbers from 1 to {MOST_CODES}")
    if start is not None and (start.kind, start.widths) != (cfg.kind, widths):
        raise InputError(f"the quantiser to start from is {start.kind} {start.widths}, "
                         f"expected {cfg.kind} {widths}; fit without it")
    _check_points(x)
    before = None if start is None else start.arrays
    how = residual.ResidualKMeans(widths=widths, sample=cfg.sample, lloyd=cfg.lloyd)
    match cfg.kind:
        case "residual-kmeans":
            arrays = _named(residual.fit(
                rng, x, how, mesh=mesh, start=None if start is None else _books(start)))
        case "balanced-kmeans":
            arrays = _named(balanced.fit(
                rng, x, how, cfg.balance, mesh=mesh,
                start=None if start is None else _books(start)))
        case "rq-vae":
            arrays = rqvae.fit(rng, x, cfg.rq_vae, widths=widths, mesh=mesh,
                               start=before)
        case "product":
            arrays = product_lib.fit(rng, x, cfg.product, widths=widths,
                                     sample=cfg.sample, lloyd=cfg.lloyd, mesh=mesh,
                                     start=before)
        case "fsq":
            arrays = fsq_lib.fit(rng, x, cfg.fsq, widths=widths, mesh=mesh,
                                 start=before)
    return Codebooks(cfg.kind, widths, arrays)


def encode(codebooks: Codebooks, x: np.ndarray, *, chunk: int = 512) -> np.ndarray:
    """Gives each point its code at every level.

    Args:
      codebooks: from `fit`.
      x: `[N, D]` float points, all finite; may be memory-mapped. N = 0 is allowed.
      chunk: points scored at once.

    Returns:
      Codes `[N, T]` int32; a row's codes do not depend on the rows beside it.

    Raises:
      InputError: a row is not finite, or has another length than the fitted ones.
      ValueError: `x` is not a matrix.
    """
    _check_vectors(codebooks, x)
    arrays, levels = codebooks.arrays, len(codebooks.widths)
    match codebooks.kind:
        case "residual-kmeans" | "balanced-kmeans":
            return residual.encode(_books(codebooks), x, chunk=chunk)
        case "rq-vae":
            return rqvae.encode(arrays, x, levels=levels, chunk=chunk)
        case "product":
            return product_lib.encode(arrays, x, levels=levels, chunk=chunk)
        case "fsq":
            return fsq_lib.encode(arrays, x, levels=levels, chunk=chunk)
    raise _unknown(codebooks)


def encode_catalogue(codebooks: Codebooks, x: np.ndarray, cfg: Quantiser, *,
                     chunk: int = 512) -> np.ndarray:
    """Gives all items of a catalogue their codes at once.

    For every kind but "balanced-kmeans" this is `encode`. That one looks at all items
    to keep any code from getting too many, so a row's codes depend on the others.

    Args:
      codebooks: from `fit`.
      x: `[N, D]` float points, all finite.
      cfg: as for `fit`; `balance` is read.
      chunk: points scored at once.

    Returns:
      Codes `[N, T]` int32.

    Raises:
      InputError, ValueError: as `encode`.
    """
    if codebooks.kind != "balanced-kmeans":
        return encode(codebooks, x, chunk=chunk)
    _check_vectors(codebooks, x)
    return balanced.assign_balanced(_books(codebooks), x, cfg.balance)


def decode(codebooks: Codebooks, codes: np.ndarray) -> np.ndarray:
    """Rebuilds points from their codes, or from the first few of them.

    Args:
      codebooks: from `fit`.
      codes: `[N, T']` int, T' <= T.

    Returns:
      `[N, D]` float32. The k-means kinds: the sum of the T' centroids; rq-vae: what the
      network makes of that sum; product and fsq: the other slices or latents are 0.

    Raises:
      ValueError: the shape does not fit, or a code lies outside its level.
    """
    _check_codes(codebooks, codes)
    match codebooks.kind:
        case "residual-kmeans" | "balanced-kmeans":
            return residual.decode(_books(codebooks), codes)
        case "rq-vae":
            return rqvae.decode(codebooks.arrays, codes)
        case "product":
            return product_lib.decode(codebooks.arrays, codes)
        case "fsq":
            return fsq_lib.decode(codebooks.arrays, codes,
                                  levels=len(codebooks.widths))
    raise _unknown(codebooks)


def last_level(codebooks: Codebooks, x: np.ndarray, codes: np.ndarray
               ) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the last level quantises, so that a last code may be reassigned.

    Args:
      codebooks: from `fit`.
      x: `[N, D]` float points.
      codes: `[N, T]` int: their codes; the last is not read.

    Returns:
      `[N, E]` float32 points and `[V, E]` float32 centroids: `encode` chooses as the
      last code the centroid nearest to the point. The k-means kinds: E = D; else E
      is the width of the space in which the kind chooses.
    """
    _check_codes(codebooks, codes)
    arrays, levels = codebooks.arrays, len(codebooks.widths)
    match codebooks.kind:
        case "residual-kmeans" | "balanced-kmeans":
            books = _books(codebooks)
            return x - residual.decode(books, codes[:, :-1]), np.asarray(books[-1])
        case "rq-vae":
            return rqvae.last_rest(arrays, x, codes)
        case "product":
            return product_lib.last_slice(arrays, x, levels=levels)
        case "fsq":
            return fsq_lib.last_group(arrays, x, levels=levels)
    raise _unknown(codebooks)


def dimension(codebooks: Codebooks) -> int:
    """Returns D, the length of the vectors that the quantiser takes."""
    match codebooks.kind:
        case "residual-kmeans" | "balanced-kmeans":
            return codebooks.arrays["codebook_0"].shape[1]
        case "rq-vae" | "product" | "fsq":
            return codebooks.arrays["mean"].size
    raise _unknown(codebooks)


def _named(books: tuple[Array, ...]) -> dict[str, np.ndarray]:
    return {f"codebook_{level}": np.asarray(book) for level, book in enumerate(books)}


def _books(codebooks: Codebooks) -> tuple[Array, ...]:
    return tuple(jnp.asarray(codebooks.arrays[f"codebook_{level}"])
                 for level in range(len(codebooks.widths)))


def _unknown(codebooks: Codebooks) -> InputError:
    return InputError(f"the codebooks are of the kind {codebooks.kind!r}, expected one "
                      f"of {', '.join(KINDS)}; tokenize again")


def _check_points(x: np.ndarray) -> None:
    if x.ndim != 2:
        raise ValueError(f"{x.shape=}, expected [N, D]")
    if not x.size:
        raise InputError(f"the quantiser got {x.shape[0]} vectors of {x.shape[1]} "
                         "columns, expected at least one of each; embed the items")
    _check_finite(x)


def _check_vectors(codebooks: Codebooks, x: np.ndarray) -> None:
    if x.ndim != 2:
        raise ValueError(f"{x.shape=}, expected [N, D]")
    if x.shape[1] != dimension(codebooks):
        raise InputError(f"the vectors have {x.shape[1]} columns, the quantiser was "
                         f"fitted on {dimension(codebooks)}; embed the items as then")
    _check_finite(x)


def _check_finite(x: np.ndarray) -> None:
    for start in range(0, len(x), _ROWS_AT_ONCE):
        part = x[start : start + _ROWS_AT_ONCE]
        bad = ~(np.abs(part) <= _MOST).all(axis=1)  # NaN is not either
        if bad.any():
            what = ("has numbers above 1e16, whose distances float32 does not hold"
                    if np.isfinite(part[bad]).all() else "is not finite")
            raise InputError(
                f"the vector of item {start + int(np.argmax(bad))} {what} (the first "
                f"of at least {int(bad.sum())}); embed the items again")


def _check_codes(codebooks: Codebooks, codes: np.ndarray) -> None:
    levels = len(codebooks.widths)
    if codes.ndim != 2 or codes.shape[1] > levels or codes.dtype.kind not in "iu":
        raise ValueError(f"{codes.shape=} {codes.dtype=}, expected integers [N, T'] "
                         f"with T' <= {levels}")
    widths = np.asarray(codebooks.widths[: codes.shape[1]])
    if len(codes) and ((codes.min(0) < 0) | (codes.max(0) >= widths)).any():
        raise ValueError(f"codes from {codes.min(0)} to {codes.max(0)}, expected 0 to "
                         f"{widths - 1}")
