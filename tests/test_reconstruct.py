"Maps from particles: sums against a naive loop, symmetry, weights, bounded memory; and what verify, evidence and postprocess say of sets in order and out of it."
from dataclasses import replace

import numpy as np, pytest, torch
from drgnbook.assembly import large_subunit
from drgnbook.evidence import _sizes
from drgnbook.ctf import ctf_params
from drgnbook.fourier import Lattice, ft, shell_mean
from drgnbook.forward import Blobs
from drgnbook.particles import Cache, Particles
from drgnbook.pose import Pose, point_group, random_rotations
from drgnbook.postprocess import local_resolution, postprocess
from drgnbook.reconstruct import Accumulator, halves_of, reconstruct, shared, snr_of, solve
from drgnbook.simulate import simulate
from drgnbook.fit import fit
from drgnbook.run import Run
from drgnbook.verify import Verdict
from drgnbook.volume import Volume, fsc, radius, resolution, sphere_mask

pytestmark = pytest.mark.filterwarnings('ignore:.*machine stamp')      # cryoDRGN's files have none


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    "Neither the shared folder nor another test is written to"
    monkeypatch.setenv('DRGNBOOK_CACHE', str(tmp_path_factory.getbasetemp()/'cache'))

def one_state():
    whole = large_subunit()
    return replace(whole, xyz=whole.xyz[20:21], states=('whole',), occupancy=torch.ones(1, len(whole.blocks)), proportions=torch.ones(1))

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('sets')

@pytest.fixture(scope='module')
def ps(folder): return simulate(one_state(), n=600, D=32, snr=.2, junk=0., out=folder/'one')

@pytest.fixture(scope='module')
def truth(folder, ps): return Volume.load(next((folder/'one/truth').glob('*.mrc')))

def turned(ps, **columns): return replace(ps, md=replace(ps.md, table=ps.table.assign(**columns)))


# The sums

def test_sums_are_what_a_loop_adds():
    "Each coefficient at its nearest place, conjugated where it is folded"
    gen, D = torch.Generator().manual_seed(0), 8
    lat, R = Lattice(D), random_rotations(3, gen)
    f, ctf, w = torch.randn(3, len(lat), dtype=torch.cfloat, generator=gen), torch.randn(3, len(lat), generator=gen), torch.tensor([1., 2., .5])
    acc = Accumulator(D)
    acc.add(f, ctf, lat.k.float(), R, w)
    data, weight = torch.zeros(2*D, 2*D, D + 1, dtype=torch.cfloat), torch.zeros(2*D, 2*D, D + 1)
    for b in range(3):
        for j, k in enumerate(lat.k.float()):
            x, y, z = (2*(k @ R[b, :2])).tolist()
            v = f[b, j]
            if x < 0: x, y, z, v = -x, -y, -z, v.conj()
            at = round(z) + D, round(y) + D, round(x)
            data[at] += v*ctf[b, j]*w[b]; weight[at] += ctf[b, j]**2*w[b]
    assert torch.allclose(acc.data.view_as(data), data, atol=1e-5) and torch.allclose(acc.weight.view_as(weight), weight, atol=1e-5)

def test_memory_is_bounded(ps, monkeypatch):
    "However large the set: no more coefficients at a time than half a million"
    read, rows = Cache.__getitem__, []
    monkeypatch.setattr(Cache, '__getitem__', lambda self, i: rows.append(len(i)) or read(self, i))
    many = ps[np.arange(6000) % 600]
    reconstruct(many)
    assert sum(rows) == 6000 and max(rows)*len(Lattice(32)) <= 2**19

def test_same_images_same_map(ps):
    a, b = (reconstruct(ps) for _ in range(2))
    assert torch.equal(a.volume.data, b.volume.data) and torch.equal(a.fsc, b.fsc)

@pytest.mark.parametrize('D', [8, 30, 48])
def test_what_halves_agree_in_stays(D):
    "All of it; and nothing is left of what only one of them has"
    gen = torch.Generator().manual_seed(0)
    v = Volume(torch.randn(D, D, D, generator=gen), 3., (1., 2., 3.)).filter(lambda k: k < D/2)
    same = shared(v, (v, v))
    assert torch.allclose(same.data, v.data, atol=1e-4) and same.origin == v.origin and same.apix == v.apix
    assert not shared(v*0, (v*0, v*0)).data.any()
    assert shared(v, (v*2, v*0)).data.abs().max() == 0

