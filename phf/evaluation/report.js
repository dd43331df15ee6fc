"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data.scenarios.length) return;
  const PAGE = 10;
  const NUM_COLOURS = 7;
  const get = (id) => document.getElementById(id);
  let shown = PAGE;

  // What a model wrote only ever enters the page as a text node.
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
  const worst = (row) => Math.max(...row.cells.map((_, run) => score(row, run)));
  const place = (a, b) => a.sample_index - b.sample_index || a.prompt_index - b.prompt_index;

  function gap(row) {
    const scores = row.cells.map((cell) => cell?.score).filter((value) => value !== null && value !== undefined);
    return scores.length > 1 ? Math.max(...scores) - Math.min(...scores) : -Infinity;
  }

  function descending(value) {
    return (a, b) => {
      const [x, y] = [value(a), value(b)];
      return x === y ? place(a, b) : y > x ? 1 : -1;
    };
  }

  function ordered(rows, order) {
    if (order === "drawn") return rows.filter((row) => row.drawn).sort(place);
    if (order === "worst") return rows.sort(descending(worst));
    if (order === "gap") return rows.sort(descending(gap));
    const run = Number(order.slice("run-".length));
    return rows.sort(descending((row) => score(row, run)));
  }

  function matches(row, query) {
    const texts = [row.prompt, ...row.cells.flatMap((cell) => (cell ? [cell.text, cell.prompt ?? ""] : []))];
    return texts.some((text) => text.toLowerCase().includes(query));
  }

  // Lower case may be longer than the text itself (İ): then nothing is marked rather than the wrong place.
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

  function makeCell(row, run, query) {
    const cell = row.cells[run];
    const made = element("article", `cell run-${run % NUM_COLOURS}`);
    const head = element("header");
    const value = cell?.score;
    const isWorst = row.cells.length > 1 && value > 0 && value === worst(row);
    head.append(element("span", "key", data.runs[run]), element("span", isWorst ? "score worst" : "score", format(value)));
    if (cell && cell.score === null) head.lastChild.title = "The scorer cannot say";
    made.append(head);
    if (!cell) {
      made.append(element("p", "note", "– No such sample."));
      return made;
    }
    if (cell.prompt !== undefined) made.append(marked("prompt", cell.prompt, query));
    made.append(marked("", cell.text, query));
    const notes = [];
    if (cell.tokens !== null) notes.push(`${cell.tokens} tokens`);
    if (cell.finished !== null) notes.push(cell.finished ? "ended by itself" : "cut at its longest");
    if (cell.cut) notes.push(`${cell.cut} more characters not shown`);
    made.append(element("p", "note", notes.join(" · ")));
    return made;
  }

  function makeRow(row, query) {
    const made = element("div", "row");
    const place = [`Prompt ${row.prompt_index}`, `sample ${row.sample_index}`];
    made.append(element("p", "place", place.join(", ")));
    if (row.prompt) made.append(marked("prompt", row.prompt, query));
    const cells = element("div", "cells");
    row.cells.forEach((_, run) => cells.append(makeCell(row, run, query)));
    made.append(cells);
    return made;
  }

  function show() {
    const scenario = data.scenarios[Number(get("scenario").value)];
    const query = get("search").value.trim().toLowerCase();
    const rows = ordered(scenario.rows.filter((row) => !query || matches(row, query)), get("order").value);
    get("about").textContent =
      scenario.rows.length < scenario.total
        ? `${scenario.rows.length} of ${scenario.total} samples are on this page: the worst of any run, and some as they were drawn, which show what is usual.`
        : `All ${scenario.total} samples are on this page.`;
    get("count").textContent = rows.length ? `Showing ${Math.min(shown, rows.length)} of ${rows.length}` : "Nothing found.";
    get("rows").replaceChildren(...rows.slice(0, shown).map((row) => makeRow(row, query)));
    get("more").hidden = rows.length <= shown;
  }

  function restart() {
    shown = PAGE;
    show();
  }

  data.scenarios.forEach((scenario, index) => option(get("scenario"), index, scenario.name));
  option(get("order"), "worst", data.runs.length > 1 ? "Worst of any run first" : "Worst first");
  if (data.runs.length > 1) {
    data.runs.forEach((label, run) => option(get("order"), `run-${run}`, `Worst of ${label} first`));
    option(get("order"), "gap", "Largest difference first");
  }
  option(get("order"), "drawn", "As drawn");
  get("scenario").addEventListener("change", restart);
  get("order").addEventListener("change", restart);
  get("search").addEventListener("input", restart);
  get("controls").addEventListener("submit", (event) => event.preventDefault());
  get("wrap").addEventListener("change", () => get("rows").classList.toggle("wrap", get("wrap").checked));
  get("more").addEventListener("click", () => {
    shown += PAGE;
    show();
  });
  get("rows").classList.toggle("wrap", get("wrap").checked);
  show();
})();
