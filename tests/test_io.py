"Metadata and stacks of other programs: read, kept, refused."
import bz2, copyreg, gzip, io, os, pickle, struct, warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mrcfile, numpy as np, pandas as pd, pytest, starfile
from scipy.spatial.transform import Rotation
from scipy.stats import special_ortho_group

from drgnbook.cryodrgn import read_cryodrgn_ctf, read_cryodrgn_poses, read_indices, safe_load, write_cryodrgn, write_indices
from drgnbook.cs import Cs, with_fields
from drgnbook.io import read_metadata, write_metadata
from drgnbook.metadata import COLUMNS, Metadata, MetadataError, atomic, plain_table
from drgnbook.stacks import Stacks, find_stacks, write_stack
from drgnbook.star import Star, read_star, write_star

SHARED = Path(__file__).parents[2]/'shared'/'data'
here = lambda pattern: sorted(SHARED.rglob(pattern))
stars = pytest.mark.parametrize('path', here('*.star') or [pytest.param(None, marks=pytest.mark.skip(reason='no ../shared/data'))], ids=lambda p: p and p.name)
tables = pytest.mark.parametrize('path', here('*.cs') or [pytest.param(None, marks=pytest.mark.skip(reason='no ../shared/data'))], ids=lambda p: p and p.name)


@contextmanager
def quiet():
    "Headers may be odd here"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


# What a made-up particle set looks like

def made(n=6, D=16, seed=0, **more):
    "A table with every column that both programs know"
    g = np.random.default_rng(seed)
    R = Rotation.from_matrix(special_ortho_group.rvs(3, n, random_state=seed))
    t = dict(stack=['a.mrcs']*n, index=np.arange(n), apix=1.5, tx=g.normal(size=n)*5, ty=g.normal(size=n)*5, dfu=g.uniform(1e4, 2e4, n), dfv=g.uniform(1e4, 2e4, n),
             dfang=g.uniform(-90, 90, n), kV=300., cs=2.7, w=.07, phase=g.uniform(0, 90, n), bfactor=g.uniform(0, 50, n), scale=g.uniform(.5, 1, n),
             half=np.arange(n) % 2 + 1, micrograph=[f'mic {i//2}.mrc' for i in range(n)])
    return plain_table(t | dict(zip(['rx', 'ry', 'rz'], R.as_rotvec(degrees=True).T)) | more)

def same(a, b, tol=1e-4, **kw):
    "Equal tables; rotations compared as such, for a vector of 180° has two names, and optics groups by who is in them, where both have some"
    groups = lambda t: t.drop(columns='optics', errors='ignore').assign(**{'optics': pd.factorize(t['optics'])[0]} if 'optics' in a and 'optics' in b else {})
    a, b = groups(a), groups(b)
    turn = lambda t: Rotation.from_rotvec(t[['rx', 'ry', 'rz']].to_numpy(), degrees=True)
    if 'rx' in a: assert (turn(a).inv()*turn(b)).magnitude().max() < 1e-5
    drop = [c for c in ('rx', 'ry', 'rz') if c in a]
    pd.testing.assert_frame_equal(a.drop(columns=drop), b.drop(columns=drop), check_dtype=False, atol=tol, rtol=1e-6, **kw)

def equal_blocks(a, b):
    assert list(a) == list(b)
    for k in a:
        if isinstance(a[k], dict): assert a[k] == b[k]
        else: pd.testing.assert_frame_equal(a[k], b[k])

OPTICS = '''
data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnImagePixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
_rlnImageSize #7
12 one 1.000000 300.000000 2.700000 0.100000 64
3  two 2.000000 200.000000 1.400000 0.070000 64
'''
PARTICLES = '''
data_particles

loop_
_rlnImageName
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginXAngst
_rlnOriginYAngst
_rlnOpticsGroup
_rlnCtfBfactor
_rlnMyOwn
1@a.mrcs 10 20 30 1 2 3 0 001
2@a.mrcs 10 20 30 1 2 12 -4 1.50
3@a.mrcs 10 -20 30 3 4 3 0 <NA>
'''

@pytest.fixture
def two_groups(tmp_path):
    (tmp_path/'two.star').write_text(OPTICS + PARTICLES)
    return tmp_path/'two.star'


# Star files of the world

@stars
def test_star_round_trip(path, tmp_path):
    "read -> write -> read keeps every block, column, order and value, letter for letter"
    md = read_metadata(path)
    write_metadata(tmp_path/'back.star', md)
    equal_blocks(read_star(path), read_star(tmp_path/'back.star'))
    pd.testing.assert_frame_equal(md.table, read_metadata(tmp_path/'back.star').table)
    assert list(md.table) == [c for c in COLUMNS if c in md.table]

@stars
def test_star_as_starfile_reads_it(path):
    "The same rows and numbers as the starfile package finds"
    theirs = starfile.read(path, always_dict=True)
    for name, block in read_star(path).items():
        them = theirs[name]
        assert list(block) == list(them) and len(block) == len(them)
        for c in block:
            if them[c].dtype.kind in 'if': assert np.array_equal(pd.to_numeric(block[c]), them[c])
            else: assert list(block[c]) == list(them[c].astype(str))

@stars
def test_rotation_is_relions(path):
    "R of the table against RELION's own formula for its Euler matrix, written out"
    md = read_metadata(path)
    if 'rx' not in md.table: pytest.skip('no poses in this file')
    a, b, g = np.deg2rad(md.source.particles[['rlnAngleRot', 'rlnAngleTilt', 'rlnAnglePsi']].astype(float).to_numpy()).T
    (ca, sa), (cb, sb), (cg, sg) = [(np.cos(x), np.sin(x)) for x in (a, b, g)]
    A = np.array([[cg*cb*ca - sg*sa, cg*cb*sa + sg*ca, -cg*sb], [-sg*cb*ca - cg*sa, -sg*cb*sa + cg*ca, sg*sb], [sb*ca, sb*sa, cb]]).transpose(2, 0, 1)
    assert np.abs(md.poses()[0] - A).max() < 1e-12

def test_pixel_sizes(shared):
    size = lambda p: read_metadata(shared/p).table.apix.unique()
    assert np.allclose(size('empiar10076/particles/empiar_10076_7.star'), 1.31, atol=1e-4)     # 5 µm / 38168
    assert size('golden/FinalRefinement-OriginalParticles-PfCRT.star') == [1.035]               # magnification 10000
    assert size('sim10076_DE/10076_classD_32_sim.star') == [13.1]                               # no magnification
    assert size('real/trpv1_small_stack.star') == [4.88] and size('real/relion31.v2.star') == [2.806]   # group 7; optics after the particles
    one = read_metadata(shared/'real/sample_particles_relion30.star').table, read_metadata(shared/'real/sample_particles_relion31.star').table
    assert [set(t.apix.round(3)) for t in one] == [{1.338}, {1.4}] and [(t.kV == 300).sum() for t in one] == [8, 8]     # the first 8 rows are of group 1

def test_tilt_series(shared):
    "One group a particle, 8 or 10 tilts each; and none in ordinary files"
    md = read_metadata(shared/'sim10076_DE/10076_both_32_sim.star')
    assert md.table.groupby('group').size().unique().tolist() == [8, 10] and (md.table.bfactor > 0).all()
    assert 'group' not in read_metadata(shared/'real/sample_particles_relion31.star').table

