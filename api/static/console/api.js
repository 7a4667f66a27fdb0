// Calls to the API: with the token that a change needs, and refusals as errors in the service's own words.

export const WAIT = { Prefer: "wait=10" };
let csrf = null;
let onSignedOut = () => {};

export class Refused extends Error {
  constructor(status, body) {
    super(body.detail || `The service answered ${status}.`);
    this.status = status;
    this.code = body.code;
    this.fields = body.errors;
  }
}

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

/** A stream of events; `close()` it. Where it ends for good, somebody may have been signed out. */
export function follow(path, name, then, onState = () => {}) {
  const source = new EventSource(path);
  source.addEventListener(name, (event) => { onState("live"); then(JSON.parse(event.data)); });
  source.onerror = async () => {
    onState("waiting");
    if (source.readyState !== EventSource.CLOSED) return;
    const who = await whoIsIt().catch(() => undefined);
    if (who === null) onSignedOut();
  };
  return source;
}
