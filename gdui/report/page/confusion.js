// Where the labels say one thing and the opinion, or the truth, another.

const SHOWN = 36;

function confusionSection() {
  const strips = el(
    "div",
    { "aria-live": "polite" },
    el("p", { class: "faint" }, "Images of the chosen cell stand here."),
  );
  const tables = Object.entries(data.confusion).map(([name, one]) =>
    one.images ? confusionPanel(name, one, strips) : null,
  );
  section(
    "confusion",
    "Confusion",
    el("p", { class: "faint" }, "Rows are the labels. Choose a cell to see images of it."),
    el("div", { class: "grid" }, tables, strips),
  );
}

function confusionPanel(name, one, strips) {
  const against = name === "opinion" ? "the opinion's first choice" : "the truth given";
  const show = (row, column) => strips.replaceChildren(cellStrip(name, row, column));
  return panel(
    `Labels against ${against}`,
    `${percent(share(one.same, one.images))} of ${counted(one.images, "image", "images")} agree; columns are ${against}`,
    one.table ? matrix(name, one.table, show) : pairList(one.pairs, show),
  );
}

function matrix(name, table, show) {
  const most = Math.max(1, ...table.flatMap((row, at) => row.filter((_, other) => other !== at)));
  const top = el(
    "tr",
    null,
    el("td"),
    classes.map((one) => el("th", { scope: "col" }, el("span", null, one.name))),
  );
  const rows = table.map((row, at) => {
    const whole = row.reduce((a, b) => a + b, 0);
    return el(
      "tr",
      null,
      el("th", { scope: "row" }, classes[at].name),
      row.map((n, other) => cell(name, n, at, other, at === other ? share(n, whole) : Math.sqrt(n / most), show)),
    );
  });
  return el("div", { class: "matrix" }, el("table", null, el("thead", null, top), el("tbody", null, rows)));
}

function cell(name, n, row, column, strength, show) {
  if (!n) return el("td", { class: "void" }, el("span", { class: "unseen" }, "0"));
  const title = `${count(n)} labelled ${nameOf(row)}, ${name} ${nameOf(column)}`;
  const button = el(
    "button",
    { type: "button", title, "aria-label": title, onclick: () => show(row, column) },
    count(n),
  );
  return el("td", { class: row === column ? "same" : null, "--share": (0.12 + 0.88 * strength).toFixed(3) }, button);
}

function pairList(pairs, show) {
  const items = pairs.map(([row, column, n]) =>
    el(
      "li",
      null,
      el("b", null, count(n)),
      el("button", { type: "button", onclick: () => show(row, column) }, `${nameOf(row)}, not ${nameOf(column)}`),
    ),
  );
  return el("ul", { class: "pairs" }, items);
}

function cellStrip(name, row, column) {
  const other = name === "opinion" ? images.first : images.truth;
  const places = images.id
    .map((_, at) => at)
    .filter((at) => images.label[at] === row && other[at] === column)
    .slice(0, SHOWN);
  const title =
    row === column
      ? `${nameOf(row)}, as both say`
      : `labelled ${nameOf(row)}, where ${name === "opinion" ? "the opinion" : "the truth"} is ${nameOf(column)}`;
  return el(
    "div",
    { class: "panel" },
    places.length
      ? strip(`${title} (${places.length} shown)`, places)
      : el("p", null, `${title}: none of them is among the images of this page.`),
  );
}
