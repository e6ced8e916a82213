// The map, drawn by Cytoscape.js. What it shows is in a table as well, for readers who do not see it.

import { h, hostWord, hostWords, link as anchor, look, milliseconds, number, state } from "./dom.js";
import { follow } from "./live.js";
import { go } from "./app.js";
import cytoscape from "./vendor/cytoscape.esm.min.mjs";

const CELL = { width: 132, height: 34, gap: 10 };

export function map(place) {
  const query = place.query;
  const by = () => (query.get("by") === "services" ? "services" : "hosts");
  const search = h("input", { id: "q", type: "search", placeholder: "Filter services", value: query.get("q") || "", autocomplete: "off" });
  const network = h("select", { id: "filter-network" }, h("option", { value: "" }, "any network"));
  const ways = ["hosts", "services"].map((name) => h("button", { type: "button", "data-by": name, "aria-pressed": String(by() === name), onclick: () => change({ by: name }) }, name === "hosts" ? "What runs where" : "Who talks to whom"));
  const count = h("output", { class: "count", "aria-live": "polite" });
  const canvas = h("div", { class: "canvas", role: "img", "aria-label": "Map of hosts and services; the same is in the table below" });
  const list = h("div", { class: "list" });
  const element = h(
    "section", { class: "fill" },
    h("div", { class: "bar" }, h("h1", {}, "Map"), ways, h("label", { class: "unseen", for: "q" }, "Filter services"), search, h("label", { class: "unseen", for: "filter-network" }, "Network"), network, count),
    h("div", { class: "canvas-frame" }, canvas, legend()),
    h("details", { class: "pad" }, h("summary", {}, "As a table"), list),
  );
  let stream = null;
  let graph = null;
  let last = null;
  let drawn = "";

  function change(values) {
    for (const [name, value] of Object.entries(values)) {
      if (value) query.set(name, value);
      else query.delete(name);
    }
    place.remember();
    for (const one of ways) one.setAttribute("aria-pressed", String(one.dataset.by === by()));
    drawn = "";
    if ("by" in values && last) draw();
    else open();
  }

  function open() {
    stream?.close();
    const asked = { q: query.get("q") || "", network: query.get("network") || "" };
    stream = follow("map", asked, ({ head }) => { last = head; draw(); }, (problem) => { count.textContent = problem.detail; });
  }

  function draw() {
    const chosen = query.get("network") || "";
    network.replaceChildren(h("option", { value: "" }, "any network"), ...last.networks.map((name) => h("option", { value: name, selected: name === chosen }, name)));
    count.textContent = `${number(last.services.length)} services, ${number(last.hosts.length)} hosts` + (last.left_out ? `; ${number(last.left_out)} smaller services left out: filter to see them` : "");
    list.replaceChildren(table(last));
    const elements = by() === "hosts" ? byHost(last) : byLink(last);
    const shape = elements.map((one) => one.data.id).join(" ");
    graph ??= make(canvas);
    graph.style(look_of());
    if (shape === drawn) {
      graph.batch(() => elements.forEach((one) => graph.getElementById(one.data.id).data(one.data)));
      return;
    }
    const isFirst = !drawn;
    drawn = shape;
    graph.batch(() => {
      graph.elements().remove();
      graph.add(elements);
    });
    if (isFirst) fit();
  }

  // All of it, but not larger than text is elsewhere; a small map hangs from the top.
  function fit() {
    graph.fit(undefined, 28);
    if (graph.zoom() > 1.1) graph.zoom(1.1);
    graph.center();
    if (graph.elements().renderedBoundingBox().h < canvas.clientHeight * 0.7) graph.panBy({ x: 0, y: 28 - graph.elements().renderedBoundingBox().y1 });
  }

  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ q: search.value.trim() }), 150);
  });
  network.addEventListener("change", () => change({ network: network.value }));
  const themed = () => graph?.style(look_of());
  const dark = matchMedia("(prefers-color-scheme: dark)");
  document.addEventListener("themed", themed);
  dark.addEventListener("change", themed);
  requestAnimationFrame(open);
  return {
    element,
    close() {
      stream?.close();
      graph?.destroy();
      document.removeEventListener("themed", themed);
      dark.removeEventListener("change", themed);
    },
    focus: () => search.focus(),
  };
}

function make(container) {
  const graph = cytoscape({ container, minZoom: 0.1, maxZoom: 3, autoungrabify: true, boxSelectionEnabled: false });
  graph.on("tap", "node[path]", (event) => go(event.target.data("path")));
  graph.on("mouseover", "node", (event) => event.target.connectedEdges().addClass("near"));
  graph.on("mouseout", "node", (event) => event.target.connectedEdges().removeClass("near"));
  return graph;
}

