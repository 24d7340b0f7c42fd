"""Instruction tokens and side features: what they change, and what they must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_world
from oxyrec_jax.base import InputError
from oxyrec_jax.models import instructions as lib
from oxyrec_jax.models import sides
from oxyrec_jax.models.generator import ModelConfig

WIDE = 5  # F, of the texts' vectors
ALL = {"scenarios": 3, "trigger": True, "reasoning": True, "behaviours": 2, "hidden": 8}


def world(placement="right", tokens=1, **options):
    known = {"instructions": lib.InstructionConfig(placement, tokens, **ALL), **options}
    model = tiny_world.make_model(**known)
    catalogue, _ = tiny_world.make_items()
    rng = np.random.default_rng(1)
    batch = tiny_world.make_batch(segments=[[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    shape = batch["targets"].shape
    batch |= {"target_scenario": rng.integers(0, 3, shape).astype(np.int8),
              "target_trigger": rng.integers(-1, 30, shape).astype(np.int32),
              "target_behaviour": rng.integers(0, 2, shape).astype(np.int8),
              "target_instruction": rng.normal(size=(*shape, WIDE)).astype(np.float32)}
    batch["target_instruction"][0, 0] = 0
    for name in model.cfg.sides:
        batch[name] = (10.0 ** rng.uniform(-1, 5, shape)).astype(np.float32)
    params = tiny_world.init_params(model, batch, catalogue.tables)
    return model, catalogue, params, batch


def logits_of(model, params, batch, tables):
    logits, _ = tiny_world.forward(model, params, batch, tables)
    return np.concatenate([np.asarray(level) for level in logits], -1)


def stirred(params, seed=2):
    """The parameters, the zero-initialised adapters and tables among them, at random.
    """
    leaves, shape = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(shape, [leaf + 0.3 * rng.normal(size=leaf.shape).astype(
        np.float32) for leaf in leaves])


PLACES = [("replace", 1), ("add", 1), ("left", 1), ("right", 1), ("left", 2),
          ("right", 2)]


@pytest.mark.parametrize("placement, tokens", PLACES)
def test_the_search_scores_as_training_does_wherever_the_instruction_stands(placement,
                                                                            tokens):
    model, catalogue, params, batch = world(placement, tokens)
    params, tables, beams = stirred(params), catalogue.tables, 3
    assert model.cfg.instructions.prefix == {"replace": 1, "add": 1}.get(placement,
                                                                         1 + tokens)
    targets = np.array([[4, 17, 9], [8, 21, 3]], np.int32)

    def one(name):
        return batch[name][:, 2:3]
    asked = {"items": batch["items"][:, :3], "segments": batch["segments"][:, :3],
             "target_positions": np.full((2, 1), 2, np.int32),
             **{name: one(name) for name in model.cfg.instructions.reads}}

    @jax.jit
    def both(params):
        wide = {name: np.repeat(rows, beams, axis=1) for name, rows in asked.items()
                if name.startswith("target_")}
        taught, _ = model.apply({"params": params}, {**asked, **wide,
                                                     "targets": targets}, tables)
        search = model.apply({"params": params}, asked, tables, method="start_search")
        past, found = (), []
        for level in range(3):
            codes = tables.codes[targets][..., level - 1] if level else None
            if level == 1:
                past = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=1), past)
            logits, past = model.apply({"params": params}, search, past, codes, level,
                                       method="search_step")
            found.append(logits)
        return taught, found
    for level, (one_, other) in enumerate(zip(*both(params), strict=True)):
        np.testing.assert_allclose(one_ if level else one_[:, :1], other, rtol=2e-5,
                                   atol=2e-5)


def test_every_instruction_changes_the_scores_of_its_own_target_only():
    model, catalogue, params, batch = world()
    params = stirred(params)
    before = logits_of(model, params, batch, catalogue.tables)
    changes = {"target_scenario": lambda x: (x + 1) % 3,
               "target_trigger": lambda x: (x + 5) % 30,
               "target_behaviour": lambda x: 1 - x,
               "target_instruction": lambda x: x + 1}
    for name, change in changes.items():
        changed = batch[name].copy()
        changed[1, 2] = change(changed[1, 2])
        after = logits_of(model, params, {**batch, name: changed}, catalogue.tables)
        differs = (after != before).any(axis=-1)
        assert differs[1, 2], name
        differs[1, 2] = False
        assert not differs.any(), name


def test_a_new_reasoning_adapter_says_nothing_and_learns():
    """The adapter's last kernel is zero: no text moves the default, its slope does."""
    model, catalogue, params, batch = world()
    silent = {**batch, "target_instruction": np.zeros_like(batch["target_instruction"])}
    np.testing.assert_array_equal(
        logits_of(model, params, batch, catalogue.tables),
        logits_of(model, params, silent, catalogue.tables))

    def total(params, batch):
        logits, _ = model.apply({"params": params}, batch, catalogue.tables)
        return sum(jnp.sum(jnp.sin(level)) for level in logits)
    slope = jax.jit(jax.grad(total))
    out = slope(params, batch)["instructions"]["reasoning_in"]["out"]["kernel"]
    assert float(jnp.abs(out).max()) > 0
    out = slope(params, silent)["instructions"]["reasoning_in"]["out"]["kernel"]
    assert float(jnp.abs(out).max()) == 0  # without a text nothing is learnt


