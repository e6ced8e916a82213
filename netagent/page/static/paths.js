// The matrix of paths: from the host of a row to the host of a column, as the row's host knows it.

import { h, link, milliseconds, number, sentence, state } from "./dom.js";
import { follow } from "./live.js";

export function paths(place) {
  const query = place.query;
  const search = h("input", { id: "q", type: "search", placeholder: "Some hosts   /", value: query.get("q") || "", autocomplete: "off" });
  const count = h("output", { class: "count", "aria-live": "polite" });
  const head = h("tr");
  const body = h("tbody");
  const empty = h("p", { class: "empty", hidden: true });
  const element = h(
    "section", { class: "fill" },
    h("div", { class: "bar" }, h("h1", {}, "Paths"), h("label", { class: "unseen", for: "q" }, "Filter hosts: any of these words"), search, count),
    h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "Paths" },
      h("table", { class: "grid matrix" }, h("caption", { class: "unseen" }, "Paths from the host of each row to the host of each column: state, round trip, loss, the largest packet, and whether it is encrypted"), h("thead", {}, head), body), empty),
  );
  let stream = null;

  function open() {
    stream?.close();
    stream = follow("paths", { q: query.get("q") || "" }, draw, (problem) => { empty.replaceChildren(...sentence(problem.detail)); empty.hidden = false; });
  }

  function draw({ head: { hosts, left_out: more }, rows }) {
    count.textContent = number(hosts.length) + " hosts" + (more ? `; ${number(more)} that are well are left out: filter to see them` : "");
    empty.hidden = hosts.length > 0;
    empty.textContent = "No host matches.";
    head.replaceChildren(h("th", { scope: "col" }, "From"), ...hosts.map((one) => h("th", { scope: "col" }, "to " + one.name)));
    body.replaceChildren(...hosts.map((one) => {
      const row = rows.get(one.id);
      const cells = row?.answered ? row.cells.map(cell) : [h("td", { class: "faint", colspan: String(hosts.length) }, `no answer from ${one.name} to this host: no way there, or a release that cannot say (agent: ${one.agent})`)];
      return h("tr", {}, h("th", { scope: "row" }, link(`hosts/${one.id}`, one.name, { class: "quiet" }), one.local ? h("span", { class: "tag" }, "this one") : ""), cells);
    }));
  }

  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      if (search.value.trim()) query.set("q", search.value.trim());
      else query.delete("q");
      place.remember();
      open();
    }, 150);
  });
  open();
  return { element, close: () => stream.close(), focus: () => search.focus() };
}

function cell(one) {
  if (one.state === "local") return h("td", { class: "faint" }, h("span", { class: "unseen" }, "itself"), h("span", { "aria-hidden": "true" }, "·"));
  const more = [one.loss_percent ? `${one.loss_percent} % lost` : "", one.mtu_bytes ? `${number(one.mtu_bytes)} B` : "", one.encrypted ? "encrypted" : ""].filter(Boolean).join(", ");
  return h("td", {}, state(one.state, one.state === "ok" ? milliseconds(one.rtt_s) || "ok" : one.state), h("div", { class: "faint" }, more));
}
