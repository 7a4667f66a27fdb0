// One session: how full it is, live; who comes, and checking them in; and what its owner may change.

import { call, command, follow, get, insist, serverNow } from "./api.js";
import { badge, busy, clearWrong, confirmed, count, el, field, liveBadge, moment, notice, plural, showWrong, span, stateOf, toast, toField } from "./dom.js";
import { peopleTable } from "./people.js";
import { fill, policyField, publicField, seatsField, valuesOf } from "./sessions.js";

const SHOWN_PEOPLE = 1000;
const SETTLE_MS = 1000;
const CLOCK_MS = 5000; // the clock alone changes what a session is

export function sessionPage(page, { may, argument: id }) {
  const title = el("h1", { dir: "auto", tabIndex: -1 }, "Session");
  const state = el("span.row");
  const live = liveBadge();
  const about = el("div.stack");
  const filled = el("section.card.stack", { "aria-label": "How full it is" }, el("p.muted", "Loading …"));
  const people = may("attendees", "manage") ? whoComes(listPeople) : null;
  const manage = may("manage") ? el("div.stack", { tabIndex: -1, role: "region", "aria-label": "Change the session" }) : null;
  const toChange = manage && el("button.quiet", { type: "button", hidden: true, onclick: () => {
    manage.scrollIntoView();
    manage.focus({ preventScroll: true });
  } }, "Change the session");
  page.append(el("div.row.head", el("a", { href: "#/sessions" }, "All sessions"), live.shown), el("div.row.head", title, state), about, filled,
    ...[people?.element, manage].filter(Boolean));

  let left = false;
  let shown = null;
  let soon = null;
  const path = `/api/sessions/${id}/`;

  async function load() {
    const found = await get(path);
    if (left) return;
    shown = found;
    title.textContent = found.title;
    document.title = `${found.title} · Aforo console`;
    about.replaceChildren(...aboutIt(found, toChange));
    counts(found);
    if (manage && !manage.childElementCount) {
      manage.append(...changes(found));
      counts(found);
    }
  }
  function tellState() {
    if (shown) state.replaceChildren(badge(...stateOf(shown, serverNow())));
  }
  function counts(now) {
    shown = { ...shown, ...now };
    tellState();
    filled.replaceChildren(fill(now, now.state === "cancelled" ? 0 : now.capacity - now.available_slots),
      el("p.muted", now.state === "cancelled" ? "It does not take place." : `${plural(now.available_slots, "place")} free`
        + (now.waitlist_capacity ? `, ${count(now.waiting)} of ${plural(now.waitlist_capacity, "place")} in the waitlist taken.` : ".")));
    const held = document.activeElement;
    manage?.querySelectorAll("[data-when]").forEach((part) => { part.hidden = !part.dataset.when.split(" ").includes(now.state); });
    if (toChange) toChange.hidden = now.state === "cancelled";
    if (held?.closest("[hidden]")) {
      const beside = held.parentElement.querySelector("button:not([hidden])");
      (beside && !beside.closest("[hidden]") ? beside : title).focus();
    }
  }
  async function listPeople() {
    if (!people || left) return;
    const { results, next } = await get(`${path}reservations/?page_size=${SHOWN_PEOPLE}`);
    if (!left) people.show(results, Boolean(next), shown.state === "cancelled");
  }
  const listQuietly = () => listPeople().catch(() => {}); // the next news brings it

  /** All changes of a session that this page makes are answered alike. */
  async function change(button, form, send, done) {
    await busy(button, async () => {
      if (form) clearWrong(form);
      try {
        const answer = await send();
        toast(answer?.detail ?? done);
        await load();
        await listQuietly();
      } catch (error) {
        if (form) showWrong(form, error);
        else toast(error.message, "bad");
      }
    });
  }

  function changes(now) {
    const size = el("form.card",
      el("h2", "Size and waitlist"),
      el("div.grid.pair",
        field("Places", { name: "capacity", type: "number", min: 0, max: 1_000_000, required: true, value: now.capacity }),
        field("May wait", { name: "waitlist_capacity", type: "number", min: 0, max: 1_000_000, required: true, value: now.waitlist_capacity })),
      el("div.grid.pair", seatsField(now), policyField(now)),
      el("label.check", el("input", { type: "checkbox", name: "send_out" }),
        "With fewer places than are taken, send the newest to the waitlist"),
      el("div.row.buttons", el("button", { type: "submit" }, "Save the size")));
    size.addEventListener("submit", (event) => {
      event.preventDefault();
      const { send_out: _, ...settings } = valuesOf(size);
      const body = { ...settings, on_shrink: size.elements.send_out.checked ? "waitlist" : "refuse" };
      change(size.querySelector("button"), size, () => command("PATCH", path, body));
    });

    const words = el("form.card",
      el("h2", "What it is"),
      field("Title", { name: "title", required: true, maxLength: 200, value: now.title }),
      field("Description", { name: "description", tag: "textarea", rows: 3, maxLength: 5000, value: now.description }),
      field("Place", { name: "location", maxLength: 200, value: now.location }),
      publicField(now),
      el("div.row.buttons", el("button", { type: "submit" }, "Save")));
    words.addEventListener("submit", (event) => {
      event.preventDefault();
      change(words.querySelector("button"), words, () => call("PATCH", path, valuesOf(words)).then(() => null), "Saved.");
    });

    const times = el("form.card",
      el("h2", "When"),
      el("div.grid.pair",
        field("Starts", { name: "start_time", type: "datetime-local", required: true, value: toField(now.start_time) }),
        field("Ends", { name: "end_time", type: "datetime-local", required: true, value: toField(now.end_time) }),
        field("Reserving opens", { name: "opens_at", type: "datetime-local", value: toField(now.opens_at) }, "Empty: at once"),
        field("Reserving closes", { name: "closes_at", type: "datetime-local", value: toField(now.closes_at) }, "Empty: when it starts")),
      el("div.row.buttons", el("button", { type: "submit" }, "Save the times")));
    times.addEventListener("submit", (event) => {
      event.preventDefault();
      change(times.querySelector("button"), times, () => command("PATCH", path, valuesOf(times)));
    });

    const turn = (kind) => (event) => change(event.currentTarget, null, () => command("POST", `${path}${kind}/`));
    const turns = el("section.card.stack",
      el("h2", "Close or cancel"),
      el("div.row",
        el("button.quiet", { type: "button", "data-when": "open", onclick: turn("close") }, "Take no more reservations"),
        el("button.quiet", { type: "button", "data-when": "closed", onclick: turn("reopen") }, "Take reservations again"),
        el("button.danger", { type: "button", onclick: async ({ currentTarget }) => {
          const detail = `All reservations of “${shown.title}” are cancelled with it. This cannot be taken back.`;
          if (await confirmed("Cancel the session?", detail, "Cancel the session")) turn("cancel-session")({ currentTarget });
        } }, "Cancel the session …")));
    const parts = el("div.stack", { "data-when": "open closed" }, el("div.grid.two", size, times), words, turns);
    return [parts, el("p.muted", { "data-when": "cancelled", hidden: true }, "A cancelled session cannot be changed any more.")];
  }

  let stream = null;
  const ticking = setInterval(tellState, CLOCK_MS);
  const stop = insist(load, () => {
    listQuietly();
    stream = follow(`${path}events`, "session", (now) => {
      counts({ ...shown, ...now });
      clearTimeout(soon);
      soon = setTimeout(listQuietly, SETTLE_MS);
    }, live.say);
  }, (error) => {
    filled.replaceChildren(notice(error.message, "bad"));
    if (error.status !== 404) return;
    title.textContent = "There is no such session";
    live.shown.remove();
    people?.element.remove();
  });
  return () => { left = true; stop(); clearInterval(ticking); clearTimeout(soon); stream?.close(); };
}

