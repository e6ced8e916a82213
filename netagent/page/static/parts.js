// The tables: services, endpoints, hosts, networks, addresses, flows.

import { h, link, milliseconds, number, plural, state } from "./dom.js";
import { follow } from "./live.js";
import { tablePart } from "./table.js";

const mono = (items) => h("span", { class: "mono" }, items.join("  "));

export function services(place) {
  return tablePart(
    {
      part: "services", title: "Services", noun: "service",
      columns: [
        { label: "Service", sort: "name", head: true, cell: (row) => link(`services/${encodeURIComponent(row.id)}`, row.name) },
        { label: "Network", sort: "network", cell: (row) => row.network },
        { label: "State", sort: "state", cell: (row) => state(row.state) },
        { label: "Replicas", sort: "replicas", cell: (row) => replicas(row) },
        { label: "Hosts", sort: "hosts", wide: "wide", cell: (row) => hosts(row) },
        { label: "Ports", wide: "wide", cell: (row) => mono(row.ports) },
        { label: "Address", wide: "wider", cell: (row) => [mono(row.addresses), more(row.address_count - row.addresses.length)] },
      ],
      filters: [
        { name: "network", label: "network", choices: (head) => head.networks },
        { name: "host", label: "host", choices: (head) => head.hosts },
        { name: "state", label: "state", choices: () => ["down", "partial", "up"] },
      ],
    },
    place,
  );
}

// Of a service of containers its replicas, of another one its addresses.
function replicas(row) {
  const others = Object.entries(row.words).filter(([word]) => word !== "up").map(([word, count]) => `${count} ${word}`);
  const count = row.total ? `${number(row.answering)} of ${number(row.total)}` : row.kind === "external" ? "no address" : "none";
  const why = others.join(", ") || row.reason;
  return [h("span", { class: "num" }, count), why ? h("span", { class: "faint", title: why }, "  " + why) : ""];
}

function hosts(row) {
  return row.hosts.join(" ") + more(row.host_count - row.hosts.length) + (row.kind === "external" ? " (external)" : "");
}

function more(count) {
  return count > 0 ? ` and ${number(count)} more` : "";
}

export function endpoints(place) {
  return tablePart(
    {
      part: "endpoints", title: "Endpoints", noun: "endpoint",
      columns: [
        { label: "Name", sort: "name", head: true, cell: (row) => link(`endpoints/${row.id}`, row.name) },
        { label: "Network", sort: "network", cell: (row) => row.network },
        { label: "Service", sort: "service", wide: "wide", cell: (row) => link(`services/${encodeURIComponent(`${row.service}.${row.network}`)}`, row.service, { class: "quiet" }) },
        { label: "Host", sort: "host", cell: (row) => row.host },
        { label: "Addresses", wide: "wide", cell: (row) => mono(row.addresses) },
        { label: "State", sort: "state", cell: (row) => [state(row.state), row.reason ? h("span", { class: "faint", title: row.reason }, "  " + row.reason) : ""] },
      ],
      filters: [
        { name: "network", label: "network", choices: (head) => head.networks },
        { name: "host", label: "host", choices: (head) => head.hosts },
        { name: "state", label: "state", choices: () => ["trouble", "up", "hidden", "unhealthy", "starting", "drained", "stopping", "fenced"] },
      ],
    },
    place,
  );
}

