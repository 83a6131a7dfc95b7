// Density in three dimensions. Python (`drgnbook.view`) sends 8-bit maps and atoms; one WebGL2 context marches rays to the level in all panels.

const SCREEN = `#version 300 es
out vec2 at;
void main() { at = vec2(gl_VertexID == 1 ? 3. : -1., gl_VertexID == 2 ? 3. : -1.); gl_Position = vec4(at, 0., 1.); }`;

// Soft light from the upper left, a weaker one from the right, less where much density is near; far things fade into the background.
const LIGHT = `
uniform vec3 back; uniform vec2 slab; uniform float radius;
vec3 lit(vec3 n, vec3 colour, float open, float z) {
  float key = max(0., dot(n, normalize(vec3(-.5, .62, .6)))), fill = max(0., dot(n, normalize(vec3(.75, -.1, .65)))), shine = pow(max(0., dot(n, normalize(vec3(-.28, .35, .9)))), 40.);
  vec3 c = pow(colour, vec3(2.2))*(open*(.42 + .14*n.y) + mix(.3, 1., open)*(.72*key + .22*fill)) + .06*shine*open;
  c *= mix(.45, 1., smoothstep(0., .5, abs(n.z)));
  return mix(pow(c, vec3(1./2.2)), back, .5*smoothstep(-.7, 1.15, -z/radius));
}`;

const SURFACE = `#version 300 es
precision highp float; precision highp int; precision highp sampler3D;
uniform sampler3D one, two, roomOne, roomTwo, fillOne, fillTwo, tint; uniform sampler2D ramp;
uniform mat3 R; uniform vec2 span, pan, units; uniform vec3 low, high, colour; uniform vec4 tintAt;
uniform float box, shift, voxels, grain, mixed, level, side, alpha, reach, fine, tinted;
in vec2 at; out vec4 seen;
${LIGHT}
float value(vec3 p) { float v = texture(one, p).r; if (mixed > 0.) v = mix(v, texture(two, p).r*units.x + units.y, mixed); return side*v; }
float most(ivec3 c) {
  vec2 m = texelFetch(roomOne, c, 0).rg;
  if (mixed > 0.) { vec2 n = texelFetch(roomTwo, c, 0).rg*units.x + units.y; m = vec2(max(m.r, n.r), min(m.g, n.g)); }
  return side > 0. ? m.r : -m.g;
}
vec3 slope(vec3 p, float h) { return vec3(value(p + vec3(h, 0, 0)) - value(p - vec3(h, 0, 0)), value(p + vec3(0, h, 0)) - value(p - vec3(0, h, 0)), value(p + vec3(0, 0, h)) - value(p - vec3(0, 0, h))); }
void main() {
  vec3 o = (vec3(at*span + pan, 0.)*R)/box + shift, d = (vec3(0., 0., -1.)*R)/box + 1e-9;
  vec3 a = (low - o)/d, b = (high - o)/d, near = min(a, b), far = max(a, b);
  float enter = max(near.x, max(near.y, near.z)), t0 = max(enter, slab.x), t1 = min(min(far.x, min(far.y, far.z)), slab.y);
  float h = fine*box/voxels, t = t0, before = t0;
  bool found = false;
  for (int i = 0; i < 3000 && t < t1; i++) {
    vec3 p = o + d*t;
    ivec3 c = clamp(ivec3(p*grain), ivec3(0), textureSize(roomOne, 0) - 1);
    if (most(c) < level) {                              // nothing in this block reaches the level: leave it
      vec3 wall = (vec3(c) + step(0., d))/grain, e = (wall - o)/d;
      t = max(min(e.x, min(e.y, e.z)), t) + .02*h; before = t; continue;
    }
    if (value(p) >= level) { found = true; break; }
    before = t; t += h;
  }
  if (!found) discard;
  bool cut = t == t0;
  if (!cut) for (int i = 0; i < 5; i++) { float m = .5*(before + t); if (value(o + d*m) < level) before = m; else t = m; }
  vec3 p = o + d*t, g = slope(p, 1./voxels), n = -normalize(g + 1e-12);
  vec3 c = colour;
  if (tinted > 0.) {
    vec3 w = (p - shift)*box; float v = texture(tint, w/tintAt.x + tintAt.y).r;
    c = texture(ramp, vec2(clamp((v - tintAt.z)/(tintAt.w - tintAt.z), .002, .998), .5)).rgb;
  }
  if (cut) {                                            // the cut face of a clip plane shows how dense it is inside
    n = t0 == slab.x ? vec3(0, 0, 1) : R*(-sign(d)*step(vec3(enter - 1e-6), near));
    c = mix(c, vec3(1.), .35 - .55*clamp((value(p) - level)/(max(1. - level, .2)), 0., .8));
  } else n = R*n;
  vec3 q = p + (cut ? vec3(0.) : -normalize(g + 1e-12)*1.5/voxels);
  vec2 full = texture(fillOne, q).rg; if (mixed > 0.) full = mix(full, texture(fillTwo, q).rg, mixed);
  float open = cut ? 1. : 1. - .95*smoothstep(.16, .84, .5*full.r + .8*full.g);
  float edge = cut ? 0. : pow(1. - abs(n.z), 2.5);
  seen = vec4(lit(normalize(n), c, open, -t), alpha < 1. ? mix(alpha, min(1., alpha + .6), edge) : 1.);
  gl_FragDepth = .5 + .5*t/reach;
}`;

const SECTION = `#version 300 es
precision highp float; precision highp sampler3D;
uniform sampler3D one, two; uniform vec3 middle, across, up, colour, hairX, hairY; uniform vec2 hair, size, units; uniform float mixed, level, black, white;
in vec2 at; out vec4 seen;
void main() {
  vec3 p = middle + across*at.x + up*at.y;
  float v = texture(one, p).r; if (mixed > 0.) v = mix(v, texture(two, p).r*units.x + units.y, mixed);
  vec3 c = vec3(clamp((v - black)/(white - black), 0., 1.));
  c = mix(c, colour, 1. - smoothstep(.6, 1.4, abs(v - level)/max(fwidth(v), 1e-4)));
  vec2 away = abs(at - hair)*size*.5, gap = step(vec2(9.), away.yx);
  c = mix(c, hairX, .8*gap.x*(1. - smoothstep(.4, 1., away.x))); c = mix(c, hairY, .8*gap.y*(1. - smoothstep(.4, 1., away.y)));
  seen = vec4(c, 1.); gl_FragDepth = 0.;
}`;

const TUBE = `#version 300 es
layout(location = 0) in vec3 place; layout(location = 1) in vec3 normal; layout(location = 2) in vec3 paint;
uniform mat3 R; uniform vec2 span, pan; uniform float reach;
out vec3 n, c; out float z; out vec3 w;
void main() { vec3 v = R*place; n = R*normal; c = paint; z = v.z; w = place; gl_Position = vec4((v.xy - pan)/span, -v.z/reach, 1.); }`;
const TUBED = `#version 300 es
precision highp float;
uniform vec3 low, high; uniform float box, shift;
in vec3 n, c, w; in float z; out vec4 seen;
${LIGHT}
void main() {
  vec3 p = w/box + shift;
  if (-z < slab.x || -z > slab.y || (any(greaterThan(low, vec3(0.))) || any(lessThan(high, vec3(1.)))) && (any(lessThan(p, low)) || any(greaterThan(p, high)))) discard;
  seen = vec4(lit(normalize(n)*(n.z < 0. ? -1. : 1.), c, .9, z), 1.); gl_FragDepth = gl_FragCoord.z;
}`;