/** Who comes, as a list that is kept up to date under the hands of whoever checks people in. */
function whoComes(changed) {
  const told = el("p.muted", "Loading …");
  const box = field("Show only", { name: "only", type: "search", placeholder: "Name or e-mail", autocomplete: "off" });
  const input = box.querySelector("input");
  const fits = el("span.hint", { role: "status" });
  box.append(fits);
  const list = peopleTable({ changed, where: false });
  const only = el("div.only", { hidden: true }, box);
  const element = el("section.card.stack", el("h2", "Who comes"), told, only, list.element);
  list.element.hidden = true;

  function filter() {
    const sought = input.value.trim().toLowerCase();
    const rows = [...list.element.querySelectorAll("tbody tr")];
    rows.forEach((row) => { row.hidden = !row.textContent.toLowerCase().includes(sought); });
    fits.textContent = sought ? `${count(rows.filter((row) => !row.hidden).length)} of ${count(rows.length)} shown` : "";
  }
  input.addEventListener("input", filter);

  function show(results, hasMore, isCancelled) {
    const here = results.filter((one) => one.checked_in_at).length;
    told.textContent = isCancelled ? "Nobody, as it is cancelled." : !results.length ? "Nobody has reserved yet."
      : hasMore ? `The first ${count(results.length)} reservations, ${count(here)} of them checked in. Find others under People.`
        : `${plural(results.length, "reservation")}, ${count(here)} checked in.`;
    only.hidden = list.element.hidden = !results.length;
    list.show(results);
    filter();
  }
  return { element, show };
}

function aboutIt(session, toChange) {
  const facts = [["When", span(session.start_time, session.end_time)], ["Where", session.location],
    ["Reserving opens", session.opens_at && moment(session.opens_at)], ["Reserving closes", session.closes_at && moment(session.closes_at)]];
  return [
    session.description && el("p.description", { dir: "auto" }, session.description),
    el("dl.facts", facts.filter(([, value]) => value).map(([name, value]) => el("div", el("dt", name), el("dd", el("bdi", value))))),
    el("div.row", session.public && el("a.button.quiet", { href: `/s/${session.id}`, target: "_blank", rel: "noopener" }, "See its booking page"), toChange),
  ].filter(Boolean);
}
