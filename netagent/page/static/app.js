// The page: which part is shown, by its address; and what is the same on all parts.

import { h, link as anchor, sentence } from "./dom.js";
import { link, read, setKey, takeKeyFromAddress } from "./live.js";
import { overview } from "./overview.js";
import { addresses, endpoints, flows, hostsPart, networks, services } from "./parts.js";
import { thing } from "./thing.js";

const PARTS = [
  ["", "Overview"], ["map", "Map"], ["services", "Services"], ["endpoints", "Endpoints"], ["hosts", "Hosts"], ["paths", "Paths"], ["networks", "Networks"], ["addresses", "Addresses"], ["flows", "Flows"], ["events", "Events"], ["dns", "DNS"],
];

const OPENS = {
  "": overview,
  map: async (place) => (await import("./map.js")).map(place),
  services: (place) => (place.id ? thing(place) : services(place)),
  endpoints: (place) => (place.id ? thing(place) : endpoints(place)),
  hosts: (place) => (place.id ? thing(place) : hostsPart(place)),
  flows: (place) => flows(place),
  networks: (place) => (place.id ? thing(place) : networks(place)),
  addresses: (place) => addresses(place),
  events: async (place) => (await import("./events.js")).events(place),
  paths: async (place) => (await import("./paths.js")).paths(place),
  dns: async (place) => (await import("./dns.js")).dns(place),
};

const main = document.getElementById("main");
let shown = null;
let turn = 0;

function placeOf(url) {
  const [part, ...rest] = url.pathname.replace(/^\/page\/?/, "").split("/");
  const query = new URLSearchParams(url.search);
  return {
    part,
    id: decodeURIComponent(rest.join("/")),
    query,
    // The query has changed: the address follows, without a step in the history for each letter.
    remember() {
      const text = query.toString();
      history.replaceState(null, "", location.pathname + (text ? `?${text}` : ""));
    },
  };
}

async function show() {
  const mine = ++turn;
  const place = placeOf(new URL(location.href));
  shown?.close();
  shown = null;
  const open = OPENS[place.part] || nowhere;
  const next = await open(place);
  if (mine !== turn) return next.close();
  shown = next;
  main.replaceChildren(next.element);
  document.body.dataset.filter = String(Boolean(next.focus));
  const title = PARTS.find(([path]) => path === place.part)?.[1] || "";
  document.title = [place.id || title, "netagent"].filter(Boolean).join(" · ");
  for (const one of nav.querySelectorAll("a")) {
    if (one.dataset.part === place.part) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
}

function nowhere(place) {
  return { element: h("section", { class: "pad" }, h("h1", {}, "Nothing here"), h("p", {}, `The page has no part ${place.part}. `, anchor("", "Overview"))), close() {} };
}

export function go(path) {
  history.pushState(null, "", "/page/" + path);
  return show();
}

const nav = document.getElementById("nav");
nav.append(...PARTS.map(([path, label]) => anchor(path, label, { "data-part": path })));

document.addEventListener("click", (event) => {
  const target = event.target.closest("a");
  const isPlain = !event.defaultPrevented && event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
  if (!target || !isPlain || target.origin !== location.origin || !target.pathname.startsWith("/page/") || target.getAttribute("href").startsWith("#")) return;
  event.preventDefault();
  history.pushState(null, "", target.href);
  show().then(() => { window.scrollTo(0, 0); main.focus({ preventScroll: true }); });
});
window.addEventListener("popstate", show);

// -- search from everywhere, and keys ----------------------------------------------------------------------------

const find = document.getElementById("find-text");
document.getElementById("find").addEventListener("submit", (event) => {
  event.preventDefault();
  go(`endpoints?q=${encodeURIComponent(find.value.trim())}`);
  find.blur();
});
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, select, textarea");
  if (event.key === "Escape" && isTyping) event.target.blur();
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    event.preventDefault();
    if (shown?.focus) shown.focus();
    else find.focus();
  }
});

// -- the connection ----------------------------------------------------------------------------------------------

const pulse = document.getElementById("pulse");
const banner = document.getElementById("banner");
let isLive = false;
let lostAt = null;

link.addEventListener("state", ({ detail }) => {
  if (detail === "live") {
    lostAt = null;
    isLive = true;
    pulse.className = "pulse live";
    pulse.textContent = "live";
    banner.hidden = true;
    return;
  }
  lostAt ??= new Date();
  pulse.className = "pulse away";
  pulse.textContent = "no answer";
  if (isLive) {
    banner.textContent = `The agent has not answered since ${lostAt.toLocaleTimeString()}. What you see is from then; containers, packets and names go on without it.`;
    banner.hidden = false;
  }
});

link.addEventListener("key", ({ detail }) => {
  pulse.className = "pulse away";
  banner.hidden = true; // it has answered
  isLive = false;
  lostAt = null;
  shown?.close();
  shown = null;
  // Off loopback only tokens count, and the agent's words are for programs.
  const isElsewhere = location.protocol === "https:";
  const wanted = isElsewhere ? "token" : "key";
  pulse.textContent = `no ${wanted}`;
  const hint = isElsewhere ? "make one without a limit to networks, with `sudo netagent token create NAME --read` on its host, and paste it here" : detail.hint;
  const field = h("input", { id: "key", type: "password", autocomplete: "off", required: true });
  const form = h(
    "form",
    { class: "pad key" },
    h("h1", {}, `This page needs a ${wanted}`),
    h("p", {}, sentence(`${detail.detail}; ${hint}.`)),
    h("p", {}, h("label", { for: "key" }, isElsewhere ? "Token " : "Address, key or token "), field, " ", h("button", { type: "submit" }, "Open")),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    setKey(field.value);
    show();
  });
  main.replaceChildren(form);
  field.focus();
});

// -- dark and light ----------------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];
const theme = document.getElementById("theme");
function wear(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  theme.textContent = { auto: "◐ auto", light: "☀ light", dark: "☾ dark" }[name];
  theme.setAttribute("aria-label", `Colours: ${name}. Change`);
  localStorage.setItem("netagent-theme", name);
  document.dispatchEvent(new Event("themed"));
}
wear(localStorage.getItem("netagent-theme") || "auto");
theme.addEventListener("click", () => {
  const now = localStorage.getItem("netagent-theme") || "auto";
  wear(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});

// Whose page this is: each host shows the cluster as it sees it.
async function about() {
  const { head } = await read("about");
  document.getElementById("where").textContent = `${head.cluster} · from ${head.host}`;
}

link.addEventListener("state", ({ detail }) => {
  if (detail === "live" && !document.getElementById("where").textContent) about().catch(() => {});
});

takeKeyFromAddress();
show();