// ---- the graphics card

function program(gl, vertex, fragment) {
  const p = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const s = gl.createShader(kind); gl.shaderSource(s, source); gl.compileShader(s); gl.attachShader(p, s);
    if (!gl.getShaderParameter(s, gl.COMPILE_STATUS) && !gl.isContextLost()) throw Error('A shader does not compile here: ' + gl.getShaderInfoLog(s));
  }
  gl.linkProgram(p);
  const uniforms = {};
  for (let i = gl.getProgramParameter(p, gl.ACTIVE_UNIFORMS) || 0; i--;) { const { name, type } = gl.getActiveUniform(p, i); uniforms[name] = { type, place: gl.getUniformLocation(p, name) }; }
  return { p, uniforms };
}

// Draw with these uniforms: numbers, vectors, a matrix by rows, textures.
function use(gl, { p, uniforms }, values) {
  let unit = 0;
  gl.useProgram(p);
  for (const [name, { type, place }] of Object.entries(uniforms)) {
    const v = values[name];
    if (v === undefined) throw Error(`no value for ${name}`);
    if (type === gl.FLOAT) gl.uniform1f(place, v);
    else if (type === gl.FLOAT_VEC2) gl.uniform2fv(place, v);
    else if (type === gl.FLOAT_VEC3) gl.uniform3fv(place, v);
    else if (type === gl.FLOAT_VEC4) gl.uniform4fv(place, v);
    else if (type === gl.FLOAT_MAT3) gl.uniformMatrix3fv(place, true, v);
    else { gl.activeTexture(gl.TEXTURE0 + unit); gl.bindTexture(type === gl.SAMPLER_3D ? gl.TEXTURE_3D : gl.TEXTURE_2D, v); gl.uniform1i(place, unit++); }
  }
}

function texture(gl, data, sizes, channels = 1, filter = gl.LINEAR) {
  const t = gl.createTexture(), kind = sizes.length === 3 ? gl.TEXTURE_3D : gl.TEXTURE_2D, inner = [, gl.R8, gl.RG8, , gl.RGBA8][channels], outer = [, gl.RED, gl.RG, , gl.RGBA][channels];
  gl.activeTexture(gl.TEXTURE0); gl.bindTexture(kind, t); gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  if (sizes.length === 3) gl.texImage3D(kind, 0, inner, ...sizes, 0, outer, gl.UNSIGNED_BYTE, data);
  else gl.texImage2D(kind, 0, inner, ...sizes, 0, outer, gl.UNSIGNED_BYTE, data);
  for (const wrap of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T, gl.TEXTURE_WRAP_R]) gl.texParameteri(kind, wrap, gl.CLAMP_TO_EDGE);
  gl.texParameteri(kind, gl.TEXTURE_MIN_FILTER, filter); gl.texParameteri(kind, gl.TEXTURE_MAG_FILTER, filter);
  return t;
}

// ---- a map on the card: its voxels, the range of each block of them (to skip what is empty), and how full its surroundings are (for soft shadows)

function blocks(data, D, B) {
  const G = Math.ceil(D/B), out = new Uint8Array(2*G**3);
  for (let k = 0, o = 0; k < G; k++) for (let j = 0; j < G; j++) for (let i = 0; i < G; i++, o += 2) {
    let lo = 255, hi = 0;
    const x0 = Math.max(0, i*B - 1), x1 = Math.min(D, i*B + B + 1), y1 = Math.min(D, j*B + B + 1), z1 = Math.min(D, k*B + B + 1);
    for (let z = Math.max(0, k*B - 1); z < z1; z++) for (let y = Math.max(0, j*B - 1); y < y1; y++) for (let x = x0, a = (z*D + y)*D + x0; x < x1; x++, a++) { const v = data[a]; if (v < lo) lo = v; if (v > hi) hi = v; }
    out[o] = hi; out[o + 1] = lo;
  }
  return { G, out };
}

function coarse(data, D, F) {
  const G = Math.ceil(D/F), sum = new Float32Array(G**3), n = new Uint16Array(G**3);
  for (let z = 0, a = 0; z < D; z++) for (let y = 0; y < D; y++) { const row = ((z/F | 0)*G + (y/F | 0))*G; for (let x = 0; x < D; x++, a++) { const o = row + (x/F | 0); sum[o] += data[a]; n[o]++; } }
  return { G, mean: sum.map((s, i) => s/n[i]) };
}

function blur(x, G, r) {          // a running mean along each axis
  for (const [step, one, two] of [[1, G, G*G], [G, 1, G*G], [G*G, 1, G]]) {
    const y = new Float32Array(x.length), n = 2*r + 1;
    for (let a = 0; a < G; a++) for (let b = 0; b < G; b++) {
      const o = a*one + b*two; let s = 0;
      for (let i = 0; i < r; i++) s += x[o + i*step] || 0;
      for (let i = 0; i < G; i++) { if (i + r < G) s += x[o + (i + r)*step]; if (i > r) s -= x[o + (i - r - 1)*step]; y[o + i*step] = s/n; }
    }
    x = y;
  }
  return x;
}

function solid(gl, data, D) {
  const B = D > 128 ? 8 : 4, room = blocks(data, D, B), low = coarse(data, D, D > 128 ? 4 : 2), fills = {}, boxes = {};
  const it = { D, grain: D/B, voxels: texture(gl, data, [D, D, D]), room: texture(gl, room.out, [room.G, room.G, room.G], 2, gl.NEAREST) };
  it.fill = (level, ground, side) => {
    const old = fills[side];
    if (old && old.level === level) return old.texture;
    const G = low.G, x = low.mean.map(v => Math.min(1, Math.max(0, ((v/255 - ground)/(level - ground || 1e-6) - .45)/.6))), near = blur(blur(x, G, 1), G, 1), wide = blur(blur(near, G, 3), G, 3), out = new Uint8Array(2*G**3);
    for (let i = 0; i < x.length; i++) { out[2*i] = 255*near[i]; out[2*i + 1] = 255*wide[i]; }
    if (old) gl.deleteTexture(old.texture);
    fills[side] = { level, texture: texture(gl, out, [G, G, G], 2) };
    return fills[side].texture;
  };
  it.bounds = (level, side) => {                         // of the blocks that reach the level, 0 to 1
    const old = boxes[side];
    if (old && old.level === level) return old;
    const { G, out } = room, lo = [1, 1, 1], hi = [0, 0, 0], least = 255*level;
    for (let k = 0, o = 0; k < G; k++) for (let j = 0; j < G; j++) for (let i = 0; i < G; i++, o += 2) if (side > 0 ? out[o] >= least : out[o + 1] <= least) [i, j, k].forEach((c, a) => { lo[a] = Math.min(lo[a], c*B/D); hi[a] = Math.max(hi[a], Math.min(1, (c + 1)*B/D)); });
    return boxes[side] = { level, lo, hi };
  };
  it.gone = () => { for (const t of [it.voxels, it.room, ...Object.values(fills).map(f => f.texture)]) gl.deleteTexture(t); };
  return it;
}

