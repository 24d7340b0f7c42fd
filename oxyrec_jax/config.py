"""A whole experiment as one frozen value: assembled here, defined beside the code.

An experiment file is Python with a `get_config()` that returns an `Experiment`; its
docstring gives the command, the time, the device and the figures to expect.
"""

import collections.abc
import dataclasses
import importlib.util
import pathlib
import typing
from collections.abc import Sequence
from typing import Any

import pydantic
import yaml

from oxyrec_jax.base import InputError
from oxyrec_jax.data.prepare import DataConfig
from oxyrec_jax.data.shop.instructions import InstructionSource
from oxyrec_jax.evaluate.evaluation import EvaluateConfig
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.models.ranker import RankerConfig, check_trunk
from oxyrec_jax.parallel import MeshConfig
from oxyrec_jax.rewards.judge.settings import JudgeSettings
from oxyrec_jax.thinking.settings import ThinkSettings
from oxyrec_jax.tokenizer.build import TokenizerConfig
from oxyrec_jax.tokenizer.embeddings import EmbeddingConfig
from oxyrec_jax.train.align_settings import AlignConfig
from oxyrec_jax.train.loop import TrainConfig


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that decides the outcome of a run.

    Attributes:
      name: a title for reports. Where nobody gives one it is the experiment file's
        name, and without a file that of the work directory and its log.
      data: the log and what is made of it.
      text: where item text embeddings come from.
      tokenizer: how items get semantic IDs.
      model: the network.
      ranker: makes the network a ranking model (docs/ranking.md); None: a generator.
      train: how it is trained.
      evaluate: how it is judged.
      instructions: the texts of a simulated shop's requests, for a network that reads
        them (model.instructions.reasoning).
      think: how instructions are written near-line, kept and read.
      judge: who judges candidates by sense, and how that is learnt.
      align: how a trained generator is aligned with a reward.
      mesh: how devices are laid out.
      beams: K of the beam search in evaluation; lists are as long.
      quick_evaluations: in training, answer each so-many-th batch of the validation
        split only; the final evaluation always takes all.
      seeds: one training run for each.
    """

    name: str = "experiment"
    data: DataConfig = DataConfig()
    text: EmbeddingConfig = EmbeddingConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    ranker: RankerConfig | None = None
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    instructions: InstructionSource = InstructionSource()
    think: ThinkSettings = ThinkSettings()
    judge: JudgeSettings = JudgeSettings()
    align: AlignConfig = AlignConfig()
    mesh: MeshConfig = MeshConfig()
    beams: int = 50
    quick_evaluations: int = 1
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise InputError(f"seeds is {self.seeds}, expected one or more different "
                             "numbers")
        if self.beams < max(self.evaluate.ks):
            raise InputError(f"beams is {self.beams}, less than the largest of "
                             f"evaluate.ks, {max(self.evaluate.ks)}; raise it")
        ranks, mode = self.ranker is not None, self.train.pipeline.mode
        if ranks != (mode == "requests"):
            raise InputError(f"train.pipeline.mode is {mode!r} in an experiment "
                             f"{'with' if ranks else 'without'} a ranking model; a "
                             "ranking model is trained on 'requests', a generator is "
                             "not")
        if ranks:
            check_trunk(self.model)


def load_experiment(path: str | pathlib.Path) -> Experiment:
    """Runs an experiment file and returns what its `get_config()` gives.

    Args:
      path: the Python file. It is executed: run only files that you trust.

    Raises:
      InputError: no such file, no `get_config`, or an error in it.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of an experiment file, "
                         "such as experiments/quickstart.py")
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file; experiment files end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = module.get_config()
    except InputError:
        raise
    except Exception as error:  # whatever the user's file does wrong
        raise InputError(f"{path} could not be read: {type(error).__name__}: {error}"
                         ) from error
    if not isinstance(found, Experiment):
        raise InputError(f"{path}: get_config() returned {type(found).__name__}, "
                         "expected oxyrec_jax.config.Experiment")
    return named(found, path.stem)


