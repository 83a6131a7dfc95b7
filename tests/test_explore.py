"The lasso: on a bare page with the mouse and the keyboard, and in a real JupyterLab down to the saved file."
import numpy as np
import pytest
from matplotlib.path import Path as Outline

from browser import mount, notebook, until, value, wire
from drgnbook.landscape import pc_path
from drgnbook.explore import explore, inside

rng = np.random.default_rng(0)
STATE = np.repeat([0, 1, 2], [600, 300, 100])
Z = rng.normal(size=(1000, 8))*.4 + np.eye(8)[[0, 1, 2]][STATE]*3


class Page:
    "A mounted widget, its map and what it tells Python."
    def __init__(self, browser, ex, dark=False, **kw):
        self.ex, self.w = ex, mount(browser, ex, dark, **{'height': 1150, **kw})
        self.page = self.w.page
        self.drawn()

    def drawn(self, more=0):
        "Wait until the map has been drawn (`more` times again)."
        now = self.frames() if more else 0
        self.page.wait_for_function('n => +(document.querySelector(".drgn-points").dataset.frames || 0) > n', arg=now + more - 1 if more else 0)
    def frames(self): return int(self.page.evaluate('document.querySelector(".drgn-points").dataset.frames || 0'))
    def pixel(self, xy):
        "Where points of the map are on the page: the whole map, as it is first shown."
        box, all = self.page.locator('.drgn-over').bounding_box(), self.ex.xy[self.ex.known.ok]
        mid, span = (all.max(0) + all.min(0))/2, np.ptp(all, 0)
        k = .94*np.array([box['width'], box['height']])/span
        if self.ex.flat['equal']: k = k.min()
        return (np.asarray(xy, float) - mid)*k*[1, -1] + [box['x'] + box['width']/2, box['y'] + box['height']/2]
    def drag(self, corners, keys=()):
        for k in keys: self.page.keyboard.down(k)
        self.page.mouse.move(*corners[0]); self.page.mouse.down()
        for c in corners[1:]: self.page.mouse.move(*c)
        self.page.mouse.up()
        for k in keys: self.page.keyboard.up(k)
    def told(self, what):
        "The messages of one kind that the page sent."
        return [m for m in self.page.evaluate('sent') if m['do'] == what]
    def chosen(self):
        "The last message `select` as (how, mask)."
        m = self.told('select')[-1]
        return m['with'][0], np.unpackbits(np.array(m['buffers'][0], np.uint8), count=self.ex.N, bitorder='little').astype(bool)
    def obey(self):
        "Let Python do what the page asked for since, and show it the answer."
        for m in self.page.evaluate('sent.splice(0)'): self.ex.hear(m['do'], *m['with'], *(bytes(b) for b in m['buffers']))
        self.show('marked', 'shown_bits', 'kept', 'ranges', 'said', 'paint', 'flat', 'pick')
    def show(self, *traits): self.page.evaluate("s => { s = revive(s); for (const k in s) model.set(k, s[k]); }", {k: wire(getattr(self.ex, k)) for k in traits})
    def close(self): self.w.clean(); self.page.close()


@pytest.fixture
def small(browser):
    p = Page(browser, explore(Z, columns=dict(state=STATE)))
    yield p
    p.close()


ring = lambda centre, r, n=12: np.asarray(centre) + r*np.stack([np.cos(t := np.linspace(0, 2*np.pi, n, endpoint=False)), np.sin(t)], 1)

