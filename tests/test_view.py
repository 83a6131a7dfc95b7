"Density in a real browser: what the hand does changes the pixels, and what is drawn lies where numpy says."
import io
from dataclasses import replace
import numpy as np, pytest, torch
from PIL import Image

from browser import mount, notebook, until, value, wire
from drgnbook.pose import rotvec_to_R
from drgnbook.view import View, eight_bits, view
from drgnbook.volume import Volume, grid
from drgnbook.widget import unpacked

AT = torch.tensor([[0., 0, 0], [36, 8, -20], [-14, 34, 12], [10, -30, 26]])      # Å: no symmetry, no mirror image
WIDTH = torch.tensor([12., 8, 10, 7])

def density(p):      # (..., 3) Å
    "Four Gaussians."
    return torch.exp(-((p[..., None, :] - AT)**2).sum(-1)/2/WIDTH**2).sum(-1)

def molecule(D=32, apix=4., scale=1.): return Volume(density(grid(D)*apix)*scale, apix)
def ball(r=40., D=32, apix=4.): return Volume(torch.sigmoid((r - (grid(D)*apix).norm(dim=-1))/apix), apix)


class Page:
    "A view on a bare page."
    def __init__(self, browser, v, dark=False, **kw):
        self.w = mount(browser, v, dark, **{'width': 640, 'height': 520, **kw})
        self.page, self.js = self.w.page, self.w.page.evaluate

    def __enter__(self): return self
    def __exit__(self, *it):
        if not any(it): self.w.clean()
        self.page.close()

    def rest(self): self.page.wait_for_function("document.querySelector('.drgn').dataset.state === 'rest'"); return self
    def seen(self):
        "The pixels of the canvas at rest, without what is written over it."
        self.rest()
        self.page.add_style_tag(content='.drgn-view-over { visibility: hidden }')
        return np.asarray(Image.open(io.BytesIO(self.page.locator('.drgn-view-box canvas').screenshot())).convert('RGB')).astype(int)

    def covered(self):
        "Which pixels are not background."
        x = self.seen()
        on = np.abs(x - x[3, 3]).sum(-1) > 24
        on[[0, 1, -2, -1]] = False; on[:, [0, 1, -2, -1]] = False      # the frame
        return on

    def put(self, **traits):
        for k, x in traits.items(): self.js('([k, v]) => model.set(k, v)', [k, x])
        return self

    def sent(self): return self.js("sent.map(s => s.do)")

def unlike(a, b):      # edges are smoothed as far as the machine is fast
    "The share of pixels that differ."
    return (np.abs(a - b).sum(-1) > 60).mean()

def view_of(v=None, **kw): return view(molecule() if v is None else v, **{'height': 200, 'level': 2., **kw})


def test_lies_where_numpy_says(browser):
    "The silhouette is that of the density itself, turned by R, at the level and the scale that are set."
    R = rotvec_to_R([[20., -50., 110.]])[0]
    v = view_of(molecule(64, 2.), R=R, zoom=1.3, pan=[10., -6.])
    with Page(browser, v) as p: mine = p.covered()
    h, w = mine.shape
    per = 128/1.3/200                                       # Å in a pixel
    x, y = (np.arange(w) - (w - 1)/2)*per + 10, -(np.arange(h) - (h - 1)/2)*per - 6
    z = torch.linspace(-64, 64, 65)
    eye = torch.stack(torch.meshgrid(z, torch.tensor(y[::4]).float(), torch.tensor(x[::4]).float(), indexing='ij')[::-1], -1)
    x = v.volumes[0].data
    true = (density(eye @ torch.tensor(R).float()).amax(0) >= x.mean() + 2*x.std()).numpy()
    mine = mine[::4, ::4]; assert true.sum() > 150
    assert (mine & true).sum()/(mine | true).sum() > .97

