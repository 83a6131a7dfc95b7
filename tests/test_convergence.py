"Convergence: the places that matter are found, known moves are measured, a verdict says what a table shows, and a snapshot survives what happens to files."
import subprocess, sys

import numpy as np
import pandas as pd
import pytest
import torch

from drgnbook.convergence import _anchors, _flat, compare_maps, convergence, latent_shift, map_change, representatives, snapshot, snapshots, verdict
from drgnbook.metadata import write_json
from drgnbook.run import Run, RunError
from drgnbook.simulate import simulate
from drgnbook.fit import fit
from drgnbook.volume import Volume

QUICK = dict(zdim=2, z='encoder', batch_size=16, width=16, depth=1, encoder_width=16, encoder_depth=1, sample=.2, lr=3e-3)


@pytest.fixture(scope='module')
def ps(tmp_path_factory): return simulate(n=60, D=16, snr=1., junk=0., out=tmp_path_factory.mktemp('convergence')/'set')

@pytest.fixture(scope='module')
def trained(ps, tmp_path_factory): return fit(ps, epochs=4, out=tmp_path_factory.mktemp('convergence')/'run', **QUICK)

@pytest.fixture
def run(trained, tmp_path):
    "A copy of the run that a test may spoil"
    from shutil import copytree, ignore_patterns
    return Run.load(copytree(trained.folder, tmp_path/'run', ignore=ignore_patterns('monitor', 'convergence')), 'cpu')

def same(a, b): return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=True) and type(a[k]) is type(b[k]) for k in a)


# Representatives

def test_ten_gaussians():
    "The ten largest of eleven groups are found, largest first, each at its centre"
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(np.arange(4)*8., np.arange(3)*8.), -1).reshape(-1, 2)[:11]
    sizes = np.r_[np.arange(1000, 0, -100), 20]
    xy = np.repeat(centres, sizes, 0) + rng.normal(size=(sizes.sum(), 2))*.4
    z = np.column_stack([xy, rng.normal(size=(len(xy), 3))])
    shuffled = rng.permutation(len(xy))
    found = representatives(xy[shuffled], z[shuffled])
    assert len(found) == 10 and np.abs(xy[shuffled][found] - centres[:10]).max() < .8
    assert np.linalg.norm(z[shuffled][found, 2:], axis=1).max() < 1      # at the median of z, not anywhere in the bins

@pytest.mark.parametrize('xy, n', [(np.zeros((1, 2)), 1), (np.full((40, 2), 7.), 1), (np.array([[0, 0], [1, 1.]]), 2), (np.stack([np.arange(9), np.zeros(9)], 1), 9), (np.random.default_rng(0).normal(size=(30, 2)), 10)], ids='one equal two line few'.split())
def test_thin_pictures(xy, n):
    found = representatives(xy)
    assert len(found) == n == len(set(found)) and found.max() < len(xy)

def test_representatives_of_one_column():
    "zdim=1: the picture has a flat second axis"
    z = np.repeat([0., 5.], [30, 20])[:, None] + np.random.default_rng(0).normal(size=(50, 1))*.01
    assert np.allclose(z[representatives(np.pad(z, ((0, 0), (0, 1))), z, n=2), 0], [0, 5], atol=.02)

def test_points_say_what_is_wrong():
    z = np.zeros((5, 2)); z[3] = np.nan
    with pytest.raises(ValueError, match='1 of 5 particles have no finite coordinates, the first is 3'): representatives(z)
    with pytest.raises(ValueError, match='a row a particle'): representatives(z[:0])
    with pytest.raises(ValueError, match='epochs of one run'): latent_shift(z[:2], z[:3])


# Shifts

def test_shift_of_a_rotation():
    a, angle = np.random.default_rng(0).normal(size=(500, 2)), .3
    s = latent_shift(a, a @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]))
    r = np.linalg.norm(a, axis=1)
    assert np.allclose(s.cosine, np.cos(angle)) and np.allclose(s.length, 2*r*np.sin(angle/2)) and np.allclose(s.dot, r**2*np.cos(angle))
    assert s.moved == pytest.approx(np.median(s.length)/np.sqrt((r**2).mean()), rel=.01)