// Hosts and networks are some hundreds at most: the browser has them all, and filters by itself.
function shortTable(spec, place) {
  const search = h("input", { type: "search", id: "q", placeholder: `Filter ${spec.noun}s   /`, value: place.query.get("q") || "", autocomplete: "off" });
  const count = h("output", { class: "count", "aria-live": "polite" });
  const body = h("tbody");
  const empty = h("p", { class: "empty", hidden: true });
  const element = h(
    "section", { class: "fill" },
    h("div", { class: "bar" }, h("h1", {}, spec.title), h("label", { class: "unseen", for: "q" }, `Filter ${spec.noun}s`), search, count),
    h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": spec.title },
      h("table", { class: "grid" }, h("caption", { class: "unseen" }, spec.title),
        h("thead", {}, h("tr", {}, spec.columns.map((one) => h("th", { scope: "col", class: one.wide || "" }, one.label)))), body)),
    empty,
  );
  const notes = h("div", { class: "notes" });
  element.insertBefore(notes, empty);
  let last = null;
  const shown = new Map();
  function draw() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = last.order.map((id) => last.rows.get(id)).filter((row) => words.every((word) => spec.text(row).toLowerCase().includes(word)));
    notes.replaceChildren(...(last.head.warnings || []).map((one) => h("p", {}, state("warning", ""), one.message)));
    count.textContent = words.length ? `${number(wanted.length)} of ${number(last.order.length)}` : number(last.order.length);
    empty.hidden = wanted.length > 0;
    empty.textContent = words.length ? `No ${spec.noun} matches.` : `There is no ${spec.noun} yet.`;
    body.replaceChildren(...wanted.map((row) => {
      const known = shown.get(row.id);
      if (known && known[0] === row) return known[1];
      const fresh = h("tr", {}, spec.columns.map((one) => h(one.head ? "th" : "td", { class: one.wide || "", scope: one.head ? "row" : undefined }, one.cell(row))));
      shown.set(row.id, [row, fresh]);
      return fresh;
    }));
    for (const id of [...shown.keys()]) if (!last.rows.has(id)) shown.delete(id);
  }
  search.addEventListener("input", () => {
    if (search.value) place.query.set("q", search.value);
    else place.query.delete("q");
    place.remember();
    if (last) draw();
  });
  const stream = follow(spec.part, {}, (kept) => { last = kept; draw(); }, (problem) => { empty.textContent = `${problem.detail}; ${problem.hint}`; empty.hidden = false; });
  return { element, close: () => stream.close(), focus: () => search.focus() };
}

export function hostsPart(place) {
  return shortTable(
    {
      part: "hosts", title: "Hosts", noun: "host", text: (row) => `${row.name} ${row.address} ${row.agent} ${row.host} ${row.path} ${row.zone} ${row.version}`,
      columns: [
        { label: "Host", head: true, cell: (row) => [link(`hosts/${row.id}`, row.name, { class: "quiet" }), row.local ? h("span", { class: "tag" }, "this one") : ""] },
        { label: "Agent", cell: (row) => state(row.agent) },
        { label: "Kernel", cell: (row) => state(row.host) },
        { label: "Path", cell: (row) => [state(row.path), row.loss_percent ? h("span", { class: "faint" }, `  ${row.loss_percent} % lost`) : ""] },
        { label: "Round trip", wide: "wide num", cell: (row) => milliseconds(row.rtt_s) },
        { label: "Largest packet", wide: "wider num", cell: (row) => (row.path_mtu_bytes ? `${number(row.path_mtu_bytes)} B` : "") },
        { label: "Endpoints", wide: "num", cell: (row) => endpointCount(row) },
        { label: "Address", wide: "wide", cell: (row) => mono([row.address]) },
        { label: "Zone", wide: "wider", cell: (row) => row.zone },
        { label: "Version", wide: "wider", cell: (row) => row.version },
      ],
    },
    place,
  );
}

function endpointCount(row) {
  const all = Object.values(row.endpoints).reduce((sum, one) => sum + one, 0);
  return all ? link(`endpoints?host=${encodeURIComponent(row.name)}`, number(all), { class: "quiet" }) : "0";
}

export function networks(place) {
  return shortTable(
    {
      part: "networks", title: "Networks", noun: "network", text: (row) => `${row.name} ${row.subnets.join(" ")} ${row.policy} ${row.hosts.join(" ")}`,
      columns: [
        { label: "Network", head: true, cell: (row) => link(`networks/${row.id}`, row.name) },
        { label: "Subnets", cell: (row) => mono(row.subnets) },
        { label: "Policy", cell: (row) => row.policy + (row.internal ? ", internal" : "") },
        { label: "Endpoints", wide: "num", cell: (row) => (row.endpoint_count === null ? "not known" : link(`endpoints?network=${encodeURIComponent(row.name)}`, number(row.endpoint_count), { class: "quiet" })) },
        { label: "Addresses used", wide: "wide", cell: (row) => used(row.use) },
        { label: "Hosts", wide: "wide", cell: (row) => plural(row.hosts.length, "host") },
        { label: "VNI", wide: "wider num", cell: (row) => String(row.vni) },
        { label: "MTU", wide: "wider num", cell: (row) => String(row.mtu_bytes) },
      ],
    },
    place,
  );
}

