"Frames a second of a density that Python changes: 64³ voxels to the page and drawn, in a real JupyterLab, the decoder left out; and the processor time of a frame, all processes together, which other work on the machine does not change much.   python benchmarks/view.py [D] [frames]"
import os, sys, tempfile
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


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
