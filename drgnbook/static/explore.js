// explore: the map of a latent space, what is drawn around on it, and what those particles look like.

// ---- colours -------------------------------------------------------------------------------------------------------------------------
const VIRIDIS = ['440154', '472d7b', '3b528b', '2c728e', '21918c', '28ae80', '5ec962', 'addc30', 'fde725'].map(hex => [0, 2, 4].map(i => parseInt(hex.slice(i, i + 2), 16)));
function viridis(t) {
  const x = Math.min(Math.max(t, 0), 1) * 8, i = Math.min(7, x | 0), f = x - i;
  return VIRIDIS[i].map((c, j) => c + (VIRIDIS[i + 1][j] - c) * f);
}
const rgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)), mix = (a, b, t) => a.map((c, j) => c + (b[j] - c) * t), css = c => `rgb(${c.map(Math.round)})`;
function classColour(i, dark) { const c = rgb(PALETTE[i % 8]), round = Math.floor(i / 8) % 3; return round ? mix(c, round === 1 ? [255, 255, 255] : [0, 0, 0], .42) : c; }
const along = (t, dark) => viridis(dark ? .12 + .88 * t : .93 * t);            // the ends that would drown in the page are left out

// 512 colours: of each level where it is not selected, and where it is.
function shades(paint, any, dark) {
  const out = new Float32Array(3 * 512), back = dark ? [74, 74, 78] : [205, 205, 208], none = dark ? [110, 110, 110] : [170, 170, 170];
  for (let i = 0; i < 256; i++) {
    const c = paint.kind === 'density' ? rgb(dark ? '#56B4E9' : '#0072B2') : i === 255 ? none : paint.kind === 'classes' ? classColour(i, dark) : along(i / 254, dark);
    out.set(any ? (paint.kind === 'density' ? back : mix(c, back, dark ? .74 : .82)) : c, 3 * i);
    out.set(c, 3 * (256 + i));
  }
  return out;
}

// ---- points as a density -----------------------------------------------------------------------------------------------------------------
// The processor draws: one pass over the points adds up colours in each pixel, one over the pixels makes them a picture whose opacity is the logarithm of the
// density. A million points take some ten milliseconds, the same with and without a graphics card, and there is no WebGL context that could be lost.
function disc(size) {
  const r = size / 2, m = Math.ceil(r - .5), spots = [];
  for (let y = -m; y <= m; y++) for (let x = -m; x <= m; x++) { const w = Math.min(1, Math.max(0, r + .5 - Math.hypot(x, y))); if (w > .05) spots.push([x, y, m ? w : 1]); }
  return { m, spots };
}

function painter(canvas) {
  const context = canvas.getContext('2d'), table = new Float32Array(4096).map((_, i) => Math.log1p(i / 16));
  let sums = new Float32Array(0), image = null;
  return ({ xy, level, colours: lut, selected, shown, any, to: [ax, bx, ay, by], size, step, density, dark }) => {
    const w = canvas.width, h = canvas.height, { m, spots } = disc(size), W = w + 2 * m, H = h + 2 * m, n = xy.length / 2;
    if (sums.length !== 4 * W * H) sums = new Float32Array(4 * W * H); else sums.fill(0);
    if (!image || image.width !== w || image.height !== h) image = context.createImageData(w, h);
    const off = Int32Array.from(spots, s => 4 * (s[1] * W + s[0])), weight = Float32Array.from(spots, s => s[2]), k = off.length, origin = 4 * (m * W + m);
    let seen = 0;
    for (let i = 0; i < n; i += step) {
      const x = ax * xy[2 * i] + bx, y = ay * xy[2 * i + 1] + by;
      if (!(x >= 0 && x < w && y >= 0 && y < h) || !(shown[i >> 3] >> (i & 7) & 1)) continue;      // NaN fails, too
      seen++;
      const mine = any && selected[i >> 3] >> (i & 7) & 1, c = 3 * (level[i] + (mine ? 256 : 0)), f = mine ? 4 : 1, at = origin + 4 * ((y | 0) * W + (x | 0)), r = lut[c], g = lut[c + 1], b = lut[c + 2];
      for (let j = 0; j < k; j++) { const p = at + off[j], a = f * weight[j]; sums[p] += a * r; sums[p + 1] += a * g; sums[p + 2] += a * b; sums[p + 3] += a; }
    }
    let one = 0, two = 0;
    for (let p = 3; p < sums.length; p += 4) { const a = sums[p]; one += a; two += a * a; }
    const full = 1 / Math.log1p(2 * (one ? two / one : 1)), out = new Uint32Array(image.data.buffer), ramp = Uint32Array.from({ length: 256 }, (_, i) => { const [r, g, b] = along(i / 255, dark); return (b << 16 | g << 8 | r) >>> 0; });
    for (let y = 0, q = 0; y < h; y++) for (let x = 0, p = origin + 4 * y * W; x < w; x++, p += 4, q++) {
      const a = sums[p + 3];
      if (!a) { out[q] = 0; continue; }
      const t = Math.min(1, (a < 256 ? table[a * 16 | 0] : Math.log1p(a)) * full), alpha = Math.min(1, a) * (.3 + .7 * t) * 255;
      out[q] = (density ? ramp[t * 255 | 0] : sums[p + 2] / a << 16 | sums[p + 1] / a << 8 | sums[p] / a) | (density ? Math.min(1, a) * 255 : alpha) << 24;
    }
    context.putImageData(image, 0, 0);
    return seen * step;
  };
}

