"What keeps the project in shape: notebooks and modules agree, imports go down, functions stay short."
import ast, builtins, importlib, re, subprocess, sys, types
from collections import Counter
from configparser import ConfigParser
from copy import deepcopy
from importlib import metadata
from pathlib import Path
from shutil import copytree, copy, ignore_patterns

import pytest
from execnb.nbio import nb2str, read_nb
from nbdev.clean import clean_nb
from nbdev.process import NBProcessor
from packaging.requirements import Requirement

try: import tomllib
except ImportError: import tomli as tomllib  # Python 3.10; pytest brings it

ROOT = Path(__file__).parents[1]
LIB = ROOT/'drgnbook'
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
MAX_LINES = 30
NOT_STARRED = {'cli'}  # for the shell, not for notebooks


def default_exp(nb):
    "The module that a notebook exports, or None"
    cells = NBProcessor(nb).nb.cells
    return next((c.directives_['default_exp'][0] for c in cells if 'default_exp' in c.directives_), None)

EXPORTS = [(default_exp(nb), nb) for nb in NOTEBOOKS if default_exp(nb)]
NUMBER = {name: int(nb.stem.split('_')[0]) for name, nb in EXPORTS}
MODULES = sorted(NUMBER, key=NUMBER.get)
each_module = pytest.mark.parametrize('name', MODULES)
each_notebook = pytest.mark.parametrize('nb', NOTEBOOKS, ids=lambda nb: nb.stem)


def tree(name): return ast.parse((LIB/f'{name}.py').read_text())

def imported(name):
    "The drgnbook modules that a module imports, at its top or inside a function"
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import): names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level: names = [f'drgnbook.{node.module or ""}']
        elif isinstance(node, ast.ImportFrom): names = [node.module]
        else: continue
        yield from ((n + '.').split('.')[1] for n in names if n.split('.')[0] == 'drgnbook')  # '' is drgnbook itself

def below(name):
    "All modules that a module stands on"
    down = set(imported(name)) & set(MODULES)
    return down.union(*map(below, down))