def named(cfg: Experiment, name: str) -> Experiment:
    """The experiment with this name where nobody gave it one."""
    return dataclasses.replace(cfg, name=name) if cfg.name == Experiment.name else cfg


def with_settings(cfg: Experiment, settings: Sequence[str]) -> Experiment:
    """Changes fields by their dotted names.

    Args:
      cfg: the experiment.
      settings: such as "train.steps=50" or "tokenizer.widths=[64, 64]"; values are
        read as YAML.

    Returns:
      A new experiment.

    Raises:
      InputError: a setting without "=", an unknown name, or a value of a wrong type.
    """
    values = to_dict(cfg)
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: expected name=value, such as "
                             "train.steps=50")
        place, *rest = [values, *name.split(".")]
        for depth, part in enumerate(rest):
            known = list(place) if isinstance(place, dict) else []
            known += [field for field in _fields(rest[:depth]) if field not in known]
            free = _part(rest[:depth])[1]
            if not isinstance(place, dict) or (part not in known and not free):
                where = ".".join(rest[:depth]) or "the experiment"
                raise InputError(f"--set {setting}: {where} has no field {part!r}; it "
                                 f"has {', '.join(known) or 'nothing'}")
            if depth + 1 < len(rest):
                if place.get(part) is None and _fields(rest[:depth + 1]):
                    place[part] = {}  # a part that is left out by default begins here
                place = place[part]
        try:
            place[rest[-1]] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {setting}: {text!r} is not a value") from error
    return from_dict(values, "--set " + " ".join(settings))


def to_dict(cfg: Experiment) -> dict[str, Any]:
    """The experiment as JSON values."""
    return pydantic.TypeAdapter(Experiment).dump_python(cfg, mode="json")


def from_dict(values: dict[str, Any], where: str) -> Experiment:
    """The experiment of such values.

    Args:
      values: as `to_dict` gives them; every field must be known.
      where: named in errors: the file or the option that the values come from.

    Raises:
      InputError: an unknown or missing field or a value of a wrong type, named.
    """
    _check_names(values, [], where)
    try:
        return pydantic.TypeAdapter(Experiment).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":  # one of our own sentences
            raise InputError(f"{where}: {first['ctx']['error']}") from error
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise InputError(f"{where}: {name} is missing; give it too") from error
        raise InputError(f"{where}: {name} is {first['input']!r}: {first['msg']}"
                         ) from error


def _check_names(values: Any, path: list[str], where: str) -> None:
    known = _fields(path)
    free = _part(path)[1]
    if not isinstance(values, dict) or not (known or free):
        return
    for name, value in values.items():
        if name not in known and not free:
            raise InputError(f"{where}: unknown field {'.'.join([*path, name])}; known "
                             f"here: {', '.join(known)}")
        _check_names(value, [*path, name], where)


def _fields(path: Sequence[str]) -> list[str]:
    """Names of the fields of a part of the experiment, also of one that may be None;
    none where the path leads to a value or a mapping."""
    part, mapping = _part(path)
    return [] if part is None or mapping else [field.name for field in
                                               dataclasses.fields(part)]


def _part(path: Sequence[str]) -> tuple[Any, bool]:
    """The dataclass that a path leads to, or None; true where it leads to a mapping,
    whose names are free, to such dataclasses (to values: None)."""
    part: Any = Experiment
    mapping = False
    for name in path:
        if mapping:  # a name that somebody chose
            mapping = False
            continue
        kind = typing.get_type_hints(part).get(name) if part is not None else None
        inside = typing.get_args(kind)
        mapping = typing.get_origin(kind) in (dict, collections.abc.Mapping)
        part = next((one for one in (kind, *inside) if dataclasses.is_dataclass(one)),
                    None)
    return part, mapping
