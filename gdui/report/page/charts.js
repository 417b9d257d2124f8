// Numbers of all images: how large the classes are, how sure the labels, and what another sigma would give.

const WIDE = 480;
const HIGH = 190;

function numbers() {
  section("numbers", "Numbers", el("div", { class: "grid" }, classSizes(), histogram(), sweepPanel()));
}

function panel(title, note, ...children) {
  return el("div", { class: "panel" }, el("h3", null, title), el("small", null, note), ...children);
}

function classSizes() {
  const largest = Math.max(...classes.map((one) => one.images), 1);
  const rows = classes.map((one, at) => {
    const bar = el("i", { "--hue": hue(at) });
    bar.style.width = percent(one.images / largest, 2);
    return el(
      "tr",
      null,
      el("th", { scope: "row" }, one.name),
      el("td", { class: "wide" }, el("div", { class: "meter" }, bar)),
      el("td", null, count(one.images)),
      el("td", null, one.images ? fixed(one.confidence) : ""),
    );
  });
  const titles = ["class", "", "images", "confidence"].map((name) => el("th", { scope: "col" }, name));
  return panel(
    "Class sizes",
    `${counted(classes.length, "class", "classes")}, with their mean confidence`,
    el(
      "div",
      { class: "sizes", tabindex: 0, role: "region", "aria-label": "Class sizes" },
      el("table", null, el("thead", null, el("tr", null, titles)), el("tbody", null, rows)),
    ),
  );
}

function axes(width, height, ticks, title) {
  return [
    svg("line", { class: "axis", x1: 0, y1: height, x2: width, y2: height }),
    ...ticks.map(([at, text]) =>
      svg(
        "text",
        { x: at * width, y: height + 18, "text-anchor": at === 0 ? "start" : at === 1 ? "end" : "middle" },
        text,
      ),
    ),
    svg("text", { x: width / 2, y: height + 36, "text-anchor": "middle" }, title),
  ];
}

const TICKS = [0, 0.25, 0.5, 0.75, 1].map((at) => [at, String(at)]);

function histogram() {
  const { same, other } = data.confidence;
  const highest = Math.max(...same.map((n, at) => n + other[at]), 1);
  const height = (n) => HIGH * Math.sqrt(n / highest); // so that a few unsure images show beside thousands of sure ones
  const width = WIDE / same.length;
  const bars = same.flatMap((n, at) => {
    const [low, top] = [height(n), height(n + other[at])];
    const bar = (kind, from, to) =>
      to > from
        ? svg("rect", { class: kind, x: at * width + 1, y: HIGH - to, width: width - 2, height: to - from })
        : null;
    return [bar("same", 0, low), bar("other", low, top)];
  });
  const unsure = [...same.slice(0, same.length / 2), ...other.slice(0, same.length / 2)].reduce((a, b) => a + b, 0);
  return panel(
    "Confidence",
    "images by the confidence of their label, on a square-root scale",
    svg(
      "svg",
      {
        viewBox: `-2 -14 ${WIDE + 4} ${HIGH + 54}`,
        role: "img",
        "aria-label": `Histogram of confidence; ${counted(unsure, "image is", "images are")} less than half sure`,
      },
      bars,
      svg("text", { x: 0, y: -4 }, `${count(highest)} images`),
      axes(WIDE, HIGH, TICKS, "confidence"),
    ),
    el(
      "ul",
      { class: "legend" },
      legendOf("swatch same", "as the opinion says"),
      legendOf("swatch other", "otherwise"),
    ),
  );
}

const legendOf = (kind, text) => el("li", null, el("i", { class: kind }), text);

const CURVES = {
  relabelled: "relabelled by the opinion",
  agreement: "agreement with the opinion",
  accuracy: "right, by the truth given",
};

function sweepPanel() {
  if (!data.sweep) return null;
  const { curves, now, graph } = data.sweep;
  const steps = curves.relabelled.length - 1;
  const lines = Object.entries(curves).map(([name, values]) =>
    svg("polyline", {
      class: `curve ${name}`,
      points: values.map((value, at) => `${(at / steps) * WIDE},${HIGH * (1 - value)}`).join(" "),
    }),
  );
  const marker = svg("line", { class: "marker", y1: 0, y2: HIGH });
  const output = el("output", { for: "sigma" });
  const slider = el("input", {
    type: "range",
    id: "sigma",
    min: 0,
    max: steps,
    step: 1,
    value: Math.round((now ?? 0.5) * steps),
    "aria-label": "sigma",
  });

  function show() {
    const at = Number(slider.value);
    marker.setAttribute("x1", (at / steps) * WIDE);
    marker.setAttribute("x2", (at / steps) * WIDE);
    const parts = Object.entries(curves).map(([name, values]) => `${percent(values[at])} ${CURVES[name]}`);
    output.replaceChildren(el("b", null, `σ = ${(at / steps).toFixed(2)}`), `: ${parts.join(", ")}.`);
    slider.setAttribute("aria-valuetext", output.textContent);
  }

  slider.addEventListener("input", show);
  show();
  const used = now === null || now === undefined ? "" : ` The run used ${now}; another takes a new run: `;
  const chart = svg(
    "svg",
    {
      viewBox: `-2 -14 ${WIDE + 4} ${HIGH + 54}`,
      role: "img",
      "aria-label": "What the refinement gives for every sigma",
    },
    svg("text", { x: 0, y: -4 }, "100% of all images"),
    lines,
    marker,
    axes(WIDE, HIGH, TICKS, "sigma"),
  );
  const reading = el(
    "div",
    null,
    el("p", null, output, used, used ? el("code", null, "gdui label … --set refine.sigma=… --out NEW") : null, used ? "." : null),
    el(
      "ul",
      { class: "legend" },
      Object.keys(curves).map((name) => legendOf(`line ${name}`, CURVES[name])),
    ),
  );
  const whole = panel(
    "The refinement's sigma",
    `below it, an image of a doubtful cluster takes the opinion's label${graph ? "; this is before the graph, which decides after it" : ""}`,
    el("div", { class: "both" }, el("div", null, chart, slider), reading),
  );
  whole.classList.add("sweep");
  return whole;
}
