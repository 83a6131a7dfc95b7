"""The windows as the docs show them, light and dark: nbs/images/{monitor,explore,view}_{light,dark}.png.

    python tools/pictures.py [run]          # of the quickstart (demo/run1); without one, a small run is made
"""
import sys, tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT/'tests'))
from browser import chromium, mount
from drgnbook import *

OUT = ROOT/'nbs/images'


def windows(run):
    "Each window in a telling state, and how wide and high it is shown."
    m = Monitor(run); m.title = run.folder.name
    while not m.glance(): m.end.wait(.2)
    yield 'monitor', m, (900, 700)
    labels, _ = gmm(run.z, 4)
    ex = explore(run)
    ex.show_map('UMAP'); ex.colour('GMM', 4); ex.long.wait()
    ex.selected = labels == 0
    ex.work.wait()
    yield 'explore', ex, (1100, 900)
    maps = run.volumes(run.z[nearest(run.z, [run.z[labels == l].mean(0) for l in range(2)])])
    yield 'view', view(maps, names=['one state', 'another'], sections=True), (900, 560)
    yield 'view_difference', view(maps, 'difference', names=['one state', 'another']), (700, 520)

def shoot(run):
    with chromium() as browser:
        for name, window, (width, height) in windows(run):
            for theme in ('light', 'dark'):
                page = mount(browser, window, theme == 'dark', width, height).page
                page.wait_for_timeout(1500)                      # for what is drawn when it rests
                if name.startswith('view'): page.wait_for_selector('.drgn-view[data-state=rest]')
                seen = Image.open(BytesIO(page.locator('.drgn').first.screenshot()))
                seen.convert('RGB').quantize(128, dither=0).save(OUT/f'{name}_{theme}.png', optimize=True)
                page.close()

if __name__ == '__main__':
    if len(sys.argv) > 1: shoot(Run.load(sys.argv[1], 'cpu'))
    else:
        with tempfile.TemporaryDirectory() as tmp: shoot(fit(simulate(large_subunit(), n=3000, D=64, snr=.1, junk=0., out=f'{tmp}/set'), zdim=8, epochs=4, out=f'{tmp}/run', device='cpu', where='here'))