def test_ordinary_groups_are_no_tilt_series(tmp_path):
    "Particles of one micrograph share rlnGroupName and the B-factor"
    text = '\ndata_\n\nloop_\n_rlnImageName\n_rlnGroupName\n_rlnCtfBfactor\n_rlnCtfScalefactor\n'
    (tmp_path/'a.star').write_text(text + '1@a.mrcs g1 0 1\n2@a.mrcs g1 0 1\n3@a.mrcs g2 0 1\n')
    (tmp_path/'b.star').write_text(text + '1@a.mrcs g1 -4 1\n2@a.mrcs g1 -8 .99\n3@a.mrcs g2 -4 1\n')
    (tmp_path/'c.star').write_text(text + '1@a.mrcs g1 -4 1\n2@a.mrcs g2 -8 .99\n')
    assert ['group' in read_metadata(tmp_path/f).table for f in ('a.star', 'b.star', 'c.star')] == [False, True, False]
    assert read_metadata(tmp_path/'b.star').table.group.tolist() == [0, 0, 1]
    (tmp_path/'d.star').write_text(text.replace('GroupName', 'TomoParticleName') + '1@a.mrcs x/2 0 1\n2@a.mrcs x/1 0 1\n3@a.mrcs x/2 0 1\n')
    assert read_metadata(tmp_path/'d.star').table.group.tolist() == [0, 1, 0]


# Star files with edges

def test_two_optics_groups(two_groups):
    t = read_metadata(two_groups).table
    assert t.apix.tolist() == [2, 1, 2] and t.kV.tolist() == [200, 300, 200] and t.bfactor.tolist() == [0, 4, 0]
    assert t.tx.tolist() == [1, 1, 3]

def test_only_what_changed(two_groups, tmp_path):
    md = read_metadata(two_groups)
    R, t = md.poses()
    R[2] = R[2] @ Rotation.from_euler('z', 5, degrees=True).as_matrix()
    new = md.with_poses(R, t)
    new = replace(new, table=new.table.assign(stack=['a.mrcs', 'b.mrcs', 'a.mrcs'], apix=md.table.apix*2))
    write_metadata(tmp_path/'new.star', new, box=32)
    was, now = md.source, read_metadata(tmp_path/'new.star')
    diff = was.particles != now.source.particles
    assert np.argwhere(diff.to_numpy()).tolist() == [[1, 0], [2, 1], [2, 2], [2, 3]]     # all three angles of row 2: its tilt was negative
    assert now.source.particles.rlnImageName.tolist() == ['1@a.mrcs', '000002@b.mrcs', '3@a.mrcs']
    assert now.source.optics.rlnImagePixelSize.tolist() == ['2', '4'] and set(now.source.optics.rlnImageSize) == {'32'}
    assert list(now.source.particles) == list(was.particles) and list(now.source.optics) == list(was.optics)
    assert np.allclose(now.poses()[0], R, atol=1e-7) and np.allclose(now.poses()[1], t)

def test_pixel_origins_follow_the_pixel_size(tmp_path):
    "RELION 3.0: origins in px stay the same move in Å when the images are downsampled"
    (tmp_path/'a.star').write_text('\ndata_images\nloop_\n_rlnImageName\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n_rlnOriginX\n_rlnOriginY\n_rlnMagnification\n_rlnDetectorPixelSize\n'
                                   '1@a.mrcs 1 2 3 4 -6 50000 5\n')
    md = read_metadata(tmp_path/'a.star')
    assert md.table.apix[0] == 1 and md.table[['tx', 'ty']].to_numpy().tolist() == [[4, -6]]
    write_metadata(tmp_path/'b.star', replace(md, table=md.table.assign(apix=2.)), box=32)
    b = read_metadata(tmp_path/'b.star')
    assert list(b.source.particles) == list(md.source.particles)
    assert b.source.particles.iloc[0].tolist() == ['1@a.mrcs', '1', '2', '3', '2', '-3', '50000', '10']
    assert b.table[['apix', 'tx', 'ty']].to_numpy().tolist() == [[2, 4, -6]]

def test_missing_shifts(two_groups, tmp_path):
    text = two_groups.read_text().replace('OriginX', 'Was').replace('OriginY', 'Were')
    (tmp_path/'bare.star').write_text(text)
    with pytest.raises(MetadataError, match=r"no rlnOriginX\(Angst\) in .*bare.star: pass shifts='centred' if the particles are centred"): read_metadata(tmp_path/'bare.star')
    md = read_metadata(tmp_path/'bare.star', shifts='centred')
    assert (md.poses()[1] == 0).all()
    write_metadata(tmp_path/'said.star', md)
    assert (read_metadata(tmp_path/'said.star').poses()[1] == 0).all()
    with pytest.raises(ValueError, match='neither None nor'): read_metadata(tmp_path/'bare.star', shifts='yes')
    (tmp_path/'px.star').write_text(text.replace('_rlnWasAngst', '_rlnOriginX').replace('_rlnWereAngst', '_rlnOriginY').replace('ImagePixel', 'Other'))
    with pytest.raises(MetadataError, match='in px, and no pixel size is given: pass apix='): read_metadata(tmp_path/'px.star')
    assert read_metadata(tmp_path/'px.star', apix=3).table.tx.tolist() == [3, 3, 9]

def test_no_pose_no_pose_columns(tmp_path):
    (tmp_path/'a.star').write_text('data_\nloop_\n_rlnImageName\n_rlnAnglePsi\n1@a.mrcs 3\n')
    md = read_metadata(tmp_path/'a.star')
    assert list(md.table) == ['stack', 'index']
    with pytest.raises(MetadataError, match='no poses in'): md.poses()

@pytest.mark.parametrize('change, message', [
    (lambda s: s.replace('12 one', '11 one'), r'optics group 12 is not in data_optics of .*two.star, which has \[11, 3\]'),
    (lambda s: s.replace('_rlnImageName', '_rlnName'), r'no rlnImageName in .*two.star \(blocks: optics, particles\)'),
    (lambda s: s.replace('3@a.mrcs 10 -20 30 3 4 3 0 <NA>', '3@a.mrcs 10 -20'), 'data_particles of .* row 2 is short'),
    (lambda s: s.replace('_rlnMyOwn\n', ''), 'names 8 columns, found rows of 9 values'),
    (lambda s: s.replace(' 001', ' 001 7'), 'data_particles of .*two.star'),
    (lambda s: s.replace('3@a.mrcs 10', '3@a.mrcs ten'), "rlnAngleRot in .* is no number in 1 rows: row 2 has 'ten'"),
    (lambda s: s.replace('3@a.mrcs 10', '3@a.mrcs nan'), "rlnAngleRot in .* row 2 has 'nan'"),
    (lambda s: s.replace('2@a', 'x@a'), "rlnImageName in .* row 1 has 'x'"),
    (lambda s: s.replace('data_optics', 'data_particles'), 'data_particles of .* is there twice'),
    (lambda s: s.replace('data_', 'date_'), 'no data_ block in .*two.star: is it a star file'),
    (lambda s: s.replace('_rlnOpticsGroup\n', '_rlnOther\n'), '2 optics groups but no rlnOpticsGroup for each particle'),
])
def test_star_errors(two_groups, change, message):
    two_groups.write_text(change(two_groups.read_text()))
    with pytest.raises(MetadataError, match=message): read_metadata(two_groups)

@pytest.mark.parametrize('change', [
    lambda s: s.replace('\n', '\r\n'), lambda s: s.replace(' ', '\t'), lambda s: s.replace(' ', '  \t '), lambda s: '\ufeff' + s, lambda s: s.rstrip('\n'),
    lambda s: s.replace('\n2@', '\n# a comment\n\n   # another, "quoted\n2@'), lambda s: s.replace('_rlnMyOwn', '_rlnMyOwn #9 (mine)\n# so\n\n'),
    lambda s: s.replace('loop_', 'loop_ ').replace('data_', '  data_'), lambda s: s.replace('10 20', '"10" \'20\''), lambda s: s.replace('001', '001 # it\'s mine'),
    lambda s: '# version 50001\n' + s + '\n\n# end\n', lambda s: PARTICLES + OPTICS,
], ids=['crlf', 'tabs', 'wide', 'bom', 'no last newline', 'comments between rows', 'comment after names', 'spaces after loop_', 'quotes', 'comment after values', 'version', 'optics last'])
def test_star_spellings(two_groups, change):
    "The same file in other people's spelling"
    md = read_metadata(two_groups)
    two_groups.write_bytes(change(two_groups.read_text()).encode())
    again = read_metadata(two_groups)
    pd.testing.assert_frame_equal(md.table, again.table)
    pd.testing.assert_frame_equal(md.source.particles, again.source.particles)

