// Calls to the API: with the token that a change needs, and refusals as errors in the service's own words.

export const WAIT = { Prefer: "wait=10" };
const AGAIN_MS = [2000, 30000]; // between two tries to open a stream that was refused: at first, and at most
let csrf = null;
let ahead = 0; // by how many milliseconds the server's clock is ahead of this one
let onSignedOut = () => {};

export class Refused extends Error {
  constructor(status, body) {
    super(body.detail || `The service answered ${status}.`);
    this.status = status;
    this.code = body.code;
    this.fields = body.errors;
  }
}

/** The time at the server, to a second or so. */
export const serverNow = () => Date.now() + ahead;

export const whenSignedOut = (then) => { onSignedOut = then; };

export async function call(method, path, body, headers = {}) {
  const sent = { Accept: "application/json", ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  if (method !== "GET" && csrf) sent["X-CSRF-Token"] = csrf;
  let answer;
  try {
    answer = await fetch(path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused(0, { detail: "The service cannot be reached." });
  }
  const at = Date.parse(answer.headers.get("Date"));
  if (at && Math.abs(at - serverNow()) > 2000) ahead = at - Date.now();
  if (answer.status === 204) return null;
  const found = await answer.json().catch(() => ({}));
  if (answer.ok) return found;
  if (answer.status === 401 && !path.startsWith("/console/")) onSignedOut();
  throw new Refused(answer.status, found);
}

export const get = (path) => call("GET", path);

/** A command, with its outcome: the same key is the same command, so that a lost answer can be asked for again. */
export async function command(method, path, body = {}) {
  const key = { "Idempotency-Key": crypto.randomUUID?.() ?? `console-${Date.now()}-${Math.random().toString(36).slice(2)}` };
  const send = () => call(method, path, body, { ...WAIT, ...key });
  try {
    return await send();
  } catch (error) {
    if (error.status !== 0 && error.status !== 503) throw error;
    return send();
  }
}

/** Who is signed in; null if nobody is. */
export async function whoIsIt() {
  const who = remembered(await get("/console/session"));
  return who.client === null ? null : who;
}

export const signIn = async (key) => remembered(await call("POST", "/console/session", { key }));
export const signOut = () => call("DELETE", "/console/session");

function remembered(who) {
  csrf = who.csrf_token;
  return who;
}

/** A stream of events; `close()` it. It is opened again whatever ends it, unless somebody was signed out. */
export function follow(path, name, then, onState = () => {}) {
  let source = null;
  let again = null;
  let tries = 0;
  let left = false;
  function open() {
    source = new EventSource(path);
    source.addEventListener(name, (event) => { tries = 0; onState("live"); then(JSON.parse(event.data)); });
    source.onerror = async () => {
      onState("waiting");
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again
      const who = await whoIsIt().catch(() => undefined);
      if (left) return;
      if (who === null) { onSignedOut(); return; }
      again = setTimeout(open, Math.min(AGAIN_MS[1], AGAIN_MS[0] * 2 ** tries) * (0.5 + Math.random()));
      tries += 1;
    };
  }
  open();
  return { close() { left = true; clearTimeout(again); source.close(); } };
}

/** Ask for something until it is there; `onError` is told why it is not. Answers how to stop. */
export function insist(ask, then, onError) {
  let again = null;
  let left = false;
  async function one() {
    try {
      const found = await ask();
      if (!left) then(found);
    } catch (error) {
      if (left) return;
      onError(error);
      if (error.status === 0 || error.status === 429 || error.status >= 500) again = setTimeout(one, AGAIN_MS[0]);
    }
  }
  one();
  return () => { left = true; clearTimeout(again); };
}
