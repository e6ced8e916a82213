// One host, network, service or endpoint: what is known of it, and why it is as it is.

import { copyable, facts, h, link, milliseconds, number, plural, sentence, state } from "./dom.js";
import { follow, read } from "./live.js";
import { entry } from "./events.js";

const NOUNS = { services: "Service", endpoints: "Endpoint", hosts: "Host", networks: "Network" };

export function thing(place) {
  const body = h("div");
  const why = whyPart(place.id);
  const happened = happenedPart();
  const raw = h("pre", { class: "raw", tabindex: "0" });
  const element = h(
    "section", { class: "pad" },
    h("p", { class: "crumbs" }, link(place.part, NOUNS[place.part] + "s")),
    body,
    why.element,
    happened.element,
    h("details", { class: "json" }, h("summary", {}, "As JSON"), raw),
  );
  const stream = follow(
    "thing", { thing: place.id },
    ({ head }) => {
      body.replaceChildren(...shown(head.thing));
      raw.textContent = JSON.stringify(head.thing, null, 2);
      document.title = `${head.thing.name} · netagent`;
      why.note();
      happened.about(head.thing.name);
    },
    (problem) => body.replaceChildren(h("h1", {}, place.id), h("p", {}, state("missing", "gone"), " ", sentence(problem.detail + (problem.hint ? `; ${problem.hint}` : "")))),
  );
  return { element, close: () => { stream.close(); why.close(); happened.close(); } };
}

function shown(one) {
  return { endpoint, service, name: ownName, network, host }[one.kind](one);
}

function title(name, noun, ...more) {
  return h("h1", {}, name, h("span", { class: "noun" }, noun), ...more);
}

const mono = (items) => items.map((one) => h("code", {}, one)).flatMap((one) => [one, " "]);
const toHost = (one) => link(`hosts/${one.host_id}`, one.host);
const toNetwork = (one) => link(`networks/${one.network_id}`, one.network);
const portText = (port) => `${port.number}/${port.protocol}` + (port.name && port.name !== String(port.number) ? ` ${port.name}` : "");
const since = (text) => (text ? new Date(text).toLocaleString() : "");

function endpoint(one) {
  return [
    title(one.name, "endpoint", state(one.state)),
    one.reason ? h("p", { class: "reason" }, sentence(one.reason)) : "",
    facts([
      ["Network", toNetwork(one)],
      ["Host", toHost(one)],
      ["Service", link(`services/${encodeURIComponent([one.service, one.group, one.network].filter(Boolean).join("."))}`, one.service)],
      ["Addresses", mono(one.addresses)],
      ["MAC", h("code", {}, one.mac)],
      ["Names", h("span", { class: "names" }, one.names.map((name) => h("code", {}, link(`dns?name=${encodeURIComponent(name)}`, name, { class: "quiet" })))) ],
      ["Aliases", one.aliases.join(", ")],
      ["Ports", one.ports.map(portText).join(", ")],
      ["Published", mono(one.published)],
      ["Health", one.health === "unknown" ? "no check" : [state(one.health), one.health_reason ? `  ${one.health_reason}` : "", one.health_since ? h("span", { class: "faint" }, `  since ${since(one.health_since)}`) : ""]],
      ["Checks", mono(one.checks || [])],
      ["Drained", one.drain ? `since ${since(one.drain.since)} by ${one.drain.by}` : ""],
      ["Links", one.links.map((each) => (each.alias && each.alias !== each.service ? `${each.service} as ${each.alias}` : each.service)).join(", ")],
      ["Container", one.target || one.container_id.slice(0, 12)],
      ["Interface", one.ifname],
      ["Weight", one.weight === 100 ? "" : String(one.weight ?? "")],
      ["Record", one.version],
      ["Known from", { own: "this host", replicated: "its host's records", asked: `asked: ${one.told_by.join(", ")}` }[one.source]],
    ]),
    labels(one.labels),
    h("p", {}, link(`dns?from=${one.id}`, "What does this container get for a name?")),
  ];
}

function labels(all) {
  const names = Object.keys(all).sort();
  if (!names.length) return "";
  return h("details", {}, h("summary", {}, plural(names.length, "label")), facts(names.map((name) => [name, h("code", {}, all[name])])));
}

