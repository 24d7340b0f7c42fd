"""How fast the simulated shop is written, and its log beside others.

    python benchmarks/shop.py --quick --json            # 20 s on one core
    python benchmarks/shop.py --users 50000 --items 100000
    python benchmarks/shop.py --users 2000 --items 1000 --learn
    python benchmarks/shop.py --beside beauty=runs/beauty --page shop.html

Times `prepare_shop` in this process: first with a hundred people, which compiles the
programs (`compile_s`), then whole. `events_per_s` is the log's events by the wall
seconds of the second run, `events_per_cpu_s` by its CPU seconds, which other work on
the machine hardly changes; `peak_mib` is the process's peak memory. `--beside` names
prepared data sets whose statistics stand beside the shop's as a Markdown table, and
with `--page` as an HTML page. `--learn` prints the hit rates of untrained rules on the
test split: what can be learnt from histories, and what only from knowing the need.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import resource
import tempfile
import time

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oxyrec_jax.data import dataset, shop, statistics, statistics_page
from oxyrec_jax.evaluate import baselines, rows

QUICK, WHOLE = (10_000, 10_000), (50_000, 100_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag = {"action": "store_true"}
    parser.add_argument("--quick", help="10,000 people, 10,000 items", **flag)
    parser.add_argument("--json", help="one JSON object as the last line", **flag)
    parser.add_argument("--peer", help="accepted; there is no peer", **flag)
    parser.add_argument("--users", type=int)
    parser.add_argument("--items", type=int)
    parser.add_argument("--learn", help="how far untrained rules get", **flag)
    parser.add_argument("--beside", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--page", type=pathlib.Path)
    options = parser.parse_args()
    users, items = QUICK if options.quick else WHOLE
    cfg = shop.ShopConfig(users=options.users or users, items=options.items or items)
    cores = len(os.sched_getaffinity(0))
    print(f"device: {cores} of {os.cpu_count()} cores ({platform.machine()}); Python "
          f"{platform.python_version()}, NumPy {np.__version__}, JAX {jax.__version__}")
    print(f"shapes: {cfg.users:,} people, {cfg.items:,} items, "
          f"{cfg.events_per_user:g} events each; warm-up: 100 people")
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / "shop"
        first, first_cpu, _ = _timed(dataclasses.replace(cfg, users=100), target)
        seconds, cpu, counts = _timed(cfg, target)
        figures = {
            "events_per_s": round(counts["events"] / seconds),
            "events_per_cpu_s": round(counts["events"] / cpu),
            "events": counts["events"], "shown": counts["shown"], "seconds": seconds,
            "cpu_s": cpu, "compile_s": first, "compile_cpu_s": first_cpu,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        print(f"{counts['events']:,} events ({counts['shown']:,} items shown) in "
              f"{seconds:.1f} s, {cpu:.1f} CPU s: {figures['events_per_s']:,} events/s"
              f", {figures['events_per_cpu_s']:,} events/CPU s; the first run, with "
              f"compilation, {first:.1f} s, {first_cpu:.1f} CPU s; peak "
              f"{figures['peak_mib']:,.0f} MiB")
        if options.learn:
            _learn(target)
        if options.beside or options.page:
            _show(target, options.beside, options.page)
    if options.json:
        print(json.dumps(figures))


def _timed(cfg: shop.ShopConfig, target: pathlib.Path) -> tuple[float, float, dict]:
    begun, cpu = time.perf_counter(), time.process_time()
    manifest = shop.prepare_shop(cfg, target)
    return (time.perf_counter() - begun, time.process_time() - cpu, manifest["counts"])


def _learn(target: pathlib.Path) -> None:
    log = dataset.load_dataset(target)
    events = rows.of_dataset(log)
    targets = rows.expand(events, log.split("test"))
    request = log.column("request")[targets.place]
    need = pq.read_table(target / "requests.parquet")["need"].to_numpy()
    needs = pq.read_table(target / "needs.parquet")
    context = np.array(needs["kind"].to_pylist())[need[request]] == "context"
    new = need[request] != np.where(request > 0, need[request - 1], -1)
    hits = {name: (rule(events, targets, 10) == targets.item[:, None]).any(axis=1)
            for name, rule in (("popularity", baselines.popularity),
                               ("Markov", baselines.markov),
                               ("Markov, shuffled", baselines.markov_shuffled))}
    hits["need known"] = _need_known(log, events, targets, needs, need[request])
    groups = {"all": context | True, "context need": context,
              "new context need": context & new}
    print("HR@10, test split | " + " | ".join(
        f"{name} ({mask.sum():,})" for name, mask in groups.items()))
    for name, hit in hits.items():
        print(f"{name} | " + " | ".join(f"{hit[mask].mean():.3f}"
                                        for mask in groups.values()))


def _need_known(log: dataset.Dataset, events: rows.Events, targets: rows.Targets,
                needs: pa.Table, need: np.ndarray) -> np.ndarray:
    """Hits of the needed leaf's most popular items, those with the feature first."""
    table = log.item_table()
    category, feature = (np.array(table[name].to_pylist())
                         for name in ("category", "feature"))
    wanted = needs.to_pylist()
    score = rows.popularity(events).astype(np.float64)
    hits = np.zeros(len(targets), bool)
    for place, number in enumerate(need):
        own = np.flatnonzero(category == wanted[number]["category"])
        first = feature[own] == wanted[number]["feature"]
        best = own[np.lexsort((-score[own], ~first))][:10]
        hits[place] = targets.item[place] in best
    return hits


def _show(target: pathlib.Path, beside: list[str], page: pathlib.Path | None) -> None:
    folders = {"shop": target, **{name: pathlib.Path(folder) for name, _, folder
                                  in (entry.partition("=") for entry in beside)}}
    logs = {name: statistics.log_statistics(dataset.load_dataset(folder, verify=False))
            for name, folder in folders.items()}
    print(statistics_page.markdown_table(logs))
    if page is not None:
        statistics_page.write_statistics_page(
            page, logs, title="The simulated shop beside real logs")
        statistics_page.write_statistics(page.with_suffix(".json"), logs)


if __name__ == "__main__":
    main()
