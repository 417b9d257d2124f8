// How classes and images look wherever they appear.

const GOLDEN = 137.508;
const NOBODY = -1;

// A few classes share the circle evenly; of many, neighbouring numbers get hues far apart.
const hue = (at) => (25 + at * (classes.length <= 12 ? 360 / classes.length : GOLDEN)) % 360;

const nameOf = (at) => (at === NOBODY ? "no label" : classes[at].name);

function swatch(at) {
  return at === NOBODY ? el("i", { class: "swatch none" }) : el("i", { class: "swatch", "--hue": hue(at) });
}

function picture(at) {
  if (!images.picture[at]) return el("span", { class: "blank" }, images.id[at]);
  return el("img", { alt: "", loading: "lazy", decoding: "async", src: images.picture[at] });
}

function spoken(at) {
  const sure = images.confidence[at] === null ? "" : `, confidence ${fixed(images.confidence[at])}`;
  return `${images.id[at]}: ${nameOf(images.label[at])}${sure}`;
}

function tile(at, ...caption) {
  const named = corrections.of(at) === undefined ? spoken(at) : `${spoken(at)}, corrected`;
  return el(
    "button",
    {
      type: "button",
      class: "tile",
      "data-image": at,
      "aria-label": named,
      title: spoken(at),
      onclick: () => inspect(at),
    },
    picture(at),
    caption.length ? el("span", null, ...caption) : null,
  );
}

function strip(title, places, caption) {
  if (!places.length) return null;
  const tiles = places.map((at) => el("li", null, tile(at, ...(caption ? caption(at) : []))));
  return el("div", null, title ? el("h4", null, title) : null, el("ul", { class: "strip" }, tiles));
}
