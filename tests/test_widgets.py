"Widgets in a real browser: what all have in common, on a bare page and in a real JupyterLab."
import pytest
from traitlets import Dict, Int

from browser import mount, notebook, value
from drgnbook.widget import Widget, packed, page

ESM = page('')['_esm'] + """
export default { render({ model, el: host }) {
  const f = frame(model, host, 'probe'), x = unpacked(model.get('x')), out = el('output', {}, String(x.reduce((a, b) => a + b, 0)));
  f.root.append(el('div', { class: 'drgn-row' }, button('more', 'm', () => tell(model, 'more', [2], [new Uint8Array([1, 0, 1])])), slider('level', 0, 10, 1, 3, v => out.value = v), out));
  f.on('change:n', () => out.value = 'n ' + model.get('n'));
  return f.ends;
} };
"""

class Probe(Widget):
    _esm, _css = ESM, page('')['_css']
    x, n = Dict(packed([1.5, 2.5, 3.])).tag(sync=True), Int(0).tag(sync=True)
    def do_more(self, k, mask):
        if self.n > 2: raise ValueError('that is enough')
        self.n += k + sum(bytes(mask))


@pytest.mark.parametrize('dark', [False, True])
def test_bare(browser, dark):
    "Bytes arrive as numbers, a button and its key tell Python, a sentence shows, themes differ, nothing leaves the page."
    w = mount(browser, Probe(), dark)
    assert w.page.locator('output').inner_text() == '7'
    w.page.click('button'); w.page.focus('.drgn'); w.page.keyboard.press('m')
    assert w.page.evaluate('sent') == [{'do': 'more', 'with': [2], 'buffers': [[1, 0, 1]]}]*2
    w.page.evaluate("model.set('said', 'no such thing')")
    assert w.page.locator('[role=alert]').inner_text() == 'no such thing'
    back = w.page.evaluate("getComputedStyle(document.querySelector('.drgn')).backgroundColor")
    assert (back != 'rgb(255, 255, 255)') == dark
    w.clean(); w.page.close()


def test_lab(lab):
    "A click in JupyterLab reaches Python and comes back; an error is a sentence, and no console error."
    notebook(lab.folder/'probe.ipynb', 'import sys; sys.path.insert(0, %r)\nfrom test_widgets import Probe\np = Probe(); p' % __file__.rsplit('/', 1)[0])
    w = lab.open('probe.ipynb')
    w.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    w.page.click('.drgn button', timeout=60_000)
    w.page.wait_for_function("document.querySelector('.drgn output').value === 'n 4'")
    w.page.click('.drgn button')
    w.page.wait_for_function("document.querySelector('.drgn [role=alert]').textContent === 'that is enough'")
    assert value(lab.kernel('probe.ipynb'), 'p.n') == 4
    w.clean(); w.page.close()
