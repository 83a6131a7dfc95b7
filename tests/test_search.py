"Poses from nothing and poses improved, and what a search says when there is nothing to find."
import importlib, warnings, weakref
from dataclasses import replace
import numpy as np, pandas as pd, pytest, torch
from drgnbook.hopf import shift_grid
from drgnbook.pose import Pose, angle_between, flip_poses, point_group, pose_error, random_rotations, rotvec_to_R
from drgnbook.metadata import MetadataError
from drgnbook.particles import Particles
from drgnbook.volume import Volume
from drgnbook.assembly import large_subunit
from drgnbook.simulate import random_views, read_truth, simulate
from drgnbook.reconstruct import reconstruct
from drgnbook.fourier import Lattice
from drgnbook.ctf import ctf_params
from drgnbook.forward import Blobs
from drgnbook.data import Data, load_data
from drgnbook.search import look, room, turned
from drgnbook.abinitio import NothingFound, Oriented, abinitio, check_search, refine_poses, unseen
from drgnbook.fit import fit

def module(name):
    "A module whose own name in the package may be that of its function"
    return importlib.import_module(f'drgnbook.{name}')


@pytest.fixture(scope='module')
def particles(tmp_path_factory):
    "1,000 images of 32 px of one state, far above the noise."
    sub = large_subunit()
    return simulate({'E': sub.volume(sub.states[0], 32, sub.box/32)}, n=1000, D=32, snr=.5, junk=0., out=tmp_path_factory.mktemp('set')/'set')

@pytest.fixture(scope='module')
def real(shared, tmp_path_factory):
    "2,000 images of 64 px of a real map."
    return simulate({'E': Volume.load(shared/'empiar10076/maps/vol_386.mrc', apix=6.55)}, n=2000, D=64, snr=.1, junk=0., out=tmp_path_factory.mktemp('real')/'set')

@pytest.fixture(scope='module')
def found(real): return abinitio(real)


@pytest.mark.slow
def test_from_nothing(real, found):
    "Poses up to a turn and the hand; halves that agree; a map; a history"
    deg, far = pose_error(real.pose, found.pose)
    assert deg.median() < 1.5 and (deg < 20).float().mean() > .9 and far.median() < .4*real.apix
    assert found.agreement > .4 and list(found.history.how) == 4*['search'] + 2*['polish']
    assert found.history.turn.iloc[-1] < found.history.turn.iloc[0] and 'hand' in repr(found)
    assert .3 < float(found.spread.median()/deg.median()) < 3

@pytest.mark.slow
def test_both_hands_are_as_good(real, found):
    "The mirrored poses give the mirrored map, and the same error"
    rec = reconstruct(real.with_poses(flip_poses(found.pose)))
    assert found.reconstruction.volume.flip().fsc(rec.volume)[1:10].min() > .95
    one, other = (pose_error(real.pose, p)[0].median() for p in (found.pose, flip_poses(found.pose)))
    assert abs(float(one - other)) < .2

@pytest.mark.slow
def test_noise_is_not_a_particle(tmp_path):
    "Pure noise: it says that it found nothing"
    ps = simulate({'none': Volume(torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0)), 10.)}, n=300, D=32, snr=1e-8, junk=0., out=tmp_path/'noise')
    with pytest.raises(NothingFound, match='nothing was found'): abinitio(ps, starts=1)

@pytest.mark.parametrize('D', [32, 128])
def test_a_look_holds_its_rings_only(monkeypatch, D):
    "Of many images the first coefficients stay, and nothing behind them; all coefficients are held of a few at a time, in any box"
    held, most, lattice, N = [], [], Lattice(D, 4.), 3000
    def read(i):
        pairs = (i.flip(0)[:, None, None] + torch.arange(2*len(lattice)).view(-1, 2) % 97).half()
        held.append(weakref.ref(pairs)); most.append(sum(p().nbytes for p in held if p() is not None))
        return pairs, torch.arange(len(i)).flip(0)
    data = Data(lattice, read, ctf_params(dfu=torch.full((N,), 1e4)), torch.ones(N), torch.ones(len(lattice)))
    plain = data.images(torch.arange(100))
    held.clear(); most.clear(); monkeypatch.setattr(module('search'), 'room', lambda device: 2**21)
    v = look(data, torch.arange(N), 10., data.weight)
    assert v.f.untyped_storage().nbytes() == N*8*len(v.w) and v.ctf.shape == v.f.shape == (N, lattice.upto(4*D/10))
    assert len(most) > 3 and max(most) <= 2**21
    assert torch.equal(v.f[:100], plain[:, :v.f.shape[1]]) and torch.equal(look(data, torch.arange(100), 2*D, data.weight).f, plain)

