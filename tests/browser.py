"A real browser, alone with a widget's module or in a real JupyterLab; and what it must not do: ask for anything outside."
import json, os, shutil, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from jupyter_client import BlockingKernelClient

SOFTWARE_GL = ['--no-sandbox', '--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist']
KNOWN = ('favicon',)            # what JupyterLab itself complains of in the console
FAKE = """
<!doctype html><meta charset=utf-8><style>:root{color-scheme:light dark}body{margin:0;background:Canvas}</style><div id=host></div>
<script>
// ipywidgets' model, as far as a widget's module uses it
window.mount = async (esm, css, state) => {
  document.head.append(Object.assign(document.createElement('style'), { textContent: css }));
  const revive = v => v && v.bytes !== undefined ? new DataView(Uint8Array.from(atob(v.bytes), c => c.charCodeAt(0)).buffer) : v && typeof v === 'object' && !Array.isArray(v) ? Object.fromEntries(Object.entries(v).map(([k, x]) => [k, revive(x)])) : Array.isArray(v) ? v.map(revive) : v;
  const on = {}, emit = (e, ...a) => (on[e] || []).slice().forEach(f => f(...a));
  window.revive = revive; window.sent = []; window.saved = {}; window.state = revive(state);
  window.model = { get: k => window.state[k], set: (k, v) => { window.state[k] = v; emit('change:' + k); emit('change'); }, save_changes: () => { Object.assign(window.saved, window.state); },
    on: (e, f) => (on[e] ||= []).push(f), off: (e, f) => { on[e] = (on[e] || []).filter(g => f && g !== f); }, send: (content, _, buffers = []) => window.sent.push({ ...content, buffers: buffers.map(b => Array.from(new Uint8Array(b.buffer || b, b.byteOffset || 0, b.byteLength))) }) };
  window.receive = (content, buffers = []) => emit('msg:custom', revive(content), buffers.map(revive));
  window.module = import(URL.createObjectURL(new Blob([esm], { type: 'text/javascript' })));
  window.end = await (await window.module).default.render({ model: window.model, el: document.getElementById('host') });
};
</script>
"""


def executable():
    "The browser that is here: Debian's chromium, Chrome, or the one that Playwright keeps."
    return os.environ.get('DRGNBOOK_BROWSER') or next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'))), None)

@contextmanager
def chromium(*more):
    "A headless Chromium with WebGL2 in software; `more`: options."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=executable(), args=[*SOFTWARE_GL, *more])
        try: yield browser
        finally: browser.close()


class Watched:
    "A page that notes each request to another machine and each error in its console."
    def __init__(self, browser, home='', **kw):
        self.page, self.outside, self.errors = browser.new_page(**kw), [], []
        self.page.on('request', lambda r: None if urlparse(r.url).hostname in (None, '127.0.0.1', 'localhost') else self.outside.append(r.url))
        self.page.on('console', lambda m: self.errors.append(m.text) if m.type == 'error' and not any(k in m.text + m.location.get('url', '') for k in KNOWN) else None)
        self.page.on('pageerror', lambda e: self.errors.append(str(e)))

    def clean(self):
        "Did it keep to itself?"
        assert not self.outside, f'asked for {self.outside}'
        assert not self.errors, f'the console says {self.errors}'


def wire(value):
    "A trait's value as JSON, its bytes as {bytes: base64}."
    from base64 import b64encode
    if isinstance(value, (bytes, memoryview)): return dict(bytes=b64encode(bytes(value)).decode())
    if isinstance(value, dict): return {k: wire(v) for k, v in value.items()}
    return [wire(v) for v in value] if isinstance(value, (list, tuple)) else value

def mount(browser, widget, dark=False, width=900, height=700):
    "A widget's module on a bare page with a fake model that holds the widget's traits; `page.evaluate('sent')` is what it told Python."
    w = Watched(browser, viewport=dict(width=width, height=height), color_scheme='dark' if dark else 'light')
    w.page.set_content(FAKE)
    state = {k: v for k, v in widget.get_state().items() if k[0] != '_'}
    w.page.evaluate('([esm, css, state]) => mount(esm, css, state)', [widget._esm, widget._css, wire(state)])
    return w


def _free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

