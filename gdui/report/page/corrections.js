// What a person says of images: kept in the browser, undone step by step, and handed out as corrections.csv.

const corrections = (() => {
  const place = `gdui:${head.key}`;
  const known = new Map(images.id.map((id, at) => [id, at]));
  const classOf = new Map(classes.map((one, at) => [one.name, at]));
  const said = new Map();
  const before = [];
  const listeners = [];

  function stored() {
    try {
      return new Map(Object.entries(Object(JSON.parse(localStorage.getItem(place)))));
    } catch {
      // A browser may refuse to keep anything, or hold what another page wrote: the review then begins afresh.
      return new Map();
    }
  }

  function load() {
    said.clear();
    for (const [id, name] of stored()) {
      if (known.has(id) && (name === "" || classOf.has(name)))
        said.set(known.get(id), name === "" ? NOBODY : classOf.get(name));
    }
  }

  // Another tab may have kept decisions on other images since.
  function keep(at) {
    const all = stored();
    if (said.has(at)) all.set(...row(at));
    else all.delete(images.id[at]);
    try {
      localStorage.setItem(place, JSON.stringify(Object.fromEntries(all)));
    } catch {
      // See above: the export still has everything.
    }
  }

  function mark() {
    for (const node of document.querySelectorAll("[data-image]"))
      node.classList.toggle("corrected", said.has(Number(node.dataset.image)));
    for (const tell of listeners) tell();
  }

  const row = (at) => [images.id[at], said.get(at) === NOBODY ? "" : classes[said.get(at)].name];
  const rows = () => [...said.keys()].map(row);

  function put(at, label) {
    if (label === undefined) said.delete(at);
    else said.set(at, label);
    keep(at);
    mark();
  }

  function set(at, label) {
    before.push([at, said.get(at)]);
    put(at, label);
  }

  function undo() {
    if (!before.length) return undefined;
    const [at, label] = before.pop();
    put(at, label);
    return at;
  }

  // A spreadsheet must not take a name for a formula; `gdui relabel` takes the quote in front away again.
  const guarded = (text) => (/^'*[=+\-@\t\r\n＝＋－＠]/.test(text) ? `'${text}` : text);
  const quoted = (text) => (/[",\n\r]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const cell = (text) => quoted(guarded(text));

  function csv() {
    return ["id,label", ...rows().map((row) => row.map(cell).join(","))].join("\n") + "\n";
  }

  function save() {
    const address = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    el("a", { href: address, download: "corrections.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
    say(`${counted(said.size, "correction", "corrections")} exported`);
  }

  addEventListener("storage", (event) => {
    if (event.key !== place) return;
    load();
    mark();
  });
  load();
  return {
    of: (at) => said.get(at),
    set,
    undo,
    save,
    csv,
    size: () => said.size,
    undoable: () => before.length > 0,
    listen: (tell) => listeners.push(tell),
  };
})();