def test_lasso(small):
    "The mouse selects those inside what it drew, as matplotlib sees it; shift adds, alt takes away, both intersect; undo and invert are Python's."
    ex, xy = small.ex, small.pixel(small.ex.xy)
    first, second = ring(xy[STATE == 0].mean(0), 40), ring(xy[STATE == 1].mean(0), 60)
    small.drag([*first, first[0]])
    want = Outline(first).contains_points(xy)
    sure = lambda outline: np.abs(np.linalg.norm(xy - outline.mean(0), axis=1) - np.linalg.norm(outline[0] - outline.mean(0))) > 3          # the mouse has whole pixels
    how, mask = small.chosen()
    assert how == 'new' and 100 < mask.sum() < 600 and (mask == want)[sure(first)].all()
    small.obey(); assert np.array_equal(ex.selected, mask)
    small.drag([*second, second[0]], ['Shift'])
    assert small.chosen()[0] == 'add'; small.obey()
    assert (ex.selected == (want | Outline(second).contains_points(xy)))[sure(first) & sure(second)].all()
    small.drag([*first, first[0]], ['Alt']); small.obey()
    assert not ex.selected[STATE == 0].any() and ex.selected[STATE == 1].any()
    half = xy[STATE == 1].mean(0) + [[-200, -200], [0, -200], [0, 200], [-200, 200]]
    before = ex.selected
    small.drag([*half, half[0]], ['Shift', 'Alt']); small.obey()
    assert 0 < ex.selected.sum() < before.sum() and not (ex.selected & ~before).any()
    small.page.click('[aria-label=Undo]'); small.obey(); assert np.array_equal(ex.selected, before)
    small.page.click('[aria-label=Invert]'); small.obey(); assert np.array_equal(ex.selected, ~before)
    assert small.page.locator('.drgn-counts').inner_text().startswith(f'{(~before).sum()} of 1,000 selected')


def test_hits_are_exact(small):
    "The page and Python agree on every particle, for an outline that crosses itself, in the middle of a cloud."
    outline = ring(small.ex.xy[STATE == 0].mean(0), .9, 5)[[0, 2, 4, 1, 3]]
    small.page.click('[aria-label^=Polygon]')
    for c in small.pixel(outline): small.page.mouse.click(*c)
    small.page.keyboard.press('Enter'); small.obey()
    assert abs(small.ex.outline - outline).max() < .03                    # a pixel or two
    assert 50 < small.ex.selected.sum() and np.array_equal(small.ex.selected, inside(small.ex.xy, small.ex.outline))


def test_box_pick_and_keys(small):
    "A box; a click picks the nearest particle, one beside all of them none; keys choose the tool."
    xy = small.pixel(small.ex.xy)
    small.page.focus('.drgn-over'); small.page.keyboard.press('b')
    assert small.page.locator('[aria-label=Box]').get_attribute('aria-pressed') == 'true'
    a, b = xy[STATE == 2].min(0).round() - 3, xy[STATE == 2].max(0).round() + 3
    small.drag([a, b]); assert np.array_equal(small.chosen()[1], ((xy > a) & (xy < b)).all(1))
    alone = int(np.argmax(np.sort(np.linalg.norm(xy[:, None] - xy, axis=-1), 1)[:, 1]))
    small.page.mouse.click(*(xy[alone] + 2)); assert small.told('pick')[-1]['with'] == [alone]
    small.obey(); assert small.ex.picked == alone
    box = small.page.locator('.drgn-over').bounding_box()
    small.page.mouse.click(box['x'] + box['width'] - 5, box['y'] + 5); small.obey(); assert small.ex.picked is None
    small.page.keyboard.press('v'); assert small.chosen()[1].all()                      # what is in view: the whole map
    small.page.keyboard.press('c'); small.obey(); assert not small.ex.selected.any()


def test_pan_and_zoom(small):
    "Wheel and keys move the view; what is drawn in it is hit there; f shows the whole again."
    count = lambda: int(small.page.evaluate('document.querySelector(".drgn-points").dataset.points'))
    at = small.pixel(small.ex.xy[STATE == 1].mean(0))
    assert count() == 1000
    small.page.mouse.move(*(at - 30)); small.page.mouse.move(*at)
    for _ in range(2): small.page.mouse.wheel(0, -500); small.drawn(1)
    until(lambda: count() < 400)
    small.page.focus('.drgn-over'); small.page.keyboard.press('v')
    until(lambda: small.told('select'))
    mask = small.chosen()[1]
    assert mask.sum() == count() and STATE[mask].min() == 1 == STATE[mask].max()
    for _ in range(60): small.page.keyboard.press('ArrowRight')
    until(lambda: count() == 0)
    small.page.keyboard.press('f'); until(lambda: count() == 1000)
    small.page.keyboard.press('+'); small.page.keyboard.press('-'); until(lambda: count() == 1000)


