// How things go: numbers, plots, what waits in each partition, who is alive, what became of commands, and the last verify.

import { follow, get, insist } from "./api.js";
import { badge, count, el, few, lasting, liveBadge, moment, notice, plural } from "./dom.js";
import { plot } from "./plot.js";

const REFUSED = ["sold_out", "duplicate", "not_found", "closed", "not_open", "started", "session_cancelled", "too_many_seats",
  "below_reserved", "bad_times", "too_many_moves", "not_confirmed"];
const LATE_SECONDS = 5;
const words = (name) => name.replaceAll("_", " ");

export function nowPage(page) {
  const state = liveBadge();
  const trouble = el("div", { hidden: true });
  const tiles = el("dl.tiles");
  const rates = plot("Commands per second", [
    { label: "Accepted", unit: "/s", colour: "--series-2", dash: [6, 4] },
    { label: "Applied", unit: "/s", colour: "--series-1" },
  ]);
  const latencies = plot("From acceptance to outcome", [
    { label: "p99", unit: "ms", colour: "--series-3", dash: [6, 4] },
    { label: "p50", unit: "ms", colour: "--series-1" },
  ]);
  const lanes = el("section.card.stack");
  const processes = processList();
  const outcomes = el("section.card.stack");
  const verified = el("section.card.stack");
  page.append(
    el("div.row.head", el("h1", "Now"), state.shown), trouble, tiles,
    el("div.grid.two", rates.element, latencies.element),
    el("div.grid.two", lanes, processes.element), el("div.grid.two.loose", outcomes, verified),
  );

  const add = (points) => {
    rates.add(points.map((point) => [Date.parse(point.at), point.accepted, point.applied]));
    latencies.add(points.map((point) => [Date.parse(point.at), point.p99_ms, point.p50_ms]));
  };
  const render = (overview) => {
    tiles.replaceChildren(...numbers(overview));
    showLanes(lanes, overview.partitions);
    processes.show(overview.processes);
    showOutcomes(outcomes, overview.outcomes);
    showVerified(verified, overview.verified);
  };

  let stream = null;
  const stop = insist(() => get("/api/operations/"), (found) => {
    trouble.hidden = true;
    add([...found.history, found.now]);
    render(found);
    stream = follow("/api/operations/events", "operations", (overview) => { add([overview.now]); render(overview); }, state.say);
  }, (error) => {
    trouble.hidden = false;
    if (trouble.textContent !== error.message) trouble.replaceChildren(notice(error.message, "bad"));
  });
  return () => { stop(); stream?.close(); rates.close(); latencies.close(); };
}

function numbers({ now, partitions }) {
  const oldest = Math.max(0, ...partitions.map((lane) => lane.oldest_seconds));
  return [
    ["Accepted", few(now.accepted), "per second"], ["Applied", few(now.applied), "per second"],
    ["p50", few(now.p50_ms), "ms"], ["p99", few(now.p99_ms), "ms"],
    ["Waiting", count(now.waiting ?? 0), now.waiting === 1 ? "command" : "commands"], ["Oldest", now.waiting ? lasting(oldest) : "–", "waiting"],
  ].map(([name, value, unit]) => el("div.tile", el("dt", name), el("dd", el("span.value.number", value), el("span.muted.small", unit))));
}

function showLanes(card, partitions) {
  const busy = partitions.filter((lane) => lane.waiting).length;
  const most = Math.max(1, ...partitions.map((lane) => lane.waiting));
  card.replaceChildren(
    el("h2", "Partitions"),
    el("p.muted", busy ? `Commands wait in ${busy} of ${partitions.length}.` : `Nothing waits in any of ${partitions.length}.`),
    el("ul.lanes", partitions.map((lane) => {
      const bar = el("span.level");
      bar.style.inlineSize = `${lane.waiting ? Math.max(4, (100 * lane.waiting) / most) : 0}%`;
      return el("li", { className: lane.oldest_seconds > LATE_SECONDS ? "late" : "" },
        el("span.muted.small", `Partition ${lane.partition}`),
        el("span.number", count(lane.waiting)),
        el("span.muted.small.number", lane.waiting ? lasting(lane.oldest_seconds) : "–"), el("span.track", { "aria-hidden": "true" }, bar));
    })),
  );
}

/** Workers and sweepers. What is told every second goes into the same table, so that whoever stands in it stays there. */
function processList() {
  const lacking = el("div", { hidden: true });
  const list = table("Workers and sweepers", ["Process", "Last sign of life", "Running for"], []);
  list.classList.add("processes");
  const element = el("section.card.stack", el("h2", "Workers and sweepers"), lacking, list);
  list.hidden = true;
  function show(processes) {
    const missing = ["worker", "sweeper"].filter((kind) => !processes.some((one) => one.kind === kind && !one.late));
    const text = `No ${missing.join(" and no ")} gives a sign of life.`;
    if (lacking.textContent !== text) lacking.replaceChildren(notice(text, "warn"));
    lacking.hidden = !missing.length;
    list.hidden = !processes.length;
    list.querySelector("tbody").replaceChildren(...processes.map((one) => el("tr",
      el("td.name", one.kind, " ", el("span.muted", one.name)),
      el("td", one.late ? badge(`silent for ${lasting(one.silent_seconds)}`, "bad") : badge(`${lasting(one.silent_seconds)} ago`, "good")),
      el("td", { title: moment(one.since) }, lasting((Date.parse(one.last_sign_of_life) - Date.parse(one.since)) / 1000)))));
  }
  return { element, show };
}

function showOutcomes(card, outcomes) {
  const total = outcomes.reduce((sum, one) => sum + one.count, 0);
  card.replaceChildren(el("h2", "Outcomes"),
    el("p.muted", total ? `Of ${plural(total, "command")} in the last ten minutes.` : "Nothing was applied in the last ten minutes."));
  if (!total) return;
  card.append(el("ul.shares", outcomes.map((one) => {
    const bar = el("span.level");
    bar.style.inlineSize = `${Math.max(0.5, (100 * one.count) / total)}%`;
    const kind = one.outcome === "quarantined" ? "bad" : REFUSED.includes(one.outcome) ? "warn" : "good";
    return el("li", { className: kind }, el("span", el("b", words(one.outcome)), el("span.muted.small", ` ${words(one.kind)}`)),
      el("span.number", count(one.count)), el("span.track", { "aria-hidden": "true" }, bar));
  })));
}

function showVerified(card, verified) {
  card.replaceChildren(el("h2", "Last verify"));
  if (!verified) {
    card.append(el("p.muted", "The ledger was not verified yet: run ", el("code", "aforo verify"), " beside the traffic."));
    return;
  }
  card.append(
    el("div.row", verified.ok ? badge("no difference", "good") : badge(plural(verified.difference_count, "difference"), "bad"),
      el("span.muted", moment(verified.at))),
    el("p", `${plural(verified.jobs, "ledger row")} of ${plural(verified.sessions, "session")} replayed in ${lasting(verified.seconds)}, `
      + `${plural(verified.reservations, "reservation")} compared.`));
  if (verified.differences.length) card.append(el("ul.differences", verified.differences.map((one) => el("li", one))));
}

/** A table that scrolls by itself. A head that begins with # is of numbers. */
export function table(name, heads, rows) {
  return el("div.scroll", { tabIndex: 0, role: "region", "aria-label": name },
    el("table", el("thead", el("tr", heads.map((head) => (head.startsWith("#")
      ? el("th.number", { scope: "col" }, head.slice(1)) : el("th", { scope: "col" }, head))))), el("tbody", rows)));
}