// ---- which points are inside -------------------------------------------------------------------------------------------------------------
// Winding number, as `drgnbook.explore.inside`: first the bounding box, then only the edges that cross the point's band of y.
function inside(xy, outline, shown) {
  const n = xy.length / 2, out = new Uint8Array((n + 7) >> 3), xs = outline.map(p => p[0]), ys = outline.map(p => p[1]);
  const x0 = Math.min(...xs), x1 = Math.max(...xs), y0 = Math.min(...ys), y1 = Math.max(...ys), bands = 256, per = bands / Math.max(y1 - y0, 1e-30), band = y => Math.min(bands - 1, Math.max(0, Math.floor((y - y0) * per)));
  const edges = Array.from({ length: bands }, () => []);
  outline.forEach((a, i) => {
    const b = outline[(i + 1) % outline.length], [lo, hi] = a[1] < b[1] ? [a[1], b[1]] : [b[1], a[1]];
    if (lo !== hi) for (let j = band(lo); j <= band(hi); j++) edges[j].push(a[0], a[1], b[0], b[1]);
  });
  const flat = edges.map(e => Float64Array.from(e));
  for (let i = 0; i < n; i++) {
    const x = xy[2 * i], y = xy[2 * i + 1];
    if (!(x >= x0 && x <= x1 && y >= y0 && y <= y1) || !(shown[i >> 3] >> (i & 7) & 1)) continue;
    const e = flat[band(y)];
    let turns = 0;
    for (let j = 0; j < e.length; j += 4) {
      const left = (e[j + 2] - e[j]) * (y - e[j + 1]) - (x - e[j]) * (e[j + 3] - e[j + 1]);
      if (e[j + 1] <= y) { if (e[j + 3] > y && left > 0) turns++; } else if (e[j + 3] <= y && left < 0) turns--;
    }
    if (turns) out[i >> 3] |= 1 << (i & 7);
  }
  return out;
}
const ONES = Uint8Array.from({ length: 256 }, (_, i) => i.toString(2).replaceAll('0', '').length), count = bits => { let s = 0; for (let i = 0; i < bits.length; i++) s += ONES[bits[i]]; return s; };
const HOW = { new: (a, b) => b, add: (a, b) => a | b, subtract: (a, b) => a & ~b, intersect: (a, b) => a & b };
const number = n => n.toLocaleString('en'), short = x => Math.abs(x) >= 1e5 || (x && Math.abs(x) < 1e-3) ? x.toExponential(1) : String(+x.toPrecision(4));

// ---- icons: 16 × 16, drawn with a pen --------------------------------------------------------------------------------------------------------
const ICONS = {
  Pan: 'M8 1.5v13M1.5 8h13M6 3.5l2-2 2 2M6 12.5l2 2 2-2M3.5 6l-2 2 2 2M12.5 6l2 2-2 2', Lasso: 'M8 2.5c3.5 0 6 1.6 6 3.9s-2.5 3.9-6 3.9-6-1.6-6-3.9 2.5-3.9 6-3.9M4.6 9.6c-1.4.7-1.4 2.2 0 2.4 1.3.2 1.6 1.3.4 2.2',
  Box: 'M2.5 3.5h11v9h-11z', Polygon: 'M3.5 12.5L2 5.5l6-3 6 4-3 6.5z', Probe: 'M8 1.5v3.5M8 11v3.5M1.5 8H5M11 8h3.5M8 5.7a2.3 2.3 0 1 0 .01 0', Path: 'M3.2 12.8c2-8 7.6 1 9.6-9.6M2 12.8a1.2 1.2 0 1 0 2.4 0a1.2 1.2 0 1 0-2.4 0M11.6 3.2a1.2 1.2 0 1 0 2.4 0a1.2 1.2 0 1 0-2.4 0',
  New: 'M3 3h10v10H3z', Add: 'M3 8h10M8 3v10', Subtract: 'M3 8h10', Intersect: 'M4 13V7a4 4 0 0 1 8 0v6',
  Invert: 'M8 2a6 6 0 1 0 .01 0M8 2v12M8 4.5h4M8 7h5.5M8 9.5h5.5M8 12h3.5', Undo: 'M5.5 2.5L2.5 5.5l3 3M2.5 5.5h7a4 4 0 0 1 0 8H6', None: 'M4 4l8 8M12 4l-8 8', View: 'M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4M6 6h4v4H6z', Whole: 'M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4',
  Play: 'M4.5 2.5v11l8-5.5z', Pause: 'M5 3v10M11 3v10', Back: 'M10.5 3l-5 5 5 5', Next: 'M5.5 3l5 5-5 5', Drop: 'M4 4l8 8M12 4l-8 8',
};
function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg'), path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  svg.setAttribute('viewBox', '0 0 16 16'); svg.setAttribute('aria-hidden', 'true'); path.setAttribute('d', ICONS[name]); svg.append(path);
  return svg;
}
// A button that shows an icon and says its name.
function tool(shape, name, key, act, attrs = {}) { const b = button(name, key, act, { class: 'drgn-icon', 'aria-label': name, ...attrs }); b.replaceChildren(icon(shape)); return b; }
const group = (label, ...kids) => el('div', { class: 'drgn-group', role: 'group', 'aria-label': label }, kids.flat());

