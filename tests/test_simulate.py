"Assemblies and simulated sets against real atoms, maps and trajectories, and what must not go wrong on disk."
import math, subprocess, sys
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from drgnbook.assembly import Assembly, Maps, read_dcd, superpose
from drgnbook.fourier import Lattice
from drgnbook.cryodrgn import read_cryodrgn_ctf
from drgnbook.particles import Particles
from drgnbook.simulate import Scene, clean_images, random_ctf, read_truth, simulate
from drgnbook.star import read_star
from drgnbook.volume import Volume

sys.path.insert(0, str(Path(__file__).parents[1]/'benchmarks'))
from empiar10076 import assembly_10076

MODULE = sys.modules['drgnbook.simulate']      # `drgnbook.simulate` is the function


@pytest.fixture(scope='module')
def pair():
    "Two states of a handful of beads"
    gen = torch.Generator().manual_seed(0)
    return Assembly(torch.randn(1, 30, 3, generator=gen)*25, torch.ones(30), torch.arange(30) % 2, ('a', 'b'), ('half', 'both'),
                    torch.tensor([[1., 0.], [1., 1.]]), torch.tensor([.25, .75]), 6.)

@pytest.fixture(scope='module')
def ribosome(shared): return assembly_10076(shared/'empiar10076')

def corr(a, b): return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])

def scene_of(ps, truth):
    "What the files say is in the images"
    return Scene(ps.pose, ps.ctf, torch.tensor(truth.label.clip(lower=0).to_numpy()), torch.tensor(truth.coord.fillna(0).to_numpy('f4')), torch.zeros(len(ps)).long())


# EMPIAR-10076

def test_10076_classes_are_those_of_the_real_maps(shared, ribosome):
    "Each real map looks like the simulated map of its class more than like any other, and its mirror image like none"
    assert (len(ribosome.blocks), ribosome.states) == (136, ('B', 'C', 'D', 'E'))
    assert (ribosome.occupancy > 0).sum(1).tolist() == [86, 109, 116, 134]
    sim = {s: ribosome.volume(s, 64, 6.55).lowpass(14.) for s in 'BCDE'}
    total = sum(v.data for v in sim.values())
    inside = total > .05*total.max()
    for name, state in {'018': 'B', '113': 'B', '288': 'C', '291': 'C', '194': 'D', '457': 'D', '386': 'E', '388': 'E'}.items():
        with pytest.warns(UserWarning): real = Volume.load(shared/f'empiar10076/maps/vol_{name}.mrc').lowpass(14.)
        r = {s: corr(real.data[inside], v.data[inside]) for s, v in sim.items()}
        assert r[state] > .7 and all(r[state] > x + .1 for s, x in r.items() if s != state), (name, r)
        assert corr(real.flip().data[inside], sim[state].data[inside]) < .5

def test_10076_like_set(shared, ribosome, tmp_path):
    "Real CTF rows, dark contrast, and the SNR that is measured on the real particles: variance inside 105 Å over that of the background"
    ctf = read_cryodrgn_ctf(shared/'ctf/empiar10028_ctf.pkl')
    ps = simulate(ribosome.maps(64, 6.55), n=600, D=64, out=tmp_path/'set', ctf=ctf, snr=.63, within=105., junk=0, contrast='dark', shift=0.)
    truth = read_truth(tmp_path/'set')
    assert ps.apix == pytest.approx(6.55) and np.isin(ps.table.dfu.to_numpy('f4'), ctf.dfu.to_numpy('f4')).all()
    counts = truth.state.value_counts(normalize=True)
    assert max(abs(counts[s] - p) for s, p in zip(ribosome.states, ribosome.proportions.tolist())) < .07
    ax = (torch.arange(64) - 32)*6.55
    radius = (ax[:, None]**2 + ax**2).sqrt()
    img = ps.images()
    assert img[:, radius < 105].var()/img[:, radius > 200].var() - 1 == pytest.approx(.63, abs=.08)
    beads = clean_images(ribosome, scene_of(ps, truth)[:5], Lattice(64, 6.55))            # slices of maps are slices of the beads
    maps = clean_images(ribosome.maps(64, 6.55), scene_of(ps, truth)[:5], Lattice(64, 6.55))
    assert (beads - maps).square().mean() < .03**2*beads.square().mean()


# Trajectories

