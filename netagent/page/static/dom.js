// Small tools to build elements. Text is always set as text: names and labels in it are written by strangers.

export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return element;
}

export function link(path, text, props = {}) {
  return h("a", { href: "/page/" + path, ...props }, text);
}

const NUMBER = new Intl.NumberFormat("en");

export function number(value) {
  return NUMBER.format(value);
}

export function plural(count, one, many = one + "s") {
  return `${number(count)} ${count === 1 ? one : many}`;
}

// A state is a glyph, a colour and its word: never a colour alone.
const LOOKS = {
  good: ["●", "up alive ok answers healthy present passed NOERROR local"],
  part: ["◐", "partial suspect lossy degraded one-way starting stopping drained warning altered pending shadowed away nearly-full"],
  bad: ["✕", "down dead silent hidden fenced unhealthy missing failed expired full NXDOMAIN SERVFAIL REFUSED"],
  none: ["○", "left unknown"],
};
const LOOK_OF = new Map(
  Object.entries(LOOKS).flatMap(([look, [glyph, words]]) => words.split(" ").map((word) => [word, [look, glyph]])),
);

export function look(word) {
  return (LOOK_OF.get(word) || ["none", "○"])[0];
}

export function state(word, text = word) {
  const [kind, glyph] = LOOK_OF.get(word) || ["none", "○"];
  return h("span", { class: "state " + kind }, h("span", { class: "glyph", "aria-hidden": "true" }, glyph), text && " ", text);
}

// What this host knows of another one, in the words of `netagent members`: its path while its agent is alive, else the
// state of its agent, and then whether its kernel answers.
export function hostWord(row) {
  return row.agent === "alive" ? row.path : row.agent;
}

export function hostWords(row) {
  if (row.agent !== "alive") return `agent ${row.agent}, host ${row.host}`;
  return row.path === "local" ? "this host" : `path ${row.path}`;
}

export function milliseconds(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const value = seconds * 1000;
  return `${value < 10 ? value.toFixed(2) : value.toFixed(0)} ms`;
}

export function copyable(command) {
  const button = h("button", { class: "copy", type: "button", "aria-label": `Copy: ${command}` }, "copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(command);
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
  return h("span", { class: "command" }, h("code", {}, command), button);
}

// In sentences of the agent, what is to be typed stands between backquotes.
export function sentence(text) {
  return text.split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

export function facts(pairs) {
  return h(
    "dl",
    { class: "facts" },
    pairs
      .filter(([, value]) => value !== "" && value !== null && value !== undefined && !(Array.isArray(value) && !value.length))
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}
