// All sessions with their fill, searched and paged; and the form for a new one.

import { call, get, serverNow } from "./api.js";
import { badge, busy, clock, count, el, field, fromField, notice, showWrong, span, stateOf, toField, toast } from "./dom.js";

const PAGE_SIZE = 20;
const TYPING_MS = 250;
const AGAIN_MS = 5000;

export function sessionsPage(page, { may }) {
  const search = field("Search", { name: "q", type: "search", placeholder: "Title, description or place", autocomplete: "off" });
  const which = el("select", { name: "available", id: "which" },
    el("option", { value: "all" }, "All"), el("option", { value: "open" }, "That can be booked"));
  const form = el("form.inline.search", { role: "search" }, search, el("div.field", el("label", { htmlFor: "which" }, "Which"), which));
  const found = el("p.muted", { role: "status" }, "Loading …");
  const list = el("ul.sessions");
  const pages = el("nav.row.pages", { "aria-label": "Pages" });
  page.append(
    el("div.row.head", el("h1", "Sessions"), may("manage") && el("a.button", { href: "#/sessions/new" }, "New session")),
    form, found, list, pages);

  let number = 1;
  let asked = 0;
  let shownAt = null;
  let typing = null;
  async function load({ quietly = false } = {}) {
    const mine = (asked += 1);
    const words = new URLSearchParams({ available: which.value, ordering: "-id", page: number, page_size: PAGE_SIZE });
    if (form.elements.q.value.trim()) words.set("q", form.elements.q.value.trim());
    try {
      const answer = await get(`/api/sessions/?${words}`);
      if (mine !== asked) return;
      show(answer);
    } catch (error) {
      if (mine !== asked) return;
      if (quietly && shownAt) {
        found.textContent = `${error.message} This is of ${clock(shownAt)}.`;
        return;
      }
      list.replaceChildren();
      found.replaceChildren(notice(error.fields?.[0]?.message ?? error.message, "bad"));
    }
  }
  function show(answer) {
    shownAt = Date.now();
    const focused = document.activeElement?.closest?.("ul.sessions a")?.hash;
    const searched = form.elements.q.value.trim() || which.value !== "all";
    const text = answer.count ? `${count(answer.count)} found` : searched ? "Nothing is like that." : "There are no sessions yet.";
    if (found.textContent !== text) found.replaceChildren(text);
    list.replaceChildren(...answer.results.map(row));
    if (focused) list.querySelector(`a[href="${focused}"]`)?.focus({ preventScroll: true });
    const turned = pages.contains(document.activeElement) && document.activeElement.textContent;
    const last = Math.max(1, Math.ceil(answer.count / PAGE_SIZE));
    pages.hidden = last === 1;
    pages.replaceChildren(
      el("button.quiet", { type: "button", "aria-disabled": answer.previous ? null : "true", onclick: () => turn(-1) }, "Previous"),
      el("span.muted", `Page ${number} of ${count(last)}`),
      el("button.quiet", { type: "button", "aria-disabled": answer.next ? null : "true", onclick: () => turn(1) }, "Next"));
    if (turned) pages.querySelectorAll("button")[turned === "Next" ? 1 : 0].focus({ preventScroll: true });
  }
  function turn(by) {
    if (document.activeElement.getAttribute("aria-disabled") === "true") return;
    number += by;
    load().then(() => scrollTo(0, 0));
  }
  const anew = () => { number = 1; load(); };
  form.addEventListener("submit", (event) => { event.preventDefault(); anew(); });
  form.elements.q.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(anew, TYPING_MS); });
  which.addEventListener("change", anew);
  load();
  const again = setInterval(() => { if (!document.hidden) load({ quietly: true }); }, AGAIN_MS);
  return () => { asked = -1; clearInterval(again); clearTimeout(typing); };
}

function row(session) {
  const taken = session.capacity - session.available_slots;
  return el("li.card", el("div.what",
    el("a", { href: `#/sessions/${session.id}` }, el("bdi", session.title)),
    el("span.muted.small", span(session.start_time, session.end_time), session.location && " · ", session.location && el("bdi", session.location))),
  badge(...stateOf(session, serverNow())),
  fill(session, taken));
}

/** How full a session is, as a bar and in words. */
export function fill(session, taken) {
  const words = session.state === "cancelled" ? "cancelled"
    : `${count(taken)} of ${count(session.capacity)} taken${session.waiting ? `, ${count(session.waiting)} waiting` : ""}`;
  return el("div.filled",
    el("meter.fill", { min: 0, max: Math.max(1, session.capacity), value: session.state === "cancelled" ? 0 : taken, "aria-label": words }),
    el("span.small.number", words));
}

export function newSessionPage(page) {
  const begin = new Date(Date.now() + 7 * 86_400_000);
  begin.setMinutes(0, 0, 0);
  const form = el("form.card.wide-form",
    field("Title", { name: "title", required: true, maxLength: 200 }),
    field("Description", { name: "description", tag: "textarea", rows: 3, maxLength: 5000 }),
    field("Place", { name: "location", maxLength: 200 }),
    el("div.grid.pair",
      field("Starts", { name: "start_time", type: "datetime-local", required: true, value: toField(begin.toISOString()) }),
      field("Ends", { name: "end_time", type: "datetime-local", required: true, value: toField(new Date(begin.getTime() + 7_200_000).toISOString()) })),
    el("div.grid.pair",
      field("Places", { name: "capacity", type: "number", min: 0, max: 1_000_000, required: true, value: 20 }),
      field("May wait", { name: "waitlist_capacity", type: "number", min: 0, max: 1_000_000, required: true, value: 0 }, "How many when it is full; 0: nobody")),
    el("div.grid.pair",
      seatsField({ max_seats_per_reservation: 4 }), policyField({ waitlist_policy: "strict" })),
    el("div.grid.pair",
      field("Reserving opens", { name: "opens_at", type: "datetime-local" }, "Empty: at once"),
      field("Reserving closes", { name: "closes_at", type: "datetime-local" }, "Empty: when it starts")),
    publicField({ public: true }),
    el("div.row.buttons", el("button", { type: "submit" }, "Create the session"), el("a.button.quiet", { href: "#/sessions" }, "Back")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    busy(form.querySelector("button"), async () => {
      try {
        const made = await call("POST", "/api/sessions/", { ...valuesOf(form) });
        toast("The session was created.");
        location.hash = `#/sessions/${made.id}`;
      } catch (error) {
        showWrong(form, error);
      }
    });
  });
  page.append(el("h1", "New session"), form);
}

export const seatsField = (now) => field("Seats a reservation",
  { name: "max_seats_per_reservation", type: "number", min: 1, max: 20, required: true, value: now.max_seats_per_reservation }, "At most");

/** Who is let in when places come free. */
export function policyField(now) {
  const box = field("Who is let in", { name: "waitlist_policy", tag: "select" }, "Of those who wait, when places come free");
  box.querySelector("select").append(...[["strict", "Strictly the first"], ["fill", "The first that fits"]].map(([value, text]) =>
    el("option", { value, selected: value === now.waitlist_policy }, text)));
  return box;
}

export const publicField = (now) => el("label.check", el("input", { type: "checkbox", name: "public", checked: now.public }),
  "With a page where anybody may book");

/** A form's fields as the API takes them. */
export function valuesOf(form) {
  const values = {};
  for (const input of form.elements) {
    if (!input.name) continue;
    if (input.type === "checkbox") values[input.name] = input.checked;
    else if (input.type === "number") values[input.name] = Number(input.value);
    else if (input.type === "datetime-local") values[input.name] = fromField(input.value);
    else values[input.name] = input.value;
  }
  return values;
}