function service(one) {
  const count = one.endpoint_count ? `${number(one.answering)} of ${number(one.endpoint_count)} answer` : one.external ? "no address" : "no replica";
  const words = one.answering === 0 ? "down" : one.answering < one.endpoint_count ? "partial" : "up";
  return [
    title(one.name, "service", state(words, count)),
    one.not_up?.length ? h("ul", { class: "reason" }, one.not_up.map((text) => h("li", {}, text))) : "",
    facts([
      ["Network", toNetwork(one)],
      ["Group", one.group],
      ["Name", h("code", {}, link(`dns?name=${encodeURIComponent(one.fqdn)}`, one.fqdn, { class: "quiet" }))],
      ["Leads to", [...mono(one.addresses.slice(0, 12)), one.addresses.length > 12 ? `and ${number(one.addresses.length - 12)} more` : ""]],
      ["Ports", one.ports.map(portText).join(", ")],
      ["Aliases", one.aliases.join(", ")],
      ["Hosts", one.hosts.slice(0, 20).join(", ") + (one.hosts.length > 20 ? ` and ${number(one.hosts.length - 20)} more` : "")],
    ]),
    ...(one.service_addresses || []).map(ownAddress),
    ...(one.external || []).map(outside),
    one.external && !one.endpoints.length ? "" : replicas(one.endpoints, one.endpoints_total, `service=${encodeURIComponent(one.group ? `${one.name}.${one.group}` : one.name)}&network=${encodeURIComponent(one.network)}`),
  ];
}

function ownAddress(one) {
  return h(
    "section", {},
    h("h2", {}, "Its own address ", one.addresses.map((address) => h("code", {}, address, " "))),
    facts([
      ["Given on", `${one.owner} (${one.origin})`],
      ["Ports", one.ports.map((port) => `${port.number} to ${port.target}`).join(", ") || "all"],
      ["Balance", one.balance + (one.sticky ? ", sticky" : "")],
      ["In names", one.in_names ? "yes" : "no"],
    ]),
    rows(["Leads to", "Host", "Addresses", "Share of this host's connections", "Round trip"], one.backends.slice(0, 200).map((each) => [
      link(`endpoints/${each.id}`, each.name), each.host, mono(each.addresses), each.places === null ? "not led here" : `${each.places} of 64`, milliseconds(each.rtt_s),
    ]), "It leads nowhere from here: connections are refused."),
  );
}

function outside(one) {
  return h(
    "section", {},
    h("h2", {}, "Added on ", one.owner),
    facts([["By", `${one.added_by}, ${since(one.added_at)}`], ["Name outside", one.dns_name], ["Checked by", one.asked_by], ["Checks", mono(one.checks)], ["Hidden by", one.shadowed_by], ["Why", one.reason]]),
    rows(["Address", "Port", "State", "Why"], one.addresses.map((each) => [h("code", {}, each.address), each.port ?? "", state(each.state), each.reason]), "It has no address."),
  );
}

function ownName(one) {
  return [
    title(one.name, "name", state(one.state)),
    one.reason ? h("p", { class: "reason" }, sentence(one.reason)) : "",
    facts([["Network", toNetwork(one)], ["Leads to", one.cname], ["Addresses", mono(one.addresses)], ["Texts", mono(one.texts)], ["Added", `on ${one.owner} by ${one.added_by}, ${since(one.added_at)}`]]),
  ];
}

function network(one) {
  return [
    title(one.name, "network", one.clash ? state("fenced", "clash") : ""),
    one.clash ? h("p", { class: "reason" }, sentence(one.clash)) : "",
    facts([
      ["Subnets", mono(one.subnets)],
      ["Gateways", mono(one.gateways)],
      ["Domain", h("code", {}, one.domain)],
      ["Policy", one.policy + (one.internal ? ", internal" : "")],
      ["VNI", String(one.vni)],
      ["MTU", `${one.mtu_bytes} B`],
      ["Multicast", one.multicast ? "yes" : "no"],
      ["Host access", one.host_access ? "yes" : "no"],
      ["Service addresses", one.service_addresses],
      ["Created on", one.created_by],
      ["Hosts", one.hosts.slice(0, 20).join(", ") + (one.hosts.length > 20 ? ` and ${number(one.hosts.length - 20)} more` : "")],
      ["Published here", one.published.join(", ")],
    ]),
    h("p", {}, link(`addresses?network=${encodeURIComponent(one.name)}`, "Which host owns which of its addresses?")),
    replicas(one.endpoints, one.endpoints_total, `network=${encodeURIComponent(one.name)}`),
  ];
}