// ---- the map -----------------------------------------------------------------------------------------------------------------------------
function atlas(model, root, act) {
  const canvas = el('canvas', { class: 'drgn-points' }), top = el('canvas', { class: 'drgn-over', tabindex: 0, role: 'img' }), box = el('div', { class: 'drgn-map' }, canvas, top), paintPoints = painter(canvas);
  const s = { xy: new Float32Array(0), level: new Uint8Array(0), selected: new Uint8Array(0), shown: new Uint8Array(0), n: 0, tool: 'Lasso', how: 'new', outline: [], anchors: [], walk: null, marks: [] };
  let view = { x: 0, y: 0, zoom: 1 }, frame = { equal: true, span: [1, 1] }, size = 2, step = 1, asked = 0, rest = 0, slow = 0, inView = 0, drag = null, armed = false;

  const scale = () => { const [a, b] = [canvas.width, canvas.height].map((side, j) => side * .94 * view.zoom / (frame.span[j] || 0)), one = Math.min(a, b, 1e300); return frame.equal ? [one, one] : [Math.min(a, 1e300), Math.min(b, 1e300)]; };
  const to = () => { const [a, b] = scale(); return [a, canvas.width / 2 - a * view.x, -b, canvas.height / 2 + b * view.y]; };
  const px = ([x, y]) => { const [a, b, c, d] = to(); return [a * x + b, c * y + d]; };
  const at = event => { const r = top.getBoundingClientRect(), [a, b, c, d] = to(); return [((event.clientX - r.left) * canvas.width / r.width - b) / a, ((event.clientY - r.top) * canvas.height / r.height - d) / c]; };
  const dpr = () => canvas.width / Math.max(1, top.clientWidth);

  function whole() {
    const lo = [Infinity, Infinity], hi = [-Infinity, -Infinity];
    for (let i = 0; i < s.xy.length; i++) { const v = s.xy[i], j = i & 1; if (v < lo[j]) lo[j] = v; if (v > hi[j]) hi[j] = v; }
    const mid = j => hi[j] >= lo[j] ? (hi[j] + lo[j]) / 2 : 0, span = j => hi[j] > lo[j] ? hi[j] - lo[j] : 0, equal = !!(model.get('flat') || {}).equal;
    frame = { equal, span: equal && span(0) + span(1) > 0 ? [span(0), span(1)] : [span(0) || 1, span(1) || 1] };
    view = { x: mid(0), y: mid(1), zoom: 1 };
    size = 0; ask();
  }

  // Drawing: the whole when the hand rests, every step-th point while it moves if the whole takes too long.
  function ask(moving = false) {
    if (moving) { clearTimeout(rest); rest = setTimeout(() => ask(), 140); step = slow > 24 ? Math.min(64, Math.ceil(slow / 16)) : 1; } else step = 1;
    if (!asked) asked = requestAnimationFrame(() => { asked = 0; draw(); });
  }
  function wanted() { return Math.min(8, Math.max(1.5, Math.sqrt(.16 * canvas.width * canvas.height / Math.max(inView, 1)) / dpr())) * dpr(); }
  function draw() {
    if (!canvas.width || !canvas.isConnected) return;
    const began = performance.now(), paint = model.get('paint'), any = s.n > 0, { dark } = colours(root);
    if (!size) { inView = s.xy.length / 2; size = wanted(); }
    const args = () => ({ ...s, colours: shades(paint, any, dark), any, to: to(), size: size < 1.9 * dpr() && inView > 50_000 ? 1 : size, step, density: paint.kind === 'density' && !any, dark });
    inView = paintPoints(args());
    if (Math.abs(wanted() / size - 1) > .15) { size = wanted(); if (step === 1) inView = paintPoints(args()); }
    if (step === 1) slow = performance.now() - began;
    Object.assign(canvas.dataset, { points: inView, step, ms: Math.round(performance.now() - began), frames: +(canvas.dataset.frames || 0) + 1 });
    over();
  }

  function over() {
    const c = top.getContext('2d'), q = dpr(), { fg, dim, bg } = colours(root), accent = getComputedStyle(root).getPropertyValue('--accent') || '#0072B2', line = (points, close) => { c.beginPath(); points.forEach((p, i) => c[i ? 'lineTo' : 'moveTo'](...px(p))); if (close) c.closePath(); };
    c.clearRect(0, 0, top.width, top.height);
    c.font = `${11 * q}px system-ui, sans-serif`; c.fillStyle = dim;
    const [h, v] = (model.get('flat') || {}).axes || ['', ''];
    c.textAlign = 'right'; c.fillText(`${h} →`, top.width - 8 * q, top.height - 8 * q);
    c.save(); c.translate(15 * q, 8 * q); c.rotate(-Math.PI / 2); c.fillText(`${v} →`, 0, 0); c.restore();
    c.textAlign = 'center'; c.textBaseline = 'middle';
    s.marks.forEach(({ p, text, colour }) => { const [x, y] = px(p); c.lineWidth = 3.5 * q; c.strokeStyle = bg; c.font = `600 ${11.5 * q}px system-ui, sans-serif`; c.strokeText(text, x, y); c.fillStyle = fg; c.fillText(text, x, y); });
    c.textBaseline = 'alphabetic';
    if (s.walk) { c.lineWidth = 2 * q; c.strokeStyle = fg; line(s.walk.points); c.stroke(); }
    s.anchors.forEach(p => { c.beginPath(); c.arc(...px(p), 4 * q, 0, 7); c.fillStyle = bg; c.fill(); c.lineWidth = 2 * q; c.strokeStyle = fg; c.stroke(); });
    if (s.walk?.points.length) { c.beginPath(); c.arc(...px(s.walk.points[s.walk.now]), 6 * q, 0, 7); c.fillStyle = PALETTE[5]; c.fill(); c.lineWidth = 1.5 * q; c.strokeStyle = bg; c.stroke(); }
    if (s.outline.length) { line(s.outline, s.tool !== 'Path'); c.lineWidth = 1.5 * q; c.strokeStyle = accent; c.setLineDash([5 * q, 3 * q]); c.stroke(); c.setLineDash([]); if (s.tool !== 'Path') { c.globalAlpha = .12; c.fillStyle = accent; c.fill(); c.globalAlpha = 1; } }
    const i = model.get('pick');
    if (i >= 0 && i < s.xy.length / 2) { const [x, y] = px([s.xy[2 * i], s.xy[2 * i + 1]]); for (const [r, w, col] of [[8, 4, bg], [8, 2, PALETTE[5]]]) { c.beginPath(); c.arc(x, y, r * q, 0, 7); c.lineWidth = w * q; c.strokeStyle = col; c.stroke(); } }
    top.setAttribute('aria-label', `Map of ${number(model.get('N'))} particles by ${h} and ${v}; ${number(s.n)} selected. Arrow keys move it, plus and minus zoom.`);
  }

  function nearest(p, within) {
    const [a, b] = scale(), n = s.xy.length / 2;
    let best = -1, least = (within * dpr()) ** 2;
    for (let i = 0; i < n; i++) {
      const dx = (s.xy[2 * i] - p[0]) * a, dy = (s.xy[2 * i + 1] - p[1]) * b, d = dx * dx + dy * dy;
      if (d < least && s.shown[i >> 3] >> (i & 7) & 1) { least = d; best = i; }
    }
    return best;
  }

  // A selection shows at once; Python is told, and has the last word.
  function choose(bits, how, outline = null) {
    const old = s.selected;
    s.selected = bits.map((b, i) => HOW[how](old[i], b)); s.n = count(s.selected);
    ask(); act.select(how, bits, outline);
  }
  const close = how => { const o = s.outline; s.outline = []; if (o.length > 2) choose(inside(s.xy, o, s.shown), how, o); over(); };
  const way = event => event.shiftKey && event.altKey ? 'intersect' : event.shiftKey ? 'add' : event.altKey ? 'subtract' : s.how;
  const corners = (a, b) => [a, [b[0], a[1]], b, [a[0], b[1]]];

  function zoom(f, p = [view.x, view.y]) {
    f = Math.min(1e5 / view.zoom, Math.max(.2 / view.zoom, f));
    view = { x: p[0] + (view.x - p[0]) / f, y: p[1] + (view.y - p[1]) / f, zoom: view.zoom * f };
    ask(true);
  }
  const move = (dx, dy) => { const [a, b] = scale(); view.x -= dx * dpr() / a; view.y += dy * dpr() / b; ask(true); };

  top.addEventListener('pointerdown', event => {
    if (event.button > 1) return;
    top.focus({ preventScroll: true }); top.setPointerCapture(event.pointerId);
    const p = at(event), what = event.button === 1 ? 'Pan' : s.tool;
    drag = { p, last: [event.clientX, event.clientY], moved: false, what };
    if (what === 'Lasso' || what === 'Box') s.outline = [p];
    if (what === 'Probe') act.pick(nearest(p, 40));
    event.preventDefault();
  });
  top.addEventListener('pointermove', event => {
    if (event.movementX || event.movementY) armed = true;
    if (!drag) { if (s.outline.length && s.tool === 'Polygon') { s.outline[s.outline.length - 1] = at(event); over(); } return; }
    const p = at(event), [x, y] = drag.last, far = Math.hypot(event.clientX - x, event.clientY - y);
    if (!drag.moved && far < 4) return;
    drag.moved = true;
    if (drag.what === 'Pan') { move(event.clientX - x, event.clientY - y); drag.last = [event.clientX, event.clientY]; }
    else if (drag.what === 'Lasso' || drag.what === 'Path') { if (far > 1.5) { for (const e of event.getCoalescedEvents?.().slice(0, -1) || []) s.outline.push(at(e)); s.outline.push(p); drag.last = [event.clientX, event.clientY]; over(); } }
    else if (drag.what === 'Box') { s.outline = corners(drag.p, p); over(); }
    else if (drag.what === 'Probe') act.pick(nearest(p, 40));
  });
  top.addEventListener('pointerup', event => {
    if (!drag) return;
    const { what, moved, p } = drag;
    drag = null;
    if (what === 'Polygon' && !moved) { s.outline = s.outline.length ? [...s.outline.slice(0, -1), p, p] : [p, p]; over(); }
    else if (what === 'Path') { if (moved) { s.anchors = thin(s.outline); s.outline = []; } else s.anchors = [...s.anchors, p]; act.path(s.anchors); over(); }
    else if (!moved) { s.outline = []; if (what !== 'Probe') act.pick(nearest(p, 14)); over(); }
    else if (what === 'Lasso' || what === 'Box') close(way(event));
  });
  top.addEventListener('pointercancel', () => { drag = null; s.outline = []; over(); });
  top.addEventListener('pointerleave', () => armed = false);
  top.addEventListener('dblclick', event => { if (s.tool === 'Polygon' && s.outline.length > 3) { s.outline = s.outline.slice(0, -2); close(way(event)); } });
  top.addEventListener('wheel', event => { if (!armed && !event.ctrlKey) return; event.preventDefault(); zoom(Math.exp(-event.deltaY * (event.deltaMode ? .05 : .002)), at(event)); }, { passive: false });      // the page scrolls on where the mouse has only come by
  top.addEventListener('keydown', event => {
    const go = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    if (event.ctrlKey || event.metaKey) return;
    if (go) move(...go); else if (event.key === '+' || event.key === '=') zoom(1.25); else if (event.key === '-') zoom(.8);
    else if (event.key === 'Escape') { s.outline = []; drag = null; over(); }
    else if (event.key === 'Enter' && s.tool === 'Polygon') { s.outline.pop(); close(way(event)); }
    else return;
    event.preventDefault(); event.stopPropagation();
  });

  // On the map, beside the numbers of the groups: at the point of each group that is nearest to its middle.
  function label() {
    const paint = model.get('paint'), k = paint.kind === 'classes' && paint.names.length <= 24 && !('' + paint.name).match(/micrograph/) ? paint.names.length : 0, sum = new Float64Array(3 * k), best = new Float64Array(k).fill(Infinity), where = new Int32Array(k).fill(-1), n = s.xy.length / 2;
    const each = f => { if (k) for (let i = 0; i < n; i++) { const l = s.level[i], x = s.xy[2 * i], y = s.xy[2 * i + 1]; if (l < k && x === x) f(i, l, x, y); } };
    each((i, l, x, y) => { sum[3 * l] += x; sum[3 * l + 1] += y; sum[3 * l + 2]++; });
    each((i, l, x, y) => { const d = (x - sum[3 * l] / sum[3 * l + 2]) ** 2 + (y - sum[3 * l + 1] / sum[3 * l + 2]) ** 2; if (d < best[l]) { best[l] = d; where[l] = i; } });
    s.marks = [...where].flatMap((i, l) => i < 0 ? [] : [{ p: [s.xy[2 * i], s.xy[2 * i + 1]], text: paint.names[l] }]);
  }

  const take = {
    route: () => { const r = model.get('route') || {}, place = i => [s.xy[2 * i], s.xy[2 * i + 1]]; if (r.stops || s.walk) s.anchors = (r.anchors || []).map(place); s.walk = r.stops ? { now: r.now, points: r.stops.map(place) } : null; over(); },
    flat: () => { s.xy = unpacked((model.get('flat') || {}).xy) || new Float32Array(0); s.anchors = []; s.outline = []; label(); whole(); take.route(); },
    paint: () => { const n = s.xy.length / 2; s.level = unpacked(model.get('paint').level) || new Uint8Array(n); label(); ask(); },
    marked: () => { s.selected = typed(model.get('marked'), Uint8Array).slice(); s.n = count(s.selected); ask(); },
    shown_bits: () => { s.shown = typed(model.get('shown_bits'), Uint8Array); ask(); },
  };
  s.level = unpacked(model.get('paint').level) || new Uint8Array(model.get('N'));
  take.marked(); take.shown_bits(); take.flat();
  const watch = new ResizeObserver(() => {
    const q = Math.min(2, window.devicePixelRatio || 1), w = Math.round(box.clientWidth * q), h = Math.round(box.clientHeight * q);
    if (w && (w !== canvas.width || h !== canvas.height)) { for (const c of [canvas, top]) { c.width = w; c.height = h; } size = 0; draw(); }
  });
  watch.observe(box);
  return { box, s, take, over, ask, whole, choose, nearest, px, inView: () => { const r = top.getBoundingClientRect(), p = (x, y) => at({ clientX: r.left + x, clientY: r.top + y }), o = corners(p(0, 0), p(r.width, r.height)); choose(inside(s.xy, o, s.shown), s.how, o); }, end: () => watch.disconnect() };
}
// A freehand line as a few anchors at equal distances.
function thin(points, most = 12) {
  const far = [0];
  for (let i = 1; i < points.length; i++) far.push(far[i - 1] + Math.hypot(points[i][0] - points[i - 1][0], points[i][1] - points[i - 1][1]));
  const n = Math.min(most, points.length);
  return Array.from({ length: n }, (_, j) => points[far.findIndex(d => d >= far.at(-1) * j / Math.max(1, n - 1) * .999999)]);
}

