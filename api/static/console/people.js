// Finding people by their address, correcting a name, and checking them in.

import { command, get } from "./api.js";
import { badge, busy, clock, el, field, notice, showWrong, span, toast } from "./dom.js";
import { table } from "./now.js";

const STATUS = { confirmed: ["confirmed", "good"], waitlisted: ["waiting", "warn"], cancelled: ["cancelled", ""] };

export function peoplePage(page) {
  const form = el("form.inline.search", { role: "search", noValidate: true },
    field("E-mail address", { name: "email", type: "email", required: true, autocomplete: "off", placeholder: "ana@example.org" }),
    el("label.check", el("input", { type: "checkbox", name: "all" }), "Cancelled ones too"),
    el("div.row.buttons", el("button", { type: "submit" }, "Find")));
  const found = el("div.stack", { "aria-live": "polite" }, el("p.muted", "Whose reservations are you looking for?"));
  page.append(el("h1", "People"), form, found);
  let left = false;

  async function load() {
    const words = new URLSearchParams({ email: form.elements.email.value.trim(), status: form.elements.all.checked ? "all" : "live", page_size: 100 });
    try {
      const { results, next } = await get(`/api/reservations/?${words}`);
      if (left) return;
      found.replaceChildren(results.length ? el("div.card", peopleTable(results, { changed: load, where: true })) : el("p.muted", "Nobody has reserved with this address."));
      if (next) found.append(el("p.muted", "The newest hundred are shown."));
    } catch (error) {
      if (left) return;
      found.replaceChildren();
      if (error.fields) showWrong(form, error);
      else found.append(notice(error.message, "bad"));
    }
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    form.querySelectorAll(".wrong").forEach((shown) => shown.remove());
    form.elements.email.removeAttribute("aria-invalid");
    busy(form.querySelector("button"), load);
  });
  form.elements.email.focus();
  return () => { left = true; };
}

/** Reservations as a table, each with what can be done about it. `where`: with its session. */
export function peopleTable(reservations, { changed, where }) {
  const heads = ["Name", "E-mail", ...(where ? ["Session"] : []), "Seats", "Status", "At the entrance"];
  const rows = reservations.map((one) => row(one, changed, where));
  const shown = table("Reservations", heads, rows);
  shown.classList.add("people");
  return shown;
}

function row(one, changed, where) {
  const session = one.session_details;
  const isOver = one.status === "cancelled";
  const name = el("td.name", { "data-label": "Name" });
  showName(name, one, changed);
  return el("tr", name, el("td.email", { "data-label": "E-mail" }, one.email),
    where && el("td.where", { "data-label": "Session" }, el("a", { href: `#/sessions/${one.session}` }, session.title),
      el("br"), el("span.muted.small", span(session.start_time, session.end_time))),
    el("td.number", { "data-label": "Seats" }, String(one.seats)),
    el("td", { "data-label": "Status" }, badge(...STATUS[one.status])),
    el("td.entrance", { "data-label": "At the entrance" }, isOver ? el("span.muted", "–") : entrance(one, changed)));
}

function showName(cell, one, changed) {
  const edit = el("button.quiet.slim", { type: "button", "aria-label": `Correct the name ${one.name}`, onclick: () => {
    const form = el("form.inline.rename",
      el("label.unseen", { htmlFor: `name-${one.id}` }, "Name"),
      el("input", { id: `name-${one.id}`, name: "name", value: one.name, maxLength: 100, required: true }),
      el("div.row.buttons", el("button.slim", { type: "submit" }, "Save"),
        el("button.quiet.slim", { type: "button", onclick: () => { showName(cell, one, changed); cell.querySelector("button").focus(); } }, "Leave it")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      amend(form.querySelector("button"), one, { name: form.elements.name.value }, changed, form);
    });
    cell.replaceChildren(form);
    form.elements.name.select();
  } }, "Correct");
  cell.replaceChildren(...(one.status === "cancelled" ? [one.name] : [el("span.row", el("span", one.name), edit)]));
}

function entrance(one, changed) {
  if (one.status === "waitlisted") return el("span.muted.small", "has no place yet");
  const button = (text, here, quiet) => el(quiet ? "button.quiet.slim" : "button.slim", { type: "button", "aria-label": `${text}: ${one.name}`,
    onclick: (event) => amend(event.target, one, { checked_in: here }, changed) }, text);
  if (!one.checked_in_at) return button("Check in", true, false);
  return el("span.row", badge(`here since ${clock(one.checked_in_at)}`, "good"), button("Undo", false, true));
}

function amend(button, one, body, changed, form) {
  return busy(button, async () => {
    try {
      await command("PATCH", `/api/reservations/${one.id}`, body);
      toast(body.name === undefined ? `${one.name} is ${body.checked_in ? "checked in" : "not checked in any more"}.` : "The name was corrected.");
      await changed();
    } catch (error) {
      if (form && error.fields) showWrong(form, error);
      else toast(error.message, "bad");
    }
  });
}
