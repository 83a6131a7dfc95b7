"Out to the world: group files, ChimeraX scripts, films, tables, a report; and in from it: work directories of cryoDRGN."
import pickle, shutil, subprocess, sys, zipfile
from html.parser import HTMLParser
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from cryosparc.dataset import Dataset

from drgnbook.cryodrgn import load_weights, read_cryodrgn_log, write_cryodrgn
from drgnbook.cs import Cs
from drgnbook.explore import explore
from drgnbook.export import export_maps, export_path, report
from drgnbook.fit import fit
from drgnbook.foreign import CryodrgnRun
from drgnbook.landscape import analyse, kept_umap
from drgnbook.metadata import MetadataError
from drgnbook.particles import Particles
from drgnbook.paths import direct_path
from drgnbook.run import Run, RunError
from drgnbook.simulate import simulate
from drgnbook.star import Star, read_star
from drgnbook.surface import write_movie
from drgnbook.volume import Volume


@pytest.fixture(scope='module')
def ps(tmp_path_factory): return simulate(n=120, D=32, snr=.5, junk=0., out=tmp_path_factory.mktemp('exported')/'set')

@pytest.fixture(scope='module')
def run(ps, tmp_path_factory): return fit(ps, zdim=2, epochs=2, width=32, out=tmp_path_factory.mktemp('runs')/'a run', where='here')

@pytest.fixture(autouse=True)
def quick(monkeypatch):
    "A map that is there at once: UMAP has tests of its own, and takes long to begin"
    monkeypatch.setattr('drgnbook.landscape.umap', lambda z, **_: z[:, :2]**3)

def everything(folder): return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in Path(folder).rglob('*')}


# Metadata

def test_group_file(ps, tmp_path):
    "cryoSPARC's group names the table beside it, each kind of field once, and how many particles; of a selection too."
    for keep, name in ((slice(None), 'all'), (np.arange(120) % 3 == 0, 'third')):
        path = ps[keep].write(tmp_path/f'{name}.cs')
        group, cs = yaml.safe_load((tmp_path/f'{name}.csg').read_text()), Cs.read(path)
        kinds = {f.split('/')[0] for f in cs.array.dtype.names} - {'uid'}
        assert group['group']['type'] == 'particle' and set(group['results']) == kinds >= {'blob', 'ctf', 'alignments3D'}
        assert all(r == dict(metafile=f'>{name}.cs', num_items=len(ps[keep]), type=f'particle.{k}') for k, r in group['results'].items())
    assert len(Particles.read(tmp_path/'third.cs', datadir=ps.where[0])) == 40

def test_cryosparcs_own_reader(ps, tmp_path):
    "cryoSPARC's library reads what we write, value by value; and we read what it writes"
    some = ps[np.arange(120)[::-3].copy()]
    theirs, ours = Dataset.load(some.write(tmp_path/'some.cs')), Cs.read(tmp_path/'some.cs').array
    assert len(theirs) == len(set(theirs['uid'])) == 40 and {f.split('/')[0] for f in theirs.fields()} >= {'uid', 'blob', 'ctf', 'alignments3D'}
    for f in theirs.fields(): assert np.array_equal(theirs[f].astype(str), ours[f].astype(str)) if theirs[f].dtype == object else np.array_equal(theirs[f], ours[f]), f
    theirs.save(tmp_path/'back.cs')
    back = Particles.read(tmp_path/'back.cs', datadir=ps.where[0])
    assert torch.allclose(back.pose.R, some.pose.R, atol=1e-5) and torch.allclose(back.pose.t, some.pose.t, atol=1e-4) and torch.equal(back.images([3]), some.images([3]))

