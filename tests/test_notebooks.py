"One test per notebook, by nbdev's own runner, each in a process and a folder of its own."
import os, shutil, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = [nb for folder in ('api', 'tutorials') for nb in sorted((ROOT/'nbs'/folder).glob('[0-9]*.ipynb'))]
LIMIT = 900  # s, so that a notebook that hangs is named


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda nb: f'{nb.parent.name}/{nb.stem}')
def test_notebook(notebook, tmp_path, request):
    copy = shutil.copy(notebook, tmp_path)
    flags = request.config.getoption('flags').split()
    run = subprocess.run([sys.executable, __file__, copy, *flags], cwd=tmp_path, timeout=LIMIT, text=True,
                         env={**os.environ, 'DRGNBOOK_DEMO': str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if run.returncode: pytest.fail(f'{notebook.relative_to(ROOT)}\n{run.stdout}', pytrace=False)


def main(notebook, *flags):
    "Run one notebook; what it raises goes to stderr with the number of its cell"
    from jaxtyping import install_import_hook
    from nbdev.test import test_nb
    install_import_hook('drgnbook', 'beartype.beartype')
    passed, _ = test_nb(Path(notebook), skip_flags=['notest', 'cuda', 'slow'], force_flags=flags, basepath=ROOT)
    sys.exit(not passed)


if __name__ == '__main__': main(*sys.argv[1:])
