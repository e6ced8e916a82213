// A table of any length: rows of one height, of which only those in sight are in the document. The filters, the order
// and the search are the query of the page's address.

import { h, number, sentence, state } from "./dom.js";
import { follow } from "./live.js";

const ROW = 30;
const LIMIT = 200;
const STEP = 50;

// `spec`: part, noun, columns [{name, label, cell, sort, wide}], filters [{name, label, choices(head)}]
export function tablePart(spec, place) {
  const query = place.query;
  const search = h("input", {
    type: "search", id: "q", placeholder: `Filter ${spec.noun}s   /`, value: query.get("q") || "", autocomplete: "off", spellcheck: "false",
  });
  const selects = spec.filters.map((one) => {
    const select = h("select", { id: `filter-${one.name}` }, h("option", { value: "" }, `any ${one.label}`));
    const chosen = query.get(one.name);
    if (chosen) select.append(h("option", { value: chosen, selected: true }, chosen));
    select.addEventListener("change", () => change({ [one.name]: select.value }));
    return { ...one, select };
  });
  const count = h("output", { class: "count", "aria-live": "polite" });
  const clear = h("button", { type: "button", class: "plain", hidden: true, onclick: () => reset() }, "clear filters");
  const heads = spec.columns.map((column) => {
    if (!column.sort) return h("th", { scope: "col", class: column.wide || "" }, column.label);
    const button = h("button", { type: "button", onclick: () => sortBy(column.sort) }, column.label);
    return h("th", { scope: "col", class: column.wide || "", "data-sort": column.sort }, button);
  });
  const above = h("tr", { class: "space", "aria-hidden": "true" });
  const below = h("tr", { class: "space", "aria-hidden": "true" });
  const body = h("tbody");
  const grid = h("table", { class: "grid" }, h("caption", { class: "unseen" }, spec.title), h("thead", {}, h("tr", {}, heads)), body);
  const scroller = h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": spec.title }, grid);
  const notes = h("div", { class: "notes" });
  const empty = h("p", { class: "empty", hidden: true });
  const element = h(
    "section",
    { class: "fill" },
    h("div", { class: "bar" }, h("h1", {}, spec.title),
      h("label", { class: "unseen", for: "q" }, `Filter ${spec.noun}s`), search,
      selects.map((one) => [h("label", { class: "unseen", for: `filter-${one.name}` }, one.label), one.select]), clear, count),
    notes, scroller, empty,
  );

  const shown = new Map(); // id -> [row, element]
  let stream = null;
  let offset = 0;
  let matching = 0;

  function params() {
    const all = Object.fromEntries(query);
    return { ...all, offset, limit: LIMIT };
  }

  function open() {
    if (stream) stream.close();
    stream = follow(spec.part, params(), show, (problem) => say(problem.detail + (problem.hint ? `; ${problem.hint}` : "")));
  }

  function say(text) {
    empty.textContent = text;
    empty.hidden = false;
  }

  function show({ head, rows, order }, changed) {
    matching = head.matching;
    offset = head.offset;
    const isFiltered = [...query.keys()].some((name) => name !== "sort");
    count.textContent = isFiltered ? `${number(matching)} of ${number(head.total)}` : number(head.total);
    clear.hidden = !isFiltered;
    empty.hidden = matching > 0;
    if (!matching) say(isFiltered ? `No ${spec.noun} matches these filters.` : `There is no ${spec.noun} yet.`);
    notes.replaceChildren(...(head.warnings || []).map((one) => h("p", {}, state("warning", ""), sentence(one.message))));
    for (const one of selects) choices(one, head);
    grid.setAttribute("aria-rowcount", matching + 1);
    above.style.height = `${offset * ROW}px`;
    below.style.height = `${Math.max(0, matching - offset - order.length) * ROW}px`;
    const elements = order.map((id, index) => {
      const row = rows.get(id);
      let known = shown.get(id);
      if (!known || known[0] !== row) {
        const fresh = h("tr", {}, spec.columns.map((column) => h(column.head ? "th" : "td", { class: column.wide || "", scope: column.head ? "row" : undefined }, column.cell(row))));
        if (known && changed.has(id)) fresh.classList.add("changed");
        known = [row, fresh];
        shown.set(id, known);
      }
      known[1].setAttribute("aria-rowindex", offset + index + 2);
      return known[1];
    });
    for (const id of [...shown.keys()]) if (!rows.has(id)) shown.delete(id);
    place_rows([above, ...elements, below]);
  }

  // Moves only what is out of place: a focused link keeps the focus.
  function place_rows(wanted) {
    let at = body.firstChild;
    for (const element of wanted) {
      if (element === at) at = at.nextSibling;
      else body.insertBefore(element, at);
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  function choices(one, head) {
    const wanted = one.choices(head);
    const key = wanted.join("\n");
    if (one.known === key) return;
    one.known = key;
    const chosen = query.get(one.name) || "";
    const every = chosen && !wanted.includes(chosen) ? [chosen, ...wanted] : wanted;
    one.select.replaceChildren(
      h("option", { value: "" }, `any ${one.label}`),
      ...every.map((text) => h("option", { value: text, selected: text === chosen }, text)),
    );
  }

  function change(values) {
    for (const [name, value] of Object.entries(values)) {
      if (value) query.set(name, value);
      else query.delete(name);
    }
    place.remember();
    marks();
    offset = 0;
    scroller.scrollTop = 0;
    open();
  }

  function reset() {
    for (const name of [...query.keys()]) if (name !== "sort") query.delete(name);
    search.value = "";
    for (const one of selects) one.select.value = "";
    change({});
    search.focus();
  }

  function sortBy(name) {
    const now = query.get("sort") || spec.columns.find((column) => column.sort).sort;
    change({ sort: now === name ? `-${name}` : name });
  }

  function marks() {
    const sort = query.get("sort") || spec.columns.find((column) => column.sort).sort;
    for (const head of heads) {
      const name = head.dataset.sort;
      if (!name) continue;
      const way = sort === name ? "ascending" : sort === `-${name}` ? "descending" : null;
      if (way) head.setAttribute("aria-sort", way);
      else head.removeAttribute("aria-sort");
    }
  }

  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ q: search.value.trim() }), 120);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") {
      body.querySelector("a")?.focus();
      event.preventDefault();
    }
  });
  body.addEventListener("keydown", (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (!step) return;
    const target = event.target.closest("tr")?.[step]?.querySelector("a");
    if (target) target.focus();
    else if (event.key === "ArrowUp") search.focus();
    event.preventDefault();
  });

  let scrolled = 0;
  scroller.addEventListener("scroll", () => {
    clearTimeout(scrolled);
    scrolled = setTimeout(() => {
      const first = Math.floor(scroller.scrollTop / ROW);
      const last = first + Math.ceil(scroller.clientHeight / ROW);
      if (first >= offset && (last <= offset + LIMIT || offset + LIMIT >= matching)) return;
      offset = Math.max(0, Math.floor((first - STEP) / STEP) * STEP);
      open();
    }, 60);
  });

  marks();
  open();
  return { element, close: () => stream.close(), focus: () => search.focus() };
}
