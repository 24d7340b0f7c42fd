"""The pages of the server, each one file that loads nothing from elsewhere."""

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from oxyrec_jax import __version__
from oxyrec_jax.report import style
from oxyrec_jax.report.fragments import Html, raw, tag
from oxyrec_jax.serve.page_script import SCRIPT
from oxyrec_jax.serve.people import People
from oxyrec_jax.serve.snapshot import Snapshot

_MOST = 200  # values of a column in a menu
_CSS = """
form { display: grid; gap: .7rem 1rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr)); }
label { font-size: .84rem; color: var(--muted); display: block; min-width: 0; }
label.wide { grid-column: 1 / -1; }
input, select, textarea { width: 100%; font: inherit; font-size: .95rem;
  color: var(--ink); background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: .42rem .6rem; margin-top: .15rem; }
input[type=checkbox] { width: auto; margin-right: .4rem; }
button { font: inherit; font-weight: 600; border: 0; border-radius: 8px;
  cursor: pointer; padding: .55rem 1.2rem; background: var(--model); color: #fff; }
button.plain { background: none; color: var(--model); padding: 0; font-weight: 400;
  font-size: .8rem; }
input:focus-visible, select:focus-visible, textarea:focus-visible,
button:focus-visible { outline: 2px solid var(--model); outline-offset: 1px; }
.columns { display: grid; gap: 14px;
  grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); }
@media (max-width: 760px) { .columns { grid-template-columns: minmax(0, 1fr); } }
.tree, .tree ul { list-style: none; margin: 0; padding: 0; font-size: .86rem; }
.tree ul { padding-left: 1.1rem; margin-left: .4rem;
  border-left: 2px solid var(--line); }
.tree b { font-variant-numeric: tabular-nums; }
.tree .more, .tree .ended, .tree .cut { color: var(--muted); }
.tree .cut > b { text-decoration: line-through; }
pre { overflow-x: auto; background: var(--soft); border-radius: 10px; padding: .8rem; }
"""


@functools.cache
def headers() -> Mapping[str, str]:
    """What a page is sent with: it may run its own script and ask this server alone."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return {
        "content-security-policy":
            f"default-src 'none'; script-src 'sha256-{digest}'; style-src "
            "'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'",
        "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
        "cache-control": "no-store"}


def front(title: str, snapshot: Snapshot, people: People) -> str:
    """The page to try a user or a history.

    Args:
      title: its heading.
      snapshot: what answers now.
      people: users of the log.
    """
    reads = snapshot.model.cfg.instructions.reads
    users, items = list(people.rows)[:3], list(snapshot.item_ids)[:3]
    fields = [
        _field("user", "User of the log", placeholder=", ".join(users)),
        _field("history", "or a history: item ids, oldest first",
               placeholder=" ".join(items), wide=True)]
    if "target_scenario" in reads:
        fields.append(_menu("scenario", "Scenario", people.scenarios))
    if "target_behaviour" in reads:
        fields.append(_menu("behaviour", "Wanted behaviour", people.behaviours))
    if "target_trigger" in reads:
        fields.append(_field("trigger", "Trigger (item id)"))
    if "target_instruction" in reads:
        fields.append(_field("instruction", "Instruction in words; else the store's",
                             wide=True))
    fields += [_menu(f"where.{name}", name.capitalize(), list(kinds.number)[:_MOST])
               for name, kinds in snapshot.kinds.items() if kinds.number]
    if snapshot.sets:
        fields.append(_menu("sets", "Set of items", list(snapshot.sets)))
    fields += [
        _field("deny", "Not these (item ids)"), _field("k", "Items", value="10"),
        _field("token", "Token, where the server wants one", kind="password"),
        tag("label", tag("input", type="checkbox", id="exclude"), "nothing of the "
            "history"),
        tag("div", tag("button", "Recommend", type="submit", id="ask"))]
    pills = tag("ul", tag("li", "version ", tag("b", snapshot.version, id="version")),
                tag("li", "items ", tag("b", f"{snapshot.items:,}")),
                tag("li", "users of the log ", tag("b", f"{len(people.rows):,}")),
                tag("li", "oxyrec_jax ", tag("b", __version__)), class_="pills")
    return _page(title, pills, tag(
        "section", tag("form", fields, id="form"),
        tag("p", "", id="status", class_="lead", role="status", aria_live="polite"),
        tag("div", id="result")), script=True)


def docs(document: Mapping[str, Any]) -> str:
    """The OpenAPI document for people."""
    parts = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            codes = [tag("tr", tag("th", code), tag("td", found["description"]))
                     for code, found in operation["responses"].items()]
            parts += [tag("h3", tag("code", f"{method.upper()} {path}")),
                      tag("p", operation["summary"]),
                      tag("div", tag("table", tag("tbody", codes)),
                          class_="scroll words")]
    schemas = [
        tag("details", tag("summary", name),
            tag("pre", tag("code", json.dumps(found, indent=2))))
        for name, found in document["components"]["schemas"].items()]
    link = tag("p", "For programs: ", tag("a", "openapi.json", href="openapi.json"))
    return _page(document["info"]["title"], tag("p", document["info"]["description"]),
                 tag("section", link, parts, tag("h2", "Schemas"), schemas))


def _page(title: str, head: Html, body: Html, script: bool = False) -> str:
    made = tag("head", tag("meta", charset="utf-8"),
               tag("meta", name="viewport",
                   content="width=device-width, initial-scale=1"),
               tag("title", title), tag("style", raw(style.CSS + _CSS)))
    page = tag("body", tag("header", tag("h1", title), head), tag("main", body),
               tag("script", raw(SCRIPT)) if script else None)
    return f"<!doctype html>\n{tag('html', made, page, lang='en')}\n"


def _field(name: str, label: str, *, placeholder: str = "", value: str = "",
           kind: str = "text", wide: bool = False) -> Html:
    return tag("label", label, tag(
        "input", id=name, type=kind, placeholder=placeholder, value=value,
        autocomplete="off", spellcheck="false"), class_="wide" if wide else None)


def _menu(name: str, label: str, values: Any) -> Html:
    return tag("label", label, tag("select", tag("option", "–", value=""), [
        tag("option", value, value=value) for value in values], id=name))