def test_names_and_ranges(small):
    "A selection is kept by name and comes back; a range hides particles from map and lasso; a column's legend selects a class."
    ex, page = small.ex, small.page
    ex.selected = STATE == 1; small.obey()
    page.fill('[aria-label="Name of the selection"]', 'middle'); page.click('text=Keep as'); small.obey()
    assert np.array_equal(ex.selections['middle'], STATE == 1)
    ex.selected = []; small.obey(); page.click('.drgn-chips button:first-child'); small.obey()
    assert np.array_equal(ex.selected, STATE == 1)
    page.click('[aria-label="Forget middle"]'); small.obey(); assert not ex.selections
    page.get_by_label('Show only where').select_option('state'); small.obey()
    page.focus('[aria-label="state to"]'); page.keyboard.press('Home'); small.obey()
    assert np.array_equal(ex.shown, STATE == 0) and '600 shown' in page.locator('.drgn-counts').inner_text()
    page.focus('.drgn-over'); page.keyboard.press('v'); small.obey(); assert np.array_equal(ex.selected, STATE == 0)
    page.click('[aria-label="No limit on state"]'); small.obey(); assert ex.shown.all() and not page.locator('.drgn-range').count()
    page.select_option('select >> nth=1', 'state'); small.obey(); page.click('.drgn-legend button >> nth=2'); small.obey()
    assert np.array_equal(ex.selected, STATE == 2)
    small.page.select_option('select >> nth=0', 'two columns'); small.obey(); assert len(ex.flat['axes']) == 2 and not ex.flat['equal']


@pytest.mark.parametrize('dark', [False, True])
def test_themes_and_width(browser, dark):
    "Light and dark, at 900 px: nothing sticks out, every control has a name, and pixels are drawn."
    p = Page(browser, explore(Z), dark, width=900)
    assert p.page.evaluate('document.documentElement.scrollWidth') <= 900
    nameless = p.page.evaluate("[...document.querySelectorAll('.drgn button, .drgn input, .drgn select')].filter(n => !(n.textContent.trim() || n.ariaLabel || n.labels?.[0]?.textContent)).length")
    assert not nameless
    ink = p.page.evaluate("(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 === 3 && v > 0).length)(document.querySelector('.drgn-points'))")
    assert ink > 5000
    p.close()


CASES = dict(none=np.zeros((0, 3)), one=np.ones((1, 3)), equal=np.ones((50, 2)), line=np.arange(20.)[:, None], nan=np.where(np.arange(40)[:, None] % 4 == 0, np.nan, Z[:40]))

@pytest.mark.parametrize('case', CASES)
def test_bad_input(browser, case):
    "No particle, one, all alike, one dimension, no finite z: a map that can be drawn on, with a sentence where something is missing."
    ex = explore(CASES[case])
    p = Page(browser, ex)
    box = p.page.locator('.drgn-over').bounding_box()
    x, y, w, h = (box[k] for k in ('x', 'y', 'width', 'height'))
    p.drag([(x + 9, y + 9), (x + w - 9, y + 9), (x + w - 9, y + h - 9), (x + 9, y + h - 9), (x + 9, y + 10)]); p.obey()
    assert np.array_equal(ex.selected, ex.known.ok)
    p.drag([(x + 3, y + 3), (x + 9, y + 3), (x + 3, y + 9)]); p.obey(); assert not ex.selected.any()            # outside all points
    assert ('no particles' in ex.note) == (case == 'none') and ('10 of 40' in ex.note) == (case == 'nan')
    if case == 'none': assert 'no particles' in p.page.locator('.drgn').inner_text()
    p.close()