def test_glass_in_glass(browser):
    "Of two maps that can be seen through, the outer one covers the inner one, in whatever order they came."
    def seen(*maps):
        v = view([m for m, _ in maps], 'over', colours=[c for _, c in maps], opacity=[.6, .6], height=200, level=[1., 1.])
        with Page(browser, v) as p: return p.seen()
    inner, outer = (ball(20.), '#d55e00'), (ball(48.), '#0072b2')
    a, b = seen(inner, outer), seen(outer, inner)
    assert unlike(a, b) < .01
    r, _, blue = a[a.shape[0]//2, a.shape[1]//2]; assert blue > r

def test_level_needs_no_python(browser):
    "The slider, the number and the keys change the surface; Python hears nothing but, at rest, the new value."
    with Page(browser, view_of()) as p:
        before = p.covered().sum()
        bar = p.page.locator('.drgn-view-level input'); bar.focus()
        for _ in range(3): p.page.keyboard.press('PageUp')
        higher = p.js("model.get('level')[0]")
        assert higher > 2.2 and p.covered().sum() < .97*before
        number = p.page.locator('.drgn-view-maps input[type=number]'); number.fill('1'); number.press('Enter')
        assert p.covered().sum() > 1.1*before and p.js("saved.level[0]") == 1
        p.page.focus('.drgn'); p.page.keyboard.press(']'); assert p.js("model.get('level')[0]") == 1.25
        assert p.sent() == ['shown']

def test_turn_zoom_move(browser):
    "Drag, arrows, wheel, shift-drag and Reset; the rotation stays one."
    with Page(browser, view_of()) as p:
        first = p.seen()
        box = p.page.locator('.drgn-view-box canvas').bounding_box()
        x, y = box['x'] + box['width']/2, box['y'] + 100
        p.page.mouse.move(x, y); p.page.mouse.down(); p.page.mouse.move(x + 90, y + 30, steps=4); p.page.mouse.up()
        assert unlike(p.seen(), first) > .05
        R = np.array(p.js("saved.R")).reshape(3, 3)
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-6)
        assert R[0] @ [0, 0, 1] > .5                        # a drag to the right brings what is in front to the right
        p.page.keyboard.press('ArrowLeft'); p.page.keyboard.press('+'); p.page.mouse.wheel(0, -200)
        assert p.js("model.get('zoom')") > 1.15*view_of().zoom
        p.page.keyboard.down('Shift'); p.page.mouse.down(); p.page.mouse.move(x, y + 60, steps=2); p.page.mouse.up(); p.page.keyboard.up('Shift')
        assert p.js("model.get('pan')[0]") != 0
        p.page.keyboard.press('r'); assert unlike(p.seen(), first) < .01

def test_clip(browser):
    "A cut plane takes away one half, and the cut face is closed; front and back cut along the view."
    with Page(browser, view_of(ball())) as p:
        whole = p.covered()
        p.put(clip=dict(front=[0, 1], x=[.5, 1], y=[0, 1], z=[0, 1])); half = p.covered()
        w = half.shape[1]//2
        assert half[:, :w - 4].sum() == 0 and abs(half[:, w + 4:].sum()/whole[:, w + 4:].sum() - 1) < .02
        face = p.put(clip=dict(front=[.5, 1], x=[0, 1], y=[0, 1], z=[0, 1])).seen()
        assert abs(p.covered().sum()/whole.sum() - 1) < .03
        assert face[90:110, w - 10:w + 10].std(axis=(0, 1)).max() < 3      # flat
        p.put(clip=dict(front=[.9, 1], x=[0, 1], y=[0, 1], z=[0, 1])); assert p.covered().sum() == 0

