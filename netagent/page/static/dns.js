// The DNS explorer: what does this container get for a name, and why.

import { h, number, sentence, state } from "./dom.js";
import { read } from "./live.js";

const TYPES = ["A", "AAAA", "SRV", "TXT", "HTTPS", "CNAME", "PTR"];

export function dns(place) {
  const query = place.query;
  const name = h("input", { id: "dns-name", type: "text", value: query.get("name") || "", placeholder: "web, web.app or a full name", autocomplete: "off", spellcheck: "false", required: true });
  const type = h("select", { id: "dns-type" }, TYPES.map((one) => h("option", { selected: one === (query.get("type") || "A") }, one)));
  const from = h("input", { id: "dns-from", type: "text", value: query.get("from") || "", placeholder: "any container", autocomplete: "off", spellcheck: "false", list: "dns-endpoints" });
  const known = h("datalist", { id: "dns-endpoints" });
  const answer = h("div", { "aria-live": "polite" });
  const form = h(
    "form", { class: "ask" },
    h("p", {}, h("label", { for: "dns-name" }, "Name"), name),
    h("p", {}, h("label", { for: "dns-type" }, "Type"), type),
    h("p", {}, h("label", { for: "dns-from" }, "As seen by"), from, known),
    h("button", { type: "submit" }, "Look up"),
  );
  const element = h("section", { class: "pad" }, h("h1", {}, "What does a container get for a name, and why?"), form, answer);
  let stop = new AbortController();

  async function look() {
    if (!name.value.trim()) return;
    stop.abort();
    stop = new AbortController();
    const asked = { name: name.value.trim(), type: type.value, from: from.value.trim() };
    for (const [key, value] of Object.entries(asked)) {
      if (value) query.set(key, value);
      else query.delete(key);
    }
    place.remember();
    try {
      const { head } = await read("lookup", asked, stop.signal);
      answer.replaceChildren(...answered(head.lookup));
    } catch (error) {
      if (error.name === "AbortError") return;
      answer.replaceChildren(h("p", {}, state("failed", "no answer"), " ", sentence([error.message, error.problem?.hint].filter(Boolean).join("; "))));
    }
  }

  let typing = 0;
  from.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(async () => {
      const { set, order } = await read("endpoints", { q: from.value.trim(), limit: 20 });
      known.replaceChildren(...order.map((id) => h("option", { value: set[id].id }, `${set[id].name} in ${set[id].network} on ${set[id].host}`)));
    }, 150);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    look();
  });
  if (name.value) look();
  else setTimeout(() => name.focus());
  return { element, close: () => stop.abort(), focus: () => name.focus() };
}

function answered(found) {
  return [
    h("h2", {}, state(found.answers.length ? "NOERROR" : found.status === "NOERROR" ? "partial" : found.status, found.status + (found.answers.length ? "" : ", no such record")), " ", h("code", {}, `${found.name} ${found.type}`)),
    h("p", { class: "reason" }, sentence(found.reason)),
    found.answers.length
      ? h("div", { class: "sheet", tabindex: "0", role: "region", "aria-label": "Answers" }, h("table", { class: "grid" }, h("thead", {}, h("tr", {}, ["Name", "Type", "Seconds", "Data"].map((text) => h("th", { scope: "col" }, text)))),
          h("tbody", {}, found.answers.map((one) => h("tr", {}, h("th", { scope: "row", class: "mono" }, one.name), h("td", {}, one.type), h("td", { class: "num" }, number(one.ttl_s)), h("td", { class: "mono" }, one.data))))))
      : "",
    found.servers.length
      ? h("div", {}, h("h2", {}, "The host's name servers"), h("ul", {}, found.servers.map((one) => h("li", {}, h("code", {}, one.server), " ", state(one.status || "down", one.status || "no answer"), " ", one.addresses.join(" "), " ", one.trouble))))
      : "",
    ...(found.warnings || []).map((one) => h("p", {}, state("warning", ""), sentence(`${one.message}; ${one.cure}`))),
  ];
}
