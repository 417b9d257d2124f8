// One image, large, with its reason; it can be corrected on the spot.

function inspect(at) {
  const box = document.getElementById("inspector");
  const truth =
    images.truth && images.truth[at] !== NOBODY
      ? el("p", null, `The truth given is ${nameOf(images.truth[at])}.`)
      : null;
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
      classPicker("Label this image", (label) => {
        corrections.set(at, label);
        box.close();
      }),
      el("button", { type: "button", onclick: () => box.close() }, "Close"),
    ),
  );
  box.showModal();
}

// A list of all classes that calls `chosen` with one of them, or with NOBODY.
function classPicker(title, chosen) {
  const options = [
    el("option", { value: "" }, `${title} …`),
    ...classes.map((one, at) => el("option", { value: at }, one.name)),
  ];
  const list = el("select", { "aria-label": title }, options, el("option", { value: NOBODY }, "none of these"));
  list.addEventListener("change", () => {
    if (list.value !== "") chosen(Number(list.value));
    list.value = "";
  });
  return list;
}