def test_adenylate_kinase_closes(shared, tmp_path):
    "PSF + DCD, PDB + DCD and two PDB files tell of one motion"
    a = shared/'atoms'
    path = Assembly.from_frames(a/'adk.psf', a/'adk_dims.dcd')
    same = Assembly.from_frames(a/'adk_open.pdb', a/'adk_dims.dcd')                      # this PDB has no element column
    ends = Assembly.from_frames([a/'adk_closed.pdb', a/'adk_open.pdb'])
    assert path.xyz.shape == (98, 214, 3) and torch.equal(path.amp, same.amp) and torch.equal(path.xyz, same.xyz)
    assert float(path.amp.sum()) == 12620                                                # electrons of C, H, N, O, S
    rmsd = lambda x, y: float(torch.diff(superpose(torch.stack([x, y]), path.amp), dim=0).square().sum(-1).mean().sqrt())
    assert rmsd(path.xyz[0], ends.xyz[0]) < .6 and rmsd(path.xyz[-1], ends.xyz[1]) < 1 < 6 < rmsd(path.xyz[0], path.xyz[-1])
    ps = simulate(path, n=40, D=32, out=tmp_path/'adk', snr=math.inf, junk=0)
    truth = read_truth(tmp_path/'adk')
    assert truth.coord.between(0, 1).all() and truth.coord.std() > .2
    clean = clean_images(path, scene_of(ps, truth), Lattice(32, ps.apix))
    assert corr(clean, ps.images()) > .9999

def test_atoms_of_other_sources(shared):
    "mmCIF, glycans, a whole antibody"
    for name, chains in (('1igy.cif', 6), ('6vyb.pdb', 15)):
        mol = Assembly.from_atoms(shared/'atoms'/name)
        assert len(mol.blocks) == chains and 80 < mol.radius < 110

def dcd(path, xyz, order='<', fixed=0, cell=True):
    "Write a CHARMM trajectory"
    f, n, _ = xyz.shape
    record = lambda b: np.array(len(b), f'{order}i4').tobytes() + b + np.array(len(b), f'{order}i4').tobytes()
    info = np.zeros(20, f'{order}i4'); info[[0, 8, 10, 19]] = f, fixed, cell, 24
    out = record(b'CORD' + info.tobytes()) + record(np.array(1, f'{order}i4').tobytes() + b' '*80) + record(np.array(n, f'{order}i4').tobytes())
    for x in xyz: out += (record(bytes(48)) if cell else b'') + b''.join(record(x[:, i].astype(f'{order}f4').tobytes()) for i in range(3))
    path.write_bytes(out)
    return path

def test_dcd_of_every_kind(tmp_path):
    xyz = np.random.default_rng(0).normal(size=(5, 7, 3)).astype('f4')
    for order in '<>':
        for cell in (True, False): assert np.array_equal(read_dcd(dcd(tmp_path/'t.dcd', xyz, order, cell=cell)), xyz)
    whole = dcd(tmp_path/'t.dcd', xyz).read_bytes()
    (tmp_path/'cut.dcd').write_bytes(whole[:-50])
    assert np.array_equal(read_dcd(tmp_path/'cut.dcd'), xyz[:4])                          # the last frame of a run that was stopped
    (tmp_path/'bad.dcd').write_bytes(whole[:260] + b'abcd' + whole[260:])
    with pytest.raises(ValueError, match='damaged'): read_dcd(tmp_path/'bad.dcd')
    with pytest.raises(ValueError, match='fixed atoms'): read_dcd(dcd(tmp_path/'fixed.dcd', xyz, fixed=3))
    with pytest.raises(FileNotFoundError): read_dcd(tmp_path/'none.dcd')


# Maps

def test_real_maps_as_source(shared, tmp_path):
    "Two densities in one box: the state of a clean image is told by its correlation with the two slices"
    ribosome = Volume.load(shared/'maps/emd_1832.map')
    other = Maps.of([Volume.load(shared/'maps/betaGal.mrc')]).volume('0', ribosome.D, ribosome.apix)
    maps = {'ribosome': ribosome*(1/ribosome.data.std()), 'galactosidase': other*(1/other.data.std())}
    ps = simulate(maps, n=60, out=tmp_path/'maps', snr=1., junk=0, noise='coloured', views='preferred')
    truth = read_truth(tmp_path/'maps')
    assert set(truth.state) == set(maps) and truth.coord.isna().all()
    scene, source, lattice = scene_of(ps, truth), Maps.of(maps), Lattice(64, ps.apix)
    of = lambda label: clean_images(source, Scene(scene.pose, scene.ctf, torch.full_like(scene.label, label), scene.coord, scene.kind), lattice)
    img = ps.images()
    r = torch.tensor([[corr(x, y) for x, y in zip(img, of(label))] for label in (0, 1)])
    assert (r.argmax(0) == scene.label).float().mean() > .9 and r.amax(0).mean() > .3
    with pytest.raises(ValueError, match='one box'): simulate([ribosome, Volume.load(shared/'maps/betaGal.mrc')], out=tmp_path/'no')
    with pytest.raises(ValueError, match='too coarse'): simulate(maps, D=96, out=tmp_path/'no')


# The files

def test_star_is_relion_31(pair, tmp_path):
    simulate(pair, n=25, D=32, out=tmp_path/'set', noise='coloured')
    blocks = read_star(tmp_path/'set/particles.star')
    assert list(blocks)[:2] == ['optics', 'particles'] and len(blocks['particles']) == 25
    assert {f'rln{c}' for c in 'ImageName AngleRot AngleTilt AnglePsi OriginXAngst OriginYAngst DefocusU DefocusV DefocusAngle MicrographName RandomSubset OpticsGroup'.split()} <= set(blocks['particles'])
    assert {f'rln{c}' for c in 'ImagePixelSize ImageSize Voltage SphericalAberration AmplitudeContrast'.split()} <= set(blocks['optics'])

