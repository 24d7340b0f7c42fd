"""Eight simulated CPU devices, seeded tests, and where the development data lies."""

import atexit
import gc
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is most of the suite's time, and nearly every program runs a few times on a
# few numbers. Processes that tests start inherit it; `optimised` turns it off.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
# Two thirds of what is left is spent on XLA's newer code for fused loops, which from
# 0.12 on cannot be turned off.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
# Commands that tests start leave the user's own folder of programs alone: all processes
# of a run of the tests share one, for as long as it lasts. It is not locked, for a lock
# costs more with each program that is kept; one that is read half-written is compiled.
os.environ.setdefault("OXYREC_COMPILE_CACHE", "off")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.mkdtemp(prefix="programs-of-tests-")
    atexit.register(shutil.rmtree, _programs, ignore_errors=True)
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": _programs,
                   "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_configure(config):
    """Warnings are errors, but for a program that could not be read or kept."""
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) "
                            "persistent compilation cache entry:UserWarning")


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of public development data; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"development data are not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> pathlib.Path:
    """A tiny work directory with every step done; copy it before changing it."""
    import tiny_workdir  # needs jax as configured above
    return tiny_workdir.train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def shop_workdir(tmp_path_factory):
    """The workspace of a shop of 40 people whose run learnt nothing; do not change it.
    """
    import tiny_shop  # needs jax as configured above
    return tiny_shop.make(tmp_path_factory.mktemp("shop_workdir") / "work")


@pytest.fixture(scope="session")
def load_file():
    """Loads a file of the project that is in no package: "experiments/align.py"."""
    def load(path):
        spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem,
                                                      ROOT / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    return load


@pytest.fixture
def optimised():
    """Programs as optimised as outside of tests, for what depends on how they compile.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module", autouse=True)
def compiled_as_found():
    """Whoever turned optimisation on or off has turned it back."""
    before = jax.config.read("jax_disable_most_optimizations")
    yield
    assert jax.config.read("jax_disable_most_optimizations") == before


@pytest.fixture(scope="module", autouse=True)
def few_compiled_programs():
    """Forgets compiled programs where a process holds very many.

    Each takes several memory maps, of which Linux grants a process 65,530 by default
    (vm.max_map_count); beyond that XLA dies while it compiles.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()
