// The overview: what there is, what is wrong and what to type, and all hosts at a glance.

import { copyable, h, hostWord, hostWords, link, look, milliseconds, number, plural, sentence, state } from "./dom.js";
import { entry } from "./events.js";
import { follow, read, run } from "./live.js";

export function overview() {
  const counts = h("ul", { class: "counts" });
  const warnings = h("div", { class: "warnings" });
  const findings = h("div", { class: "warnings" });
  const said = h("span", { class: "faint", "aria-live": "polite" }, "the doctor looks …");
  const button = h("button", { type: "button", onclick: examine }, "Run doctor");
  const hosts = h("ul", { class: "tiles" });
  const happened = h("ol", { class: "log" });
  const element = h(
    "section",
    { class: "pad" },
    h("h1", { class: "unseen" }, "Overview"),
    counts,
    h("h2", {}, "What to look at"), warnings, findings, h("p", { class: "doctor" }, button, said),
    h("h2", {}, "Hosts, as this one sees them"), hosts,
    h("h2", {}, link("events", "What happened last, as this host noted it")), happened,
  );
  function found(head) {
    findings.replaceChildren(...findingsOf(head));
    said.textContent = doctorSaid(head);
  }
  async function show(ask) {
    try {
      found((await ask()).head);
    } catch (error) {
      said.replaceChildren(...sentence([error.message, error.problem?.hint].filter(Boolean).join("; ")));
    }
  }
  async function examine() {
    button.disabled = true;
    said.textContent = "the doctor looks …";
    await show(() => run("doctor"));
    button.disabled = false;
  }
  // Not a stream: a browser opens six connections to one place, and two windows need three each.
  const again = setInterval(() => document.hidden || button.disabled || show(() => read("doctor")), 60_000);
  show(() => read("doctor"));
  const trouble = (problem) => warnings.replaceChildren(h("p", {}, sentence(`${problem.detail}; ${problem.hint}`)));
  const streams = [
    follow("overview", {}, ({ head }) => {
      counts.replaceChildren(...countsOf(head));
      warnings.replaceChildren(...warningsOf(head));
    }, trouble),
    follow("hosts", {}, ({ rows, order }) => hosts.replaceChildren(...order.map((id) => tile(rows.get(id)))), () => {}),
    follow("events", { since: "24h" }, ({ rows, order }) => happened.replaceChildren(...order.slice(0, 8).map((id) => h("li", {}, entry(rows.get(id))))), () => {}),
  ];
  return { element, close: () => { clearInterval(again); streams.forEach((one) => one.close()); } };
}

function sum(words) {
  return Object.values(words).reduce((total, one) => total + one, 0);
}

// The number of all, and in words what of them is not as it should be: states, or else warnings about them.
function count(path, label, all, parts, warned = 0) {
  const wrong = parts.filter(([, some]) => some);
  if (!wrong.length && warned) wrong.push(["warning", warned]);
  return h(
    "li", {},
    h("span", { class: "label" }, label),
    path === null ? h("span", { class: "big" }, all) : link(path, all, { class: "big" }),
    h("span", { class: "rest" }, wrong.length ? wrong.map(([word, some, where]) => (where ? link(where, state(word, `${number(some)} ${word}`)) : state(word, `${number(some)} ${word}`))) : h("span", { class: "faint" }, "all well")),
  );
}

function countsOf({ status, services, endpoints, warned }) {
  const others = (words, good, path) => Object.entries(words).filter(([word]) => !good.includes(word)).map(([word, some]) => [word, some, path && path(word)]);
  const drift = status.drift;
  return [
    count("hosts", "Hosts", number(sum(status.members)), others(status.members, ["alive"]), warned.hosts),
    count("services", "Services", number(sum(services)), others(services, ["up"], (word) => `services?state=${word}`), warned.services),
    count("endpoints", "Endpoints", number(sum(endpoints)), others(endpoints, ["up"], (word) => `endpoints?state=${word}`), warned.endpoints),
    count("networks", "Networks", number(status.network_count), [], warned.networks),
    count("paths", "Paths from here", number(sum(status.paths)), others(status.paths, ["ok", "local"]), warned.paths),
    count("dns", "DNS queries", number(status.dns.queries), status.dns.running ? [] : [["down", 1]], warned.dns),
    count(null, "Kernel differs", number(drift.differences), drift.differences ? [["altered", drift.differences]] : [], warned.kernel),
  ];
}

function warningsOf({ status, leads }) {
  if (!status.warnings.length) return [h("p", { class: "faint" }, "No warning on this host.")];
  return [h("ul", {}, status.warnings.map((one, index) => item("warning", one.message, one.cure, leads[index])))];
}

// What is wrong, what to type, and the way to the object and its why.
function item(word, message, repair, leads) {
  return h(
    "li", { class: look(word) },
    h("p", {}, state(word, ""), sentence(message)),
    repair ? h("p", { class: "cure" }, cure(repair)) : "",
    leads.length ? h("p", { class: "leads" }, h("span", { class: "faint" }, "Why: "), leads.map((one) => [link(`${one.part}/${one.id}`, one.name), " "])) : "",
  );
}

function findingsOf({ findings, left_out: more, not_known: unknown }) {
  return [
    findings.length ? h("ul", {}, findings.map((one) => item(one.severity, one.message, one.fix, one.leads))) : "",
    more ? h("p", { class: "faint" }, `${number(more)} more findings: `, copyable("netagent doctor")) : "",
    unknown.length ? h("ul", {}, unknown.map((one) => item("unknown", `Not known whether ${one.says}: ${one.note}`, "", []))) : "",
  ];
}

function doctorSaid(head) {
  const at = new Date(head.at).toLocaleTimeString();
  if (head.findings.length) return `found ${plural(head.findings.length + head.left_out, "problem")} at ${at}`;
  return head.absent ? `found nothing further at ${at}; ${head.absent}` : `found nothing further at ${at}, by ${number(head.checks)} checks`;
}

// A cure that begins with a command can be copied.
function cure(text) {
  const found = /^`([^`]+)`$/.exec(text) || /^((?:netagent|ip|bridge|nft|sysctl|systemctl) [^`]+)$/.exec(text);
  return found ? copyable(found[1]) : sentence(text);
}

function tile(row) {
  const all = sum(row.endpoints);
  return h(
    "li", { class: `tile ${look(hostWord(row))}` },
    link(`hosts/${row.id}`, row.name),
    state(hostWord(row), hostWords(row)),
    h("span", { class: "faint num" }, [milliseconds(row.rtt_s), `${number(all)} ep`].filter(Boolean).join("  ")),
  );
}
