"""How the report looks, and the script that draws its charts in the reader's theme."""

CSS = """
:root {
  color-scheme: light dark;
  --bg: #f5f6f9; --card: #ffffff; --ink: #18202f; --muted: #5a6578; --line: #e1e5ec;
  --soft: #eef1f6; --model: #2563d9; --model-soft: #e6eefc; --rival: #97a3b6;
  --faint: #cdd5e0; --good: #127a4b; --good-soft: #e2f4ea; --bad: #b23a32;
  --bad-soft: #fbe9e7; --s1: #2563d9; --s2: #d9822b; --s3: #12856a; --s4: #9a4fc4;
  --s5: #c2417a; --s6: #6b7a90;
  --shadow: 0 1px 2px rgba(20, 30, 50, .05), 0 4px 16px rgba(20, 30, 50, .05);
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #0e131d; --card: #161d2a; --ink: #e7ebf3; --muted: #9ba7ba; --line: #2a3447;
    --soft: #1d2636; --model: #74a5ff; --model-soft: #1c2c4c; --rival: #7a879c;
    --faint: #465268; --good: #5fcf97; --good-soft: #15352a; --bad: #ff8f85;
    --bad-soft: #3d2024; --s1: #74a5ff; --s2: #f2ab5e; --s3: #53cdae; --s4: #c795ec;
    --s5: #f08ab4; --s6: #9ba7ba; --shadow: none;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 4.2rem; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
    Arial, sans-serif;
  -webkit-text-size-adjust: 100%;
}
header, main, footer { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 44px; padding-bottom: 20px; }
h1 { font-size: clamp(1.6rem, 4.5vw, 2.3rem); line-height: 1.15; margin: 0 0 .5rem;
  letter-spacing: -.02em; text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: 1.4rem; margin: 0 0 .3rem; letter-spacing: -.01em; }
h3 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
h4 { font-size: .92rem; margin: 0 0 .35rem; font-weight: 600; }
p { margin: .35rem 0 .8rem; max-width: 74ch; }
.lead { color: var(--muted); text-wrap: pretty; } .small { font-size: .88rem; }
.pills { display: flex; flex-wrap: wrap; gap: 8px; margin: .8rem 0 0; padding: 0;
  list-style: none; }
.pills li { background: var(--card); border: 1px solid var(--line); color: var(--muted);
  border-radius: 999px; padding: .16rem .75rem; font-size: .84rem; }
.pills b { color: var(--ink); font-weight: 600; }
nav { position: sticky; top: 0; z-index: 20; background: var(--bg);
  border-bottom: 1px solid var(--line); }
nav div { max-width: 1120px; margin: 0 auto; padding: 0 12px; display: flex;
  overflow-x: auto; scrollbar-width: none; }
nav div::-webkit-scrollbar { display: none; }
nav a { color: var(--muted); text-decoration: none; padding: .8rem .6rem;
  font-size: .9rem; white-space: nowrap; border-bottom: 2px solid transparent; }
nav a:hover, nav a:focus-visible { color: var(--ink); border-color: var(--model); }
section { margin: 34px 0 52px; }
.verdict { border-left: 4px solid var(--rival); background: var(--card);
  padding: .9rem 1.1rem; border-radius: 0 10px 10px 0; box-shadow: var(--shadow);
  margin: 1rem 0 1.2rem; font-size: 1.04rem; max-width: none; }
.verdict.good { border-color: var(--good); } .verdict.bad { border-color: var(--bad); }
.cards { display: grid; gap: 12px; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 205px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: .85rem 1rem .9rem; box-shadow: var(--shadow); min-width: 0; }
.card .name { color: var(--muted); font-size: .82rem; }
.card .figure { font-size: 1.65rem; font-weight: 650; letter-spacing: -.02em;
  line-height: 1.25; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.card .more { color: var(--muted); font-size: .82rem; line-height: 1.4; }
.card.good .figure { color: var(--good); } .card.bad .figure { color: var(--bad); }
.grid { display: grid; gap: 14px; margin: .8rem 0 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); }
.narrow { grid-template-columns: repeat(auto-fit, minmax(min(100%, 245px), 1fr)); }
figure { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  margin: 0; padding: 14px 14px 12px; min-width: 0; box-shadow: var(--shadow); }
section > figure { margin: .8rem 0 1rem; }
figcaption { color: var(--muted); font-size: .84rem; line-height: 1.45;
  margin-top: .45rem; }
.chart { width: 100%; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; margin: .8rem 0 1rem; box-shadow: var(--shadow); }
table { border-collapse: collapse; width: 100%; font-size: .88rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .55rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: .9rem; }
th:last-child, td:last-child { padding-right: .9rem; }
tbody th { font-weight: 500; background: var(--card); position: sticky; left: 0; }
thead th { color: var(--muted); font-weight: 600; font-size: .82rem;
  background: var(--card); white-space: normal; vertical-align: bottom; }
thead th:first-child { position: sticky; left: 0; }
tbody tr:last-child > * { border-bottom: 0; }
tr.marked > * { background: var(--model-soft); }
tr.marked th { font-weight: 650; color: var(--model); }
td b { font-weight: 700; }
td small { display: block; color: var(--muted); font-size: .76rem; }
.words td, .words th { white-space: normal; text-align: left; }
.words table { min-width: 620px; }
.explained table { min-width: 760px; } .explained td:last-child { min-width: 20rem; }
.explained .value { white-space: nowrap; } .explained .badge { display: inline-block; }
.branch { background: var(--card); border: 1px solid var(--line); padding: .9rem 1rem;
  border-radius: 12px; box-shadow: var(--shadow); min-width: 0; font-size: .86rem; }
.branch ol, .branch ul { list-style: none; margin: 0; padding: 0; }
.branch ol > li { border-left: 2px solid var(--model); padding-left: .7rem;
  margin-top: .6rem; }
.branch ol > li + li { margin-left: .9rem; }
.branch ol > li + li + li { margin-left: 1.8rem; }
.branch .head, .branch .more { color: var(--muted); font-size: .8rem; }
.branch ul li { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.facts td, .facts th { text-align: left; }
.facts th:first-child { width: 18rem; }
.value { white-space: normal; overflow-wrap: anywhere; display: inline-block;
  max-width: 60ch; }
code { font: .86em/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--model);
  font-size: .92rem; padding: .25rem 0; }
.missing { background: var(--soft); border: 1px dashed var(--faint); max-width: none;
  border-radius: 10px; padding: .8rem 1rem; color: var(--muted); }
.example { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1rem 1.1rem; margin: .9rem 0; box-shadow: var(--shadow); display: grid;
  gap: .8rem 1.6rem; grid-template-columns: minmax(0, 5fr) minmax(0, 7fr); }
@media (max-width: 760px) { .example { grid-template-columns: minmax(0, 1fr); } }
.example h4 { color: var(--muted); font-weight: 600; }
.example .head { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: .3rem .8rem;
  align-items: baseline; }
.badge { border-radius: 999px; padding: .08rem .6rem; font-size: .8rem;
  background: var(--soft); color: var(--muted); white-space: nowrap; }
.badge.good { background: var(--good-soft); color: var(--good); }
.badge.bad { background: var(--bad-soft); color: var(--bad); }
.items { list-style: none; margin: 0; padding: 0; font-size: .9rem; }
.items li { padding: .32rem .5rem; border-top: 1px solid var(--line); display: grid;
  grid-template-columns: 1.6rem minmax(0, 1fr) auto; gap: 0 .5rem;
  align-items: baseline; }
.items li:first-child { border-top: 0; }
.items .place { color: var(--muted); font-size: .8rem; text-align: right; }
.items .title { overflow-wrap: anywhere; }
.items .name { display: -webkit-box; -webkit-box-orient: vertical;
  -webkit-line-clamp: 2; overflow: hidden; }
.items .score { color: var(--muted); font-size: .8rem;
  font-variant-numeric: tabular-nums; }
.items code { color: var(--muted); font-size: .74rem; display: block; }
.items .hit { background: var(--good-soft); border-radius: 8px; }
.items .hit .title { font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(9rem, 14rem) minmax(0, 1fr);
  gap: .55rem 1.4rem; margin: 1rem 0; }
dt { font-weight: 600; } dd { margin: 0; color: var(--muted); max-width: 74ch; }
@media (max-width: 620px) { dl { grid-template-columns: 1fr; gap: .1rem; }
  dd { margin-bottom: .7rem; } header { padding-top: 26px; }
  header, main, footer { padding-left: 14px; padding-right: 14px; }
  figure { padding: 12px 8px 10px; } figure h4, figcaption { padding: 0 4px; } }
footer { color: var(--muted); font-size: .85rem; padding-bottom: 40px; }
@media print { nav { display: none; } figure, .card, .example { break-inside: avoid; }
  body { background: #fff; } }
"""

