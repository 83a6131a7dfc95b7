"The shell says what it can do, and what is wrong, in sentences."
import inspect, json, subprocess, sys
from importlib import import_module

import numpy as np
import pytest

from drgnbook.cli import COMMANDS, main
from drgnbook.fit import fit
from drgnbook.particles import Particles
from drgnbook.simulate import simulate


def said(capsys, line):
    "Status and words of a command line"
    try: status = main(line.split())
    except SystemExit as e: status = e.code
    out, err = capsys.readouterr()
    return status, out + err

def test_list(capsys):
    "Every command with its line, which is the factory's docstring"
    for line in ('', '--help', '-h'):
        status, words = said(capsys, line)
        assert status == 0 and all(f'{c:9} {f.__doc__}\n' in words for c, f in COMMANDS.items())

@pytest.mark.parametrize('name', COMMANDS)
def test_help(name, capsys):
    "Each command describes itself by the same line, and names every parameter of its function"
    status, words = said(capsys, f'{name} --help')
    assert status == 0 and COMMANDS[name].__doc__ in ' '.join(words.split())
    missing = [p for p in inspect.signature(COMMANDS[name]()).parameters if p not in words]
    assert not missing and 'kwargs' not in words, missing

def test_console_script():
    "What pip installs runs, and says what it is asked"
    run = subprocess.run([sys.executable, '-c', 'import sys; from drgnbook.cli import main; sys.exit(main())', 'fly'], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr == "drgnbook: no command 'fly': there are simulate, fit, resume, analyse, volumes, select\n" and not run.stdout


@pytest.fixture
def run(tmp_path):
    "A run's folder with four groups of z and nothing else: what `select` looks at when it writes numbers"
    folder = tmp_path/'run'
    (folder/'checkpoints/0001').mkdir(parents=True)
    z = np.repeat([[0, 0], [5, 0], [0, 5], [5, 5.]], [10, 20, 30, 40], 0) + np.random.default_rng(0).normal(size=(100, 2))*.1
    np.save(folder/'checkpoints/0001/z.npy', z)
    (folder/'checkpoints/0001/state.json').write_text('{}')
    (folder/'config.json').write_text(json.dumps(dict(version=1, N=100, options={})))
    return folder

@pytest.mark.parametrize('words, why', [
    ('--keep 0,1', '--kmeans_k (how many groups) and --keep (which of them) go together'),
    ('--kmeans_k 4', '--kmeans_k (how many groups) and --keep (which of them) go together'),
    ('--kmeans_k 4 --keep 0,4', '--keep names groups from 0 to 3, such as 0,3; found 4'),
    ('--kmeans_k 4 --keep x', 'found x'),
    ('--kmeans_k 101 --keep 0', 'k lies between 1 and the number of particles, 100; found 101'),
    ('--max_zscore -9', 'no particle is left: loosen the selection'),
    ('--min_agreement .5', 'has no agreement')])
def test_select_says_what_is_wrong(words, why, run, capsys):
    status, got = said(capsys, f'select {run} {run}/keep.txt {words}')
    assert status == 1 and got.startswith('drgnbook select: ') and why in got and not (run/'keep.txt').exists()

def test_select_out(run, capsys):
    "As in every other command; the old form, without the word, still works; one file is named, not two and not none; only select has an old form"
    words = f'select {run} --kmeans_k 4 --keep 0,2'
    for line in (f'{words} --out {run}/a.txt', words.replace(f'{run} ', f'{run} {run}/b.txt ')): assert said(capsys, line)[0] == 0
    assert (run/'a.txt').read_text() == (run/'b.txt').read_text() != ''
    for line, why in ((words, 'where to? Name the file: --out'), (f'{words} {run}/c.txt --out {run}/d.txt', 'unrecognized arguments'), (f'{words} {run}/c.txt {run}/d.txt', 'unrecognized arguments'), (f'{words} --keeep 1', 'unrecognized'), (f'analyse {run} {run}/c', 'unrecognized')):
        status, got = said(capsys, line)
        assert status and why in got and not list(run.glob('[cd]*.txt')), got

def test_out_everywhere(capsys):
    "Each command that writes to a place of one's choice calls it --out"
    for name in set(COMMANDS) - {'resume'}: assert '--out' in said(capsys, f'{name} --help')[1], name

def test_fit_words_arrive(monkeypatch, tmp_path):
    "Whatever fit has as a parameter is an option, also one that it will get; a path arrives as text"
    from drgnbook.particles import Particles
    module, got = import_module('drgnbook.fit'), {}
    real = module.fit
    def fit(ps, zdim: int = 8, z='subspace', pose: str = 'given', symmetry: str = 'C1', reach: float|None = None, halves: bool = False, mask=None, where: str|None = None, out=None): got.update(locals()); del got['got']
    monkeypatch.setattr(module, 'fit', fit)
    monkeypatch.setattr(Particles, 'read', lambda path, **kw: path)
    assert main('fit x.star --pose refine --symmetry D7 --reach 12.5 --halves --mask m.mrc --zdim 4 --out r'.split()) == 0
    assert got == dict(ps='x.star', zdim=4, z='subspace', pose='refine', symmetry='D7', reach=12.5, halves=True, mask='m.mrc', where='here', out='r')
    assert {'pose', 'symmetry', 'reach'} <= set(inspect.signature(real).parameters)

def test_select(run, capsys):
    "The groups asked for, and the others"
    for words in ('', '--invert'): assert said(capsys, f'select {run} {run}/keep{words}.txt --kmeans_k 4 --keep 0,2 {words}')[0] == 0
    kept, others = (set(np.loadtxt(run/f'keep{w}.txt', int)) for w in ('', '--invert'))
    groups = [set(range(*r)) for r in ((0, 10), (10, 30), (30, 60), (60, 100))]
    assert sum(g <= kept for g in groups) == 2 and kept | others == set(range(100)) and not kept & others

def test_select_of_the_whole_file(tmp_path, capsys):
    "From a run of smaller images, the selection of the images that they were made from, by name and by cryoSPARC's uid"
    ps = simulate(n=60, D=32, snr=.5, junk=0., out=tmp_path/'set')
    star = ps.md.path
    ps.write(tmp_path/'set/all.cs')
    for whole in (star, tmp_path/'set/all.cs'):
        some = Particles.read(whole)[np.arange(60)[::-2].copy()]
        run = tmp_path/f'run{whole.suffix}'
        fit(some.downsample(16, tmp_path/f'small{whole.suffix}.mrcs'), zdim=1, width=8, z=np.arange(30.)[:, None].astype('f4'), epochs=1, out=run, where='here', device='cpu')
        np.savetxt(tmp_path/'ind.txt', [3, 7], fmt='%d')
        out = tmp_path/f'set/kept{whole.suffix}'
        status, words = said(capsys, f'select {run} {out} --ind {tmp_path}/ind.txt --of {whole}')
        assert status == 0 and 'images of 32 px' in words, words
        assert np.array_equal(Particles.read(out).images([0, 1]), some.images([3, 7]))
    assert 'are not in' in said(capsys, f'select {run} {out} --ind {tmp_path}/ind.txt --of {tmp_path}/set/kept.cs')[1]