@pytest.mark.parametrize('a, b, moved', [([[0., 0]], [[3., 4]], 1.), ([[1., 1]]*9, [[1., 1]]*9, 0.), ([[0., 0]]*4, [[0., 0]]*4, 0.)], ids='one equal zero'.split())
def test_shift_of_no_cloud(a, b, moved):
    "No division by nothing: one particle, particles that are all alike"
    s = latent_shift(np.array(a), np.array(b))
    assert s.moved == moved and np.isfinite(s.cosine).all() and ('does not change at all' in repr(s)) == (moved == 0)


# Maps

def noise(seed, D=32): return Volume(torch.randn(D, D, D, generator=torch.Generator().manual_seed(seed)), 2.).lowpass(5.)

def test_maps_that_change_beyond():
    "What is replaced beyond 16 Å (shell 8 of a box of 128 Å) is reported as changing beyond it, within the two shells that a ball mixes; the rest as standing"
    def spoilt(s): return noise(s, 64).lowpass(16., 1.) + (noise(s + 50, 64) - noise(s + 50, 64).lowpass(16., 1.))
    whole = compare_maps([noise(s, 64) for s in range(4)], [spoilt(s) for s in range(4)])
    assert 128/9 < whole.beyond() < 128/6 and 128/9 < whole.beyond(apart=True) < 128/6 and whole.fsc[:, 1:6].min() > .9 and abs(whole.nyquist).max() < .3

def test_only_what_is_apart_changes():
    "The same large map in all, small differences drawn anew: whole maps agree, what sets them apart does not"
    base = noise(9)
    c = compare_maps([base + noise(s)*.05 for s in range(5)], [base + noise(s + 20)*.05 for s in range(5)])
    assert c.beyond() == 0 and np.isinf(c.beyond(apart=True)) and c.correlation.min() > .98

@pytest.mark.parametrize('v', [Volume(torch.zeros(16, 16, 16), 2.), Volume(torch.ones(16, 16, 16), 2.)], ids=['empty', 'constant'])
def test_maps_with_nothing_in_them(v):
    c = compare_maps([v, v], [v, v])
    assert np.isfinite(c.correlation).all() and np.isfinite(c.fsc).all() and not np.isnan(c.beyond())

@pytest.mark.parametrize('before, after', [(2, 1), (1, 2), (0, 0)])
def test_maps_without_a_partner(before, after):
    with pytest.raises(ValueError, match=f'found {before} before and {after} after'): compare_maps([noise(0)]*before, [noise(0)]*after)

def test_one_map_is_not_apart(): assert np.isnan(compare_maps([noise(0)], [noise(1)]).beyond(apart=True)) and compare_maps([noise(0)], [noise(0)]).beyond() == 0


# The verdict

def made(moved, change, apart=None):
    "Lines of a table, from epoch 1, whose numbers are those of the step to an epoch"
    apart = apart if apart is not None else [0.]*len(moved)
    return [dict(epoch=i + 1, before=i, moved=m, change=c, apart=a, finest=8.) for i, (m, c, a) in enumerate(zip(moved, change, apart, strict=True))]

def curve(loss, lr=None): return pd.DataFrame(dict(epoch=np.arange(len(loss)) + 1, loss=loss, lr=lr if lr is not None else 1e-3))

FALLS = np.r_[2, 1.5, 1.3, 1.2, 1.15, 1.12, 1.11, 1.1]
NAN, INF = float('nan'), float('inf')

