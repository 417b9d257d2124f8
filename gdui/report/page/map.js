// A flat map: images with similar features lie close together.

const DOT = 3.2;
const REACH = 14;

const COLOURS = {
  label: (at) => images.label[at],
  opinion: (at) => images.first[at],
  cluster: (at) => images.cluster[at],
  confidence: null,
  truth: (at) => images.truth[at],
};

function mapSection() {
  if (!data.map) {
    section("map", "Map", el("p", { class: "faint" }, "There are no features at hand from which to draw one."));
    return;
  }
  const canvas = el("canvas", {
    tabindex: 0,
    role: "application",
    "aria-label": "Map of the images: arrow keys go from image to image, Enter opens one",
  });
  const picked = el(
    "div",
    { class: "picked", "aria-live": "polite" },
    el("p", { class: "faint" }, "Point at an image or tap it, or step from one to the next with the arrow keys."),
  );
  const kinds = Object.keys(COLOURS).filter((name) => name !== "truth" || images.truth);
  const by = el(
    "select",
    { "aria-label": "Coloured by" },
    kinds.map((name) => el("option", { value: name }, `coloured by ${name}`)),
  );
  const keys = el("div", { class: "keys", role: "group", "aria-label": "Labels shown" });
  const view = mapView(canvas, picked, by);
  by.addEventListener("change", () => {
    keys.classList.toggle("plain", ["cluster", "confidence"].includes(by.value));
    view.draw();
  });
  if (classes.length <= 40) {
    keys.append(
      ...classes.map((one, at) => {
        const key = el("button", { type: "button", "aria-pressed": "true" }, swatch(at), one.name);
        key.addEventListener("click", () => key.setAttribute("aria-pressed", String(view.toggle(at))));
        return key;
      }),
    );
  }
  const shown = data.map.image.length;
  const what = `${shown < head.images ? `${count(shown)} images drawn at random` : `All ${counted(shown, "image", "images")}`}; similar ones lie close together (${data.map.method}).`;
  section(
    "map",
    "Map",
    el("p", { class: "faint" }, what),
    el("div", { class: "panel map" }, canvas, el("div", null, picked, el("div", { class: "controls" }, by), keys)),
  );
  view.watch();
}

function mapView(canvas, picked, by) {
  const { image, x, y } = data.map;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const hidden = new Set();
  const context = canvas.getContext("2d");
  let current = -1;
  const shown = (at) => !hidden.has(images.label[image[at]]);
  const inset = (value, size) => 10 + value * (size - 20);
  const spot = (at) => [inset(x[at], canvas.clientWidth), inset(1 - y[at], canvas.clientHeight)];

  function colour(at) {
    const light = dark.matches ? 0.74 : 0.58;
    if (by.value === "confidence") return `oklch(${light} ${0.02 + 0.15 * (1 - (images.confidence[at] ?? 0))} 55)`;
    const index = COLOURS[by.value](at);
    if (index === NOBODY) return dark.matches ? "#888" : "#999";
    const turn = by.value === "cluster" ? (25 + index * GOLDEN) % 360 : hue(index);
    return `oklch(${light + (index % 2 ? 0.05 : -0.03)} 0.15 ${turn})`;
  }

  function draw() {
    const scale = devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.globalAlpha = 0.85;
    image.forEach((at, number) => {
      if (!shown(number)) return;
      const overruled = images.label[at] !== images.first[at] && by.value === "label";
      const [left, top] = spot(number);
      context.fillStyle = colour(at);
      context.beginPath();
      context.arc(left, top, overruled ? DOT + 0.6 : DOT, 0, 7);
      context.fill();
    });
    context.globalAlpha = 1;
    if (current >= 0) ring(...spot(current));
  }

  function ring(left, top) {
    context.strokeStyle = getComputedStyle(canvas).color;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(left, top, DOT + 4, 0, 7);
    context.stroke();
  }

  function nearest(left, top) {
    let best = -1;
    let least = REACH;
    image.forEach((_, number) => {
      const [a, b] = spot(number);
      const distance = Math.hypot(a - left, b - top);
      if (shown(number) && distance < least) [best, least] = [number, distance];
    });
    return best;
  }

  // The closest image that lies in the direction of the key, sideways steps counting twice.
  function step(dx, dy) {
    if (current < 0) return pick(image.findIndex((_, number) => shown(number)));
    const [left, top] = spot(current);
    let best = -1;
    let least = Infinity;
    image.forEach((_, number) => {
      const [a, b] = spot(number);
      const ahead = (a - left) * dx + (b - top) * dy;
      const aside = Math.abs((a - left) * dy) + Math.abs((b - top) * dx);
      if (shown(number) && ahead > 0 && ahead > aside / 2 && ahead + 2 * aside < least)
        [best, least] = [number, ahead + 2 * aside];
    });
    return best >= 0 && pick(best);
  }

  function pick(number) {
    if (number < 0 || number === current) return;
    current = number;
    const at = image[number];
    picked.replaceChildren(
      picture(at),
      el("b", null, nameOf(images.label[at])),
      el("p", { class: "faint" }, images.why[at]),
    );
    draw();
  }

  const under = (event) => nearest(event.offsetX, event.offsetY);
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("pointermove", (event) => event.pointerType === "mouse" && pick(under(event)));
  canvas.addEventListener("click", (event) => {
    const found = under(event);
    if (found >= 0 && found === current) inspect(image[found]);
    pick(found);
  });
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && current >= 0) inspect(image[current]);
    if (!ARROWS[event.key]) return;
    event.preventDefault();
    step(...ARROWS[event.key]);
  });
  dark.addEventListener("change", draw);

  function toggle(at) {
    if (!hidden.delete(at)) hidden.add(at);
    draw();
    return !hidden.has(at);
  }

  return { draw, toggle, watch: () => new ResizeObserver(draw).observe(canvas) };
}
