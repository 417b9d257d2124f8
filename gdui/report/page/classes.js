// Every class with its surest, its least sure and its relabelled images, and the clusters behind it.

const ORDERS = {
  "as given": () => 0,
  "largest first": (a, b) => classes[b].images - classes[a].images,
  "smallest first": (a, b) => classes[a].images - classes[b].images,
  "least sure first": (a, b) => (classes[a].confidence ?? 2) - (classes[b].confidence ?? 2),
  "most warnings first": (a, b) => classes[b].warnings.length - classes[a].warnings.length,
};
const AT_ONCE = 20;

function classSection() {
  const list = el("div");
  const more = el("button", { type: "button" });
  const search = el("input", { type: "search", placeholder: "Find a class", "aria-label": "Find a class" });
  const order = el(
    "select",
    { "aria-label": "Order of the classes" },
    Object.keys(ORDERS).map((name) => el("option", null, name)),
  );
  let waiting = [];

  function show() {
    list.append(...waiting.splice(0, AT_ONCE).map(classCard));
    more.hidden = !waiting.length;
    more.textContent = `Show ${Math.min(AT_ONCE, waiting.length)} of ${count(waiting.length)} more`;
  }

  function begin() {
    const wanted = search.value.trim().toLowerCase();
    waiting = classes.map((_, at) => at).filter((at) => classes[at].name.toLowerCase().includes(wanted));
    waiting.sort(ORDERS[order.value]);
    list.replaceChildren();
    show();
  }

  search.addEventListener("input", begin);
  order.addEventListener("change", begin);
  more.addEventListener("click", show);
  const controls = classes.length > 5 ? el("div", { class: "controls" }, search, order) : null;
  section(
    "classes",
    "Classes",
    el("p", { class: "faint" }, "Surest and least sure images of each. Choose one to see why it has its label."),
    controls,
    list,
    more,
    namelessClusters(),
  );
  begin();
}

function classCard(at) {
  const one = classes[at];
  const relabelled = strip(null, one.relabelled, (image) => [
    `${nameOf(images.matched[image])} →`,
    el("br"),
    el("b", null, one.name),
    el("br"),
    `by ${images.rule[image]}`,
  ]);
  return el(
    "article",
    { class: "class", "aria-label": one.name },
    el(
      "header",
      null,
      el("h3", null, swatch(at), one.name),
      el("span", { class: "faint" }, counted(one.images, "image", "images"), sureness(one.confidence)),
      one.warnings.map((text) => el("span", { class: "tag" }, text)),
    ),
    el("div", { class: "strips" }, strip("surest", one.surest), strip("least sure", one.least)),
    el(
      "div",
      { class: "drawers" },
      relabelled ? lazily(`Renamed images (${one.relabelled.length} shown)`, () => relabelled) : null,
      clusterDrawer(at),
    ),
  );
}

const sureness = (confidence) => (confidence === null ? "" : ` · confidence ${fixed(confidence)}`);

// Where there are more clusters than names.
function namelessClusters() {
  const nameless = clusters.map((_, at) => at).filter((at) => clusters[at].matched === NOBODY);
  if (!nameless.length) return null;
  return lazily(counted(nameless.length, "cluster has no name", "clusters have no name"), () =>
    el("div", { class: "clusters" }, nameless.map(clusterCard)),
  );
}

function clusterDrawer(at) {
  const mine = classes[at].clusters;
  if (!mine.length) return null;
  return lazily(mine.length === 1 ? "The cluster behind it" : `The ${mine.length} clusters behind it`, () =>
    el("div", { class: "clusters" }, mine.map(clusterCard)),
  );
}

// What stands in a drawer is made when it is first opened.
function lazily(title, make) {
  const drawer = el("details", null, el("summary", null, title));
  drawer.addEventListener("toggle", () => drawer.open && drawer.childElementCount === 1 && drawer.append(make()));
  return drawer;
}

function clusterCard(at) {
  const one = clusters[at];
  const terms = [
    ["margin of its name", one.margin === null ? null : percent(one.margin, 0)],
    ["next class", one.runner_up === NOBODY ? "none" : nameOf(one.runner_up)],
    ["opinion agrees (delta)", fixed(one.delta)],
    ["of the surest", fixed(one.delta_top)],
    ["of the least sure", fixed(one.delta_btm)],
    ["how firm those are (r)", fixed(one.r)],
    ["its name is", one.name || null],
  ];
  return el(
    "div",
    { class: "cluster" },
    el(
      "header",
      null,
      el("h3", null, `Cluster ${at}`),
      el("span", { class: "faint" }, counted(one.images, "image", "images")),
      one.warnings.map((text) => el("span", { class: "tag" }, text)),
    ),
    el(
      "div",
      { class: "columns" },
      el("div", null, el("h4", null, `how its ${count(one.voters)} surest images vote`), voteList(one)),
      el("div", { class: "strips" }, strip("surest in it", one.top), strip("least sure", one.bottom)),
    ),
    el(
      "dl",
      { class: "terms" },
      terms
        .filter(([, value]) => value !== null)
        .map(([name, value]) => el("div", null, el("dt", null, name), el("dd", null, value))),
    ),
  );
}

function voteList(one) {
  const bars = one.votes.slice(0, 5).map(([name, votes]) => {
    const bar = el("i", { "--hue": hue(name) });
    bar.style.width = percent(share(votes, one.voters));
    return el(
      "li",
      { class: name === one.matched ? "mine" : null },
      el("span", null, nameOf(name)),
      el("span", { class: "meter", "aria-hidden": "true" }, bar),
      el("span", null, count(votes)),
    );
  });
  return el("ul", { class: "votes" }, bars);
}
