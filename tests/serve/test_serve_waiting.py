"""The queue: order by deadline within a kind, whoever is late out of it at once."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from oxyrec_jax.serve.waiting import Waiting


@dataclasses.dataclass(eq=False)
class One:
    deadline: float
    kind: str
    abandoned: bool = False


OPERATIONS = st.lists(st.one_of(
    st.tuples(st.just("add"), st.integers(0, 30), st.sampled_from("ab")),
    st.tuples(st.just("late"), st.integers(0, 30), st.none()),
    st.tuples(st.just("take"), st.integers(1, 4), st.none())), max_size=40)


@given(OPERATIONS)
def test_it_does_what_a_sorted_list_does(operations):
    queue, plain = Waiting(), []
    for what, number, kind in operations:
        if what == "add":
            one = One(number, kind)
            queue.add(one, kind)
            plain.append(one)
        elif what == "late":
            found = queue.late(number)
            assert {id(one) for one in found} == {
                id(one) for one in plain if one.deadline <= number}
            plain = [one for one in plain if one.deadline > number]
        elif plain:
            first = min(plain, key=lambda one: one.deadline)
            mine = sorted((one for one in plain if one.kind == first.kind),
                          key=lambda one: one.deadline)
            kind, deadline, count = queue.urgent()
            if kind != first.kind:  # a tie: the one that came first
                assert deadline == first.deadline
                mine = sorted((one for one in plain if one.kind == kind),
                              key=lambda one: one.deadline)
            assert (deadline, count) == (first.deadline, len(mine))
            taken = queue.take(kind, number)
            assert taken == mine[:number]
            plain = [one for one in plain if one not in taken]
        assert len(queue) == len(plain)
    assert queue.urgent() is not None if plain else queue.urgent() is None


def test_the_abandoned_do_not_hold_up_the_others():
    queue = Waiting()
    for number in range(3):
        queue.add(One(number, "a", abandoned=number < 2), "a")
    assert [one.deadline for one in queue.late(-1)] == [0, 1]
    assert len(queue) == 1 and queue.take("a", 5)[0].deadline == 2
