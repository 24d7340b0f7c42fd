"""Semantic IDs of a few items, made once for the tests of a file."""

import dataclasses
import shutil

import pytest

from toy_catalogue import SMALL, build_toy, make_dataset, make_texts


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("toy") / "data", make_texts())


@pytest.fixture(scope="module")
def built(toy, tmp_path_factory):
    """Folders of bundles by policy and quantiser, each made once; copy to change."""
    made = {}

    def give(policy="list", kind="residual-kmeans"):
        if (policy, kind) not in made:
            folder = tmp_path_factory.mktemp("built")
            build_toy(toy, folder, collisions=policy, room=20 * (policy == "dedup"),
                      quantiser=dataclasses.replace(SMALL, kind=kind))
            made[policy, kind] = folder / "sids"
        return made[policy, kind]
    return give


@pytest.fixture
def bundle(built, tmp_path):
    return shutil.copytree(built("reassign"), tmp_path / "sids")