class Lab:
    "A JupyterLab of its own: settings, runtime files and notebooks in one folder."
    def __init__(self, folder, browser):
        self.folder, self.browser, self.port = Path(folder), browser, _free_port()
        env = {**os.environ, **{f'JUPYTER_{k}_DIR': str(self.folder/f'.{k.lower()}') for k in ('CONFIG', 'RUNTIME', 'DATA')}, 'JUPYTERLAB_SETTINGS_DIR': str(self.folder/'.lab'),
               'JUPYTERLAB_WORKSPACES_DIR': str(self.folder/'.workspaces'), 'IPYTHONDIR': str(self.folder/'.ipython')}
        self.log = open(self.folder/'lab.log', 'w')
        words = ['lab', '--no-browser', '--ip=127.0.0.1', f'--port={self.port}', '--ServerApp.port_retries=0', '--IdentityProvider.token=', '--ServerApp.disable_check_xsrf=True', '--allow-root', '--LabApp.expose_app_in_browser=True',
                 f'--ServerApp.root_dir={self.folder}', '--LabApp.news_url=', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
        self.server = subprocess.Popen([sys.executable, '-m', 'jupyter', *words], env=env, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
        self.api('status', wait=90)

    def api(self, path, wait=0):
        "What the server's REST says; `wait` seconds for it to come up."
        end = time.monotonic() + wait
        while True:
            try: return json.load(urlopen(f'http://127.0.0.1:{self.port}/api/{path}'))
            except OSError:
                if time.monotonic() > end or self.server.poll() is not None: raise RuntimeError((self.folder/'lab.log').read_text()[-2000:]) from None
                time.sleep(.2)

    def open(self, notebook, dark=False, width=1280, height=1400):
        "A notebook in a new page, its kernel ready."
        w = Watched(self.browser, viewport=dict(width=width, height=height))
        w.page.goto(f'http://127.0.0.1:{self.port}/lab/tree/{notebook}?reset')
        w.page.wait_for_selector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell', timeout=60_000)
        w.page.wait_for_function("() => jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=60_000)
        if dark: w.page.evaluate("jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })"); w.page.wait_for_selector("body[data-jp-theme-light=false]", state='attached')
        return w

    def kernel(self, notebook):
        "A client of the notebook's kernel, beside the browser's own."
        id = next(s['kernel']['id'] for s in self.api('sessions') if s['path'] == notebook)
        client = BlockingKernelClient(connection_file=str(next((self.folder/'.runtime').glob(f'kernel-{id}.json'))))
        client.load_connection_file(); client.start_channels()
        return client

    def rest(self):
        "End every kernel, whatever it is doing, and close every page."
        for s in self.api('sessions'): urlopen(Request(f'http://127.0.0.1:{self.port}/api/sessions/{s["id"]}', method='DELETE'))
        for context in self.browser.contexts: context.close()

    def close(self):
        self.rest()
        self.server.terminate(); self.server.wait(20); self.log.close()


def value(client, expression, timeout=60):
    "The value of an expression in a kernel (what JSON can say)."
    end = time.monotonic() + timeout
    id = client.execute('import json as _json', silent=True, user_expressions=dict(x=f'_json.dumps({expression})'))
    while True:
        reply = client.get_shell_msg(timeout=max(.1, end - time.monotonic()))
        if reply['parent_header'].get('msg_id') == id: break
    found = reply['content']['user_expressions']['x']
    if found['status'] != 'ok': raise RuntimeError(found)
    return json.loads(__import__('ast').literal_eval(found['data']['text/plain']))

def until(test, timeout=30, every=.1):
    "Poll until something is so; its value."
    end = time.monotonic() + timeout
    while not (found := test()):
        if time.monotonic() > end: raise TimeoutError(f'not so after {timeout} s: {test}')
        time.sleep(every)
    return found

def notebook(path, *cells):
    "Write a notebook of code cells."
    cell = lambda i, s: dict(cell_type='code', id=f'c{i}', metadata={}, outputs=[], execution_count=None, source=s)
    Path(path).write_text(json.dumps(dict(nbformat=4, nbformat_minor=5, metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')), cells=[cell(i, s) for i, s in enumerate(cells)])))
