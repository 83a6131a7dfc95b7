// What every widget of drgnbook needs; put in front of each one's own module (`drgnbook.widget.page`).

const PALETTE = ['#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00', '#F0E442', '#999999'];   // Okabe & Ito

// An element: attributes, `on...` handlers, properties in `$`, then children (nodes or text).
function el(tag, attrs = {}, ...kids) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attrs)) {
    if (value === false || value == null) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === '$') Object.assign(node, value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...kids.flat().filter(kid => kid != null));
  return node;
}

// A button with a key: `S stop`. The key works while the focus is inside the widget and not in a field.
function button(text, key, act, attrs = {}) {
  return el('button', { type: 'button', title: key ? `${attrs.title || text} (key ${key})` : attrs.title || text, 'aria-keyshortcuts': key || null, 'data-key': key || null, onclick: act, ...attrs }, text);
}

function keys(root) {
  root.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const found = [...root.querySelectorAll('button[data-key]')].find(b => b.dataset.key.toLowerCase() === event.key.toLowerCase() && !b.disabled && b.offsetParent);
    if (!found) { if (event.key.length === 1 || event.key.startsWith('Arrow')) event.stopPropagation(); return; }   // JupyterLab's own keys (dd deletes a cell) stay outside
    found.click(); event.preventDefault(); event.stopPropagation();
  });
}

// A labelled field: slider, number, choice, check box.
function field(text, node) { return el('label', { class: 'drgn-field' }, text ? el('span', {}, text) : null, node); }
function slider(text, min, max, step, value, act) { return field(text, el('input', { type: 'range', min, max, step, $: { value }, oninput: event => act(+event.target.value) })); }
function choice(text, options, value, act) {
  return field(text, el('select', { onchange: event => act(event.target.value) }, options.map(o => el('option', { value: o, $: { selected: o === value } }, o))));
}
function check(text, value, act) { return field(text, el('input', { type: 'checkbox', $: { checked: value }, onchange: event => act(event.target.checked) })); }

// Binary of Python (a DataView, however it is wrapped) as a typed array.
function typed(view, Type) {
  if (!view || !view.byteLength) return new Type(0);
  const buffer = view.buffer || view, start = view.byteOffset || 0;
  return start % Type.BYTES_PER_ELEMENT ? new Type(buffer.slice(start, start + view.byteLength)) : new Type(buffer, start, view.byteLength / Type.BYTES_PER_ELEMENT);
}
const ARRAYS = { float32: Float32Array, float64: Float64Array, uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, int32: Int32Array, int16: Int16Array };
// An array of Python (`drgnbook.widget.packed`): { dtype, shape, data }.
function unpacked(it) { return it && it.dtype ? Object.assign(typed(it.data, ARRAYS[it.dtype]), { shape: it.shape }) : null; }

// Tell Python to do something: `Widget.do_NAME(*words, *buffers)`.
function tell(model, name, words = [], buffers = []) { model.send({ do: name, with: words }, undefined, buffers); }

// The colours of the page, and `f` once more whenever they change, or are first known: an element that is not yet on the page has none.
function colours(root) {
  const style = getComputedStyle(root), rgb = s => (s.match(/[\d.]+/g) || [255, 255, 255]).map(Number);
  const back = rgb(style.backgroundColor);
  return { fg: style.color, bg: style.backgroundColor, dim: style.getPropertyValue('--dim') || 'gray', dark: back[0] + back[1] + back[2] < 384 };
}
function onTheme(root, f) {
  const watch = new MutationObserver(() => requestAnimationFrame(f)), media = matchMedia('(prefers-color-scheme: dark)');
  const there = new ResizeObserver(() => { there.disconnect(); f(); });
  watch.observe(document.body, { attributes: true });
  media.addEventListener('change', f);
  if (!root.isConnected) there.observe(root);
  return () => { watch.disconnect(); there.disconnect(); media.removeEventListener('change', f); };
}

// The frame of a widget: its root element, a line for what Python says, keys; `end` collects what to undo when it goes.
function frame(model, host, name) {
  const root = el('section', { class: `drgn drgn-${name}`, 'aria-label': name, tabindex: 0 }), notice = el('p', { class: 'drgn-notice', role: 'alert' }), ends = [];
  const say = () => { notice.textContent = model.get('said') || ''; notice.hidden = !notice.textContent; };
  const on = (event, f) => { model.on(event, f); ends.push(() => model.off(event, f)); };
  on('change:said', say); say(); keys(root);
  root.append(notice); host.append(root);
  return { root, on, end: f => ends.push(f), ends: () => ends.forEach(f => f()), fail: error => { notice.textContent = String(error.message || error); notice.hidden = false; } };
}