@pytest.mark.parametrize('steps, history, said', [
    ([], curve([]), 'too early to say: no epochs'),
    (made([NAN], [NAN]), curve(FALLS[:1]), 'too early to say: 1 epoch'),
    (made([NAN, .01], [NAN, 0]), curve(FALLS[:2]), 'too early to say: 2 epochs'),
    (made([NAN, 1, .5, .3, .05, .04, .03, .02], [NAN, INF, 40, 30, 20, 12, 9, 8.4]), curve(FALLS), 'z settled since epoch 5; maps still change beyond 8.4 Å'),
    (made([NAN, 1, .5, .05, .3, .04, .03, .02], [NAN, INF, 40, 30, 20, 0, 0, 0]), curve(FALLS), 'z settled since epoch 6; maps settled since epoch 6, as far as 8 Å can show'),
    (made([NAN, 1, .5, .3, .3, .3, .3, .02], [NAN, INF, 40, 30, 20, 20, 20, 0]), curve(FALLS), 'z still moves, by 2% of the radius of its cloud; maps did not change in the last epoch'),
    (made([NAN, *[0.]*7], [NAN, *[0.]*7], [NAN, *[25.]*7]), curve(FALLS), 'z was found before the first epoch and stays; what sets the maps apart still changes beyond 25 Å'),
    (made([NAN]*8, [NAN, *[INF]*7], [NAN]*8), curve(FALLS), 'maps still change at every resolution'),
    (made([NAN, *[.5]*5, .01, .01], [NAN, *[20.]*7]), curve(FALLS, [1e-3]*6 + [5e-5, 1e-5]), 'z settled since epoch 7; maps still change beyond 20 Å; the learning rate was down to 5% of its highest by epoch 7: only a longer run can tell whether they have arrived'),
    (made([NAN, *[.5]*7], [NAN, *[20.]*7]), curve([1.5, 1.2, 1.1, 1.12, 1.2, 1.6, 1.9, 2.2]), 'z still moves, by 50% of the radius of its cloud; maps still change beyond 20 Å; the loss rises since epoch 3, from 1.1000 to 2.2000: a lower lr may help'),
    (made([NAN, *[.5]*7], [NAN, *[20.]*7]), curve([1.5, 1.2, NAN, NAN, NAN, NAN, NAN, NAN]), 'the loss is not a number since epoch 3: go back to an epoch before it, and take a lower lr'),
    (made([NAN, *[.5]*7], [NAN, *[20.]*7]), curve([1.5, 1.2, 1.10, 1.12, 1.09, 1.11, 1.10, 1.12]), 'z still moves, by 50% of the radius of its cloud; maps still change beyond 20 Å'),
], ids='nothing one two example again once known homogeneous rate rising nan scatter'.split())
def test_verdict(steps, history, said): assert verdict(steps[::-1], history) == said


# Snapshots

def test_snapshot_holds(run):
    s, t = snapshot(run, 1), snapshot(run, 4)
    assert (s['before'], t['before'], t['N']) == (0, 3, 60) and np.isnan(s['moved']) and np.isnan(s['change'])
    assert t['maps'].shape == (len(t['particles']), 16, 16, 16) and t['maps'].dtype == np.float16 and 1 <= len(t['particles']) <= 6
    assert t['density'].shape == (96, 96) and 50 < t['density'].sum() <= 60
    z, some = run.at(4).z, t['particles']
    assert np.allclose((z[some] - t['mean']) @ t['axes'].T, t['at']) and np.array_equal(some, s['particles'])
    x, y = t['at'][0]
    l, r, b, u = t['extent']
    assert t['density'][int((y - b)/(u - b)*96), int((x - l)/(r - l)*96)] >= 1      # [y, x]
    c, d = map_change(run, 3, 4, some, 16), latent_shift(run.at(3).z, z)
    assert t['correlation'] == pytest.approx(np.median(c.correlation), abs=1e-3) and t['moved'] == pytest.approx(d.moved) and t['finest'] == 2*t['apix']
    assert (run.folder/'monitor/0004.npz').stat().st_size < 300_000

