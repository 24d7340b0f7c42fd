"""Runs every benchmark of this folder and gathers their figures.

    python benchmarks/run_all.py --quick           # what needs no other library
    python benchmarks/run_all.py --quick --peer    # beside the peers; `make bench`

Each script runs in a process of its own, one after the other, with `--json` and what is
asked for here, and must print one JSON object as its last line. What a script prints is
shown as it comes. At the end stands one table, and as the last line one JSON object
keyed by script: "status" ("ok" or "failed"), "why" where it failed or its peer was
skipped, "seconds" and "figures". Exits with 1 when a script failed.
"""

import argparse
import ast
import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys
import threading
import time
from typing import Any

import rich.console
import rich.table
import rich.text

FOLDER = pathlib.Path(__file__).resolve().parent
PEER_NEEDS = ("torch", "transformers", "faiss")  # the extra "bench"


@dataclasses.dataclass
class Result:
    """How one script ended."""

    status: str
    why: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag = {"action": "store_true"}
    parser.add_argument("--quick", help="each script's small size", **flag)
    parser.add_argument("--peer", help="beside the peers", **flag)
    parser.add_argument("--json", help="accepted; the last line is always JSON", **flag)
    parser.add_argument("--only", nargs="+", metavar="NAME",
                        help="these scripts alone, as 'decode train_step'")
    parser.add_argument("--timeout", type=float, default=1800, metavar="SECONDS",
                        help="after which a script has failed (1800)")
    options = parser.parse_args()
    found = {path.stem: path for path in scripts(FOLDER)}
    unknown = sorted(set(options.only or ()) - set(found))
    if unknown:
        parser.error(f"--only names {', '.join(unknown)}; there are "
                     f"{', '.join(found)}")
    missing = [name for name in PEER_NEEDS if not importlib.util.find_spec(name)]
    results = {}
    for name in options.only or found:
        arguments = ["--json", *(["--quick"] if options.quick else [])]
        with_peer = options.peer and takes(found[name], "--peer")
        if with_peer and not missing:
            arguments.append("--peer")
        print(f"--- {name} {' '.join(arguments)}", flush=True)
        results[name] = run(found[name], arguments, options.timeout)
        if with_peer and missing and results[name].status == "ok":
            results[name].why = (f"peer skipped: it needs {', '.join(missing)}; "
                                 "pip install -e '.[bench]'")
    console = rich.console.Console(width=None if sys.stdout.isatty() else 110)
    console.print(table(results))
    print(json.dumps({name: dataclasses.asdict(result)
                      for name, result in results.items()}))
    if any(result.status == "failed" for result in results.values()):
        raise SystemExit(1)


def scripts(folder: pathlib.Path) -> list[pathlib.Path]:
    """The benchmarks in a folder: files with a main block, this one left out."""
    return [path for path in sorted(folder.glob("*.py"))
            if path.name != pathlib.Path(__file__).name and _has_main(path)]


def takes(script: pathlib.Path, option: str) -> bool:
    """Whether a script knows a command-line option, by the strings in its source."""
    return any(isinstance(node, ast.Constant) and node.value == option
               for node in ast.walk(ast.parse(script.read_text("utf-8"))))


def run(script: pathlib.Path, arguments: list[str], timeout: float) -> Result:
    """Runs one script, shows its output as it comes and reads its last line."""
    start, last = time.perf_counter(), ""
    process = subprocess.Popen([sys.executable, "-u", str(script), *arguments],
                               stdout=subprocess.PIPE, text=True)
    stop = threading.Timer(timeout, process.kill)
    stop.start()
    try:
        for line in process.stdout or ():
            if line.strip():
                last = line
            if not line.startswith("{"):
                print(f"    {line}", end="", flush=True)
        code = process.wait()
    finally:
        late = not stop.is_alive()
        stop.cancel()
        process.kill()
    seconds = round(time.perf_counter() - start, 1)
    if code:
        why = f"not done after {timeout:g} s" if late else f"exit status {code}"
        return Result("failed", f"{why}; last line: {last.strip()[:200]}", seconds)
    try:
        figures = json.loads(last)
    except json.JSONDecodeError:
        figures = None
    if not isinstance(figures, dict):
        return Result("failed", "its last line is not a JSON object: "
                                f"{last.strip()[:200]}", seconds)
    return Result("ok", "", seconds, figures)


def table(results: dict[str, Result]) -> rich.table.Table:
    """One line for each plain figure; objects one level deep as `name[key]`."""
    out = rich.table.Table("benchmark", "figure", "value", title="benchmarks")
    for name, result in results.items():
        how = f"{result.status}, {result.seconds:.0f} s"
        out.add_row(name, "status", how)
        if result.why:
            out.add_row("", "why", rich.text.Text(result.why))
        for figure, value in _flat(result.figures):
            out.add_row("", rich.text.Text(figure), value)
        out.add_section()
    return out


def _flat(figures: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in figures.items():
        if isinstance(value, dict):
            rows += [(f"{name}[{key}]", text) for key, text in _flat(value)]
        elif isinstance(value, list):
            rows.append((name, json.dumps(value)[:60]))
        else:
            rows.append((name, f"{value:,.4g}" if isinstance(value, float)
                         else str(value)))
    return rows


def _has_main(path: pathlib.Path) -> bool:
    return any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
               for node in ast.parse(path.read_text("utf-8")).body)


if __name__ == "__main__":
    main()