def test_room(monkeypatch):
    "On a card batches are as large as an eighth of what is free there; on a processor as always"
    asked = []
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: asked.append(device) or (4*2**30, 11*2**30))
    assert room('cuda:1') == room(torch.device('cuda', 1)) == 2**29 and room('cpu') == 2**27 and len(asked) == 2

def test_many_shifts_small_batches(particles, monkeypatch):
    "Four times the reach has sixteen times the shifts: there is no more room for it, so fewer images go at once"
    search, batches = module('abinitio'), []
    inner = search.reorient
    monkeypatch.setattr(search, 'reorient', lambda v, how, finder, *args: batches.append((len(v), len(finder.T))) or inner(v, 'polish', finder, *args))
    data, map, w = load_data(particles), large_subunit().volume(large_subunit().states[0], 32, particles.apix), torch.ones(len(Lattice(32)))
    for reach in (3., 12.): search.sweep(data, map, w, particles.pose, 'search', 10., shift_grid(reach*particles.apix, particles.apix))
    assert all(8*b*T*4608 <= 2**27 for b, T in batches) and batches[0][0] > 4*batches[-1][0]

@pytest.mark.slow
def test_symmetry(tmp_path):
    "Four equal parts around an axis: poses up to that symmetry, a map that has it"
    gen, group = torch.Generator().manual_seed(0), point_group('C4')
    part = torch.randn(25, 3, generator=gen)*torch.tensor([16., 16., 28.]) + torch.tensor([50., 0., 0.])
    four = Blobs(torch.cat([part @ S.T for S in group]), (torch.rand(25, generator=gen) + .3).repeat(4), 8.).to_volume(32, 8.)
    ps = simulate({'four': four}, n=1000, D=32, snr=.5, junk=0., out=tmp_path/'four')
    found = abinitio(ps, symmetry='C4')
    deg, far = pose_error(ps.pose, found.pose, 'C4')
    assert deg.median() < 2 and (deg < 20).float().mean() > .9 and far.median() < .4*ps.apix and found.agreement > .6
    assert pose_error(ps.pose, found.pose)[0].median() > 30          # which of the four it is nobody can know
    map = found.reconstruction.volume.data[1:, 1:, 1:]               # its centre is a voxel
    assert torch.corrcoef(torch.stack([map.flatten(), map.rot90(1, (1, 2)).flatten()]))[0, 1] > .95

@pytest.mark.slow
def test_images_of_one_view(tmp_path, monkeypatch):
    "A real search in images of one side, however turned in their plane: no map is handed out, though two halves may agree (of three seeds one did; here what is asked for is lowered)"
    psi = torch.tensor(rotvec_to_R(np.c_[np.zeros((500, 2)), np.linspace(0, 360, 500)])).float()
    monkeypatch.setattr(module('simulate'), 'random_views', lambda *_, **__: psi @ random_rotations(1, torch.Generator().manual_seed(0)))
    sub = large_subunit()
    ps = simulate({'E': sub.volume(sub.states[0], 32, sub.box/32)}, n=500, D=32, snr=.5, junk=0., out=tmp_path/'one')
    assert unseen(ps.pose.R) > .75
    monkeypatch.setattr(module('abinitio'), 'AGREE', .3)
    with pytest.raises(NothingFound, match='nearly the same view'): abinitio(ps)

class Ended(Exception): "Somebody stops a search."

def stops(at):
    "What a search tells ends it there."
    def tell(words):
        if words.startswith(at): raise Ended
    return tell

def same(a, b):
    "Two searches that found the same, to the bit; only their times differ"
    poses = torch.equal(a.pose.R, b.pose.R) and torch.equal(a.pose.t, b.pose.t) and torch.equal(a.spread, b.spread)
    return poses and a.history.drop(columns='seconds').equals(b.history.drop(columns='seconds')) and torch.equal(a.reconstruction.volume.data, b.reconstruction.volume.data)

def test_rounds_are_kept(particles, tmp_path, monkeypatch):
    "Stopped after the first round, and in the third: it goes on after the last whole round, to the same end"
    few, how = particles[:200], []
    off = few.with_poses(Pose(few.pose.R, few.pose.t + few.apix))
    whole = refine_poses(off)
    search, sweep = module('abinitio'), module('abinitio').sweep
    monkeypatch.setattr(search, 'sweep', lambda *args: how.append(args[4]) or sweep(*args))
    for at in ('round 2 of 6', 'round 3 of 6'):          # as they begin
        with pytest.raises(Ended): refine_poses(off, tell=stops(at), keep=tmp_path/'kept.safetensors')
    assert same(whole, refine_poses(off, keep=tmp_path/'kept.safetensors'))
    assert how == 5*['around'] + 3*['polish']          # the second and the third had begun before

