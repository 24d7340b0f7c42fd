"""A run's log tells whether it has come to its end."""

import pytest

from oxyrec_jax.train import pauses


@pytest.mark.parametrize("values, patience, ended", [
    ([], 2, False),
    ([0.3, 0.5], 2, False),
    ([0.3, 0.5, 0.4], 2, False),
    ([0.3, 0.5, 0.4, 0.5], 2, True),           # two in a row that are no better
    ([0.3, 0.5, 0.4, 0.5], 0, False),          # without patience it goes on
    ([0.5, 0.4, 0.6, 0.5], 2, False),
    ([0.1, 0.2, 0.3, 0.4, 0.5], 0, True),      # at its last step
])
def test_a_run_ends_at_its_last_evaluation_or_by_patience(values, patience, ended):
    log = [line for place, value in enumerate(values, 1) for line in (
        {"step": 10 * place, "loss": 1.0}, {"step": 10 * place, "valid.hr": value})]
    assert pauses.ended(log, 50, "hr", patience) is ended


def test_the_last_step_without_its_evaluation_is_no_end():
    assert not pauses.ended([{"step": 50, "loss": 1.0}], 50, "hr", 0)