// ---- small pictures -----------------------------------------------------------------------------------------------------------------------
// Square grey pictures (n, d, d), side by side in rows of `across`.
function tiles(canvas, data, across, gap = 2) {
  const [n, d] = data.shape, rows = Math.ceil(n / across), image = new ImageData(d, d), c = canvas.getContext('2d'), pixels = new Uint32Array(image.data.buffer);
  canvas.width = across * (d + gap) - gap; canvas.height = rows * (d + gap) - gap;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < d * d; j++) { const v = data[i * d * d + j]; pixels[j] = 255 << 24 | v << 16 | v << 8 | v; }
    c.putImageData(image, (i % across) * (d + gap), Math.floor(i / across) * (d + gap));
  }
}
function heat(canvas, cells, dark) {
  const [h, w] = cells.shape, image = new ImageData(w, h);
  for (let i = 0; i < w * h; i++) image.data.set([...along(cells[i] / 255, dark), cells[i] ? 255 : 0], 4 * i);
  canvas.width = w; canvas.height = h; canvas.getContext('2d').putImageData(image, 0, 0);
}

// ---- the panels on the right ---------------------------------------------------------------------------------------------------------------
function panel(title, ...kids) { const side = el('span', { class: 'drgn-dim' }); return { side, node: el('section', { class: 'drgn-panel', 'aria-label': title }, el('header', {}, el('h4', {}, title), side), kids) }; }

