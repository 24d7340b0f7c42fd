"""The network under the learnt quantisers: an MLP down to a latent and one back up.

It reads vectors less their mean and over their scale, so that learning rates do not
depend on the units of the embeddings. All of it lives in a flat dictionary of arrays:
`encoder_<layer>_kernel`, `encoder_<layer>_bias`, the same of `decoder`, `mean` `[D]`
and `scale` `[]`.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from oxyrec_jax import parallel, progress
from oxyrec_jax.base import Array, InputError
from oxyrec_jax.tokenizer import rows

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]
State = TypeVar("State")
_ROWS_AT_ONCE = 1 << 16
_BYTES_AT_ONCE = 1 << 26  # of batches on their way to the device
_SIDES = ("encoder", "decoder")


class Mlp(nn.Module):
    """Dense layers with GELU between them.

    Attributes:
      widths: of the layers' outputs, the last without activation.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for layer, width in enumerate(self.widths):
            x = nn.Dense(width, name=str(layer))(nn.gelu(x) if layer else x)
        return x


class Autoencoder(nn.Module):
    """An encoder `[..., D]` to `[..., E]` and its mirror image as the decoder.

    Attributes:
      dimension: D.
      hidden: widths of the encoder's hidden layers, the decoder's in reverse.
      latent: E.
    """

    dimension: int
    hidden: tuple[int, ...]
    latent: int

    def setup(self):
        self.encoder = Mlp((*self.hidden, self.latent))
        self.decoder = Mlp((*self.hidden[::-1], self.dimension))

    def __call__(self, x: Array) -> Array:
        return self.decode(self.encode(x))

    def encode(self, x: Array) -> Array:
        """Returns the latents `[..., E]` of standardised points `[..., D]`."""
        return self.encoder(x)

    def decode(self, z: Array) -> Array:
        """Returns the standardised points `[..., D]` of latents `[..., E]`."""
        return self.decoder(z)


def make(rng: Array, dimension: int, hidden: tuple[int, ...], latent: int
         ) -> tuple[Autoencoder, Params]:
    """Returns a network and its first parameters; biases are 0, so 0 maps to 0."""
    network = Autoencoder(dimension, hidden, latent)
    return network, network.init(rng, jnp.zeros((1, dimension)))["params"]


def down(network: Autoencoder, params: Params, x: Array) -> Array:
    """Encodes standardised points `[..., D]` to `[..., E]`."""
    return cast(Array, network.apply({"params": params}, x, method=network.encode))


def up(network: Autoencoder, params: Params, z: Array) -> Array:
    """Decodes latents `[..., E]` to standardised points `[..., D]`."""
    return cast(Array, network.apply({"params": params}, z, method=network.decode))


def standard(x: np.ndarray) -> Arrays:
    """Returns the `mean` `[D]` and `scale` `[]` of points `[N, D]`, float32.

    The scale is the root of the mean squared distance from the mean, over sqrt(D): one
    number for all columns, so that distances keep their proportions. 1 where the points
    are all alike.
    """
    mean = np.asarray(np.mean(x, axis=0, dtype=np.float64), np.float32)
    spread = energy = 0.0
    for start in range(0, len(x), _ROWS_AT_ONCE):
        part = np.asarray(x[start : start + _ROWS_AT_ONCE], np.float64)
        energy += float(np.square(part).sum())
        spread += float(np.square(part - mean).sum())
    flat = spread <= 1e-10 * energy  # the rounding of float32, squared
    scale = np.asarray(1 if flat else (spread / x.size) ** 0.5, np.float32)
    return {"mean": mean, "scale": scale}


def pack(params: Params) -> Arrays:
    """Returns the parameters under flat names."""
    return {f"{side}_{layer}_{name}": np.asarray(array) for side in _SIDES
            for layer, arrays in params[side].items()
            for name, array in arrays.items()}


def unpack(arrays: Arrays) -> tuple[Autoencoder, Params]:
    """Returns the network and parameters that `pack` gave; shapes tell the widths.

    Raises:
      InputError: an array is missing.
    """
    params: Params = {side: {} for side in _SIDES}
    for name, array in arrays.items():
        side, _, rest = name.partition("_")
        if side in _SIDES:
            layer, _, leaf = rest.partition("_")
            params[side].setdefault(layer, {})[leaf] = jnp.asarray(array)
    try:
        widths = [params["encoder"][str(layer)]["bias"].size
                  for layer in range(len(params["encoder"]))]
        network = Autoencoder(arrays["mean"].size, tuple(widths[:-1]), widths[-1])
    except (KeyError, IndexError) as error:
        raise InputError("the codebooks lack arrays of the encoder; tokenize again"
                         ) from error
    return network, params


def optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam, its rate falling to 0 along a cosine."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)))


def train(state: State, run: Callable[[State, Array, Array], tuple[State, Array]],
          x: np.ndarray, *, rng: Array, steps: int, batch: int, mesh: Mesh | None,
          what: str) -> State:
    """Runs training steps on shuffled batches, a few dozen in one call of `run`.

    Points are drawn epoch by epoch without replacement; a batch may straddle two.

    Args:
      state: consumed.
      run: `(state, batches [S, B, D], count []) -> (state, loss [])`: takes the first
        `count` batches and returns the mean loss; compiled once, as S never changes.
      x: `[N, D]` float points, any N >= 1; only the rows of S batches are copied.
      rng: key, consumed: of the order.
      steps: how many.
      batch: B, rows over all devices.
      mesh: cuts each batch over its data axes; None: one device.
      what: for the progress bar.

    Raises:
      InputError: the batch is no multiple of the devices, or a loss is not finite.
    """
    cut = batch_sharding(mesh, batch)
    draw = _endless_rows(rows.host_rng(rng), len(x))
    size = max(1, min(steps, _BYTES_AT_ONCE // (4 * batch * x.shape[1])))
    with progress.bar(what, steps) as advance:
        for done in range(0, steps, size):
            count = min(size, steps - done)
            batches = np.zeros((size, batch, x.shape[1]), np.float32)
            for step in range(count):
                batches[step] = x[draw(batch)]
            placed = (jnp.asarray(batches) if cut is None else
                      jax.make_array_from_callback(batches.shape, cut,
                                                   batches.__getitem__))
            state, loss = run(state, placed, jnp.int32(count))
            if not np.isfinite(loss):
                raise InputError(f"{what}: the loss is {loss} within {done + count} "
                                 "steps, expected a finite number; lower its "
                                 "learning_rate")
            advance(count, f"loss {float(loss):.4f}")
    return state


def batch_sharding(mesh: Mesh | None, batch: int) -> NamedSharding | None:
    """Returns how batches `[S, B, D]` lie on the devices: B over the data axes."""
    if mesh is None:
        return None
    axes = tuple(axis for axis in parallel.BATCH_AXES if axis in mesh.axis_names)
    parts = int(np.prod([mesh.shape[axis] for axis in axes]))
    if batch % parts:
        raise InputError(f"the quantiser's batch is {batch}, expected a multiple of "
                         f"the {parts} devices that share it; change the batch")
    return NamedSharding(mesh, PartitionSpec(None, axes))


def replicate(state: State, mesh: Mesh | None) -> State:
    """Keeps a training state whole on every device; inside and outside of jit."""
    if mesh is None:
        return state
    return jax.lax.with_sharding_constraint(state, parallel.replicated(mesh))


def latents(arrays: Arrays, x: np.ndarray, *, chunk: int) -> np.ndarray:
    """Encodes points `[N, D]`, streamed: `[N, E]` float32."""
    network, params = unpack(arrays)
    run = functools.partial(_encode, params, arrays["mean"], arrays["scale"],
                            network=network)
    return rows.stream(run, x, (network.latent,), np.float32, chunk=chunk)


def rebuild(arrays: Arrays, z: np.ndarray, *, chunk: int = 512) -> np.ndarray:
    """Decodes latents `[N, E]`, streamed: `[N, D]` float32 in the points' units."""
    network, params = unpack(arrays)
    run = functools.partial(_decode, params, arrays["mean"], arrays["scale"],
                            network=network)
    return rows.stream(run, z, (network.dimension,), np.float32, chunk=chunk)


@functools.partial(jax.jit, static_argnames="network")
def _encode(params: Params, mean: Array, scale: Array, x: Array, *,
            network: Autoencoder) -> Array:
    return down(network, params, (x - mean) / scale)


@functools.partial(jax.jit, static_argnames="network")
def _decode(params: Params, mean: Array, scale: Array, z: Array, *,
            network: Autoencoder) -> Array:
    return up(network, params, z) * scale + mean


def _endless_rows(host: np.random.Generator, items: int
                  ) -> Callable[[int], np.ndarray]:
    left = np.zeros(0, np.int64)

    def draw(count: int) -> np.ndarray:
        nonlocal left
        while len(left) < count:
            left = np.concatenate([left, host.permutation(items)])
        taken, left = left[:count], left[count:]
        return taken
    return draw
