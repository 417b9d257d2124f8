// Elements made of names, attributes and text; nothing here ever reads text as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const { head, classes, clusters, images } = data;

function el(name, attributes, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function svg(name, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) node.style.setProperty(key, value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function section(id, title, ...children) {
  document.getElementById(id).append(el("h2", { id: `${id}-title` }, title), ...children.flat().filter(Boolean));
}

const count = (value) => value.toLocaleString("en-US");
const counted = (value, one, many) => `${count(value)} ${value === 1 ? one : many}`;
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
const fixed = (value) => (value === null || value === undefined ? "unknown" : value.toFixed(2));
const share = (part, whole) => (whole ? part / whole : 0);

function say(text) {
  document.getElementById("said").textContent = text;
}
