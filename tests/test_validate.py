"Scores on cases whose answer is known, and beside the libraries that compute the same."
import os, subprocess, sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from drgnbook.assembly import large_subunit
from drgnbook.fit import fit
from drgnbook.halves import Halves, compare_runs, halves
from drgnbook.particles import Particles
from drgnbook.pose import Pose, align_poses, angle_between, euler_to_R, random_rotations
from drgnbook.reconstruct import halves_of
from drgnbook.run import Run, RunError
from drgnbook.scores import canonical_correlations, coordinate_scores, information_imbalance, label_scores, neighbour_similarity, purity, shared_neighbours
from drgnbook.simulate import read_truth, simulate
from drgnbook.validate import Truth, fsc_area, fsc_ceiling, map_scores, pose_scores, score, truth_of, validate
from drgnbook.volume import Volume, fsc


# Maps

def test_area_is_the_trapezoid_rule():
    "CryoBench: `auc(i/D, fsc)` for i = 0 ... D/2 - 1, and 1 at i = 0"
    from sklearn.metrics import auc
    rng = np.random.default_rng(0)
    for D in (32, 64, 100):
        curve = torch.tensor(rng.uniform(-.2, 1, D//2)).float()
        y = curve.numpy().copy(); y[0] = 1
        assert fsc_area(curve) == pytest.approx(auc(np.arange(D//2)/D, y), abs=1e-6)
        assert fsc_area(torch.ones(D//2)) == pytest.approx(fsc_ceiling(D))
    assert fsc_ceiling(128) == pytest.approx(.4921875)

def band(v, lo, hi):
    "What a volume has in the shells lo <= s < hi"
    return v.filter(lambda k: ((k.round() >= lo) & (k.round() < hi)).float())

@pytest.mark.parametrize('shell', [4, 8, 12])
def test_px_is_the_shell_that_is_lost(shell):
    "Right below a shell, noise from it on: half is crossed between the shell before it and itself"
    gen = torch.Generator().manual_seed(shell)
    a, b = (Volume(torch.randn(32, 32, 32, generator=gen), 3.) for _ in range(2))
    s = map_scores([band(a, 0, shell) + band(b, shell, 99)], [a])
    assert 32/shell <= s.px[0] <= 32/(shell - 1)
    assert s.area[0] == pytest.approx((shell - .5)/32, abs=.03)

def test_mask_is_applied_to_both():
    gen = torch.Generator().manual_seed(0)
    a, b = (Volume(torch.randn(16, 16, 16, generator=gen), 3.) for _ in range(2))
    left = torch.zeros(16, 16, 16); left[..., :8] = 1
    mixed = Volume(a.data*left + b.data*(1 - left), 3.)
    assert map_scores([mixed], [a], left).area[0] == pytest.approx(fsc_ceiling(16), abs=1e-5)
    assert map_scores([mixed], [a]).area[0] < .8*fsc_ceiling(16)
    with pytest.raises(ValueError): map_scores([a, b], [a])


# Labels and coordinates

def test_purity_by_hand():
    assert purity([0, 0, 0, 1, 1], list('aabbb')) == pytest.approx(.8)
    assert purity([0]*5, list('aabbb')) == pytest.approx(.6)

def test_scores_ignore_names_and_order():
    rng = np.random.default_rng(0)
    true, found = rng.integers(0, 5, 500), rng.integers(0, 3, 500)
    p = rng.permutation(500)
    one, two = label_scores(found, true), label_scores(2 - found[p], np.array(list('edcba'))[true[p]])
    assert one == pytest.approx(two)

def test_neighbours_by_brute_force():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(120, 3)), rng.normal(size=(120, 2))
    def near(x, k):
        d = np.linalg.norm(x[:, None] - x, axis=-1); np.fill_diagonal(d, np.inf)
        return d.argsort(1)[:, :k]
    for k in (1, 7, 30):
        brute = np.mean([len({*i} & {*j})/k for i, j in zip(near(a, k), near(b, k))])
        assert neighbour_similarity(a, b, k) == pytest.approx(brute)

def test_many_neighbours_in_little_memory():
    "A twentieth of all particles, as `score` asks for: it was 20 GB of 100,000"
    script = """
import resource, numpy as np
from drgnbook.scores import neighbour_similarity, shared_neighbours
resource.setrlimit(resource.RLIMIT_AS, (int(open('/proc/self/statm').read().split()[0])*4096 + 600*2**20,)*2)
z = np.random.default_rng(0).normal(size=(12_000, 3))
assert shared_neighbours(z, z[:, ::-1], 3000).min() == 1
few, every = (neighbour_similarity(z, z + .3*z[:, ::-1]**2, 600, most=m) for m in (3000, 20_000))
assert abs(few - every) < .03 < every - .05, (few, every)
"""
    subprocess.run([sys.executable, '-c', script], check=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})

def test_neighbours_of_each_particle():
    "Their mean is the similarity; who has gone elsewhere has none in common, who stayed all but that one"
    z = np.random.default_rng(0).normal(size=(200, 2))
    moved = z.copy(); moved[17] = [9, 9]
    each = shared_neighbours(z, moved, 10)
    assert each.shape == (200,) and each.argmin() == 17 and each[17] == 0 and each.mean() == pytest.approx(neighbour_similarity(z, moved, 10)) and (np.delete(each, 17) >= .9).all()

@pytest.mark.parametrize('f', [shared_neighbours, neighbour_similarity, information_imbalance, canonical_correlations, coordinate_scores])
@pytest.mark.parametrize('n', [90, 130])
def test_spaces_of_other_particles(f, n):
    z = np.random.default_rng(0).normal(size=(n, 2))
    with pytest.raises(ValueError, match=f'of the same particles are compared, found {n} and 110: give the rows'): f(z, np.ones((110, 2))*np.arange(110)[:, None])

def test_imbalance_by_brute_force():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(90, 2)), rng.normal(size=(90, 3))
    da, db = (np.linalg.norm(x[:, None] - x, axis=-1) + np.diag([np.inf]*90) for x in (a, b))
    ranks = db.argsort(1).argsort(1) + 1
    assert information_imbalance(a, b)[0] == pytest.approx(2/90*ranks[np.arange(90), da.argmin(1)].mean())
    assert information_imbalance(b, a)[::-1] == information_imbalance(a, b)

def test_imbalance_knows_who_knows_more():
    "y = x² is known from x; x is not known from y, whose nearest has the other sign every second time, with a mean rank of 2N/3"
    x = np.random.default_rng(0).uniform(-1, 1, 1000)
    there, back = information_imbalance(x, x**2)
    assert there < .02 and back == pytest.approx(2/3, abs=.05)

def test_coordinate_beside_regression():
    from sklearn.linear_model import LinearRegression
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 5))
    y = z @ rng.normal(size=5) + 2*rng.normal(size=400)
    assert coordinate_scores(z, y)['linear'] == pytest.approx(LinearRegression().fit(z, y).score(z, y))
    both = coordinate_scores(z, np.column_stack([y, z[:, 0]]))
    assert both.keys() == {'linear', 'local'} and coordinate_scores(z, y)['linear'] < both['linear'] < 1

def test_angles_are_the_same_a_turn_later():
    rng = np.random.default_rng(0)
    t, z = rng.uniform(0, 360, 300), rng.normal(size=(300, 2))
    assert coordinate_scores(z, t, 360) == pytest.approx(coordinate_scores(z, t + 720, 360)) and coordinate_scores(z, t, 360) == pytest.approx(coordinate_scores(z, (t + 77) % 360, 360))

def test_canonical_correlations_beside_scipy():
    from scipy.linalg import subspace_angles
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 3)), rng.normal(size=(200, 2))
    b[:, 0] += a[:, 1]
    assert canonical_correlations(a, b) == pytest.approx(np.cos(np.sort(subspace_angles(a - a.mean(0), b - b.mean(0)))))


