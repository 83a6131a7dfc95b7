"The tutorials, from top to bottom and in order; the quickstart runs in a JupyterLab: test_quickstart."
import shutil, time

import pytest
from test_notebooks import ROOT, check

PAGES = sorted(p for p in (ROOT/'nbs/tutorials').glob('*.ipynb') if p.stem != '00_quickstart')
LIMIT = 25*60  # s, all of them together, on two cores
seconds = {}


@pytest.fixture(scope='module')
def walk(tmp_path_factory):
    "One folder for all pages of the 10076 walk, each of which opens what the others made; gigabytes, so it goes in the end"
    folder = tmp_path_factory.mktemp('walk')/'10076'
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_page(page, tmp_path, walk, request):
    start = time.monotonic()
    check(page, tmp_path, request.config.getoption('flags'), DRGNBOOK_10076=str(walk))
    seconds[page.stem] = time.monotonic() - start


def test_pages_are_quick():
    "What ran of them, in this session"
    assert sum(seconds.values()) < LIMIT, seconds