def test_group_of_a_real_table(shared, tmp_path):
    "A table of cryoSPARC's own, written back: every kind of field that it has is in the group."
    cs = Cs.read(shared/'golden/cryosparc_P12_J24_001_particles.cs'); cs.write(tmp_path/'back.cs')
    results = yaml.safe_load((tmp_path/'back.csg').read_text())['results']
    assert set(results) == {f.split('/')[0] for f in cs.array.dtype.names if '/' in f} and results['blob']['num_items'] == len(cs)

def test_new_star_speaks_relion(ps, shared, tmp_path):
    "Every column of a star file written anew is one that a file of RELION 3.1 has in the same block, or a half-set; all that its optics groups need is there."
    ps.md.source and Star.new(ps.table, box=32).write(tmp_path/'new.star')
    blocks, real = read_star(tmp_path/'new.star'), [read_star(shared/'real'/n) for n in ('relion31.star', 'sample_particles_relion31.star')]
    words = {b: set().union(*(set(r[b]) for r in real if b in r)) for b in ('optics', 'particles')}
    assert set(blocks['particles']) - words['particles'] <= {'rlnRandomSubset', 'rlnPhaseShift', 'rlnMicrographName', 'rlnOriginXAngst', 'rlnOriginYAngst'}, set(blocks['particles']) - words['particles']
    assert {'rlnOpticsGroup', 'rlnOpticsGroupName', 'rlnImagePixelSize', 'rlnImageSize', 'rlnImageDimensionality', 'rlnVoltage', 'rlnSphericalAberration', 'rlnAmplitudeContrast'} == set(blocks['optics']) & words['optics']


# Maps, scripts, films

def test_scripts_find_their_maps(run, tmp_path):
    "All files that a script opens are there, by names relative to it: also after the folder was moved, and with spaces."
    export_path(run, direct_path(run.z, [3, 50], 3), tmp_path/'my walk', movie=None)
    moved = shutil.move(tmp_path/'my walk', tmp_path/'moved here')
    scripts = sorted(Path(moved).glob('*.cxc'))
    assert [p.stem for p in scripts] == [f'path_{s}' for s in ('beside', 'film', 'morph', 'series')] and not list(Path(moved).glob('*.gif'))
    for s in scripts:
        names = [n for line in s.read_text().splitlines() if line.startswith('open') for n in line.split('"')[1::2]]
        assert len(names) == 3 and all(not Path(n).is_absolute() and (s.parent/n).exists() for n in names)
        assert 'None' not in s.read_text() and 'nan' not in s.read_text()
    text = (Path(moved)/'path_film.cxc').read_text().splitlines()
    assert text[-4:-1] == ['movie record supersample 3', 'volume morph #1-3 frames 40 playStep 0.025', 'wait 40'] and text[-1] == 'movie encode "path_chimerax.mp4" framerate 25'

def test_maps_are_where_they_belong(run, tmp_path):
    "Voxel size and origin in the header, the density of the run in the file; one point is a walk too."
    done = export_path(run, run.z[7], tmp_path, D=16)
    with mrcfile.open(done[0]) as m:
        assert np.allclose([m.voxel_size.x, m.voxel_size.z], 2*run.config['apix'], rtol=1e-5) and m.header.origin.tolist() == (0, 0, 0) and m.header.nxstart == 0
        assert np.allclose(m.data, run.volume(run.z[7], 16).data, atol=1e-5)
    assert [p.name for p in done] == ['path_00.mrc', 'path_beside.cxc', 'path.gif', 'path.csv'] and list(pd.read_csv(done[-1])) == ['map', 'z1', 'z2']

def test_shorter_walk_leaves_no_map_of_a_longer(run, tmp_path):
    "Nor a script that plays maps that are gone; files of other names stay"
    export_path(run, direct_path(run.z, [3, 50], 12), tmp_path/'a', movie=None, D=16)
    for n in ('path_1.mrc', 'path_best.mrc', 'map_11.mrc', 'pathway_11.mrc'): (tmp_path/'a'/n).touch()
    for m in (11, 1):
        export_path(run, run.z[:m], tmp_path/'a', movie=None, D=16); export_path(run, run.z[:m], tmp_path/str(m), movie=None, D=16)
        assert set(everything(tmp_path/'a')) == set(everything(tmp_path/str(m))) | {'path_1.mrc', 'path_best.mrc', 'map_11.mrc', 'pathway_11.mrc'}