function legend() {
  return h("p", { class: "key-of", "aria-hidden": "true" }, state("up", "up"), state("partial", "some replicas are out of names, or a path is poor"), state("down", "down"), state("unknown", "unknown"));
}

const GLYPHS = { good: "●", part: "◐", bad: "✕", none: "○" };

// Places are computed, not simulated: a host or service stays where it was while others come and go.
function byHost({ hosts, services }) {
  const on = new Map(hosts.map((one) => [one.name, []]));
  for (const one of services) for (const [host, some] of Object.entries(one.hosts)) on.get(host)?.push([one, some]);
  const most = hosts.length > 60 ? 0 : hosts.length > 16 ? 6 : 14;
  const columns = Math.max(1, Math.ceil(Math.sqrt(hosts.length * (most ? 1.6 : 2.4))));
  const rows = [];
  hosts.forEach((one, index) => (rows[Math.floor(index / columns)] ??= []).push(one));
  const elements = [];
  let top = 0;
  for (const row of rows) {
    const tallest = Math.max(...row.map((one) => Math.min(most, on.get(one.name).length) + (on.get(one.name).length > most && most ? 1 : 0)), 0);
    row.forEach((one, index) => {
      const left = index * (CELL.width + 44);
      const all = on.get(one.name);
      const seen_as = look(hostWord(one));
      const label = `${one.name}   ${GLYPHS[seen_as]} ${hostWords(one)} ${milliseconds(one.rtt_s)}` + (most ? "" : `\n${all.length} services`);
      const data = { id: `h:${one.id}`, label, path: `hosts/${one.id}`, look: seen_as, kind: most ? "host" : "small" };
      elements.push({ group: "nodes", data, position: { x: left, y: top } });
      if (!most) return;
      const seen = all.slice(0, most);
      seen.forEach(([service, some], number_) => {
        elements.push({ group: "nodes", data: { id: `s:${one.id}:${service.id}`, parent: data.id, label: mark(service.state) + (some > 1 ? `${service.name}  ×${some}` : service.name), path: `services/${encodeURIComponent(service.id)}`, look: look(service.state), kind: "service" }, position: { x: left, y: top + number_ * (CELL.height + CELL.gap / 2) } });
      });
      const more = all.length - seen.length;
      if (more > 0) elements.push({ group: "nodes", data: { id: `m:${one.id}`, parent: data.id, label: `${more} more`, path: `services?host=${encodeURIComponent(one.name)}`, look: "none", kind: "more" }, position: { x: left, y: top + seen.length * (CELL.height + CELL.gap / 2) } });
      if (!all.length) elements.push({ group: "nodes", data: { id: `e:${one.id}`, parent: data.id, label: "no service", look: "none", kind: "more" }, position: { x: left, y: top } });
    });
    top += most ? Math.max(1, tallest) * (CELL.height + CELL.gap / 2) + 64 : 58;
  }
  return elements;
}

// Services in layers: who is linked to nobody's service stands left, and each link leads to the right where it can.
function byLink({ services, links: allowed, flows }) {
  const seen = new Map(flows.map((one) => [`${one.from} ${one.to}`, one]));
  const links = [...flows, ...allowed.filter((one) => !seen.has(`${one.from} ${one.to}`))];
  const layer = new Map(services.map((one) => [one.id, 0]));
  for (let round = 0; round < 8; round += 1) {
    let isSettled = true;
    for (const one of links) {
      if (one.from !== one.to && layer.get(one.to) <= layer.get(one.from) && layer.get(one.from) < 7) {
        layer.set(one.to, layer.get(one.from) + 1);
        isSettled = false;
      }
    }
    if (isSettled) break;
  }
  const heights = new Map();
  const linked = new Set(links.flatMap((one) => [one.from, one.to]));
  const alone = services.filter((one) => !linked.has(one.id));
  const elements = [];
  for (const one of services.filter((each) => linked.has(each.id))) {
    const column = layer.get(one.id);
    const row = heights.get(column) || 0;
    heights.set(column, row + 1);
    elements.push(serviceNode(one, { x: column * (CELL.width + 90), y: row * (CELL.height + CELL.gap) }));
  }
  const under = Math.max(0, ...heights.values()) * (CELL.height + CELL.gap) + (linked.size ? 40 : 0);
  const columns = Math.max(1, Math.ceil(Math.sqrt(alone.length * 0.45)));
  alone.forEach((one, index) => elements.push(serviceNode(one, { x: (index % columns) * (CELL.width + 24), y: under + Math.floor(index / columns) * (CELL.height + CELL.gap) })));
  for (const one of links) elements.push({ group: "edges", data: { id: `l:${one.from}:${one.to}`, source: one.from, target: one.to, kind: one.kind || (one.refused ? "refused" : "flow"), label: flowText(one) } });
  return elements;
}

