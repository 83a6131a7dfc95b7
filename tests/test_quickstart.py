"The quickstart as a reader meets it: in a JupyterLab, from its first cell to its last."
import json
from pathlib import Path
from shutil import copytree, ignore_patterns

PAGES, NAME = Path(__file__).parents[1]/'nbs', 'tutorials/00_quickstart.ipynb'
CELLS = '[...jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type === "code")'
DONE = f'() => {{ const cells = {CELLS}; return cells.at(-1).executionCount || cells.some(c => c.outputs.toJSON().some(o => o.output_type === "error")); }}'


def test_quickstart(lab):
    "Every cell runs, what it claims is so, and its three windows are drawn; nothing leaves the machine."
    for part in ('tutorials', 'images'): copytree(PAGES/part, lab.folder/part, ignore=ignore_patterns('demo'))          # as `make lab` shows them
    w = lab.open(NAME); page = w.page
    page.evaluate("jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(DONE, timeout=900_000, polling=1000)
    outputs = page.evaluate(f'{CELLS}.flatMap(c => c.outputs.toJSON())')
    assert not [o for o in outputs if o['output_type'] == 'error']
    for window in ('.drgn-monitor canvas', '.drgn-points', '.drgn-view-box canvas'):
        at = page.evaluate("window => [...jupyterapp.shell.currentWidget.content.widgets].findIndex(c => c.model.type === 'code' && c.node.querySelector(window))", window)
        page.evaluate("at => jupyterapp.shell.currentWidget.content.scrollToItem(at)", at)
        page.wait_for_function(f"(c => c && c.width > 50 && c.getBoundingClientRect().height > 20)(document.querySelector({window!r}))")
    said = json.loads((lab.folder/'tutorials/demo/summary.json').read_text())
    assert said['classes recovered'].startswith('4 of 4')
    w.clean(); page.close()
