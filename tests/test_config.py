"""An experiment survives JSON, changes by name, and refuses what it does not know."""

import dataclasses
import json
import re

import pytest

from oxyrec_jax import config, quickstart
from oxyrec_jax.base import InputError
from oxyrec_jax.llm import Endpoint
from oxyrec_jax.thinking.opening import StoreConfig
from oxyrec_jax.thinking.prompts import PromptConfig

DEFAULT = config.Experiment()


@pytest.mark.parametrize("cfg", [
    DEFAULT, quickstart.get_config(), quickstart.tiny(),
    dataclasses.replace(DEFAULT, name="ünï", seeds=(3, 1), text=dataclasses.replace(
        DEFAULT.text, source="endpoint",
        endpoint=Endpoint(url="http://localhost:1/v1", model="m"))),
    dataclasses.replace(DEFAULT, think=dataclasses.replace(
        DEFAULT.think, endpoint=Endpoint(url="http://localhost:1/v1", model="m"),
        prompts=PromptConfig(kinds=("rewrite", "intent"), language="zh"),
        store=StoreConfig(backend="redis", ttl=None), window=60))],
    ids=["default", "quickstart", "tiny", "endpoint", "think"])
def test_round_trip_through_json(cfg):
    text = json.dumps(config.to_dict(cfg), allow_nan=False)
    assert config.from_dict(json.loads(text), "here") == cfg


@pytest.mark.parametrize("setting, read", [
    ("train.steps=50", lambda cfg: cfg.train.steps == 50),
    ("train.optimizer.learning_rate=1e-3",  # which YAML alone reads as text
     lambda cfg: cfg.train.optimizer.learning_rate == 0.001),
    ("train.optimizer.learning_rate=1", lambda cfg:
     cfg.train.optimizer.learning_rate == 1.0),
    ("tokenizer.widths=[64, 32]", lambda cfg: cfg.tokenizer.widths == (64, 32)),
    ("tokenizer.sources.sources=[co-engagement]",
     lambda cfg: cfg.tokenizer.sources.sources == ("co-engagement",)),
    ("model.memory=true", lambda cfg: cfg.model.memory is True),
    ("data.path=a=b.csv", lambda cfg: cfg.data.path == "a=b.csv"),
    ("data.tie_policy=shuffled(7)", lambda cfg: cfg.data.tie_policy == "shuffled(7)"),
    ("name=My shop", lambda cfg: cfg.name == "My shop"),
    ("text.dimension=null", lambda cfg: cfg.text.dimension is None),
    ("seeds=[0, 1, 2]", lambda cfg: cfg.seeds == (0, 1, 2)),
    ("think.window=60", lambda cfg: cfg.think.window == 60),
    ("think.prompts.kinds=[intent]",
     lambda cfg: cfg.think.prompts.kinds == ("intent",)),
    ("think.store.ttl=null", lambda cfg: cfg.think.store.ttl is None),
    ("think.read.deadline=0.5", lambda cfg: cfg.think.read.deadline == 0.5),
    ("think.budget.requests=9", lambda cfg: cfg.think.budget.requests == 9),
])
def test_a_setting_changes_its_field_and_no_other(setting, read):
    changed = config.with_settings(DEFAULT, [setting])
    assert read(changed)
    name = setting.split("=")[0].split(".")
    one, other = config.to_dict(changed), config.to_dict(DEFAULT)
    for values in (one, other):
        for part in name[:-1]:
            values = values[part]
        values.pop(name[-1])
    assert one == other


def test_a_part_that_is_left_out_by_default_is_filled_field_by_field():
    found = config.with_settings(DEFAULT, [
        "think.endpoint.url=http://localhost:1/v1", "think.endpoint.model=m",
        "think.endpoint.concurrency=3"])
    assert found.think.endpoint == Endpoint("http://localhost:1/v1", "m", concurrency=3)
    assert found.text.endpoint is None


@pytest.mark.parametrize("settings, words", [
    (["think.endpoint.url=http://x/v1"], "think.endpoint.model is missing"),
    (["think.endpoint.urll=x"],
     "think.endpoint has no field 'urll'; it has url, model"),
    (["think.endpoint={url: u, model: m, timeoutt: 5}"],
     "unknown field think.endpoint.timeoutt; known here: url, model"),
    (["think.engine=spark"], "think.engine is 'spark', expected process or ray"),
    (["think.store.backend=sqlite"], "'sqlite', expected lmdb or redis"),
    (["think.window=0"], "think.window is 0 s"),
    (["think.prompts.kinds=[poem]"], "'poem', expected one or more of reasoning"),
    (["think.gate.language=xx"], "language is 'xx'"),
])
def test_what_slow_thinking_cannot_be_is_named(settings, words):
    with pytest.raises(InputError, match=re.escape(words)):
        config.with_settings(DEFAULT, settings)


def test_settings_together_may_be_what_neither_is_alone():
    both = ["beams=5", "evaluate.ks=[1, 5]", "evaluate.headline=item.ndcg@5"]
    assert config.with_settings(DEFAULT, both).beams == 5
    with pytest.raises(InputError, match="beams is 5, less than the largest"):
        config.with_settings(DEFAULT, both[:1])


@pytest.mark.parametrize("setting, words", [
    ("train.steps", ["train.steps", "expected name=value"]),
    ("train.step=5", ["train has no field 'step'", "steps"]),
    ("trian.steps=5", ["the experiment has no field 'trian'", "train"]),
    ("train.steps.more=5", ["train.steps has no field 'more'", "nothing"]),
    ("train.steps=many", ["train.steps is 'many'", "integer"]),
    ("train.steps=2.5", ["train.steps is 2.5", "integer"]),
    ("train.steps=[1", ["'[1' is not a value"]),
    ("train.steps=0", ["train.steps is 0", "at least 1"]),
    ("model.memory=perhaps", ["model.memory is 'perhaps'", "bool"]),
    ("tokenizer.widths=8", ["tokenizer.widths is 8", "tuple"]),
    ("seeds=[1, 1]", ["seeds is (1, 1)", "different"]),
    ("data.shop.session_end=2", ["session_end of the shop is 2", "at most 1"]),
])
def test_a_bad_setting_is_named_in_one_sentence(setting, words):
    with pytest.raises(InputError) as error:
        config.with_settings(DEFAULT, [setting])
    assert str(error.value).startswith("--set ") and "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_unknown_fields_of_a_file_are_named_with_the_file():
    values = config.to_dict(DEFAULT)
    values["train"]["optimizer"]["momentum"] = 1
    with pytest.raises(InputError, match=r"run\.json: unknown field "
                                         r"train\.optimizer\.momentum; known here: "):
        config.from_dict(values, "run.json")


@pytest.mark.parametrize("text, words", [
    ("def get_config(:", ["SyntaxError"]),
    ("import nothing_of_this_name", ["ModuleNotFoundError", "nothing_of_this_name"]),
    ("x = 1", ["get_config"]),
    ("def get_config(): return 3", ["returned int", "expected", "Experiment"]),
    ("def get_config(): raise ValueError('no')", ["ValueError: no"]),
], ids=["syntax", "import", "no function", "other value", "raises"])
def test_a_broken_experiment_file_is_named(text, words, tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        config.load_experiment(path)
    for word in (str(path), *words):
        assert word in str(error.value)


def test_files_that_are_no_experiments_are_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        config.load_experiment(tmp_path / "none.py")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="end in .py"):
        config.load_experiment(tmp_path / "notes.txt")