# Poses

@pytest.fixture
def true():
    gen = torch.Generator().manual_seed(0)
    return Pose(random_rotations(300, gen), torch.randn(300, 2, generator=gen)*8)

def test_a_global_turn_is_no_error(true):
    G = torch.tensor(euler_to_R([[20., 40., 60.]])[0]).float()
    s = pose_scores(Pose(true.R @ G, true.t), true)
    assert s['rotation mean'] < .05 and s['shift mean'] < 1e-3 and not s['mirrored']
    assert pose_scores(Pose(G @ true.R, true.t), true)['rotation median'] > 20      # a turn of the views is one

def test_rotation_beside_scipy(true):
    "The common rotation as SciPy's `align_vectors` finds it, on all three axes of all views"
    from scipy.spatial.transform import Rotation
    gen = torch.Generator().manual_seed(1)
    wobble = torch.tensor(Rotation.from_rotvec(torch.randn(300, 3, generator=gen).numpy()*3, degrees=True).as_matrix()).float()
    found = wobble @ true.R @ random_rotations(1, gen)[0]
    G = Rotation.align_vectors(found.flatten(0, 1).numpy(), true.R.flatten(0, 1).numpy())[0].as_matrix()      # x G = y in rows is Gᵀ x = y in columns
    mine = align_poses(Pose(found, true.t), true)[0].R
    assert angle_between(mine, true.R @ torch.tensor(G.T).float()).max() < .3

