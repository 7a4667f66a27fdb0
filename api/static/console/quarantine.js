// What was set aside: commands that ended their workers, to look at and to send again, and entries that were no commands.

import { call, get } from "./api.js";
import { badge, busy, confirmed, el, moment, notice, swap, toast } from "./dom.js";
import { table } from "./now.js";

const AGAIN_MS = 1500; // while something that was sent again has no outcome
const LOOK_MS = 10000;

export function quarantinePage(page) {
  const commands = el("div.stack", el("p.muted", "Loading …"));
  const unreadable = el("div.stack");
  page.append(el("h1", "Quarantine"),
    el("p.muted", "A command that ended its workers three times is set aside, so that those behind it go on. It has its place in the ledger; it can be sent again as a new command."),
    commands, unreadable);
  let left = false;
  let soon = null;
  let entriesShown = "[]";
  const cards = new Map();

  async function load() {
    try {
      const found = await get("/api/quarantine/");
      if (left) return;
      show(found);
      const isOpen = found.commands.some((one) => one.sent_again && one.sent_again.outcome === null);
      soon = setTimeout(load, isOpen ? AGAIN_MS : LOOK_MS);
    } catch (error) {
      if (left) return;
      cards.clear();
      commands.replaceChildren(notice(error.message, "bad"));
      soon = setTimeout(load, LOOK_MS);
    }
  }
  async function changed() {
    clearTimeout(soon);
    await load();
  }
  /** What has not changed stays as it is, opened or not, with the focus in it. */
  function show(found) {
    const seen = new Map(found.commands.map((one) => [one.job, JSON.stringify(one)]));
    for (const one of found.commands) {
      const was = cards.get(one.job);
      if (was?.text === seen.get(one.job)) continue;
      const fresh = card(one, changed);
      cards.set(one.job, { text: seen.get(one.job), element: fresh });
      if (was) swap(was.element, fresh, "button");
    }
    for (const job of cards.keys()) if (!seen.has(job)) cards.delete(job);
    const wanted = found.commands.length ? found.commands.map((one) => cards.get(one.job).element) : null;
    if (!wanted) commands.replaceChildren(notice("No command is in quarantine.", "good"));
    else if (wanted.some((one, at) => commands.children[at] !== one) || commands.children.length > wanted.length) commands.replaceChildren(...wanted);
    const listed = JSON.stringify(found.unreadable);
    if (listed !== entriesShown) unreadable.replaceChildren(...entries(found.unreadable));
    entriesShown = listed;
  }
  load();
  return () => { left = true; clearTimeout(soon); };
}

function card(one, changed) {
  const again = one.sent_again;
  const facts = [["Session", el("a", { href: `#/sessions/${one.session}` }, `${one.session}, number ${one.seq} in its order`)],
    ["Client", one.client], ["Accepted", moment(one.accepted_at)], ["Set aside", moment(one.set_aside_at)], ["Job", el("code", one.job)]];
  const send = el("button", { type: "button", onclick: async (event) => {
    const detail = "It gets a new place, behind all that were accepted meanwhile. If it ends its workers again, it is set aside again.";
    if (!(await confirmed("Send it again?", detail, "Send again"))) return;
    await busy(event.target, async () => {
      try {
        await call("POST", `/api/quarantine/${one.job}/again`, {});
        toast("It is sent again.");
      } catch (error) {
        toast(error.message, "bad");
      }
      await changed();
    });
  } }, "Send again …");
  return el("article.card.stack", { tabIndex: -1 },
    el("div.row.head", el("h2", one.kind.replaceAll("_", " ")),
      again ? badge(again.outcome === null ? "sent again" : `sent again: ${again.outcome.replaceAll("_", " ")}`,
        again.outcome === "quarantined" ? "bad" : "info") : badge("set aside", "bad")),
    el("dl.facts", facts.map(([name, value]) => el("div", el("dt", name), el("dd", value)))),
    el("details", el("summary", "What it asks for"),
      el("pre", { tabIndex: 0, role: "region", "aria-label": "What it asks for" }, JSON.stringify(one.arguments, null, 2))),
    again ? null : el("div.row", send));
}

function entries(unreadable) {
  if (!unreadable.length) return [];
  const rows = unreadable.map((one) => el("tr", el("td.number", String(one.partition)), el("td", el("code", one.entry)), el("td", moment(one.set_aside_at))));
  return [el("h2", "Entries that were no commands"),
    el("p.muted", "Something else than this service wrote into a mailbox. ", el("code", "aforo quarantine list"), " shows why."),
    el("div.card", table("Entries that were no commands", ["#Partition", "Entry", "Set aside"], rows))];
}
