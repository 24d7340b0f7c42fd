"""Rows of open vocabularies: stable, even, with the collisions that are promised."""

import hashlib

import numpy as np
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import hashing


def splitmix(number):
    """splitmix64 of one Python integer."""
    mask = 2**64 - 1
    number = (number + 0x9E3779B97F4A7C15) & mask
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & mask
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & mask
    return number ^ (number >> 31)


def test_hashes_are_splitmix_and_stay_as_they_are():
    # The first number of the published generator with seed 0.
    assert splitmix(0) == 0xE220A8397B1DCDAF
    found = hashing.hash_ids(np.array([0, 1, -1]), seed=5)
    start = splitmix(5)
    assert found.tolist() == [splitmix((number + start) % 2**64)
                              for number in (0, 1, 2**64 - 1)]
    assert hashing.hash_ids(["a", "ü"]).tolist() == hashing.hash_ids(
        np.array(["a", "ü"], object)).tolist()
    word = int.from_bytes(hashlib.blake2b(b"shoe", digest_size=8).digest(), "little")
    shoe = splitmix((word + splitmix(0)) % 2**64)
    assert hashing.hash_ids(["shoe"]).tolist() == [shoe] == [18413795961592740680]


def test_seeds_and_functions_are_independent_and_rows_even():
    ids, rows = np.arange(100_000), 64
    found = hashing.hashed_rows(ids, rows, functions=2)
    assert found.dtype == np.int32 and found.min() >= 0 and found.max() < rows
    pairs = np.bincount(found[:, 0] * rows + found[:, 1], minlength=rows**2)
    # Chi square of 4,095 degrees of freedom: mean 4,095, standard deviation 90.
    chi = np.sum((pairs - len(ids) / rows**2)**2) / (len(ids) / rows**2)
    assert abs(chi - 4095) < 5 * 90


@pytest.mark.parametrize("rows, functions", [(1000, 1), (1000, 2), (40, 2)])
def test_collisions_are_as_many_as_promised(rows, functions):
    ids = np.arange(2000) * 7919
    found = hashing.hashed_rows(ids, rows, functions=functions, seed=3)
    expected = hashing.collision_rate(len(ids), rows, functions=functions)
    # A binomial share of 2,000, within five standard deviations (ids come in pairs).
    spread = 5 * (2 * expected * (1 - expected) / len(ids))**0.5
    assert abs(hashing.shared_rate(found) - expected) < spread + 1e-3


def test_quotient_and_remainder_tell_a_square_of_rows_apart():
    ids, rows = [f"item {number}" for number in range(2000)], 500
    found = hashing.quotient_rows(ids, rows)
    assert (found[:, 0] < rows).all() and (found[:, 1] >= rows).all()
    assert (found < 2 * rows).all()
    assert hashing.shared_rate(found) < 5 * hashing.collision_rate(2000, rows**2)
    assert hashing.shared_rate(found[:, :1]) > 0.9


def test_rates_by_hand():
    assert hashing.collision_rate(2, 4) == pytest.approx(1 / 4)
    assert hashing.collision_rate(3, 2, functions=2) == pytest.approx(1 - 0.75**2)
    assert hashing.collision_rate(10**9, 10**9) == pytest.approx(1 - np.exp(-1))
    assert hashing.shared_rate(np.array([[1, 2], [1, 3], [1, 2], [4, 4]])) == 0.5


@pytest.mark.parametrize("ids, said", [
    (np.array([0.5]), "float64, expected integers or text"),
    (["a", 3], "id 1 is 3 of type int"),
    ([b"a"], "expected integers or text")])
def test_ids_of_other_kinds_are_named(ids, said):
    with pytest.raises(InputError, match=said):
        hashing.hash_ids(np.array(ids, object) if isinstance(ids[0], str) else ids)


def test_a_table_of_no_rows_is_refused():
    with pytest.raises(ValueError, match="rows=1 functions=1"):
        hashing.hashed_rows([1], 1, functions=1)