def test_mirrored_poses_show_the_mirror_image(true):
    "What `align_poses` calls the other hand is: views of the flipped map by J R J are those of the map by R"
    from drgnbook.forward import Voxels, render
    from drgnbook.fourier import Lattice
    sub = large_subunit()
    v = sub.volume('E', 32, sub.box/32)
    J = torch.diag(torch.tensor([1., 1., -1.]))
    lat, R = Lattice(32, v.apix), true.R[:5]
    see = lambda v, R: lat.put(render(Voxels(v), lat.freqs, Pose(R, torch.zeros(5, 2))))
    one, other = see(v, R), see(v.flip(), J @ R @ J)
    assert np.corrcoef(one.flatten(), other.flatten())[0, 1] > .999 > .98 > np.corrcoef(one.flatten(), see(v.flip(), R).flatten())[0, 1]
    s = pose_scores(Pose(J @ true.R @ J, true.t), true)
    assert s['mirrored'] and s['rotation mean'] < .05

def test_half_of_the_poses_may_be_anything(true):
    gen = torch.Generator().manual_seed(2)
    R = true.R.clone(); R[:140] = random_rotations(140, gen)
    s = pose_scores(Pose(R, true.t), true)
    assert s['rotation median'] < .05 and 50 < s['rotation mean'] < 70

def test_shifts_off_the_centre(true):
    "A molecule 20 Å off the centre of its box shifts every image by what the view shows of it; that is no error, a real 3 Å is"
    d = torch.tensor([20., -7., 3.])
    t = true.t + true.R[:, :2] @ d
    assert pose_scores(Pose(true.R, t), true)['shift mean'] < 1e-2
    gen = torch.Generator().manual_seed(3)
    off = torch.nn.functional.normalize(torch.randn(300, 2, generator=gen), dim=-1)*3
    assert pose_scores(Pose(true.R, t + off), true)['shift mean'] == pytest.approx(3, abs=.15)

def test_poses_of_other_particles(true):
    with pytest.raises(ValueError, match='5 poses are compared with 300'): pose_scores(true[torch.arange(5)], true)


# A run

SMALL = dict(zdim=2, epochs=1, decoder='basis', device='cpu', where='here')

@pytest.fixture(scope='module')
def two_states(tmp_path_factory):
    "A set of two states with junk, and a run on a part of it, in another order"
    here = tmp_path_factory.mktemp('validate')
    whole = large_subunit()
    BE = [whole.states.index(s) for s in 'BE']
    source = replace(whole, xyz=whole.xyz[20:21], states=tuple('BE'), occupancy=whole.occupancy[BE], proportions=torch.tensor([.5, .5]))
    ps = simulate(source, n=700, D=32, snr=.5, junk=.1, out=here/'set')
    return fit(ps[np.arange(650)[::-1].copy()], out=here/'run', **SMALL), here

