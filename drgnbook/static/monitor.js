// A training as it goes: how far, the loss, the cloud of particles, maps that sharpen, and what Box 1 of the protocol asks.

const VIRIDIS = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37]];
const svg = (tag, attrs, ...kids) => { const n = document.createElementNS('http://www.w3.org/2000/svg', tag); for (const k in attrs) n.setAttribute(k, attrs[k]); n.append(...kids); return n; };
const short = x => x === 0 ? '0' : Math.abs(x) >= 1e4 || Math.abs(x) < 1e-2 ? x.toExponential(1) : String(+x.toPrecision(4));
const clock = s => !isFinite(s) ? '–' : s < 60 ? `${Math.round(s)} s` : s < 3600 ? `${Math.floor(s / 60)} min ${String(Math.round(s % 60)).padStart(2, '0')} s` : `${Math.floor(s / 3600)} h ${String(Math.floor(s % 3600 / 60)).padStart(2, '0')} min`;

// Lines over epochs. series: [{ name, y, colour, range }]: NaNs are gaps; a series with a range of its own has its own scale.
function chart(title, x, series) {
  const W = 260, H = 132, L = 44, R = 8, T = 8, B = 20, root = svg('svg', { viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': title });
  const seen = series.flatMap(s => s.y.filter(Number.isFinite)), own = series.find(s => s.range);
  let [low, high] = own ? own.range : [Math.min(...seen), Math.max(...seen)];
  if (!seen.length) { root.append(svg('text', { x: W / 2, y: H / 2, class: 'drgn-tick', 'text-anchor': 'middle' }, 'from the second epoch on')); return root; }
  if (low === high) { low -= Math.abs(low) * .01 || 1; high += Math.abs(high) * .01 || 1; }
  const last = Math.max(...x, 2), px = e => L + (e - 1) / (last - 1) * (W - L - R), py = v => T + (high - v) / (high - low) * (H - T - B);
  for (const v of [low, (low + high) / 2, high]) root.append(svg('line', { x1: L, x2: W - R, y1: py(v), y2: py(v), class: 'drgn-grid' }), svg('text', { x: L - 4, y: py(v) + 3.5, class: 'drgn-tick', 'text-anchor': 'end' }, short(v)));
  for (const e of new Set([1, Math.ceil(last / 2), last])) root.append(svg('text', { x: px(e), y: H - 5, class: 'drgn-tick', 'text-anchor': 'middle' }, String(e)));
  for (const s of series) {
    const points = s.y.map((v, i) => Number.isFinite(v) ? [px(x[i]), py(Math.min(high, Math.max(low, v)))] : null), path = points.map((p, i) => p ? `${points[i - 1] ? 'L' : 'M'}${p[0].toFixed(1)} ${p[1].toFixed(1)}` : '').join('');
    root.append(svg('path', { d: path, fill: 'none', stroke: s.colour, 'stroke-width': 1.8, 'stroke-linejoin': 'round', 'stroke-dasharray': s.dash || '' }));
    const end = points.filter(Boolean).at(-1);
    if (end) root.append(svg('circle', { cx: end[0], cy: end[1], r: 2.6, fill: s.colour }));
  }
  return root;
}
function legend(series) { return el('span', { class: 'drgn-legend' }, series.map(s => el('span', {}, el('i', { style: `background:${s.colour}` }), s.name))); }
function panel(title, body, more) { return el('figure', {}, el('figcaption', {}, el('b', {}, title), more), body); }

// The cloud: how many particles are where, brighter where there are more; the particles whose maps are shown are numbered.
function cloud(now, theme) {
  const count = unpacked(now.density), [n] = count.shape, top = Math.max(...count), dim = theme.dark ? .2 : 0, shade = v => dim + (1 - dim) * Math.log1p(v) / Math.log1p(top), small = el('canvas', { $: { width: n, height: n } }), ctx = small.getContext('2d'), pixels = ctx.createImageData(n, n);
  count.forEach((v, i) => {
    const y = n - 1 - Math.floor(i / n), o = 4 * (y * n + i % n), s = shade(v) * (VIRIDIS.length - 1.001), c = VIRIDIS[Math.floor(s)], d = VIRIDIS[Math.floor(s) + 1], f = s % 1;
    for (let k = 0; k < 3; k++) pixels.data[o + k] = c[k] + f * (d[k] - c[k]);
    pixels.data[o + 3] = v ? 255 : 0;
  });
  ctx.putImageData(pixels, 0, 0);
  const S = 264, big = el('canvas', { role: 'img', 'aria-label': `the cloud of particles after epoch ${now.epoch}`, $: { width: 2 * S, height: 2 * S }, style: `width:${S}px;height:${S}px` }), g = big.getContext('2d'), [x0, x1, y0, y1] = now.extent;
  g.scale(2, 2); g.imageSmoothingEnabled = true; g.imageSmoothingQuality = 'high'; g.drawImage(small, 0, 0, S, S);
  g.font = 'bold 11px system-ui'; g.textAlign = 'center'; g.textBaseline = 'middle';
  now.at.forEach(([x, y], i) => {
    const inside = p => Math.min(S - 9, Math.max(9, p)), u = inside((x - x0) / (x1 - x0) * S), v = inside(S - (y - y0) / (y1 - y0) * S);
    g.beginPath(); g.arc(u, v, 8, 0, 7); g.fillStyle = theme.bg; g.globalAlpha = .85; g.fill(); g.globalAlpha = 1; g.strokeStyle = theme.fg; g.lineWidth = 1; g.stroke();
    g.fillStyle = theme.fg; g.fillText(String(i + 1), u, v + .5);
  });
  return big;
}

// A picture in 8 bits, enlarged.
function grey(data, w, h, size, label) {
  const small = el('canvas', { $: { width: w, height: h } }), ctx = small.getContext('2d'), pixels = ctx.createImageData(w, h);
  data.forEach((v, i) => pixels.data.set([v, v, v, 255], 4 * i));
  ctx.putImageData(pixels, 0, 0);
  const big = el('canvas', { role: 'img', 'aria-label': label, $: { width: 2 * size, height: 2 * size }, style: `width:${size}px;height:${size}px` }), g = big.getContext('2d');
  g.imageSmoothingQuality = 'high'; g.drawImage(small, 0, 0, 2 * size, 2 * size);
  return big;
}

export default {
  render({ model, el: host }) {
    const f = frame(model, host, 'monitor'), theme = () => colours(f.root), busy = ['preparing', 'training', 'paused'];
    const name = el('b', {}), state = el('span', { role: 'status' }), bar = el('progress', { max: 1, 'aria-label': 'progress' }), numbers = el('span', { class: 'drgn-dim' }), words = el('p', { class: 'drgn-verdict' });
    const more = el('input', { type: 'number', min: 1, max: 1000, $: { value: 5 }, 'aria-label': 'epochs to add', style: 'width:64px' });
    const pause = button('pause', 'p', () => tell(model, pause.textContent)), stop = button('stop', 's', () => tell(model, 'stop'), { title: 'write a checkpoint and end' });
    const save = button('checkpoint', 'c', () => tell(model, 'checkpoint'), { title: 'write a checkpoint now' }), add = button('extend', 'e', () => tell(model, 'extend', [+more.value]), { title: 'train so many epochs more' });
    let plane = 'PCA', past = 0, late = false;      // past: an epoch whose UMAP is looked at; 0: the newest
    const charts = el('div', { class: 'drgn-charts' }), looks = el('div', { class: 'drgn-looks' });
    f.root.append(el('div', { class: 'drgn-row' }, name, state, el('span', { style: 'flex:1' }), pause, stop, save, el('label', { class: 'drgn-field' }, add, more, 'epochs')), bar, numbers, words, charts, looks);

    function status() {
      const live = model.get('live'), on = busy.includes(live.state), done = live.total ? live.done / live.total : 0;
      name.textContent = model.get('title'); state.textContent = live.says || live.state || '';
      state.className = `drgn-state drgn-${live.state}`;
      bar.value = done; bar.hidden = false;
      if (live.state === 'preparing') bar.removeAttribute('value');
      numbers.textContent = [live.images_s && on && `${short(live.images_s)} images/s`, live.state === 'training' && live.left && `${clock(live.left)} left`, live.memory && `${(live.memory / 2 ** 30).toFixed(1)} GiB`, live.device, live.workers > 1 && `${live.workers} workers`, live.where].filter(Boolean).join('  ·  ');
      pause.textContent = live.state === 'paused' || !on ? 'resume' : 'pause';
      pause.disabled = live.state === 'preparing' || live.state === 'finished'; stop.disabled = save.disabled = !on || live.state === 'preparing';
    }
    function draw() {
      const h = model.get('history'), s = model.get('signs'), now = model.get('now'), loss = [{ name: 'loss', y: h.loss || [], colour: PALETTE[0] }, { name: 'data term', y: h.data || [], colour: PALETTE[1], dash: '4 3' }];
      const shift = [{ name: 'moved / radius', y: s.moved || [], colour: PALETTE[2], range: [0, 1] }, { name: 'cosine', y: s.cosine || [], colour: PALETTE[3] }], maps = [{ name: 'median', y: s.correlation || [], colour: PALETTE[0] }, { name: 'worst', y: s.worst || [], colour: PALETTE[5], dash: '4 3' }];
      charts.replaceChildren(panel('loss', chart('loss over epochs', h.epoch || [], loss), legend(loss)), ...(model.get('zdim') ? [panel('shift of z', chart('shift of z from epoch to epoch', s.epoch || [], shift), legend(shift))] : []), panel('map to map', chart('correlation of maps from epoch to epoch', s.epoch || [], maps), legend(maps)));
      words.textContent = model.get('verdict');
      late = !!looks.querySelector('input:active');          // a hand is at the slider: drawn when it lets go
      if (late) return;
      const focused = looks.querySelector('input:focus');
      looks.replaceChildren(...(now.maps ? [...(now.at.length ? [crowd(now)] : []), panel(`densities, epoch ${now.epoch}`, gallery(now), el('span', { class: 'drgn-dim' }, 'surface, section'))] : []));
      if (focused) looks.querySelector('input')?.focus();
    }
    function crowd(now) {      // the principal plane, or UMAPs where there are any: the newest, or one before
      const all = model.get('umaps'), laid = plane === 'UMAP' && all.length, title = u => `particles, epoch ${u.epoch}`;
      let at = laid ? all.findLastIndex(u => u.epoch <= past) : 0;      // or the one before, where room was made for others
      if (at < 0) { at = all.length - 1; past = 0; }
      const body = el('div', {}, cloud(laid ? all[at] : now, theme())), more = all.length ? choice('as', ['PCA', 'UMAP'], plane, v => { plane = v; draw(); }) : el('span', { class: 'drgn-dim' }, 'principal plane');
      const figure = panel(title(laid ? all[at] : now), body, more);
      if (laid && all.length > 1) figure.append(el('div', { onchange: () => late && draw() }, slider('epochs', 0, all.length - 1, 1, at, i => {
        past = i < all.length - 1 ? all[i].epoch : 0;
        body.replaceChildren(cloud(all[i], theme())); figure.querySelector('b').textContent = title(all[i]);
      })));
      return figure;
    }
    function gallery(now) {
      const maps = unpacked(now.maps), [q, two, h, w] = maps.shape, cut = i => maps.subarray(i * h * w, (i + 1) * h * w);
      return el('div', { class: 'drgn-maps' }, Array.from({ length: q }, (_, i) => el('div', {}, grey(cut(2 * i), w, h, 84, `surface of map ${i + 1}`), grey(cut(2 * i + 1), w, h, 84, `section of map ${i + 1}`), el('span', {}, String(i + 1)))));
    }
    f.on('change:live', status);
    for (const it of ['history', 'signs', 'now', 'umaps', 'verdict']) f.on(`change:${it}`, draw);
    f.end(onTheme(f.root, draw));
    status(); draw();
    return f.ends;
  }
};