@pytest.mark.parametrize('kind', ['.mp4', '.webm'])
def test_films(kind, tmp_path):
    "What is played back is what was written: frames, size (odd sides made even), colours, transparency on white."
    av = pytest.importorskip('av')          # make test installs it
    colours = np.eye(3)[[0, 1, 2, 0]]*.8
    film = [np.concatenate([np.broadcast_to(np.append(c, 1.), (41, 20, 4)), np.zeros((41, 21, 4))], 1) for c in colours]
    write_movie(film, tmp_path/f'a film{kind}', fps=5)
    with av.open(str(tmp_path/f'a film{kind}')) as f: frames = [x.to_ndarray(format='rgb24') for x in f.decode(video=0)]
    assert len(frames) == 4 and frames[0].shape == (42, 42, 3)
    for x, c in zip(frames, colours): assert abs(x[20, 8]/255. - c).max() < .12 and x[20, 36].min() > 235

def test_no_pyav(tmp_path, monkeypatch):
    "Without PyAV an mp4 says what to install, before anything is drawn; a gif needs nothing."
    monkeypatch.setitem(sys.modules, 'av', None)
    def never(): raise AssertionError('drawn'); yield
    with pytest.raises(ImportError, match=r'pip install drgnbook\[movie\]'): write_movie(never(), tmp_path/'a.mp4')
    assert write_movie([np.ones((8, 8, 3))]*2, tmp_path/'a.gif').exists() and [p.name for p in tmp_path.iterdir()] == ['a.gif']

def test_nothing_half_written(run, tmp_path):
    "A film that cannot be made is refused before there is a map."
    never = (1/0 for _ in range(2))
    with pytest.raises(ValueError, match='gif'): export_maps(never, tmp_path, movie='.avi')
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match='zdim is 2'): export_path(run, np.zeros((2, 5)), tmp_path/'x')
    with pytest.raises(ValueError, match='a movie is'): export_path(run, np.zeros((2, 2)), tmp_path/'x', movie='.avi')
    assert not (tmp_path/'x').exists()

@pytest.mark.parametrize('wrong, error', [(dict(colour='bleu'), 'bleu'), (dict(px=0), 'px=0'), (dict(fps=1e-9), 'found fps=1e-09'), ({}, 'while drawing')], ids=['colour', 'size', 'speed', 'drawing'])
def test_a_walk_is_of_one_call(run, tmp_path, monkeypatch, wrong, error):
    "Maps, film and table: whatever goes wrong with the next walk, those of this one are there, whole"
    export_path(run, run.z[:3], tmp_path, D=16, px=64, colour='steelblue')
    before = everything(tmp_path)
    if not wrong: monkeypatch.setattr('drgnbook.export.surface', lambda *_, **__: (_ for _ in ()).throw(RuntimeError('while drawing')))
    with pytest.raises(Exception, match=error): export_path(run, run.z[10:13], tmp_path, **{'D': 16, 'px': 64, **wrong})
    assert everything(tmp_path) == before
    assert np.allclose(pd.read_csv(tmp_path/'path.csv')[['z1', 'z2']], run.z[:3], atol=1e-6)

