"Right on real input: images that other programs and microscopes made, against the maps behind them. Each proof fails when a convention is turned round."
import numpy as np, pytest, torch
from drgnbook.cryodrgn import read_cryodrgn_ctf, read_cryodrgn_poses, safe_load
from drgnbook.forward import Blobs, Voxels, render
from drgnbook.fourier import Lattice, shift
from drgnbook.landscape import kmeans
from drgnbook.particles import Particles
from drgnbook.pose import Pose, angle_between, euler_to_R, random_rotations
from drgnbook.reconstruct import reconstruct
from drgnbook.fit import fit
from drgnbook.volume import Volume, sphere_mask


pytestmark = pytest.mark.filterwarnings('ignore:.*machine stamp')      # cryoDRGN's files have none

def correlation(a, b):
    "Of real arrays or lists of coefficients, a row an image; the mean of each is taken off, or is not in it"
    a, b = ((x - x.mean(-1, keepdim=True) if not x.is_complex() else x) for x in (a, b))
    return (a.conj()*b).real.sum(-1)/a.norm(dim=-1)/b.norm(dim=-1)

def likeness(ps, decoder, pose=None, ctf=True):
    "How like the decoder's views are to the images: a correlation an image"
    lat, pose = Lattice(ps.D, ps.apix), pose or ps.pose
    return correlation(render(decoder, lat.freqs, pose, ps.ctf if ctf else None), shift(lat.take(ps.images()), lat.freqs, pose.t))

def wrong_shift(pose): return Pose(pose.R, -pose.t)
def wrong_turn(pose): return Pose(pose.R.mT, pose.t)

@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    "The shared folder is not written to"
    monkeypatch.setenv('DRGNBOOK_CACHE', str(tmp_path/'cache'))


# RELION's own projections of one point: rotation, shift, CTF and contrast at once

def test_relion_projections(shared):
    "24 views by relion_project. The map's header says 1 Å, the star file 3.54 Å: the star file is right"
    ps = Particles.read(shared/'golden/relion_proj_batch.star')
    v = Volume.load(shared/'golden/pointmass.mrc', apix=ps.apix)
    z, y, x = np.unravel_index(int(v.data.argmax()), v.data.shape)
    assert (len(ps), ps.D, (x, y, z)) == (24, 64, (49, 32, 32)) and abs(ps.apix - 3.54) < 1e-4
    point = Blobs(torch.tensor([[17*ps.apix, 0., 0.]]), torch.ones(1), sigma=.1)
    for decoder in (Voxels(v), point):                  # the map read by interpolation; the same point as a formula
        right = likeness(ps, decoder)
        assert right.mean() > .985 and right.min() > .98                          # .99; positive: white, as CTF(0) = +w says
        for pose in (wrong_shift(ps.pose), wrong_turn(ps.pose), wrong_shift(wrong_turn(ps.pose))):
            assert likeness(ps, decoder, pose).abs().mean() < .1                  # .04 and less
        assert likeness(ps, decoder, ctf=False).mean() < .3                       # .16: the CTF is in the images


# Ten particles as a microscope gave them

def test_trpv1(shared):
    "Ten particles of EMPIAR-10059 and their map: little signal, but in its place"
    ps = Particles.read(shared/'real/trpv1_small_stack.star', datadir=shared/'real/trpv1_small_stack.mrcs')
    v = Volume.load(shared/'real/trpv1_volume.mrc')
    assert (len(ps), ps.D, v.D) == (10, 48, 48) and abs(ps.apix - 4.88) < 1e-4 and abs(v.apix - 4.88) < 1e-4
    decoder, gen = Voxels(v), torch.Generator().manual_seed(0)
    right = likeness(ps, decoder)
    assert right.mean() > .19 and right.min() > .15                               # .208; protein is bright in this stack
    assert likeness(ps, decoder, wrong_shift(ps.pose)).mean() < .05               # .01
    assert likeness(ps, decoder, wrong_turn(ps.pose)).mean() < .16                # .14: seen from below, a channel still looks like one
    assert likeness(ps, decoder, ctf=False).mean() < .19                          # .17
    chance = torch.stack([likeness(ps, decoder, Pose(random_rotations(10, gen), ps.pose.t)).mean() for _ in range(20)])
    assert chance.mean() < .1 and chance.max() < .15                              # .08: any centred globule is a little like another

