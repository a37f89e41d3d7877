// Sorts and filters what the page holds, and draws its curves. No library, no request.
(() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const PANEL = ["model", "task", "tuning"];
  const MOST_LABELS = 8; // beyond, names are in the chips and in the tip
  const MOST_BANDS = 6;
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const tip = document.getElementById("tip");

  const state = { model: "", task: "", tuning: "", metric: "", off: new Set() };
  const switches = {}; // of each section: what is pressed

  // ---------------------------------------------------------------- filters

  const matches = (of, names = PANEL) => names.every((name) => !state[name] || of[name] === state[name]);
  const visible = (of) => matches(of) && !state.off.has(of.method);

  function filter() {
    for (const element of all("[data-method]")) {
      const reference = element.classList.contains("reference");
      element.hidden = reference ? !matches(element.dataset, ["model", "task"]) : !visible(element.dataset);
      if ("metric" in element.dataset && element.dataset.metric !== state.metric) element.hidden = true;
    }
    for (const panel of all("figure.bars")) panel.hidden = !panel.querySelector("[data-method]:not([hidden])");
    for (const table of all('table[data-table="costs"]')) {
      table.closest(".table").hidden = !table.querySelector("tbody tr:not([hidden])");
    }
    for (const chip of all("[data-chip]")) chip.setAttribute("aria-pressed", String(!state.off.has(chip.dataset.chip)));
    filterPublished();
    const lines = all('table[data-table="leaderboard"] tbody tr');
    const shown = lines.filter((line) => !line.hidden).length;
    document.getElementById("shown").textContent = `${shown} of ${lines.length} lines shown`;
    drawAll();
  }

  function filterPublished() {
    const search = document.getElementById("search-published");
    if (!search) return;
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const task = state.task.split(" (")[0];
    for (const row of all("[data-published-task]")) {
      const text = row.textContent.toLowerCase();
      row.hidden = (task && row.dataset.publishedTask !== task) || !words.every((word) => text.includes(word));
    }
  }

  for (const select of all("[data-filter]")) {
    select.addEventListener("change", () => {
      state[select.dataset.filter] = select.value;
      filter();
    });
  }
  for (const chip of all("[data-chip]")) {
    chip.addEventListener("click", () => {
      const method = chip.dataset.chip;
      if (!state.off.delete(method)) state.off.add(method);
      filter();
    });
  }
  const setAll = (off) => {
    state.off = new Set(off ? all("[data-chip]").map((chip) => chip.dataset.chip) : []);
    filter();
  };
  document.getElementById("all").addEventListener("click", () => setAll(false));
  document.getElementById("none").addEventListener("click", () => setAll(true));
  document.getElementById("search-published")?.addEventListener("input", filterPublished);

  // ---------------------------------------------------------------- sorting

  function sort(table, column) {
    const heads = all("thead th", table);
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const numeric = rows.some((row) => "value" in row.cells[column].dataset);
    const key = (row) => {
      const cell = row.cells[column];
      if (!numeric) return cell.textContent.trim().toLowerCase();
      return "value" in cell.dataset ? Number(cell.dataset.value) : null;
    };
    const before = heads[column].getAttribute("aria-sort");
    const descending = before ? before === "ascending" : numeric;
    const missing = (value) => value === null || value === "";
    const compare = (first, second) => {
      const [a, b] = [key(first), key(second)];
      if (missing(a) || missing(b)) return missing(a) - missing(b); // last, either way
      const order = numeric ? a - b : a.localeCompare(b);
      return descending ? -order : order;
    };
    body.append(...rows.sort(compare));
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  }

  for (const table of all("table.sortable")) {
    all("thead button", table).forEach((button, column) => button.addEventListener("click", () => sort(table, column)));
  }

  // ---------------------------------------------------------------- charts

  const make = (name, attributes = {}, text = null) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== null) element.textContent = text;
    return element;
  };

  function ticks(low, high, count) {
    const raw = (high - low) / Math.max(1, count);
    const size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((factor) => factor * size).find((candidate) => candidate >= raw * 0.999);
    const found = [];
    for (let index = Math.ceil(low / step - 1e-9); index * step <= high + 1e-9 * step; index += 1) found.push(index * step);
    return found;
  }

  function format(value) {
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-2 || size >= 1e7)) return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
    if (size >= 1e4) return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
    return String(Number(value.toPrecision(4)));
  }

  function points(curve, axis, factor) {
    return curve[axis]
      .map((x, index) => ({ x, y: curve.mean[index], low: curve.low[index], high: curve.high[index] }))
      .filter((point) => point.x !== null && point.y !== null)
      .map((point) => ({ x: point.x, y: point.y * factor, low: point.low * factor, high: point.high * factor }));
  }

  const path = (list) => list.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");

  function declutter(labels, gap, bottom) {
    labels.sort((first, second) => first.y - second.y);
    labels.forEach((label, index) => {
      if (index) label.y = Math.max(label.y, labels[index - 1].y + gap);
    });
    for (let index = labels.length - 1; index >= 0; index -= 1) {
      const limit = index === labels.length - 1 ? bottom : labels[index + 1].y - gap;
      labels[index].y = Math.min(labels[index].y, limit);
    }
    return labels;
  }

  // curves that can be compared share their axes, in whichever panel they are
  function range(curves, axis, factor) {
    const flat = curves.flatMap((curve) => points(curve, axis, factor));
    const [low, high] = [Math.min(...flat.map((point) => point.low)), Math.max(...flat.map((point) => point.high))];
    const margin = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1;
    const [first, end] = [Math.min(...flat.map((point) => point.x)), Math.max(...flat.map((point) => point.x))];
    const start = first < end / 4 ? 0 : first;
    return { start, end: end > start ? end : start + 1, low: low - margin, high: high + margin };
  }

  function drawChart(figure, curves, beside, axis, name) {
    const { label, factor } = data.quantities[name];
    const series = curves.map((curve) => ({ curve, points: points(curve, axis, factor) })).filter((one) => one.points.length);
    if (!series.length) {
      const text = document.createElement("p");
      text.textContent = `These runs did not note ${axis}.`;
      figure.append(text);
      return;
    }
    const width = Math.max(260, figure.clientWidth - 30);
    const height = 270;
    const labelled = series.length <= MOST_LABELS && width > 380;
    const longest = Math.max(...series.map((one) => one.curve.method.length));
    const right = labelled ? width - Math.min(150, 14 + 6.6 * longest) : width - 10;
    const box = { left: 52, right, top: 18, bottom: height - 40 };
    const banded = series.length <= MOST_BANDS;
    const { start, end, low, high } = range(beside, axis, factor);
    const px = (x) => box.left + ((x - start) / (end - start)) * (box.right - box.left);
    const py = (y) => box.bottom - ((y - low) / (high - low)) * (box.bottom - box.top);

    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `${label} by ${data.axes[axis]}` });
    for (const value of ticks(low, high, 5)) {
      svg.append(make("line", { class: "grid", x1: box.left, x2: box.right, y1: py(value), y2: py(value) }));
      svg.append(make("text", { x: box.left - 7, y: py(value) + 4, "text-anchor": "end" }, format(value)));
    }
    for (const value of ticks(start, end, (box.right - box.left) / 65)) {
      svg.append(make("line", { class: "base", x1: px(value), x2: px(value), y1: box.bottom, y2: box.bottom + 4 }));
      svg.append(make("text", { x: px(value), y: box.bottom + 17, "text-anchor": "middle" }, format(value)));
    }
    svg.append(make("line", { class: "base", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
    svg.append(make("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, data.axes[axis]));
    svg.append(make("text", { x: 0, y: 9 }, label));

    for (const one of series) {
      const { curve } = one;
      one.group = make("g", { class: "series", "data-series": curve.method });
      const colour = `var(--hue-${curve.hue})`;
      if (curve.runs > 1) {
        const above = one.points.map((point) => [px(point.x), py(point.high)]);
        const below = one.points.map((point) => [px(point.x), py(point.low)]).reverse();
        one.band = make("path", { class: "band", d: `${path([...above, ...below])}Z`, fill: colour });
        one.band.style.display = banded ? "" : "none";
        one.group.append(one.band);
      }
      const line = make("path", { class: "line", d: path(one.points.map((point) => [px(point.x), py(point.y)])), stroke: colour });
      if (curve.dash) line.setAttribute("stroke-dasharray", curve.dash);
      one.group.append(line);
      if (one.points.length <= 12) {
        for (const point of one.points) one.group.append(make("circle", { cx: px(point.x), cy: py(point.y), r: 3, fill: colour }));
      }
      svg.append(one.group);
    }
    if (labelled) {
      const labels = series.map((one) => ({ one, y: py(one.points[one.points.length - 1].y) + 4 }));
      for (const { one, y } of declutter(labels, 14, box.bottom)) {
        const text = make("text", { class: "label", x: box.right + 8, y }, one.curve.method);
        text.style.fill = `var(--hue-${one.curve.hue})`;
        one.group.append(text);
      }
    }
    figure.append(svg);
    watch(svg, series, { px, py, box, axis, banded });
  }

  function watch(svg, series, { px, py, box, axis, banded }) {
    const cursor = make("line", { class: "cursor", y1: box.top, y2: box.bottom });
    cursor.style.display = "none";
    svg.append(cursor);
    const emphasise = (chosen) => {
      for (const one of series) {
        one.group.classList.toggle("quiet", Boolean(chosen) && one !== chosen);
        if (one.band) one.band.style.display = banded || one === chosen ? "" : "none";
      }
    };
    svg.addEventListener("pointermove", (event) => {
      const scale = svg.viewBox.baseVal.width / svg.getBoundingClientRect().width;
      const rect = svg.getBoundingClientRect();
      const [x, y] = [(event.clientX - rect.left) * scale, (event.clientY - rect.top) * scale];
      let best = null;
      for (const one of series) {
        for (const point of one.points) {
          const distance = Math.hypot((px(point.x) - x) * 0.6, py(point.y) - y);
          if (!best || distance < best.distance) best = { one, point, distance };
        }
      }
      emphasise(best.one);
      cursor.setAttribute("x1", px(best.point.x));
      cursor.setAttribute("x2", px(best.point.x));
      cursor.style.display = "";
      const spread = best.one.curve.runs > 1 ? ` (${format(best.point.low)} to ${format(best.point.high)}, ${best.one.curve.runs} runs)` : "";
      const name = document.createElement("b");
      name.textContent = best.one.curve.method;
      tip.replaceChildren(name, ` ${format(best.point.y)}${spread} at ${format(best.point.x)} ${axis}`);
      tip.hidden = false;
      const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
      tip.style.left = `${Math.max(8, left)}px`;
      tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 12)}px`;
    });
    svg.addEventListener("pointerleave", () => {
      emphasise(null);
      cursor.style.display = "none";
      tip.hidden = true;
    });
  }

  function drawCharts(container) {
    const section = container.dataset.charts;
    const pressed = switches[section];
    const chosen = data[section].filter(
      (curve) => visible(curve) && (section === "curves" ? curve.quantity === pressed.quantity : curve.quantity.split(".")[1] === pressed.group),
    );
    const panels = new Map();
    for (const curve of chosen) {
      const key = JSON.stringify([...PANEL.map((name) => curve[name]), curve.quantity]);
      panels.set(key, [...(panels.get(key) ?? []), curve]);
    }
    container.replaceChildren();
    for (const curves of panels.values()) {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      const { task, model, tuning } = curves[0];
      caption.textContent = `${task}, ${tuning} tuning, ${model}`;
      figure.append(caption);
      container.append(figure);
      const same = (curve) => ["model", "task", "quantity"].every((name) => curve[name] === curves[0][name]);
      drawChart(figure, curves, chosen.filter(same), pressed.axis, curves[0].quantity);
    }
    if (!panels.size) container.textContent = "Nothing is chosen.";
  }

  const drawAll = () => all("[data-charts]").forEach(drawCharts);

  // notes in `pressed` which button of each switch below `root` is down, and calls `then` when that changes
  function watchSwitches(root, pressed, then) {
    const buttons = all("[data-switch]", root);
    for (const button of buttons) {
      const { switch: name, choice } = button.dataset;
      if (button.getAttribute("aria-pressed") === "true") pressed[name] = choice;
      button.addEventListener("click", () => {
        pressed[name] = choice;
        for (const other of buttons) {
          if (other.dataset.switch === name) other.setAttribute("aria-pressed", String(other === button));
        }
        then();
      });
    }
  }

  for (const container of all("[data-charts]")) {
    switches[container.dataset.charts] = {};
    watchSwitches(container.parentElement, switches[container.dataset.charts], () => drawCharts(container));
  }
  all("#sensitivity").forEach((section) => watchSwitches(section, state, filter));

  // ---------------------------------------------------------------- light or dark

  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    drawAll();
  });
  filter();
})();