def test_sentences():
    "What cannot be shown is said, with what to do."
    with pytest.raises(ValueError, match='zdim=0'): explore(np.zeros((5, 0)))
    with pytest.raises(ValueError, match='N, zdim'): explore(np.zeros(5))
    with pytest.raises(ValueError, match='2 rows for 5'): explore(np.zeros((5, 2)), columns=dict(a=[1, 2]))
    with pytest.raises(FileNotFoundError, match='holds no run'): explore('no/such/run')
    ex = explore(Z)
    ex.hear('save', 'here.star'); assert 'no particles are behind' in ex.said
    ex.hear('save', 'here.npy'); assert 'nothing is selected' in ex.said
    ex.hear('save', 'here.txet'); assert '.star .cs .npy .txt' in ex.said
    ex.hear('colour', 'taste'); assert 'no column' in ex.said
    ex.hear('invert'); assert ex.said == '' and ex.selected.all()


@pytest.fixture(scope='module')
def fitted(tmp_path_factory):
    "A small run of particles that are really there."
    from drgnbook import fit, simulate
    folder = tmp_path_factory.mktemp('explored')
    ps = simulate(n=200, D=32, snr=.5, out=folder/'particles')
    return fit(ps, zdim=3, z='encoder', epochs=1, width=32, depth=1, encoder_width=32, encoder_depth=1, out=folder/'run')


def test_panels(browser, fitted, tmp_path):
    "Images, density and views of a selection are drawn; a click on an image picks its particle; a path is walked one density at a time."
    ex = explore(fitted); ex.selected = slice(30); ex.work.wait()
    p = Page(browser, ex, width=1000, height=1000)
    tall = lambda name: p.page.evaluate('n => { const c = document.querySelector(`[aria-label="${n}"] canvas`); return c.offsetParent && c.height }', name)
    assert tall('Images') == 4*34 - 2 and tall('Density') == 32 and tall('Views')
    box = p.page.locator('[aria-label=Images] canvas').bounding_box()
    p.page.mouse.click(box['x'] + box['width']*1.5/6, box['y'] + box['height']*2.5/4)
    assert p.told('pick')[-1]['with'] == [13]
    p.obey(); ex.work.wait(); assert ex.density['who'] == 13
    p.page.click('[aria-label="Next 24"]'); p.obey(); ex.work.wait(); assert ex.gallery['which'] == [24, 25, 26, 27, 28, 29]
    p.page.click('[aria-label^=Path]')
    way = p.page.locator('[aria-label=Path].drgn-panel .drgn-field select').first; way.select_option('PC 2'); p.obey(); ex.work.wait(); p.show('route', 'density')
    assert np.array_equal(ex.path, fitted.z[pc_path(fitted.z, 1, 24)]) and way.input_value() == 'PC 2' and p.page.locator('text=Save path').is_visible()
    p.page.click('text=Remove path'); p.obey(); p.show('route'); assert ex.path is None and way.is_visible() and not p.page.locator('text=Save path').is_visible()
    for xy in p.pixel(ex.xy[[3, 50, 99]]): p.page.mouse.click(*xy)
    p.obey(); ex.work.wait(); assert ex.path.shape == (24, 3) and len(ex.anchors) == 3
    p.show('route', 'density', 'gallery')
    p.page.click('[aria-label="Step on"]'); p.page.click('[aria-label="Step on"]'); p.page.click('[aria-label="Step on"]')
    assert [m['with'] for m in p.told('step')] == [[1]]                 # one under way
    p.obey(); ex.work.wait(); p.show('route', 'density')
    assert np.array_equal(ex.z, ex.path[1])
    folder, movie = p.page.get_by_label('Folder for the path'), p.page.get_by_label('Movie of the path')
    assert movie.locator('option').all_inner_texts() == ['gif', 'mp4', 'webm', 'none']
    folder.fill(''); p.page.click('text=Save path'); p.obey(); p.show('said'); assert 'in which folder' in p.page.locator('.drgn').inner_text()
    folder.fill(str(tmp_path/'a walk')); movie.select_option('none'); p.page.focus('.drgn-over'); p.page.keyboard.press('e')
    assert p.told('save_path')[-1]['with'] == [str(tmp_path/'a walk'), '']
    p.obey(); ex.long.wait(); p.show('said', 'done')
    assert ex.said == '' and len(list((tmp_path/'a walk').glob('path_*.mrc'))) == 24 and (tmp_path/'a walk/path_morph.cxc').exists() and 'saved 24 maps' in p.page.locator('.drgn-done').inner_text()
    p.page.click('text=Remove path'); p.page.click('[aria-label^=Lasso]'); p.obey(); p.show('route'); assert ex.path is None and not p.page.locator('[aria-label=Path].drgn-panel').is_visible()
    p.close()