const KINDS = { host: "a host", unknown: "of no container that is known", outside: "outside all networks" };

export function flows(place) {
  const end = (id, name, host, isGone) => [id && !isGone ? link(`endpoints/${id}`, name, { class: "quiet" }) : h("span", {}, isGone ? `${name} (gone)` : name), host ? h("span", { class: "faint" }, `  on ${host}`) : ""];
  return shortTable(
    {
      part: "flows", title: "Flows of the last hour", noun: "flow",
      text: (row) => `${row.from} ${row.from_gone || row.to_gone ? "gone" : ""} ${row.from_service} ${row.from_host} ${row.to} ${row.to_service} ${row.to_host} ${row.network} ${row.address} ${row.protocol} ${row.port ?? ""}`,
      columns: [
        { label: "From", head: true, cell: (row) => end(row.from_id, row.from_kind === "host" ? "the host" : row.from, row.from_host, row.from_gone) },
        { label: "To", cell: (row) => (row.to_kind === "endpoint" || row.to_gone ? end(row.to_id, row.to, row.to_host, row.to_gone) : [row.to, h("span", { class: "faint" }, `  ${KINDS[row.to_kind] || row.to_kind}`)]) },
        { label: "Address", wide: "wide", cell: (row) => mono(row.to === row.address ? [] : [row.address]) },
        { label: "Port", cell: (row) => (row.port === null ? row.protocol : `${row.port}/${row.protocol}`) },
        { label: "Network", wide: "wide", cell: (row) => row.network },
        { label: "Opened", wide: "num", cell: (row) => number(row.openings) },
        { label: "Refused", wide: "num", cell: (row) => (row.refused ? state("down", number(row.refused)) : "0") },
        { label: "Last", wide: "wide", cell: (row) => new Date(row.last_at).toLocaleTimeString() },
      ],
    },
    place,
  );
}

// The whole of each network, and the part of it that each host owns.
export function addresses(place) {
  return tablePart(
    {
      part: "addresses", title: "Addresses", noun: "owner",
      columns: [
        { label: "Network", sort: "network", head: true, cell: (row) => link(`networks/${row.network_id}`, row.network) },
        { label: "Host", sort: "host", cell: (row) => (row.is_whole ? h("b", {}, "all hosts") : link(`hosts/${row.host_id}`, row.host, { class: "quiet" })) },
        { label: "Used", sort: "used", cell: (row) => used({ total: row.owned, used: row.used }) },
        { label: "Free", sort: "free", wide: "num", cell: (row) => free(row) },
        { label: "State", cell: addressState },
        { label: "Owns", sort: "owned", wide: "wide num", cell: (row) => number(row.owned) },
        { label: "Subnets, or ranges in the first", wide: "wide", cell: (row) => [mono(row.ranges), more(row.range_count - row.ranges.length)] },
      ],
      filters: [
        { name: "network", label: "network", choices: (head) => head.networks },
        { name: "host", label: "host", choices: (head) => head.hosts },
        { name: "state", label: "state", choices: () => ["full", "nearly full", "away", "not known", "ok"] },
      ],
    },
    place,
  );
}

function free(row) {
  return row.free === null ? "not known" : number(row.free);
}

function addressState(row) {
  if (row.state === "away") return state("away", `agent ${row.agent}: cannot be used`);
  const lacks = [row.away ? `${number(row.away)} free ones of hosts that are away` : "", row.unowned ? `${number(row.unowned)} without an owner` : ""].filter(Boolean).join(", ");
  return [state(row.state.replace(" ", "-"), row.state), lacks ? h("span", { class: "faint" }, "  " + lacks) : ""];
}

function used(use) {
  if (!use || use.used === null) return "not known";
  const part = h("meter", { min: 0, max: use.total, value: use.used, high: use.total * 0.8, "aria-label": "used" });
  return [part, ` ${number(use.used)} of ${number(use.total)}`];
}
