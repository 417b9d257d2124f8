// What came out, how good it should be, what it cost, and what to look at first.

function overview() {
  const place = document.getElementById("overview");
  document.getElementById("brand").textContent = head.title;
  place.append(
    el(
      "h1",
      { id: "overview-title" },
      `${counted(head.images, "image", "images")}, ${counted(classes.length, "class", "classes")}`,
    ),
    el("p", { class: "faint" }, provenance()),
    figures(),
    accuracyReason(),
    el("div", { class: "grid" }, ledger(), findings()),
  );
  document
    .getElementById("footer")
    .append(
      `Made by gdui ${head.version}. `,
      head.folder
        ? `Its pictures lie beside it in the folder ${head.folder}; it loads nothing else and sends nothing.`
        : "This page is one file: it loads nothing and sends nothing.",
    );
}

function provenance() {
  const parts = [head.encoder && `features by ${head.encoder}`, head.preset && `preset ${head.preset}`];
  if (head.learned_from && head.learned_from !== head.images)
    parts.push(`learned from ${counted(head.learned_from, "image", "images")}`);
  return parts.filter(Boolean).join(" · ");
}

function figures() {
  const unread = Object.values(head.quarantined).reduce((sum, one) => sum + one, 0);
  const of = (part) => (part && part < head.images ? el("small", null, percent(share(part, head.images))) : null);
  const shown = [
    head.accuracy !== null && ["estimated accuracy", percent(head.accuracy)],
    head.truth !== null && ["right, by the truth given", percent(head.truth)],
    ["labelled", count(head.images - head.abstained), of(head.images - head.abstained)],
    ["without a label", count(head.abstained), of(head.abstained)],
    head.pinned > 0 && ["settled by a person", count(head.pinned), of(head.pinned)],
    ["not what the opinion said", count(head.overruled), of(head.overruled)],
    ["could not be read", count(unread)],
  ];
  return el(
    "dl",
    { class: "figures" },
    shown.filter(Boolean).map(([name, ...value]) => el("div", null, el("dt", null, name), el("dd", null, ...value))),
  );
}

function accuracyReason() {
  if (head.accuracy === null) return null;
  return el(
    "p",
    { class: "aside" },
    head.pinned
      ? `The estimate is ${head.accuracy_how}; what a person said of ${counted(head.pinned, "image", "images")} counts as right.`
      : `The estimate is ${head.accuracy_how}: no label was needed for it, and none was seen.`,
  );
}

function ledger() {
  const total = head.ledger.reduce((sum, [, seconds]) => sum + seconds, 0);
  if (!total) return null;
  const parts = head.ledger.map(([stage, seconds], at) => {
    const part = el("i", { "--hue": (190 + at * 37) % 360, title: `${stage}: ${seconds.toFixed(2)} s` });
    part.style.flexGrow = seconds / total;
    return part;
  });
  const rows = head.ledger.map(([stage, seconds, n], at) =>
    el(
      "li",
      null,
      el("i", { class: "swatch", "--hue": (190 + at * 37) % 360 }),
      el("b", null, stage),
      ` ${seconds.toFixed(2)} s`,
      el("span", { class: "faint" }, seconds > 0.005 ? `, ${count(Math.round(n / seconds))}/s` : ""),
    ),
  );
  const [slowest] = head.ledger.reduce((most, one) => (one[1] > most[1] ? one : most));
  return el(
    "div",
    { class: "panel" },
    el("h3", null, `${total.toFixed(total < 100 ? 1 : 0)} seconds of work`),
    el("small", null, `Most of it went into ${slowest}; stages read from a cache cost nothing.`),
    el("div", { class: "stack", "aria-hidden": "true" }, parts),
    el("ul", { class: "legend" }, rows),
  );
}

function findings() {
  const found = [
    ...(head.missing
      ? [
          `${count(head.missing)} of ${counted(images.id.length, "picture", "pictures")} of this page were not found in ${head.sought}; gdui report --images names another place`,
        ]
      : []),
    ...classes.filter((one) => one.warnings.length).map((one) => `${one.name}: ${one.warnings.join("; ")}`),
    ...clusters.flatMap((one, at) => {
      const severe = one.warnings.filter((text) => !text.startsWith("doubtful") && !text.startsWith("its name won"));
      return severe.length
        ? [`cluster ${at}${one.matched === NOBODY ? "" : `, named ${nameOf(one.matched)}`}: ${severe.join("; ")}`]
        : [];
    }),
    ...Object.entries(head.quarantined).map(([reason, n]) => `${counted(n, "image", "images")} not read: ${reason}`),
  ];
  const most = 8;
  const rest =
    found.length > most
      ? el(
          "details",
          null,
          el("summary", null, `${count(found.length - most)} more`),
          el(
            "ul",
            { class: "findings" },
            found.slice(most, 200).map((text) => el("li", null, text)),
          ),
        )
      : null;
  return el(
    "div",
    { class: "panel" },
    el("h3", null, found.length ? "Worth a look" : "Nothing odd was found"),
    head.changed.length ? el("small", null, `${head.changed.join("; ")}.`) : null,
    el(
      "ul",
      { class: "findings" },
      found.slice(0, most).map((text) => el("li", null, text)),
    ),
    rest,
  );
}