def test_loss(fitted):
    "The loss of each particle is worked out when somebody colours by it, in the background; the next window has it at once."
    ex = explore(fitted); ex.work.wait()
    seen = []
    ex.observe(lambda c: seen.append(c['new']), 'busy')
    ex.hear('colour', 'loss'); ex.long.wait()
    assert ex.said == '' and ex.paint['name'] == 'loss' and np.array_equal(ex.known['loss'], fitted.losses()) and 'loss, 100%' in seen and seen[-1] == ''
    again = explore(fitted); again.hear('limit', 'loss', -np.inf, float(np.median(fitted.losses())))
    assert again.said == '' and again.shown.sum() == 100 and again.long.thread is None


def test_lab(lab, fitted):
    "In JupyterLab: draw with the mouse, Python has those particles at once, a click saves them and the others with every column."
    import starfile
    code = f'from drgnbook.explore import explore\nex = explore({str(fitted.folder)!r})\ncalls = []\nex.on_change(lambda e: calls.append(int(e.selected.sum())))\nex'
    notebook(lab.folder/'explore.ipynb', code)
    w = lab.open('explore.ipynb')
    w.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    w.page.wait_for_function('+(document.querySelector(".drgn-points")?.dataset.frames || 0) > 0', timeout=60_000)
    kernel = lab.kernel('explore.ipynb')
    value(kernel, '[ex.work.wait(), ex.has][1]')
    w.page.locator('.drgn-over').scroll_into_view_if_needed()
    box = w.page.locator('.drgn-over').bounding_box()
    corners = [(box['x'] + box['width']*x, box['y'] + box['height']*y) for x, y in ((.1, .02), (.55, .02), (.5, .98), (.05, .98), (.1, .04))]
    w.page.mouse.move(*corners[0]); w.page.mouse.down()
    for c in corners[1:]: w.page.mouse.move(*c, steps=4)
    w.page.mouse.up()
    until(lambda: value(kernel, 'calls'))
    xy, outline, mask = (np.array(value(kernel, f'ex.{what}.tolist()')) for what in ('xy', 'outline', 'selected'))
    assert 5 < mask.sum() < 195 and np.array_equal(mask, Outline(outline).contains_points(xy)) and value(kernel, 'calls') == [mask.sum()]
    w.page.wait_for_function('document.querySelector("[aria-label=Images] canvas").offsetParent')
    out = lab.folder/'kept.star'
    w.page.fill('.drgn [aria-label^="File:"]', str(out)); w.page.click('.drgn [data-key=w]')
    w.page.wait_for_function('document.querySelector(".drgn-done").textContent.startsWith("saved")')
    read = lambda p: starfile.read(p)['particles']
    all, kept, rest = read(fitted.particles.md.path), read(out), read(lab.folder/'kept_rest.star')
    assert kept.rlnImageName.tolist() == all.rlnImageName[mask].tolist() and rest.rlnImageName.tolist() == all.rlnImageName[~mask].tolist()
    assert list(kept) == list(all)
    value(kernel, '[setattr(ex, "selected", [0, 1, 2])]')                # and Python sets it
    w.page.wait_for_function('document.querySelector(".drgn-counts").textContent.startsWith("3 of 200")')
    w.clean(); w.page.close()