def test_several(browser):
    "Side by side, over each other, with one hidden; sections beside; the cameras are one."
    with Page(browser, view_of([molecule(), ball()], names=['B', 'E'])) as p:
        both = p.covered(); w = both.shape[1]//2
        assert both[:, :w - 2].sum() > 1000 and both[:, w + 2:].sum() > 1000
        assert p.page.locator('.drgn-view-label').all_text_contents() == ['B', 'E']
        p.put(panels='over'); over = p.covered(); assert over[:, :w//2].sum() == 0 or over.sum() < both.sum()
        p.put(panels='beside'); p.page.get_by_label('show E').uncheck(); assert p.page.locator('.drgn-view-bar').count() == 1 and p.js("model.get('shown')") == [True, False]
        p.page.get_by_label('show B').uncheck(); p.rest(); assert 'tick one' in p.page.locator('.drgn-view-over').text_content()
        p.page.get_by_label('show E').check(); p.page.focus('.drgn'); p.page.keyboard.press('s'); p.rest()
        box = p.page.locator('.drgn-view-box canvas').bounding_box(); side = p.js("document.querySelectorAll('.drgn-view-label.bright').length"); assert side == 3
        p.page.mouse.click(box['x'] + box['width'] - 20, box['y'] + 20)      # the right upper corner of the section xy
        x, y, z = p.js("model.get('cross')"); assert x > 20 and y > 20 and z == 0

def test_glass(browser):
    "Through a transparent map the one behind it shows."
    red = dict(colours=['#ff0000', '#0000ff'], layout='over', level=2.)
    with Page(browser, view_of([ball(20.), ball(50.)], opacity=[1., 1.], **red)) as p:
        middle = lambda: p.seen()[90:110, 305:325].mean((0, 1))
        assert middle()[2] > middle()[0] + 60
        p.put(opacity=[1., .3]); r, g, b = middle(); assert r > g + 40

def test_morph_and_series(browser):
    "Half way lies between; a series shows the map at its place; densities are compared on one scale."
    with Page(browser, view_of([ball(20.), ball(50.)], layout='morph')) as p:
        areas = [p.put(at=x).covered().sum() for x in (0., .35, .65, 1.)]
        assert areas[0] <= areas[1] <= areas[2] <= areas[3] and areas[3] > 3*areas[0], areas
        assert '65 %' in p.put(at=.65).page.locator('.drgn-view-path ~ output').inner_text()
        p.put(panels='series', at=1.); assert abs(p.covered().sum()/areas[3] - 1) < .01
        p.page.click('button:has-text("Play")'); p.page.wait_for_function("model.get('at') === 0"); p.page.click('button:has-text("Play")')
    with Page(browser, view_of([molecule(), molecule(scale=3.)], layout='series')) as p:
        assert p.put(at=1.).covered().sum() > 1.2*p.put(at=0.).covered().sum()      # the same density on a map three times as strong

def test_colour_of_a_second_map(browser):
    "Where the second map is high the surface is yellow, where it is low it is blue."
    with Page(browser, view_of(ball(), colour=Volume(grid(32)[..., 0], 4.), colour_name='x')) as p:
        x, on = p.seen(), p.covered()
        left, right = (x[:, s][on[:, s]].mean(0) for s in (slice(0, 290), slice(330, None)))
        assert right[0] > left[0] + 40 and left[2] > left[0] and right[2] < right[0]
        assert p.page.locator('.drgn-view-tint').inner_text() == 'x'

def test_model(browser, tmp_path):
    "A chain along x is drawn where it is, through the map, and in front of it where it is."
    row = 'ATOM  {i:5d}  CA  ALA A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C\n'.format
    (tmp_path/'a.pdb').write_text(''.join(row(i=i, x=64 + 3.8*(i - 8), y=64 + 20., z=64.) for i in range(17)))
    with Page(browser, view_of(ball(10.), model=tmp_path/'a.pdb', opacity=1., zoom=1., level=6.)) as p:
        on = p.covered(); ys, xs = np.nonzero(on[:74])
        per = 128/200
        assert abs(ys.mean() - (99.5 - 20/per)) < 1.5 and abs((xs.max() - xs.min())*per - 16*3.8) < 3
        p.page.focus('.drgn'); p.page.keyboard.press('o')
        assert p.covered()[:74].sum() == 0

def test_model_follows_the_origin_of_its_map(tmp_path):
    "A map whose first voxel lies elsewhere: the atoms are where they were in it"
    row = 'ATOM  {i:5d}  CA  ALA A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C\n'.format
    def drawn(origin):
        (tmp_path/'a.pdb').write_text(''.join(row(i=i, x=origin[0] + 3.8*i, y=origin[1] + 20., z=origin[2] + 30.) for i in range(9)))
        return unpacked(view(replace(ball(10.), origin=origin), model=tmp_path/'a.pdb').model['xyz'])
    assert np.allclose(drawn((0., 0., 0.)), drawn((10., -20., 5.)), atol=1e-2)

@pytest.mark.parametrize('dark', [False, True])
def test_themes(browser, dark):
    "The panel has the page's background; every control has a name; the view says in words what it shows."
    with Page(browser, view_of(), dark) as p:
        assert (p.seen()[3, 3].sum() < 384) == dark
        unnamed = p.js("[...document.querySelectorAll('.drgn button, .drgn input, .drgn select')].filter(n => !(n.ariaLabel || n.textContent.trim() || n.closest('label')?.textContent.trim())).map(n => n.outerHTML)")
        assert not unnamed and 'at 2.0 σ' in p.page.locator('canvas[role=img]').get_attribute('aria-label')
        assert p.js("document.documentElement.scrollWidth") <= 640

def receive(p, i, volume, kind, version, D):
    m = eight_bits(volume, D)
    data = m.pop('data')['data']
    p.js('([c, b]) => receive(c, [b])', [dict(kind=kind, i=i, map=dict(m, name='', version=version, radius=50.)), wire(data)])

def test_frames(browser):
    "A frame is drawn and acknowledged; at rest the page asks for all voxels, once; those of an older map are dropped."
    with Page(browser, view_of(ball(20.))) as p:
        small = p.covered().sum()
        receive(p, 0, ball(12., 64, 2.), 'frame', 1, 16)
        assert 0 < p.covered().sum() < .6*small and p.sent() == ['shown', 'seen', 'full']
        p.js("document.querySelector('.drgn').dataset.state = ''")
        receive(p, 0, ball(20., 64, 2.), 'full', 0, 64); receive(p, 0, ball(12., 64, 2.), 'full', 1, 64)
        assert 0 < p.covered().sum() < .6*small and p.sent() == ['shown', 'seen', 'full']

def test_bad_maps(browser):
    "A constant map, one with NaN: a sentence, and a widget that goes on."
    bad = molecule().data.clone(); bad[0, 0, :3] = torch.nan
    with Page(browser, view_of([Volume(torch.zeros(16, 16, 16)), Volume(bad, 4.)], level=2.)) as p:
        p.rest(); said = p.page.locator('.note').all_text_contents()
        assert 'constant' in said[0] and '3 voxels' in said[1] and p.covered()[:, 330:].sum() > 1000

def test_context(browser):
    "The card is taken away: a sentence; it comes back: the map. When the view goes, so does its context, 20 times over."
    with Page(browser, view_of()) as p:
        before = p.seen()
        p.js("window.ext = document.querySelector('.drgn-view-box canvas').getContext('webgl2').getExtension('WEBGL_lose_context'); ext.loseContext()")
        p.page.wait_for_selector('.drgn-view-lost:not([hidden])'); p.js("document.querySelector('.drgn').dataset.state = ''; ext.restoreContext()")
        assert unlike(p.seen(), before) < .01 and p.page.locator('.drgn-view-lost').is_hidden()
        lost = p.js("""async () => {
          const lost = [], module = await import(URL.createObjectURL(new Blob([%s], { type: 'text/javascript' })));
          for (let i = 0; i < 20; i++) { const el = document.body.appendChild(document.createElement('div')), end = await module.default.render({ model, el }), gl = el.querySelector('canvas').getContext('webgl2'); end(); lost.push(gl.isContextLost()); el.remove(); }
          return lost; }""" % __import__('json').dumps(View._esm))
        assert lost == [True]*20 and not p.js("document.querySelector('.drgn-view-box canvas').getContext('webgl2').isContextLost()")

def test_out_of_the_page(browser, tmp_path):
    "Picture gives a PNG with the map on it, Movie a film."
    with Page(browser, view_of([ball(20.), ball(50.)], layout='morph')) as p:
        p.rest()
        with p.page.expect_download() as d: p.page.click('button:has-text("Picture")')
        d.value.save_as(tmp_path/'view.png'); x = np.asarray(Image.open(tmp_path/'view.png').convert('RGB')).astype(int)
        assert x.shape[0] == 400 and (np.abs(x - x[2, 600]).sum(-1) > 24).sum() > 2000
        with p.page.expect_download() as d: p.page.click('button:has-text("Movie")')
        d.value.save_as(tmp_path/'view.webm'); assert (tmp_path/'view.webm').read_bytes()[:4] == b'\x1aE\xdf\xa3' and (tmp_path/'view.webm').stat().st_size > 5000


def test_lab(lab):
    "In JupyterLab: the slider's level is in Python, a map from Python is in the page, and all voxels follow."
    notebook(lab.folder/'view.ipynb', 'from drgnbook.view import view; from drgnbook.volume import Volume, grid; import torch\n'
             'ball = lambda r, D=80, apix=2.: Volume(torch.sigmoid((r - grid(D).norm(dim=-1))/1.), apix)\nv = view(ball(10), height=260, zoom=1.); v', 'v.update(ball(54, 144, 160/144))')
    w = lab.open('view.ipynb')
    w.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    w.page.wait_for_selector(".drgn-view[data-state=rest]", timeout=60_000)
    client = lab.kernel('view.ipynb')
    until(lambda: value(client, 'v.frames[0].flying') is False and value(client, 'v.versions') == [1])
    w.page.wait_for_selector(".drgn-view[data-state=rest][data-voxels='144']")
    x = np.asarray(Image.open(io.BytesIO(w.page.locator('.drgn-view-box canvas').screenshot())).convert('RGB')).astype(int)
    assert (np.abs(x - x[3, 3]).sum(-1) > 24)[3:-3, 3:-3].sum() == pytest.approx(np.pi*(60*260/160)**2, rel=.05)      # 60 Å where 160 Å fill the height
    w.page.locator('.drgn-view-level input').focus(); w.page.keyboard.press('End')
    until(lambda: value(client, 'v.level')[0] == pytest.approx(w.page.evaluate("+document.querySelector('.drgn-view-level input').max"), 1e-3))
    w.clean(); w.page.close()