def test_trpv1_has_four_subunits(shared):
    "R takes the particle's frame to the view: a quarter turn of the *particle* shows the same picture, of the view it does not"
    ps = Particles.read(shared/'real/trpv1_small_stack.star', datadir=shared/'real/trpv1_small_stack.mrcs')
    decoder, quarter = Voxels(Volume.load(shared/'real/trpv1_volume.mrc')), torch.tensor(euler_to_R([0., 0., 90.])).float()
    right, same, other = (likeness(ps, decoder, Pose(R, ps.pose.t)).mean() for R in (ps.pose.R, ps.pose.R @ quarter, quarter @ ps.pose.R))
    assert abs(same - right) < .005 and other < right - .02


# Seven particles of EMPIAR-10076

def snr(ps):
    "Variance inside r < 105 Å over that of the ring from 160 Å to the edge of the circle, less 1"
    ax = (np.arange(ps.D) - ps.D//2)*ps.apix
    img, r = ps.images(), torch.from_numpy(np.hypot(ax[:, None], ax))
    inside, ring = img[:, r < 105], img[:, (r > 160) & (r < 209)]
    return float((inside.var(1)/ring.var(1)).mean() - 1), inside.mean(1) - ring.mean(1)

@pytest.mark.parametrize('end, how', [('star', dict(contrast='dark')), ('cs', {})])      # a .cs says itself that they are dark (blob/sign)
def test_empiar10076_particles(shared, tmp_path, end, how, monkeypatch):
    "Dark on light at 1.31 Å; protein is bright once read, and stands out as high frequencies go"
    monkeypatch.setattr('drgnbook.stacks._heard', set())          # once a file and process
    with pytest.warns(UserWarning) as said: ps = Particles.read(shared/f'empiar10076/particles/empiar_10076_7.{end}', **how)
    assert len(said) == 1 and 'no pixel size in 1 of 1 headers' in str(said[0].message)
    assert (len(ps), ps.D) == (7, 320) and abs(ps.apix - 1.31) < 1e-4
    assert (snr(ps)[1] > 0).all() and (ps.signs == -1).all()
    for D, expected in ((320, .05), (128, .25), (64, .63)):
        small = ps.downsample(D, out=tmp_path/f'{D}.mrcs')
        # a variance from some 10³ independent pixels of seven images is known to about 4 %, the README's figures to two digits
        assert abs(snr(small)[0] - expected) < .01 + .1*expected, (D, snr(small)[0])
        assert abs(small.apix - 419.2/D) < 1e-3 and (snr(small)[1] > 0).all()

@pytest.mark.filterwarnings('ignore:no pixel size')
def test_empiar10076_wrong_contrast(shared):
    "The star file cannot say that particles are dark: who does not say it either gets dark protein"
    assert (snr(Particles.read(shared/'empiar10076/particles/empiar_10076_7.star'))[1] < 0).all()


# 1,296 simulated tilt images of two states

@pytest.fixture
def tilts(shared): return lambda name: Particles.read(shared/f'sim10076_DE/10076_{name}_32_sim.star', contrast='dark')

@pytest.fixture
def maps(shared): return {c: Volume.load(shared/f'sim10076_DE/10076_class{c}_32.mrc', apix=13.1) for c in 'DE'}      # their headers say 1 Å

@pytest.mark.parametrize('c', 'DE')
def test_tilts_metadata(shared, tilts, c):
    "The star file and cryoDRGN's pickles agree"
    ps = tilts(f'class{c}')
    R, t = read_cryodrgn_poses(shared/f'sim10076_DE/pose_class{c}.pkl', ps.D, ps.apix)
    assert angle_between(ps.pose.R, torch.tensor(R).float()).max() < 1e-3 and (ps.pose.t - torch.tensor(t)).abs().max() < 1e-4*ps.apix
    theirs = read_cryodrgn_ctf(shared/f'sim10076_DE/ctf_class{c}.pkl')
    assert all(np.allclose(ps.table[x], theirs[x], rtol=1e-6) for x in ('dfu', 'dfv', 'dfang', 'kV', 'cs', 'w', 'phase', 'apix')) and (ps.table.phase == 90).all()
    assert ps.table.groupby('group').size().value_counts().to_dict() == {{'D': 8, 'E': 10}[c]: 72}

@pytest.mark.parametrize('c, other', ['DE', 'ED'])
def test_tilts_backprojection(tilts, maps, c, other):
    "Each class gives its own map and not the other's, with its sign: with a phase plate CTF(0) is nearly +1, and these particles are dark"
    ps, ball = tilts(f'class{c}'), sphere_mask(32).bool()
    near = lambda pose, m, res=1.: float(correlation(reconstruct(ps.with_poses(pose)).volume.lowpass(res).data[ball], m.lowpass(res).data[ball]))
    assert .90 < float(correlation(maps['D'].data.flatten(), maps['E'].data.flatten())) < .93
    own = near(ps.pose, maps[c])
    assert own > .8 and own > near(ps.pose, maps[other]) + .03                    # .83 against .78; of the whole box .80 (the README: .77)
    assert near(ps.pose, maps[c], 60.) > .97 > .94 > near(ps.pose, maps[other], 60.)
    a, b = (reconstruct(ps).volume.fsc(maps[x], sphere_mask(32))[1:9] for x in (c, other))
    assert (a > b).all() and a[:5].min() > .9                                     # nearer in every shell, 420 Å to 52 Å
    assert near(wrong_shift(ps.pose), maps[c], 60.) < .7 and near(wrong_turn(ps.pose), maps[c], 60.) < .9

MODELS = {'table': (dict(z='table', lr=3e-3, epochs=12), .9, .4), 'encoder': (dict(z='encoder', lr=1e-3, epochs=20, encoder_res=60.), .75, .4),
          'subspace': (dict(z='subspace', lr=1e-3, epochs=8), .7, .3)}

def apart(z, truth):
    "Share in the right one of two groups, and the groups, numbered as the classes are"
    label = kmeans(z, 2)[0]
    label = label if (label == truth).mean() >= .5 else 1 - label
    return (label == truth).mean(), label

@pytest.mark.parametrize('kind', MODELS)
def test_tilts_embedding(shared, tilts, maps, tmp_path, kind):
    """Two groups of the embedding are the two classes, and what the decoder sees between them is what is between the maps.
    One image is mostly noise (with both true maps in hand, 83 % could be told apart), so the z of a particle's 8 or 10 tilts are averaged."""
    ps, truth = tilts('both'), safe_load(shared/'sim10076_DE/labels_D-0_E-1.pkl')
    options, level, likeness = MODELS[kind]
    run = fit(ps, zdim=8, beta=.5, batch_size=8, sample=.5, width=128, encoder_width=128, seed=0, device='cpu', out=tmp_path/'run', **options)
    group = ps.table['group'].to_numpy()
    zs = np.stack([run.z[group == g].mean(0) for g in range(len(truth))])
    mixed = np.random.default_rng(0).permutation(run.z)
    accuracy, label = apart(zs, truth)
    chance, _ = apart(np.stack([mixed[group == g].mean(0) for g in range(len(truth))]), truth)
    d, e = run.volumes(np.stack([zs[label == l].mean(0) for l in (0, 1)]))
    seen, true = ((x - y).lowpass(45.) for x, y in ((e, d), (maps['E'], maps['D'])))
    same, other_hand = (float(correlation(seen.data.flatten(), x.data.flatten())) for x in (true, true.flip()))
    print(f'{kind}: {accuracy:.1%} of particles ({apart(run.z, truth[group])[0]:.1%} of images), shuffled {chance:.1%}; difference map {same:.2f}, of the other hand {other_hand:.2f}')
    assert accuracy > level and chance < .65
    assert same > likeness and other_hand < same - .2
