// Making elements, and saying numbers, times and what went wrong the same way everywhere.

const NUMBER = new Intl.NumberFormat("en");
const MOMENT = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const CLOCK = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const TOAST_MS = 6000;

/** An element: `el("p.muted", { id: "x", onclick: f }, "text", child)`. Text is never taken for HTML. */
export function el(what, ...rest) {
  const [name, ...classes] = what.split(".");
  const element = document.createElement(name);
  element.classList.add(...classes);
  const hasOptions = rest[0] && Object.getPrototypeOf(rest[0]) === Object.prototype;
  for (const [key, value] of Object.entries(hasOptions ? rest.shift() : {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && !["list", "form", "role"].includes(key)) element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...rest.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const count = (value) => NUMBER.format(value);
export const moment = (text) => MOMENT.format(new Date(text));
export const clock = (text) => CLOCK.format(new Date(text));
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** From when to when, the day said once where it is the same. */
export function span(start, end) {
  return MOMENT.formatRange(new Date(start), new Date(end));
}

/** A rate or a time, with as many digits as mean something. */
export function few(value, unit = "") {
  if (value === null || value === undefined) return "–";
  const digits = value >= 100 || value === 0 ? 0 : value >= 10 ? 1 : 2;
  return `${count(Number(value.toFixed(digits)))}${unit && ` ${unit}`}`;
}

/** A length of time in the unit that suits it. */
export function lasting(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${few(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

/** What a date-time field shows, and the reverse; in this browser's time zone. */
export function toField(text) {
  if (!text) return "";
  const time = new Date(text);
  return new Date(time.getTime() - time.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
}
export const fromField = (value) => (value ? new Date(value).toISOString() : null);

/** A word that stands out for how things are. */
export const badge = (text, kind = "") => el(`span.badge${kind && `.${kind}`}`, text);

/** What a session is at that moment, in a word and its colour. */
export function stateOf(session, now) {
  const passed = (text) => Boolean(text) && Date.parse(text) <= now;
  if (session.state === "cancelled") return ["cancelled", "bad"];
  if (passed(session.end_time)) return ["over", ""];
  if (passed(session.start_time)) return ["started", "info"];
  if (session.state === "closed" || passed(session.closes_at)) return ["closed", "warn"];
  if (session.opens_at && !passed(session.opens_at)) return ["not open yet", "info"];
  return session.available_slots > 0 ? ["open", "good"] : ["full", "warn"];
}

/** Whether a stream brings what is shown, as a word that stands out. */
export function liveBadge() {
  const shown = badge("connecting", "info");
  return { shown, say(how) {
    shown.textContent = how === "live" ? "live" : "connecting again";
    shown.className = how === "live" ? "badge good" : "badge warn";
  } };
}

/** A message that goes by itself; who listens hears it. */
export function toast(text, kind = "good") {
  const shown = el(`p.notice.${kind}`, text);
  document.getElementById("toasts").append(shown);
  setTimeout(() => shown.remove(), TOAST_MS);
}

export const notice = (text, kind = "", ...more) => el(`div.notice${kind && `.${kind}`}`, { role: kind === "bad" ? "alert" : null }, el("p", text), ...more);

/** A labelled field of a form. */
export function field(label, options, hint) {
  const { tag = "input", ...rest } = options;
  const id = `field-${rest.name}-${Math.random().toString(36).slice(2, 7)}`;
  const input = el(tag, { id, "aria-describedby": hint ? `${id}-hint` : null, ...rest });
  return el("div.field", el("label", { htmlFor: id }, label), input, hint && el("span.hint", { id: `${id}-hint` }, hint));
}

/** Show what a form's request was refused for: at its fields where they are named, else above its buttons. */
export function showWrong(form, error) {
  clearWrong(form);
  const rest = [];
  for (const { field: name, message } of error.fields ?? []) {
    const input = form.elements.namedItem(name);
    if (!input) { rest.push(name ? `${name}: ${message}` : message); continue; }
    input.setAttribute("aria-invalid", "true");
    const wrong = `${input.id}-wrong`;
    input.after(el("span.wrong", { id: wrong }, sentence(message)));
    input.setAttribute("aria-describedby", [input.getAttribute("aria-describedby"), wrong].filter(Boolean).join(" "));
  }
  if (!error.fields?.length) rest.push(error.message);
  if (rest.length) form.querySelector(".buttons").before(el("p.wrong.of-form", { role: "alert" }, rest.join("; ")));
  form.querySelector('[aria-invalid="true"]')?.focus();
}

export function clearWrong(form) {
  form.querySelectorAll(".wrong").forEach((shown) => shown.remove());
  form.querySelectorAll("[aria-invalid]").forEach((input) => {
    input.removeAttribute("aria-invalid");
    const rest = (input.getAttribute("aria-describedby") ?? "").split(" ").filter((id) => !id.endsWith("-wrong")).join(" ");
    if (rest) input.setAttribute("aria-describedby", rest);
    else input.removeAttribute("aria-describedby");
  });
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (text.endsWith(".") ? "" : ".");

/** Run something that a button asked for: the button rests meanwhile, but keeps the focus. */
export async function busy(button, work) {
  if (button.getAttribute("aria-disabled") === "true") return undefined;
  button.setAttribute("aria-disabled", "true");
  button.setAttribute("aria-busy", "true");
  try {
    return await work();
  } finally {
    button.removeAttribute("aria-disabled");
    button.removeAttribute("aria-busy");
  }
}

/** Put an element in the place of another; the focus goes on to what is like what had it, else to the first thing there. */
export function swap(old, fresh, likeWhat = "button, a") {
  const held = old.contains(document.activeElement) ? document.activeElement : null;
  const at = held && [...old.querySelectorAll(likeWhat)].indexOf(held);
  old.replaceWith(fresh);
  if (!held) return;
  const candidates = [...fresh.querySelectorAll(likeWhat)];
  (candidates[Math.max(at, 0)] ?? candidates.at(-1) ?? fresh).focus({ preventScroll: true });
}

/** Ask before something that cannot be taken back. */
export function confirmed(question, detail, word) {
  return new Promise((resolve) => {
    const dialog = el("dialog.card.stack", { "aria-labelledby": "question" },
      el("h2", { id: "question" }, question), el("p", detail),
      el("div.row.buttons",
        el("button.danger", { type: "button", onclick: () => dialog.close("yes") }, word),
        el("button.quiet", { type: "button", autofocus: true, onclick: () => dialog.close("") }, "Keep it as it is")));
    dialog.addEventListener("close", () => { resolve(dialog.returnValue === "yes"); dialog.remove(); });
    document.body.append(dialog);
    dialog.showModal();
  });
}