function images(model, act) {
  const canvas = el('canvas', { role: 'img', tabindex: 0 }), p = panel('Images', el('div', { class: 'drgn-empty' }, 'Draw around particles to see them.'), canvas), res = el('input', { type: 'number', min: 0, max: 200, step: 5, onchange: event => tell(model, 'lowpass', [+event.target.value]) });
  const turn = d => tell(model, 'turn', [model.get('gallery').first + d]), back = tool('Back', 'Previous 24', ',', () => turn(-24)), next = tool('Next', 'Next 24', '.', () => turn(24));
  p.node.firstChild.append(field('Å', res), group('Turn over', back, next)); res.title = 'low-pass, Å';
  const pick = i => { const w = model.get('gallery').which || []; if (i >= 0 && i < w.length) act.pick(w[i]); };
  canvas.addEventListener('click', event => { const r = canvas.getBoundingClientRect(), side = r.width / 6; pick(Math.floor((event.clientY - r.top) / side) * 6 + Math.floor((event.clientX - r.left) / side)); });
  canvas.addEventListener('keydown', event => { const go = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -6, ArrowDown: 6 }[event.key]; if (go) { pick((model.get('gallery').which || []).indexOf(model.get('pick')) + go); event.preventDefault(); event.stopPropagation(); } });
  const draw = () => {
    const g = model.get('gallery') || {}, some = !!g.of, i = some ? g.which.indexOf(model.get('pick')) : -1;
    canvas.hidden = !some; p.node.children[1].hidden = some; back.disabled = !some || g.first === 0; next.disabled = !some || g.first + 24 >= g.of; res.value = model.get('res');
    p.side.textContent = some ? `${number(g.first + 1)}–${number(g.first + g.which.length)} of ${number(g.of)}` : '';
    if (!some) return;
    const data = unpacked(g.images), d = data.shape[1] + 2, c = canvas.getContext('2d');
    tiles(canvas, data, 6); canvas.setAttribute('aria-label', `Images of ${g.which.length} selected particles; a click or the arrow keys pick one`);
    if (i >= 0) { c.strokeStyle = PALETTE[5]; c.lineWidth = 3; c.strokeRect((i % 6) * d + 1.5, Math.floor(i / 6) * d + 1.5, d - 5, d - 5); }
  };
  return { node: p.node, name: 'images', trait: 'gallery', draw };
}

