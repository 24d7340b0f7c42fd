"""Fusing ranked lists, by hand."""

import numpy as np

from oxyrec_jax.evaluate.fusion import fuse


def test_lists_are_fused_by_their_places():
    one, two = np.array([[4, 7, 2]]), np.array([[7, 9, -1]])
    # 4: 1/5; 7: 1/6 + 2/5; 2: 1/7; 9: 2/6.
    assert fuse([one, two], [1, 2], 4).tolist() == [[7, 9, 4, 2]]
    assert fuse([one, two], [1, 0], 5).tolist() == [[4, 7, 2, 9, -1]]
