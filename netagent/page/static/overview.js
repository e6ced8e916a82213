// The overview: what there is, what is wrong and what to type, and all hosts at a glance.

import { copyable, h, link, look, milliseconds, number, sentence, state } from "./dom.js";
import { entry } from "./events.js";
import { follow } from "./live.js";

export function overview() {
  const counts = h("ul", { class: "counts" });
  const warnings = h("div", { class: "warnings" });
  const hosts = h("ul", { class: "tiles" });
  const happened = h("ol", { class: "log" });
  const element = h(
    "section",
    { class: "pad" },
    h("h1", { class: "unseen" }, "Overview"),
    counts,
    h("h2", {}, "What to look at"), warnings,
    h("h2", {}, "Hosts, as this one sees them"), hosts,
    h("h2", {}, link("events", "What happened last, as this host noted it")), happened,
  );
  const trouble = (problem) => warnings.replaceChildren(h("p", {}, sentence(`${problem.detail}; ${problem.hint}`)));
  const streams = [
    follow("overview", {}, ({ head }) => {
      counts.replaceChildren(...countsOf(head));
      warnings.replaceChildren(...warningsOf(head.status));
    }, trouble),
    follow("hosts", {}, ({ rows, order }) => hosts.replaceChildren(...order.map((id) => tile(rows.get(id)))), () => {}),
    follow("events", { since: "24h" }, ({ rows, order }) => happened.replaceChildren(...order.slice(0, 8).map((id) => h("li", {}, entry(rows.get(id))))), () => {}),
  ];
  return { element, close: () => streams.forEach((one) => one.close()) };
}

function sum(words) {
  return Object.values(words).reduce((total, one) => total + one, 0);
}

// The number of all, and in words what of them is not as it should be.
function count(path, label, all, parts) {
  const wrong = parts.filter(([, some]) => some);
  return h(
    "li", {},
    h("span", { class: "label" }, label),
    path === null ? h("span", { class: "big" }, all) : link(path, all, { class: "big" }),
    h("span", { class: "rest" }, wrong.length ? wrong.map(([word, some, where]) => (where ? link(where, state(word, `${number(some)} ${word}`)) : state(word, `${number(some)} ${word}`))) : h("span", { class: "faint" }, "all well")),
  );
}

function countsOf({ status, services, endpoints }) {
  const others = (words, good, path) => Object.entries(words).filter(([word]) => !good.includes(word)).map(([word, some]) => [word, some, path && path(word)]);
  const drift = status.drift;
  return [
    count("hosts", "Hosts", number(sum(status.members)), others(status.members, ["alive"])),
    count("services", "Services", number(sum(services)), others(services, ["up"], (word) => `services?state=${word}`)),
    count("endpoints", "Endpoints", number(sum(endpoints)), others(endpoints, ["up"], (word) => `endpoints?state=${word}`)),
    count("networks", "Networks", number(status.network_count), []),
    count("hosts", "Paths from here", number(sum(status.paths)), others(status.paths, ["ok", "local"])),
    count("dns", "DNS queries", number(status.dns.queries), status.dns.running ? [] : [["down", 1]]),
    count(null, "Kernel differs", number(drift.differences), drift.differences ? [["altered", drift.differences]] : []),
  ];
}

function warningsOf(status) {
  if (!status.warnings.length) return [h("p", { class: "faint" }, "Nothing: no warning on this host.")];
  return [h("ul", {}, status.warnings.map((one) => h("li", {}, h("p", {}, state("warning", ""), sentence(one.message)), h("p", { class: "cure" }, cure(one.cure)))))];
}

// A cure that begins with a command can be copied.
function cure(text) {
  const found = /^`([^`]+)`$/.exec(text);
  return found ? copyable(found[1]) : sentence(text);
}

function tile(row) {
  const all = sum(row.endpoints);
  const word = row.agent !== "alive" ? row.agent : row.path === "local" ? "alive" : row.path;
  const kind = look(row.agent !== "alive" ? row.agent : row.path);
  return h(
    "li", { class: `tile ${kind}` },
    link(`hosts/${row.id}`, row.name),
    state(row.agent !== "alive" ? row.agent : row.path, word === "alive" ? "this host" : word),
    h("span", { class: "faint num" }, [milliseconds(row.rtt_s), `${number(all)} ep`].filter(Boolean).join("  ")),
  );
}