def test_truth_follows_the_selection(two_states):
    run, here = two_states
    truth, every = truth_of(run), read_truth(here/'set')
    assert truth.table.state.tolist() == every.state[:650][::-1].tolist()
    assert torch.equal(truth.pose.R, run.particles.pose.R)

def test_table_of_a_run(two_states):
    run, _ = two_states
    t = validate(run, images=5, evidence=2)
    assert list(t.columns) == ['found', 'evidence', 'best'] and t.best.notna().all()
    assert (t.found.dropna() <= t.best[t.found.notna()] + 1e-6)[~t.index[t.found.notna()].str.startswith('px')].all()
    assert t.evidence['FSC area, per conformation, mean'] > .3 and t.found['purity, k-means'] > .8
    assert 'FSC area, 5 images, mean' in t.index and 'FSC area, 2 images, mean' in t.index and not t.index.str.contains('rotation').any()      # given poses are no finding
    with pytest.raises(ValueError, match=r'\(8, 8, 8\).*the maps have \(32, 32, 32\).*resample'): validate(run, images=5, mask=torch.ones(8, 8, 8))

def test_other_truth_is_refused(two_states, tmp_path):
    run, here = two_states
    few = simulate(n=20, D=32, out=tmp_path/'few')
    with pytest.raises(ValueError, match='tells of 20 particles'): validate(run, tmp_path/'few')
    with pytest.raises(FileNotFoundError, match='no truth'): validate(run, tmp_path)
    with pytest.raises(ValueError, match='3 rows of z'): score(run.z[:3], None, truth_of(run))
    assert len(few) == 20

def test_truth_follows_a_smaller_stack(two_states, tmp_path):
    "Of some particles made smaller, in another order, in a file of their own"
    run, here = two_states
    every, some = read_truth(here/'set'), np.flatnonzero(np.random.default_rng(0).random(700) < .3)[::-1].copy()
    small = Particles.read(here/'set/particles.star')[some].downsample(16)
    again = fit(small, out=tmp_path/'run', **SMALL)
    truth = truth_of(again)
    assert truth.table.state.tolist() == every.state[some].tolist() and truth.table.junk.tolist() == every.junk[some].tolist() and torch.equal(truth.pose.R, small.pose.R)
    small.write(here/'set/small.cs')                     # has no names of before
    nameless = fit(Particles.read(here/'set/small.cs'), out=tmp_path/'nameless', **SMALL)
    with pytest.raises(ValueError, match='pass truth='): truth_of(nameless)

def test_runs_of_one_set_in_two_boxes(two_states, tmp_path):
    "The same particles, made smaller: compared, maps too"
    run, here = two_states
    again = fit(run.particles.downsample(16), out=tmp_path/'run', **SMALL)
    t = compare_runs(run, again, q=3)
    assert t['canonical correlation 1'] > .5 and t['maps, area'] > t['maps, area, others']
    with pytest.raises(ValueError, match=r'only in .*run2$'): compare_runs(fit(Particles.read(here/'set/particles.star')[:40], out=tmp_path/'a', **SMALL), fit(Particles.read(here/'set/particles.star')[50:100].downsample(16), out=tmp_path/'run2', **SMALL), q=0)

def test_what_is_no_score_is_said():
    for bad in (lambda: label_scores([], []), lambda: label_scores([1., 2.], [1., float('nan')]), lambda: label_scores(['a', float('nan')], ['x', 'y'])):
        with pytest.raises(ValueError, match='label'): bad()
    z = np.random.default_rng(0).normal(size=(40, 2))
    with pytest.raises(ValueError, match='a coordinate is not finite'): coordinate_scores(z, np.full(40, np.nan), 360)
    with pytest.raises(ValueError, match='period'): coordinate_scores(z, np.arange(40.), 0)
    R = random_rotations(5)
    with pytest.raises(ValueError, match='found 5 and 4'): align_poses(Pose(R, torch.zeros(5, 2)), Pose(R[:4], torch.zeros(4, 2)))

