"""Frames a second of a density that changes, in a real JupyterLab.   python benchmarks/view.py [D] [frames]

First without a decoder: Python sends maps of D³ voxels, the page draws them; with the processor time of a frame, all processes together, which other work on the machine does not change much.
Then end to end: the mouse moves over the map of `explore` for ten seconds, the decoder of a default run of 64 px (256 x 3) gives the density there, and `view` draws it: coarse while the
mouse moves, in full when it rests.
"""
import math, os, sys, tempfile, time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]/'tests'))
from browser import Lab, chromium, notebook, until, value

CELL = """
import time, numpy as np, torch
from drgnbook.assembly import large_subunit
from drgnbook.view import view
E = large_subunit(); two = [E.volume(s, {D}, E.box/{D}) for s in 'BE']
v = view(two[0])
v.times, v.wanted = [], 0
def again(widget, content, buffers):      # the next frame goes when the page says that the last was drawn
    if content.get('do') == 'seen' and len(v.times) < v.wanted: v.times.append(time.perf_counter()); v.update(two[len(v.times) % 2])
v.on_msg(again)
v
"""

DRAG = """
from drgnbook import *
ps = simulate(large_subunit(), n=1000, D=64, snr=.1, junk=0., out='set')
run = fit(ps, zdim=8, epochs=1, out='run', device='cpu', where='here')
ex, v, times = explore(run), view(run.volume(run.z[0])), []
import time
v.on_msg(lambda _, said, buffers: times.append((time.perf_counter(), v.volumes[0].D)) if said.get('do') == 'seen' else None)
ex.on_volume(v.update)
"""


def spent():
    "Processor time of browser, server and kernel so far, s."
    return sum(sum(p.cpu_times()[:2]) for p in psutil.Process().children(recursive=True))

def main(D=64, frames=60):
    with tempfile.TemporaryDirectory() as tmp, chromium() as browser:
        lab = Lab(tmp, browser)
        try:
            notebook(f'{tmp}/a.ipynb', CELL.replace('{D}', str(D)))
            w = lab.open('a.ipynb', height=800)
            w.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
            w.page.wait_for_selector('.drgn-view[data-state=rest]', timeout=90_000)
            client, before = lab.kernel('a.ipynb'), spent()
            client.execute(f'v.wanted = {frames}; v.update(two[1])')
            until(lambda: value(client, f'len(v.times) >= {frames}'), timeout=120, every=1)
            cpu = (spent() - before)/frames
            ms = value(client, '(1e3*np.diff(v.times)[5:]).tolist()')
        finally: lab.close()
    ms.sort()
    print(f'{D}³: {1e3*len(ms)/sum(ms):.1f} frames/s; a frame {ms[len(ms)//2]:.0f} ms (median), {ms[int(.9*len(ms))]:.0f} ms (90 %); {1e3*cpu:.0f} ms of processor time; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores')

def drag(seconds=10):
    "The mouse goes round in the map; frames that the page has drawn, by their size."
    plain = '--disable-gpu-compositing', '--disable-gpu-rasterization', '--disable-accelerated-2d-canvas'      # as Chrome draws pages where there is no GPU
    with tempfile.TemporaryDirectory() as tmp, chromium(*plain) as browser:
        lab = Lab(tmp, browser)
        try:
            notebook(f'{tmp}/a.ipynb', DRAG, 'display(ex, v)')
            w = lab.open('a.ipynb', height=1200)
            w.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
            w.page.wait_for_selector('.drgn-view', state='attached', timeout=400_000)
            w.page.locator('.drgn-view').scroll_into_view_if_needed(); w.page.wait_for_selector('.drgn-view[data-state=rest]')
            w.page.click('.drgn-explore [data-is=Probe]')
            b = w.page.locator('.drgn-over').bounding_box()
            w.page.mouse.move(b['x'] + .8*b['width'], b['y'] + .5*b['height']); w.page.mouse.down()
            end = time.monotonic() + seconds
            turn = 0.
            while time.monotonic() < end:
                turn += .03
                w.page.mouse.move(b['x'] + b['width']*(.5 + .3*math.cos(turn)), b['y'] + b['height']*(.5 + .3*math.sin(2*turn)))
                w.page.wait_for_timeout(16)
            w.page.mouse.up()
            client = lab.kernel('a.ipynb')
            until(lambda: value(client, 'times and times[-1][1]') == 64)          # it rests
            times = value(client, 'times')
        finally: lab.close()
    ms = sorted(1e3*(b[0] - a[0]) for a, b in zip(times, times[1:-1]))
    print(f'mouse → decoder → page: {1e3*len(ms)/sum(ms):.1f} frames/s of {min(D for _, D in times)}³ to {max(D for _, D in times[:-2])}³ while it moves, {times[-1][1]}³ at rest; a frame {ms[len(ms)//2]:.0f} ms (median), {ms[int(.9*len(ms))]:.0f} ms (90 %)')


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
    drag()