SCRIPT = """
(function () {
  "use strict";
  var root = getComputedStyle(document.documentElement);
  var touch = matchMedia("(pointer: coarse)").matches;
  var webgl = (function () {
    try { return !!document.createElement("canvas").getContext("webgl"); }
    catch (error) { return false; }
  })();
  function themed(value) {
    if (typeof value === "string") {
      var found = /^var\\((--[a-z0-9-]+)\\)$/.exec(value);
      return found ? root.getPropertyValue(found[1]).trim() : value;
    }
    if (Array.isArray(value)) { return value.map(themed); }
    if (value && typeof value === "object") {
      if (value.bdata) { return value; }
      var copy = {};
      Object.keys(value).forEach(function (key) { copy[key] = themed(value[key]); });
      return copy;
    }
    return value;
  }
  function draw(place) {
    var spec = JSON.parse(document.getElementById(place.dataset.figure).textContent);
    var figure = themed(spec);
    figure.data.forEach(function (trace) {
      if (trace.type === "scattergl" && !webgl) { trace.type = "scatter"; }
    });
    var map = figure.layout.meta === "map";
    figure.layout.dragmode = map && !touch ? "pan" : false;
    Plotly.react(place, figure.data, figure.layout, {
      responsive: true, displaylogo: false, scrollZoom: false,
      displayModeBar: map && !touch,
      modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]]
    });
  }
  var places = Array.prototype.slice.call(document.querySelectorAll("[data-figure]"));
  function drawNow() { places.forEach(draw); }
  document.querySelectorAll("details").forEach(function (part) {
    part.addEventListener("toggle", function () {
      part.querySelectorAll("[data-figure]").forEach(function (place) {
        Plotly.Plots.resize(place);
      });
    });
  });
  drawNow();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawNow);
})();
"""
