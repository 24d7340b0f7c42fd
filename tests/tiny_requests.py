"""A log with impressions that is small enough to be checked by hand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oxyrec_jax.data import dataset, protocols, schema

SCENARIOS = ("home", "feed")
HOUR = 3600
# Of each request: sequence, hour, scenario, trigger, query, shown, outcome. What was
# chosen in a request are the sequence's events at that hour and the seconds after it.
LOG = (
    (0, 10, 0, -1, -1, (4, 5, 6), (0, 1, 0)),    # before it nothing: not a row
    (0, 11, 1, 5, -1, (7, 8, -1), (0, 0, 0)),    # one event before, none chosen
    (0, 12, 0, -1, 1, (9, 5, 4), (2, 0, 3)),     # chosen: 9 and 4
    (0, 13, 0, -1, -1, (1, 2, 3), (0, 0, 0)),
    (0, 14, 1, 4, -1, (2, 1, 0), (1, 0, 0)),     # validation under P1: event 3
    (0, 15, 0, -1, -1, (3, 6, 7), (0, 0, 0)),    # after it and before the test
    (0, 16, 0, -1, 0, (8, 9, 1), (0, 0, 1)),     # test under P1: event 4
    (0, 17, 0, -1, 0, (8, 2, 1), (0, 0, 0)),     # after all events
    (1, 12, 0, -1, -1, (2, 3, 4), (1, 0, 0)),
    (1, 18, 1, 2, -1, (5, 6, 7), (0, 1, 0)),     # two events: trains only under P1
)


def make(folder, *, protocol="P1", log=LOG, items=10, write=True):
    """Writes the log as a prepared data set with impressions.

    Times count from hour 0 of 1970. Split rows follow the protocol.
    """
    events, users = [], sorted({row[0] for row in log})
    for number, (sequence, hour, scenario, trigger, query, shown, outcome) in enumerate(
            log):
        for place, (item, kind) in enumerate(zip(shown, outcome)):
            if kind:
                events.append((sequence, item, hour * HOUR + place, kind - 1, scenario,
                               trigger, query, 2.0 + item, number))
    columns = [np.array(values) for values in zip(*events)]
    lengths = np.bincount(columns[0], minlength=len(users))
    splits = (protocols.leave_one_out(lengths) if protocol == "P1"
              else protocols.global_temporal(lengths, columns[2]))
    names = ("item", "time", "behaviour", "scenario", "trigger", "query", "price",
             "request")

    def fill(out):
        out.add_items(schema.item_table({
            "item_id": [f"i{n}" for n in range(items)],
            "price": [None, *(2.0 + n for n in range(1, items))],
            "category": ["cup" if n % 2 else "tea" for n in range(items)],
            "brand": [f"b{n % 3}" for n in range(items)]}))
        out.add_queries(["red tea", "blue cup"])
        out.add_sequences(dict(zip(names, columns[1:])), lengths,
                          [f"u{n}" for n in users])
        for name, rows in splits.items():
            out.add_targets(name, rows)
        if write:
            pq.write_table(table(log), out.folder / "requests.parquet")
    dataset.write_dataset(folder, fill, columns=names, facts={
        "protocol": protocol, "behaviours": ["click", "cart", "order"],
        "scenarios": list(SCENARIOS)})
    return dataset.load_dataset(folder)


def table(log=LOG):
    """The table of requests."""
    sequence, hour, scenario, trigger, query, shown, outcome = zip(*log)

    def lists(values, kind):
        flat = pa.array(np.array(values, kind).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, len(values[0]))
    return pa.table({
        "request": np.arange(len(log)), "sequence": np.array(sequence),
        "time": np.array(hour) * HOUR,
        "scenario": pa.DictionaryArray.from_arrays(
            pa.array(scenario, pa.int8()), list(SCENARIOS)),
        "trigger": pa.array(trigger, pa.int32()), "query": pa.array(query, pa.int32()),
        "shown": lists(shown, np.int32), "outcome": lists(outcome, np.int8)})


def random_log(requests=40, people=6, items=10, places=3, seed=0):
    """A longer log at random, one request an hour."""
    rng = np.random.default_rng(seed)
    log = []
    for number in range(requests):
        shown = rng.permutation(items)[:places]
        outcome = rng.choice(4, places, p=[0.5, 0.3, 0.1, 0.1])
        if number < people:  # everybody begins with an event
            outcome[0] = 1
        log.append((number % people, 10 + number, int(rng.integers(2)),
                    int(rng.integers(-1, items)), int(rng.integers(-1, 2)),
                    tuple(shown.tolist()), tuple(outcome.tolist())))
    return sorted(log, key=lambda row: row[:2])