def test_odd_values_survive(tmp_path):
    "Spaces, apostrophes, # inside a value, empty text, numbers as text, single values, an empty loop"
    (tmp_path/'a.star').write_text('''
data_general
_rlnTomoSubTomosAre2DStacks 1
_rlnNote "two words" # and a comment

data_nothing
loop_
_rlnA
_rlnB

data_particles
loop_
_rlnImageName
_rlnMicrographName
_rlnCenteredCoordinateXAngst
_rlnTomoVisibleFrames
'1@my stack.mrcs' it's#1.mrc 0001.50 [1,1,0]
2@b.mrcs "" 1e-9 [1,1,1]
''')
    blocks = read_star(tmp_path/'a.star')
    assert blocks['general'] == {'rlnTomoSubTomosAre2DStacks': '1', 'rlnNote': 'two words'} and list(blocks['nothing']) == ['rlnA', 'rlnB']
    md = read_metadata(tmp_path/'a.star')
    assert md.table['stack'].tolist() == ['my stack.mrcs', 'b.mrcs'] and md.table.micrograph.tolist() == ["it's#1.mrc", '']
    write_metadata(tmp_path/'b.star', md)
    equal_blocks(blocks, read_star(tmp_path/'b.star'))

def test_group_must_agree(two_groups, tmp_path):
    md = read_metadata(two_groups)
    with pytest.raises(MetadataError, match='rlnImagePixelSize differs within optics group 3'):
        write_metadata(tmp_path/'a.star', replace(md, table=md.table.assign(apix=[1., 2., 3.])))

def test_new_star_is_relion31(tmp_path):
    "Optics groups, names and units as RELION 4 and 5 import them; starfile reads it"
    t = made(kV=[300., 200]*3, apix=[1.5, 1.5, 1.5, 3, 3, 3], group=[0, 0, 1, 1, 2, 2])
    write_metadata(tmp_path/'a.star', Metadata(t), box=16)
    blocks = starfile.read(tmp_path/'a.star')
    optics, p = blocks['optics'], blocks['particles']
    assert len(optics) == 4 and set(optics.rlnImageSize) == {16} and set(optics.rlnImageDimensionality) == {2}
    assert {'rlnOpticsGroup', 'rlnOpticsGroupName', 'rlnImagePixelSize', 'rlnVoltage', 'rlnSphericalAberration', 'rlnAmplitudeContrast'} <= set(optics)
    assert {'rlnImageName', 'rlnMicrographName', 'rlnOpticsGroup', 'rlnAngleRot', 'rlnAngleTilt', 'rlnAnglePsi', 'rlnOriginXAngst', 'rlnOriginYAngst', 'rlnRandomSubset',
            'rlnDefocusU', 'rlnDefocusV', 'rlnDefocusAngle', 'rlnPhaseShift'} <= set(p) and not {'rlnOriginX', 'rlnDetectorPixelSize'} & set(p)
    assert p.rlnImageName[0] == '000001@a.mrcs' and optics.set_index('rlnOpticsGroup').rlnVoltage[p.rlnOpticsGroup].tolist() == t.kV.tolist()
    same(t, read_metadata(tmp_path/'a.star').table)

def test_poles(tmp_path):
    "Tilt 0 and 180, where rot and psi are one angle"
    R = Rotation.from_euler('ZYZ', [[10, 0, 20], [10, 180, 20], [0, 0, 0], [-170, 90, 180]], degrees=True).inv().as_matrix()
    md = Metadata(made(4)).with_poses(R, np.zeros((4, 2)))
    write_metadata(tmp_path/'a.star', md)
    assert np.abs(read_metadata(tmp_path/'a.star').poses()[0] - R).max() < 1e-7


def test_optics_without_a_loop(tmp_path):
    (tmp_path/'a.star').write_text('data_optics\n_rlnOpticsGroup 1\n_rlnImagePixelSize 1.5\n\ndata_particles\nloop_\n_rlnImageName\n_rlnOpticsGroup\n1@a.mrcs 1\n')
    assert read_metadata(tmp_path/'a.star').table.apix.tolist() == [1.5]

def test_subtomograms_are_refused(two_groups, tmp_path):
    text = two_groups.read_text()
    (tmp_path/'solid.star').write_text(text.replace('_rlnImageSize', '_rlnImageDimensionality').replace(' 64\n', ' 3\n'))
    with pytest.raises(MetadataError, match='solid.star lists 3-D subtomograms'): read_metadata(tmp_path/'solid.star')
    (tmp_path/'tilts.star').write_text(text.replace('rlnMyOwn', 'rlnTomoVisibleFrames').replace('1@', '').replace('2@', ''))
    with pytest.raises(MetadataError, match='tilts.star lists 2-D tilt stacks'): read_metadata(tmp_path/'tilts.star')
    (tmp_path/'bytes.star').write_bytes(b'\x93NUMPY\xff\xfe')
    with pytest.raises(MetadataError, match='is not text'): read_metadata(tmp_path/'bytes.star')

def test_nothing_left(two_groups, tmp_path):
    "An empty selection, an empty file"
    with pytest.raises(MetadataError, match='no particles to write to .*a.star: the selection is empty'): write_metadata(tmp_path/'a.star', read_metadata(two_groups).take([]))
    two_groups.write_text(two_groups.read_text().split('1@a')[0])
    with pytest.raises(MetadataError, match='two.star lists no particles'): read_metadata(two_groups)


# cryoSPARC

@tables
def test_cs_round_trip(path, tmp_path):
    md = read_metadata(path)
    write_metadata(tmp_path/'back.cs', md)
    a, b = np.load(path), np.load(tmp_path/'back.cs')
    assert a.dtype == b.dtype and (a == b).all()

@tables
def test_cs_to_star_and_back(path, tmp_path):
    "The particles are the same in RELION's words, and in cryoSPARC's again"
    md = read_metadata(path)
    write_metadata(tmp_path/'a.star', md)
    star = read_metadata(tmp_path/'a.star')
    lost = [c for c in ('sign',) if c in md.table]
    same(md.table.drop(columns=lost), star.table)
    write_metadata(tmp_path/'b.cs', star, box=180)
    same(md.table.drop(columns=lost), read_metadata(tmp_path/'b.cs').table.drop(columns=['sign', *{'bfactor'} - set(md.table)]))

def test_groups_and_what_is_left_out(tmp_path):
    "Optics groups of one program are exposure groups of the other; what has no place there is named"
    t = made()
    star = Star.new(t.assign(optics=[1, 1, 2, 2, 2, 3], kV=[300.]*2 + [200.]*4), 16)
    star = replace(star, blocks={**star.blocks, 'particles': star.particles.assign(rlnBeamTiltX='0.000', rlnCoordinateX='12.5')})
    star.write(tmp_path/'a.star')
    with pytest.warns(UserWarning, match='^rlnCoordinateX of .*a.star have no place in a .cs'): write_metadata(tmp_path/'b.cs', read_metadata(tmp_path/'a.star'), box=16)
    assert Cs.read(tmp_path/'b.cs')['ctf/exp_group_id'].tolist() == [1, 1, 2, 2, 2, 3] and Cs.read(tmp_path/'b.cs')['ctf/accel_kv'].tolist() == [300.]*2 + [200.]*4
    write_metadata(tmp_path/'c.star', read_metadata(tmp_path/'b.cs'))
    blocks = read_star(tmp_path/'c.star')
    assert blocks['particles'].rlnOpticsGroup.tolist() == list('112223') and blocks['optics'].rlnVoltage.tolist() == ['300', '200', '200']
    cs = Cs.read(tmp_path/'b.cs')
    with pytest.warns(UserWarning, match='^ctf/tilt_A of'): write_metadata(tmp_path/'d.star', Metadata(cs.table(), replace(cs, array=with_fields(cs.array, {'ctf/tilt_A': np.ones((6, 2), 'f4')})), tmp_path/'b.cs'))