def test_maps_of_a_series_fit_each_other(tmp_path):
    "A colour each, one box, and any level, 0 too"
    a, b = (Volume(torch.rand(D, D, D) - .5, 1.) for D in (8, 12))
    with pytest.raises(ValueError, match='1 colours'): export_maps([a, a], tmp_path, colours=['#ff0000'])
    with pytest.raises(ValueError, match='the volumes differ'): export_maps([a, b], tmp_path)
    with pytest.raises(ValueError, match='map 1 holds'): export_maps([a, a*float('nan')], tmp_path)
    assert not list(tmp_path.iterdir())
    export_maps([a, a, a], tmp_path, movie='.gif', px=32)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match='the volumes differ'): export_maps([a*2., a, b], tmp_path)          # the series of before stays as it was
    with pytest.raises(ValueError, match='fps=0'): export_maps([a, a], tmp_path, movie='.gif', fps=0)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    export_maps([a, a], tmp_path, level=0.)
    assert not (tmp_path/'map.gif').exists()          # it was of other maps
    assert 'level 0\n' in (tmp_path/'map_series.cxc').read_text() or 'level 0 ' in (tmp_path/'map_series.cxc').read_text()


# Every particle

def test_table(run, tmp_path):
    "UMAP and losses are in once they have been made; then the file holds every column of the particles, and numbers that come back."
    t = run.table(k=3, keep=np.arange(120) < 5)
    assert not {'umap1', 'loss'} & set(t) and set(run.particles.table) < set(t) and t.keep.sum() == 5
    back = pd.read_csv(run.save_csv(tmp_path/'all.csv', k=3, make=True), index_col='particle')
    assert {'umap1', 'umap2', 'loss', 'z1', 'PC2', 'kmeans', 'zscore', 'agreement'} <= set(back) and np.allclose(back[['z1', 'z2']], run.z, atol=1e-5)
    assert np.array_equal(run.table(k=3).loss, run.losses()) and list(tmp_path.iterdir()) == [tmp_path/'all.csv']

def test_losses(run):
    "The mean is that of the history; each epoch has its own; what was made is read, not made again."
    now, first = run.losses(), run.at(1).losses()
    assert now.shape == (120,) and abs(now.mean() - run.history.data.iloc[-1]) < .05 and not np.allclose(now, first)
    path = run.checkpoints[-1]/'loss.npy'
    was = path.read_bytes(); np.save(path, now + 1)
    assert np.allclose(run.losses(), now + 1); path.write_bytes(was)
    some = run.losses(sample=.2)
    assert np.corrcoef(now, some)[0, 1] > .4 and not np.allclose(now, some) and np.array_equal(np.load(path), now)


# The report

class Seen(HTMLParser):
    "Tags, addresses and words of a page."
    def __init__(self, page): super().__init__(); self.tags, self.links, self.words = [], [], []; self.feed(page)
    def handle_starttag(self, tag, attrs): self.tags.append(tag); self.links += [v for k, v in attrs if k in ('src', 'href')]
    def handle_data(self, data): self.words.append(data)

def test_report(run, tmp_path, browser):
    "Stands alone: pictures inside, nothing asked for, no script, what comes from outside escaped; a browser has nothing to complain of."
    from browser import Watched
    odd = Run.load(shutil.copytree(run.folder, tmp_path/'<i>run & co'))
    page = report(odd, tmp_path/'r.html', k=3, selections={'<script>alert(1)</script>': np.arange(120) < 9, 'none': np.zeros(120, bool)})
    seen = Seen(page.read_text())
    assert 'script' not in seen.tags and 'i' not in seen.tags and '<script>alert(1)</script>' in seen.words and '<i>run & co' in seen.words
    assert all(s.startswith('data:image/png;base64,') for s in seen.links) and len(seen.links) == 2 + 3 + 3 and '9 of 120 particles (7.5%)' in seen.words and torch.__version__ in seen.words
    w = Watched(browser); w.page.goto(page.as_uri())
    assert w.page.evaluate('[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)'); w.clean(); w.page.close()

def test_report_of_one_map(ps, tmp_path):
    "zdim=0 has no landscape, but a map."
    homo = fit(ps, zdim=0, epochs=1, width=16, depth=1, out=tmp_path/'homo', where='here')
    seen = Seen(report(homo, tmp_path/'r.html').read_text())
    assert len(seen.links) == 2 and 'the map' in seen.words