def test_maps_that_cannot_be_scored_are_named(two_states):
    "Where the molecule moves, a particle's map is made from what was simulated; without it only z is scored, and it says so"
    run, _ = two_states
    truth = truth_of(run)
    moving = replace(truth, table=truth.table.assign(coord=np.linspace(0, 1, 650)))
    with pytest.warns(UserWarning, match='source='): t = validate(run, moving, images=5, evidence=2)
    assert not t.index.str.contains('FSC').any()

def test_own_map_of_a_path():
    "A moving particle's true map is at its own coordinate; without the molecule there is none"
    whole = large_subunit()
    table = pd.DataFrame(dict(state=['D', 'D', 'B'], label=[2, 2, 0], coord=[-25., 20., np.nan], junk=False))
    truth = Truth(table, 32, whole.box/32, source=whole)
    assert fsc(truth.map(0), whole.volume('D', 32, whole.box/32, -25.))[1:].min() > .999 > fsc(truth.map(0), truth.map(1))[1:].min()
    with pytest.raises(ValueError, match='pass source='): replace(truth, source=None).map(0)
    assert truth.mapped and not replace(truth, source=None).mapped

def test_halves_share_no_particle(two_states, tmp_path):
    run, _ = two_states
    ps = run.particles
    h = halves(ps, tmp_path/'h', **{k: v for k, v in SMALL.items() if k != 'where'})
    own = [set(r.particles.table['index']) for r in h.runs]
    assert not own[0] & own[1] and own[0] | own[1] == set(ps.table['index'])
    assert (h.half == halves_of(ps).numpy()).all() and h.z.shape == (2, 650, 2) and np.isfinite(h.z).all()
    for k in (0, 1): assert np.array_equal(h.z[k][h.half == k], h.runs[k].z)
    assert h.agreement()['canonical correlation 1'] > .8            # about 0.06 by chance
    t = h.compare(2)
    assert (t['area'] > t['area, others']).all() and t.particles.sum() == 650
    t = h.compare(2, evidence=True)                                  # maps of particles that neither model shares with the other
    assert (t['area'] > t['area, others']).all() and t.notna().all(axis=None)
    assert np.array_equal(Halves.load(tmp_path/'h').half, h.half)
    with pytest.raises(ValueError, match=r'\(8, 8, 8\).*the maps have \(32, 32, 32\).*resample'): h.compare(2, mask=torch.ones(8, 8, 8))
    with pytest.raises(FileExistsError, match='not empty'): halves(ps, tmp_path/'h')
    runs = fit(ps, halves=True, out=tmp_path/'same', **SMALL)         # the same two runs
    same = Halves.load(tmp_path/'same')
    assert np.array_equal(same.half, h.half) and [r.folder for r in runs] == [r.folder for r in same.runs]
    for a, b in zip(h.runs, same.runs): assert np.allclose(a.z, b.z, atol=1e-5) and a.volume(a.z[0]).fsc(b.volume(b.z[0]))[1:].min() > .9999      # to the bit but for where arrays lie in memory
    with pytest.raises(FileNotFoundError, match='no half-sets'): Halves.load(tmp_path)

def test_halves_that_were_stopped(two_states, tmp_path, monkeypatch):
    "Which half a particle is in is known from the first; what is missing is said, and made; nothing is begun that cannot end"
    ps, out = two_states[0].particles, tmp_path/'h'
    monkeypatch.setattr(Run, 'resume', lambda run, **_: run)
    with monkeypatch.context() as m:
        m.setattr(Run, 'state', property(lambda run: 'stopped in epoch 1 of 2'))
        with pytest.raises(RunError, match='half 0 was stopped.*resume'): fit(ps, halves=True, out=out, **SMALL)
        assert sorted(p.name for p in out.iterdir()) == ['half.npy', 'half0']
    with pytest.raises(FileNotFoundError, match=r'half 1 was never begun.*== 1.*half1'): Halves.load(out)
    with pytest.raises(FileExistsError, match=r'Halves.load'): fit(ps, halves=True, out=out, **SMALL)
    fit(ps[np.load(out/'half.npy') == 1], out=out/'half1', **SMALL)
    assert [r.config['N'] for r in Halves.load(out).runs] == [(halves_of(ps) == h).sum() for h in (0, 1)]
    few = ps[np.r_[np.flatnonzero(halves_of(ps) == 0)[:50], np.flatnonzero(halves_of(ps) == 1)[:2]]]
    with pytest.raises(ValueError, match='more than 2 particles, found 2'): fit(few.with_poses(few.pose), halves=True, out=tmp_path/'uneven', **SMALL)
    assert not (tmp_path/'uneven').exists()