def test_one_particle_one_rotation(tmp_path):
    "The .star and the .cs of one particle set give one R, by the formulae of the programs themselves"
    rot, tilt, psi = np.random.default_rng(0).uniform(0, 180, (3, 20))
    relion = Rotation.from_euler('ZYZ', np.stack([rot, tilt, psi], 1), degrees=True)        # as cs2star programs do: R_cs = rotvec(pose) is RELION's ZYZ
    pose = relion.as_rotvec().astype('f4')
    write_star(tmp_path/'a.star', {'particles': pd.DataFrame({'rlnImageName': ['1@a.mrcs']*20, 'rlnAngleRot': rot, 'rlnAngleTilt': tilt, 'rlnAnglePsi': psi, 'rlnOriginXAngst': 3., 'rlnOriginYAngst': -6.})})
    a = with_fields(np.empty(20, []), {'uid': np.arange(20, dtype='u8'), 'blob/path': np.full(20, b'>a.mrcs'), 'blob/idx': np.zeros(20, 'u4'),
                    'alignments3D/pose': pose, 'alignments3D/shift': np.tile(np.float32([1, -2]), (20, 1)), 'alignments3D/psize_A': np.full(20, 3, 'f4')})
    Cs(a).write(tmp_path/'a.cs')
    (R, t), (R2, t2) = read_metadata(tmp_path/'a.star').poses(), read_metadata(tmp_path/'a.cs').poses()
    assert np.abs(R - R2).max() < 1e-6 and np.abs(t - t2).max() < 1e-6 and read_metadata(tmp_path/'a.cs').table['stack'][0] == 'a.mrcs'

def test_one_set_two_files(shared):
    "The seven particles of EMPIAR-10076, as .star and as .cs"
    star, cs = (read_metadata(shared/f'empiar10076/particles/empiar_10076_7.{end}').table for end in ('star', 'cs'))
    both = [c for c in star if c in cs]
    assert len(both) == 9
    pd.testing.assert_frame_equal(star[both], cs[both], check_dtype=False, rtol=1e-6)
    assert (cs.sign == -1).all()

def passthrough(folder, side_uids=None, order=None):
    "A job's particles without blob and ctf, and a sidecar with them"
    write_metadata(folder/'whole.cs', Metadata(made()), box=16)
    a = np.load(folder/'whole.cs')
    os.remove(folder/'whole.cs')
    kept = [n for n in a.dtype.names if n.startswith(('uid', 'alignments3D'))]
    gone = ['uid', *(n for n in a.dtype.names if n not in kept)]
    pick = lambda names, rows: Cs(with_fields(np.empty(len(rows), []), {n: a[n][rows] for n in names}))
    pick(kept, np.arange(6)).write(folder/'P1_J42_particles.cs')
    pick(gone, order if order is not None else np.arange(6)).write(folder/'P1_J42_passthrough_particles.cs')
    return folder/'P1_J42_particles.cs'

def test_passthrough(tmp_path):
    path = passthrough(tmp_path, order=[3, 1, 5, 0, 2, 4])
    md = read_metadata(path)
    same(made(), md.table.drop(columns='sign'))
    write_metadata(tmp_path/'out.cs', md.take([4, 2]))
    same(made().iloc[[4, 2]].reset_index(drop=True), read_metadata(tmp_path/'out.cs').table.drop(columns='sign'))

def test_passthrough_of_others(tmp_path):
    "A sidecar that lists other particles is passed over, and missed"
    path = passthrough(tmp_path, order=[0, 1, 2])
    with pytest.raises(MetadataError, match='no blob/path in .*P1_J42_particles.cs, nor in a'): read_metadata(path)

def test_classes(tmp_path):
    "alignments3D_multi and alignments_class_k: the class of highest posterior; alignments2D is no pose in 3-D"
    g, n, K = np.random.default_rng(0), 8, 3
    pose, shift, post = g.normal(size=(n, K, 3)).astype('f4'), g.normal(size=(n, K, 2)).astype('f4'), g.random((n, K)).astype('f4')
    blob = {'uid': np.arange(n, dtype='u8'), 'blob/path': np.full(n, 'a.mrcs'), 'blob/idx': np.arange(n, dtype='u4'), 'blob/psize_A': np.full(n, 2, 'f4')}
    flat = {'alignments2D/pose': np.ones(n, 'f4'), 'alignments2D/shift': np.ones((n, 2), 'f4')}
    multi = {'alignments3D_multi/pose': pose, 'alignments3D_multi/shift': shift, 'alignments3D_multi/class_posterior': post, 'alignments3D_multi/psize_A': np.full(n, 3, 'f4')}
    per = {f'alignments_class_{k}/{f}': v for k in range(K) for f, v in {'pose': pose[:, k], 'shift': shift[:, k], 'class_posterior': post[:, k], 'psize_A': np.full(n, 3, 'f4')}.items()}
    single = {k: v for k, v in per.items() if 'class_0/' in k and 'posterior' not in k}
    best = post.argmax(1)
    for name, fields, k in [('multi', multi, best), ('per', per, best), ('single', single, np.zeros(n, int))]:
        Cs(with_fields(np.empty(n, []), blob | flat | fields)).write(tmp_path/f'{name}.cs')
        R, t = read_metadata(tmp_path/f'{name}.cs').poses()
        assert np.allclose(R, Rotation.from_rotvec(pose[np.arange(n), k]).inv().as_matrix(), atol=1e-6)
        assert np.allclose(t, shift[np.arange(n), k]*3, atol=1e-6)
    md = read_metadata(tmp_path/'multi.cs')
    write_metadata(tmp_path/'moved.cs', md.with_poses(R, t + 1))
    back = read_metadata(tmp_path/'moved.cs')
    assert np.allclose(back.poses()[0], R, atol=1e-6) and np.allclose(back.poses()[1], t + 1, atol=1e-5)
    assert (back.source['alignments3D_multi/pose'] == pose).all()
    Cs(with_fields(np.empty(n, []), blob | flat)).write(tmp_path/'flat.cs')
    assert 'rx' not in read_metadata(tmp_path/'flat.cs').table
    Cs(with_fields(np.empty(n, []), {k: v for k, v in (blob | multi).items() if 'posterior' not in k})).write(tmp_path/'unknown.cs')
    with pytest.raises(MetadataError, match='several classes, but no alignments3D_multi/class_posterior'): read_metadata(tmp_path/'unknown.cs')

def test_cs_says_what_is_missing(tmp_path):
    blob = {'blob/path': np.full(2, b'a.mrcs'), 'blob/idx': np.arange(2, dtype='u4'), 'alignments3D/pose': np.zeros((2, 3), 'f4')}
    Cs(with_fields(np.empty(2, []), blob)).write(tmp_path/'a.cs')
    with pytest.raises(MetadataError, match="no alignments3D/shift in .*a.cs: pass shifts='centred'"): read_metadata(tmp_path/'a.cs')
    with pytest.raises(MetadataError, match='no alignments3D/psize_A in .*a.cs'): read_metadata(tmp_path/'a.cs', shifts='centred')
    assert read_metadata(tmp_path/'a.cs', shifts='centred', apix=2).table.tx.tolist() == [0, 0]
    np.save(tmp_path/'b.npy', np.eye(3)); os.rename(tmp_path/'b.npy', tmp_path/'b.cs')
    with pytest.raises(MetadataError, match='plain array'): read_metadata(tmp_path/'b.cs')
    np.save(tmp_path/'c.npy', np.array([{}]), allow_pickle=True); os.rename(tmp_path/'c.npy', tmp_path/'c.cs')
    with pytest.raises(MetadataError, match='no cryoSPARC table'): read_metadata(tmp_path/'c.cs')
    with pytest.raises(MetadataError, match='needs the box and the pixel size'): write_metadata(tmp_path/'d.cs', Metadata(made()))

