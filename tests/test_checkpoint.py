"""What is saved comes back bit for bit, on another mesh too; damage is named."""

import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from oxyrec_jax import artifacts, parallel
from oxyrec_jax.base import InputError
from oxyrec_jax.checkpoint import Checkpoints, abstract_like

FACTS = {"done": 3, "best": 0.1, "batches": {"next": [1, 2]}}


def state_on(mesh, spec=PartitionSpec(), seed=0):
    sharding = NamedSharding(mesh, spec)
    rng = np.random.default_rng(seed)
    state = {"table": rng.normal(size=(8, 4)).astype(np.float32),
             "inner": {"half": rng.normal(size=(8,)), "step": np.arange(8)}, "none": ()}
    state["inner"]["half"] = jnp.asarray(state["inner"]["half"], jnp.bfloat16)
    state = jax.tree.map(lambda leaf: jax.device_put(leaf, sharding), state)
    return state, jax.tree.map(lambda _: sharding, state)


def one():
    return parallel.make_mesh(devices=jax.devices()[:1])


def test_a_state_comes_back_bit_for_bit_with_its_facts(tmp_path):
    state, shardings = state_on(one())
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(3, state, FACTS)
        checkpoints.wait()
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest() == 3
        found, facts = checkpoints.restore(abstract_like(state, shardings))
    assert facts == FACTS
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for here, there in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        assert here.dtype == there.dtype
        np.testing.assert_array_equal(here, there)


def test_a_state_saved_on_eight_devices_is_read_on_one_and_back(tmp_path):
    wide = parallel.make_mesh(parallel.MeshConfig(data=2, fsdp=4))
    state, shardings = state_on(wide, PartitionSpec("fsdp"))
    alone, on_one = state_on(one())
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state, FACTS)
        checkpoints.wait()
        narrow, _ = checkpoints.restore(abstract_like(alone, on_one))
        checkpoints.save(2, narrow, FACTS)
        checkpoints.wait()
        found, _ = checkpoints.restore(abstract_like(state, shardings))
    np.testing.assert_array_equal(found["table"], state["table"])
    assert found["table"].sharding.spec == PartitionSpec("fsdp")


def test_only_the_newest_are_kept(tmp_path):
    state, shardings = state_on(one())
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        for step in range(1, 5):
            checkpoints.save(step, state, {"done": step})
        checkpoints.wait()
        assert checkpoints.latest() == 4
        assert checkpoints.restore(abstract_like(state, shardings), 3)[1] == {"done": 3}
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["3", "4"]


def test_an_empty_folder_is_named(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(InputError, match="c holds no checkpoint; train first"):
            checkpoints.restore({})


def test_facts_that_json_does_not_know_are_refused_before_anything_is_saved(tmp_path):
    state, _ = state_on(one())
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(ValueError):
            checkpoints.save(1, state, {"best": float("inf")})
        assert checkpoints.latest() is None


def test_the_arrays_are_copied_before_save_returns(tmp_path):
    state, shardings = state_on(one())
    expected = np.array(state["table"])
    add = jax.jit(lambda leaf: leaf + 1, donate_argnums=0)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state, FACTS)
        state["table"] = add(state["table"])  # takes over the memory
        state["table"].block_until_ready()
        checkpoints.wait()
        found, _ = checkpoints.restore(abstract_like(state, shardings))
    np.testing.assert_array_equal(found["table"], expected)


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()
                and path.name != "manifest.json"), key=lambda path: path.stat().st_size)


def flip(folder):
    path = largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path, "was changed: its SHA-256 digest is not the one in manifest.json"


def cut(folder):
    path = largest(folder)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:size // 2])
    return path, f"has {size // 2} bytes, its manifest says {size}"


def lose(folder):
    path = largest(folder)
    path.unlink()
    return path, "is missing"


def lose_manifest(folder):
    (folder / "manifest.json").unlink()
    return folder, "holds no checkpoint: manifest.json is missing"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints 3 and 7, and their states."""
    folder = tmp_path_factory.mktemp("two") / "c"
    states = {step: state_on(one(), seed=step) for step in (3, 7)}
    with Checkpoints(folder) as checkpoints:
        for step, (state, _) in states.items():
            checkpoints.save(step, state, {"done": step})
        checkpoints.wait()
    return folder, states


@pytest.mark.parametrize("damage", [flip, cut, lose, lose_manifest])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
        two, tmp_path, caplog, damage):
    _, states = two
    folder = shutil.copytree(two[0], tmp_path / "c")
    path, said = damage(folder / "7")
    (state, shardings), (newest, _) = states[3], states[7]
    with Checkpoints(folder) as checkpoints:
        found, facts = checkpoints.restore(abstract_like(state, shardings))
        assert facts == {"done": 3} and checkpoints.latest() == 3
        np.testing.assert_array_equal(found["table"], state["table"])
        (told,) = [line for line in caplog.messages if "damaged" in line]
        assert told.startswith(f"checkpoint 7 is damaged: {path} {said}")
        assert told.endswith("set aside as 7.damaged, and checkpoint 3 is used")
        checkpoints.save(7, newest, {"done": 7})  # the run comes there again
        checkpoints.wait()
    assert (folder / "7.damaged").is_dir()
    with Checkpoints(folder) as checkpoints:
        found, facts = checkpoints.restore(abstract_like(state, shardings))
    assert facts == {"done": 7}
    np.testing.assert_array_equal(found["table"], newest["table"])


def test_where_none_is_whole_all_faults_are_named_and_nothing_is_moved(two, tmp_path):
    folder = shutil.copytree(two[0], tmp_path / "c")
    faults = [flip(folder / "7"), lose(folder / "3")]
    state, shardings = two[1][3]
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(InputError, match="no checkpoint in .*c is whole") as error:
            checkpoints.restore(abstract_like(state, shardings))
    for path, said in faults:
        assert f"{path} {said}" in str(error.value)
    assert sorted(path.name for path in folder.iterdir()) == ["3", "7"]


def test_every_file_but_orbax_own_notes_has_a_digest(two):
    folder = two[0] / "7"
    listed = artifacts.read_manifest(folder, kind="checkpoint", version=1)["files"]
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*")
             if path.is_file()}
    assert there - set(listed) <= {"manifest.json", "_CHECKPOINT_METADATA",
                                   "commit_success.txt"}


def other_shape(state, shardings):
    return abstract_like({**state, "table": jnp.zeros((9, 4))}, shardings)


def other_tree(state, shardings):
    return abstract_like({"table": state["table"]}, {"table": shardings["table"]})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("ask", [other_shape, other_tree])
def test_what_cannot_be_restored_is_named(tmp_path, ask):
    state, shardings = state_on(one())
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(7, state, FACTS)
        checkpoints.wait()
        with pytest.raises(InputError, match="checkpoint 7 in .* cannot be restored"):
            checkpoints.restore(ask(state, shardings))
    gc.collect()  # what orbax leaves of the reads that failed complains when it goes