def test_solvent_is_quiet_and_the_molecule_is_not():
    "Half-maps with as much noise everywhere: by place, the gain is that of the place; by shell, it is that of the box"
    gen, D, apix = torch.Generator().manual_seed(0), 48, 4.
    x = torch.randn(300, 3, generator=gen)*torch.tensor([12., 9., 9.]) + torch.tensor([40., 0., 0.])
    true = Blobs(x, torch.ones(300), 3.).to_volume(D, apix)
    halves = [true + replace(true, data=torch.randn(D, D, D, generator=gen)*.15*true.data.max()).filter(lambda k: k < D/2) for _ in range(2)]
    mean, curve = (halves[0] + halves[1])*.5, fsc(*halves)
    found, inside = shared(mean, halves), true.mask(.05*float(true.data.max()))
    by_shell = mean.filter(lambda k: torch.cat([1/(1 + snr_of(curve)/2), torch.zeros(1)])[k.round().long().clamp(max=D//2)])
    error = lambda v, where: float(((v.data - true.data).square()*where).mean())
    noise = lambda v: float((v.data.square()*(true.data < 1e-6*true.data.max())).mean())
    assert noise(found) < .6*noise(by_shell) and error(found, inside) < error(by_shell, inside) < error(mean, inside)
    assert found.fsc(true)[4:].mean() > by_shell.fsc(true)[4:].mean() + .05

def seen(n, noise, dfu, w, D=48, apix=5.):      # dfu: from and to, or None for no CTF
    "The sums of two halves of views of a lump, and the lump."
    gen, lat = torch.Generator().manual_seed(0), Lattice(D, apix)
    mol = Blobs(torch.randn(60, 3, generator=gen)*torch.tensor([34., 26., 19.]), torch.rand(60, generator=gen), 5.)
    pose, halves = Pose(random_rotations(n, gen), torch.zeros(n, 2)), [Accumulator(D) for _ in range(2)]
    f, c = mol.project(lat, pose), torch.ones(n, len(lat)) if dfu is None else ctf_params(dfu=dfu[0] + (dfu[1] - dfu[0])*torch.rand(n, generator=gen), w=w)(lat.freqs)
    f = f*c + torch.randn(f.shape, dtype=torch.cfloat, generator=gen)*f.abs().square().mean().sqrt()*noise
    for h, acc in enumerate(halves): acc.add(f[h::2], c[h::2], lat.k.float(), pose.R[h::2])
    return halves, mol.to_volume(D, apix)

@pytest.mark.parametrize('n, noise, dfu, w', [(600, .01, None, 0), (600, 1.5, None, 0), (600, .01, (1e4, 2.5e4), .1), (600, 1.5, (1e4, 2.5e4), .1), (600, .5, (5e3, 3e4), .07), (150, .5, (1e4, 2.5e4), .1)],
                         ids=['clean', 'noise', 'CTF', 'noise and CTF', 'less contrast', 'few'])
def test_amplitudes(n, noise, dfu, w):
    "Every ring, down to the mean, is as strong as in the truth, but for what Wiener takes, where a CTF rises from 0.1 too"
    halves, true = seen(n, noise, dfu, w)
    rec = solve(halves, true.apix)
    found, shell = rec.volume*(1/true.D), radius(true.D).round().long().clamp(max=true.D//2).flatten()
    F, H, G = (ft(v.data, 3).flatten() for v in (found, rec.mean*(1/true.D), true))
    strength, whole = (shell_mean((f*G.conj()).real, shell, true.D//2 + 1)/shell_mean(G.abs().square(), shell, true.D//2 + 1) for f in (F, H))
    against = found.fsc(true, sphere_mask(true.D))
    seen_to = int(resolution(against))
    wiener = 1/(1 + snr_of(rec.fsc)/2)                     # of the whole ball; where the molecule is, less is taken away
    assert seen_to > 12 and (whole[:-1] - 1)[:min(seen_to, 22)].abs().max() < .15                 # not filtered: as strong as the truth
    assert ((strength[:-1] > .85*wiener) & (strength[:-1] < 1.15))[:min(seen_to, 22)].all()
    assert against[:6].min() > .985


# Symmetry and weights

def test_symmetry_is_every_image_in_every_place(ps):
    "C3 of some images is C1 of three times as many, turned"
    G, half = point_group('C3'), (np.arange(100) % 2) + 1
    few = turned(ps[:100], half=half)
    thrice = turned(ps[np.tile(np.arange(100), 3)].with_poses(Pose(torch.cat([few.pose.R @ g for g in G]), few.pose.t.repeat(3, 1))), half=np.tile(half, 3))
    a, b = reconstruct(few, symmetry='C3'), reconstruct(thrice)
    assert (a.volume.data - b.volume.data).abs().max() < .01*b.volume.data.abs().max()      # poses go through float32 rotation vectors

def test_symmetry_helps(tmp_path):
    "A molecule of four-fold symmetry, few images: four times as many measurements"
    gen = torch.Generator().manual_seed(0)
    part = torch.randn(20, 3, generator=gen)*torch.tensor([15., 15., 20.]) + torch.tensor([30., 0., 0.])
    G = point_group('D2')
    mol = Blobs(torch.cat([part @ g.T for g in G]), torch.ones(80), 7.)
    v = mol.to_volume(32, 8.)
    ps = simulate({'whole': v}, n=60, D=32, apix=8., snr=.02, junk=0., out=tmp_path/'set')
    score = lambda s: float(reconstruct(ps, symmetry=s).volume.fsc(v, sphere_mask(32))[1:12].mean())
    d2, c2, c1, c3 = map(score, ('D2', 'C2', 'C1', 'C3'))
    assert d2 > c2 + .02 and c2 > c1 + .02 and d2 > c3 + .1, (d2, c2, c1, c3)

def test_weights(ps, truth):
    "Weight 0 is not there, weight 2 is twice there"
    w = torch.zeros(600); w[:200] = 1
    a, b = reconstruct(ps, weights=w), reconstruct(ps[:200])
    assert torch.allclose(a.volume.data, b.volume.data, atol=1e-4*float(b.volume.data.abs().max()))
    twice = reconstruct(ps, weights=2*torch.ones(600))
    assert torch.allclose(twice.fsc, reconstruct(ps).fsc, atol=1e-4)
    junk = ps.with_poses(Pose(torch.cat([ps.pose.R[:300], random_rotations(300, torch.Generator().manual_seed(1))]), ps.pose.t))
    good = (torch.arange(600) < 300).float()
    score = lambda w: float(reconstruct(junk, weights=w).volume.fsc(truth, sphere_mask(32))[1:10].mean())
    assert score(good) > score(None) + .03

def test_any_number_of_particles(ps):
    "Also where a half is one particle, or one more than are read at once"
    n = 2**19//len(Lattice(32)) + 1
    assert (halves_of(ps) == torch.arange(600) % 2).all()
    for i in ([0, 1], [0, 1, 3], [0, *range(1, 2*n + 1, 2)]):
        rec = reconstruct(ps[np.resize(i, len(i)) % 600])
        assert rec.volume.data.isfinite().all()

@pytest.mark.parametrize('words, said', [(dict(weights=[1.]*3), '600 numbers'), (dict(weights=[float('nan')]*599 + [1.]), 'of 600 599 are not'), (dict(weights=[0.]*600), 'two particles or more, found 0'), (dict(symmetry='Q2'), 'Cn, Dn'),
                                         (dict(mask=torch.ones(3, 3, 3)), '(3, 3, 3)'),
                                         (dict(mask=Volume(torch.ones(16, 16, 16), 24.)), 'the maps have (32, 32, 32)'), (dict(mask=Volume(torch.ones(32, 32, 32), 24.)), 'voxels of 24 Å'), (dict(mask=-torch.ones(32, 32, 32)), 'from 0 to 1')])
def test_reconstruct_says_what_is_wrong(ps, unchecked, words, said):
    with pytest.raises(ValueError, match=said.replace('(', r'\(').replace(')', r'\)')): reconstruct(ps, **words)

def test_mask_is_an_array_or_a_volume(ps):
    m = sphere_mask(32, 6., 3.)
    a, b, c = (reconstruct(ps[:200], mask=mask) for mask in (m, Volume(m, ps.apix), None))
    assert torch.equal(a.fsc, b.fsc) and torch.equal(a.fsc, fsc(*a.halves, m)) and not torch.equal(a.fsc, c.fsc)

def test_one_half_only(ps):
    with pytest.raises(ValueError, match='in one half'): reconstruct(ps, weights=(np.arange(600) % 2).astype(float))
    with pytest.raises(ValueError, match='two particles'): reconstruct(ps[:1])


# verify

def broken(ps):
    "One set, broken in one way each; what has to be said"
    p = ps.pose
    return {'contrast': replace(ps, sign=-ps.sign), 'shifts': ps.with_poses(Pose(p.R, -p.t)), 'poses': ps.with_poses(Pose(p.R.mT, p.t)),
            'CTF': turned(ps, dfu=-ps.table.dfu, dfv=-ps.table.dfv)}

@pytest.fixture(scope='module')
def fine_set(folder): return simulate(one_state(), n=800, D=48, snr=.2, junk=.1, out=folder/'fine')

def test_verify_finds_no_fault(fine_set):
    said = fine_set.verify(n=400)
    assert isinstance(said, Verdict) and said.ok and set(said.findings) == {'poses', 'shifts', 'CTF', 'contrast'} and all(x.startswith('fit') for x in said.findings.values()), said

@pytest.mark.parametrize('what', ['contrast', 'shifts', 'poses', 'CTF'])
def test_verify_names_the_fault(fine_set, what):
    said = broken(fine_set)[what].verify(n=400)
    assert said.wrong == (what,), said

def test_verify_names_two_faults(fine_set):
    both = replace(broken(fine_set)['shifts'], sign=-fine_set.sign).verify(n=400)
    assert set(both.wrong) == {'contrast', 'shifts'}, both

@pytest.mark.parametrize('px', [.25, .5, 1.])
def test_verify_small_shifts(fine_set, px):
    "Of a sign that is wrong the cure is the other sign, not no shifts, however small they are"
    few = simulate(one_state(), n=400, D=48, snr=.2, junk=0., shift=px*fine_set.apix, out=fine_set.md.path.parent.parent/f'by{px}')
    said = few.with_poses(Pose(few.pose.R, -few.pose.t)).verify()
    assert said.wrong == ('shifts',) and 'with the other sign' in said.findings['shifts'], said

def test_verify_mirrored_pictures(fine_set):
    p = fine_set.pose
    said = fine_set.with_poses(Pose(p.R*torch.tensor([1., -1., -1.])[:, None], p.t*torch.tensor([1., -1.]))).verify(n=400)
    assert said.wrong == ('poses',) and 'upside down' in said.findings['poses'], said

def test_verify_centred(fine_set):
    "No shifts: both signs do as well, and it says so"
    still = fine_set.with_poses(Pose(fine_set.pose.R, torch.zeros_like(fine_set.pose.t))).verify(n=300)
    assert 'cannot be told' in still.findings['shifts'], still

def test_verify_tilts(shared):
    "1,296 simulated tilt images of 32 px by another program, and each thing turned round"
    ps = Particles.read(shared/'sim10076_DE/10076_both_32_sim.star', contrast='dark')
    assert ps.verify().ok, ps.verify()
    for what, bad in broken(ps).items():
        if what == 'CTF': continue                                     # with a phase plate, 90°, the sign of the defocus is nothing
        said = bad.verify()
        assert what in said.wrong, (what, said)

def test_verify_relion(shared):
    "24 views of one point by relion_project"
    ps = Particles.read(shared/'golden/relion_proj_batch.star')
    said = ps.verify()
    assert not {'shifts', 'poses'} & set(said.wrong), said
    for what in ('shifts', 'poses'): assert what in broken(ps)[what].verify().wrong, what

def test_verify_needs_poses(shared):
    with pytest.raises(ValueError, match='20 particles or more'): Particles.read(shared/'empiar10076/particles/empiar_10076_7.star', contrast='dark').verify()


# postprocess

def test_postprocess_of_a_real_map(shared):
    "Beta-galactosidase with noise: the resolution of the noise, whatever the mask's size"
    v, gen = Volume.load(shared/'maps/betaGal.mrc').downsample(64), torch.Generator().manual_seed(0)
    noise = lambda: Volume(torch.randn(64, 64, 64, generator=gen), v.apix).filter(lambda k: .5*float(v.data.std())*(1 + (k/12)**2)).data
    halves = tuple(Volume(v.data + noise(), v.apix) for _ in range(2))
    done = postprocess(halves)
    against = fsc((halves[0] + halves[1])*.5, v, done.mask)
    true = v.D*v.apix/float((against < .5).nonzero()[0])               # FSC_half = .143 is .5 against the truth
    assert abs(done.resolution/true - 1) < .15
    assert done.local.data[done.mask > .9].median() < 3*done.resolution and done.bfactor >= 0

def test_local_resolution_knows_nothing_of_the_mask(shared):
    "A voxel is as fine as it is, whatever is asked around it"
    v, gen = Volume.load(shared/'maps/betaGal.mrc').downsample(48), torch.Generator().manual_seed(0)
    halves = tuple(Volume(v.data + .5*float(v.data.std())*torch.randn(48, 48, 48, generator=gen), v.apix) for _ in range(2))
    every = local_resolution(halves, torch.ones(48, 48, 48)).data
    for mask in (v.mask(), v.mask(edge=0)): assert torch.equal(local_resolution(halves, mask).data[mask > .5], every[mask > .5])

def test_postprocess_takes_what_reconstruct_gives(ps):
    done = postprocess(rec := reconstruct(ps))
    assert torch.equal(postprocess(rec.halves, local=False).volume.data, done.volume.data)
    assert done.resolution <= ps.D*ps.apix/2 and done.bfactor == 0      # 12 Å a pixel: nothing to fit
    assert done.show() is not None and 'FSC = 0.143' in repr(done)
    with pytest.raises(ValueError, match='two half-maps'): postprocess([done.volume])

def test_a_given_bfactor_is_taken(ps):
    "Of either sign: fine rings are weaker by it, as `exp(B/4d²)` says"
    halves, spectrum = reconstruct(ps).halves, lambda p: shell_mean(ft(p.volume.data, 3).abs().square().flatten(), radius(32).round().long().clamp(max=16).flatten(), 17)[1:8].log()
    plain, dull = (postprocess(halves, B=B, local=False) for B in (0., -800.))
    s2 = (torch.arange(1, 8)/(32*ps.apix))**2
    assert dull.bfactor == -800 and torch.allclose(spectrum(dull) - spectrum(plain), -800/2*s2, atol=.05)


# evidence

def test_evidence_of_one_particle():
    with pytest.raises(ValueError, match='proves nothing'): _sizes(np.array([0]), np.zeros(1), torch.zeros(1).long(), torch.ones(1), None)

def test_evidence_without_latent_space(folder, ps):
    "zdim 0: the evidence are all particles"
    run = fit(ps[:60], zdim=0, epochs=1, width=16, depth=1, out=folder/'flat', device='cpu')
    e = run.evidence()
    assert e.n == 60 and e.bandwidth == 0
    with pytest.raises(ValueError, match='leave z out'): run.evidence([0.])
    with pytest.raises(ValueError, match=r'\(1, 1, 1\).*\(32, 32, 32\) of 12.5 Å.*resample'): run.evidence(mask=torch.ones(1, 1, 1))
    assert torch.equal(run.evidence(mask=Volume(sphere_mask(32), ps.apix)).fsc, e.fsc)

def test_evidence_reads_the_neighbours_only(folder, ps, monkeypatch):
    run = fit(ps, zdim=1, z=np.linspace(-1, 1, 600)[:, None].astype(np.float32), epochs=1, width=16, depth=1, out=folder/'line', device='cpu')
    read, rows = Cache.__getitem__, []
    monkeypatch.setattr(Cache, '__getitem__', lambda self, i: rows.extend(i.tolist()) or read(self, i))
    e = run.evidence([-1.], radius=.1, mean=False)
    assert sorted(rows) == list(range(30)) and e.n == 30 and abs(e.bandwidth - .0968) < 1e-3      # 600 points, 2/599 apart
    assert e.tried[0][0] == 30 and e.show() is not None
    assert postprocess(e, local=False).curves.unmasked.shape == e.fsc.shape
    with pytest.raises(ValueError, match='20 particles or more, found 1'): ps.verify(n=1)
    assert e.agreement >= e.resolution                      # the decoder knows the same images: no finer than they agree among themselves
    monkeypatch.setattr(Run, 'z', np.where(np.arange(600)[:, None] == 5, np.nan, run.z))
    with pytest.raises(ValueError, match='no particles are near'): run.evidence([1000.])

@pytest.mark.parametrize('decoder, once, again', [('field', [600], [600, 600]), ('residual', [], [])])
def test_evidence_fills_in_the_mean(folder, ps, monkeypatch, decoder, once, again):
    "Where those near say nothing the map of all stands; what is offered as proof is theirs alone; the mean is made once, and again for other poses, or is the one that the training began from"
    run = fit(ps, zdim=1, z=np.linspace(-1, 1, 600)[:, None].astype(np.float32), decoder=decoder, epochs=1, width=16, depth=1, out=folder/f'filled {decoder}', device='cpu')
    made = []
    monkeypatch.setattr('drgnbook.evidence.reconstruct', lambda *a, **k: made.append(len(a[0])) or reconstruct(*a, **k))
    few, alone = run.evidence([-1.], radius=.05), run.evidence([-1.], radius=.05, mean=False)
    assert torch.equal(few.near.data, alone.volume.data) and torch.equal(few.fsc, alone.fsc) and torch.equal(few.against, alone.against)
    consensus = reconstruct(ps).volume
    assert fsc(few.volume, consensus)[8:14].min() > .99 > .9 > fsc(alone.volume, consensus)[8:14].max()          # 15 images say little of fine shells
    run.evidence([.5])
    assert made == once
    monkeypatch.setattr(Run, 'particles', property(lambda self: ps.with_poses(Pose(ps.pose.R, ps.pose.t + 1.))))
    run.evidence([.5])
    assert made == again

@pytest.mark.parametrize('asked, used', [('cuda:1', 'cuda:1'), ('mps', 'cpu'), ('cpu', 'cpu')])
def test_evidence_is_where_the_run_is(folder, ps, monkeypatch, asked, used):
    "Backprojected on the run's card, which is feigned here; Apple's has no double precision"
    run = fit(ps[:60], zdim=0, epochs=1, width=16, depth=1, out=folder/f'on {asked}', device='cpu')
    known, seen = run.evidence(), []
    monkeypatch.setattr('drgnbook.evidence.Accumulator', lambda D, device='cpu': seen.append(str(device)) or Accumulator(D))
    monkeypatch.setattr(Run, 'volume', lambda self, z=None: known.decoder)
    e = replace(run, device=asked).evidence()
    assert seen[:2] == [used, used] and torch.equal(e.fsc, known.fsc)

@pytest.mark.cuda
def test_evidence_on_a_card(folder, ps):
    "The same as on the CPU, and the maps are there"
    run = fit(ps, zdim=1, z=np.linspace(-1, 1, 600)[:, None].astype(np.float32), epochs=1, width=16, depth=1, out=folder/'card', device='cuda')
    card, host = (replace(run, device=d).evidence([-.5]) for d in ('cuda', 'cpu'))
    assert {x.device.type for x in (card.volume.data, card.fsc, card.against, *(v.data for v in card.halves))} == {'cpu'}
    assert [t[:2] for t in card.tried] == [t[:2] for t in host.tried] and card.volume.fsc(host.volume)[1:12].min() > .999 and (card.fsc - host.fsc).abs().max() < .01