def test_only_changed_fields(shared, tmp_path):
    "Downsampled stacks: names (longer than before), slices, pixel size and box; everything else bit for bit"
    md = read_metadata(shared/'golden/cryosparc_P12_J24_001_particles.cs').take([5, 3, 900])
    name = 'a/much/longer/path/' + 'x'*100 + '.mrcs'
    new = replace(md, table=md.table.assign(stack=name, index=np.arange(3), apix=5.9))
    write_metadata(tmp_path/'a.cs', new, box=90)
    a, b = md.source.array, np.load(tmp_path/'a.cs')
    differ = [n for n in a.dtype.names if (a[n] != b[n]).any()]
    assert differ == ['blob/path', 'blob/idx', 'blob/shape', 'blob/psize_A'] and a.dtype.names == b.dtype.names
    back = read_metadata(tmp_path/'a.cs')
    assert np.allclose(back.poses()[1], md.poses()[1]) and set(back.table['stack']) == {name}

def test_new_cs_types(shared, tmp_path):
    "Fields of a new .cs have the types of cryoSPARC's own"
    write_metadata(tmp_path/'a.cs', Metadata(made(sign=-1)), box=16)
    new, own = np.load(tmp_path/'a.cs').dtype, [np.load(p).dtype for p in here('*.cs')]
    for n in new.names:
        like = [d[n] for d in own if n in d.names]
        if like and like[0].kind != 'S': assert new[n] == like[0], n
        if like and like[0].kind == 'S': assert new[n].kind == 'S', n
    assert len(set(np.load(tmp_path/'a.cs')['uid'])) == 6


# Records

def test_take_keeps_table_and_source_together(two_groups):
    md = read_metadata(two_groups)
    part = md.take(np.array([True, False, True]))
    assert len(part) == 2 and part.table['index'].tolist() == [0, 2] and part.source.particles.rlnImageName.tolist() == ['1@a.mrcs', '3@a.mrcs']
    assert part.take([1]).source.table()['index'].tolist() == [2] and len(md) == 3
    with pytest.raises(IndexError): md.take([7])
    with pytest.raises(IndexError): md.take(np.array([True, False]))
    assert len(md.take([])) == 0

def test_nothing_is_mutated(two_groups, tmp_path):
    md = read_metadata(two_groups)
    before, table = {k: v.copy() for k, v in md.source.blocks.items()}, md.table.copy()
    new = md.with_poses(*Metadata(made(3)).poses())
    write_metadata(tmp_path/'a.star', replace(new, table=new.table.assign(apix=9.)))
    equal_blocks(before, md.source.blocks)
    pd.testing.assert_frame_equal(md.table, table)

def test_atomic(tmp_path, two_groups):
    "A write that fails leaves the old file and nothing else"
    md, old = read_metadata(two_groups), two_groups.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        with atomic(two_groups) as tmp:
            tmp.write_text('half')
            raise KeyboardInterrupt
    assert two_groups.read_bytes() == old and os.listdir(tmp_path) == ['two.star']
    write_metadata(two_groups, md)
    assert os.listdir(tmp_path) == ['two.star'] and (two_groups.stat().st_mode & 0o777) == 0o666 & ~umask()

def test_atomic_names_the_file(tmp_path):
    "Not the temporary one beside it; what went wrong elsewhere is left alone"
    for known in (True, False):
        with pytest.raises(OSError, match=r"cannot be written: No space.*/x\.csv'$"), atomic(tmp_path/'x.csv') as tmp: raise OSError(28, 'No space left on device', *[str(tmp)]*known)
    with pytest.raises(BrokenPipeError, match='^.Errno 32. elsewhere$'), atomic(tmp_path/'x.csv') as tmp: raise BrokenPipeError(32, 'elsewhere')
    with pytest.raises(FileNotFoundError, match='other.star'), atomic(tmp_path/'x.csv') as tmp: open(tmp_path/'other.star')
    assert not os.listdir(tmp_path)

def umask():
    os.umask(m := os.umask(0))
    return m

def test_endings(tmp_path):
    (tmp_path/'a.csv').write_text('')
    with pytest.raises(MetadataError, match='ends in none of'): read_metadata(tmp_path/'a.csv')
    with pytest.raises(MetadataError, match='neither .star nor .cs'): write_metadata(tmp_path/'a.csv', Metadata(made()))
    with pytest.raises(FileNotFoundError, match='no file .*b.star'): read_metadata(tmp_path/'b.star')
    for name in ('run.star', 'z.cs'): (tmp_path/name).write_text('')
    with pytest.raises(FileNotFoundError, match='no file .*b.star .*there are run.star, z.cs$'): read_metadata(tmp_path/'b.star')
    with pytest.raises(FileNotFoundError, match='is a folder: name a file in it; there are run.star, z.cs$'): read_metadata(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'no file .*b.star \(seen from [^;]*\)$'): read_metadata(tmp_path/'not'/'b.star')


# cryoDRGN

@pytest.mark.parametrize('source, poses, ctf, D', [
    ('golden/cryosparc_P12_J24_001_particles.cs', 'golden/pose.cs.pkl', 'golden/ctf2.pkl', 180),
    ('golden/FinalRefinement-OriginalParticles-PfCRT.star', 'golden/pose.star.pkl', 'golden/ctf1.pkl', 300),
    ('sim10076_DE/10076_classD_32_sim.star', 'sim10076_DE/pose_classD.pkl', None, 32),
    ('sim10076_DE/10076_classE_32_sim.star', 'sim10076_DE/pose_classE.pkl', None, 32)])
def test_golden_pairs(shared, source, poses, ctf, D, tmp_path):
    "What cryoDRGN made of a file is what we make of it: rotations to 1e-5, shifts to 1e-4 px, CTF exactly"
    md = read_metadata(shared/source)
    apix = md.table.apix[0]
    R, t = md.poses()
    R2, t2 = read_cryodrgn_poses(shared/poses, D, apix)
    assert np.abs(R - R2).max() < 1e-5 and np.abs(t - t2).max()/apix < 1e-4
    if not ctf: return
    theirs = read_cryodrgn_ctf(shared/ctf).astype('f4')
    assert (theirs.box == D).all()
    for c in theirs.columns[1:]:
        if c in md.table: assert (md.table[c].to_numpy('f4') == theirs[c].to_numpy()).all(), c
    missing = [c for c in theirs.columns[1:] if c not in md.table]
    assert missing == (['w'] if 'star' in source else [])
    full = replace(md, table=md.table.assign(**{c: theirs[c] for c in missing}))
    for ours, their in zip(write_cryodrgn(tmp_path, full, D), (poses, ctf)):
        a, b = safe_load(ours), safe_load(shared/their)
        for x, y in zip(*((a, b) if isinstance(a, tuple) else ((a,), (b,)))): assert x.shape == y.shape and np.abs(x - y).max() <= 1e-6*np.abs(y).max()

def test_wrong_conventions_fail(shared):
    "The golden pairs would notice a transpose or a sign"
    md = read_metadata(shared/'golden/cryosparc_P12_J24_001_particles.cs')
    R, t = read_cryodrgn_poses(shared/'golden/pose.cs.pkl', 180, 2.95)
    assert np.abs(md.poses()[0].transpose(0, 2, 1) - R).max() > .5 and np.abs(md.poses()[1] + t).max() > 1