function density(model) {
  const canvas = el('canvas', { role: 'img' }), p = panel('Density', el('div', { class: 'drgn-empty' }, 'Click a particle, or select some.'), el('div', { class: 'drgn-slices', hidden: true }, canvas, el('div', { class: 'drgn-names', 'aria-hidden': 'true' }, ['section z', 'section y', 'section x', 'projection'].map(t => el('span', {}, t)))));
  const draw = () => {
    const d = model.get('density') || {}, some = !!d.D;
    p.node.children[1].hidden = some; p.node.children[2].hidden = !some;
    p.side.textContent = some ? `${d.who >= 0 ? `at particle ${number(d.who)}` : 'on the path'} · ${d.D}³` : '';
    if (some) { tiles(canvas, unpacked(d.slices), 4); canvas.setAttribute('aria-label', `Central sections and projection of the density ${p.side.textContent}`); }
  };
  return { node: p.node, name: 'density', trait: 'density', draw };
}

// Walk along a path: play to and fro, step by step, at a speed; the next step is asked for when the last density has come.
function walker(model, step) {
  let going = 0, sense = 1, speed = 6, at = 0;
  const n = () => (model.get('route').stops || []).length, now = () => model.get('route').now || 0, go = i => step(Math.max(0, Math.min(n() - 1, i)));
  const place = el('input', { type: 'range', min: 0, step: 1, 'aria-label': 'Place on the path', oninput: event => { stop(); go(+event.target.value); } });
  const tick = t => { if (!going) return; if (t - at > 1000 / speed) { at = t; if (now() + sense < 0 || now() + sense >= n()) sense = -sense; go(now() + sense); } going = requestAnimationFrame(tick); };
  const stop = () => { cancelAnimationFrame(going); going = 0; face(); }, face = () => { play.replaceChildren(icon(going ? 'Pause' : 'Play')); play.setAttribute('aria-label', going ? 'Pause' : 'Play'); };
  const play = tool('Play', 'Play', 'y', () => { if (going) stop(); else { going = requestAnimationFrame(tick); face(); } }), folder = el('input', { type: 'text', value: 'path', 'aria-label': 'Folder for the path', size: 8 }), movie = el('select', { 'aria-label': 'Movie of the path', title: 'Movie of the path' }, ['gif', 'mp4', 'webm', 'none'].map(o => el('option', { value: o === 'none' ? '' : `.${o}` }, o)));
  const way = choice('way', ['straight', 'neighbours', 'density', ...[1, 2, 3].filter(c => Object.values(model.get('columns') || {}).flat().includes(`PC${c}`)).map(c => `PC ${c}`)], 'straight', w => { stop(); tell(model, 'way', [w]); }), ways = way.querySelector('select');
  const hint = el('span', { class: 'drgn-dim' }, 'Click anchors on the map or draw a line; a principal component needs none.');
  let chosen = false;
  const p = panel('Path', el('div', { class: 'drgn-row' }, group('Walk', play, tool('Back', 'Step back', '[', () => { stop(); go(now() - 1); }), tool('Next', 'Step on', ']', () => { stop(); go(now() + 1); })), place, slider('speed', 1, 20, 1, speed, v => speed = v)),
    el('div', { class: 'drgn-row' }, way, hint, button('Remove path', '', () => { stop(); tell(model, 'walk', [[]]); })),
    el('div', { class: 'drgn-row' }, button('Save path', 'e', () => tell(model, 'save_path', [folder.value.trim(), movie.value]), { title: 'Save path: maps, ChimeraX scripts and a movie' }), field('in', folder), movie));
  const rows = [...p.node.querySelectorAll('.drgn-row')].filter(r => !r.contains(hint)), remove = hint.nextSibling;
  const draw = () => { const k = n(); p.node.hidden = !k && !chosen; for (const r of rows) r.hidden = !k; remove.hidden = !k; hint.hidden = !!k; p.side.textContent = ''; if (!k) { stop(); return; } place.max = k - 1; place.value = now(); ways.value = model.get('route').way || 'straight'; p.side.textContent = `point ${now() + 1} of ${k}`; };
  return { node: p.node, stop, draw, tool: name => { chosen = name === 'Path'; draw(); } };
}

function views(model, root) {
  const canvas = el('canvas', { role: 'img' }), p = panel('Views', el('div', { class: 'drgn-sphere' }, canvas, el('div', { class: 'drgn-names', 'aria-hidden': 'true' }, ['-180°', 'azimuth', '180°'].map(t => el('span', {}, t))), el('span', { class: 'drgn-up', 'aria-hidden': 'true' }, 'tilt 0–180°')));
  const draw = () => {
    const v = model.get('views') || {};
    if (!v.cells) return;
    heat(canvas, unpacked(v.cells), colours(root).dark);
    p.side.textContent = `${number(v.of)} particles, at most ${number(v.most)} a cell`;
    canvas.setAttribute('aria-label', `Viewing directions of ${p.side.textContent}`);
  };
  return { node: p.node, name: 'views', trait: 'views', draw };
}

// ---- below the map -----------------------------------------------------------------------------------------------------------------------
function legend(model, map, root) {
  const node = el('div', { class: 'drgn-legend' });
  const draw = () => {
    const p = model.get('paint'), { dark } = colours(root);
    if (p.kind === 'classes') node.replaceChildren(...p.names.map((name, i) => el('button', { type: 'button', title: `select ${name}`, onclick: () => { const l = map.s.level, bits = new Uint8Array(map.s.shown.length); for (let j = 0; j < l.length; j++) if (l[j] === i) bits[j >> 3] |= 1 << (j & 7); map.choose(bits.map((b, j) => b & map.s.shown[j]), map.s.how); } },
      el('i', { style: `background:${css(classColour(i, dark))}` }), name, el('span', { class: 'drgn-dim' }, number(p.counts[i])))));
    else if (p.kind === 'numbers') node.replaceChildren(el('span', { class: 'drgn-dim' }, short(p.lo)), el('i', { class: 'drgn-ramp', style: `background:linear-gradient(90deg,${Array.from({ length: 9 }, (_, i) => css(along(i / 8, dark)))})` }), el('span', { class: 'drgn-dim' }, short(p.hi)));
    else node.replaceChildren(el('span', { class: 'drgn-dim' }, 'few'), el('i', { class: 'drgn-ramp', style: `background:linear-gradient(90deg,${Array.from({ length: 9 }, (_, i) => css(along(i / 8, dark)))})` }), el('span', { class: 'drgn-dim' }, 'many particles'));
  };
  return { node, draw };
}

