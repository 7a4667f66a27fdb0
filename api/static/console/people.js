// Finding people by their address, correcting a name, and checking them in.

import { command, get } from "./api.js";
import { badge, busy, clearWrong, clock, el, field, moment, notice, plural, showWrong, span, swap, toast } from "./dom.js";
import { table } from "./now.js";

const STATUS = { confirmed: ["confirmed", "good"], waitlisted: ["waiting", "warn"], cancelled: ["cancelled", ""] };

export function peoplePage(page) {
  const form = el("form.inline.search", { role: "search", noValidate: true },
    field("E-mail address", { name: "email", type: "email", required: true, autocomplete: "off", placeholder: "ana@example.org" }),
    el("label.check", el("input", { type: "checkbox", name: "all" }), "Cancelled ones too"),
    el("div.row.buttons", el("button", { type: "submit" }, "Find")));
  const said = el("p.muted", { role: "status" }, "Whose reservations are you looking for?");
  const trouble = el("div");
  const list = peopleTable({ changed: load, where: true });
  const card = el("div.card", { hidden: true }, list.element);
  page.append(el("h1", "People"), form, said, trouble, card);
  let left = false;

  async function load() {
    const words = new URLSearchParams({ email: form.elements.email.value.trim(), status: form.elements.all.checked ? "all" : "live", page_size: 100 });
    try {
      const { results, next } = await get(`/api/reservations/?${words}`);
      if (left) return;
      trouble.replaceChildren();
      said.textContent = !results.length ? "Nobody has reserved with this address."
        : next ? "The newest hundred reservations are shown." : `${plural(results.length, "reservation")} found.`;
      card.hidden = !results.length;
      list.show(results);
    } catch (error) {
      if (left) return;
      card.hidden = true;
      said.textContent = "";
      if (error.fields) showWrong(form, error);
      else trouble.replaceChildren(notice(error.message, "bad"));
    }
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearWrong(form);
    busy(form.querySelector("button"), load);
  });
  form.elements.email.focus();
  return () => { left = true; };
}

/** Reservations as a table, each with what can be done about it. `where`: with its session. Answers the element, and `show`, which
 *  leaves alone what is as it was, so that whoever types or stands in it is not disturbed by what happens meanwhile. */
export function peopleTable({ changed, where }) {
  const heads = ["Name", "E-mail", ...(where ? ["Session"] : []), "#Seats", "Status", "At the entrance"];
  const element = table("Reservations", heads, []);
  element.classList.add("people");
  const body = element.querySelector("tbody");
  const rows = new Map();

  function show(reservations) {
    const wanted = new Set(reservations.map((one) => one.id));
    for (const [id, { element: gone }] of rows) if (!wanted.has(id)) { gone.remove(); rows.delete(id); }
    let next = body.firstElementChild;
    for (const one of reservations) {
      const was = rows.get(one.id);
      const text = JSON.stringify(one);
      if (was?.text !== text && !was?.element.querySelector("form.rename:not(.done)")) {
        const fresh = row(one, changed, where);
        rows.set(one.id, { text, element: fresh });
        if (was) {
          if (next === was.element) next = fresh;
          swap(was.element, fresh, "button");
        }
      }
      const shown = rows.get(one.id).element;
      if (shown === next) next = next.nextElementSibling;
      else body.insertBefore(shown, next);
    }
  }
  return { element, show };
}

function row(one, changed, where) {
  const session = one.session_details;
  const isOver = one.status === "cancelled";
  const name = el("td.name", { "data-label": "Name" });
  showName(name, one, changed);
  return el("tr", name, el("td.email", { "data-label": "E-mail" }, one.email),
    where && el("td.where", { "data-label": "Session" }, el("a", { href: `#/sessions/${one.session}`, dir: "auto" }, session.title),
      el("br"), el("span.muted.small", span(session.start_time, session.end_time))),
    el("td.number", { "data-label": "Seats" }, String(one.seats)),
    el("td", { "data-label": "Status" }, badge(...STATUS[one.status])),
    el(one.checked_in_at ? "td.entrance.here" : "td.entrance", { "data-label": "At the entrance" }, isOver ? el("span.muted", "–") : entrance(one, changed)));
}

function showName(cell, one, changed) {
  const edit = el("button.quiet.slim", { type: "button", "aria-label": `Correct the name ${one.name}`, onclick: () => {
    const leave = () => { showName(cell, one, changed); cell.querySelector("button").focus(); };
    const form = el("form.inline.rename", { onkeydown: (event) => { if (event.key === "Escape") leave(); } },
      el("label.unseen", { htmlFor: `name-${one.id}` }, "Name"),
      el("input", { id: `name-${one.id}`, name: "name", value: one.name, maxLength: 100, required: true, dir: "auto" }),
      el("div.row.buttons", el("button.slim", { type: "submit" }, "Save"), el("button.quiet.slim", { type: "button", onclick: leave }, "Leave it")));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (await amend(form.querySelector("button"), one, { name: form.elements.name.value }, changed, form) && form.isConnected) leave();
    });
    cell.replaceChildren(form);
    form.elements.name.select();
  } }, "Correct");
  cell.replaceChildren(...(one.status === "cancelled" ? [el("bdi", one.name)] : [el("span.row", el("bdi", one.name), edit)]));
}

function entrance(one, changed) {
  if (one.status === "waitlisted") return el("span.muted.small", "has no place yet");
  const button = (text, here, quiet) => el(quiet ? "button.quiet.slim" : "button.slim", { type: "button", "aria-label": `${text}: ${one.name}`,
    onclick: (event) => amend(event.currentTarget, one, { checked_in: here }, changed) }, text);
  if (!one.checked_in_at) return button("Check in", true, false);
  const isToday = new Date(one.checked_in_at).toDateString() === new Date().toDateString();
  const since = isToday ? clock(one.checked_in_at) : moment(one.checked_in_at);
  return el("span.row", badge(`here since ${since}`, "good"), button("Undo", false, true));
}

/** Change a reservation. Whether that went well. */
function amend(button, one, body, changed, form) {
  return busy(button, async () => {
    if (form) clearWrong(form);
    try {
      await command("PATCH", `/api/reservations/${one.id}`, body);
    } catch (error) {
      if (form && error.fields) showWrong(form, error);
      else toast(error.message, "bad");
      return false;
    }
    toast(body.name === undefined ? `${one.name} is ${body.checked_in ? "checked in" : "not checked in any more"}.` : "The name was corrected.");
    form?.classList.add("done");
    await changed().catch((error) => toast(error.message, "bad"));
    return true;
  });
}
