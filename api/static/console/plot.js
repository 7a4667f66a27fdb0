// A plot over the last minutes, in the colours of the page. Points are [milliseconds, value, value]; what is too old goes.

import { el, few } from "./dom.js";

const SHOWN_MS = 600_000;
const HEIGHT = 220;

/** `series`: [{ label, unit, colour }]. Answers the element and `add(points)`. */
export function plot(title, series) {
  const holder = el("div.plot", { role: "img", "aria-label": `${title}: nothing yet` });
  const element = el("section.card.stack", el("h2", title), holder);
  let rows = [];
  let chart = null;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function options() {
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: `12px ${colour("--font")}` };
    return {
      width: holder.clientWidth, height: HEIGHT, padding: [12, 30, 0, 0],
      cursor: { drag: { x: false, y: false }, points: { size: 7 } },
      legend: { live: true },
      scales: { x: { time: true }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [{ ...axis, space: 70, values: (_, ticks) => ticks.map(clockOf) },
        { ...axis, size: 56, values: (_, ticks) => ticks.map((tick) => few(tick)) }],
      series: [{ label: "Time", value: (_, at) => (at === null ? "–" : clockOf(at)) }, ...series.map(({ label, unit, colour: name, dash }) => ({
        label, stroke: colour(name), width: 2, dash, spanGaps: false, points: { show: () => rows.length < 2 },
        value: (_, value) => few(value, unit),
      }))],
    };
  }

  const columns = () => [rows.map((row) => row[0] / 1000), ...series.map((_, index) => rows.map((row) => row[index + 1]))];

  function draw() {
    chart?.destroy();
    chart = holder.clientWidth ? new window.uPlot(options(), columns(), holder) : null;
    if (chart) tellNewest();
  }

  /** Below the plot stand the newest values, unless somebody points at others. */
  function tellNewest() {
    if (rows.length && (chart.cursor.left ?? -1) < 0) chart.setLegend({ idx: rows.length - 1 });
  }

  const resized = new ResizeObserver(() => {
    if (chart) chart.setSize({ width: holder.clientWidth, height: HEIGHT });
    else draw();
  });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  resized.observe(holder);
  scheme.addEventListener("change", draw);

  return {
    element,
    add(points) {
      const newest = rows.at(-1)?.[0] ?? 0;
      rows.push(...points.filter((point) => point[0] > newest));
      const oldest = (rows.at(-1)?.[0] ?? 0) - SHOWN_MS;
      rows = rows.filter((row) => row[0] >= oldest);
      const last = rows.at(-1);
      if (last) {
        const said = series.map(({ label, unit }, index) => `${label} ${few(last[index + 1], unit)}`).join(", ");
        holder.setAttribute("aria-label", `${title} over the last ten minutes; now ${said}`);
      }
      if (!chart) return;
      chart.setData(columns());
      tellNewest();
    },
    close() {
      resized.disconnect();
      scheme.removeEventListener("change", draw);
      chart?.destroy();
    },
  };
}

function clockOf(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}
