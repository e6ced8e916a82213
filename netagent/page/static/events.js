// The time line: what happened on this host, and who or what caused it. The latest first.

import { h, number, sentence, state } from "./dom.js";
import { follow } from "./live.js";

const LEVELS = { info: "", warning: "warning", error: "failed" };

export function by(author) {
  const name = [author.name, author.program && author.program !== author.name ? `(${author.program})` : ""].filter(Boolean).join(" ");
  return author.kind === "agent" ? "the agent itself" : [author.kind, name].filter(Boolean).join(" ");
}

export function entry(one, withHost = false) {
  return [
    h("time", { datetime: one.happened_at, title: one.happened_at }, new Date(one.happened_at).toLocaleTimeString()),
    h("span", { class: "kind" }, one.kind),
    h("span", { class: "text" }, LEVELS[one.level] ? state(LEVELS[one.level], "") : "", withHost ? h("span", { class: "faint" }, `${one.host}  `) : "", sentence(one.text)),
    h("span", { class: "by faint" }, by(one.author)),
  ];
}

export function events(place) {
  const query = place.query;
  const search = h("input", { id: "q", type: "search", placeholder: "Filter events   /", value: query.get("q") || "", autocomplete: "off" });
  const kind = h("select", { id: "filter-kind" }, h("option", { value: "" }, "any kind"));
  const level = h("select", { id: "filter-level" }, ["", "warning", "error"].map((one) => h("option", { value: one, selected: one === (query.get("level") || "") }, one || "any level")));
  const hosts = h("select", { id: "filter-hosts" }, [["", "this host"], ["all", "all hosts"]].map(([value, text]) => h("option", { value, selected: value === (query.get("hosts") || "") }, text)));
  const notes = h("div", { class: "notes" });
  const since = h("select", { id: "filter-since" }, [["1h", "last hour"], ["24h", "last 24 hours"], ["7d", "last 7 days"]].map(([value, text]) => h("option", { value, selected: value === (query.get("since") || "24h") }, text)));
  const count = h("output", { class: "count", "aria-live": "polite" });
  const list = h("ol", { class: "log" });
  const empty = h("p", { class: "empty", hidden: true });
  const scroller = h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "Events" }, list, empty);
  const element = h(
    "section", { class: "fill" },
    h("div", { class: "bar" }, h("h1", {}, "Events"),
      h("label", { class: "unseen", for: "q" }, "Filter events"), search,
      h("label", { class: "unseen", for: "filter-hosts" }, "Hosts"), hosts,
      h("label", { class: "unseen", for: "filter-kind" }, "Kind"), kind,
      h("label", { class: "unseen", for: "filter-level" }, "Level"), level,
      h("label", { class: "unseen", for: "filter-since" }, "Since"), since, count),
    notes, scroller,
  );
  const shown = new Map();
  let stream = null;

  function open() {
    stream?.close();
    shown.clear();
    const asked = Object.fromEntries(["q", "hosts", "kind", "level", "since"].map((name) => [name, query.get(name) || ""]));
    stream = follow("events", asked, show, (problem) => { empty.textContent = problem.detail; empty.hidden = false; });
  }

  function show({ head, rows, order }) {
    if (kind.options.length === 1) kind.append(...head.kinds.map((one) => h("option", { value: one, selected: one === query.get("kind") }, one)));
    count.textContent = order.length < head.matching ? `the latest ${number(order.length)} of ${number(head.matching)}` : number(head.matching);
    notes.replaceChildren(...(head.warnings || []).map((one) => h("p", {}, state("warning", ""), sentence(one.message))));
    empty.hidden = order.length > 0;
    empty.textContent = "No event matches.";
    let day = "";
    const lines = [];
    for (const id of order) {
      const one = rows.get(id);
      const date = new Date(one.happened_at).toDateString();
      if (date !== day) lines.push(h("li", { class: "day" }, h("h2", {}, date === new Date().toDateString() ? "Today" : date)));
      day = date;
      if (!shown.has(id)) shown.set(id, h("li", {}, entry(one, query.get("hosts") === "all")));
      lines.push(shown.get(id));
    }
    for (const id of [...shown.keys()]) if (!rows.has(id)) shown.delete(id);
    list.replaceChildren(...lines);
  }

  function change(name, value) {
    if (value) query.set(name, value);
    else query.delete(name);
    place.remember();
    open();
  }

  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => change("q", search.value.trim()), 150);
  });
  hosts.addEventListener("change", () => change("hosts", hosts.value));
  kind.addEventListener("change", () => change("kind", kind.value));
  level.addEventListener("change", () => change("level", level.value));
  since.addEventListener("change", () => change("since", since.value));
  open();
  return { element, close: () => stream.close(), focus: () => search.focus() };
}