@pytest.mark.slow
def test_a_search_from_nothing_is_kept(particles, tmp_path):
    "A second start has the maps from noise behind it, and finds the same"
    whole, told = abinitio(particles, starts=1), []
    with pytest.raises(Ended): abinitio(particles, starts=1, tell=stops('round 2 of 6'), keep=tmp_path/'kept.safetensors')
    found = abinitio(particles, starts=1, tell=told.append, keep=tmp_path/'kept.safetensors')
    assert same(whole, found) and found.agreement == whole.agreement and told[0].startswith('round 2 of 6')

def test_one_view(particles, tmp_path):
    "All images from one side, however turned in their plane"
    psi = torch.tensor(rotvec_to_R(np.c_[np.zeros((500, 2)), np.linspace(0, 360, 500)])).float()
    assert unseen(psi @ random_rotations(1)) > .75 and unseen(random_rotations(500)) == 0

def test_few_views():
    "One view whose poses noise has tilted is refused; a cone of views is worth a warning; uniform and preferred ones are not"
    check, gen = module('abinitio')._seen_from_all_sides, torch.Generator().manual_seed(0)
    about = lambda deg: Pose(turned(torch.tensor(rotvec_to_R(np.c_[np.zeros((500, 2)), np.linspace(0, 360, 500)])).float(), torch.randn(500, 3, generator=gen)*np.deg2rad(deg)/2**.5), torch.zeros(500, 2))
    with pytest.raises(NothingFound, match='nearly the same view'): check(about(17.), point_group('C1'))
    with pytest.warns(UserWarning, match='hardly ever seen'): check(about(26.), point_group('C1'))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for views in ('uniform', 'preferred'): check(Pose(random_views(500, views, gen=gen), torch.zeros(500, 2)), point_group('C1'))

def test_too_few(particles):
    with pytest.raises(ValueError, match='50 particles or more, found 49'): abinitio(particles[:49])

def test_no_such_symmetry(particles):
    with pytest.raises(ValueError, match='a symmetry is'): abinitio(particles, symmetry='Q3')

def test_reach_makes_sense(particles):
    with pytest.raises(ValueError, match='half of the box'): check_search(particles, 1e4)

@pytest.mark.parametrize('columns, what', [(['dfu'], 'no CTF'), (['apix'], 'no pixel size')])
def test_what_is_missing(particles, columns, what):
    "A search needs CTF and pixel size, and no poses"
    ps = replace(particles, md=replace(particles.md, table=particles.table.drop(columns=columns)))
    with pytest.raises(MetadataError, match=what): abinitio(ps)

def test_shifts_beyond_the_search(particles):
    "Particles further off than was tried are noticed"
    away = particles.with_poses(Pose(particles.pose.R, torch.zeros(len(particles), 2)))
    with pytest.warns(UserWarning, match='border of the shifts'): refine_poses(away, reach=particles.D*particles.apix/24)

def test_refined(particles):
    "Poses that are off by 5° and 1.5 px get better, and say how sure they are"
    gen, true = torch.Generator().manual_seed(0), particles.pose
    turn = torch.tensor(rotvec_to_R(torch.nn.functional.normalize(torch.randn(len(true), 3, generator=gen), dim=-1).numpy()*5)).float()
    off = Pose(turn @ true.R, true.t + torch.randn(len(true), 2, generator=gen)*particles.apix)
    better = refine_poses(particles.with_poses(off))
    before, after = (pose_error(true, p) for p in (off, better.pose))
    assert after[0].median() < before[0].median()/1.5 and after[1].median() < before[1].median()/2

@pytest.mark.slow
def test_fit_without_poses(real, tmp_path):
    "The loop is the same; the file needs no poses; found ones are written, and a second start does not search again"
    bare = replace(real, md=replace(real.md, table=real.table.drop(columns=['rx', 'ry', 'rz', 'tx', 'ty'])))
    run = fit(bare, zdim=0, pose='search', epochs=1, width=32, depth=1, out=tmp_path/'run', where='here', device='cpu')
    assert pose_error(real.pose, run.pose)[0].median() < 1.5
    before = (tmp_path/'run'/'found.npy').stat().st_mtime_ns
    run.resume(epochs=2, where='here')
    assert (tmp_path/'run'/'found.npy').stat().st_mtime_ns == before and len(run.history) == 2

