"The monitor: of a run that trains in the kernel of a real JupyterLab, of one in another process, of folders in every state."
import json, os, shutil, subprocess, sys, time

import numpy as np, pytest
from browser import mount, notebook, until, value
from drgnbook.fit import fit
from drgnbook.monitor import Monitor, attach, lay_out
from drgnbook.run import Run
from drgnbook.simulate import simulate

QUICK = dict(zdim=2, z='encoder', width=32, encoder_width=32, sample=.3, device='cpu')


@pytest.fixture(scope='module')
def ps(tmp_path_factory): return simulate(n=200, D=32, snr=1., junk=0., out=tmp_path_factory.mktemp('monitor')/'set')

@pytest.fixture(scope='module')
def run(ps, tmp_path_factory): return fit(ps, epochs=3, out=tmp_path_factory.mktemp('run')/'run', **QUICK)

def whole(run):
    "A monitor that has looked at everything."
    m = Monitor(run)
    while not m.look(): time.sleep(.05)
    return m


def test_picture_is_overtaken(run, monkeypatch):
    "A run that ends while a cell's picture is drawn: the picture is known to be old, so the last one replaces it"
    m = whole(run)
    draw, end = m._repr_mimebundle_, dict(m.live)
    m.live = dict(m.live, says='training, epoch 3 of 3')
    def slowly(): bundle = draw(); m.live = end; return bundle
    monkeypatch.setattr(m, '_repr_mimebundle_', slowly)
    m._ipython_display_()
    assert m.shown[0][1][0] == 'training, epoch 3 of 3' and m.last[0] == 'finished, 3 epochs'


def test_cell_that_comes_meanwhile(run, monkeypatch):
    "A cell that is displayed, with an old picture, while the last one is drawn for another: it gets the last one, too"
    class Cell:
        def update(self, *_, **__): self.updated = True
    m, first, second = whole(run), Cell(), Cell()
    m.shown, draw = [(first, 'old')], m._repr_mimebundle_
    def slowly(): m.shown.append((second, 'old')); return draw()
    monkeypatch.setattr(m, '_repr_mimebundle_', slowly)
    m.keep()
    monkeypatch.setattr(m, '_repr_mimebundle_', draw)
    m.keep()
    assert first.updated and second.updated and all(seen == m.last for _, seen in m.shown)


@pytest.mark.parametrize('dark', [False, True])
def test_bare(browser, run, dark):
    "Numbers, charts, cloud and maps are there; keys and buttons tell Python; a new state shows at once."
    w = mount(browser, whole(run), dark)
    page = w.page
    assert page.locator('.drgn-state').inner_text() == 'finished, 3 epochs' and page.locator('svg path').count() == 6
    shapes = page.evaluate("[...document.querySelectorAll('canvas')].map(c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size)")
    assert len(shapes) == 1 + 2*len(whole(run).now['at']) and min(shapes) > 10, 'a canvas is empty'
    assert page.locator('button', has_text='stop').is_disabled()
    page.evaluate("model.set('live', { state: 'training', says: 'training, epoch 2 of 3', done: 1.5, total: 3, images_s: 512.3, left: 75, memory: 2 ** 31, device: 'cpu', workers: 1 })")
    assert page.locator('progress').evaluate('p => p.value') == .5 and '512.3 images/s · 1 min 15 s left · 2.0 GiB' in page.locator('.drgn-dim').first.inner_text()
    page.focus('.drgn')
    for key in 'psc': page.keyboard.press(key)
    page.fill('input[type=number]', '7'); page.click('button:has-text("extend")')
    assert [(s['do'], s['with']) for s in page.evaluate('sent')] == [('pause', []), ('stop', []), ('checkpoint', []), ('extend', [7])]
    assert all(b.get_attribute('title') for b in page.locator('button').all())
    w.clean(); page.close()


def test_another_process(ps, tmp_path, browser):
    "A run in a process of its own: the same monitor, from the folder alone; its buttons reach it."
    run = fit(ps, epochs=2000, out=tmp_path/'run', where='process', **QUICK)
    m = Monitor(Run.load(tmp_path/'run'))
    until(lambda: m.look() or m.live['state'] == 'training' and m.history['epoch'], 60)
    assert m.live['pid'] != os.getpid() and 'process' in m.live['where']
    m.hear('pause'); until(lambda: m.look() or m.live['state'] == 'paused', 60)
    m.hear('resume'); until(lambda: m.look() or m.live['state'] == 'training', 60)
    m.hear('stop'); run.wait(); m.look()
    assert m.live['state'] == 'stopped' and m.said == '' and run.epochs


