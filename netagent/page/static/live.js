// Reads parts of the page from the agent, and follows how they change.
//
// The access key is kept for this origin only, and sent as a header: no other site can make the browser send it.

const KEY = "netagent-key";

export const link = new EventTarget(); // "state": how the connection to the agent is; "key": a key is needed

export function takeKeyFromAddress() {
  const found = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!found) return;
  localStorage.setItem(KEY, found);
  history.replaceState(history.state, "", location.pathname + location.search);
}

export function setKey(text) {
  localStorage.setItem(KEY, text.includes("#key=") ? text.split("#key=")[1].trim() : text.trim());
}

function say(name, detail) {
  link.dispatchEvent(new CustomEvent(name, { detail }));
}

async function ask(path, params, signal, method = "GET") {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== "" && value !== undefined));
  const headers = { Authorization: `Bearer ${localStorage.getItem(KEY) || ""}` };
  const answer = await fetch(`/page/${path}?${query}`, { method, headers, signal, cache: "no-store", credentials: "omit" });
  if (answer.ok) {
    say("state", "live");
    return answer;
  }
  const problem = await answer.json().catch((error) => {
    if (error.name === "AbortError") throw error; // another part was refused first, and its reason is shown
    return { detail: `the agent answered ${answer.status}`, hint: "" };
  });
  // Not valid, or a token that is limited to networks; a wrong place is no matter of the key.
  if (answer.status === 401 || problem.code === "not-permitted") say("key", problem);
  throw Object.assign(new Error(problem.detail), { problem });
}

export async function read(part, params = {}, signal = undefined) {
  return (await ask(`data/${part}`, params, signal)).json();
}

// Let the agent look now: it reads more than a part of the page does, and changes nothing.
export async function run(name) {
  return (await ask(`run/${name}`, {}, undefined, "POST")).json();
}

// Follow a part until `close` is called. `show` gets {head, rows, order} and the ids that have changed.
// A page in the background follows nothing; when it is seen again it reads all of it anew.
export function follow(part, params, show, trouble) {
  let stop = new AbortController();
  let closed = false;

  async function run() {
    let pause = 300;
    while (!closed && !document.hidden) {
      const kept = { head: null, rows: new Map(), order: [] };
      try {
        const answer = await ask(`live/${part}`, params, stop.signal);
        pause = 300;
        for await (const news of events(answer.body)) {
          if (closed) return;
          if (news.problem) {
            trouble(news.problem);
            continue;
          }
          say("state", "live");
          apply(kept, news);
          show(kept, new Set(Object.keys(news.set || {})));
        }
      } catch (error) {
        if (closed || error.name === "AbortError") return;
        if (error.problem) {
          trouble(error.problem);
          if ([401, 403, 404].includes(error.problem.status)) return;
        }
      }
      if (closed || document.hidden) return;
      say("state", "away");
      await new Promise((done) => setTimeout(done, pause));
      pause = Math.min(5000, pause * 1.7);
    }
  }

  function seen() {
    stop.abort();
    if (document.hidden) return;
    stop = new AbortController();
    run();
  }
  document.addEventListener("visibilitychange", seen);
  run();
  return {
    close() {
      closed = true;
      stop.abort();
      document.removeEventListener("visibilitychange", seen);
    },
  };
}

function apply(kept, news) {
  if (news.head) kept.head = news.head;
  for (const [id, row] of Object.entries(news.set || {})) kept.rows.set(id, row);
  if (news.order) {
    kept.order = news.order;
    const wanted = new Set(news.order);
    for (const id of [...kept.rows.keys()]) if (!wanted.has(id)) kept.rows.delete(id);
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}