def test_indices(shared, tmp_path):
    a, b = read_indices(shared/'empiar10076/filtered.ind.pkl'), read_indices(shared/'ctf/empiar10028_filtered.ind.pkl')     # an array; a list
    assert (len(a), len(b)) == (87327, 93852) and a.dtype == b.dtype == np.int64
    assert len(read_cryodrgn_ctf(shared/'ctf/empiar10028_ctf.pkl')) == 105247 and len(safe_load(shared/'sim10076_DE/labels_D-0_E-1.pkl')) == 144
    for end in ('.npy', '.txt'):
        write_indices(tmp_path/f'i{end}', b)
        assert (read_indices(tmp_path/f'i{end}') == b).all()
    with pytest.raises(MetadataError, match='not a list of indices'): read_indices(shared/'golden/ctf1.pkl')
    with pytest.raises(MetadataError, match='not CTFs'): read_cryodrgn_ctf(shared/'sim10076_DE/labels_D-0_E-1.pkl')
    with pytest.raises(ValueError, match='1-D integers'): write_indices(tmp_path/'x.npy', [.5])

@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('value', [np.arange(6.).reshape(2, 3), np.asfortranarray(np.arange(6, dtype='>i4').reshape(2, 3)), np.float64(2), np.array(['ab', 'c']), np.zeros((0, 3)),
    (np.eye(3, dtype='f4'), np.zeros(2)), [np.int64(1), np.int64(2)], {'a': [1, 2.5, None, True, 'x', b'y']}, np.array([True, False])], ids=str)
def test_pickles_of_numpy(value, protocol, tmp_path):
    "Arrays, scalars and containers in every protocol, in numpy's old spelling and its new one"
    (tmp_path/'a.pkl').write_bytes(raw := pickle.dumps(value, protocol))
    for spelling in (b'numpy._core', b'numpy.core'):
        if protocol < 4: (tmp_path/'a.pkl').write_bytes(raw.replace(b'cnumpy._core', b'c' + spelling))
        got = safe_load(tmp_path/'a.pkl')
        assert type(got) is type(value)
        np.testing.assert_equal(got, value)

class Calls:
    def __init__(self, f, *args): self.f, self.args = f, args
    def __reduce__(self): return self.f, self.args

DT = lambda code, state=b"(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb": b'cnumpy\ndtype\n(S\'' + code + b"'\nI0\nI1\ntR" + state
SCALAR = b'cnumpy.core.multiarray\nscalar\n('
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
EVIL = dict(
    system=(lambda: pickle.dumps(Calls(os.system, 'touch boom')), r'(posix|nt)\.system'),
    evaluate=(lambda: pickle.dumps((np.eye(3), [Calls(eval, '1')])), r'builtins\.eval'),
    old=(lambda: b"cos\nsystem\n(S'touch boom'\ntR.", r'os\.system'),
    getattr=(lambda: b'c__builtin__\ngetattr\n(cnumpy\ndtype\nS\'x\'\ntR.', 'builtins.getattr|__builtin__.getattr'),
    dotted=(lambda: b'\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.', r'numpy\.ndarray\.__class__'),
    dotted_deep=(lambda: b'\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93.', r'numpy\.f2py\.os\.system'),
    load=(lambda: b"cnumpy\nload\n(S'x.npy'\ntR.", r'numpy\.load'),
    loads=(lambda: pickle.dumps(Calls(pickle.loads, pickle.dumps(Calls(os.system, 'touch boom')))), r'_pickle\.loads'),
    codec=(lambda: b"c_codecs\nencode\n(S'abc'\nS'zlib'\ntR.", "the codec 'zlib'"),
    object_array=(lambda: pickle.dumps(np.array([Calls(os.system, 'touch boom')], object)), "an array of 'O8'|system"),
    object_plain=(lambda: pickle.dumps(np.array([1, 'a'], object)), "an array of 'O8'"),
    object_scalar=(lambda: SCALAR + DT(b'O8', b'') + b"S'cos\\nsystem\\n.'\ntR.", "an array of 'O8'"),
    record=(lambda: pickle.dumps(np.zeros(2, [('a', 'O')])), 'an array of'),
    forged_dtype=(lambda: SCALAR + DT(b'f8', b"(I3\nS'<'\nN(S'a'\nt(dS'a'\n(cnumpy\ndtype\n(S'f8'\nI0\nI1\ntRI0\ntsI8\nI1\nI0\ntb") + b"S'aaaaaaaa'\ntR.", 'state of a _DType|no pickle of arrays'),
    short_scalar=(lambda: SCALAR + DT(b'f8') + b"C\x01atR.", 'no pickle of arrays'),
    short_array=(lambda: ARRAY + b'(I1\n(I1000000\nt' + DT(b'f8') + b'I0\nC\x08aaaaaaaatb.', 'no pickle of arrays'),
    huge_bytes=(lambda: SCALAR + DT(b'f8') + b'L99999999999999L\ntR.', 'an array made of int'),
    list_data=(lambda: ARRAY + b'(I1\n(I1\nt' + DT(b'f8') + b'I0\n]tb.', 'state of a ndarray'),
    extension=(lambda: b'\x80\x02\x82\x07.', 'registered extension 7'),
    persistent=(lambda: b'Pmy_id\n.', "persistent object 'my_id'"),
    build_function=(lambda: b'cnumpy\ndtype\n}S\'__code__\'\nNsb.', 'state of a function'),
    instance=(lambda: b"(S'touch boom'\nios\nsystem\n.", r'os\.system'),
    newobj=(lambda: pickle.dumps(Path('x'), 4), 'pathlib'),
    pandas=(lambda: pickle.dumps(pd.DataFrame({'a': [1]})), 'pandas'),
    torch=(lambda: b'ctorch._utils\n_rebuild_tensor_v2\n(tR.', r'torch\._utils\._rebuild_tensor_v2'),
    cut=(lambda: pickle.dumps(np.eye(30))[:200], 'no pickle of arrays'),
    text=(lambda: b'hello', 'no pickle of arrays'), empty=(lambda: b'', 'no pickle of arrays'))

@pytest.mark.parametrize('name', EVIL)
def test_evil_pickles(name, tmp_path, monkeypatch):
    "Nothing is run, and the error names what would have been, and the file"
    make, message = EVIL[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path/'evil.pkl').write_bytes(make())
    with pytest.raises(MetadataError, match=message) as e: safe_load(tmp_path/'evil.pkl')
    assert 'evil.pkl' in str(e.value) and os.listdir(tmp_path) == ['evil.pkl']

def test_extension_cache(tmp_path):
    "A registered extension that an earlier, ordinary load has cached is refused too"
    copyreg.add_extension('os', 'getcwd', 241)
    try:
        assert pickle.loads(b'\x80\x02\x82\xf1.') is os.getcwd
        (tmp_path/'a.pkl').write_bytes(b'\x80\x02\x82\xf1)R.')
        with pytest.raises(MetadataError, match='extension 241'): safe_load(tmp_path/'a.pkl')
    finally: copyreg.remove_extension('os', 'getcwd', 241)

def test_poses_without_shifts(tmp_path):
    (tmp_path/'a.pkl').write_bytes(pickle.dumps(np.tile(np.eye(3), (4, 1, 1))))
    with pytest.raises(MetadataError, match="no shifts in .*a.pkl: pass shifts='centred'"): read_cryodrgn_poses(tmp_path/'a.pkl', 64, 1.)
    assert read_cryodrgn_poses(tmp_path/'a.pkl', 64, 1., shifts='centred')[1].shape == (4, 2)
    with pytest.raises(MetadataError, match='no dfu dfv'): write_cryodrgn(tmp_path, Metadata(made()[['apix', 'rx', 'ry', 'rz', 'tx', 'ty']]), 16)


# Stacks

MODES = {0: 'i1', 1: 'i2', 2: 'f4', 6: 'u2', 12: 'f2'}

