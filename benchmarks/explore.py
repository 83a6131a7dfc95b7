"""A million points on the screen, and a lasso back in Python: seconds in a real JupyterLab, beside plotly's Scattergl and jupyter-scatter.

    python benchmarks/explore.py [--n 1000000] [--seed 0] [--tools drgnbook,jscatter,plotly]

The same picture for all: z of twenty states in eight dimensions, its first two principal components. *Shown* is from the start of the cell to the first screenshot with ink on a
fiftieth of the output; *lasso* from the mouse let go to the callback in the kernel, which has been handed the selected particles; *frame* is the median time between two animation frames
of the page while the wheel turns. Each tool has a notebook, a kernel and a page of its own. Needs chromium, `pip install jupyter-scatter`, and nothing else that tests do not need.
"""
import io, sys, tempfile, time
from pathlib import Path
import numpy as np
from fastcore.script import call_parse
sys.path.insert(0, str(Path(__file__).parents[1]/'tests'))
from browser import Lab, chromium, notebook, until, value

DATA = """
import time, numpy as np
from drgnbook.landscape import pca
rng = np.random.default_rng({seed})
middle = rng.normal(size=(20, 8))*np.linspace(2, .6, 8)
z = (middle[rng.integers(20, size={n})] + rng.normal(size=({n}, 8))*np.linspace(1, .4, 8)).astype(np.float32)
xy = pca(z).coords[:, :2].astype(np.float32)
heard = []
"""
CELL = dict(
    drgnbook="""
from drgnbook.explore import explore
start = time.time()
w = explore(z)
w.on_change(lambda e: heard.append((time.time(), int(e.selected.sum()))))
w""",
    jscatter="""
import jscatter, pandas as pd
start = time.time()
s = jscatter.Scatter(data=pd.DataFrame(dict(x=xy[:, 0], y=xy[:, 1])), x='x', y='y', width=800, height=640).mouse(mode='lasso')
w = s.show()
s.widget.observe(lambda c: heard.append((time.time(), len(s.selection()))), names='selection')
w""",
    plotly="""
import plotly.graph_objects as go
start = time.time()
w = go.FigureWidget([go.Scattergl(x=xy[:, 0], y=xy[:, 1], mode='markers', marker=dict(size=2))], layout=dict(width=800, height=640, dragmode='lasso'))
w.data[0].on_selection(lambda trace, points, state: heard.append((time.time(), len(points.point_inds))))
w""")
PLACE = dict(drgnbook='.drgn-map', jscatter='canvas', plotly='.nsewdrag')


def ink(page, clip):
    "The share of a picture of the page that differs from its commonest colour."
    from PIL import Image
    x = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert('RGB')).reshape(-1, 3) // 16
    _, n = np.unique(x @ [1, 16, 256], return_counts=True)
    return 1 - n.max()/n.sum()

def shown(page, kernel, place, limit):
    "Seconds from the cell's start to ink in its output; and where it is."
    node = page.locator(f'.jp-OutputArea-output {place}').first
    node.wait_for(timeout=limit*1000)
    box = until(node.bounding_box, limit)
    clip = dict(x=box['x'] + 30, y=box['y'] + 30, width=box['width'] - 60, height=box['height'] - 60)
    until(lambda: ink(page, clip) > .02, limit, .05)
    return time.time() - value(kernel, 'start', 120), box

def lasso(page, kernel, box, limit):
    "Seconds from the mouse let go to the kernel's callback, and how many were selected."
    t = np.linspace(0, 2*np.pi, 16)
    corners = np.stack([box['x'] + box['width']*(.5 + .2*np.cos(t)), box['y'] + box['height']*(.5 + .2*np.sin(t))], 1)
    page.mouse.move(*corners[0]); page.mouse.down()
    for c in corners[1:]: page.mouse.move(*c)
    page.wait_for_timeout(200)
    before = time.time(); page.mouse.up()
    until(lambda: value(kernel, 'len(heard)', limit), limit, .1)
    at, n = value(kernel, 'heard[0]', limit)
    return at - before, n

def frames(page, box):
    "Median and worst time between two animation frames, ms, while the wheel turns."
    page.evaluate("window.beats = []; (function beat(t) { beats.push(t); window.beating = requestAnimationFrame(beat); })(performance.now())")
    page.mouse.move(box['x'] + box['width']/2 + 5, box['y'] + box['height']/2)
    for i in range(30): page.mouse.wheel(0, -60 if i < 15 else 60)
    gaps = np.diff(page.evaluate("(cancelAnimationFrame(beating), beats)"))
    return np.median(gaps), gaps.max()


def measure(lab, tool, n, seed, limit):
    "One tool's row of the table."
    notebook(lab.folder/f'{tool}.ipynb', DATA.format(n=n, seed=seed), CELL[tool])
    w = lab.open(f'{tool}.ipynb', height=1300)
    w.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    kernel, row = lab.kernel(f'{tool}.ipynb'), [tool]
    try:
        seconds, box = shown(w.page, kernel, PLACE[tool], limit); row.append(f'{seconds:.1f} s')
        seconds, k = lasso(w.page, kernel, box, limit); row += [f'{seconds:.2f} s', f'{k:,}']
        row.append('%.0f (%.0f) ms' % frames(w.page, box))
    except Exception as e: row.append(f'{type(e).__name__}: {str(e).splitlines()[0][:80]}')
    print('| ' + ' | '.join(row) + ' |', flush=True)
    if tool == 'drgnbook': print(f"<!-- a whole drawing: {w.page.evaluate('document.querySelector(`.drgn-points`).dataset.ms')} ms -->", flush=True)
    w.page.close(); kernel.shutdown()


@call_parse
def main(n: int = 1_000_000,                              # points
         seed: int = 0,                                   # of the points
         tools: str = 'drgnbook,jscatter,plotly',         # which, in this order
         limit: int = 90):                                # seconds that any one step may take
    "Show a million points, draw around some, turn the wheel."
    print(f'{n:,} points, seed {seed}\n\n| | shown | lasso → Python | selected | frame while zooming, median (worst) |\n|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        lab = Lab(folder, browser)
        try:
            for tool in tools.split(','): measure(lab, tool, n, seed, limit)
        finally: lab.close()
