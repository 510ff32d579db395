"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const SHAPES = ["circle", "triangle", "rect", "rectRot", "star", "crossRot", "rectRounded", "cross"];
  const charts = [];
  const color = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const short = (v) => {
    const size = Math.abs(v);
    if (size !== 0 && (size < 1e-3 || size >= 1e9)) return v.toPrecision(3);
    const digits = size >= 1000 ? 0 : Math.max(0, 3 - Math.floor(Math.log10(size || 1)));
    return v.toLocaleString("en-US", { maximumFractionDigits: digits });
  };
  const two = (n) => String(n).padStart(2, "0");
  const moment = (s, time) => {
    const d = new Date(s * 1000);
    const day = `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
    return time ? `${day} ${two(d.getHours())}:${two(d.getMinutes())}` : day;
  };
  const STEPS = [60, 300, 900, 3600, 6 * 3600, 86400, 2 * 86400, 7 * 86400, 28 * 86400, 91 * 86400, 365 * 86400];
  const shown = (axis, v) => (axis.kind === "moment" ? moment(v, true) : `${short(v)} ${axis.unit}`.trim());

  function momentTicks(scale) {
    const step = STEPS.find((s) => s >= (scale.max - scale.min) / 6) || STEPS[STEPS.length - 1];
    const shift = new Date(scale.min * 1000).getTimezoneOffset() * 60;
    const first = Math.ceil((scale.min - shift) / step) * step + shift;
    scale.ticks = [];
    for (let at = first; at <= scale.max; at += step) {
      scale.ticks.push({ value: at, label: moment(at, step < 86400) });
    }
  }

  // Of a logarithmic axis only 1, 2 and 5 are named.
  const logTick = (value) => {
    const lead = value / 10 ** Math.floor(Math.log10(value) + 1e-9);
    return [1, 2, 5].some((one) => Math.abs(lead - one) < 1e-6) ? short(value) : "";
  };

  // A logarithmic axis of few values (1, 2, 4, 8 sequences) names those.
  function ownTicks(made, values) {
    const own = [...new Set(values)].sort((a, b) => a - b);
    if (own.length > 12) return;
    made.afterBuildTicks = (scale) => {
      scale.ticks = own.filter((v) => v >= scale.min && v <= scale.max).map((value) => ({ value }));
    };
    made.ticks.callback = short;
  }

  function scale(axis, vertical, values = []) {
    const made = {
      type: axis.log ? "logarithmic" : "linear",
      title: { display: true, text: axis.title },
      beginAtZero: axis.from_zero,
      grid: {}, border: {}, ticks: {},
    };
    if (!axis.log && vertical && !axis.from_zero) made.grace = "4%";
    if (axis.kind === "moment") {
      made.afterBuildTicks = momentTicks;
      made.ticks.callback = (_, i, ticks) => ticks[i].label;
      made.ticks.maxRotation = 0;
      made.ticks.autoSkipPadding = 12;
    } else {
      made.ticks.callback = axis.log ? logTick : short;
    }
    if (!vertical) made.ticks.maxRotation = 0;
    if (!vertical && axis.log) ownTicks(made, values);
    return made;
  }

  const errorBars = { errorBarLineWidth: 1.3, errorBarWhiskerLineWidth: 1.3, errorBarWhiskerSize: 8, errorBarWhiskerRatio: 0 };

  function barConfig(figure) {
    const datasets = figure.series.map((one) => ({
      label: one.name,
      data: one.bars.map((b, i) => ({ x: b.value, y: figure.labels[i], xMin: b.low ?? undefined, xMax: b.high ?? undefined, note: b.note })),
      maxBarThickness: 26, minBarLength: 1, ...errorBars,
    }));
    return {
      type: "barWithErrorBars",
      data: { labels: figure.labels, datasets },
      options: {
        indexAxis: "y",
        scales: {
          x: scale(figure.value, false),
          y: { grid: { display: false }, border: {}, ticks: { autoSkip: false, callback: (_, i) => clipped(figure.labels[i]) } },
        },
      },
      value: (raw) => (raw.x === null ? "no figure" : interval(figure.value, raw.x, raw.xMin, raw.xMax)),
    };
  }

  const clipped = (text) => {
    const most = innerWidth < 600 ? 16 : 34;
    return text.length > most ? text.slice(0, most / 3) + "…" + text.slice(text.length - (most * 2) / 3) : text;
  };

  const interval = (axis, v, low, high) =>
    shown(axis, v) + (low == null || high == null ? "" : `  [${short(low)}, ${short(high)}]`);

  function curveConfig(figure) {
    const line = figure.kind === "line";
    const datasets = figure.series.map((one, n) => ({
      label: one.name,
      data: one.points.map((p) => ({ x: p.x, y: p.y, yMin: p.low ?? undefined, yMax: p.high ?? undefined, name: p.label })),
      showLine: line, tension: 0, clip: 12, borderWidth: 2, spanGaps: true,
      pointStyle: SHAPES[n % SHAPES.length],
      pointRadius: one.points.length > 80 ? 0 : line ? 3.5 : 6,
      pointHoverRadius: 7, ...errorBars,
    }));
    if (figure.front && figure.front.length > 1) {
      datasets.push({ label: "best for its size (Pareto front)", data: figure.front, showLine: true, front: true, borderWidth: 1.5, borderDash: [5, 4], pointRadius: 0, pointHitRadius: 0 });
    }
    return {
      type: line ? "lineWithErrorBars" : "scatterWithErrorBars",
      data: { datasets },
      options: { scales: { x: scale(figure.x, false, figure.series.flatMap((one) => one.points.map((p) => p.x))), y: scale(figure.y, true) } },
      value: (raw) => `${raw.name ? raw.name + ": " : ""}${interval(figure.y, raw.y, raw.yMin, raw.yMax)} at ${shown(figure.x, raw.x)}`,
    };
  }

  // The theme's colours, put into a configuration before and after a chart is made of it.
  function dress(type, datasets, options) {
    const [ink, soft, grid, card] = ["ink", "soft", "grid", "card"].map(color);
    datasets.forEach((set, n) => {
      const own = set.front ? soft : color("s" + (n % 8));
      const bars = type === "barWithErrorBars";
      Object.assign(set, {
        borderColor: own, backgroundColor: bars ? own + "d0" : own, pointBackgroundColor: own, pointBorderColor: own,
        errorBarColor: bars ? ink : own, errorBarWhiskerColor: bars ? ink : own,
      });
      if (bars) set.borderWidth = 0;
    });
    for (const axis of Object.values(options.scales)) {
      axis.grid.color = grid;
      axis.border.color = soft;
      axis.ticks.color = soft;
      if (axis.title) axis.title.color = soft;
    }
    Object.assign(options.plugins.tooltip, { backgroundColor: ink, titleColor: card, bodyColor: card, footerColor: card });
  }

  function paint(chart) {
    dress(chart.config.type, chart.data.datasets, chart.options);
    chart.update();
  }

  // The names of points, where there is room for them.
  const names = {
    id: "names",
    afterDatasetsDraw(chart) {
      const ctx = chart.ctx;
      const taken = [];
      ctx.save();
      ctx.font = `12px ${Chart.defaults.font.family}`;
      ctx.fillStyle = color("ink");
      chart.data.datasets.forEach((set, n) => {
        if (!chart.isDatasetVisible(n)) return;
        chart.getDatasetMeta(n).data.forEach((point, i) => {
          const name = set.data[i].name && clipped(set.data[i].name);
          if (!name || point.skip) return;
          const width = ctx.measureText(name).width;
          const left = point.x + 9 + width > chart.chartArea.right ? point.x - 9 - width : point.x + 9;
          const box = { left, right: left + width, top: point.y - 16, bottom: point.y - 2 };
          const hit = taken.some((t) => box.left < t.right && t.left < box.right && box.top < t.bottom && t.top < box.bottom);
          if (hit) return;
          taken.push(box);
          ctx.fillText(name, left, point.y - 5);
        });
      });
      ctx.restore();
    },
  };

  function legend(box, chart, named) {
    const sets = chart.data.datasets;
    if (sets.length < 2 && !named) return;
    sets.forEach((set, n) => {
      const button = document.createElement("button");
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = set.front ? "var(--soft)" : `var(--s${n % 8})`;
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      button.append(swatch, set.label);
      button.addEventListener("click", () => {
        const visible = !chart.isDatasetVisible(n);
        chart.setDatasetVisibility(n, visible);
        button.setAttribute("aria-pressed", String(visible));
        chart.update();
      });
      box.append(button);
    });
  }

  function draw(frame, figure) {
    const { value, ...config } = figure.kind === "bar" ? barConfig(figure) : curveConfig(figure);
    const zoomable = figure.kind !== "bar";
    Object.assign(config.options, {
      responsive: true, maintainAspectRatio: false, animation: false,
      interaction: { mode: figure.kind === "bar" ? "index" : "nearest", axis: figure.kind === "bar" ? "y" : "xy", intersect: false },
      plugins: {
        legend: { display: false },
        tooltip: {
          usePointStyle: true,
          callbacks: {
            title: (items) => (figure.kind === "bar" && items.length ? figure.labels[items[0].dataIndex] : ""),
            label: (item) => `${item.dataset.label ? item.dataset.label + ": " : ""}${value(item.raw)}`,
            footer: (items) => items.map((i) => i.raw.note).filter(Boolean).join("\n"),
          },
          filter: (item) => !item.dataset.front,
        },
        colors: { enabled: false },
        zoom: zoomable && {
          zoom: {
            mode: "xy", drag: { enabled: true, threshold: 8 }, wheel: { enabled: true, modifierKey: "ctrl" },
            onZoom: () => frame.classList.add("zoomed"),
          },
        },
      },
    });
    if (figure.kind === "scatter") config.plugins = [names];
    dress(config.type, config.data.datasets, config.options);
    const chart = new Chart(frame.querySelector("canvas"), config);
    const reset = () => { chart.resetZoom("none"); frame.classList.remove("zoomed"); };
    frame.querySelector("figcaption button").addEventListener("click", reset);
    if (zoomable) chart.canvas.addEventListener("dblclick", reset);
    legend(frame.querySelector(".legend"), chart, figure.named);
    charts.push(chart);
  }

  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  document.querySelectorAll("figure[data-figure]").forEach((frame) => draw(frame, figures[frame.dataset.figure]));

  const root = document.documentElement;
  const repaint = () => charts.forEach(paint);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", repaint);
  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    repaint();
  });

  // On paper: light, and every table open.
  let before;
  addEventListener("beforeprint", () => {
    before = { theme: root.dataset.theme, open: [...document.querySelectorAll("details")].map((d) => d.open) };
    root.dataset.theme = "light";
    document.querySelectorAll("details").forEach((d) => { d.open = true; });
    charts.forEach((chart) => { paint(chart); chart.resize(Math.min(chart.width, 660), chart.height); });
  });
  addEventListener("afterprint", () => {
    if (before.theme) root.dataset.theme = before.theme; else delete root.dataset.theme;
    document.querySelectorAll("details").forEach((d, i) => { d.open = before.open[i]; });
    charts.forEach((chart) => chart.resize());
    repaint();
  });

  const save = document.getElementById("save");
  if (save) {
    save.addEventListener("click", () => {
      const text = document.getElementById("data").textContent;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
      link.download = save.dataset.name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }
  root.dataset.drawn = String(charts.length);
})();
