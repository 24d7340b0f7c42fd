"""Trustworthy speed: device peaks, measured peaks, MFU, and a clock for steps.

MFU = FLOPs that the model needs / (seconds · devices · peak FLOP/s of one device).
The model hands over its FLOPs in closed form; compiling, evaluating and saving are not
step time. An unknown device has no datasheet peak: it raises rather than guess.
"""

import contextlib
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp

# Peak FLOP/s of one device by matrix dtype, dense (vendor datasheets).
PEAK_FLOPS: dict[str, dict[str, float]] = {
    "NVIDIA H100 80GB HBM3": {"bfloat16": 989e12, "float32": 67e12},
    "NVIDIA H200": {"bfloat16": 989e12, "float32": 67e12},
    "NVIDIA A100-SXM4-80GB": {"bfloat16": 312e12, "float32": 19.5e12},
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v5p": {"bfloat16": 459e12},
    "TPU v6 lite": {"bfloat16": 918e12},
}


def datasheet_peak(device_kind: str, dtype: str) -> float:
    """Looks up the dense peak of one device.

    Args:
      device_kind: `jax.Device.device_kind`.
      dtype: of the matrix products, "bfloat16" or "float32".

    Returns:
      FLOP/s.

    Raises:
      LookupError: the table does not know the device or the dtype; measure a peak with
        `matmul_peak` instead and say so.
    """
    try:
        return PEAK_FLOPS[device_kind][dtype]
    except KeyError:
        raise LookupError(
            f"no datasheet peak for {device_kind!r} in {dtype}; known devices: "
            f"{', '.join(PEAK_FLOPS)}; use profiling.matmul_peak") from None


def matmul_peak(dtype: str = "float32", *, size: int = 1024, seconds: float = 1.0,
                ) -> float:
    """Measures the best rate of one square matrix product on the default device.

    Args:
      dtype: of both operands; random data, as zeros run faster on some devices.
      size: rows and columns.
      seconds: how long to try.

    Returns:
      The best FLOP/s of any single product seen.
    """
    keys = jax.random.split(jax.random.key(0))
    left, right = (jax.random.normal(key, (size, size), dtype) for key in keys)
    multiply = jax.jit(jnp.matmul)
    multiply(left, right).block_until_ready()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        multiply(left, right).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def memory_rate(megabytes: int = 256) -> float:
    """Bytes read and written each second by a pass over an array larger than caches."""
    values = jnp.zeros(megabytes * 2**20 // 4, jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)  # in place: no fresh pages
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        values = add(values).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * values.nbytes / best


def peak_of_all(dtype: str) -> tuple[float, str]:
    """The peak of all devices together, and where the figure comes from.

    Args:
      dtype: of the matrix products.

    Returns:
      FLOP/s and "datasheet"; on CPU, where simulated devices share the cores, the rate
      measured now and "measured".

    Raises:
      LookupError: an accelerator that the table does not know.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        return matmul_peak(dtype), "measured"
    return datasheet_peak(device.device_kind, dtype) * jax.device_count(), "datasheet"


def mfu(flops: float, seconds: float, *, devices: int, peak: float) -> float:
    """Model FLOPs utilisation, unit-free.

    Args:
      flops: FLOPs that the model needs for the work, forward and backward.
      seconds: how long the work took.
      devices: how many devices did it.
      peak: FLOP/s of one device, from `datasheet_peak` or `matmul_peak`.

    Raises:
      ValueError: a time, count or peak that is not positive.

    Source: Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B.
    """
    if seconds <= 0 or devices < 1 or peak <= 0:
        raise ValueError(f"{seconds=} {devices=} {peak=}")
    return flops / (seconds * devices * peak)


class StepClock:
    """Adds up the time of steps, leaving out whatever runs inside `paused()`.

    Attributes:
      seconds: step time since the last `restart`.
    """

    def __init__(self) -> None:
        self._pauses = 0
        self.restart()

    def restart(self) -> None:
        """Forgets the time so far and starts anew."""
        self.seconds, self._since = 0.0, time.perf_counter()
        self._began = self._since

    def goodput(self) -> float:
        """Returns step seconds : all seconds since the last `restart`, at most 1."""
        return self.read() / max(time.perf_counter() - self._began, 1e-9)

    def read(self) -> float:
        """Returns step seconds since the last `restart`."""
        running = 0.0 if self._pauses else time.perf_counter() - self._since
        return self.seconds + running

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the block: compiling, evaluating, saving; blocks may nest."""
        self.seconds, self._pauses = self.read(), self._pauses + 1
        try:
            yield
        finally:
            self._pauses -= 1
            self._since = time.perf_counter()


class Shares:
    """Times the parts of a step that is made of several programs.

    The first block of a part compiles its program and does not count. What is timed
    must have ended when its block ends (`jax.block_until_ready`).
    """

    def __init__(self) -> None:
        self._compiled: set[str] = set()
        self._seconds: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Times the block as one run of a part."""
        begin = time.perf_counter()
        yield
        if part in self._compiled:
            self._seconds.setdefault(part, []).append(time.perf_counter() - begin)
        self._compiled.add(part)

    def read(self, name: str, count: int) -> dict[str, float]:
        """Figures since the last call.

        Args:
          name: of what a step makes, such as "rollouts".
          count: how many of these one step makes.

        Returns:
          "<name>/s" and "share.<part>" of each part by mean seconds; empty where no
          block counted.
        """
        means = {part: sum(times) / len(times)
                 for part, times in self._seconds.items()}
        self._seconds = {}
        if not means:
            return {}
        whole = sum(means.values())
        return {f"{name}/s": count / whole,
                **{f"share.{part}": mean / whole for part, mean in means.items()}}
