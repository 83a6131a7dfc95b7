"A real JupyterHub on this machine: two users train at once, each in a server of their own; and what culling sees of a training."
import asyncio, os, shutil, signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest
from browser import Watched, notebook, until
from drgnbook.fit import fit          # brings Run.stop
from drgnbook.run import Run
from drgnbook.simulate import simulate
from slurm import free_ports

pytestmark = pytest.mark.slow
USERS = 'ada', 'grace'
CONF = '''
c.JupyterHub.bind_url = 'http://127.0.0.1:{ports[0]}'
c.JupyterHub.hub_bind_url = 'http://127.0.0.1:{ports[1]}'
c.ConfigurableHTTPProxy.api_url = 'http://127.0.0.1:{ports[2]}'
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.ConfigurableHTTPProxy.pid_file = '{folder}/proxy.pid'
c.JupyterHub.db_url = 'sqlite:///{folder}/hub.sqlite'
c.JupyterHub.cookie_secret_file = '{folder}/cookies'
c.JupyterHub.authenticator_class = 'dummy'
c.Authenticator.allowed_users = {users!r}
c.JupyterHub.spawner_class = 'simple'
c.SimpleLocalProcessSpawner.home_dir_template = '{folder}/{{username}}'
c.Spawner.ip = '127.0.0.1'
c.Spawner.start_timeout = c.Spawner.http_timeout = 120
c.Spawner.environment = dict(PYTHONPATH={root!r}, DRGNBOOK_CACHE='{folder}/cache', OMP_NUM_THREADS='1')
c.Spawner.args = ['--allow-root', '--LabApp.news_url=', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate', '--LabApp.expose_app_in_browser=True']
'''
CELLS = ['''
from drgnbook import *
ps = Particles.read({star!r})
''', '''
run = fit(ps, epochs=100_000, out='run', zdim=2, z='encoder', width=32, encoder_width=32, sample=.3, device='cpu')
run
''']
APART = """
apart = fit(ps, epochs=100_000, out='apart', where='process', zdim=2, z='encoder', width=32, encoder_width=32, sample=.3, device='cpu')
"""


def proxy():
    "JupyterHub's proxy, or a test that is skipped and says what to install."
    path = shutil.which('configurable-http-proxy', path=f'{os.environ["PATH"]}:{sys.prefix}/bin')
    missing = [*([] if find_spec('jupyterhub') else [f'{sys.executable} -m pip install jupyterhub']), *([] if path else [f'npm install --global --prefix {sys.prefix} configurable-http-proxy'])]
    if missing: pytest.skip('no JupyterHub here; to have one: ' + '; '.join(missing))
    return path

