"""The script of the server's page: asks, and shows what came. Text is never markup."""

SCRIPT = r"""
(function () {
  "use strict";
  var CHILDREN = 8;
  function at(id) { return document.getElementById(id); }
  function value(id) { var found = at(id); return found ? found.value.trim() : ""; }
  function words(id) { return value(id).split(/[\s,]+/).filter(Boolean); }
  function make(name, text, kind) {
    var element = document.createElement(name);
    if (text !== undefined && text !== null) { element.textContent = text; }
    if (kind) { element.className = kind; }
    return element;
  }
  function fill(element, children) {
    children.forEach(function (child) { if (child) { element.appendChild(child); } });
    return element;
  }
  function share(logProb) {
    var percent = 100 * Math.exp(logProb);
    return (percent < 0.1 ? percent.toExponential(1) : percent.toFixed(1)) + " %";
  }
  function filters() {
    var found = {exclude_history: at("exclude").checked, where: {}};
    if (words("deny").length) { found.deny_items = words("deny"); }
    document.querySelectorAll("select[id^='where.']").forEach(function (menu) {
      if (menu.value) { found.where[menu.id.slice(6)] = [menu.value]; }
    });
    if (value("sets")) { found.sets = [value("sets")]; }
    return found;
  }
  function question() {
    var asked = {k: Number(value("k")) || 10, explain: true, filters: filters()};
    if (value("user")) { asked.user = value("user"); }
    if (words("history").length) { asked.history = words("history"); }
    ["scenario", "behaviour", "trigger", "instruction"].forEach(function (name) {
      if (value(name)) { asked[name] = value(name); }
    });
    return asked;
  }
  function ask(path, body) {
    var headers = {"Content-Type": "application/json"};
    if (value("token")) { headers.Authorization = "Bearer " + value("token"); }
    return fetch(path, {method: "POST", headers: headers, body: JSON.stringify(body)})
      .then(function (response) {
        return response.json().then(function (found) {
          if (!response.ok) { throw new Error(found.error.message); }
          return found;
        });
      });
  }
  function list(items, numbered) {
    return fill(make("ol", null, "items"), items.map(function (item, place) {
      return fill(make("li"), [
        make("span", numbered ? item.rank : place + 1),
        fill(make("span"), [make("span", item.title + " "),
                            make("code", item.item_id + " · " +
                                 item.semantic_id.join("-"))]),
        numbered ? score(item) : null]);
    }));
  }
  function score(item) {
    var box = make("span");
    box.appendChild(make("span", item.log_prob === undefined
      ? "cosine " + item.similarity.toFixed(3)
      : share(item.log_prob), "badge"));
    var like = make("button", "similar", "plain");
    like.type = "button";
    like.addEventListener("click", function () { similar(item); });
    box.appendChild(document.createTextNode(" "));
    box.appendChild(like);
    return box;
  }
  function branch(nodes, parent) {
    var mine = nodes.filter(function (node) {
      return node.codes.length === parent.length + 1 &&
        parent.every(function (code, level) { return node.codes[level] === code; });
    });
    if (!mine.length) { return null; }
    var kept = mine.filter(function (node) { return node.fate === "kept"; });
    var others = mine.filter(function (node) { return node.fate !== "kept"; });
    var rows = kept.slice(0, CHILDREN).map(function (node) {
      var row = named(node, node.beams + (node.beams === 1 ? " beam" : " beams"));
      var below = branch(nodes, node.codes);
      if (below) { row.appendChild(below); }
      return row;
    });
    if (kept.length > CHILDREN) {
      rows.push(make("li", "and " + (kept.length - CHILDREN) + " more", "more"));
    }
    others.forEach(function (node) {
      var row = named(node, node.fate, node.fate);
      var below = branch(nodes, node.codes);
      if (below) { row.appendChild(below); }
      rows.push(row);
    });
    return fill(make("ul"), rows);
  }
  function named(node, end, kind) {
    return fill(make("li", null, kind), [
      make("b", node.codes[node.codes.length - 1]),
      make("span", " " + share(node.log_prob) + ", " + end)]);
  }
  function levels(counts) {
    return counts.map(function (level, place) {
      return "level " + (place + 1) + ": " + level.kept + " of " + level.legal;
    }).join(", ");
  }
  function show(title, found) {
    at("version").textContent = found.version;
    at("status").textContent = [found.items.length + " items in " +
      (found.timing.queue_ms + found.timing.compute_ms).toFixed(1) + " ms.",
      found.reason, found.note,
      found.skipped.length ? "Unknown: " + found.skipped.join(", ") + "." : ""]
      .filter(Boolean).join(" ");
    var left = make("div");
    if (found.history) {
      fill(left, [make("h3", "History, oldest first"), list(found.history, false)]);
    }
    if (found.instruction) {
      fill(left, [make("h3", "Instruction"), make("p", found.instruction.text ||
        "none: " + (found.instruction.why || found.instruction.source))]);
    }
    if (found.tree && found.tree.length) {
      var tree = branch(found.tree, []);
      tree.className = "tree";
      tree.id = "tree";
      fill(left, [make("h3", "Search tree"),
                  make("p", "Codes that the search kept of those allowed: " +
                       levels(found.levels) + ". Cut: the likeliest that it left. " +
                       "Ended: kept, but nothing that follows was.", "small"), tree]);
    }
    var right = fill(make("div"), [make("h3", title), list(found.items, true)]);
    right.id = "items";
    var result = at("result");
    result.replaceChildren(fill(make("div", null, "columns"), [right, left]));
  }
  function fail(error) {
    at("result").replaceChildren();
    at("status").textContent = error.message;
  }
  function similar(item) {
    ask("v1/similar", {item: item.item_id, k: Number(value("k")) || 10,
                       filters: filters()})
      .then(show.bind(null, "Similar to " + item.title)).catch(fail);
  }
  at("form").addEventListener("submit", function (event) {
    event.preventDefault();
    at("status").textContent = "…";
    ask("v1/recommend", question()).then(show.bind(null, "Recommended")).catch(fail);
  });
})();
"""
