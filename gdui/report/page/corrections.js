// What a person says of images: kept in the browser, undone step by step, and handed out as corrections.csv.

const corrections = (() => {
  const place = `gdui:${head.key}`;
  const known = new Map(images.id.map((id, at) => [id, at]));
  const classOf = new Map(classes.map((one, at) => [one.name, at]));
  const said = new Map();
  const before = [];
  const listeners = [];

  function load() {
    try {
      for (const [id, name] of Object.entries(JSON.parse(localStorage.getItem(place) ?? "{}"))) {
        if (known.has(id) && (name === "" || classOf.has(name)))
          said.set(known.get(id), name === "" ? NOBODY : classOf.get(name));
      }
    } catch {
      // A browser may refuse to keep anything, or hold what another page wrote: the review then begins afresh.
    }
  }

  function changed(at) {
    try {
      localStorage.setItem(place, JSON.stringify(Object.fromEntries(rows())));
    } catch {
      // See above: the export still has everything.
    }
    for (const node of document.querySelectorAll(`[data-image="${at}"]`))
      node.classList.toggle("corrected", said.has(at));
    for (const tell of listeners) tell(at);
  }

  const rows = () => [...said].map(([at, label]) => [images.id[at], label === NOBODY ? "" : classes[label].name]);

  function set(at, label) {
    before.push([at, said.get(at)]);
    said.set(at, label);
    changed(at);
  }

  function undo() {
    if (!before.length) return undefined;
    const [at, label] = before.pop();
    if (label === undefined) said.delete(at);
    else said.set(at, label);
    changed(at);
    return at;
  }

  const cell = (text) => (/[",\n\r]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  function csv() {
    return ["id,label", ...rows().map((row) => row.map(cell).join(","))].join("\n") + "\n";
  }

  function save() {
    const address = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    el("a", { href: address, download: "corrections.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
    say(`${counted(said.size, "correction", "corrections")} exported`);
  }

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
