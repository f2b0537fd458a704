"use strict";
// Titles and explanations are untrusted: they reach the page as text nodes alone.

const theme = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
dark.addEventListener("change", nameTheme);
nameTheme();
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details.printed")) part.open = true;
});

const source = document.getElementById("rows");
if (source) browse(JSON.parse(source.textContent));

function browse({ columns, headings, stages, runs }) {
  const page = 25;
  const total = columns.text.length;
  const table = document.querySelector(".browse");
  const body = table.tBodies[0];
  const control = (id) => document.getElementById(id);
  const [search, label, verdict, stage, run, invented] =
    ["search", "label", "verdict", "stage", "run", "invented"].map(control);
  let searchable = null;
  let sorted = { key: null, down: false };
  let found = [];
  let first = 0;

  const has = (key) => key in columns;
  const value = (key, i) => (has(key) ? columns[key][i] : null);
  const correct = (i) => (value("s_u", i) === null || value("label", i) === null ? null
    : (value("s_u", i) > 0.5) === (value("label", i) === 1));
  const sortable = {
    stage: (i) => columns.stage[i], run: (i) => columns.run[i],
    verdict: (i) => { const c = correct(i); return c === null ? null : Number(c); },
  };

  function words(i) {
    if (!searchable) {
      searchable = columns.text.map((text, j) =>
        [text, value("before", j), value("target", j)].filter((part) => part).join("\n").toLowerCase());
    }
    return searchable[i];
  }

  function select() {
    const wanted = search.value.toLowerCase().split(/\s+/).filter((word) => word);
    const passes = [];
    if (wanted.length) passes.push((i) => wanted.every((word) => words(i).includes(word)));
    if (label.value) passes.push((i) => value("label", i) === Number(label.value));
    if (verdict.value) passes.push((i) => correct(i) === (verdict.value === "right"));
    if (stage.value) passes.push((i) => columns.stage[i] === Number(stage.value));
    if (run && run.value) passes.push((i) => columns.run[i] === Number(run.value));
    if (invented && invented.value) {
      passes.push((i) => Boolean((value("invented", i) || []).length) === (invented.value === "yes"));
    }
    found = [];
    for (let i = 0; i < total; i += 1) if (passes.every((pass) => pass(i))) found.push(i);
    if (sorted.key) {
      const of = sortable[sorted.key] || ((i) => value(sorted.key, i));
      const sign = sorted.down ? -1 : 1;
      const compare = new Intl.Collator().compare;
      const keys = new Map(found.map((i) => [i, of(i)]));
      found.sort((i, j) => {
        const [a, b] = [keys.get(i), keys.get(j)];
        if (a === null || b === null) return (a === null) - (b === null) || i - j;
        return sign * (typeof a === "string" ? compare(a, b) : a - b) || i - j;
      });
    }
    first = 0;
    show();
  }

  function show() {
    body.replaceChildren(...found.slice(first, first + page).map(row));
    const last = Math.min(first + page, found.length);
    control("count").textContent = found.length
      ? `${(first + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${found.length.toLocaleString("en")}`
        + (found.length < total ? `, of ${total.toLocaleString("en")} in all` : "")
      : "No explanation matches. Clear the search or a filter.";
    control("previous").disabled = first === 0;
    control("next").disabled = last >= found.length;
  }

  function row(i) {
    const line = document.createElement("tr");
    line.setAttribute("role", "row");
    for (const [key, name, kind] of headings) {
      const cell = document.createElement("td");
      cell.setAttribute("role", "cell");
      cell.dataset.label = name;
      if (kind) cell.className = kind;
      fill(cell, key, i);
      line.append(cell);
    }
    return line;
  }

  function fill(cell, key, i) {
    const it = value(key, i);
    if (it === null && key !== "verdict") cell.dataset.empty = "";
    if (key === "text") {
      cell.append(...marked(it, value("invented", i)));
    } else if (key === "before") {
      cell.append(...(it === null ? ["–"] : marked(it, value("invented_untrained", i))));
      const scores = [["s_u", value("s_u_untrained", i)], ["s_r", value("s_r_untrained", i)]]
        .filter(([, score]) => score !== null).map(([name, score]) => `${name} ${score.toFixed(3)}`);
      if (scores.length) cell.append(small(scores.join("  ")));
    } else if (key === "target") {
      cell.append(it === null ? "–" : it, history(i));
    } else if (key === "label") {
      cell.append(it === null ? "–" : it === 1 ? "liked" : "disliked");
    } else if (key === "verdict") {
      const c = correct(i);
      cell.append(c === null ? "–" : c ? "✓ right" : "✗ wrong");
    } else if (key === "stage") {
      cell.append(stages[it]);
    } else if (key === "run") {
      cell.append(runs[it]);
    } else {
      cell.append(it === null ? "–" : it.toFixed(3).replace("-", "−"));
      const spread = value(`${key}_std`, i);
      if (spread !== null) cell.append(small(`±\u00a0${spread.toFixed(3)}`));
    }
  }

  function marked(text, titles) {
    if (!text) return ["(empty)"];
    let parts = [text];
    for (const title of titles || []) {
      if (!title) continue;
      parts = parts.flatMap((part) => (typeof part !== "string" ? [part] : part.split(title).flatMap((piece, k) => {
        if (!k) return [piece];
        const mark = document.createElement("mark");
        mark.textContent = title;
        mark.title = "invented: neither the history nor the target has this title";
        return [mark, piece];
      })));
    }
    return parts;
  }

  function history(i) {
    const [liked, disliked] = [value("liked", i), value("disliked", i)];
    if (!liked && !disliked) return "";
    const box = document.createElement("details");
    const summary = document.createElement("summary");
    summary.textContent = `${(liked || []).length} liked, ${(disliked || []).length} disliked`;
    box.append(summary);
    for (const [name, titles] of [["Liked", liked], ["Disliked", disliked]]) {
      if (titles && titles.length) box.append(small(`${name}: ${titles.join("; ")}`));
    }
    return box;
  }

  function small(text) {
    const made = document.createElement("small");
    made.textContent = text;
    return made;
  }

  for (const head of table.tHead.rows[0].cells) {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sorted = { key: head.dataset.key, down };
      select();
    });
  }
  function turn(by) {
    first = Math.max(0, first + by);
    show();
    control("count").scrollIntoView({ block: "start" });
  }
  let waiting = 0;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(select, 120); });
  for (const filter of [label, verdict, stage, run, invented]) if (filter) filter.addEventListener("change", select);
  control("previous").addEventListener("click", () => turn(-page));
  control("next").addEventListener("click", () => turn(page));
  control("clear").addEventListener("click", () => {
    search.value = "";
    for (const filter of [label, verdict, stage, run, invented]) if (filter) filter.value = "";
    select();
    search.focus();
  });
  select();
}