def test_fit_refines(particles, tmp_path):
    "Given poses are refined before the loop; found ones are written, with the rounds; with z too"
    off = Pose(particles.pose.R, particles.pose.t + particles.apix)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*names its images')                       # of found.star, whose place nobody chose
        run = fit(particles.with_poses(off), zdim=2, pose='refine', epochs=1, width=32, depth=1, out=tmp_path/'run', where='here', device='cpu')
    assert pose_error(particles.pose, run.pose)[1].median() < .3*particles.apix and run.z.shape == (len(particles), 2)
    assert angle_between(Particles.read(tmp_path/'run'/'found.star', datadir=particles.where[0]).pose.R, run.pose.R).max() < .1
    assert {'changed', 'turn', 'search_res'} <= set(run.search) and len(run.search) == 6 and run.searched['agreement'] is None
    assert 'refined before: map' in repr(run) and 'hand' not in repr(run)          # theirs is that of the poses given

def test_a_search_stops_and_begins_again(particles, tmp_path, monkeypatch):
    "Asked to stop in its second batch: it looks at no third, leaves nothing half-written, and the next start finds the poses"
    from drgnbook.run import Run
    search, batches, folder = module('abinitio'), [], tmp_path/'run'
    inner = search.reorient
    def asking(*args):
        batches.append(1)
        if len(batches) == 2: Run.load(folder).ask('stop')
        return inner(*args)
    monkeypatch.setattr(search, 'reorient', asking)
    off = Pose(particles.pose.R, particles.pose.t + particles.apix)
    run = fit(particles.with_poses(off), zdim=0, pose='refine', epochs=1, width=32, depth=1, out=folder, where='here', device='cpu')
    assert len(batches) == 2 and run.state.startswith('stopped') and not run.training and not run.checkpoints
    assert not {p.name for p in folder.iterdir()} & {'found.npy', 'found.star', 'spread.npy', 'search.csv'} and not run.asked('stop')
    run.resume(where='here')
    assert len(batches) > 40 and pose_error(particles.pose, run.pose)[1].median() < .3*particles.apix and len(run.history) == 1

def test_a_run_stops_after_a_round(particles, tmp_path, monkeypatch):
    "Asked to stop in the second round of its search: the first is not searched again, and the end is that of a run that was not stopped"
    from drgnbook.run import Run
    search, how, folder, inner = module('abinitio'), [], tmp_path/'run', module('abinitio').sweep
    def asking(*args):
        how.append(args[4])
        if len(how) == 2: Run.load(folder).ask('stop')
        return inner(*args)
    few = particles[:200]
    off = few.with_poses(Pose(few.pose.R, few.pose.t + few.apix))
    quick = dict(zdim=0, pose='refine', epochs=1, width=32, depth=1, where='here', device='cpu')
    whole = fit(off, out=tmp_path/'whole', **quick)
    monkeypatch.setattr(search, 'sweep', asking)
    run = fit(off, out=folder, **quick)
    assert run.state.startswith('stopped') and (folder/'search.safetensors').exists() and not len(run.search)
    run.resume(where='here')
    assert how == 4*['around'] + 3*['polish'] and not (folder/'search.safetensors').exists()
    assert torch.equal(run.pose.R, whole.pose.R) and torch.equal(run.pose.t, whole.pose.t) and run.search.drop(columns='seconds').equals(whole.search.drop(columns='seconds'))

def found_by_chance(monkeypatch, pose, **more):
    "In place of a search from nothing: it finds these poses, and counts how often it was asked"
    asked = []
    def search(ps, *args, **kw):
        asked.append(kw)
        return replace(Oriented(pose, torch.ones(len(ps)), pd.DataFrame(dict(round=[1], changed=[.5], turn=[2.], search_res=[20.])), reconstruct(ps.with_poses(pose)), .87, .02), **more)
    monkeypatch.setattr(module('train'), 'abinitio', search)
    return asked

def test_a_run_says_what_was_found(particles, tmp_path, monkeypatch):
    "How far two halves agreed, the resolution, the rounds; that the hand is undetermined; shifts at the border if they are many"
    found_by_chance(monkeypatch, particles.pose)
    quick = dict(zdim=0, pose='search', epochs=1, width=32, depth=1, where='here', device='cpu')
    run = fit(particles, out=tmp_path/'run', **dict(quick, pose='search+table'))
    assert 0 < (run.pose.R - particles.pose.R).abs().max() < .2          # and the gradient goes on from there
    assert run.searched['agreement'] == .87 and run.searched['border'] == .02 and run.search.changed.tolist() == [.5]
    for said in (repr(run), run._repr_html_()): assert 'halves agree to 87%' in said and f'{run.searched["resolution"]:.3g} Å' in said and 'the hand is undetermined: volume.flip() gives the other' in said and 'at the border' not in said
    found_by_chance(monkeypatch, particles.pose, border=.4)
    assert '40% of the shifts at the border' in repr(fit(particles, out=tmp_path/'rim', **quick))

