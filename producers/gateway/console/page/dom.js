// Making elements, and keeping lists of them in step with data without losing focus.

export const $ = (selector, within = document) => within.querySelector(selector);

/** An element with attributes (functions are listeners) and children, which are nodes or text. */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same in SVG. */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

/** Sets a node's text if it differs, so that a selection in it survives. */
export function say(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

const nodes = new WeakMap();

/** One child of `parent` for each item: made once, updated in place, in the order of the items. */
export function keyed(parent, items, keyOf, make, update) {
  const before = nodes.get(parent) ?? new Map();
  const now = new Map();
  let next = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const node = before.get(key) ?? make(item);
    now.set(key, node);
    update?.(node, item);
    if (node === next) next = next.nextElementSibling;
    else parent.insertBefore(node, next);
  }
  for (const [key, node] of before) if (!now.has(key)) node.remove();
  nodes.set(parent, now);
}

/** Shows a section's table or list, or its sentence for when there is nothing. */
export function show(section, some) {
  $(".empty", section).hidden = some;
  $(".scroll, ul", section).hidden = !some;
}
