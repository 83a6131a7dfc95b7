"""The pictures of the docs, in nbs/images: {monitor,explore,view,view_difference,volumes}_{light,dark}.png, story.png at the top of README.

    python tools/pictures.py [run]          # of the quickstart (demo/run1); without one, a small run is made
"""
import sys, tempfile
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt, numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT/'tests'))
from browser import chromium, mount
from drgnbook import *

OUT = ROOT/'nbs/images'


def middles(run, labels):
    "The map at the particle in the middle of each group."
    return run.volumes(run.z[nearest(run.z, [run.z[labels == l].mean(0) for l in np.unique(labels)])])

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
    maps = middles(run, labels)
    yield 'volumes', view(maps, names=[f'group {l}' for l in range(len(maps))]), (900, 620)
    maps = maps[:2]
    yield 'view', view(maps, names=['one state', 'another'], sections=True), (900, 560)
    yield 'view_difference', view(maps, 'difference', names=['one state', 'another']), (700, 520)

def save(picture, name):
    "As few bytes as it can be shown with; colours that are rare, such as those of a legend, stay."
    method = Image.Quantize.FASTOCTREE if picture.mode == 'RGBA' else Image.Quantize.MAXCOVERAGE
    picture.quantize(256, method=method, dither=0).save(OUT/f'{name}.png', optimize=True)

def story(run, k=4, grey='#808890'):
    "Noisy images, the landscape of their z, a map of each group: on any background."
    labels, _ = gmm(run.z, k)
    xy = kept_umap(run.z, run)
    maps = middles(run, labels)
    fig = plt.figure(figsize=(12, 4), dpi=100, facecolor='none')
    for i, img in enumerate(run.particles.images(np.arange(16))):
        ax = fig.add_axes([.01 + .0725*(i%4), .69 - .2175*(i//4), .07, .21]); ax.imshow(img, cmap='gray'); ax.axis('off')
    ax = fig.add_axes([.36, .04, .29, .86]); ax.axis('off')
    for l in range(k): ax.scatter(*xy[labels == l].T, s=2.5, color=PALETTE[l], linewidths=0)
    for l, v in enumerate(maps):
        rgba, _ = surface(v, float(v.data.mean() + 3.5*v.data.std()), px=300, half=.36*v.D*v.apix, colour=PALETTE[l])
        ax = fig.add_axes([.69 + .155*(l%2), .47 - .45*(l//2), .15, .45]); ax.imshow(rgba); ax.axis('off')
    for x, text in ((.155, f'{len(run.z):,} particles'), (.5, 'where each lies: z'), (.845, 'a map at any z')): fig.text(x, .94, text, ha='center', color=grey, size=14)
    fig.savefig(buf := BytesIO(), transparent=True)
    save(Image.open(buf), 'story')
    plt.close(fig)

def shoot(run):
    story(run)
    with chromium() as browser:
        for name, window, (width, height) in windows(run):
            for theme in ('light', 'dark'):
                page = mount(browser, window, theme == 'dark', width, height).page
                page.wait_for_timeout(1500)                      # for what is drawn when it rests
                if name.startswith('view'): page.wait_for_selector('.drgn-view[data-state=rest]')
                save(Image.open(BytesIO(page.locator('.drgn').first.screenshot())).convert('RGB'), f'{name}_{theme}')
                page.close()

if __name__ == '__main__':
    if len(sys.argv) > 1: shoot(Run.load(sys.argv[1], 'cpu'))
    else:
        with tempfile.TemporaryDirectory() as tmp: shoot(fit(simulate(large_subunit(), n=3000, D=64, snr=.1, junk=0., out=f'{tmp}/set'), zdim=8, epochs=4, out=f'{tmp}/run', device='cpu', where='here'))