def test_poses_found_for_cs_are_a_cs(particles, tmp_path, monkeypatch):
    "Particles from cryoSPARC come back as cryoSPARC has them, rotation vectors turned the other way; our reader sees the same, shifts too"
    few = particles[:100]
    few.write(tmp_path/'few.cs')
    found_by_chance(monkeypatch, Pose(random_rotations(100, torch.Generator().manual_seed(0)), few.pose.t + few.apix))
    run = fit(Particles.read(tmp_path/'few.cs', datadir=few.where[0]), zdim=0, pose='search', epochs=1, width=16, depth=1, out=tmp_path/'run', where='here', device='cpu')
    raw = np.load(tmp_path/'run'/'found.cs', allow_pickle=False)
    again = Particles.read(tmp_path/'run'/'found.cs', datadir=run.config['where'][1], root=run.config['where'][0])
    assert angle_between(again.pose.R, run.pose.R).max() < .1 and (again.pose.t - run.pose.t).abs().max() < 1e-3
    assert angle_between(torch.tensor(rotvec_to_R(-np.degrees(raw['alignments3D/pose']))).float(), run.pose.R).max() < .1

@pytest.mark.slow
def test_what_was_found_goes_on_by_gradient(tmp_path, monkeypatch):
    "Joint refinement of what a search has left: poses that are off by 4° and half a pixel get better while z is learnt; a stop in between searches nothing again"
    gen, unit = torch.Generator().manual_seed(0), lambda x: torch.nn.functional.normalize(x, dim=-1)
    xyz = torch.cat([torch.randn(40, 3, generator=gen)*22, torch.tensor([75., 30., 0.]) + torch.randn(12, 3, generator=gen)*7])
    with_arm = lambda a: Blobs(xyz, torch.cat([torch.ones(40), torch.full((12,), a)]), 9.).to_volume(32, 8.)
    ps = simulate({'without': with_arm(0.), 'with': with_arm(1.)}, n=1000, D=32, snr=1., junk=0., out=tmp_path/'set')
    turn = torch.tensor(rotvec_to_R(unit(torch.randn(len(ps), 3, generator=gen)).numpy()*4)).float()
    off = Pose(turn @ ps.pose.R, ps.pose.t + unit(torch.randn(len(ps), 2, generator=gen))*ps.apix/2)
    asked, Trainer = found_by_chance(monkeypatch, off), module('train').Trainer
    step = Trainer.step
    def stopping(self, *batch):
        if (self.state['epoch'], self.state['step']) == (4, 20): self.stop.append(True)
        return step(self, *batch)
    monkeypatch.setattr(Trainer, 'step', stopping)
    run = fit(ps, zdim=2, z='encoder', pose='search+table', grow=2., epochs=10, width=64, encoder_width=64, sample=.3, lr=4e-3, out=tmp_path/'run', where='here', device='cpu')
    assert run.state.startswith('stopped in epoch 5') and np.allclose(np.load(tmp_path/'run'/'found.npy')[:, 9:], off.t)
    monkeypatch.undo()
    run.resume(where='here')
    assert len(asked) == 1 and run.state.startswith('finished') and 'hand' in repr(run)
    deg, far = (x/y.clamp(min=1e-6) for x, y in zip(map(torch.median, pose_error(ps.pose, run.pose)), map(torch.median, pose_error(ps.pose, off))))
    state = (read_truth(tmp_path/'set').state == 'with').to_numpy()
    z1 = np.c_[run.z, np.ones(len(ps))]
    told = ((z1 @ np.linalg.lstsq(z1, state.astype(float), rcond=None)[0] > .5) == state).mean()
    assert deg < .92 and far < .75 and told > .9

@pytest.mark.parametrize('pose, what', [('refine+table', 'no poses'), ('search+table', 'no CTF'), ('table+search', 'search.table')])
def test_words_of_two_phases(particles, tmp_path, pose, what):
    "Checked like their first word; an unknown pair is refused"
    gone = dict(zip(['refine+table', 'search+table', 'table+search'], [['rx'], ['dfu'], []]))[pose]
    ps = replace(particles, md=replace(particles.md, table=particles.table.drop(columns=gone)))
    with pytest.raises(ValueError, match=what): fit(ps, pose=pose, out=tmp_path/'run', where='here', device='cpu')
    assert not (tmp_path/'run').exists()
