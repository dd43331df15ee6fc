"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data.scenarios.length) return;
  const PAGE = 10;
  const get = (id) => document.getElementById(id);
  let shown = PAGE;

  // Text written by a model enters the page only as a text node, so the browser never parses it as HTML.
  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function option(select, value, text) {
    const made = element("option", "", text);
    made.value = value;
    select.append(made);
  }

  const score = (row, run) => row.cells[run]?.score ?? -Infinity;
  const worst = (row, runs) => Math.max(...runs.map((run) => score(row, run)));
  const place = (a, b) => a.sample_index - b.sample_index || a.prompt_index - b.prompt_index;

  function gap(row, runs) {
    const scores = runs.map((run) => row.cells[run]?.score).filter((value) => value !== null && value !== undefined);
    return scores.length > 1 ? Math.max(...scores) - Math.min(...scores) : -Infinity;
  }

  function descending(value) {
    return (a, b) => {
      const [x, y] = [value(a), value(b)];
      return x === y ? place(a, b) : y > x ? 1 : -1;
    };
  }

  function ordered(rows, order, runs) {
    if (order === "drawn") return rows.filter((row) => row.drawn).sort(place);
    return rows.sort(descending((row) => (order === "gap" ? gap : worst)(row, runs)));
  }

  // Reads the filters once for all samples.
  function wanted() {
    const number = (id, otherwise) => (get(id).value === "" ? otherwise : Number(get(id).value));
    return {
      runs: JSON.parse(get("run").value),
      low: number("low", -Infinity),
      high: number("high", Infinity),
      scored: get("low").value !== "" || get("high").value !== "",
      flagged: get("flagged").checked,
      finished: { any: null, ended: true, cut: false }[get("finished").value],
      query: get("search").value.trim().toLowerCase(),
    };
  }

  function matches(row, run, want) {
    const cell = row.cells[run];
    if (!cell) return false;
    if (want.scored && (cell.score === null || cell.score < want.low || cell.score > want.high)) return false;
    if (want.flagged && !(cell.score > data.threshold)) return false;
    if (want.finished !== null && cell.finished !== want.finished) return false;
    return !want.query || [row.prompt, cell.text, cell.prompt ?? ""].some((text) => text.toLowerCase().includes(want.query));
  }

  // Lower case may be longer than the text itself (İ). Hits would then be at wrong places, so nothing is marked.
  function marked(className, text, query) {
    const made = element("pre", className);
    made.tabIndex = 0;
    const lower = text.toLowerCase();
    let start = 0;
    if (query && lower.length === text.length) {
      for (let hit = lower.indexOf(query); hit >= 0; hit = lower.indexOf(query, start)) {
        made.append(text.slice(start, hit), element("mark", "", text.slice(hit, hit + query.length)));
        start = hit + query.length;
      }
    }
    made.append(text.slice(start));
    return made;
  }

  function format(value) {
    if (value === null || value === undefined) return "–";
    if (value === 0) return "0";
    return Math.abs(value) < 1e-4 || Math.abs(value) >= 1e3 ? value.toExponential(2) : value.toPrecision(3);
  }

  function makeCell(row, run, want) {
    const cell = row.cells[run];
    const other = matches(row, run, want) ? "" : " other";
    const made = element("article", `cell run-${data.runs[run].colour}${other}`);
    const head = element("header");
    const flagged = cell?.score > data.threshold;
    head.append(
      element("span", "key", data.runs[run].label),
      element("span", flagged ? "score flagged" : "score", format(cell?.score)),
    );
    if (cell && cell.score === null) head.lastChild.title = "The scorer cannot say";
    made.append(head);
    if (!cell) {
      made.append(element("p", "note", "– No such sample."));
      return made;
    }
    if (cell.prompt !== undefined) made.append(marked("prompt", cell.prompt, want.query));
    made.append(marked("", cell.text, want.query));
    const notes = [];
    if (cell.tokens !== null) notes.push(`${cell.tokens} tokens`);
    if (cell.finished !== null) notes.push(cell.finished ? "ended by itself" : "cut at its longest");
    if (cell.cut) notes.push(`${cell.cut} more characters not shown`);
    made.append(element("p", "note", notes.join(" · ")));
    return made;
  }

  function makeRow(row, want) {
    const made = element("div", "row");
    const place = [`Prompt ${row.prompt_index}`, `sample ${row.sample_index}`];
    made.append(element("p", "place", place.join(", ")));
    if (row.prompt) made.append(marked("prompt", row.prompt, want.query));
    const cells = element("div", "cells");
    want.runs.forEach((run) => cells.append(makeCell(row, run, want)));
    made.append(cells);
    return made;
  }

  function show() {
    const scenario = data.scenarios[Number(get("scenario").value)];
    const want = wanted();
    const found = scenario.rows.filter((row) => want.runs.some((run) => matches(row, run, want)));
    const rows = ordered(found, get("order").value, want.runs);
    get("about").textContent =
      scenario.rows.length < scenario.total
        ? `${scenario.rows.length} of ${scenario.total} samples of each run are on this page: those with the worst scores of any run, and the first in the order drawn, which show what is typical. All samples are in evaluation/samples.parquet of each run.`
        : `All ${scenario.total} samples of each run are on this page.`;
    get("count").textContent = rows.length ? `Showing ${Math.min(shown, rows.length)} of ${rows.length}` : "Nothing found.";
    get("rows").replaceChildren(...rows.slice(0, shown).map((row) => makeRow(row, want)));
    get("more").hidden = rows.length <= shown;
  }

  function restart() {
    shown = PAGE;
    show();
  }

  data.scenarios.forEach((scenario, index) => option(get("scenario"), index, scenario.name));
  const all = data.runs.map((_, run) => run);
  const seeds = data.groups.filter((group) => group.runs.length > 1);
  if (data.groups.length > 1 && seeds.length) option(get("run"), JSON.stringify(data.groups.map((group) => group.runs[0])), "The first seed of each");
  if (all.length > 1) option(get("run"), JSON.stringify(all), "All, side by side");
  seeds.forEach((group) => option(get("run"), JSON.stringify(group.runs), `${group.label}: ${group.runs.length} seeds`));
  data.runs.forEach((run, index) => option(get("run"), JSON.stringify([index]), run.label));
  option(get("order"), "worst", "Worst first");
  if (all.length > 1) option(get("order"), "gap", "Largest difference first");
  option(get("order"), "drawn", "As drawn");
  option(get("finished"), "any", "Any");
  option(get("finished"), "ended", "Ended by itself");
  option(get("finished"), "cut", "Cut at its longest");
  if (data.threshold === null) get("flagged").parentElement.hidden = true;
  for (const id of ["scenario", "run", "order", "finished", "flagged"]) get(id).addEventListener("change", restart);
  for (const id of ["search", "low", "high"]) get(id).addEventListener("input", restart);
  get("controls").addEventListener("submit", (event) => event.preventDefault());
  get("controls").addEventListener("reset", () => setTimeout(restart));  // after the fields have been cleared
  get("wrap").addEventListener("change", () => get("rows").classList.toggle("wrap", get("wrap").checked));
  get("more").addEventListener("click", () => {
    shown += PAGE;
    show();
  });
  get("rows").classList.toggle("wrap", get("wrap").checked);
  show();
})();