@contextmanager
def jupyterhub(folder):
    "A hub whose files are all in one folder and whose doors are all on 127.0.0.1: its address."
    ports = free_ports(3)
    (folder/'conf.py').write_text(CONF.format(folder=folder, ports=ports, proxy=proxy(), users=set(USERS), root=str(Path(__file__).parents[1])))
    for name in (*USERS, 'cache'): (folder/name).mkdir()
    with open(folder/'hub.log', 'w') as log: hub = subprocess.Popen([sys.executable, '-m', 'jupyterhub', '-f', folder/'conf.py'], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    url = f'http://127.0.0.1:{ports[0]}'
    def up():
        if hub.poll() is not None: raise RuntimeError((folder/'hub.log').read_text()[-3000:])
        with suppress(OSError): return urlopen(f'{url}/hub/api').status == 200
    try: until(up, 90); yield url
    finally:
        hub.terminate()
        try: hub.wait(60)
        except subprocess.TimeoutExpired: os.killpg(hub.pid, signal.SIGKILL); hub.wait()

@contextmanager
def ended(folder):
    "Whatever happens, a run in a process of its own does not stay behind."
    try: yield
    finally:
        if (folder/'config.json').exists(): Run.load(folder).stop()

def alive(pid): return Path(f'/proc/{pid}').exists()

def enter(browser, url, user):
    "Log in; the hub starts a server and leads to the notebook there, its kernel ready."
    w = Watched(browser, viewport=dict(width=1280, height=1400)); page = w.page
    page.goto(f'{url}/hub/login?next=/hub/user-redirect/lab/tree/train.ipynb')
    page.fill('#username_input', user); page.fill('#password_input', 'secret'); page.click('#login_submit')
    page.wait_for_selector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell', timeout=180_000)
    page.wait_for_function("() => jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=60_000)
    assert f'/user/{user}/' in page.url
    return w

def leave(w, url):
    "Save, and have the hub stop one's server."
    page = w.page
    page.evaluate("jupyterapp.commands.execute('docmanager:save')"); page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    page.goto(f'{url}/hub/home'); page.click('#stop'); page.wait_for_selector('#stop', state='hidden', timeout=60_000)
    w.clean(); page.close()


def test_two_users(browser, tmp_path):
    "Each logs in, trains, sees the monitor move and stops the own run only; one cache for both; of their servers nothing is left but a run in a process, which goes on."
    ps = simulate(n=200, D=32, snr=1., junk=0., out=tmp_path/'set')
    with ended(tmp_path/'ada/apart'), jupyterhub(tmp_path) as url:
        for user in USERS: notebook(tmp_path/user/'train.ipynb', *(c.format(star=str(ps.md.path)) for c in (*CELLS, *([APART] if user == 'ada' else []))))
        seen = {user: enter(browser, url, user) for user in USERS}
        for w in seen.values(): w.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        for w in seen.values(): w.page.wait_for_selector('.drgn-monitor .drgn-training', timeout=180_000)
        shown = lambda w: w.page.locator('.drgn-monitor progress').evaluate('p => p.value')
        before = {user: shown(w) for user, w in seen.items()}
        for user, w in seen.items(): until(lambda: shown(w) > before[user] and w.page.locator('.drgn-monitor canvas').count() > 1, 90)
        runs = {user: Run.load(tmp_path/user/'run') for user in USERS}
        kernels = {user: run.live['pid'] for user, run in runs.items()}
        assert all(map(alive, kernels.values())) and len(set(kernels.values())) == 2
        for i, (user, w) in enumerate(seen.items()):
            assert [run.training for run in runs.values()] == [j >= i for j in range(2)]
            w.page.screenshot(path=tmp_path/f'{user}.png')
            w.page.click('.drgn-monitor button:has-text("stop")')
            w.page.wait_for_selector('.drgn-monitor .drgn-stopped', timeout=60_000)
            until(lambda: not runs[user].training)
            assert runs[user].live['state'] == 'stopped' and runs[user].checkpoints
        assert len(list((tmp_path/'cache').glob('*.f16'))) == 1 and not (tmp_path/'set/.drgnbook').exists()
        for w in seen.values(): leave(w, url)
        until(lambda: not any(map(alive, kernels.values())), 60)
        apart = Run.load(tmp_path/'ada/apart')
        before = apart.live['time']
        until(lambda: apart.live['time'] > before, 60)
        assert apart.training


async def culled(folder, star, timeout=10):
    "Two kernels train in a thread under a manager that culls what is idle for so many seconds; one shows its run. Once the other is gone: which are left after the same time again?"
    from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
    manager = AsyncMappingKernelManager(cull_idle_timeout=timeout, cull_interval=1)
    async def wait(test, seconds=180):
        end = time.monotonic() + seconds
        while not test():
            assert time.monotonic() < end
            await asyncio.sleep(.2)
    async def begin(name, last):
        id = await manager.start_kernel()
        client = manager.get_kernel(id).client(); client.start_channels()
        await client.wait_for_ready(timeout=120)
        code = ''.join(CELLS).format(star=star).replace("'run'", repr(str(folder/name))).rpartition('run')[0] + last
        assert (await client.execute_interactive(code, output_hook=lambda m: None, timeout=120))['content']['status'] == 'ok'
        client.stop_channels()
        return id
    try:
        shown = await begin('shown', 'run')
        await wait(lambda: Run.load(folder/'shown').live.get('state') == 'training')
        silent = await begin('silent', '')
        await wait(lambda: Run.load(folder/'silent').live.get('state') == 'training')
        await wait(lambda: silent not in manager)
        end = time.monotonic() + timeout
        await wait(lambda: time.monotonic() > end)
        return shown in manager, Run.load(folder/'shown').training, Run.load(folder/'silent').training
    finally: await manager.shutdown_all()

def test_culling(tmp_path):
    "A kernel that trains is culled as idle unless it shows its run; what it trained ends with it, and goes on from there."
    ps = simulate(n=200, D=32, snr=1., junk=0., out=tmp_path/'set')
    with ThreadPoolExecutor(1) as beside: left = beside.submit(asyncio.run, culled(tmp_path, str(ps.md.path))).result()          # Playwright keeps a loop of its own in this thread
    assert left == (True, True, False)
    run = Run.load(tmp_path/'silent', 'cpu')
    assert run.state.startswith('stopped')
    done = len(run.history) + 1
    assert run.checkpoints and run.resume(epochs=done, where='here').state == f'finished, {done} epochs'
