// One session: how full it is, live; who comes, and checking them in; and what its owner may change.

import { call, command, follow, get } from "./api.js";
import { badge, busy, clearWrong, confirmed, count, el, field, moment, notice, plural, showWrong, span, STATES, toast, toField } from "./dom.js";
import { peopleTable } from "./people.js";
import { fill, valuesOf } from "./sessions.js";

const SHOWN_PEOPLE = 1000;
const SETTLE_MS = 1000;

export function sessionPage(page, { may, argument: id }) {
  const title = el("h1", "Session");
  const state = el("span");
  const about = el("div.stack");
  const filled = el("section.card.stack", { "aria-label": "How full it is" }, el("p.muted", "Loading …"));
  const people = may("attendees", "manage") ? el("section.card.stack") : null;
  const manage = may("manage") ? el("div.stack") : null;
  page.append(el("p", el("a", { href: "#/sessions" }, "All sessions")), el("div.row.head", title, state), about, filled,
    ...[people, manage].filter(Boolean));

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
    about.replaceChildren(...aboutIt(found));
    counts(found);
    if (manage && !manage.childElementCount) manage.append(...changes(found));
  }
  function counts(now) {
    state.replaceChildren(badge(...STATES[now.state]));
    filled.replaceChildren(fill(now, now.state === "cancelled" ? 0 : now.capacity - now.available_slots),
      el("p.muted", now.state === "cancelled" ? "It does not take place." : `${plural(now.available_slots, "place")} free`
        + (now.waitlist_capacity ? `, ${count(now.waiting)} of ${plural(now.waitlist_capacity, "place")} in the waitlist taken.` : ".")));
    manage?.querySelectorAll("[data-when]").forEach((part) => { part.hidden = !part.dataset.when.split(" ").includes(now.state); });
  }
  async function listPeople() {
    if (!people || left) return;
    const { results, next } = await get(`${path}reservations/?page_size=${SHOWN_PEOPLE}`);
    if (left) return;
    const here = results.filter((one) => one.checked_in_at).length;
    people.replaceChildren(el("h2", "Who comes"),
      el("p.muted", results.length
        ? `${next ? `The first ${count(results.length)} reservations` : plural(results.length, "reservation")}, ${count(here)} checked in.`
        : "Nobody has reserved yet."));
    if (results.length) people.append(filter(people), peopleTable(results, { changed: listPeople, where: false }));
  }

  /** All changes of a session that this page makes are answered alike. */
  async function change(button, form, send, done) {
    await busy(button, async () => {
      if (form) clearWrong(form);
      try {
        const answer = await send();
        toast(answer?.detail ?? done);
        await load();
        await listPeople();
      } catch (error) {
        if (form) showWrong(form, error);
        else toast(error.message, "bad");
      }
    });
  }

  function changes(now) {
    const size = el("form.card",
      el("h2", "Size"),
      el("div.grid.pair",
        field("Places", { name: "capacity", type: "number", min: 0, max: 1_000_000, required: true, value: now.capacity }),
        field("May wait", { name: "waitlist_capacity", type: "number", min: 0, max: 1_000_000, required: true, value: now.waitlist_capacity })),
      el("label.check", el("input", { type: "checkbox", name: "send_out" }),
        "With fewer places than are taken, send the newest to the waitlist"),
      el("div.row.buttons", el("button", { type: "submit" }, "Resize")));
    size.addEventListener("submit", (event) => {
      event.preventDefault();
      const { capacity, waitlist_capacity } = valuesOf(size);
      const body = { capacity, waitlist_capacity, on_shrink: size.elements.send_out.checked ? "waitlist" : "refuse" };
      change(size.querySelector("button"), size, () => command("PATCH", path, body));
    });

    const words = el("form.card",
      el("h2", "What it is"),
      field("Title", { name: "title", required: true, maxLength: 200, value: now.title }),
      field("Description", { name: "description", tag: "textarea", rows: 3, maxLength: 5000, value: now.description }),
      field("Place", { name: "location", maxLength: 200, value: now.location }),
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

    const turn = (kind) => (event) => change(event.target, null, () => command("POST", `${path}${kind}/`));
    const turns = el("section.card.stack",
      el("h2", "Close or cancel"),
      el("div.row",
        el("button.quiet", { type: "button", "data-when": "open", onclick: turn("close") }, "Take no more reservations"),
        el("button.quiet", { type: "button", "data-when": "closed", onclick: turn("reopen") }, "Take reservations again"),
        el("button.danger", { type: "button", onclick: async (event) => {
          const detail = `All reservations of “${shown.title}” are cancelled with it. This cannot be taken back.`;
          if (await confirmed("Cancel the session?", detail, "Cancel the session")) turn("cancel-session")(event);
        } }, "Cancel the session …")));
    const parts = el("div.stack", { "data-when": "open closed" }, el("div.grid.two", size, times), words, turns);
    return [parts, el("p.muted", { "data-when": "cancelled", hidden: true }, "A cancelled session cannot be changed any more.")];
  }

  let stream = null;
  load().then(() => {
    if (left) return;
    counts(shown);
    listPeople();
    stream = follow(`${path}events`, "session", (now) => {
      counts({ ...shown, ...now });
      clearTimeout(soon);
      soon = setTimeout(listPeople, SETTLE_MS);
    });
  }).catch((error) => {
    if (left) return;
    filled.replaceChildren(notice(error.message, "bad"));
    title.textContent = "Session";
    people?.remove();
  });
  return () => { left = true; clearTimeout(soon); stream?.close(); };
}

function aboutIt(session) {
  const facts = [["When", span(session.start_time, session.end_time)], ["Where", session.location],
    ["Reserving opens", session.opens_at && moment(session.opens_at)], ["Reserving closes", session.closes_at && moment(session.closes_at)]];
  return [
    session.description && el("p.description", session.description),
    el("dl.facts", facts.filter(([, value]) => value).map(([name, value]) => el("div", el("dt", name), el("dd", value)))),
  ].filter(Boolean);
}

let sought = "";

/** A field that leaves only those in the table whose row has what is typed. */
function filter(section) {
  const box = field("Show only", { name: "only", type: "search", placeholder: "Name or e-mail", value: section.dataset.only ?? "" });
  const input = box.querySelector("input");
  const apply = () => {
    sought = section.dataset.only = input.value.trim().toLowerCase();
    section.querySelectorAll("tbody tr").forEach((row) => { row.hidden = !row.textContent.toLowerCase().includes(sought); });
  };
  input.addEventListener("input", apply);
  queueMicrotask(apply);
  return el("div.only", box);
}