def test_bad_folders(run, tmp_path, unchecked):
    "Half-written, of another version, without a checkpoint, with NaN: a sentence each."
    with pytest.raises(FileNotFoundError, match='holds no run'): attach(tmp_path)
    shutil.copytree(run.folder, tmp_path/'v'); (tmp_path/'v/config.json').write_text(json.dumps(dict(version=9)))
    with pytest.raises(RuntimeError, match='version 9'): attach(tmp_path/'v')
    shutil.copytree(run.folder, tmp_path/'new'); shutil.rmtree(tmp_path/'new/checkpoints'); (tmp_path/'new/history.csv').unlink(); (tmp_path/'new/live.json').write_text('{"state')
    m = whole(Run.load(tmp_path/'new'))
    assert m.live['says'] == 'stopped in epoch 1 of 3' and m.now == {} and m.picture() is None
    shutil.copytree(run.folder, tmp_path/'nan'); shutil.rmtree(tmp_path/'nan/monitor', ignore_errors=True)
    np.save(tmp_path/'nan/checkpoints/0003/z.npy', np.full((200, 2), np.nan))
    m = attach(tmp_path/'nan')
    until(lambda: 'no finite coordinates' in m.said)
    m.close()


def test_what_is_kept(ps, tmp_path):
    "The cell that shows a run keeps a picture of its end, though it was run at the beginning."
    import nbformat
    from nbclient import NotebookClient
    cells = CELLS[0], CELLS[1].replace('100_000', '3').replace("'run'", repr(str(tmp_path/'run'))), 'run.wait()', "import time; m = monitor(run)\nwhile m.live['state'] != 'finished' or m.shown[0][1] != m.last: time.sleep(.1)", 'run'
    notebook(tmp_path/'kept.ipynb', *(c.format(root=os.path.dirname(os.path.dirname(os.path.abspath(__file__))), star=str(ps.md.path)) for c in cells))
    nb = NotebookClient(nbformat.read(tmp_path/'kept.ipynb', 4), timeout=120).execute()
    first, last = (c.outputs[-1].data for c in (nb.cells[1], nb.cells[4]))
    assert first['image/png'] == last['image/png'] and 'application/vnd.jupyter.widget-view+json' in first


def test_script_that_ends(run, tmp_path):
    "A script that ends while the window is at a checkpoint ends well: the thread is gone before Python is, for left in the middle of compiled code it would bring the process down."
    shutil.copytree(run.folder, tmp_path/'run', ignore=shutil.ignore_patterns('monitor'))
    script = f"""
import atexit, threading
from drgnbook.monitor import Monitor, monitor
there, leave, snap = threading.Event(), threading.Event(), Monitor.snap
def slowly(self, epochs):
    if threading.current_thread() is not threading.main_thread(): there.set(); leave.wait()
    snap(self, epochs)
Monitor.snap = slowly
atexit.register(lambda: print('alive' if m.thread.is_alive() else 'gone'))          # the first to be registered is the last to be called
m = monitor({str(tmp_path/'run')!r})
there.wait()
atexit.register(leave.set)"""
    said = subprocess.run([sys.executable, '-c', script], check=True, text=True, stdout=subprocess.PIPE, timeout=120).stdout
    assert said == 'gone\n'


@pytest.mark.parametrize('dark', [False, True])
def test_drawn_before_it_is_on_the_page(browser, run, dark):
    "JupyterLab renders a widget first and shows it then: colours come from the page all the same"
    w = mount(browser, whole(run), dark)
    picture = "document.querySelector('.drgn-looks canvas').toDataURL()"
    shown = w.page.evaluate(picture)
    w.page.evaluate("""async () => {
        end(); host.replaceChildren();
        const later = document.createElement('div');
        window.end = (await window.module).default.render({ model, el: later });
        host.append(later);
    }""")
    w.page.wait_for_function(f'(was => {picture} === was)(`{shown}`)', timeout=5000)
    w.clean(); w.page.close()

@pytest.mark.parametrize('dark', [False, True])
def test_back_in_the_umaps(browser, ps, tmp_path, dark):
    "Every epoch's UMAP can be gone back to, and one that comes meanwhile leaves the eye where it is"
    run = fit(ps, epochs=3, out=tmp_path/'run', **dict(QUICK, zdim=3), where='here')
    for e in run.epochs: lay_out(run.folder, e)
    w = mount(browser, m := whole(run), dark)
    page, title = w.page, lambda: w.page.locator('.drgn-looks b').first.inner_text()
    cloud = lambda: page.evaluate("document.querySelector('.drgn-looks canvas').toDataURL()")
    assert [u['epoch'] for u in m.umaps] == [1, 2, 3] and not page.locator('.drgn-looks input[type=range]').count()
    page.locator('.drgn-looks select').select_option('UMAP')
    newest = cloud()
    page.locator('.drgn-looks input[type=range]').fill('0')
    assert title() == 'particles, epoch 1' and cloud() != newest
    first = cloud()
    page.evaluate("model.set('umaps', [...model.get('umaps'), {...model.get('umaps')[2], epoch: 4}])")
    assert title() == 'particles, epoch 1' and cloud() == first
    page.locator('.drgn-looks input[type=range]').fill('3')
    assert title() == 'particles, epoch 4'
    page.locator('.drgn-looks input[type=range]').fill('1')
    page.evaluate("model.set('umaps', model.get('umaps').filter(u => u.epoch !== 2))")          # makes room for later ones
    assert title() == 'particles, epoch 1' and cloud() == first
    assert len({tuple(u['extent']) for u in m.umaps}) == 1
    bar = page.locator('.drgn-looks input[type=range]')
    box, epochs = bar.bounding_box(), "model.set('umaps', [...model.get('umaps'), {...model.get('umaps')[0], epoch: %d}])"
    page.mouse.move(box['x'] + 3, box['y'] + box['height']/2); page.mouse.down()
    page.evaluate(epochs % 5)
    page.mouse.move(box['x'] + box['width'] - 3, box['y'] + box['height']/2)          # a hand that drags keeps its slider
    assert title() == 'particles, epoch 4'
    page.mouse.up()
    assert title() == 'particles, epoch 5' and bar.get_attribute('max') == '3'          # its end is the newest
    bar.focus(); page.evaluate(epochs % 6); page.keyboard.press('End')          # so does the keyboard
    assert title() == 'particles, epoch 6'
    w.clean(); page.screenshot(path=tmp_path/'umaps.png'); page.close()