// Allowed and not used, used and how often, or refused.
function flowText(one) {
  if (one.kind) return "allowed";
  return one.refused ? `${number(one.refused)} of ${number(one.openings)} refused` : number(one.openings);
}

function serviceNode(one, position) {
  const data = { id: one.id, label: `${mark(one.state)}${one.name}\n${one.network}  ${one.total ? `${one.answering} of ${one.total}` : "nothing"}`, path: `services/${encodeURIComponent(one.id)}`, look: look(one.state), kind: "tall" };
  return { group: "nodes", data, position };
}

function mark(word) {
  return look(word) === "good" ? "" : `${GLYPHS[look(word)]} `;
}

function look_of() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const color = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const [ground, raised, line, ink, faint, accent] = ["ground", "raised", "line", "ink", "faint", "accent"].map(color);
  const looks = ["good", "part", "bad", "none"].map((name) => [name, color(name)]);
  probe.remove();
  const styles = { good: "solid", part: "dashed", bad: "double", none: "dotted" };
  return [
    { selector: "node", style: { label: "data(label)", color: ink, "font-family": "system-ui, sans-serif", "font-size": 12, "text-valign": "center", "text-wrap": "wrap", "text-max-width": CELL.width, shape: "round-rectangle", width: CELL.width, height: CELL.height - 8, "background-color": raised, "border-width": 1.2, "border-color": line } },
    { selector: 'node[kind = "tall"], node[kind = "small"]', style: { height: CELL.height } },
    { selector: 'node[kind = "host"]', style: { "text-valign": "top", "text-margin-y": -4, "background-color": ground, padding: 10, "font-weight": 600, "text-max-width": CELL.width + 40 } },
    { selector: 'node[kind = "more"]', style: { "border-width": 0, "background-opacity": 0, color: faint } },
    ...looks.map(([name, value]) => ({ selector: `node[look = "${name}"][kind != "more"]`, style: { "border-color": name === "good" ? line : value, "border-style": styles[name], "border-width": name === "bad" ? 3 : 1.4 } })),
    { selector: "edge", style: { width: 1.2, "line-color": faint, "target-arrow-color": faint, "target-arrow-shape": "triangle", "arrow-scale": 0.8, "curve-style": "bezier", opacity: 0.7 } },
    { selector: "edge[label]", style: { label: "data(label)", color: faint, "font-size": 10, "font-family": "system-ui, sans-serif", "text-background-color": ground, "text-background-opacity": 1, "text-background-padding": 2 } },
    { selector: 'edge[kind = "link"]', style: { "line-style": "dotted" } },
    { selector: 'edge[kind = "refused"]', style: { "line-style": "dashed", "line-color": looks[2][1], "target-arrow-color": looks[2][1], color: looks[2][1] } },
    { selector: "edge.near", style: { "line-color": accent, "target-arrow-color": accent, opacity: 1, width: 2 } },
  ];
}

function table({ hosts, services, links, flows }) {
  const to = new Map();
  for (const one of [...flows, ...links]) to.set(one.from, [...(to.get(one.from) || []), `${one.to} (${flowText(one)})`]);
  const onHosts = h("div", { class: "sheet", tabindex: "0", role: "region", "aria-label": "Hosts of the map" }, h("table", { class: "grid" },
    h("thead", {}, h("tr", {}, ["Host", "State", "Round trip"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, hosts.map((one) => h("tr", {}, h("th", { scope: "row" }, anchor(`hosts/${one.id}`, one.name)), h("td", {}, state(hostWord(one), hostWords(one))), h("td", {}, milliseconds(one.rtt_s)))))));
  const ofServices = h("div", { class: "sheet", tabindex: "0", role: "region", "aria-label": "Services of the map" }, h("table", { class: "grid" },
    h("thead", {}, h("tr", {}, ["Service", "State", "On", "Talks to, or may"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, services.map((one) => h("tr", {}, h("th", { scope: "row" }, anchor(`services/${encodeURIComponent(one.id)}`, one.id)), h("td", {}, state(one.state, one.total ? `${one.answering} of ${one.total}` : "nothing")), h("td", {}, Object.entries(one.hosts).map(([host, some]) => (some > 1 ? `${host} ×${some}` : host)).join(", ")), h("td", {}, (to.get(one.id) || []).join(", ")))))));
  return h("div", {}, ofServices, onHosts);
}
