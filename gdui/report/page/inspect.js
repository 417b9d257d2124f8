// One image, large, with its reason; it can be corrected on the spot.

function inspect(at) {
  const box = document.getElementById("inspector");
  const truth =
    images.truth && images.truth[at] !== NOBODY
      ? el("p", null, `The truth given is ${nameOf(images.truth[at])}.`)
      : null;
  const correct = (label) => {
    corrections.set(at, label);
    box.close();
  };
  box.replaceChildren(
    el(
      "div",
      { class: "both" },
      picture(at),
      el(
        "div",
        null,
        el("h2", { id: "inspector-title" }, swatch(images.label[at]), nameOf(images.label[at])),
        el("p", null, images.why[at]),
        truth,
      ),
    ),
    el(
      "div",
      { class: "controls" },
      classPicker("Label this image", correct),
      corrections.of(at) === undefined
        ? null
        : el("button", { type: "button", onclick: () => correct(undefined) }, "Withdraw the correction"),
      el("button", { type: "button", autofocus: true, onclick: () => box.close() }, "Close"),
    ),
  );
  box.showModal();
}

// A list of all classes that calls `chosen` with one of them, or with NOBODY, once that is confirmed: a closed list
// changes with every key.
function classPicker(title, chosen) {
  const options = [
    el("option", { value: "" }, `${title} …`),
    ...classes.map((one, at) => el("option", { value: at }, one.name)),
  ];
  const list = el("select", { "aria-label": title }, options, el("option", { value: NOBODY }, "none of these"));
  const confirm = el("button", { type: "button", disabled: true, onclick: () => chosen(Number(list.value)) }, "Set");
  list.addEventListener("change", () => (confirm.disabled = list.value === ""));
  return el("span", { class: "picker" }, list, confirm);
}