// A choice with headings.
function choices(text, groups, value, act) {
  const option = o => el('option', { value: o, $: { selected: o === value } }, o);
  return field(text, el('select', { onchange: event => act(event.target.value) }, Object.entries(groups).flatMap(([head, names]) => head ? [el('optgroup', { label: head }, names.map(option))] : names.map(option))));
}

function ranges(model) {
  const rows = el('div', { class: 'drgn-ranges' }), live = new Map();
  let waiting = false, next = null;                                   // one wish under way; the newest of those that came meanwhile follows
  const ask = (name, lo, hi) => { next = [name, lo, hi]; if (!waiting) { waiting = true; tell(model, 'limit', next); next = null; } };
  function row(r) {
    const span = r.max - r.min || 1, ends = [r.lo, r.hi].map((v, j) => el('input', { type: 'range', min: 0, max: 1000, step: 1, 'aria-label': `${r.name} ${j ? 'to' : 'from'}`, $: { value: Math.round((v - r.min) / span * 1000) } })), words = el('output', { class: 'drgn-dim' }), most = Math.max(...r.bars, 1);
    const band = el('b'), value = j => { const t = +ends[j].value; return t === 0 && !j ? r.min : t === 1000 && j ? r.max : r.min + t / 1000 * span; };
    const show = () => { words.textContent = `${short(value(0))} – ${short(value(1))}`; band.style.inset = `auto ${100 - ends[1].value / 10}% 0 ${ends[0].value / 10}%`; };
    ends.forEach((e, j) => e.addEventListener('input', () => { if (+ends[0].value > +ends[1].value) e.value = ends[1 - j].value; show(); ask(r.name, value(0), value(1)); }));
    show();
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg'); svg.setAttribute('viewBox', '0 0 48 20'); svg.setAttribute('preserveAspectRatio', 'none'); svg.setAttribute('aria-hidden', 'true');
    const path = document.createElementNS('http://www.w3.org/2000/svg', 'path'); path.setAttribute('d', 'M0 20' + r.bars.map((b, i) => `V${20 - 19 * Math.sqrt(b / most)}h1`).join('') + 'V20z'); svg.append(path);
    return el('div', { class: 'drgn-range', 'data-name': r.name }, el('span', { class: 'drgn-label', title: r.name }, r.name), el('div', { class: 'drgn-two' }, svg, band, ends), words, tool('Drop', `No limit on ${r.name}`, '', () => tell(model, 'unlimit', [r.name])));
  }
  const draw = () => {
    const now = model.get('ranges') || [], names = now.map(r => r.name);
    for (const [n, node] of live) if (!names.includes(n)) { node.remove(); live.delete(n); }
    for (const r of now) if (!live.has(r.name)) { const node = row(r); live.set(r.name, node); rows.append(node); }
      else if (!live.get(r.name).contains(document.activeElement)) { const node = row(r); live.get(r.name).replaceWith(node); live.set(r.name, node); }      // Python moved it
    waiting = false;
    if (next) ask(...next);
  };
  return { node: rows, draw, answered: draw };
}