def functions(name): return [n for n in ast.walk(tree(name)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]

def body_lines(f):
    "The lines of a function's body, without its signature and docstring"
    body = f.body[1:] if ast.get_docstring(f) is not None else f.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


# Notebooks and modules

def test_export_is_fresh(tmp_path):
    "Exporting the notebooks again gives the modules that are committed, and no others"
    for file in ('settings.ini', 'pyproject.toml'): copy(ROOT/file, tmp_path)
    copytree(ROOT/'nbs', tmp_path/'nbs', ignore=ignore_patterns('.ipynb_checkpoints'))
    (tmp_path/'drgnbook').mkdir()
    copy(LIB/'__init__.py', tmp_path/'drgnbook')
    subprocess.run([sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()'],
                   cwd=tmp_path, check=True)
    fresh, committed = ({p.name: p.read_text() for p in lib.glob('*.py')} for lib in (tmp_path/'drgnbook', LIB))
    stale = sorted(n for n in fresh.keys() | committed.keys() if fresh.get(n) != committed.get(n))
    assert not stale, f'run `make export`: {stale}'

def test_one_notebook_per_module():
    "Two notebooks with one default_exp would overwrite each other without a word"
    twice = [name for name, n in Counter(name for name, _ in EXPORTS).items() if n > 1]
    assert not twice, f'more than one notebook exports {twice}'

@each_notebook
def test_notebook_is_clean(nb):
    "No execution counts, no metadata but the kernel's name, without which JupyterLab asks"
    was = read_nb(nb)
    clean = deepcopy(was)
    clean_nb(clean)
    assert nb2str(was) == nb2str(clean), f'run `nbdev_clean --fname {nb.relative_to(ROOT)}`'
    assert was.metadata.keys() - {'widgets'} == {'kernelspec'} and was.metadata.kernelspec.name == 'python3', was.metadata

@each_notebook
def test_notebook_has_title(nb):
    first = next(c.source for c in read_nb(nb).cells if c.cell_type == 'markdown')
    assert re.match(r'# \S.*\n+> \S', first), "begins with '# Title' and '> one line'"

@each_notebook
def test_imports_stand_alone(nb):
    "A cell imports or works, not both: building the documentation runs the cells that import, and not those before them"
    for cell in NBProcessor(nb).nb.cells:
        kinds = {type(n) for tree in cell.parsed_() or [] for n in ast.walk(tree)}
        if cell.directives_.keys() & {'export', 'exporti', 'exports'} or not kinds & {ast.Import, ast.ImportFrom}: continue
        assert not kinds & {ast.Expr, ast.Assign}, f'imports and other code in one cell:\n{cell.source}'

def test_readme_is_fresh():
    sys.path.insert(0, str(ROOT/'tools'))
    from readme import readme
    assert (ROOT/'README.md').read_text() == readme(), 'run `make export`'


# The star import

def test_star_import():
    "Every public name is there, as its own module means it; no module and no builtin is hidden"
    here = {}
    exec('from drgnbook import *', here)
    starred = importlib.import_module('drgnbook')._MODULES
    assert starred == [m for m in MODULES if m not in NOT_STARRED], 'drgnbook/__init__.py: one line per module, in the order of the notebooks'
    owners = {}
    for m in starred:
        for n in importlib.import_module(f'drgnbook.{m}').__all__: owners.setdefault(n, []).append(m)
    assert not {n: ms for n, ms in owners.items() if len(ms) > 1}, 'one name in two modules'
    assert not owners.keys() & set(dir(builtins)), 'shadows a builtin'
    lost = [n for n, (m,) in owners.items() if here.get(n) is not getattr(sys.modules[f'drgnbook.{m}'], n)]
    assert not lost, f'not what their modules define: {lost}'
    assert not [n for n, v in here.items() if isinstance(v, types.ModuleType)], 'brings a module, such as one named io'
    assert not owners.keys() - here.keys() and not here.keys() - owners.keys() - {'__builtins__'}, 'the star brings what the modules name, no more and no less'

def fresh(code):
    "What a new Python prints"
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

HEAVY = 'umap sklearn numba plotly matplotlib gemmi pytest'.split()

def test_import_is_light():
    "What takes long to import is imported where it is used"
    found = fresh(f'import sys; from drgnbook import *; print(*(set({HEAVY}) & set(sys.modules)))')
    assert not found, f'from drgnbook import * imports {found}'

@pytest.mark.parametrize('line', ['import drgnbook', 'from drgnbook.cli import main; main(["--help"])'])
def test_shell_is_light(line):
    "Nothing is loaded before it is asked for: the list of commands is there at once"
    found = fresh(f'import sys; {line}; print("loaded", *({ {*HEAVY, "torch", "pandas", "scipy", "IPython", "anywidget"} } & set(sys.modules)))')
    assert found.split()[-1] == 'loaded', found

def test_cores_share_a_machine(monkeypatch):
    "Waiting cores go to sleep soon, unless somebody has said otherwise; said before torch is there to hear it"
    line = 'import os, sys, drgnbook; print(os.environ["GOMP_SPINCOUNT"], "torch" in sys.modules)'
    monkeypatch.delenv('GOMP_SPINCOUNT', raising=False)
    assert fresh(line) == '1000 False'
    monkeypatch.setenv('GOMP_SPINCOUNT', '7')
    assert fresh(line) == '7 False'

@pytest.mark.parametrize('first', ['', 'import drgnbook.train', 'import drgnbook.io', 'from drgnbook import *'])
def test_names_in_any_order(first):
    "A name is what its module defines, whatever was imported before: `drgnbook.subspace` is the function, not the file"
    found = fresh(f"""{first}
import drgnbook
one = drgnbook.subspace
from drgnbook import reconstruct, Lattice
print(*(type(f).__name__ for f in (one, reconstruct, drgnbook.simulate, Lattice, drgnbook.io)))
print({{'fit', 'Lattice', 'umap'}} <= set(dir(drgnbook)), hasattr(drgnbook, 'fitt'))""")
    assert found == 'function function function type module\nTrue False'


# The floors

@each_module
def test_imports_go_down(name):
    up = [m or 'drgnbook' for m in imported(name) if NUMBER.get(m, 100) >= NUMBER[name]]
    assert not up, f'{name} ({NUMBER[name]:02}) imports {up}'

def test_pillars_stand_apart():
    "Physics and data never meet below train"
    for one, other in (('forward', 'particles'), ('particles', 'forward')):
        if one in MODULES: assert other not in below(one), f'{one} stands on {other}'


# What a reader meets

@each_module
def test_functions_are_short(name):
    long = {f.name: body_lines(f) for f in functions(name) if body_lines(f) > MAX_LINES}
    assert not long, f'longer than {MAX_LINES} lines: {long}'

@each_module
def test_docstrings(name):
    "Every public function and class, patched methods too"
    top = [n for n in tree(name).body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    bare = [n.name for n in top if n.name[0] != '_' and not ast.get_docstring(n)]
    assert not bare, f'no docstring: {bare}'

def test_figures_can_be_displayed():
    "A fresh kernel shows what `volume.figure` made; a bare `Figure` is for pictures that are turned into bytes"
    bare = {m for m in MODULES if 'from matplotlib.figure import' in (LIB/f'{m}.py').read_text()}
    assert bare == {'view', 'monitor', 'export'}


# Settings

def test_settings_agree():
    "settings.ini (nbdev 2, setup.py), pyproject.toml (pip, nbdev 3) and the package say the same"
    ini = ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini')
    cfg = ini['DEFAULT']
    toml = tomllib.loads((ROOT/'pyproject.toml').read_text())
    project, nbdev = toml['project'], toml['tool']['nbdev']
    assert {k: cfg[k] for k in ('lib_path', 'nbs_path', 'doc_path', 'tst_flags')} == {k: nbdev[k] for k in ('lib_path', 'nbs_path', 'doc_path', 'tst_flags')}
    assert (cfg['lib_name'], cfg['description'], f">={cfg['min_python']}", cfg['git_url'], cfg['keywords'].split(), cfg['author']) == \
           (project['name'], project['description'], project['requires-python'], project['urls']['Repository'], project['keywords'], project['authors'][0]['name'])
    assert cfg['version'] == importlib.import_module('drgnbook').__version__

def test_installed_as_settings_say():
    "What pip was told: version, requirements and console script of settings.ini"
    try: dist = metadata.distribution('drgnbook')
    except metadata.PackageNotFoundError: pytest.skip('drgnbook is not installed here')
    ini = ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini')
    cfg = ini['DEFAULT']
    told = [Requirement(r) for r in dist.requires]
    asked = lambda extra: {(r.name, r.specifier) for r in told if (r.marker.evaluate({'extra': extra}) if r.marker else not extra)}
    wanted = lambda key: {(r.name, r.specifier) for r in map(Requirement, cfg[key].split())}
    assert dist.version == cfg['version']
    assert asked('') == wanted('requirements') and asked('dev') == wanted('dev_requirements') and asked('movie') == wanted('movie_requirements')
    scripts = [f'{e.name}={e.value}' for e in dist.entry_points if e.group == 'console_scripts']
    assert scripts == cfg['console_scripts'].split()

def test_nothing_leans_on_this_machine():
    "No path of this machine outside tests and benchmarks"
    files = [p for folder in ('nbs', 'drgnbook', 'tools', '.github') for p in (ROOT/folder).rglob('*') if p.suffix in {'.py', '.ipynb', '.md', '.yml'}]
    files += [ROOT/f for f in ('Makefile', 'README.md', 'settings.ini', 'pyproject.toml', 'setup.py')]
    lean = [str(p.relative_to(ROOT)) for p in files if re.search(r'/work/|/root/', p.read_text())]
    assert not lean, f'a path of this machine: {lean}'