def test_pictures_do_not_flip():
    "Two axes of almost one width change places: the plain picture turns over, the one laid on the first stays"
    z = np.random.default_rng(0).normal(size=(2000, 3))*[1, .9, .3]
    first, later = _flat(z)[0], z*[.9, 1, 1]
    xy, axes, mean = _flat(later, first)
    assert np.abs(xy - first).max() < .5 < np.abs(_flat(later)[0] - first).max() and np.allclose((later - mean) @ axes.T, xy)

@pytest.mark.parametrize('spoil', [lambda b: b'', lambda b: b'nonsense', lambda b: b[:len(b)//2], lambda b: b[:3000] + bytes(200) + b[3200:]], ids='empty nonsense half holes'.split())
def test_broken_cache(run, spoil):
    good = snapshot(run, 3)
    path = run.folder/'monitor/0003.npz'
    path.write_bytes(spoil(path.read_bytes()))
    assert same(snapshot(run, 3), good) and same(snapshot(run, 3), good) and not [p for p in path.parent.iterdir() if p.name.endswith('.npz') and p.name[0] == '.']

def test_cache_of_another_checkpoint(run):
    "A checkpoint that was written again has a snapshot of its own; one that was pruned keeps what was seen of it"
    import os
    from shutil import rmtree
    old = snapshot(run, 4)
    np.save(run.folder/'checkpoints/0004/z.npy', run.at(3).z)
    os.utime(run.folder/'checkpoints/0004/state.json')
    assert old['moved'] > 0 == snapshot(run, 4)['moved']
    rmtree(run.folder/'checkpoints/0004')
    assert [s['epoch'] for s in snapshots(run)] == [1, 2, 3] and snapshot(run, 4)['moved'] == 0        # 4 lies beyond the run as it is now
    rmtree(run.folder/'checkpoints/0002')
    assert [s['epoch'] for s in snapshots(run)] == [1, 2, 3]

MAKE = "import sys; from drgnbook.run import Run; from drgnbook.convergence import snapshot; r = Run.load(sys.argv[1], 'cpu'); [snapshot(r, e) for e in r.epochs]; print(*sorted(p.name for p in (r.folder/'monitor').glob('*.npz')))"

def test_two_processes(run, trained):
    "Two at once, and a third elsewhere, make the same"
    two = [subprocess.Popen([sys.executable, '-c', MAKE, str(run.folder)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    here = snapshots(trained)
    assert [p.communicate()[0].split() for p in two] == [[f'000{e}.npz' for e in (1, 2, 3, 4)]]*2 and [p.returncode for p in two] == [0, 0]
    there = snapshots(run)
    assert all(same({**a, 'stamp': 0}, {**b, 'stamp': 0}) for a, b in zip(here, there, strict=True))

def test_a_run_that_is_not_mine(run, monkeypatch):
    "A folder that cannot be written in, or a full disk: the snapshot is there, the cache is not"
    (run.folder/'monitor').write_text('in the way')
    assert len(snapshots(run)) == 4 and (run.folder/'monitor').read_text() == 'in the way'
    (run.folder/'monitor').unlink()
    def full(*_, **__): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(np, 'savez', full)
    assert snapshot(run, 2)['epoch'] == 2 and [p.name for p in (run.folder/'monitor').iterdir()] == ['.lock']

def test_compared_with_what_stays(run):
    "With keep_every=2 epoch 4 is compared with 2, not with 3, which will go; frame and particles are those of 2"
    assert [_anchors(run, e) for e in (1, 2, 4)] == [(1, 0), (1, 1), (1, 3)]
    write_json(run.folder/'config.json', dict(run.config, options=dict(run.options, keep_every=2)))
    assert [_anchors(run, e) for e in (1, 2, 3, 4)] == [(1, 0), (2, 0), (2, 2), (2, 2)]
    assert snapshot(run, 4)['before'] == 2


# Bad input

def test_nothing_yet(run):
    from shutil import rmtree
    with pytest.raises(RunError, match='nothing of epoch 9'): snapshot(run, 9)
    rmtree(run.folder/'checkpoints')
    assert snapshots(run) == [] and verdict([], run.history[:0]) == 'too early to say: no epochs'
    with pytest.raises(RunError, match='nothing of epoch 1, but of none'): snapshot(run, 1)
    with pytest.raises(RunError, match='no checkpoint yet'): convergence(run)
    (run.folder/'checkpoints/0000-000005').mkdir(parents=True)
    (run.folder/'checkpoints/0000-000005/state.json').write_text('{}')
    with pytest.raises(RunError, match='has not finished its first epoch'): convergence(run)

def test_z_that_is_no_number(run):
    z = run.at(3).z; z[5] = np.nan
    np.save(run.folder/'checkpoints/0003/z.npy', z)
    with pytest.raises(ValueError, match='z of epoch 3: 1 of 60 particles have no finite coordinates, the first is 5'): snapshot(run, 3)
    with pytest.raises(ValueError, match='z of epoch 3: 1 of 60'): convergence(run, umaps=0)

@pytest.mark.parametrize('words', [dict(zdim=0), dict(zdim=1), dict(N=1)], ids='homogeneous line one'.split())
def test_small_worlds(ps, tmp_path, words):
    run = fit(ps[:words.get('N', 20)], epochs=3, out=tmp_path/'run', **{**QUICK, 'zdim': words.get('zdim', 2)})
    seen, found = snapshots(run), convergence(run, umaps=0)
    assert 'maps' in verdict(seen, run.history) and ('z s' in verdict(seen, run.history)) == (words != dict(zdim=0)) and 'maps' in found.verdict
    assert np.isnan(seen[2]['moved']) == (words == dict(zdim=0)) and seen[2]['maps'].shape[1:] == (16, 16, 16) and len(found.show().axes) == 4


# Afterwards

def test_one_epoch(run):
    found = convergence(run.at(1), umaps=0)
    assert found.verdict == 'too early to say: 1 epoch' and len(found.table) == 1 and len(found.show().axes) == 4

def test_every(run):
    "Each second epoch, the last among them, is compared with the one two before"
    found = convergence(run, every=2, umaps=0, D=16)
    assert found.table.epoch.tolist() == [2, 4] and found.table.before.tolist() == [0, 2]
    c = map_change(run, 2, 4, found.particles, 16)
    assert found.table.correlation[1] == pytest.approx(np.median(c.correlation)) and np.allclose(found.fsc[4], np.median(c.fsc, 0), atol=1e-5)
    assert found.table.loss.tolist() == pytest.approx(run.history.loss[[1, 3]].tolist())

def test_pictures_once_where_z_stays(run, monkeypatch, tmp_path):
    "UMAPs start from the one before, of a sample, and are not made again for the same z"
    module = sys.modules['drgnbook.convergence']
    calls = []
    def fake(z, previous=None, seed=0): calls.append(previous); return z[:, :2]
    monkeypatch.setattr(module, 'umap', fake)
    found = convergence(run, umaps=3, most=25)
    assert list(found.umaps) == [1, 2, 4] or list(found.umaps) == [1, 3, 4]
    assert len(found.sample) == 25 and set(found.particles) <= set(found.sample) and calls[0] is None and np.array_equal(calls[2], found.umaps[list(found.umaps)[1]])
    saved = found.save(tmp_path/'signs')
    with np.load(saved/'umaps.npz') as f: assert np.array_equal(f['epoch_0004'], found.umaps[4]) and np.array_equal(f['particles'], found.particles)
    assert pd.read_csv(saved/'convergence.csv').shape == found.table.shape and (saved/'verdict.txt').read_text() == found.verdict + '\n' and len(found.show().axes) == 7
    for e in (1, 2, 3): np.save(run.folder/f'checkpoints/000{e}/z.npy', run.z)
    calls.clear()
    assert len(convergence(run, umaps=4).umaps) == 4 and len(calls) == 1