def raw_mrc(images, mode, order='<', stamp=True, apix=1.5, ext=b''):
    "An MRC file by hand"
    n, y, x = images.shape
    h = np.zeros(1, mrcfile.dtypes.HEADER_DTYPE.newbyteorder(order))
    h['nx'], h['ny'], h['nz'], h['mode'], h['mx'], h['my'], h['mz'], h['nsymbt'] = x, y, n, mode, x, y, 1, len(ext)
    h['cella']['x'] = h['cella']['y'] = apix*x
    h['map'] = b'MAP '
    if stamp: h['machst'] = [0x44, 0x44, 0, 0] if order == '<' else [0x11, 0x11, 0, 0]
    return h.tobytes() + ext + images.astype(np.dtype(MODES[mode]).newbyteorder(order)).tobytes()

@pytest.mark.parametrize('pack', ['', '.gz', '.bz2'])
@pytest.mark.parametrize('stamp', [True, False], ids=['stamp', 'no stamp'])
@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('mode', MODES)
def test_modes(mode, order, stamp, pack, tmp_path):
    "Every mode, byte order, with and without machine stamp, plain and compressed, with an extended header"
    images = np.random.default_rng(0).integers(0, 100, (5, 8, 8)) - (50 if mode != 6 else 0)
    data = raw_mrc(images, mode, order, stamp, ext=b'x'*160)
    path = tmp_path/f'a.mrcs{pack}'
    path.write_bytes({'': bytes, '.gz': gzip.compress, '.bz2': bz2.compress}[pack](data))
    table = pd.DataFrame({'stack': path.name, 'index': [4, 0, 3, 3]})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        s = Stacks(table, root=tmp_path)
        x = s.images([3, 0, 1, 2])
    assert [str(w.message)[:16] for w in told] == ([] if stamp else ['no machine stamp'])
    assert x.dtype == np.float32 and (x == images[[3, 4, 0, 3]]).all() and s.headers[0].apix == 1.5
    with quiet(): assert len(read_metadata(path)) == 5

def test_one_warning_for_many(tmp_path):
    for i in range(5): (tmp_path/f'{i}.mrcs').write_bytes(raw_mrc(np.zeros((2, 8, 8)), 2, stamp=i > 1, apix=0))
    table = pd.DataFrame({'stack': [f'{i}.mrcs' for i in range(5)], 'index': 0})
    with pytest.warns(UserWarning, match=r'no machine stamp in 2 of 5 headers.*no pixel size in 5 of 5|no pixel size in 5 of 5.*no machine stamp in 2 of 5') as w: Stacks(table, tmp_path)
    assert len(w) == 1

def test_a_file_is_warned_of_once(tmp_path):
    "However often it is read in this process; a new one beside it is told of alone"
    for i in range(2): (tmp_path/f'{i}.mrcs').write_bytes(raw_mrc(np.zeros((2, 8, 8)), 2, apix=0))
    read = lambda n: Stacks(pd.DataFrame({'stack': [f'{i}.mrcs' for i in range(n)], 'index': 0}), tmp_path)
    with pytest.warns(UserWarning, match='no pixel size in 1 of 1 headers'): read(1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        read(1); read_metadata(tmp_path/'0.mrcs', apix=1.)
        read(2); read(2)
    assert [str(w.message).replace(str(tmp_path), '') for w in told] == ['no pixel size in 1 of 2 headers (such as /1.mrcs): read all the same']

def test_many_files_any_order(tmp_path):
    "Rows in any order over many files, against a plain reading of each"
    g = np.random.default_rng(0)
    data = [g.normal(size=(n, 8, 8)).astype('f4') for n in g.integers(1, 9, 40)]
    for i, x in enumerate(data): write_stack(tmp_path/f'{i}.mrcs', [x], len(x), 8, 1., dtype='f2' if i % 2 else 'f4')
    table = pd.DataFrame([(f'{i}.mrcs', j) for i, x in enumerate(data) for j in range(len(x))], columns=['stack', 'index']).sample(frac=1, random_state=0).reset_index(drop=True)
    s = Stacks(table, tmp_path)
    rows = g.integers(0, len(table), 300)
    want = np.stack([data[int(table['stack'][r][:-5])][table['index'][r]].astype('f2' if int(table['stack'][r][:-5]) % 2 else 'f4') for r in rows])
    assert (s.images(rows) == want).all() and s.images([]).shape == (0, 8, 8) and s.images(-1).shape == (1, 8, 8)
    assert len(os.listdir('/proc/self/fd')) < 200 if os.path.isdir('/proc/self/fd') else True

def test_stacks_travel_to_workers(tmp_path):
    write_stack(tmp_path/'a.mrcs', [np.ones((3, 8, 8))], 3, 8, 1.)
    s = pickle.loads(pickle.dumps(Stacks(pd.DataFrame({'stack': 'a.mrcs', 'index': range(3)}), tmp_path)))
    assert s.images([0]).sum() == 64

def test_empiar10076(shared, monkeypatch):
    "1.31 Å from the magnification, no pixel size in the header, a stack with .mrc ending, dark on light"
    folder = shared/'empiar10076/particles'
    monkeypatch.setattr('drgnbook.stacks._heard', set())
    with pytest.warns(UserWarning, match='no pixel size in 1 of 1 headers') as told: read = [(md, Stacks(md.table, md.path.parent)) for md in (read_metadata(folder/f'empiar_10076_7.{end}') for end in ('star', 'cs'))]
    assert len(told) == 1
    for md, s in read:
        assert len(s) == 7 and s.D == 320 and np.allclose(md.table.apix, 1.31, atol=1e-3)
    with quiet(), mrcfile.open(folder/'empiar_10076_7.mrc', permissive=True) as m: assert (s.images(slice(None)) == m.data).all()
    with quiet(): alone = read_metadata(folder/'empiar_10076_7.mrc')
    assert len(alone) == 7 and 'apix' not in alone.table
    r = np.hypot(*np.mgrid[-160:160, -160:160])
    assert (s.images([0, 1, 2, 3, 4, 5, 6])[:, r < 60].mean() < s.images(slice(None))[:, r > 140].mean())

@pytest.mark.parametrize('path', here('*.mrcs') or [pytest.param(None, marks=pytest.mark.skip(reason='no ../shared/data'))], ids=lambda p: p and p.name)
def test_real_stacks(path):
    with quiet():
        with mrcfile.open(path, permissive=True) as m: images = m.data.copy()
        md = read_metadata(path)
        s = Stacks(md.table)
    assert len(md) == len(images) and (s.images(slice(None, None, -1)) == images[::-1]).all()

@pytest.mark.parametrize('path', [p for p in here('*.star') if p.name != 'trpv1_small_stack.star' and 'PfCRT' not in p.name and 'relion31' not in p.name[:8]] or
                         [pytest.param(None, marks=pytest.mark.skip(reason='no ../shared/data'))], ids=lambda p: p and p.name)
def test_real_sets(path):
    "Star files find their stacks, also by name alone (data/x.mrcs lies beside)"
    md = read_metadata(path)
    with quiet(): s = Stacks(md.table, md.path.parent)
    assert len(s) == len(md) and np.isfinite(s.images(slice(0, 9))).all()

def test_stack_of_another_name(shared):
    "The star names a file that is not there; datadir= may be the file itself"
    md = read_metadata(shared/'real/trpv1_small_stack.star')
    with pytest.raises(FileNotFoundError, match='1 of 1 stacks not found. The first is ./batch_0_restacked.mrc') as e: Stacks(md.table, md.path.parent)
    assert str(shared/'real') in str(e.value) and 'Pass datadir=' in str(e.value)
    assert Stacks(md.table, md.path.parent, datadir=shared/'real/trpv1_small_stack.mrcs').D == 48

def test_places(tmp_path, monkeypatch):
    "datadir first, then the project above the metadata, then beside it, then here"
    job = tmp_path/'project/Refine3D/job7'
    spots = dict(data=tmp_path/'data/Extract', name=tmp_path/'data', root=job/'Extract', project=tmp_path/'project/Extract', beside=job, cwd=tmp_path/'cwd/Extract')
    for d in spots.values(): d.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path/'cwd')
    find = lambda **kw: find_stacks(['Extract/a.mrcs'], root=job, **kw)[0].resolve().parent
    for last in reversed(spots):
        write_stack(spots[last]/'a.mrcs', [np.zeros((1, 8, 8))], 1, 8, 1.)
        assert find(datadir=tmp_path/'data') == spots[last]
    gone = tmp_path/'gone/a.mrcs'
    assert find_stacks([str(gone)], datadir=tmp_path/'data') == [tmp_path/'data/a.mrcs'] and find_stacks([str(gone)], root=job) == [job/'a.mrcs']
    with pytest.raises(FileNotFoundError, match='2 of 3 stacks not found. The first is x/b.mrcs') as e: find_stacks(['x/b.mrcs', 'Extract/a.mrcs', 'c.mrcs'], job, tmp_path/'data')
    for place in (tmp_path/'data/x/b.mrcs', tmp_path/'data/b.mrcs', job/'x/b.mrcs', tmp_path/'project/x/b.mrcs', job/'b.mrcs', tmp_path/'cwd/x/b.mrcs'): assert str(place) in str(e.value)

