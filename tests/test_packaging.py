"""What is installed: declared, no more than needed, and whole outside the checkout."""

import ast
import configparser
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import venv
import zipfile

import pytest

import oxyrec_jax
from oxyrec_jax.cli.extras import EXTRAS, extra_of

PACKAGE = pathlib.Path(oxyrec_jax.__file__).parent
ROOT = pathlib.Path(__file__).resolve().parents[1]
# Distribution of a module where the two are not named alike.
DISTRIBUTIONS = {"orbax": "orbax-checkpoint", "yaml": "pyyaml"}
# What flax installs too, so that it cannot be missing.
BROUGHT = {"optax", "orbax", "yaml"}
BASE = ("losses", "metrics", "models.generator", "models.ranker", "decode.beam",
        "decode.rollout", "decode.sampling", "decode.recommend", "tokenizer.trie",
        "tokenizer.residual", "parallel", "rewards.mapping", "evaluate.off_policy")
WITHOUT = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Nothing())
"""


def settings():
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg", "utf-8")
    return found


def names(text):
    """Distributions of a list of requirements; an extra of this package is left out."""
    found = {re.split(r"[<>=;\[ ]", line.strip())[0] for line in text.splitlines()
             if line.strip()}
    return found - {"oxyrec_jax"}


def imported():
    """Module to one file of the package that imports it."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                wanted = [node.module]
            else:
                continue
            for name in wanted:
                found.setdefault(name.partition(".")[0], path.relative_to(ROOT))
    return {name: path for name, path in found.items()
            if name not in sys.stdlib_module_names and name != "oxyrec_jax"}


def test_every_import_is_declared_and_has_an_extra_or_comes_with_the_package():
    found = settings()
    base = names(found["options"]["install_requires"])
    extras = {name: names(text) for name, text
              in found["options.extras_require"].items()}
    for module, path in imported().items():
        wanted = DISTRIBUTIONS.get(module, module)
        if wanted in base:
            assert module not in EXTRAS, module
        else:
            assert module in EXTRAS, f"{path} imports {module}: declare it"
            assert wanted in extras[EXTRAS[module]], module


def test_the_extras_that_hold_others_hold_all_that_verbs_need():
    extras = settings()["options.extras_require"]
    assert "oxyrec_jax[data,text,report]" in extras["train"]
    assert "oxyrec_jax[train,llm,store,serve]" in extras["all"]
    assert "oxyrec_jax[all,docs]" in extras["test"]
    assert extra_of(ModuleNotFoundError(name="pyarrow.csv")) == "train"
    assert extra_of(ModuleNotFoundError(name="lmdb")) == "store"
    assert extra_of(ModuleNotFoundError(name="oxyrec_jax.nothing")) is None


def python(code, *words, **options):
    return subprocess.run([sys.executable, "-c", code, *words], text=True,
                          capture_output=True, **options)


def test_without_extras_there_are_losses_metrics_models_and_decoding():
    blocked = sorted(set(EXTRAS) - BROUGHT)
    lines = "\n".join(f"import oxyrec_jax.{part}" for part in BASE)
    found = python(WITHOUT.format(blocked=blocked) + lines + "\nprint('whole')")
    assert found.stdout == "whole\n", found.stderr


def test_a_verb_that_lacks_a_module_names_the_extra(tmp_path):
    found = python(WITHOUT.format(blocked=["grain"])
                   + "from oxyrec_jax import cli; cli.main()",
                   "quickstart", "--workdir", str(tmp_path))
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == ("oxyrec: grain is not installed; `pip install "
                            "'oxyrec_jax[train]'` installs it and what belongs to it\n")


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(words):
    found = python("import sys; from oxyrec_jax import cli\n"
                   "try: cli.main()\nfinally: print(*sorted(sys.modules), sep='\\n')",
                   *words)
    loaded = set(found.stdout.split("Usage")[-1].splitlines()) | set(
        found.stdout.splitlines())
    assert "tyro" in loaded and found.returncode == 0
    heavy = {"jax", "jaxlib", "numpy", "flax", "scipy", "pyarrow", "oxyrec_jax.base"}
    assert not loaded & (heavy | set(EXTRAS))


def version(text):
    return tuple(int(part) for part in text.split("."))


def test_both_ends_of_the_supported_jax_are_the_ones_that_were_tested():
    pins = []
    for path in sorted((ROOT / "constraints").glob("*.txt")):
        pins.append(dict(line.split("==") for line in path.read_text().splitlines()
                         if "==" in line))
    for name in ("jax", "flax"):
        low, high = re.search(rf"^\s*{name}>=([\d.]+),<([\d.]+)$",
                              settings()["options"]["install_requires"],
                              re.MULTILINE).groups()
        tested = sorted(version(pin[name]) for pin in pins)
        assert version(low) == tested[0], name
        major, minor = version(high)
        assert tested[-1][:2] == (major, minor - 1), name


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist of the files that git knows, made in a folder of its own."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    folder = tmp_path_factory.mktemp("built")
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others",
                             "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir",
                           str(folder / "dist"), str(folder / "source")],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "dist"


@pytest.mark.slow
def test_the_wheel_works_in_an_environment_of_its_own(built, tmp_path):
    wheel, = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        held = set(file.namelist())
    tops = {name.split("/")[0] for name in held}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"oxyrec_jax"}
    wanted = {str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.rglob("*")
              if path.suffix in (".py", ".csv", ".typed")}
    assert wanted <= held
    venv.create(tmp_path / "fresh", with_pip=False)
    binary = tmp_path / "fresh" / "bin"
    here, = (tmp_path / "fresh" / "lib").glob("python*/site-packages")
    subprocess.run([sys.executable, "-m", "pip", "--python", str(binary / "python"),
                    "install", "--quiet", "--no-deps", "--no-index", str(wheel)],
                   check=True, cwd=tmp_path)
    # The dependencies come from this environment; its own link to the checkout, a
    # .pth file, is not read from there.
    (here / "dependencies.pth").write_text(os.path.dirname(os.path.dirname(
        pytest.__file__)))
    told = subprocess.run([binary / "oxyrec", "--help"], check=True, cwd=tmp_path,
                          capture_output=True, text=True).stdout
    assert "quickstart" in told and "evaluate" in told
    code = ("import jax.numpy as jnp, oxyrec_jax; from oxyrec_jax import losses\n"
            "old = jnp.zeros((1, 2, 3))\n"
            "print(losses.grpo_loss(old, old, jnp.array([[1., -1.]]), old == 0).mean(),"
            " oxyrec_jax.__file__, oxyrec_jax.__version__)")
    loss, file, number = subprocess.run(
        [binary / "python", "-W", "error", "-c", code], check=True, cwd=tmp_path,
        capture_output=True, text=True).stdout.split()
    assert float(loss) == 0 and number == oxyrec_jax.__version__
    assert pathlib.Path(file).is_relative_to(here)


@pytest.mark.slow
def test_the_source_distribution_can_be_built_again(built):
    source, = built.glob("*.tar.gz")
    with tarfile.open(source) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.cfg",
            "oxyrec_jax/py.typed"} <= held
    assert {f"oxyrec_jax/{path.relative_to(PACKAGE)}"
            for path in PACKAGE.rglob("*.csv")} <= held