def test_the_length_of_a_texts_vector_says_nothing():
    """Encoders give vectors of length 1, 3 or 400; the adapter sees one scale."""
    module = lib.Instructions(lib.InstructionConfig("right", reasoning=True, hidden=8),
                              6)
    vectors = np.random.default_rng(3).normal(size=(2, 3, WIDE)).astype(np.float32)
    vectors[0, 0] = 0
    params = stirred(tiny_world.init_params(module, {"target_instruction": vectors},
                                            None))
    found = {scale: np.asarray(tiny_world.forward(
        module, params, {"target_instruction": np.float32(scale) * vectors}, None))
        for scale in (1, 0.01, 100, -1)}
    np.testing.assert_allclose(found[0.01], found[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[100], found[1], rtol=1e-5, atol=1e-6)
    moved = np.abs(found[-1] - found[1]).max(axis=(2, 3)) > 1e-3
    assert not moved[0, 0] and moved.sum() == 5  # no text stays no text


@pytest.mark.parametrize("told, first, second", [
    ({"scenarios": 3, "trigger": True, "reasoning": True},
     ("target_scenario", "target_trigger"), ("target_instruction",)),
    ({"scenarios": 3, "trigger": True, "behaviours": 2},
     ("target_scenario", "target_behaviour"), ("target_trigger",)),
])
def test_two_tokens_keep_apart_what_they_say(told, first, second):
    """With a text: the request, and the text; without: the scenario, and the trigger.
    """
    module = lib.Instructions(lib.InstructionConfig("right", 2, hidden=8, **told), 6)
    _, _, _, batch = world()
    rng = np.random.default_rng(4)
    items = rng.normal(size=(2, 30, 6)).astype(np.float32)

    def tokens(batch):
        rows = np.take_along_axis(items, np.maximum(batch["target_trigger"], 0)
                                  [..., None], axis=1)
        return np.asarray(tiny_world.forward(module, params, batch, rows))
    shape = batch["targets"].shape
    params = stirred(tiny_world.init_params(module, batch,
                                            np.zeros((*shape, 6), np.float32)))
    before = tokens(batch)
    changes = {"target_scenario": (batch["target_scenario"] + 1) % 3,
               "target_trigger": (batch["target_trigger"] + 2) % 30,
               "target_behaviour": 1 - batch["target_behaviour"],
               "target_instruction": -batch["target_instruction"]}
    for name in first + second:
        moved = (tokens({**batch, name: changes[name]}) != before).any(axis=(0, 1, 3))
        assert moved.tolist() == [name in first, name in second], name


def test_an_instruction_moves_the_trust_in_the_decoder_and_learns_only_its_gate():
    """The other experts know no instruction, so the gate must."""
    model, catalogue, params, batch = world(item_head=True)
    params, tables = stirred(params), catalogue.tables

    @jax.jit
    def both(params, batch):
        def weights(params):
            _, state = model.apply({"params": params}, batch, tables)
            first = jnp.zeros((*state.shape[:2], model.widths[0]))
            found = model.apply({"params": params}, batch, jax.lax.stop_gradient(state),
                                tables, first, own=True, method="mixture").log_weights
            return jnp.sum(found[..., 0]), found
        return jax.value_and_grad(weights, has_aux=True)(params)
    (_, before), slope = both(params, batch)
    changed = {**batch, "target_instruction": batch["target_instruction"].copy()}
    changed["target_instruction"][1, 2] += 1
    (_, after), _ = both(params, changed)
    moved = np.asarray(before != after).any(axis=-1)
    assert moved[1, 2] and moved.sum() == 1
    assert np.asarray(slope["gate_asked"]["kernel"]).any()
    for leaf in jax.tree.leaves(slope["instructions"]):
        assert not np.asarray(leaf).any()


def test_without_a_trigger_the_default_stands_whatever_item_minus_one_would_be():
    model, catalogue, params, batch = world()
    params = stirred(params)
    batch["target_trigger"][:] = -1
    before = logits_of(model, params, batch, catalogue.tables)
    other = {**params, "item_vectors": params["item_vectors"] * 1}
    moved = stirred({"no": params["instructions"]["no_trigger"]})["no"]
    other["instructions"] = {**params["instructions"], "no_trigger": moved}
    assert (logits_of(model, other, batch, catalogue.tables) != before).any()
    batch["target_trigger"][:] = -7
    np.testing.assert_array_equal(logits_of(model, params, batch, catalogue.tables),
                                  before)


def test_placements_put_the_token_where_they_say():
    begin, token = np.full((1, 1, 2), 10.0), np.array([[[[1.0, 2.0]]]])
    expected = {"none": [[10, 10]], "replace": [[1, 2]], "add": [[11, 12]],
                "left": [[1, 2], [10, 10]], "right": [[10, 10], [1, 2]]}
    for name, rows in expected.items():
        cfg = lib.InstructionConfig(name, scenarios=2)
        found = lib.place(cfg, jnp.asarray(begin), jnp.asarray(token))
        np.testing.assert_array_equal(found, [[rows]])
        assert cfg.prefix == len(rows)


def test_a_model_without_instructions_has_no_parameters_of_them():
    model, _, params, _ = world("none")
    assert "instructions" not in params and model.columns == ()
    assert model.reads == ("items", "segments", "target_positions")


def test_a_model_names_the_columns_that_it_reads():
    model = world(sides=("price", "gap"))[0]
    assert model.columns == ("price", "gap", "scenario", "trigger", "instruction",
                             "behaviour")


@pytest.mark.parametrize("options, words", [
    ({"placement": "above"}, "'above', expected one of none, replace"),
    ({"placement": "right"}, "nothing to place"),
    ({"placement": "add", "tokens": 2, "scenarios": 2}, "room for one token"),
    ({"tokens": 3}, "expected 1 or 2"),
    ({"scenarios": 300}, "expected 0 to 127"),
    ({"hidden": 0}, "at least 1"),
])
def test_settings_that_cannot_be_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        lib.InstructionConfig(**options)


def test_an_unknown_side_feature_is_refused():
    with pytest.raises(InputError, match="sides is .*some of behaviour, scenario"):
        ModelConfig(sides=("colour",))


def test_side_buckets_are_octaves_and_zero_is_unknown():
    """Gap: floor(log2 s) + 1, at most 31. Price: 2 · (log2 p + 4), floored, + 1."""
    np.testing.assert_array_equal(
        sides.bucket("gap", np.array([0.0, -3, 1, 1.9, 2, 3600, 4e9])),
        [0, 0, 1, 1, 2, 12, 31])  # 2^11 = 2048 <= 3600 < 4096
    np.testing.assert_array_equal(
        sides.bucket("price", np.array([np.nan, 0.0625, 0.09, 1, 100, 1e9])),
        [0, 1, 2, 9, 22, 31])  # 0.09: log2 = -3.47, (+4) / .5 = 1.05; 100: 21.3
    np.testing.assert_array_equal(sides.bucket("scenario", np.array([0, 5], np.int8)),
                                  [0, 5])


def test_side_features_change_what_the_encoder_hears_of_their_event():
    model, catalogue, params, batch = world(sides=("price", "gap"))
    params = stirred(params)
    before = logits_of(model, params, batch, catalogue.tables)
    for name in ("price", "gap"):
        changed = batch[name].copy()
        changed[1, 3] *= 64
        after = logits_of(model, params, {**batch, name: changed}, catalogue.tables)
        differs = (after != before).any(axis=-1)
        np.testing.assert_array_equal(differs[1], [0, 0, 0, 1, 1, 1])
        assert not differs[0].any()