def stack(folder, name='a.mrcs', n=4, shape=(8, 8), **kw):
    (folder/name).write_bytes(raw_mrc(np.zeros((n, *shape)), 2, **kw))
    return folder/name

def test_clear_errors(tmp_path):
    table = lambda names='a.mrcs', index=0: pd.DataFrame({'stack': np.atleast_1d(names), 'index': index})
    fails = lambda message, *a: pytest.raises(MetadataError, match=message)
    stack(tmp_path)
    with fails(r'row 2 asks for image 5 of .*a.mrcs, which holds 4 \(2 such rows\)'): Stacks(table(['a.mrcs']*4, [0, 1, 4, 9]), tmp_path)
    with fails('row 0 asks for image 0 of'): Stacks(table(index=-1), tmp_path)
    stack(tmp_path, 'flat.mrcs', shape=(8, 6))
    with fails('images of .*flat.mrcs are not square: 6 × 8 px'): Stacks(table('flat.mrcs'), tmp_path)
    stack(tmp_path, 'odd.mrcs', shape=(7, 7))
    with fails('the box of 7 px is odd'): Stacks(table('odd.mrcs'), tmp_path)
    stack(tmp_path, 'big.mrcs', shape=(16, 16))
    with fails('boxes differ: 8 px in 1 stacks .*a.mrcs.*16 px in 1 stacks .*big.mrcs'): Stacks(table(['a.mrcs', 'big.mrcs']), tmp_path)
    p = stack(tmp_path, 'short.mrcs')
    p.write_bytes(p.read_bytes()[:-300])
    with fails('short.mrcs is cut short: its header promises 4 images, it holds 2'): Stacks(table('short.mrcs'), tmp_path)
    (tmp_path/'short.mrcs.gz').write_bytes(gzip.compress(p.read_bytes()))
    with fails('short.mrcs.gz is cut short or damaged: its header promises 4 images'): Stacks(table('short.mrcs.gz', 3), tmp_path).images([0])
    (tmp_path/'torn.mrcs.gz').write_bytes(gzip.compress(os.urandom(1000) + stack(tmp_path).read_bytes())[:900])
    for name, data in {'empty.mrcs': b'', 'text.mrcs': b'hello'*400, 'noise.mrcs': np.random.default_rng(0).bytes(4096)}.items():
        (tmp_path/name).write_bytes(data)
        with fails(f'{name} is no (MRC file|stack of images)'): Stacks(table(name), tmp_path)
        with fails(f'{name} is no (MRC file|stack of images)'): read_metadata(tmp_path/name)
    with fails('is no '): Stacks(table('torn.mrcs.gz'), tmp_path)
    h = raw_mrc(np.zeros((4, 8, 8)), 2)
    (tmp_path/'complex.mrcs').write_bytes(h[:12] + struct.pack('<i', 4) + h[16:])
    with fails('is no stack of images: .* complex64'): Stacks(table('complex.mrcs'), tmp_path)
    with fails('no particles'): Stacks(table().iloc[:0], tmp_path)

def test_nan(tmp_path):
    x = np.ones((6, 8, 8), 'f4')
    x[4, 2, 3], x[1, 0, 0] = np.nan, np.inf
    write_stack(tmp_path/'a.mrcs', [x], 6, 8, 1.)
    s = Stacks(pd.DataFrame({'stack': 'a.mrcs', 'index': range(6)}), tmp_path)
    assert s.images([0, 2, 3, 5]).sum() == 256
    with pytest.raises(MetadataError, match=r'NaN or infinity in 2 of 6 images read: rows \[1, 4\]; the first is image 2 of .*a.mrcs'): s.images(slice(None))

def test_lists_of_stacks(tmp_path):
    "A .txt, relative to itself or to datadir"
    for i in range(3): write_stack(tmp_path/f'{i}.mrcs', [np.full((i + 1, 8, 8), i)], i + 1, 8, 2.)
    (tmp_path/'lists').mkdir()
    (tmp_path/'all.txt').write_text('0.mrcs\n\n2.mrcs\n')
    (tmp_path/'lists/all.txt').write_text('0.mrcs\n2.mrcs')
    for md in (read_metadata(tmp_path/'all.txt'), read_metadata(tmp_path/'lists/all.txt', datadir=tmp_path)):
        assert md.table['index'].tolist() == [0, 0, 1, 2] and (md.table.apix == 2).all() and list(md.table) == ['stack', 'index', 'apix']
        assert Stacks(md.table, md.path.parent).images(slice(None)).mean((1, 2)).tolist() == [0, 2, 2, 2]
    with pytest.raises(FileNotFoundError): read_metadata(tmp_path/'lists/all.txt')

def test_apix_where_the_header_does_not_say(tmp_path):
    stack(tmp_path, apix=0)
    with pytest.warns(UserWarning): assert (read_metadata(tmp_path/'a.mrcs', apix=1.31).table.apix == 1.31).all()

@pytest.mark.parametrize('dtype, mode', [('f4', 2), ('f2', 12)])
def test_write_stack(dtype, mode, tmp_path):
    x = np.random.default_rng(0).normal(size=(9, 8, 8))
    write_stack(tmp_path/'a.mrcs', (x[i:i + 2] for i in range(0, 9, 2)), 9, 8, 2.5, dtype)
    with mrcfile.open(tmp_path/'a.mrcs') as m:
        assert m.header.mode == mode and m.is_image_stack() and (m.data == x.astype(dtype)).all() and np.allclose(m.voxel_size.x, 2.5)
    assert mrcfile.validate(tmp_path/'a.mrcs', print_file=io.StringIO())
    for chunks, message in (([x[:4]], '4 images came for a stack of 9'), ([x[:, :4]], 'a chunk of')):
        with pytest.raises(ValueError, match=message): write_stack(tmp_path/'b.mrcs', chunks, 9, 8, 1.)
    assert os.listdir(tmp_path) == ['a.mrcs']


# How fast

def test_speed(tmp_path, capsys):
    "100,000 rows of each; prints the seconds that a million would take"
    from time import perf_counter as now
    n = 100_000
    t = made(n).assign(stack=[f'Extract/job012/micrograph_{i//300:06}.mrcs' for i in range(n)])
    seconds = {}
    for end in ('star', 'cs'):
        start = now(); write_metadata(tmp_path/f'a.{end}', Metadata(t), box=64); seconds[f'write .{end}'] = now() - start
        start = now(); read_metadata(tmp_path/f'a.{end}'); seconds[f'read .{end}'] = now() - start
    with capsys.disabled(): print('\n1,000,000 rows:', ', '.join(f'{k} {s*10:.1f} s' for k, s in seconds.items()))