def halves_at(a, b):
    "Two models that put the particles at these places"
    h = Halves(Path(), np.arange(len(a)) % 2, ())
    vars(h)['z'] = np.stack([a, b])
    return h

def test_agreement_of_each_particle():
    "1 for the same space turned and stretched, chance for a shuffled one; one that was moved on purpose is last"
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 2)).astype(np.float32)
    turned = z @ np.array([[0, 2], [-2, 0]], np.float32) + 5
    assert np.array_equal(halves_at(z, turned).per_particle(), np.ones(400))
    chance = halves_at(z, rng.permutation(turned)).per_particle()
    assert chance.shape == (400,) and chance.mean() == pytest.approx(.05, abs=.01)
    turned[123] = turned[np.linalg.norm(turned - turned[123], axis=1).argmax()] + .01
    moved = halves_at(z, turned).per_particle(10)
    with pytest.raises(ValueError, match='1 particles have no finite z, the first is 7'): halves_at(np.where(np.arange(400)[:, None] == 7, np.nan, z), turned).match(3)
    with pytest.raises(ValueError, match='found q=0'): halves_at(z, turned).match(0)
    assert moved.argmin() == 123 and moved[123] < .1 and np.delete(moved, 123).min() >= .8

def test_runs_of_the_same_particles(two_states, tmp_path, monkeypatch):
    "In whatever order; of others it says how many, and what to do"
    run, here = two_states
    ps = Particles.read(here/'set/particles.star')          # 700, of which the run has 650, the other way round
    other = fit(ps[:650], out=tmp_path/'other', **{**SMALL, 'zdim': 3})
    t = compare_runs(run, other)
    assert t['canonical correlation 1'] > .9 and t['neighbours in common, of 32'] > .3 and t['maps, area'] > t['maps, area, others'] and t.notna().all()
    same = compare_runs(run, run, q=0)
    assert np.allclose(same[:3], 1) and same['information imbalance, 0 → 1'] < .01 and 'maps, area' not in same
    more = fit(ps[50:], out=tmp_path/'more', **SMALL)          # as many, but not the same
    with pytest.raises(ValueError, match='600 images are in both runs, 50 only in .*run, 50 only in .*more; common=True'): compare_runs(run, more)
    assert compare_runs(run, more, q=2, common=True)['canonical correlation 1'] > .9
    few = fit(ps[650:], out=tmp_path/'few', **SMALL)
    with pytest.raises(ValueError, match='0 images are in both runs, .*a.place'): compare_runs(few, run, common=True)
    with monkeypatch.context() as m:
        m.setattr(Run, 'mapped', False)
        with pytest.raises(RunError, match='q=0 compares the rest'): compare_runs(run, other)
    with pytest.raises(ValueError, match='zdim 0'): compare_runs(run, fit(ps[:650], out=tmp_path/'bare', **{**SMALL, 'zdim': 0}))

def test_halves_take_their_rows_of_a_known_z(two_states, tmp_path):
    run, _ = two_states
    z = np.random.default_rng(0).normal(size=(650, 2)).astype(np.float32)
    for half, r in zip((0, 1), fit(run.particles, z=z, halves=True, out=tmp_path/'known', **SMALL)): assert np.array_equal(r.z, z[halves_of(run.particles).numpy() == half])
    with pytest.raises(ValueError, match='in one half'): fit(run.particles[:1], halves=True, out=tmp_path/'one', **{**SMALL, 'zdim': 0})
    assert not (tmp_path/'one').exists()

def test_place_needs_particles_of_the_same_kind(two_states, tmp_path):
    run, _ = two_states
    with pytest.raises(ValueError, match='downsample to the same'): run.place(simulate(n=20, D=16, out=tmp_path/'small'))