// ---- atoms: a smooth tube along each chain

const rgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)/255);
const cross = (a, b) => [a[1]*b[2] - a[2]*b[1], a[2]*b[0] - a[0]*b[2], a[0]*b[1] - a[1]*b[0]], dot = (a, b) => a[0]*b[0] + a[1]*b[1] + a[2]*b[2];
const plus = (a, b, s = 1) => a.map((x, i) => x + s*b[i]), unit = a => { const n = Math.hypot(...a) || 1; return a.map(x => x/n); };

function tubes(model) {
  const xyz = unpacked(model.xyz), starts = [...model.starts, xyz.shape[0]], many = xyz.shape[0] > 3000, cuts = many ? 3 : 5, sides = many ? 6 : 8, place = [], normal = [], paint = [], index = [];
  const point = i => [xyz[3*i], xyz[3*i + 1], xyz[3*i + 2]];
  starts.slice(0, -1).forEach((from, piece) => {
    const to = starts[piece + 1], colour = rgb(model.colours[piece]), n = (to - from - 1)*cuts + 1, get = i => point(Math.min(to - 1, Math.max(from, i)));
    let side = null;
    for (let k = 0; k < n; k++) {                       // Catmull-Rom
      const i = from + Math.min(Math.floor(k/cuts), Math.max(0, to - from - 2)), u = (k - (i - from)*cuts)/cuts, [a, b, c, d] = [-1, 0, 1, 2].map(s => get(i + s));
      const p = b.map((_, x) => .5*(2*b[x] + (c[x] - a[x])*u + (2*a[x] - 5*b[x] + 4*c[x] - d[x])*u*u + (3*b[x] - a[x] - 3*c[x] + d[x])*u**3));
      const along = unit(b.map((_, x) => (c[x] - a[x]) + 2*(2*a[x] - 5*b[x] + 4*c[x] - d[x])*u + 3*(3*b[x] - a[x] - 3*c[x] + d[x])*u*u + 1e-6));
      side = unit(plus(side || (Math.abs(along[0]) < .8 ? [1, 0, 0] : [0, 1, 0]), along, -dot(side || (Math.abs(along[0]) < .8 ? [1, 0, 0] : [0, 1, 0]), along)));
      const other = cross(along, side), first = place.length/3, r = k === 0 || k === n - 1 ? .02 : model.width;
      for (let s = 0; s < sides; s++) {
        const w = 2*Math.PI*s/sides, m = plus(side.map(x => x*Math.cos(w)), other, Math.sin(w));
        place.push(...plus(p, m, r)); normal.push(...m); paint.push(...colour);
        if (k) { const e = (s + 1) % sides, b0 = first - sides; index.push(b0 + s, b0 + e, first + s, first + s, b0 + e, first + e); }
      }
    }
  });
  return { place: new Float32Array(place), normal: new Float32Array(normal), paint: new Float32Array(paint), index: new Uint32Array(index) };
}

function mesh(gl, { place, normal, paint, index }) {
  const vertices = gl.createVertexArray(); gl.bindVertexArray(vertices);
  [place, normal, paint].forEach((x, i) => { gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer()); gl.bufferData(gl.ARRAY_BUFFER, x, gl.STATIC_DRAW); gl.enableVertexAttribArray(i); gl.vertexAttribPointer(i, 3, gl.FLOAT, false, 0, 0); });
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer()); gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, index, gl.STATIC_DRAW); gl.bindVertexArray(null);
  return { vertices, n: index.length };
}

// ---- the picture: what is in which panel, drawn into a buffer of its own and then onto the canvas

const CIVIDIS = ['#00224e', '#123570', '#3b496c', '#575d6d', '#707173', '#8a8678', '#a59c74', '#c3b369', '#e1cc55', '#fee838'];
const HAIRS = { x: [.84, .37, 0], y: [0, .62, .45], z: [.34, .71, .91] };

function stage(canvas) {
  const gl = canvas.getContext('webgl2', { antialias: false, alpha: false, depth: false, powerPreference: 'high-performance' });
  if (!gl) throw Error('This browser gives no WebGL2, so maps cannot be drawn here: allow hardware acceleration in its settings, close other tabs with 3-D views, or look at `v.picture()`.');
  const it = { gl, gone: () => gl.getExtension('WEBGL_lose_context')?.loseContext() };
  it.begin = () => {
    it.surface = program(gl, SCREEN, SURFACE); it.section = program(gl, SCREEN, SECTION); it.tube = program(gl, TUBE, TUBED);
    it.ramp = texture(gl, new Uint8Array(CIVIDIS.flatMap(c => [...rgb(c).map(x => 255*x), 255])), [CIVIDIS.length, 1], 4);
    it.none = texture(gl, new Uint8Array(1), [1, 1, 1]); it.solids = new Map(); it.mesh = null; it.buffer = null;
  };
  it.solid = (key, data, D) => {                         // the textures of these bytes, made once
    const old = it.solids.get(key);
    if (old && old.data === data) return old.solid;
    if (old) old.solid.gone();
    const made = solid(gl, data, D);
    it.solids.set(key, { data, solid: made });
    return made;
  };
  it.drop = key => { it.solids.get(key)?.solid.gone(); it.solids.delete(key); };
  it.target = (w, h) => {
    if (it.buffer && it.buffer.w === w && it.buffer.h === h) return it.buffer;
    if (it.buffer) { gl.deleteFramebuffer(it.buffer.frame); gl.deleteRenderbuffer(it.buffer.colour); gl.deleteRenderbuffer(it.buffer.depth); }
    const frame = gl.createFramebuffer(), colour = gl.createRenderbuffer(), depth = gl.createRenderbuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    for (const [r, format, at] of [[colour, gl.RGBA8, gl.COLOR_ATTACHMENT0], [depth, gl.DEPTH_COMPONENT24, gl.DEPTH_ATTACHMENT]]) { gl.bindRenderbuffer(gl.RENDERBUFFER, r); gl.renderbufferStorage(gl.RENDERBUFFER, format, w, h); gl.framebufferRenderbuffer(gl.FRAMEBUFFER, at, gl.RENDERBUFFER, r); }
    return it.buffer = { w, h, frame, colour, depth };
  };
  it.show = () => {
    const { frame, w, h } = it.buffer;
    gl.bindFramebuffer(gl.READ_FRAMEBUFFER, frame); gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, null); gl.disable(gl.SCISSOR_TEST);
    gl.blitFramebuffer(0, 0, w, h, 0, 0, canvas.width, canvas.height, gl.COLOR_BUFFER_BIT, gl.LINEAR);
  };
  it.wait = () => { gl.bindFramebuffer(gl.FRAMEBUFFER, it.buffer.frame); gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)); };      // until the card is done
  it.begin();
  return it;
}

// ---- turning