function host(one) {
  return [
    title(one.name, one.local ? "this host" : "host", state(one.agent)),
    facts([
      ["Address", h("code", {}, one.address)],
      ["Kernel", state(one.host)],
      ["Path from here", [state(one.path), one.loss_percent ? `  ${one.loss_percent} % lost` : ""]],
      ["Round trip", milliseconds(one.rtt_s)],
      ["Largest packet", one.path_mtu_bytes ? `${number(one.path_mtu_bytes)} B` : ""],
      ["Zone", one.zone],
      ["Version", one.version],
      ["Drained", one.drain ? `since ${since(one.drain.since)} by ${one.drain.by}` : ""],
      ["Networks", one.networks.join(", ")],
      ["Identity", h("code", {}, one.id)],
    ]),
    replicas(one.endpoints, one.endpoints_total, `host=${encodeURIComponent(one.name)}`),
  ];
}

function rows(heads, all, empty) {
  if (!all.length) return h("p", { class: "faint" }, empty);
  return h("div", { class: "sheet", tabindex: "0", role: "region", "aria-label": heads[0] }, h("table", { class: "grid" },
    h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, all.map((cells) => h("tr", {}, cells.map((cell, index) => h(index ? "td" : "th", { scope: index ? undefined : "row" }, cell)))))));
}

function replicas(all, count, query) {
  if (!all) return "";
  const more = count - all.length;
  return h("section", {}, h("h2", {}, plural(count, "endpoint")),
    rows(["Name", "Network", "Host", "Addresses", "State"], all.map((one) => [
      link(`endpoints/${one.id}`, one.name), one.network, toHost(one), mono(one.addresses),
      [state(one.state), one.reason ? h("span", { class: "faint" }, "  " + one.reason) : ""],
    ]), "None."),
    more > 0 ? h("p", {}, `${number(more)} more are in the `, link(`endpoints?${query}`, "table of endpoints"), ".") : "");
}

// What happened to it, as far as this host has noted it.
function happenedPart() {
  const list = h("ul", { class: "log" });
  const element = h("section", { hidden: true }, h("h2", {}, "What happened to it, today, as this host noted it"), list);
  let stream = null;
  return {
    element,
    about(name) {
      stream ??= follow("events", { q: name, since: "24h" }, ({ rows, order }) => {
        const own = order.map((id) => rows.get(id)).filter((one) => one.subject === name || one.subject.startsWith(`${name}.`) || one.subject.startsWith(`${name} `)).slice(0, 20);
        element.hidden = !own.length;
        list.replaceChildren(...own.map((one) => h("li", {}, entry(one))));
      }, () => {});
    },
    close: () => stream?.close(),
  };
}

// Why: read when the thing is opened, and again when it has changed, as it asks the kernel.
function whyPart(id) {
  const body = h("div", {}, h("p", { class: "faint" }, "reading the kernel of this host …"));
  const element = h("section", { class: "why", "aria-label": "Why" }, h("h2", {}, "Why: its records, and what they make on this host"), body);
  let timer = null;
  let stop = null;
  async function load() {
    timer = null;
    stop = new AbortController();
    try {
      const { head } = await read("why", { thing: id }, stop.signal);
      if (head.why) body.replaceChildren(...whyOf(head.why, Boolean(body.querySelector("details[open]"))));
    } catch (error) {
      if (error.name !== "AbortError") body.replaceChildren(h("p", { class: "faint" }, sentence(error.message)));
    }
  }
  return {
    element,
    note() {
      timer ??= setTimeout(load, body.querySelector("table") ? 3000 : 0);
    },
    close() {
      clearTimeout(timer);
      stop?.abort();
    },
  };
}

function objects(all) {
  if (!all.length) return "";
  return rows(["State", "Object", "What", "Why, and how to repair it"], all.map((one) => [
    state(one.state), one.kind, h("code", {}, one.thing), [sentence(one.reason), one.fix ? h("div", {}, copyable(one.fix)) : ""],
  ]));
}

function whyOf(why, isOpen) {
  const wrong = why.objects.filter((one) => !["present", "not needed"].includes(one.state));
  const right = why.objects.filter((one) => !wrong.includes(one));
  return [
    h("p", {}, why.complete ? state("present", "the kernel of this host has what the records say, and nothing else") : state("missing", plural(wrong.length, "object") + " not as the records say")),
    rows(["Record", "Name", "Written by", "Version"], why.records.map((one) => [one.kind, one.name, link(`hosts/${one.host_id}`, one.host), one.epoch === null ? "not published" : `${one.epoch}.${one.sequence}`]), "No record."),
    objects(wrong),
    right.length ? h("details", { open: isOpen }, h("summary", {}, `${plural(right.length, "object")} ${right.length === 1 ? "is as it" : "are as they"} should be`), objects(right)) : "",
    why.objects.length ? "" : h("p", { class: "faint" }, "Nothing on this host is made from it."),
    why.left_out ? h("p", { class: "faint" }, `${number(why.left_out)} more endpoints are left out.`) : "",
  ];
}
