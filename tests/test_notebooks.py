"One test per notebook, by nbdev's own runner, each in a process and a folder of its own."
import os, subprocess, sys
from pathlib import Path

import pytest
from execnb.nbio import read_nb, write_nb

ROOT = Path(__file__).parents[1]
NOTEBOOKS = [nb for folder in ('api', 'explanations') for nb in sorted((ROOT/'nbs'/folder).glob('*.ipynb'))]      # the tutorials: test_tutorials
LIMIT = 900  # s, so that a notebook that hangs is named
# Shapes are checked in what a notebook imports (main) and in what its cells define (here), but for the cells with test_fail:
# they show what a user sees, who runs without the checker.
CHECK_CELLS = """
%load_ext jaxtyping
%jaxtyping.typechecker shapes.check
get_ipython().events.register('pre_run_cell', lambda cell: __import__('jaxtyping').config.update('jaxtyping_disable', 'test_fail' in cell.raw_cell))
"""


def checked_copy(notebook, folder):
    "A copy of the notebook that checks shapes from its first code cell on"
    nb = read_nb(notebook)
    for c in [c for c in nb.cells if c.cell_type == 'code'][:1]: c.source += CHECK_CELLS          # a page may be prose alone
    write_nb(nb, folder/notebook.name)
    return folder/notebook.name


def check(notebook, folder, flags='', **env):
    "Run a notebook in a folder; the test fails with what it said."
    run = subprocess.run([sys.executable, __file__, checked_copy(notebook, folder), *flags.split()], cwd=folder, timeout=LIMIT, text=True,
                         env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if run.returncode: pytest.fail(f'{notebook.relative_to(ROOT)}\n{run.stdout}', pytrace=False)


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda nb: f'{nb.parent.name}/{nb.stem}')
def test_notebook(notebook, tmp_path, request): check(notebook, tmp_path, request.config.getoption('flags'))


def main(notebook, *flags):
    "Run one notebook; what it raises goes to stderr with the number of its cell"
    from nbdev.test import test_nb
    from shapes import check_imports
    check_imports()
    passed, _ = test_nb(Path(notebook), skip_flags=['notest', 'cuda', 'slow'], force_flags=flags, basepath=ROOT)
    sys.exit(not passed)


if __name__ == '__main__': main(*sys.argv[1:])