def test_files_are_as_private_as_others(pair, tmp_path):
    "A temporary folder is its owner's alone; the set that comes from it is not"
    simulate(pair, n=5, D=32, out=tmp_path/'set')
    (tmp_path/'plain').mkdir(); (tmp_path/'plain/file').touch()
    assert (tmp_path/'set').stat().st_mode == (tmp_path/'plain').stat().st_mode
    assert {p.stat().st_mode for p in (tmp_path/'set').rglob('*.*')} == {(tmp_path/'plain/file').stat().st_mode}

def test_interrupted_leaves_the_old_set(pair, tmp_path, monkeypatch):
    out = tmp_path/'set'
    old = simulate(pair, n=30, D=32, out=out).images()
    (out/'my_run').mkdir()
    def killed(*_): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(MODULE, 'noise_images', killed)
        for folder, more in ((out, dict(overwrite=True)), (tmp_path/'new', {})):
            with pytest.raises(KeyboardInterrupt): simulate(pair, n=40, D=32, out=folder, **more)
    assert [p.name for p in tmp_path.iterdir()] == ['set'] and torch.equal(Particles.read(out/'particles.star').images(), old)
    assert len(simulate(pair, n=40, D=32, out=out, overwrite=True)) == 40 == len(read_truth(out)) and (out/'my_run').is_dir()

def test_only_a_simulation_is_overwritten(pair, tmp_path):
    (tmp_path/'mine').mkdir(); (tmp_path/'mine/particles.star').write_text('precious')
    with pytest.raises(FileExistsError, match='particles.star'): simulate(pair, n=5, D=32, out=tmp_path/'mine', overwrite=True)
    assert (tmp_path/'mine/particles.star').read_text() == 'precious'
    with pytest.raises(FileNotFoundError, match='made by simulate'): read_truth(tmp_path/'mine')

def test_what_makes_another_set(pair, tmp_path):
    "Any argument, and any number in the molecule or in the CTF table"
    ctf = random_ctf(50, np.random.default_rng(1))
    base = dict(n=8, D=32, ctf=ctf)
    simulate(pair, out=tmp_path/'set', **base)
    simulate(pair, out=tmp_path/'set', **base)
    other = Assembly(pair.xyz + .01, pair.amp, pair.block, pair.blocks, pair.states, pair.occupancy, pair.proportions, 6.)
    for source, change in ((pair, dict(snr=.2)), (pair, dict(within=50.)), (pair, dict(views='preferred')), (pair, dict(ctf=ctf.assign(w=.07))), (other, {})):
        with pytest.raises(FileExistsError, match='another simulation'): simulate(source, out=tmp_path/'set', **{**base, **change})

def test_arguments_are_not_changed(pair, tmp_path):
    ctf = random_ctf(50, np.random.default_rng(1))
    before, xyz, amp = ctf.copy(deep=True), pair.xyz.clone(), pair.amp.clone()
    vols = {s: pair.volume(s, 32, 8.) for s in pair.states}
    data = [v.data.clone() for v in vols.values()]
    simulate(pair, n=8, D=32, out=tmp_path/'a', ctf=ctf); simulate(vols, n=8, D=32, out=tmp_path/'b', ctf=ctf)
    pd.testing.assert_frame_equal(ctf, before)
    assert torch.equal(pair.xyz, xyz) and torch.equal(pair.amp, amp) and all(torch.equal(v.data, d) for v, d in zip(vols.values(), data))

def test_batches_do_not_matter(pair, tmp_path, monkeypatch):
    "Poses, states and clean images are those of the seed, however the memory is divided"
    whole = simulate(pair, n=50, D=32, out=tmp_path/'a', snr=math.inf, junk=0).images()
    monkeypatch.setattr(MODULE, '_chunks', lambda source, lattice, n: [slice(a, min(a + 7, n)) for a in range(0, n, 7)])
    parts = simulate(pair, n=50, D=32, out=tmp_path/'b', snr=math.inf, junk=0).images()
    assert (whole - parts).abs().max() < 1e-3

def test_memory_is_bounded(tmp_path):
    "8,000 images of 64 px are 131 MB on disk; making them takes hardly more memory than making 1,000"
    code = """if True:
        import resource, sys, torch
        from drgnbook.assembly import Assembly
        from drgnbook.simulate import simulate
        mol = Assembly(torch.randn(1, 20, 3)*25, torch.ones(20), torch.zeros(20).long(), ('a',), ('a',), torch.ones(1, 1), torch.ones(1), 6.)
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
        simulate(mol, n=1000, out=sys.argv[1] + '/few', junk=0); few = peak()
        simulate(mol, n=8000, out=sys.argv[1] + '/many', junk=0)
        print(peak() - few)"""
    run = subprocess.run([sys.executable, '-c', code, tmp_path], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path/'many/particles.mrcs').stat().st_size > 130e6 and float(run.stdout) < 50, run.stdout