@pytest.mark.parametrize('name', ['keep.star', 'keep.cs', 'keep.npy', 'keep.txt'])
def test_full_disk(fitted, tmp_path, full_disk, name):
    "What cannot be written is a sentence, and nothing half-written stays; with room again, the same click saves."
    ex = explore(fitted); ex.selected = slice(30); ex.work.wait()
    with full_disk(): ex.hear('save', str(tmp_path/name), True)
    assert 'File too large' in ex.said and not list(tmp_path.iterdir())
    ex.hear('save', str(tmp_path/name), True)
    assert ex.said == '' and {p.stem for p in tmp_path.iterdir()} == {'keep', 'keep_rest'}


def test_half_a_run(fitted, tmp_path):
    "No checkpoint is an error that says so; lost particles are a sentence, and the map and the density stay."
    from shutil import copytree, rmtree
    from drgnbook.run import RunError
    half = copytree(fitted.folder, tmp_path/'half')
    (half/fitted.config['particles']).unlink()
    ex = explore(half); ex.work.wait()
    assert fitted.config['particles'] in ex.said and ex.has == ['density']
    ex.picked = 3; ex.work.wait(); assert ex.density['who'] == 3
    rmtree(half/'checkpoints')
    with pytest.raises(RunError, match='no checkpoint yet'): explore(half)

# The picture that stays

def dots(ax): return [(len(c.get_offsets()), c) for c in ax.collections if hasattr(c, 'get_sizes')]

def test_picture_is_coloured():
    "A column of words: a colour and a line in the legend for each; of numbers: a scale; what is not selected is grey"
    ex = explore(Z, columns=dict(state=np.array(list('ABC'))[STATE], size=Z[:, 0]))
    ex.colour('state')
    ax = ex.picture().axes[0]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ['A (600)', 'B (300)', 'C (100)'] and sorted(n for n, _ in dots(ax)) == [0, 100, 300, 600]
    for n, c in dots(ax)[1:]: assert len({tuple(x) for x in c.get_facecolor()}) == 1
    ex.selected = STATE == 1
    ax = ex.picture().axes[0]
    assert [n for n, _ in dots(ax)] == [700, 300] and ax.get_title() == '1,000 particles: state, selected (300)'
    ex.colour('size'); ex.selected = slice(0)
    ax, scale = ex.picture().axes
    (n, c), = [d for d in dots(ax) if d[0]]
    assert n == 1000 and np.abs(c.get_array() - Z[:, 0].clip(*np.percentile(Z[:, 0], (1, 99)))).max() < np.ptp(Z[:, 0])/254

def test_picture_without_values():
    "Who has no value is grey, who has no place is left out"
    x = np.where(np.arange(1000) < 200, np.nan, Z[:, 0])
    ex = explore(np.where(np.arange(1000)[:, None] >= 990, np.nan, Z), columns=dict(x=x))
    ex.colour('x')
    assert [n for n, _ in dots(ex.picture().axes[0])] == [200, 790]

@pytest.mark.parametrize('colour', ['density', 'z-score'])
def test_picture_has_the_path(colour):
    ex = explore(Z)
    ex.colour(colour)
    assert not ex.picture().axes[0].lines
    ex.walk([0, 700, 950], n=6)
    line, = ex.picture().axes[0].lines
    assert np.allclose(line.get_xydata(), ex.xy[ex.route['stops']]) and len(line.get_xydata()) == 6
    ex.walk()
    assert not ex.picture().axes[0].lines
