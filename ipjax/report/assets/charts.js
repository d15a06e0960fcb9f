// Draws the charts from the page's data (see charts.py): planes, lines, forests, and a choice among sets of them.
// Points tell their numbers to the pointer and to the keyboard: one Tab stop a panel, arrow keys from point to point.
"use strict";
const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function html(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function coloured(node, colour) {
  node.style.setProperty("--c", `var(--${colour})`);
  return node;
}

const known = (values) => values.filter((v) => v !== null && v !== undefined);

function linear([low, high], [start, end]) {
  return (value) => start + ((value - low) / (high - low || 1)) * (end - start);
}

function padded(values, { zero = false, margin = 0.07 } = {}) {
  let low = Math.min(...values, zero ? 0 : Infinity), high = Math.max(...values, zero ? 0 : -Infinity);
  const room = (high - low || 1) * margin;
  return [zero && low === 0 ? 0 : low - room, zero && high === 0 ? 0 : high + room];
}

function ticksOf([low, high], count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push([i * step, (i * step).toFixed(digits).replace("-", "−")]);
  return found;
}

// Frame, ticks and labels of a panel; [x0, y0, x1, y1] is its inside, y0 at the bottom.
function axes(panel, x, y, chart, [x0, y0, x1, y1]) {
  const group = svg("g", { "aria-hidden": "true" });
  for (const [value, text] of ticksOf(y.domain, 5)) {
    group.append(svg("line", { class: "axis", x1: x0, x2: x1, y1: y.at(value), y2: y.at(value) }));
    group.append(svg("text", { x: x0 - 7, y: y.at(value) + 3.5, "text-anchor": "end" }, text));
  }
  if (y.domain[0] < 0 && y.domain[1] > 0) group.append(svg("line", { class: "zero", x1: x0, x2: x1, y1: y.at(0), y2: y.at(0) }));
  if (chart.x.ticks) {
    const every = Math.ceil(11 / (x.at(1) - x.at(0))); // of many layers, as many names as there is room for
    chart.x.ticks.forEach((name, i) => {
      if (i % every) return;
      const label = svg("text", { transform: `translate(${x.at(i) + 3},${y0 + 13}) rotate(-52)`, "text-anchor": "end" }, name);
      group.append(label);
    });
  } else {
    for (const [value, text] of ticksOf(x.domain, 5)) {
      group.append(svg("line", { class: "axis", x1: x.at(value), x2: x.at(value), y1: y0, y2: y0 + 5 }));
      group.append(svg("text", { x: x.at(value), y: y0 + 18, "text-anchor": "middle" }, text));
    }
    group.append(svg("text", { x: (x0 + x1) / 2, y: y0 + 36, "text-anchor": "middle" }, chart.x.label));
  }
  group.append(svg("text", { x: x0 - 30, y: y1 - 12 }, chart.y.label));
  panel.append(group);
}

function pathOf(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");
}

// A mark that tells its lines to pointer and keyboard.
function spoken(mark, tip, hit) {
  const group = svg("g", { class: "point", role: "img", tabindex: "-1", "aria-label": tip.filter(Boolean).join(", ") }, hit, mark);
  group.tip = tip.filter(Boolean);
  return group;
}

function panelOf(width, height, label) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${label}. Arrow keys go from point to point.` });
}

// One Tab stop: the first point; arrows go on from there.
function walkable(panel) {
  const points = [...panel.querySelectorAll(".point")];
  points[0]?.setAttribute("tabindex", "0");
  panel.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const to = event.key === "Home" ? 0 : event.key === "End" ? points.length - 1 : points.indexOf(document.activeElement) + step;
    if (event.key === "Escape") hideTip();
    if (!points[to]) return;
    event.preventDefault();
    for (const point of points) point.setAttribute("tabindex", "-1");
    points[to].setAttribute("tabindex", "0");
    points[to].focus({ preventScroll: true });
  });
  return panel;
}

const tip = document.getElementById("tip");
let shown = null; // the point that tells

function showTip(point) {
  shown = point;
  tip.replaceChildren(...point.tip.map((line) => html("div", {}, line)));
  tip.hidden = false;
  const at = (point.querySelector(".dot, .cross, .bar-mark") || point).getBoundingClientRect(), own = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, at.x + at.width / 2 - own.width / 2), document.documentElement.clientWidth - own.width - 8);
  tip.style.left = `${left}px`;
  tip.style.top = `${at.y - own.height - 10 > 4 ? at.y - own.height - 10 : at.y + at.height + 10}px`;
}

function hideTip() {
  shown = null;
  tip.hidden = true;
}

for (const [on, off] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
  document.addEventListener(on, (event) => event.target.closest?.(".point")?.tip && showTip(event.target.closest(".point")));
  document.addEventListener(off, (event) => event.target.closest?.(".point") && hideTip());
}
document.addEventListener("scroll", () => shown && showTip(shown), { passive: true });

function keyOf(series) {
  const icon = coloured(svg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" }), series.colour);
  if (series.style === "crosses") icon.append(svg("path", { class: "cross", d: "M9,1l8,8M17,1l-8,8" }));
  else if (series.style === "bars") icon.append(svg("rect", { class: "bar-mark", x: 6, y: 0, width: 14, height: 10 }));
  else icon.append(svg("line", { class: "path", x1: 0, x2: 26, y1: 5, y2: 5 }), svg("circle", { class: "dot", cx: 13, cy: 5, r: 3.4 }));
  return html("li", {}, icon, series.name);
}

function keysOf(entries, notes = []) {
  return html("ul", { class: "keys" }, ...entries.map(keyOf), ...notes.map((note) => html("li", {}, note)));
}

function titled(title, ...nodes) {
  const figure = html("figure");
  if (title) figure.append(html("figcaption", {}, title));
  figure.append(...nodes);
  return figure;
}

// Lines, bars and crosses over layers or over a number.
function lines(chart, width, label) {
  const ticks = chart.x.ticks, longest = ticks ? Math.max(...ticks.map((t) => t.length)) : 0;
  const bottom = ticks ? 24 + 4.9 * longest : 44;
  const height = Math.round(Math.min(300, Math.max(200, width * 0.55))) + bottom;
  const box = [44, height - bottom, width - 8, 26];
  const points = chart.series.flatMap((s) => s.points);
  const y = { domain: padded(known(points.flatMap((p) => [p.v, p.l, p.h, p.n])), { zero: true }) };
  const x = { domain: ticks ? [-0.6, ticks.length - 0.4] : padded(chart.x.range, { margin: 0.03 }) };
  x.at = linear(x.domain, [box[0], box[2]]);
  y.at = linear(y.domain, [box[1], box[3]]);
  const panel = panelOf(width, height, chart.title || label);
  axes(panel, x, y, chart, box);
  const marks = [], radius = ticks ? Math.min(3.2, 1 + 0.25 * (x.at(1) - x.at(0))) : 3.2; // smaller where layers are many
  for (const series of chart.series) {
    const group = coloured(svg("g"), series.colour), style = series.style || "line";
    const at = series.points.map((p) => [x.at(p.x), y.at(p.v)]);
    const ends = series.points.filter((p) => known([p.l, p.h]).length === 2);
    const nulls = series.points.filter((p) => known([p.n]).length);
    if (style === "line" || style === "quiet") {
      if (ends.length > 1) {
        const outline = [...ends.map((p) => [x.at(p.x), y.at(p.h)]), ...ends.reverse().map((p) => [x.at(p.x), y.at(p.l)])];
        group.append(svg("path", { class: "band", d: `${pathOf(outline)}Z` }));
      }
      group.append(svg("path", { class: "path", d: pathOf(at) }));
      if (nulls.length) group.append(svg("path", { class: "null", d: pathOf(nulls.map((p) => [x.at(p.x), y.at(p.n)])) }));
    }
    const bar = Math.min(26, ((box[2] - box[0]) / (ticks ? ticks.length : 10)) * 0.62);
    series.points.forEach((p, i) => {
      const [px, py] = at[i], hit = svg("circle", { class: "hit", cx: px, cy: py, r: 8 });
      let mark = svg("circle", { class: "dot", cx: px, cy: py, r: style === "quiet" ? 2.4 : radius });
      if (style === "crosses") mark = svg("path", { class: "cross", d: `M${px - 4},${py - 4}l8,8M${px + 4},${py - 4}l-8,8` });
      if (style === "bars") {
        mark = svg("g", {}, svg("rect", { class: "bar-mark", x: px - bar / 2, width: bar, y: Math.min(py, y.at(0)), height: Math.max(0.5, Math.abs(py - y.at(0))) }));
        if (known([p.l, p.h]).length === 2) mark.append(svg("line", { class: "over", x1: px, x2: px, y1: y.at(p.l), y2: y.at(p.h) }));
        if (known([p.n]).length) mark.append(svg("line", { class: "tick", x1: px - bar / 2, x2: px + bar / 2, y1: y.at(p.n), y2: y.at(p.n) }));
      }
      group.append(spoken(mark, p.tip, hit));
    });
    marks.push(group);
  }
  panel.append(...marks);
  return walkable(panel);
}

function lineCharts(charts, label, width) {
  const wide = charts.length === 1 ? Math.min(width, 860) : panelWidth(charts.length, width);
  const series = new Map(charts.flatMap((chart) => chart.series).map((s) => [s.name, s]));
  const notes = [...new Set(charts.flatMap((c) => c.series).map((s) => s.null).filter(Boolean))].map((text) => `— ${text}`);
  const grid = html("div", { class: "grid" }, ...charts.map((chart) => titled(chart.title, lines(chart, wide, label))));
  if (charts.length === 1) grid.style.maxWidth = `${wide}px`;
  return [...(series.size > 1 || notes.length ? [keysOf([...series.values()], notes)] : []), grid];
}

// How wide the panels of a grid come out, as the style sheet lays them out.
function panelWidth(count, width) {
  const gap = 29, least = 320;
  const columns = Math.max(1, Math.min(count, Math.floor((width + gap) / (least + gap))));
  return Math.max(260, (width - gap * (columns - 1)) / columns);
}

// Information planes, with a slider over the noise level where the profile is known.
function planes(chart, label, width) {
  const state = (chart.state ??= { level: chart.own, whole: false }); // kept when drawn again
  const wide = panelWidth(chart.panels.length, width);
  const many = chart.panels[0].series.length > 1;
  const grid = html("div", { class: "grid" });
  const out = html("output");

  function at(point) {
    if (state.level === chart.own || !point.levels) return point;
    const there = point.levels[state.level];
    if (!there) return null;
    const tip = [point.layer, `about the label ${there[1].toFixed(2)} bits`, `about the input ${there[0].toFixed(2)} bits`];
    return { layer: point.layer, x: there[0], y: there[1], hollow: there[2], tip: there[2] ? [...tip, "marks: saturated"] : tip };
  }

  function draw() {
    const focused = grid.contains(document.activeElement) ? [...grid.querySelectorAll(".point")].indexOf(document.activeElement) : -1;
    const panels = chart.panels.map((panel) => ({ ...panel, series: panel.series.map((s) => ({ ...s, points: s.points.map(at).filter(Boolean) })) }));
    const all = panels.flatMap((panel) => panel.series).flatMap((series) => series.points);
    const xs = known(all.flatMap((p) => [p.x, p.xl, p.xh])), ys = known(all.flatMap((p) => [p.y, p.yl, p.yh, p.null]));
    if (state.whole) { xs.push(0, chart.ceilings.x.value ?? 0); ys.push(0); }
    if (chart.ceilings.y.value) ys.push(chart.ceilings.y.value);
    const domains = { x: padded(xs, { zero: state.whole }), y: padded(ys, { zero: true }) };
    grid.replaceChildren(...panels.map((panel) => titled(panel.title, plane(chart, panel, domains, wide, label, many))));
    if (chart.levels.length) {
      const own = state.level === chart.own;
      out.textContent = `noise ${chart.levels[state.level]}${own ? ", this run’s own" : ", without intervals"}`;
    }
    if (focused >= 0) grid.querySelectorAll(".point")[focused]?.focus({ preventScroll: true });
  }

  const controls = html("p", { class: "control" });
  if (chart.levels.length > 1) {
    const slider = html("input", { type: "range", min: 0, max: chart.levels.length - 1, step: 1, value: state.level, "aria-label": "noise level" });
    slider.addEventListener("input", () => {
      state.level = Number(slider.value);
      slider.setAttribute("aria-valuetext", `noise ${chart.levels[state.level]}`);
      draw();
    });
    slider.setAttribute("aria-valuetext", `noise ${chart.levels[state.level]}`);
    controls.append(html("label", {}, "Noise level", slider), out);
  }
  const box = html("input", { type: "checkbox" });
  box.checked = state.whole;
  box.addEventListener("change", () => { state.whole = box.checked; draw(); });
  controls.append(html("label", {}, box, "axes from 0 to the ceilings"));
  draw();
  const keys = many ? [keysOf(chart.panels[0].series)] : [];
  return [controls, ...keys, grid];
}

function plane(chart, panel, domains, width, label, many) {
  const height = Math.round(Math.min(430, width * 0.86)) + 44, box = [44, height - 44, width - 10, 26];
  const x = { domain: domains.x, at: linear(domains.x, [box[0], box[2]]) }, y = { domain: domains.y, at: linear(domains.y, [box[1], box[3]]) };
  const root = panelOf(width, height, `${label}: ${panel.title}`);
  axes(root, x, y, chart, box);
  const { x: right, y: top } = chart.ceilings;
  if (top.value) {
    root.append(svg("line", { class: "ceiling", x1: box[0], x2: box[2], y1: y.at(top.value), y2: y.at(top.value) }));
    root.append(svg("text", { x: box[2], y: box[3] - 12, "text-anchor": "end" }, `╌ ${top.label} = ${top.value.toFixed(2)}`));
  }
  if (right.value && right.value <= x.domain[1]) {
    root.append(svg("line", { class: "ceiling", x1: x.at(right.value), x2: x.at(right.value), y1: box[1], y2: box[3] }));
    root.append(svg("text", { x: x.at(right.value) - 5, y: box[1] - 6, "text-anchor": "end" }, `${right.label} = ${right.value.toFixed(2)}`));
  } else if (right.value) {
    root.append(svg("text", { x: box[2], y: box[1] - 6, "text-anchor": "end" }, `${right.label} = ${right.value.toFixed(2)} →`));
  }
  for (const series of panel.series) {
    const group = coloured(svg("g"), series.colour), points = series.points, last = points.length - 1;
    group.append(svg("path", { class: "path", d: pathOf(points.map((p) => [x.at(p.x), y.at(p.y)])) }));
    const nulls = points.filter((p) => known([p.null]).length);
    if (!many && nulls.length) group.append(svg("path", { class: "null", d: pathOf(nulls.map((p) => [x.at(p.x), y.at(p.null)])) }));
    points.forEach((p, i) => {
      const [px, py] = [x.at(p.x), y.at(p.y)];
      const mark = svg("g", p.hollow ? { class: "hollow" } : {});
      if (known([p.xl, p.xh]).length === 2) mark.append(svg("line", { class: "interval", x1: x.at(p.xl), x2: x.at(p.xh), y1: py, y2: py }));
      if (known([p.yl, p.yh]).length === 2) mark.append(svg("line", { class: "interval", x1: px, x2: px, y1: y.at(p.yl), y2: y.at(p.yh) }));
      const dot = svg("circle", { class: "dot", cx: px, cy: py, r: last > 40 ? 3 : 4.6 });
      dot.style.setProperty("--depth", last ? 0.12 + (0.88 * i) / last : 1);
      mark.append(dot);
      group.append(spoken(mark, p.tip, svg("circle", { class: "hit", cx: px, cy: py, r: 9 })));
    });
    root.append(group);
    if (!many) for (const i of new Set([0, last])) {
      const p = points[i], end = x.at(p.x) > (box[0] + box[2]) / 2;
      root.append(svg("text", { class: "label", x: x.at(p.x) + (end ? -9 : 9), y: y.at(p.y) - 7, "text-anchor": end ? "end" : "start", "aria-hidden": "true" }, p.layer));
    }
  }
  return walkable(root);
}

// Rows of values with intervals around zero; trivial rows in grey.
function forest(chart, width, label) {
  const row = 24, top = 26, narrow = width < 560;
  const names = 12 + 5.9 * Math.max(...chart.rows.map((entry) => entry.name.length));
  const columns = chart.columns.length, height = top + row * chart.rows.length + 34;
  const figures = chart.columns.map((title, column) => {
    const own = narrow ? width : column ? (width - names) / columns : names + (width - names) / columns;
    const left = narrow || !column ? names : 30;
    const root = panelOf(own, height, `${label}: ${title}`), at = linear([-1, 1], [left + 6, own - 12]);
    const group = svg("g", { "aria-hidden": "true" });
    for (const value of [-1, -0.5, 0, 0.5, 1]) {
      group.append(svg("line", { class: value ? "axis" : "zero", x1: at(value), x2: at(value), y1: top - 8, y2: height - 28 }));
      group.append(svg("text", { x: at(value), y: height - 14, "text-anchor": "middle" }, String(value).replace("-", "−")));
    }
    group.append(svg("text", narrow ? { x: own - 12, y: top - 14, "text-anchor": "end" } : { x: left + 6, y: top - 14 }, title));
    root.append(group);
    chart.rows.forEach((entry, i) => {
      const y = top + row * i + row / 2, cell = entry.cells[column];
      if (left === names) {
        const text = svg("text", { x: names - 6, y: y + 4, "text-anchor": "end" }, entry.name);
        if (!entry.trivial) text.style.fill = "var(--ink)";
        root.append(text);
      }
      if (!cell) { root.append(svg("text", { x: at(0), y: y + 4, "text-anchor": "middle" }, "–")); return; }
      const mark = svg("g");
      if (known([cell.l, cell.h]).length === 2) mark.append(svg("line", { class: "interval", x1: at(cell.l), x2: at(cell.h), y1: y, y2: y }));
      mark.append(svg("circle", { class: "dot", cx: at(cell.v), cy: y, r: 4.4 }));
      root.append(coloured(spoken(mark, cell.tip, svg("circle", { class: "hit", cx: at(cell.v), cy: y, r: 9 })), entry.trivial ? "quiet" : entry.colour || "contrast"));
    });
    return walkable(root);
  });
  const wrap = html("div", { class: "forest" });
  figures.forEach((figure, column) => {
    if (!narrow) figure.style.width = `${(100 * (column ? (width - names) / columns : names + (width - names) / columns)) / width}%`;
    wrap.append(figure);
  });
  return titled(chart.title, wrap);
}

const chosen = new Map(); // of every choice, so that drawing again keeps it

function choice(chart, label, width) {
  const select = html("select"), out = html("div");
  chart.options.forEach((option, i) => select.append(html("option", { value: i }, option.name)));
  select.value = chosen.get(label) ?? chart.options.length - 1;
  const draw = () => {
    chosen.set(label, select.value);
    out.replaceChildren(...lineCharts(chart.options[select.value].charts, `${label}, ${chart.options[select.value].name}`, width));
  };
  select.addEventListener("change", draw);
  draw();
  return [html("p", { class: "control" }, html("label", {}, chart.label, select)), out];
}

function drawn(charts, label, width) {
  const kind = charts[0].kind;
  if (kind === "planes") return planes(charts[0], label, width);
  if (kind === "forest") return charts.map((chart) => forest(chart, Math.min(width, 900), label));
  if (kind === "choice") return choice(charts[0], label, width);
  return lineCharts(charts, label, width);
}
