"What every test has: shapes checked, no windows, and flags that ask for more."
import os, signal
from pathlib import Path

import pytest
from jaxtyping import config
from shapes import check_imports

os.environ['MPLBACKEND'] = 'Agg'
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests with & has it ignored, and so would all that they start
check_imports()  # before the first import of drgnbook

ROOT = Path(__file__).parents[1]
FLAGS = {'slow': 'takes minutes', 'cuda': 'needs a GPU'}


def pytest_addoption(parser):
    parser.addoption('--flags', default='', help='also run what is marked so, in tests and in notebook cells: "slow cuda"')

def pytest_configure(config):
    for flag, why in FLAGS.items(): config.addinivalue_line('markers', f'{flag}: {why}; runs with --flags {flag}')

def pytest_collection_modifyitems(config, items):
    asked, long = config.getoption('flags').split(), ['test_notebooks', 'test_tutorials', 'test_quickstart']
    items.sort(key=lambda item: long.index(item.path.stem) if item.path.stem in long else len(long))      # the longest files first: each worker takes the next
    for item in items:
        for flag in FLAGS:
            if item.get_closest_marker(flag) and flag not in asked:
                item.add_marker(pytest.mark.skip(reason=f'{FLAGS[flag]}: make test FLAGS={flag}'))


@pytest.fixture(scope='session')
def shared():
    "The folder of real input beside the checkout"
    folder = ROOT.parent/'shared'/'data'
    if not folder.is_dir(): pytest.skip('no ../shared/data: the real input is not part of the repository')
    return folder

@pytest.fixture
def full_disk():
    "`with full_disk():` no file can grow, as on a disk with no room (the system says EFBIG in place of ENOSPC)"
    import resource
    from contextlib import contextmanager
    @contextmanager
    def full():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try: yield
        finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return full

@pytest.fixture
def unchecked():
    "Without the checker of shapes, as a user runs: for tests of our own error messages"
    config.update('jaxtyping_disable', True)
    yield
    config.update('jaxtyping_disable', False)


@pytest.fixture(scope='session')
def browser():
    "A headless Chromium; `make test` sees to it that there is one."
    from browser import chromium
    with chromium() as b: yield b

@pytest.fixture(scope='session')
def server(browser, tmp_path_factory):
    "A real JupyterLab, one for all tests."
    from browser import Lab
    lab = Lab(tmp_path_factory.mktemp('lab'), browser)
    yield lab
    lab.close()

@pytest.fixture
def lab(server):
    "That JupyterLab; what a test has begun in it ends with the test."
    yield server
    server.rest()