const times = (a, b) => [0, 3, 6].flatMap(r => [0, 1, 2].map(c => a[r]*b[c] + a[r + 1]*b[c + 3] + a[r + 2]*b[c + 6]));
function turned(R, right, down = 0, roll = 0) {          // about the axes of the screen, radians
  const [a, b, c] = [right, down, roll].map(w => [Math.cos(w), Math.sin(w)]);
  const m = times([c[0], -c[1], 0, c[1], c[0], 0, 0, 0, 1], times(times([a[0], 0, a[1], 0, 1, 0, -a[1], 0, a[0]], [1, 0, 0, 0, b[0], -b[1], 0, b[1], b[0]]), R));
  const x = unit(m.slice(0, 3)), y = unit(plus(m.slice(3, 6), x, -dot(m.slice(3, 6), x)));
  return [...x, ...y, ...cross(x, y)];
}

const round = length => { const p = 10**Math.floor(Math.log10(length)); return p*[5, 2, 1].find(m => m*p <= length); };      // 1, 2 or 5 times a power of ten
const save = (blob, name) => { const a = el('a', { href: URL.createObjectURL(blob), download: name }); a.click(); setTimeout(() => URL.revokeObjectURL(a.href), 5000); };

// ---- the widget

function render({ model, el: host }) {
  const f = frame(model, host, 'view'), { root } = f, get = name => model.get(name);
  let unsaved = false;
  const put = (name, value) => { model.set(name, value); unsaved = true; };
  const putAt = (name, i, value) => put(name, get(name).map((old, j) => j === i || i < 0 ? value : old));

  // what Python sent: the trait at first, then frames
  let live = [];
  const read = () => { live = get('maps').map(map => ({ map, data: unpacked(map.data), D: map.D, full: null, asked: -1 })); };
  read();

  const canvas = el('canvas', { role: 'img' }), over = el('div', { class: 'drgn-view-over', 'aria-hidden': 'true' }), lost = el('p', { class: 'drgn-view-lost', role: 'alert', hidden: true });
  const box = el('div', { class: 'drgn-view-box' }, canvas, over, lost), status = el('p', { class: 'drgn-view-status', role: 'status' });
  const panel = el('div', { class: 'drgn-view-controls' });
  root.append(box, panel, status);
  let card;
  try { card = stage(canvas); } catch (error) { f.fail(error); box.hidden = true; return f.ends; }
  f.end(card.gone);
  const gl = card.gl;

  // ---- which map is in which panel

  const count = () => live.length, one = () => ['series', 'morph'].includes(get('panels')), shown = () => live.map((_, i) => i).filter(i => get('shown')[i]);
  const item = (i, j = i, mixed = 0, k = i) => ({ i, j, mixed, k, level: get('level')[k], colour: get('colours')[k], alpha: get('opacity')[k] });      // k: whose level and colour; a series has one density for all
  function items() {                                     // the surfaces of each panel
    const at = Math.min(count() - 1, Math.max(0, get('at'))), i = Math.floor(at), whole = get('panels') === 'series' ? Math.round(at) : i;
    if (get('panels') === 'morph' && at > i) return [[item(i, i + 1, at - i, 0)]];
    if (one()) return [[item(whole, whole, 0, 0)]];
    return get('panels') === 'beside' ? shown().map(i => [item(i)]) : [shown().map(i => item(i))];
  }
  function cells() {                                     // { x, y, w, h, items, sections }, in pixels of the page from the top left
    const all = items(), W = box.clientWidth || 600, n = all.length, H = get('height');
    const columns = Math.max(1, [1, 2, 3, 4, 5, 6].filter(c => c <= n).reduce((best, c) => Math.min(W/c, H/Math.ceil(n/c)) > 1.05*Math.min(W/best, H/Math.ceil(n/best)) ? c : best, 1)), rows = Math.max(1, Math.ceil(n/columns));
    const w = Math.floor((W - columns + 1)/columns), h = Math.floor((H - rows + 1)/rows);
    return { W, H, list: all.map((items, k) => {
      const c = { x: (k % columns)*(w + 1), y: Math.floor(k/columns)*(h + 1), w, h, items, sections: [] };
      if (get('sections') && items.length) {
        const s = Math.floor(Math.min((h - 2)/3, .4*w));
        c.w = w - s - 1;
        [['x', 'y', 'z'], ['x', 'z', 'y'], ['z', 'y', 'x']].forEach((axes, r) => c.sections.push({ x: c.x + c.w + 1, y: c.y + r*(s + 1) + Math.floor((h - 3*s - 2)/2), w: s, h: s, axes }));
      }
      return c;
    }) };
  }
  const first = () => live[0].map, room = () => Math.max(...live.map(m => m.map.box)), half = () => first().box/2/get('zoom');
  const span = c => { const s = half()/Math.min(c.w, c.h); return [s*c.w, s*c.h]; };

  // ---- drawing

  let tint = null, tintFrom = null;
  const back = () => colours(root);
  function shared(c, theme) {
    const clip = get('clip'), r = first().box/2, [a, b] = clip.front, reach = Math.max(.9*room(), get('model').reach || 0), beyond = (map, k) => AXES.map(x => { const v = clip[x][k]; return v === k ? k : ((v - .5)*first().box)/map.box + map.shift; });      // the planes in a map's own box
    return { R: get('R'), span: span(c), pan: get('pan'), reach, beyond, low: beyond(first(), 0), high: beyond(first(), 1), slab: [a > 0 ? r*(2*a - 1) : -reach, b < 1 ? r*(2*b - 1) : reach], back: theme, radius: Math.max(...live.map(m => m.map.radius)) };
  }
  const scaled = (map, sigma, of = map) => (of.mean + sigma*of.std - map.lo)/(map.hi - map.lo);      // σ of a map to the 8 bits of another, 0 to 1
  const units = (one, two) => [(two.hi - two.lo)/(one.hi - one.lo), (two.lo - one.lo)/(one.hi - one.lo)];
  const of = (i, best) => best && live[i].full ? card.solid(i + 'full', live[i].full, live[i].fullD) : card.solid(i, live[i].data, live[i].D);
  function surface(it, base, fine, side) {
    const { map } = live[it.i], { map: next } = live[it.j], { map: whose } = live[it.k], best = fine < 1 && !it.mixed, a = of(it.i, best), b = it.mixed ? of(it.j, best) : a, level = scaled(map, side*it.level, whose), fill = (s, m) => s.fill(scaled(m, side*it.level, whose), scaled(m, 0, whose), side);
    const t = get('tint'), on = t.data && side > 0;
    if (on && tintFrom !== t) { if (tint) gl.deleteTexture(tint); tint = texture(gl, unpacked(t.data), [t.D, t.D, t.D]); tintFrom = t; }
    const bend = x => (x - t.lo)/(t.hi - t.lo);
    const within = [[a, map], [b, it.mixed ? next : map]].map(([x, m]) => x.bounds(scaled(m, side*it.level, whose), side)), least = (x, y) => x.map((v, i) => Math.min(v, y[i])), most = (x, y) => x.map((v, i) => Math.max(v, y[i]));
    use(gl, card.surface, { ...base, low: most(base.beyond(map, 0), least(within[0].lo, within[1].lo)), high: least(base.beyond(map, 1), most(within[0].hi, within[1].hi)), one: a.voxels, two: b.voxels, roomOne: a.room, roomTwo: b.room, fillOne: fill(a, map), fillTwo: fill(b, it.mixed ? next : map), units: units(map, next), tint: on ? tint : card.none, ramp: card.ramp,
      tinted: on ? 1 : 0, tintAt: on ? [t.box, t.shift, bend(get('tint_range')[0]), bend(get('tint_range')[1])] : [1, 0, 0, 1], colour: rgb(side > 0 ? it.colour : get('negative_colour')),
      box: map.box, shift: map.shift, voxels: a.D, grain: a.grain, mixed: it.mixed, level: side*level, side, alpha: it.alpha, fine });
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
  const inside = it => live[it.i].map.std > 0 && it.alpha > 0;
  const front = it => {                                  // how near the eye its blocks come, Å: glass is drawn from the back
    const { map } = live[it.i], R = get('R'), { lo, hi } = of(it.i).bounds(scaled(map, it.level, live[it.k].map), 1);
    return AXES.reduce((sum, _, i) => sum + Math.max(R[6 + i]*(lo[i] - map.shift), R[6 + i]*(hi[i] - map.shift))*map.box, 0);
  };
  function scene(c, theme, fine) {
    const base = shared(c, theme), solidly = c.items.filter(it => inside(it) && it.alpha >= 1), glassy = c.items.filter(it => inside(it) && it.alpha < 1);
    const sides = it => get('negative')[it.i] ? [1, -1] : [1];
    gl.enable(gl.DEPTH_TEST); gl.disable(gl.BLEND); gl.depthMask(true);
    if (card.mesh && get('model_shown')) { use(gl, card.tube, { ...base, box: first().box, shift: first().shift }); gl.bindVertexArray(card.mesh.vertices); gl.drawElements(gl.TRIANGLES, card.mesh.n, gl.UNSIGNED_INT, 0); gl.bindVertexArray(null); }
    for (const it of solidly) for (const s of sides(it)) surface(it, base, fine, s);
    gl.enable(gl.BLEND); gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA); gl.depthMask(false);
    for (const it of glassy.sort((a, b) => front(a) - front(b))) for (const s of sides(it)) surface(it, base, fine, s);
    gl.depthMask(true); gl.disable(gl.BLEND);
  }
  const tex = (map, w) => w/map.box + map.shift, near = map => Math.min(.5, 1.12*Math.max(...live.map(m => m.map.radius))/map.box);      // half the edge of a section, of the box
  function slice(s, c, px) {
    const it = c.items[0], { map } = live[it.i], a = of(it.i, true), b = it.mixed ? of(it.j, true) : a, cross = get('cross'), e = x => AXES.map(y => +(x === y)), [u, v, w] = s.axes;
    const r = near(map), middle = AXES.map((x, i) => x === w ? tex(map, cross[i]) : map.shift), where = x => cross[AXES.indexOf(x)]/map.box/r;
    if (a.D !== b.D) return;
    use(gl, card.section, { one: a.voxels, two: b.voxels, middle, across: e(u).map(x => x*r), up: e(v).map(x => x*r), colour: rgb(it.colour), hairX: HAIRS[u], hairY: HAIRS[v], hair: [where(u), where(v)], size: [s.w*px, s.h*px],
      mixed: it.mixed, units: units(map, live[it.j].map), level: scaled(map, it.level, live[it.k].map), black: scaled(map, -2), white: .85 });
    gl.disable(gl.DEPTH_TEST); gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
  function draw(scale, fine, from = 0, to = Infinity) {  // rows of the page `from` ... `to`
    const { W, H, list } = cells(), w = Math.round(W*scale), h = Math.round(H*scale), { frame } = card.target(w, h), theme = back().bg.match(/[\d.]+/g).slice(0, 3).map(x => x/255), line = theme.map(x => x + (x > .5 ? -.12 : .16));
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame); gl.enable(gl.SCISSOR_TEST);
    const place = c => {                                 // false if it is not in these rows
      const top = Math.max(c.y, from), end = Math.min(c.y + c.h, to), y = r => h - Math.round(r*scale), x = Math.round(c.x*scale), wide = Math.round((c.x + c.w)*scale) - x;
      if (top >= end) return false;
      gl.viewport(x, y(c.y + c.h), wide, y(c.y) - y(c.y + c.h)); gl.scissor(x, y(end), wide, y(top) - y(end));
      return true;
    };
    const clear = rgb => { gl.clearColor(...rgb, 1); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT); };
    if (place({ x: 0, y: 0, w: W, h: H })) clear(list.length > 1 || list.some(c => c.sections.length) ? line : theme);
    for (const c of list) {
      if (place(c)) { clear(theme); scene(c, theme, fine); }
      for (const s of c.sections) if (place(s)) slice(s, c, scale);
    }
  }

  // quick and coarse while something moves; when it rests, in full resolution, smoothed, and in strips so that the page stays awake
  let pace = 0, asked = false, timer = 0, resting = 0, due = [], stale = false, filming = false, visible = true, gone = false;
  const dpr = () => Math.min(2, devicePixelRatio || 1);
  function size(scale) { const { W, H } = cells(), w = Math.round(W*scale), h = Math.round(H*scale); if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; } canvas.style.height = H + 'px'; }      // the browser enlarges a coarse canvas for less than we could
  function changed(quick = true, patience = 180) {       // ms until it counts as resting
    resting++; root.dataset.state = 'moving'; clearTimeout(timer);
    if (quick && !asked) { asked = true; requestAnimationFrame(moving); }
    timer = setTimeout(rest, quick || patience > 180 ? patience : 0);
  }
  function moving() {
    asked = false;
    if (gone || gl.isContextLost() || !visible || !box.clientWidth) return;
    const { W, H } = cells(), best = pace ? Math.min(dpr(), Math.sqrt(24/pace/W/H)) : .5, scale = filming ? 1 : [2, 1.5, 1, .7, .5, .35].find(s => s <= best) || .25, start = performance.now();
    draw(scale, 1); card.wait(); size(scale);
    const now = (performance.now() - start)/(W*H*scale*scale);
    pace = pace ? .7*pace + .3*now : now;
    card.show(); labels();
    root.dataset.frames = +(root.dataset.frames || 0) + 1;
    for (const i of due.splice(0)) tell(model, 'seen', [i]);
  }
  function rest() {
    if (gone || gl.isContextLost() || !visible || !box.clientWidth) return;
    if (unsaved) { model.save_changes(); unsaved = false; }
    for (const c of items()) for (const { i, mixed } of c) { const m = live[i]; if (!mixed && m.map.full > m.D && !m.full && m.asked !== m.map.version) { m.asked = m.map.version; tell(model, 'full', [i]); } }
    const me = ++resting, { W, H } = cells(), scale = Math.max(1, Math.min(2*dpr(), 4096/W, Math.sqrt(600/(3*(pace || 1e-3)*W*H)))), step = Math.max(8, Math.ceil(40/(3*(pace || 1e-4)*W*scale*scale)));
    let y = 0;
    const strip = () => {
      if (me !== resting || gone || gl.isContextLost()) return;
      draw(scale, .5, y, y += step); card.wait();
      if (y < H) return void requestAnimationFrame(strip);
      size(dpr()); card.show(); labels(); tellReader(); if (stale) { stale = false; syncs.forEach(g => g()); }
      root.dataset.voxels = Math.max(0, ...live.map(m => m.fullD && m.full ? m.fullD : m.D)); root.dataset.state = 'rest';
    };
    strip();
  }

  // ---- what is written over the panels

  let written = '';
  function labels() {
    const { list } = cells(), R = get('R'), now = JSON.stringify([list, R, get('zoom'), live.map(m => [m.map.name, m.map.note])]);
    if (now === written) return;                          // writing anew makes the browser paint the page anew
    written = now;
    const text = (x, y, s, kind) => el('span', { class: `drgn-view-label ${kind || ''}`, style: `left:${x}px;top:${y}px` }, s), parts = [];
    for (const c of list) {
      const it = c.items[0], name = it && (get('panels') === 'morph' && it.mixed ? `${live[it.i].map.name} → ${live[it.j].map.name}` : c.items.length === 1 && count() > 1 ? live[it.i].map.name : '');
      if (name) parts.push(text(c.x + 10, c.y + 7, name));
      const notes = c.items.map(k => live[k.i].map.note).filter(Boolean);
      if (notes.length) parts.push(el('span', { class: 'drgn-view-label note', style: `left:${c.x + 10}px;top:${c.y + 26}px;max-width:${c.w - 20}px` }, [...new Set(notes)].join(' ')));
      for (const s of c.sections) parts.push(text(s.x + 5, s.y + 3, s.axes.slice(0, 2).join(''), 'bright'));
    }
    const c = list[0];
    if (c) {
      const per = 2*span(c)[1]/c.h, length = round(Math.min(.28*c.w, 130)*per), px = length/per;
      parts.push(el('span', { class: 'drgn-view-bar', style: `left:${c.x + 12}px;top:${c.y + c.h - 24}px;width:${px}px` }, `${+length.toPrecision(6)} Å`));
      if (c.w > 170) parts.push(el('span', { class: 'drgn-view-axes', style: `left:${c.x + c.w - 62}px;top:${c.y + c.h - 62}px`, $: { innerHTML: axes(R) } }));
    }
    if (!list.length) parts.push(el('span', { class: 'drgn-view-label note', style: 'left:10px;top:10px' }, 'No map is ticked: tick one below.'));
    over.replaceChildren(...parts);
  }
  function axes(R) {                                     // a small picture of where x, y and z point
    const arms = AXES.map((name, i) => ({ name, x: R[i], y: R[3 + i], z: R[6 + i], colour: `rgb(${HAIRS[name].map(v => Math.round(255*v))})` })).sort((a, b) => a.z - b.z);
    return `<svg width="52" height="52" viewBox="-26 -26 52 52">${arms.map(a => `<g opacity="${.65 + .35*a.z}"><path d="M0 0L${17*a.x} ${-17*a.y}" stroke="${a.colour}" stroke-width="2.4" stroke-linecap="round"/><text x="${22*a.x}" y="${-22*a.y + 3.5}" text-anchor="middle">${a.name}</text></g>`).join('')}</svg>`;
  }
  function tellReader() {
    const parts = items().flat().map(it => `${live[it.i].map.name || 'map'} at ${it.level.toFixed(1)} σ`);
    const text = `Density: ${parts.join(', ') || 'no map shown'}; ${get('panels')}; seen along ${get('R').slice(6).map(x => x.toFixed(2)).join(', ')}`;
    canvas.setAttribute('aria-label', text); status.textContent = text;
  }

  // ---- controls

  let syncs = [];
  const sync = g => { syncs.push(g); return g; };
  const bins = i => { const n = new Float64Array(128); for (const v of live[i].data) n[v >> 1]++; return n; };
  function histogram(i) {                                // with the slider on its base
    const strip = el('canvas', { class: 'drgn-view-histogram', 'aria-hidden': 'true' }), ends = () => { const m = live[i].map; return m.std ? [(m.lo - m.mean)/m.std, (m.hi - m.mean)/m.std] : [0, 1]; };
    const range = el('input', { type: 'range', step: 'any', 'aria-label': `level of ${live[i].map.name || 'the map'}, σ`, oninput: e => level(i, +e.target.value) });
    const number = el('input', { type: 'number', step: .1, 'aria-label': `level of ${live[i].map.name || 'the map'}, σ`, onchange: e => { if (e.target.value !== '') level(i, +e.target.value); } });
    const size = el('span', { class: 'drgn-dim drgn-view-size', title: 'the volume that the surface encloses' });
    let from = null, n, total;
    sync(() => {
      const m = live[i], v = get('level')[i], [lo, hi] = ends(), w = strip.clientWidth || 240, h = 30, ratio = devicePixelRatio || 1, x = strip.getContext('2d', { willReadFrequently: true });
      if (from !== m.data) { from = m.data; n = bins(i); total = m.data.length; }
      range.min = lo; range.max = hi; range.value = v; number.value = v.toFixed(2); range.setAttribute('aria-valuetext', `${v.toFixed(2)} σ`);
      strip.width = w*ratio; strip.height = h*ratio; x.scale(ratio, ratio);
      const top = Math.log1p(Math.max(...n)), pad = 8, at = (v - lo)/(hi - lo)*128, theme = back();
      for (const [colour, from, to] of [[theme.dim, 0, at], [get('colours')[i], at, 128]]) {
        x.save(); x.beginPath(); x.rect(pad + from*(w - 2*pad)/128, 0, (to - from)*(w - 2*pad)/128, h); x.clip();
        x.beginPath(); x.moveTo(pad, h); n.forEach((c, b) => x.lineTo(pad + (b + .5)*(w - 2*pad)/128, h - Math.log1p(c)/top*(h - 2))); x.lineTo(w - pad, h);
        x.globalAlpha = from ? 1 : .55; x.fillStyle = colour; x.fill(); x.restore();
      }
      const above = n.reduce((s, c, b) => s + c*Math.min(1, Math.max(0, b + 1 - at)), 0)/total, nm3 = above*(m.map.box/10)**3;
      size.textContent = nm3 >= 100 ? `${Math.round(nm3).toLocaleString('en')} nm³` : `${nm3.toPrecision(2)} nm³`;
    });
    return [el('span', { class: 'drgn-view-level' }, strip, range), el('label', { class: 'drgn-field' }, number, 'σ'), size];
  }
  function level(i, v) { if (get('linked')) { const old = get('level'), by = v - old[i]; put('level', old.map((x, j) => j === i || x === old[i] ? v : x + by)); } else putAt('level', one() ? -1 : i, v); }
  function row(i) {
    const m = live[i].map, name = m.name || 'level', opacity = slider('opacity', .05, 1, .01, 1, v => putAt('opacity', i, v));
    const paint = el('input', { type: 'color', 'aria-label': `colour of ${name}`, oninput: e => putAt('colours', i, e.target.value) }), tick = el('input', { type: 'checkbox', 'aria-label': `show ${name}`, onchange: e => putAt('shown', i, e.target.checked) });
    const both = el('button', { type: 'button', title: 'also where the density is as far below', 'aria-label': `${name}: also the negative surface`, onclick: () => putAt('negative', i, !get('negative')[i]) }, '±');
    sync(() => { paint.value = get('colours')[i]; tick.checked = get('shown')[i]; opacity.querySelector('input').value = get('opacity')[i]; both.setAttribute('aria-pressed', get('negative')[i]); });
    opacity.querySelector('input').setAttribute('aria-label', `opacity of ${name}`);
    return [count() > 1 && !one() ? tick : el('span'), paint, el('span', { class: 'drgn-view-name', title: name }, one() ? 'level' : name), ...histogram(i), opacity, both];
  }
  function toggle(text, key, name, title) {
    const b = button(text, key, () => put(name, !get(name)), { title });
    sync(() => b.setAttribute('aria-pressed', !!get(name)));
    return b;
  }
  function clipping() {
    let which = 'front';
    const ends = [0, 1].map(k => slider('', 0, 1, .005, k, v => { const c = get('clip'), pair = [...c[which]]; pair[k] = k ? Math.max(v, pair[0]) : Math.min(v, pair[1]); put('clip', { ...c, [which]: pair }); }));
    const pick = choice('clip', ['front', ...AXES], which, v => { which = v; syncs.forEach(g => g()); });
    ends.forEach((s, k) => s.querySelector('input').setAttribute('aria-label', `clip ${k ? 'to' : 'from'}`));
    sync(() => ends.forEach((s, k) => { s.querySelector('input').value = get('clip')[which][k]; }));
    return [pick, ...ends];
  }
  function path() {                                      // through a series or a morph
    const s = slider(get('panels'), 0, Math.max(1, count() - 1), get('panels') === 'morph' ? .005 : 1, 0, v => put('at', v)), out = el('output', { class: 'drgn-dim' });
    const play = button('Play', 'a', () => { playing = !playing; if (playing) step(performance.now()); }, { title: 'run through the maps' });
    let last;
    function step(now) {
      if (!playing || gone) return;
      const by = get('panels') === 'morph' ? Math.min(.1, (now - (last || now))/1000) : 0, n = count() - 1, to = get('at') + by*way;
      last = now;
      if (by) { if (to > n || to < 0) way = -way; put('at', Math.min(n, Math.max(0, to))); requestAnimationFrame(step); }
      else if (get('panels') === 'morph') requestAnimationFrame(step);
      else { put('at', (Math.round(get('at')) + 1) % (n + 1)); setTimeout(() => step(0), 400); }
    }
    sync(() => { s.querySelector('input').value = get('at'); const c = items()[0][0]; out.textContent = c.mixed ? `${Math.round(100*c.mixed)} % of the way from ${live[c.i].map.name} to ${live[c.j].map.name}` : live[c.i].map.name; play.setAttribute('aria-pressed', playing); });
    s.classList.add('drgn-view-path');
    return el('div', { class: 'drgn-row' }, play, s, out);
  }
  function hairs() {
    const all = AXES.map((x, i) => slider(x, -first().box/2, first().box/2, first().box/first().D, 0, v => put('cross', get('cross').map((old, j) => j === i ? v : old))));
    const out = el('output', { class: 'drgn-dim' });
    sync(() => { all.forEach((s, i) => s.querySelector('input').value = get('cross')[i]); out.textContent = `at ${get('cross').map(v => v.toFixed(0)).join(', ')} Å`; line.hidden = !get('sections'); });
    const line = el('div', { class: 'drgn-row' }, el('span', { class: 'drgn-dim' }, 'sections'), ...all, out);
    return line;
  }
  function bar() {                                       // of the colours of a second map
    const t = get('tint'), ends = [0, 1].map(k => el('input', { type: 'number', step: 'any', 'aria-label': k ? 'highest value' : 'lowest value', onchange: e => put('tint_range', get('tint_range').map((v, j) => j === k ? +e.target.value : v)) }));
    sync(() => ends.forEach((e, k) => e.value = +get('tint_range')[k].toPrecision(4)));
    return el('div', { class: 'drgn-row drgn-view-tint' }, el('span', { class: 'drgn-dim' }, t.name), ends[0], el('span', { class: 'drgn-view-ramp', style: `background:linear-gradient(90deg,${CIVIDIS.join(',')})` }), ends[1]);
  }
  let playing = false, way = 1, built = '';
  function build() {                                     // the controls that these maps and this layout need
    syncs = [];
    const n = count(), rows = one() ? [0] : live.map((_, i) => i), same = live.every(m => Math.abs(m.map.box - first().box) < .01*first().box);
    const layout = n > 1 ? choice('layout', ['beside', 'over', ...(same ? ['series', 'morph'] : [])], get('panels'), v => put('panels', v)) : null;
    const link = n > 1 && !one() ? check('link', get('linked'), v => put('linked', v)) : null;
    panel.replaceChildren(el('div', { class: 'drgn-view-maps' }, rows.flatMap(row)), ...(one() ? [path()] : []), ...(get('tint').data ? [bar()] : []), hairs(),
      el('div', { class: 'drgn-row' }, layout, link, ...clipping(), toggle('Sections', 's', 'sections', 'three orthogonal sections'), get('model').xyz ? toggle('Model', 'o', 'model_shown', 'the atomic model') : null, toggle('Turn', 't', 'spin', 'a turntable'), button('Reset', 'r', reset, { title: 'the first view again' }),
        button('Picture', 'p', picture, { title: 'save a PNG' }), movieButton = button('Movie', 'm', movie, { title: 'save one turn, or one run through the series, as a WebM' })));
    if (get('model').xyz && get('model') !== meshFrom) { meshFrom = get('model'); card.mesh = mesh(gl, tubes(meshFrom)); }
  }
  let meshFrom = null, movieButton, spinning = false;
  const begin = { R: [...get('R')], zoom: get('zoom'), pan: [...get('pan')] };
  function reset() { for (const [k, v] of Object.entries(begin)) put(k, v); put('clip', Object.fromEntries(['front', ...AXES].map(x => [x, [0, 1]]))); put('cross', [0, 0, 0]); }
  function refresh() {
    const now = [get('panels'), count(), !!get('tint').data, !!get('model').xyz, live.map(m => m.map.name)].join();
    if (now !== built) { built = now; build(); }
    syncs.forEach(g => g());
    if (get('spin') && !spinning) { spinning = true; requestAnimationFrame(spin); }
    changed();
  }
  let before = 0;
  function spin(now) {
    if (gone || !get('spin')) { spinning = false; before = 0; return; }
    if (visible) put('R', turned(get('R'), before ? Math.min(.1, (now - before)*6e-4) : 0));
    before = now; requestAnimationFrame(spin);
  }

  // ---- out of the page

  function still() {                                     // the canvas with what is written over it
    const { list } = cells(), out = el('canvas', { width: 2*box.clientWidth, height: 2*get('height') }), x = out.getContext('2d'), theme = back();
    canvas.width = out.width; canvas.height = out.height;
    draw(2, .5); card.show(); x.drawImage(canvas, 0, 0, out.width, out.height); changed();
    x.scale(2, 2); x.fillStyle = theme.fg; x.font = '13px system-ui, sans-serif';
    for (const s of over.querySelectorAll('.drgn-view-label:not(.note)')) { x.fillStyle = s.classList.contains('bright') ? 'white' : theme.fg; x.fillText(s.textContent, s.offsetLeft, s.offsetTop + 13); }
    const b = over.querySelector('.drgn-view-bar');
    if (b && list.length) { x.fillStyle = theme.fg; x.fillRect(b.offsetLeft, b.offsetTop + b.offsetHeight - 3, b.offsetWidth, 3); x.textAlign = 'center'; x.fillText(b.textContent, b.offsetLeft + b.offsetWidth/2, b.offsetTop + b.offsetHeight - 8); }
    return out;
  }
  function picture() { still().toBlob(blob => save(blob, 'view.png')); }
  function movie() {
    const kind = ['video/webm;codecs=vp9', 'video/webm;codecs=vp8', 'video/webm'].find(k => window.MediaRecorder?.isTypeSupported(k));
    if (!kind) return f.fail(Error('This browser records no video: use `movie(volumes, path)` in Python.'));
    const stream = canvas.captureStream(30), recorder = new MediaRecorder(stream, { mimeType: kind, videoBitsPerSecond: 8e6 }), parts = [], R = get('R'), at = get('at'), n = one() ? 30*(count() - 1) : 120;
    let k = 0;
    recorder.ondataavailable = e => parts.push(e.data);
    recorder.onstop = () => { save(new Blob(parts, { type: kind }), 'view.webm'); put('R', R); put('at', at); filming = false; movieButton.disabled = false; root.dataset.movie = parts.reduce((s, p) => s + p.size, 0); };
    filming = true; movieButton.disabled = true; size(1); recorder.start();
    (function next() {
      if (gone || k > n) return recorder.stop();
      if (one()) put('at', (count() - 1)*k/n); else put('R', turned(R, 2*Math.PI*k/n));
      k++; requestAnimationFrame(() => requestAnimationFrame(next));
    })();
  }

  // ---- mouse, touch and keys

  const fingers = new Map();
  const under = e => { const r = canvas.getBoundingClientRect(), x = e.clientX - r.left, y = e.clientY - r.top, has = c => x >= c.x && x < c.x + c.w && y >= c.y && y < c.y + c.h, { list } = cells(); for (const c of list) { if (has(c)) return { c, x, y }; const s = c.sections.find(has); if (s) return { c, s, x, y }; } return null; };
  function point(hit, e) {                               // a section's pixel to the cross
    const r = canvas.getBoundingClientRect(), { s, c } = hit, map = live[c.items[0].i].map, [u, v] = s.axes, wide = near(map)*map.box, along = (t, from, size) => wide*Math.min(1, Math.max(-1, 2*(t - from)/size - 1));
    put('cross', AXES.map((x, i) => x === u ? along(e.clientX, r.left + s.x, s.w) : x === v ? -along(e.clientY, r.top + s.y, s.h) : get('cross')[i]));
  }
  canvas.addEventListener('pointerdown', e => {
    const hit = under(e);
    if (!hit) return;
    root.focus({ preventScroll: true }); canvas.setPointerCapture(e.pointerId); e.preventDefault();
    fingers.set(e.pointerId, { x: e.clientX, y: e.clientY, hit, pan: e.shiftKey || e.button > 0 });
    if (hit.s) point(hit, e);
  });
  canvas.addEventListener('pointermove', e => {
    const was = fingers.get(e.pointerId);
    if (!was) return;
    const dx = e.clientX - was.x, dy = e.clientY - was.y, per = 2*span(was.hit.c)[1]/was.hit.c.h, shift = k => put('pan', [get('pan')[0] - k*dx*per, get('pan')[1] + k*dy*per]);
    if (was.hit.s) point(was.hit, e);
    else if (fingers.size === 2) {                       // pinch: zoom about the other finger, and half of the move
      const other = [...fingers].find(([id]) => id !== e.pointerId)[1], far = (x, y) => Math.hypot(x - other.x, y - other.y) || 1;
      zoom(far(e.clientX, e.clientY)/far(was.x, was.y)); shift(.5);
    } else if (was.pan) shift(1);
    else put('R', turned(get('R'), dx*.009, dy*.009));
    was.x = e.clientX; was.y = e.clientY;
  });
  for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, e => fingers.delete(e.pointerId));
  canvas.addEventListener('contextmenu', e => e.preventDefault());
  const zoom = by => put('zoom', Math.min(40, Math.max(.2, get('zoom')*by)));
  canvas.addEventListener('wheel', e => {                // only once the widget has been clicked: a page must scroll past it
    if (!root.contains(document.activeElement)) return;
    e.preventDefault();
    const hit = under(e), map = first();
    if (hit?.s) { const i = AXES.indexOf(hit.s.axes[2]); put('cross', get('cross').map((v, j) => j === i ? Math.min(map.box/2, Math.max(-map.box/2, v - Math.sign(e.deltaY)*map.box/map.D)) : v)); } else zoom(Math.exp(-e.deltaY*.0015));
  }, { passive: false });
  canvas.addEventListener('dblclick', reset);
  root.addEventListener('keydown', e => {
    if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName)) return;
    const a = .12, nudge = by => get('level').forEach((v, i) => (i === 0 || !get('linked')) && level(i, v + by)), turn = (...w) => put('R', turned(get('R'), ...w));
    const act = { ArrowLeft: () => e.shiftKey ? turn(0, 0, a) : turn(-a), ArrowRight: () => e.shiftKey ? turn(0, 0, -a) : turn(a), ArrowUp: () => turn(0, -a), ArrowDown: () => turn(0, a), '+': () => zoom(1.15), '=': () => zoom(1.15), '-': () => zoom(1/1.15), '[': () => nudge(-.25), ']': () => nudge(.25) }[e.key];
    if (act) { act(); e.preventDefault(); e.stopPropagation(); }
  });
  canvas.title = 'Drag turns, shift-drag moves, the wheel zooms once the widget has been clicked. A double click goes back. Arrows turn, + and - zoom, [ and ] change the level.';

  // ---- Python, the theme, the window, the card

  f.on('change', refresh);
  f.on('change:maps', () => { read(); refresh(); });
  f.on('msg:custom', (content, buffers) => {
    const { map, i, kind } = content, data = typed(buffers[0], Uint8Array), m = live[i];
    if (!m) return;
    if (kind === 'frame') { live[i] = { map, data, D: map.D, full: null, asked: -1 }; due.push(i); stale = true; changed(document.hidden, 800); if (!document.hidden) moving(); }      // at once: another may be on its way
    else if (m.map.version === map.version) {
      const kept = live.filter(l => l.full);              // no more than four whole maps on the card
      if (kept.length > 3) { const k = live.findIndex((l, j) => l.full && j !== i); live[k].full = null; live[k].asked = -1; card.drop(k + 'full'); }
      m.full = data; m.fullD = map.D; changed(false);
    }
  });
  f.end(onTheme(root, refresh));
  const sized = new ResizeObserver(() => refresh()), seen = new IntersectionObserver(entries => { const was = visible; visible = entries[entries.length - 1].isIntersecting; if (visible && !was) changed(); });
  sized.observe(box); seen.observe(canvas);
  canvas.addEventListener('webglcontextlost', e => { e.preventDefault(); if (gone) return; lost.textContent = 'The browser has taken the graphics card away from this view (it keeps about 16 views on a page). Close other 3-D views or wait: the map comes back by itself.'; lost.hidden = false; });
  canvas.addEventListener('webglcontextrestored', () => { lost.hidden = true; tint = tintFrom = meshFrom = null; card.begin(); built = ''; refresh(); });
  f.end(() => { gone = true; clearTimeout(timer); sized.disconnect(); seen.disconnect(); });
  refresh();
  tell(model, 'shown');
  return f.ends;
}
const AXES = ['x', 'y', 'z'];
export default { render };
