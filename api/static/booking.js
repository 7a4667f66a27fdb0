// The booking page with JavaScript: forms are sent and outcomes appear without a reload. All words come from the server.

const stay = { stream: null };

function follow() {
  stay.stream?.close();
  stay.stream = null;
  const place = document.querySelector("[data-events]");
  if (!place) return;
  const stream = (stay.stream = new EventSource(place.dataset.events));
  stream.addEventListener("part", (event) => show(stream, JSON.parse(event.data)));
}

function show(stream, part) {
  const place = document.getElementById(part.id);
  if (!place) return;
  if (part.last) stream.close();
  const before = place.dataset.shape;
  place.dataset.shape = part.shape;
  if (place.innerHTML.trim() !== part.html.trim()) {
    place.innerHTML = part.html;
    tell(place);
    place.classList.remove("ticked");
    void place.offsetWidth; // so that the animation begins again
    place.classList.add("ticked");
    if (part.id === "outcome" && before !== part.shape) focus(place);
  }
  if (part.id === "places" && before !== part.shape) offer(part.shape === "open" || part.shape === "waitlist");
}

// The form is there while one may reserve; what was typed stays.
function offer(open) {
  const booking = document.getElementById("booking");
  if (booking) booking.hidden = !open;
  else if (open) window.location.reload();
}

// Times as the reader's clock has them.
function tell(place) {
  const zone = { timeZoneName: "short" };
  const whole = { weekday: "long", day: "numeric", month: "long", year: "numeric", hour: "2-digit", minute: "2-digit" };
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
  const offline = form.querySelector("[data-offline]");
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  offline.hidden = true;
  try {
    const body = new URLSearchParams(new FormData(form));
    const answer = await fetch(form.action, { method: "POST", body, headers: { Prefer: "respond-async" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = page.querySelector("main");
    if (!main) throw new Error("no page");
    document.querySelector("main").replaceWith(main);
    document.title = page.title;
    const [here, there] = ["header a[hreflang]", "header a[hreflang]"].map((name, at) => (at ? page : document).querySelector(name));
    here.href = there.href;
    if (answer.redirected) window.history.pushState(null, "", answer.url);
    begin();
    window.scrollTo(0, 0);
    focus(main);
  } catch {
    offline.hidden = false;
    button.removeAttribute("aria-disabled");
  }
}

function begin() {
  tell(document);
  follow();
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-send]")) return;
  event.preventDefault();
  send(event.target);
});
window.addEventListener("popstate", () => window.location.reload());
window.addEventListener("pagehide", () => stay.stream?.close());
window.addEventListener("pageshow", (event) => event.persisted && begin());
begin();
const summary = document.querySelector("[data-focus][role=alert]");
summary?.focus();
