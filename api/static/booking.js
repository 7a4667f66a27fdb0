// The booking page with JavaScript: forms are sent and outcomes appear without a reload. All words come from the server.

const LOST_MS = 3000; // without a connection, before that is said
const AGAIN_MS = [2000, 30000]; // between two looks at the page where no stream is to be had: at first, and at most
const TICK_MS = 5000;
const SLEPT_MS = 15000; // without a tick: the machine or the window slept, and its stream may be dead
const SAID_MS = 10000; // between two announcements of places that only tick

const stay = { stream: null, lost: null, again: null, tries: 0, saying: null, saidAt: -SAID_MS, ticked: performance.now() };
const shown = new WeakMap(); // what the server sent last for an element, which times in it do not show any more

const followed = () => document.querySelector("[data-events]");

function follow() {
  leave();
  const place = followed();
  if (!place) {
    connected();
    return;
  }
  const stream = (stay.stream = new EventSource(place.dataset.events));
  stream.addEventListener("open", connected);
  stream.addEventListener("part", (event) => {
    connected();
    show(JSON.parse(event.data));
  });
  stream.addEventListener("error", () => {
    stay.lost ??= setTimeout(() => tellLost(true), LOST_MS);
    if (stream.readyState === EventSource.CLOSED && stream === stay.stream) lookLater(); // the browser will not try again
  });
}

function leave() {
  stay.stream?.close();
  stay.stream = null;
  clearTimeout(stay.again);
}

function connected() {
  clearTimeout(stay.lost);
  stay.lost = null;
  stay.tries = 0;
  tellLost(false);
}

function tellLost(isLost) {
  const line = document.getElementById("lost");
  if (line.hidden !== isLost) return;
  line.hidden = !isLost;
  say(isLost ? line.textContent : "");
}

function lookLater() {
  clearTimeout(stay.again);
  const wait = Math.min(AGAIN_MS[1], AGAIN_MS[0] * 2 ** stay.tries);
  stay.tries += 1;
  stay.again = setTimeout(look, wait * (0.5 + Math.random()));
}

// The page itself tells what its stream would have told.
async function look() {
  const place = followed();
  if (!place) return;
  try {
    const { answer, page, main } = await load(window.location.href);
    const fresh = page.getElementById(place.id);
    if (answer.ok && fresh) {
      const { events, shape } = fresh.dataset;
      show({ id: place.id, html: fresh.innerHTML, shape, last: !events });
      follow();
    } else if (answer.status === 404 && main) replace(page, main);
    else lookLater();
  } catch {
    lookLater();
  }
}

async function load(address, options) {
  const answer = await fetch(address, options);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  return { answer, page, main: page.querySelector("main") };
}

function show(part) {
  const place = document.getElementById(part.id);
  if (!place) return;
  const isNew = place.dataset.shape !== part.shape;
  place.dataset.shape = part.shape;
  if (part.last) {
    delete place.dataset.events;
    leave();
    connected();
  }
  if (part.about) put(document.getElementById("about"), part.about);
  if (put(place, part.html, isNew)) {
    place.classList.remove("ticked");
    void place.offsetWidth; // so that the animation begins again
    place.classList.add("ticked");
    if (part.id === "outcome") entitle(place);
    say([...place.querySelectorAll("p")].map((line) => line.textContent.trim()).join(" "), isNew);
  }
  if (part.id === "places" && isNew) offer(part.shape === "open" || part.shape === "waitlist", place);
}

// Puts markup into an element, if it is other than what is there. The focus stays where it was; what is new takes it from nowhere.
function put(place, html, isNew = false) {
  if ((shown.get(place) ?? place.innerHTML).trim() === html.trim()) return false;
  const held = document.activeElement;
  const isIdle = !held || held === document.body || held.id === "content";
  const isInside = place.contains(held);
  const address = isInside ? held.getAttribute("href") : null;
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  const heading = place.querySelector("h1");
  if (heading?.isEqualNode(fresh.content.querySelector("h1"))) { // it stays, so that nobody hears it again and again
    fresh.content.querySelector("h1").remove();
    while (heading.nextSibling) heading.nextSibling.remove();
    place.append(fresh.content);
  } else place.replaceChildren(fresh.content);
  shown.set(place, html);
  tell(place);
  const again = address && [...place.querySelectorAll("a")].find((link) => link.getAttribute("href") === address);
  if (again) again.focus();
  else if ((isInside && !place.contains(document.activeElement)) || (isIdle && isNew)) focus(place);
  return true;
}

