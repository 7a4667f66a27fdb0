// The frame of the console: who is signed in, which page is shown, and what of it their key allows.

import { signIn, signOut, whenSignedOut, whoIsIt } from "./api.js";
import { busy, el, field, notice, showWrong, toast } from "./dom.js";
import { nowPage } from "./now.js";
import { peoplePage } from "./people.js";
import { quarantinePage } from "./quarantine.js";
import { newSessionPage, sessionsPage } from "./sessions.js";
import { sessionPage } from "./session.js";

const page = document.getElementById("page");
const READS = ["read", "attendees", "manage"];
const PEOPLE = ["attendees", "manage"];
const PAGES = [
  { path: /^\/$/, title: "Now", in: "#/", make: nowPage },
  { path: /^\/sessions$/, title: "Sessions", in: "#/sessions", scopes: READS, make: sessionsPage },
  { path: /^\/sessions\/new$/, title: "New session", of: "#/sessions", scopes: ["manage"], make: newSessionPage },
  { path: /^\/sessions\/(\d+)$/, title: "Session", of: "#/sessions", scopes: READS, make: sessionPage },
  { path: /^\/people$/, title: "People", in: "#/people", scopes: PEOPLE, make: peoplePage },
  { path: /^\/quarantine$/, title: "Quarantine", in: "#/quarantine", make: quarantinePage },
];

let who = null;
let leave = () => {};

const may = (scopes) => !scopes || scopes.some((scope) => who.scopes.includes(scope));

/** Show the page that the address names. A page is made by a function that fills `page` and answers what to do on leaving. */
function show({ focus = true } = {}) {
  leave();
  leave = () => {};
  if (!who) return showSignIn();
  const address = location.hash.slice(1).split("?")[0] || "/";
  const found = PAGES.find((one) => one.path.test(address) && may(one.scopes));
  frame(found);
  page.replaceChildren();
  if (!found) {
    page.append(el("h1", "There is no such page"), el("p", el("a", { href: "#/" }, "To the beginning")));
  } else {
    const context = { who, may: (...scopes) => may(scopes), argument: found.path.exec(address)[1] };
    leave = found.make(page, context) ?? (() => {});
  }
  document.title = `${page.querySelector("h1")?.textContent ?? "Aforo"} · Aforo console`;
  if (focus) page.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function frame(current) {
  const nav = document.getElementById("nav");
  const here = current?.in ?? current?.of;
  nav.replaceChildren(...PAGES.filter((one) => one.in && may(one.scopes)).map((one) =>
    el("a", { href: one.in, "aria-current": one.in === here ? "page" : null }, one.title)));
  nav.hidden = false;
  document.getElementById("who").hidden = false;
  const client = document.getElementById("client");
  client.textContent = client.title = who.open ? "no key asked for" : who.client;
  document.getElementById("out").hidden = who.open;
}

function showSignIn(message) {
  document.getElementById("nav").hidden = true;
  document.getElementById("who").hidden = true;
  document.title = "Sign in · Aforo console";
  const form = el("form.card",
    el("h1", "Sign in"),
    el("p.muted", "With a key that has the scope operate. What its other scopes allow is shown."),
    message && notice(message, "warn"),
    field("Key", { name: "key", type: "password", autocomplete: "current-password", required: true, spellcheck: false,
      placeholder: "aforo_…" }),
    el("div.row.buttons", el("button", { type: "submit" }, "Sign in")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    busy(form.querySelector("button"), async () => {
      try {
        who = await signIn(form.elements.key.value);
        show();
      } catch (error) {
        form.elements.key.select();
        showWrong(form, error.fields ? error : { fields: [{ field: "key", message: error.message }] });
      }
    });
  });
  page.replaceChildren(el("div.sign-in", form));
  form.elements.key.focus();
}

document.getElementById("out").addEventListener("click", async () => {
  await signOut().catch(() => {});
  who = null;
  show();
});
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); page.focus(); });

whenSignedOut(() => {
  if (!who) return;
  who = null;
  leave();
  leave = () => {};
  showSignIn("You are signed out: the key was revoked, or the time is over.");
});
addEventListener("hashchange", () => show());

try {
  who = await whoIsIt();
  show({ focus: false });
} catch (error) {
  page.replaceChildren(notice(error.message, "bad"), el("p", el("button", { onclick: () => location.reload() }, "Try again")));
  toast(error.message, "bad");
}