def test_still_z_is_laid_out_once(ps, tmp_path):
    "Where z was found before the first epoch there is one landscape, whatever the epoch"
    run = fit(ps, epochs=3, out=tmp_path/'run', **dict(QUICK, zdim=3, z='subspace'), where='here')
    lay_out(run.folder, 1)
    m = whole(run)
    assert m.child is None and [u['epoch'] for u in m.umaps] == [1] and not (run.folder/'monitor/umap_0003.npy').exists()


def test_layout_ends_with_its_window(run):
    "A UMAP that nobody waits for any more does not go on in a process of its own"
    m = Monitor(run)
    m.child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], stdin=subprocess.PIPE)
    m.start()
    m.close()
    m.thread.join()
    assert m.child.returncode


def test_full_disk(run, tmp_path, full_disk):
    "Where nothing can be written the monitor still shows a run that is whole, and asks for nothing."
    folder = shutil.copytree(run.folder, tmp_path/'run', ignore=shutil.ignore_patterns('monitor'))
    with full_disk():
        m = Monitor(Run.load(folder))
        until(lambda: m.glance() or m.history['epoch'] == [1, 2, 3] and len(m.seen) == 3)
        assert m.verdict and m.now['epoch'] == 3 and m.picture() is not None
    assert not any(p.stat().st_size for p in folder.glob('monitor/*'))
    m.close()


CELLS = ['''
import os, sys
sys.path.insert(0, {root!r})
from drgnbook import *
ps = Particles.read({star!r})
''', '''
run = fit(ps, epochs=100_000, out='run', zdim=2, z='encoder', width=32, encoder_width=32, sample=.3, device='cpu')
run
''']

def test_lab(lab, ps):
    "Trains in the kernel while other cells answer; the monitor moves; a reload keeps it; Stop stops; a new kernel sees the same."
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    notebook(lab.folder/'train.ipynb', *(c.format(root=root, star=str(ps.md.path)) for c in CELLS))
    w = lab.open('train.ipynb'); page = w.page
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_selector('.drgn-monitor .drgn-training', timeout=120_000)
    client = lab.kernel('train.ipynb')
    shown = lambda: page.locator('.drgn-monitor progress').evaluate('p => p.value')
    before = shown()
    assert value(client, '1 + 1') == 2 and value(client, 'run.training')
    until(lambda: shown() > before, 60)
    until(lambda: page.locator('.drgn-monitor canvas').count() > 1, 60)
    page.evaluate("jupyterapp.commands.execute('docmanager:save')"); page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    page.reload()
    page.wait_for_selector('.drgn-monitor .drgn-training', timeout=90_000)
    page.click('.drgn-monitor button:has-text("stop")')
    page.wait_for_selector('.drgn-monitor .drgn-stopped', timeout=60_000)
    assert value(client, 'run.state').startswith('stopped') and value(client, 'run.epochs')
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    until(lambda: lab.api('sessions')[0]['kernel']['execution_state'] == 'idle', 60)
    done = Monitor(Run.load(lab.folder/'run')); done.look()
    assert done.live['says'].startswith('stopped') and done.history['epoch']
    w.clean(); page.close()


def test_stop_in_a_cell_that_waits(lab, ps):
    "The button ends the training that a busy cell waits for."
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    cells = CELLS[0], CELLS[1].replace("'run'", "'waits'"), 'run.wait()'
    notebook(lab.folder/'waits.ipynb', *(c.format(root=root, star=str(ps.md.path)) for c in cells))
    w = lab.open('waits.ipynb'); page = w.page
    page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_selector('.drgn-monitor .drgn-training', timeout=120_000)
    until(lambda: Run.load(lab.folder/'waits').epochs, 60)
    page.wait_for_function("[...document.querySelectorAll('.jp-InputPrompt')].at(-1).innerText === '[*]:'")      # the last cell is at it
    page.click('.drgn-monitor button:has-text("stop")')
    page.wait_for_selector('.drgn-monitor .drgn-stopped', timeout=60_000)
    w.clean(); page.close()