# Work directories of cryoDRGN

def network(D=32, zdim=2, width=12, seed=0):
    "Weights under cryoDRGN's names: Gaussian encoding, one residual layer."
    g = torch.Generator().manual_seed(seed)
    r = lambda *s: torch.randn(s, generator=g)/s[-1]**.5
    return {'encoder.main.0.weight': r(4, 9), 'decoder.rand_freqs': r(3*(D//2), 3), 'decoder.decoder.main.0.weight': r(width, 6*(D//2) + zdim), 'decoder.decoder.main.0.bias': r(width),
            'decoder.decoder.main.2.linear.weight': r(width, width), 'decoder.decoder.main.2.linear.bias': r(width), 'decoder.decoder.main.4.weight': r(2, width), 'decoder.decoder.main.4.bias': r(2)}

@pytest.fixture
def work(ps, tmp_path):
    "As train_vae leaves it: two epochs."
    poses, ctf = write_cryodrgn(tmp_path, ps.md, 32)
    shutil.copy(Path(ps.where[0])/ps.table['stack'][0], tmp_path/'particles.mrcs')
    (folder := tmp_path/'vae').mkdir()
    config = dict(dataset_args=dict(particles=str(tmp_path/'particles.mrcs'), ctf=str(ctf), poses=str(poses), ind=None, datadir=None, invert_data=True, norm=[0., 30.]), lattice_args=dict(D=33, extent=.5, ignore_DC=True),
                  model_args=dict(activation='relu', domain='fourier', pe_type='gaussian', pe_dim=None, players=1, qdim=4, zdim=2), seed=0, version='4.3.1')
    (folder/'config.yaml').write_text(yaml.safe_dump(config))
    for e in (1, 2):
        (folder/f'z.{e}.pkl').write_bytes(pickle.dumps(z(e)) + pickle.dumps(z(0)))
        torch.save(dict(epoch=e, model_state_dict=network(seed=e), optimizer_state_dict=dict(state={0: dict(step=torch.tensor(1.))})), folder/f'weights.{e}.pkl')
    (folder/'run.log').write_text(''.join(f'# [Train Epoch: {e}/2] [1/120]\n# =====> Epoch: {e} Average gen loss = {.6/e}, KLD = 2, total loss = {.7/e}; Finished in 0:00:0{e}.5\n' for e in (1, 2)))
    return folder

def z(seed, n=120): return np.random.default_rng(seed).normal(size=(n, 2)).astype('f4')
def set_config(work, **changed):
    c = yaml.safe_load((work/'config.yaml').read_text())
    (work/'config.yaml').write_text(yaml.safe_dump({k: {**v, **changed.get(k, {})} if isinstance(v, dict) else v for k, v in c.items()}))

def test_opened_as_ours(work, ps):
    "z, poses, particles, history, maps and epochs; analyses go beside the folder, and it is not touched."
    import drgnbook.evidence
    before = everything(work)
    run = Run.load(work, 'cpu')
    assert isinstance(run, CryodrgnRun) and np.array_equal(run.z, z(2)) and np.array_equal(run.at(1).z, z(1)) and run.history.epoch.tolist() == [1, 2] and np.isclose(run.history.data[0], .6)
    assert (run.pose.R - ps.pose.R).abs().max() < 1e-5 and (run.particles.pose.t - ps.pose.t).abs().max() < 1e-3 and abs(run.config['apix'] - ps.apix) < 1e-4 and torch.equal(run.particles.images([5]), ps.images([5]))
    assert run.volume(run.z[0]).D == 32 and not torch.equal(run.volume(run.z[0]).data, run.at(1).volume(run.z[0]).data) and '2 of 2 epochs' in run.state and str(work) in repr(run)
    xy = kept_umap(run.z, run)
    assert np.array_equal(kept_umap(run.z, Run.load(work), make=False), xy) and (work.parent/'vae.drgnbook/analysis/umap.npz').exists()
    ex = explore(run); ex.work.wait(); ex.selected = slice(9); ex.work.wait()
    assert ex.said == '' and {'images', 'views', 'density'} == set(ex.has) and 'loss' not in ex.known.have and ex.density['D'] == 32
    assert run.evidence(run.z[0]).volume.D == 32 and 'z1' in run.table(k=3) and everything(work) == before

@pytest.mark.parametrize('how', ['another activation', 'no weights'])
def test_analysis_without_maps(work, ps, tmp_path, how):
    "Of an old training whose decoder is not known, or gone, all is had but its maps: those of the particles too"
    import drgnbook.evidence, drgnbook.halves
    if how == 'no weights': [p.unlink() for p in work.glob('weights.*')]
    else: set_config(work, model_args=dict(activation='leaky_relu'))
    run = Run.load(work, 'cpu')
    found = analyse(run, k=3)
    out = work.parent/'vae.drgnbook/analysis'
    assert not run.mapped and found.volumes == [] and len(found.labels) == 120 and (out/'umap.png').exists() and not list(out.glob('*.mrc')) and run.at(1).z.shape == (120, 2)
    e = run.evidence(run.z[0])
    assert e.decoder is e.against is e.agreement is None and e.volume.D == 32 and 'decoder' not in repr(e) and e.show() is not None
    assert 'maps of this run cannot be had' in report(run, tmp_path/'run.html', selections={'some': np.arange(120) < 9}).read_text() and 'z1' in run.table(make=True)
    ex = explore(run); ex.work.wait(); ex.selected = slice(9); ex.work.wait()
    assert ex.said == '' and {'images', 'views'} == set(ex.has)
    with pytest.raises(ValueError, match='no density'): ex.view()
    with pytest.raises(RunError, match='maps cannot'): run.volume(run.z[0])
    with pytest.raises(RunError, match='another program'): run.place(ps)

def test_the_end_has_no_number(work):
    "`weights.pkl` and `z.pkl` are of the last epoch, which --checkpoint may not have numbered; those of a training that was taken up again are of an earlier one, and broken ones of none"
    def end(epoch):
        torch.save(dict(epoch=epoch, model_state_dict=network(seed=9)), work/'weights.pkl')
        (work/'z.pkl').write_bytes(pickle.dumps(z(9)))
    end(5)
    run = Run.load(work)
    assert run.epochs == [1, 2, 5] and np.array_equal(run.z, z(9)) and np.array_equal(run.at(2).z, z(2)) and not torch.equal(run.volume(z(9)[0]).data, run.at(2).volume(z(9)[0]).data)
    for earlier in (1, 2, None):
        end(earlier)
        assert run.epochs == [1, 2] and np.array_equal(run.z, z(2))
    (work/'weights.pkl').write_bytes(b'cut')
    assert run.epochs == [1, 2] and np.array_equal(run.z, z(2)) and run.volume(z(9)[0]).D == 32
    end(2)
    for p in [*work.glob('weights.?.pkl'), *work.glob('z.?.pkl')]: p.unlink()
    assert run.epochs == [2] and np.array_equal(run.z, z(9))

def test_also_without_the_star(work):
    "Analysis from the shell opens them too."
    said = subprocess.run([sys.executable, '-c', f'from drgnbook.landscape import analyse\nfrom drgnbook.run import Run\nprint(type(Run.load({str(work)!r})).__name__)'], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == 'CryodrgnRun'

def test_selected_particles(work, ps):
    "An index file selects images, poses and CTFs; z has a row for each that is left."
    keep = np.arange(0, 120, 3)
    (work.parent/'ind.pkl').write_bytes(pickle.dumps(keep))
    for e in (1, 2): (work/f'z.{e}.pkl').write_bytes(pickle.dumps(z(e, 40)))
    set_config(work, dataset_args=dict(ind=str(work.parent/'ind.pkl')))
    run = Run.load(work)
    assert run.config['N'] == len(run.particles) == len(run.pose) == 40 and np.allclose(run.particles.table.dfu, ps[keep].table.dfu) and (run.pose.R - ps.pose.R[keep]).abs().max() < 1e-5
    (work.parent/'ind.pkl').unlink()
    lost = Run.load(work)
    assert len(lost.z) == 40 and len(lost.history) == 2 and str(work) in repr(lost)
    for what in ('pose', 'particles'):
        with pytest.raises(FileNotFoundError, match='selection.*no longer at.*ind.pkl'): getattr(lost, what)

def test_poses_that_were_learnt(work, ps):
    "With pose SGD each epoch has its own poses."
    R, t = ps.pose.R.numpy(), np.full((120, 2), .25)
    (work/'pose.2.pkl').write_bytes(pickle.dumps((R[::-1].copy(), t)))
    set_config(work, dataset_args=dict(do_pose_sgd=True))
    run = Run.load(work)
    assert torch.equal(run.pose.R, ps.pose.R.flip(0)) and np.allclose(run.pose.t, .25*32*ps.apix, rtol=1e-4)

def test_old_config(work):
    "Before version 1 the config was a pickle; it is read by the same safe reader."
    c = yaml.safe_load((work/'config.yaml').read_text()); (work/'config.yaml').unlink()
    (work/'config.pkl').write_bytes(pickle.dumps({**c, 'dataset_args': dict(c['dataset_args'], norm=[np.float32(0), np.float64(30)])}))
    assert Run.load(work).volume(z(2)[0]).data.isfinite().all()

def test_homogeneous(work):
    "train_nn leaves weights and no z."
    for p in work.glob('z.*'): p.unlink()
    for e in (1, 2): torch.save(dict(model_state_dict={k.replace('decoder.decoder.', 'decoder.'): v for k, v in network(zdim=0).items()}), work/f'weights.{e}.pkl')
    set_config(work, model_args=dict(zdim=0))
    run = Run.load(work)
    assert run.z.shape == (120, 0) and run.volume().D == 32

def test_what_is_gone(work):
    "Each thing that is missing or broken is a sentence; the rest is had."
    for n in ('particles.mrcs', 'poses.pkl', 'ctf.pkl'): (work.parent/n).rename(work.parent/f'old_{n}')
    with pytest.warns(UserWarning, match='1 Å is assumed'): run = Run.load(work); assert run.config['apix'] == 1.
    with pytest.raises(FileNotFoundError, match='particles'): run.particles
    with pytest.raises(FileNotFoundError, match='poses'): run.pose
    assert len(run.z) == 120 and run.volume(run.z[0]).D == 32
    (work/'weights.2.pkl').write_bytes(b'PK broken')
    with pytest.raises(RunError, match='maps cannot'): run.volume(run.z[0])
    with pytest.raises(RunError, match='not trained on'): run.resume()
    with pytest.raises(RunError, match='no loss'): run.losses()
    (work/'z.2.pkl').write_bytes(pickle.dumps(print))
    with pytest.raises(MetadataError, match='builtin'): run.z
    set_config(work, model_args=dict(activation='leaky_relu'))
    with pytest.raises(RunError, match='leaky_relu'): Run.load(work).at(1).decoder


# Weights are read, never run

class Bomb:
    def __reduce__(self): return (Path.touch, (Path('boom'),))

def repacked(src, dst, change):
    "A zip with its members changed."
    with zipfile.ZipFile(src) as a, zipfile.ZipFile(dst, 'w') as b:
        for n in a.namelist(): b.writestr(n, change(n, a.read(n)))
    return dst

def test_weights_as_torch_reads_them(tmp_path):
    "All kinds of numbers, views and shared storage."
    base = torch.arange(24.)
    state = dict(view=base[4:16].reshape(3, 4).T, whole=base, half=torch.randn(3).half(), ints=torch.tensor([1, -2]), flags=torch.tensor([True, False]), one=torch.tensor(3.5), none=torch.zeros(0, 3), param=torch.nn.Parameter(torch.randn(2, 2)))
    torch.save(dict(model_state_dict=state, epoch=1), tmp_path/'w.pkl')
    mine, theirs = load_weights(tmp_path/'w.pkl'), torch.load(tmp_path/'w.pkl', weights_only=True)['model_state_dict']
    assert mine.keys() == theirs.keys() and all(np.array_equal(mine[k], theirs[k].detach().numpy()) and mine[k].dtype == theirs[k].detach().numpy().dtype for k in mine)

def test_evil_weights(tmp_path, monkeypatch):
    "What names a function, reaches beyond its bytes, or is of an old format is refused; nothing runs."
    monkeypatch.chdir(tmp_path)
    torch.save(dict(model_state_dict=dict(a=Bomb())), 'bomb.pkl')
    with pytest.raises(MetadataError, match='getattr'): load_weights('bomb.pkl')          # by which touch is looked up
    torch.save(dict(model_state_dict=dict(a=torch.randn(100))), 'good.pkl')
    short = repacked('good.pkl', 'short.pkl', lambda n, b: b[:40] if n.endswith('data/0') else b)
    with pytest.raises(MetadataError, match='larger than its data'): load_weights(short)
    torch.save(dict(model_state_dict=dict(a=torch.ones(2))), 'old.pkl', _use_new_zipfile_serialization=False)
    with pytest.raises(MetadataError, match='torch 1.6'): load_weights('old.pkl')
    lost = repacked('good.pkl', 'lost.pkl', lambda n, b: b'cos\nsystem\n(S"touch boom"\ntR.' if n.endswith('data.pkl') else b)
    with pytest.raises(MetadataError, match='system'): load_weights(lost)
    assert not Path('boom').exists()

def test_logs(tmp_path):
    "Each program's line, days of training, an epoch that was trained again."
    (tmp_path/'a').write_text('x # =====> Epoch: 1 Average loss = 0.5; Finished in 1 day, 2:03:04.5\n# =====> Epoch: 2 Average gen loss = 0.4, KLD = 1e+01, total loss = 4.1e-1; Finished in 0:01:00\n# =====> Epoch: 2 Average gen loss = 0.3, KLD = 2, total loss = nan; Finished in 0:00:10\n')
    t = read_cryodrgn_log(tmp_path/'a')
    assert t.epoch.tolist() == [1, 2] and t.loss[0] == t.data[0] == .5 and t.data[1] == .3 and np.isnan(t.loss[1]) and t.seconds[1] == 10


def test_maps_one_after_another(run, monkeypatch):
    "However many are asked for, few are held at a time; they are those of `volumes`"
    z, asked, decode = np.random.default_rng(0).normal(size=(35, 2)), [], Run.volumes
    monkeypatch.setattr(Run, 'volumes', lambda self, z=None, D=None: asked.append(len(z)) or decode(self, z, D))
    maps = list(run.stream(z, 16))
    assert asked == [16, 16, 3] and [v.D for v in maps] == [16]*35
    assert torch.allclose(maps[20].data, decode(run, z[20], 16)[0].data, atol=1e-4*float(maps[20].data.abs().max()))
    asked.clear(); next(run.stream(z, 256)); assert asked == [4]

@pytest.mark.filterwarnings('ignore:Mean of empty slice', 'ignore:invalid value')
def test_no_map_of_nobody(run):
    "The mean of an empty selection is no point of the latent space"
    nobody = np.zeros(len(run.z), bool)
    with pytest.raises(ValueError, match='a selection that is empty'): run.volume(run.z[nobody].mean(0))
    with pytest.raises(ValueError, match='was nothing selected'): run.volumes(run.z[nobody])