// ---- together -----------------------------------------------------------------------------------------------------------------------------
export default { render({ model, el: host }) {
  const f = frame(model, host, 'explore'), { root } = f, has = name => (model.get('has') || []).includes(name);
  let road = null, flying = false, want = null;                                    // probe and path: one density under way, then the newest wish
  const fly = (what, i) => { if (flying) { want = [what, i]; return; } flying = has('density') && i >= 0; tell(model, what, [i]); }, pick = i => { if (i === model.get('pick')) return; model.set('pick', i); fly('pick', i); };
  const map = atlas(model, root, { select: (how, bits, outline) => { tell(model, 'select', [how, outline], [bits]); status(); }, pick, path: anchors => { if (anchors.length > 1) tell(model, 'walk', [anchors]); } });

  const press = (names, set, shape = n => n) => { const all = names.map(([name, key, text]) => tool(shape(name), text || name, key, () => { set(name); all.forEach((b, i) => b.setAttribute('aria-pressed', names[i][0] === name)); }, { 'aria-pressed': false, 'data-is': name })); return all; };
  const tools = press([['Pan', 'h', 'Pan'], ['Lasso', 'l'], ['Box', 'b'], ['Polygon', 'g', 'Polygon: click its corners, double click or Enter ends it'], ['Probe', 'p', 'Probe: the density follows the mouse'], ['Path', 't', 'Path: click anchors or draw a line']], name => { map.s.tool = name; map.s.outline = []; map.box.dataset.tool = name; map.over(); road?.tool(name); });
  const ways = press([['New', 'n', 'New selection'], ['Add', 'a', 'Add to the selection (or hold shift)'], ['Subtract', 's', 'Subtract from the selection (or hold alt)'], ['Intersect', 'x', 'Intersect with the selection (or hold shift and alt)']], name => map.s.how = name.toLowerCase());
  tools[1].click(); ways[0].click();
  const bar = el('div', { class: 'drgn-row drgn-bar' }, group('Tools', tools), group('Way', ways),
    group('Selection', tool('Invert', 'Invert', 'i', () => tell(model, 'invert')), tool('Undo', 'Undo', 'u', () => tell(model, 'undo')), tool('None', 'Select none', 'c', () => map.choose(new Uint8Array(map.s.shown.length), 'new')), tool('View', 'Select what is in view', 'v', () => map.inView())),
    group('View', tool('Whole', 'Show the whole map', 'f', () => map.whole())), el('span', { class: 'drgn-busy', role: 'status' }));

  // what the map shows
  const picks = el('div', { class: 'drgn-row drgn-picks' });
  let two = false, kind = '';
  function menus() {
    const flat = model.get('flat') || {}, paint = model.get('paint') || {}, groups = model.get('columns') || {}, all = Object.values(groups).flat(), now = two || !flat.equal ? 'two columns' : flat.name;
    const maps = ['PCA', 'UMAP', ...(flat.name === 'given' || kind === 'given' ? ['given'] : []), 'two columns'], axes = flat.equal ? [all[1], all[2]] : flat.axes;
    if (flat.name === 'given') kind = 'given';
    const set = (i, name) => { const a = [...axes]; a[i] = name; tell(model, 'show_map', a); };
    picks.replaceChildren(...[choice('Map', maps, now === 'PC' ? 'PCA' : now, name => { two = name === 'two columns'; if (two) tell(model, 'show_map', axes); else tell(model, 'show_map', [name]); }),
      ...(now === 'two columns' ? [choices('across', groups, axes[0], n => set(0, n)), choices('up', groups, axes[1], n => set(1, n))] : []),
      choices('Colour', { '': ['density'], groups: ['k-means', 'GMM'], ...groups }, paint.name, name => tell(model, 'colour', [name])),
      ...(['k-means', 'GMM'].includes(paint.name) ? [field('groups', el('input', { type: 'number', min: paint.name === 'GMM' ? 0 : 1, max: 64, style: 'width:64px', title: paint.name === 'GMM' ? '0: as many as the Bayesian information criterion says' : '', $: { value: paint.k || paint.names.length }, onchange: event => tell(model, 'colour', [paint.name, +event.target.value]) }))] : [])].filter(Boolean));
  }

  // what is selected, and where it goes
  const counts = el('output', { class: 'drgn-counts', 'aria-live': 'polite' }), note = el('p', { class: 'drgn-dim', hidden: true }), done = el('span', { class: 'drgn-dim drgn-done', role: 'status' }), name = el('input', { type: 'text', placeholder: 'name', 'aria-label': 'Name of the selection', size: 12 }), chips = el('span', { class: 'drgn-chips' });
  const status = () => { const N = model.get('N'), shown = count(map.s.shown); counts.textContent = `${number(map.s.n)} of ${number(N)} selected${map.s.n ? ` (${(100 * map.s.n / N).toPrecision(3)} %)` : ''}${shown < N ? ` · ${number(shown)} shown` : ''}`; keep.disabled = save.disabled = !map.s.n; };
  const keep = button('Keep as', 'k', () => { tell(model, 'keep', [name.value.trim()]); name.value = ''; }), path = el('input', { type: 'text', value: 'selection.star', 'aria-label': 'File: .star, .cs, .npy or .txt', size: 18 }), rest = el('input', { type: 'checkbox', $: { checked: true } });
  const save = button('Save', 'w', () => tell(model, 'save', [path.value.trim(), rest.checked]));
  name.addEventListener('keydown', event => { if (event.key === 'Enter' && !keep.disabled) keep.click(); });
  path.addEventListener('keydown', event => { if (event.key === 'Enter' && !save.disabled) save.click(); });
  const named = () => chips.replaceChildren(...(model.get('kept') || []).map(([n, k]) => group(n, el('button', { type: 'button', title: `select ${n}`, onclick: () => tell(model, 'recall', [n, map.s.how]) }, n, el('span', { class: 'drgn-dim' }, number(k))), tool('Drop', `Forget ${n}`, '', () => tell(model, 'forget', [n])))));
  const limits = ranges(model), more = el('div', { class: 'drgn-row' });
  const lower = () => more.replaceChildren(choices('Show only where', { '': ['…'], ...(model.get('columns') || {}) }, '…', n => { if (n !== '…') tell(model, 'limit', [n]); }));

  const key = legend(model, map, root), right = [images(model, { pick }), density(model), views(model, root)];
  road = walker(model, i => fly('step', i));
  const side = el('div', { class: 'drgn-side' }, right[0].node, right[1].node, road.node, right[2].node), left = el('div', { class: 'drgn-left' }, bar, map.box, key.node, el('div', { class: 'drgn-row drgn-below' }, counts, keep, name, chips), el('div', { class: 'drgn-row' }, path, el('label', { class: 'drgn-field' }, rest, 'and the others beside it'), save, done), more, limits.node, note);
  root.append(picks, el('div', { class: 'drgn-both' }, left, side));

  const panels = () => { right.forEach(p => { p.node.hidden = !has(p.name); if (has(p.name)) p.draw(); }); root.classList.toggle('drgn-alone', !right.some(p => has(p.name))); };
  const say = () => { note.textContent = model.get('note'); note.hidden = !note.textContent; bar.lastChild.textContent = model.get('busy') ? `working out ${model.get('busy')} …` : ''; done.textContent = model.get('done') ? `saved ${model.get('done')}` : ''; };
  const landed = () => { flying = false; if (want) { const w = want; want = null; fly(...w); } };
  for (const [trait, act] of Object.entries({
    flat: () => { map.take.flat(); menus(); }, paint: () => { map.take.paint(); key.draw(); menus(); }, marked: () => { map.take.marked(); status(); }, shown_bits: () => { map.take.shown_bits(); status(); },
    pick: () => { map.over(); right[0].draw(); }, res: right[0].draw, columns: () => { menus(); lower(); }, has: panels, note: say, busy: say, done: say, kept: named, route: () => { map.take.route(); road.draw(); }, ranges: limits.draw, gallery: right[0].draw, density: () => { right[1].draw(); landed(); }, views: right[2].draw, said: () => { flying = false; want = null; } })) f.on(`change:${trait}`, act);
  menus(); lower(); key.draw(); panels(); say(); named(); limits.draw(); road.draw(); status();
  f.end(road.stop); f.end(onTheme(root, () => { map.ask(); key.draw(); right[2].draw(); })); f.end(map.end);
  return f.ends;
} };
