// The doubtful images one after another: a person accepts, renames or rejects each, with the keyboard alone if they like.

const FIXED = 10;
const KEYS = "1234567890";
const DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
const AHEAD = 9;

function reviewSection() {
  const queue = data.review;
  if (!queue.length) {
    section("review", "Review", el("p", null, "There is nothing to review."));
    return;
  }
  const desk = el("div", {
    class: "desk panel",
    tabindex: 0,
    role: "group",
    "aria-label": "Review desk",
    "aria-keyshortcuts": "Enter X W U E ArrowLeft ArrowRight",
  });
  const bar = el("i");
  const tally = el("small");
  const next = el("div", { class: "next" });
  let now = Math.max(
    0,
    queue.findIndex((at) => corrections.of(at) === undefined),
  );

  const done = () => queue.filter((at) => corrections.of(at) !== undefined).length;

  const verdict = (at, label) =>
    label === images.label[at] ? "accepted" : label === NOBODY ? "rejected" : `now ${nameOf(label)}`;

  function decide(label) {
    const at = queue[now];
    corrections.set(at, label);
    const heard = `${nameOf(images.label[at])} ${verdict(at, label)}.`;
    if (now < queue.length - 1) go(now + 1, heard);
    else say(`${heard} That was the last image. ${tally.textContent}.`);
  }

  function withdraw() {
    if (corrections.of(queue[now]) === undefined) return;
    corrections.set(queue[now], undefined);
    say("withdrawn");
  }

  function go(place, heard = "") {
    now = Math.min(Math.max(place, 0), queue.length - 1);
    show();
    const at = queue[now];
    say(`${heard} ${now + 1} of ${queue.length}. ${spoken(at)}. The opinion says ${nameOf(images.first[at])}.`.trim());
  }

  function undo() {
    const at = corrections.undo();
    if (at === undefined) return;
    if (queue.includes(at)) now = queue.indexOf(at);
    show();
    say("undone");
  }

  function show() {
    const at = queue[now];
    const focused = document.activeElement;
    const control = desk.contains(focused) ? focused.dataset.control : undefined;
    const refocus = desk.contains(focused) || next.contains(focused);
    desk.replaceChildren(
      el("div", { class: "sight" }, picture(at)),
      el("div", null, question(at), answers(at), steps()),
    );
    bar.style.width = percent(done() / queue.length, 2);
    tally.textContent = `${count(done())} of ${counted(queue.length, "image", "images")} reviewed, ${counted(corrections.size(), "correction", "corrections")} in all`;
    const from = Math.max(0, Math.min(now - 2, queue.length - AHEAD));
    next.replaceChildren(
      el(
        "ul",
        { class: "strip" },
        queue.slice(from, from + AHEAD).map((image, offset) => el("li", null, waiting(image, from + offset))),
      ),
    );
    if (refocus) held(control).focus({ preventScroll: true });
  }

  const held = (control) => (control && desk.querySelector(`[data-control="${control}"]`)) || desk;

  function waiting(at, place) {
    const kind = `tile${place === now ? " now" : ""}${corrections.of(at) === undefined ? "" : " corrected"}`;
    return el(
      "button",
      { type: "button", class: kind, "aria-label": `Go to ${spoken(at)}`, onclick: () => go(place) },
      picture(at),
    );
  }

  function question(at) {
    const said = corrections.of(at);
    return el(
      "div",
      { class: "saying" },
      el(
        "p",
        { class: "verdict" },
        swatch(images.label[at]),
        nameOf(images.label[at]),
        said === undefined ? null : el("span", { class: "tag" }, verdict(at, said)),
      ),
      el("p", { class: "faint" }, images.why[at]),
    );
  }

  function answers(at) {
    const offered = [...keyed(at)].map(([key, label]) => {
      const notes = [
        label === images.label[at] && "label",
        label === images.first[at] && "opinion",
        label === images.second[at] && "its second",
      ].filter(Boolean);
      const pressed = String(corrections.of(at) === label);
      return el(
        "button",
        {
          type: "button",
          "data-control": label,
          "aria-pressed": pressed,
          "aria-keyshortcuts": key,
          onclick: () => decide(label),
        },
        swatch(label),
        nameOf(label),
        notes.length ? el("small", null, notes.join(", ")) : null,
        el("kbd", { "aria-hidden": "true" }, key),
      );
    });
    return el(
      "div",
      { class: "choices" },
      offered,
      classes.length > FIXED ? classPicker("Another class", decide) : null,
    );
  }

  function steps() {
    const at = queue[now];
    const step = (text, key, act, more) =>
      el(
        "button",
        { type: "button", "data-control": text, onclick: act, ...more },
        text,
        key && el("kbd", { "aria-hidden": "true" }, key),
      );
    // What can't act is not `disabled`, for it would lose the focus.
    const idle = (is) => (is ? { "aria-disabled": "true" } : null);
    return el(
      "div",
      { class: "controls" },
      images.label[at] === NOBODY ? null : step("Accept", "Enter", () => decide(images.label[at]), { class: "main" }),
      step("Reject", "X", () => decide(NOBODY)),
      step("Withdraw", "W", withdraw, idle(corrections.of(at) === undefined)),
      step("Undo", "U", undo, idle(!corrections.undoable())),
      step("←", null, () => go(now - 1), { "aria-label": "Previous image", ...idle(now === 0) }),
      step("→", null, () => go(now + 1), { "aria-label": "Next image", ...idle(now === queue.length - 1) }),
    );
  }

  const shortcuts = {
    Enter: () => images.label[queue[now]] !== NOBODY && decide(images.label[queue[now]]),
    x: () => decide(NOBODY),
    w: withdraw,
    u: undo,
    e: corrections.save,
    ArrowLeft: () => go(now - 1),
    ArrowRight: () => go(now + 1),
  };

  desk.addEventListener("keydown", (event) => {
    if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" && event.target !== desk) return;
    const named = keyed(queue[now]).get(event.key);
    const act =
      named !== undefined
        ? () => decide(named)
        : (shortcuts[event.key] ?? shortcuts[event.key.toLowerCase()]);
    if (!act) return;
    event.preventDefault();
    act();
    desk.focus({ preventScroll: true });
  });
  // After a mouse the keys belong to the desk; from the keyboard the focus stays where it was.
  desk.addEventListener("click", (event) => {
    if (event.detail && event.target.closest("button")) desk.focus({ preventScroll: true });
  });
  corrections.listen(show);

  const save = el(
    "button",
    { type: "button", class: "main", onclick: corrections.save },
    "Export corrections.csv",
    el("kbd", null, "E"),
  );
  section(
    "review",
    "Review",
    el(
      "p",
      { class: "faint" },
      "The images most worth a look, disagreements with the opinion first. What you decide stays in this browser until you export it.",
    ),
    el("div", { class: "progress", "aria-hidden": "true" }, bar),
    tally,
    desk,
    next,
    el("div", { class: "controls" }, save),
    el(
      "p",
      { class: "aside" },
      "Then ",
      el("code", null, "gdui relabel RUN --corrections corrections.csv"),
      " keeps what you said and spreads it to similar images.",
    ),
  );
  show();
}

// A few classes keep their keys; of many, the likely ones come first.
function suggestions(at) {
  if (classes.length <= FIXED) return classes.map((_, label) => label);
  const likely = [images.label[at], images.first[at], images.second[at], images.matched[at]];
  return [...new Set(likely)].filter((label) => label !== NOBODY);
}

// Key -> class, in the classes' order. Who is named by a digit has its key, the others those that are left.
function keyed(at) {
  const offered = suggestions(at);
  const own = offered.map((label) => digitOf(classes[label].name));
  const free = [...KEYS].filter((key) => !own.includes(key));
  const keyOf = (key, place) => (key !== undefined && own.indexOf(key) === place ? key : free.shift());
  return new Map(own.map((key, place) => [keyOf(key, place), offered[place]]));
}

// The only digit of a name, as in "3", "three" or "digit 3".
function digitOf(name) {
  const word = DIGITS.indexOf(name.trim().toLowerCase());
  return word < 0 ? /^\D*(\d)\D*$/.exec(name)?.[1] : String(word);
}