// The form is there while one may reserve; what was typed stays.
function offer(open, place) {
  const booking = document.getElementById("booking");
  if (!booking) {
    if (open) window.location.reload();
    return;
  }
  const isLeft = !open && booking.contains(document.activeElement);
  booking.hidden = !open;
  if (isLeft) place.focus();
}

// For those who listen: at once, or with the next that is worth it.
function say(text, atOnce = true) {
  clearTimeout(stay.saying);
  const wait = atOnce ? 0 : Math.max(0, stay.saidAt + SAID_MS - performance.now());
  stay.saying = setTimeout(() => {
    stay.saidAt = performance.now();
    document.getElementById("said").textContent = text;
  }, wait);
}

// What became of a request stands in the window's title too, for whoever waits in another one.
function entitle(place) {
  const session = document.querySelector("main h2:not(#outcome h2)");
  document.title = [place.querySelector("h1"), session].map((one) => one.textContent).join(" · ");
}

// Times as the reader's clock has them.
function tell(place) {
  const zone = { timeZoneName: "short" };
  const whole = { weekday: "long", day: "numeric", month: "long", year: "numeric", hour: "numeric", minute: "2-digit" };
  const words = new Intl.DateTimeFormat(document.documentElement.lang === "es" ? "es" : "en-GB", { ...whole, ...zone });
  for (const time of place.querySelectorAll("time[data-moment]")) {
    const begin = new Date(time.dateTime);
    time.textContent = time.dataset.end ? words.formatRange(begin, new Date(time.dataset.end)) : words.format(begin);
  }
}

function focus(place) {
  place.querySelector("[data-focus]")?.focus();
}

async function send(form) {
  const button = form.querySelector("button[type=submit]");
  const trouble = form.querySelector("[data-offline]");
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  trouble.hidden = true;
  try {
    const body = new URLSearchParams(new FormData(form));
    const { answer, page, main } = await load(form.action, { method: "POST", body, headers: { Prefer: "respond-async" } });
    if (!main) throw new Error("no page");
    const isRefused = !answer.ok && answer.status !== 404 && !main.querySelector("form");
    if (isRefused) {
      refuse(main.querySelector("[data-detail]").textContent);
      return;
    }
    if (answer.redirected) window.history.pushState(null, "", answer.url);
    replace(page, main);
  } catch {
    refuse(trouble.dataset.offline);
  }

  // What was filled in stays, to be sent again.
  function refuse(text) {
    trouble.textContent = text;
    trouble.hidden = false;
    button.removeAttribute("aria-disabled");
  }
}

function replace(page, main) {
  document.querySelector("main").replaceWith(main);
  document.title = page.title;
  document.querySelector("header a[hreflang]").href = page.querySelector("header a[hreflang]").href;
  begin();
  window.scrollTo(0, 0);
  focus(main);
}

function begin() {
  for (const place of document.querySelectorAll("#places, #outcome, #about")) shown.set(place, place.innerHTML);
  const outcome = document.getElementById("outcome");
  if (outcome) entitle(outcome);
  tell(document);
  follow();
}

// A window that slept is brought up to date as soon as somebody looks at it.
function tick() {
  const now = performance.now();
  if (document.hidden) return;
  if (now - stay.ticked > SLEPT_MS) follow();
  stay.ticked = now;
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-send]")) return;
  event.preventDefault();
  send(event.target);
});
window.addEventListener("popstate", () => window.location.reload());
window.addEventListener("pagehide", leave);
window.addEventListener("pageshow", (event) => event.persisted && follow());
window.addEventListener("online", follow);
document.addEventListener("visibilitychange", tick);
setInterval(tick, TICK_MS);
begin();
document.querySelector("[data-focus][role=alert]")?.focus();
