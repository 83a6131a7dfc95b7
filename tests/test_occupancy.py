"Which parts of the 50S are there: on real maps and their model, and on made-up tables whose answer is known."
import json, warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch

import drgnbook.evidence      # the method of a run
from drgnbook.assembly import Assembly, model_mask
from drgnbook.fit import _focus, fit
from drgnbook.occupancy import chimerax, class_maps, classify, element_masks, exceptions, occupancy, occupancy_errors, relative, show_occupancies
from drgnbook.simulate import read_truth, simulate
from drgnbook.volume import Volume, fsc

CLASS = dict(zip('018 113 288 291 194 457 386 388'.split(), 'BBCCDDEE'))
CORE = ['uL3', 'uL4', 'uL13', 'bL20', 'bL21', 'uL22', 'uL24']      # early proteins, there in all of them
RNA = {'23S rRNA': '23S', '5S rRNA': '5S'}


@pytest.fixture(scope='module')
def ribosome(shared):
    "Masks, the raw table of eight maps, names of the elements as in class_occupancy.csv, and that table"
    here = shared/'empiar10076'
    files = sorted((here/'maps').glob('*.mrc'))
    segments = json.loads((here/'states.json').read_text())['segments']
    names = {k: f"{RNA[v['name']]}:{v['first']}-{v['last']}({v['n_res']})" if v['name'] in RNA else v['name'] for k, v in segments.items()}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        like = Volume.load(files[0])
    elements = element_masks(sorted((here/'atoms').glob('*.pdb')), like)
    with pytest.warns(UserWarning, match='8 warnings while 8 maps were read') as said: raw = occupancy(files, elements)      # the machine stamp is zero
    assert len(said) == 1
    return elements, raw.rename(columns=names), names, pd.read_csv(here/'class_occupancy.csv', index_col=0)/100

@pytest.mark.parametrize('reference', [None, CORE])
def test_real_classes_come_out(ribosome, reference):
    "The four patterns of the 136 chains, each with a correlation of 0.9 at least"
    _, raw, _, known = ribosome
    means = relative(raw, reference).groupby([CLASS[n[4:]] for n in raw.index]).mean()[known.index]
    r = {c: np.corrcoef(means.loc[c], known[c])[0, 1] for c in 'BCDE'}
    assert raw.shape == (8, 136) and min(r.values()) >= .9, r

def test_real_maps_fall_into_their_classes(ribosome):
    _, raw, _, known = ribosome
    found = classify(relative(raw, CORE), classes=4)
    assert len({(CLASS[n[4:]], c) for n, c in zip(raw.index, found.classes)}) == 4
    block = dict(zip(raw.columns, found.blocks))
    assert len({block[n] for n in CORE}) == 1 and block['uL2'] != block['uL3'] and block['uL5'] == block['uL18'] == block['bL25']      # the protuberance comes as one
    assert sum(len(a.images) for a in show_occupancies(found).axes) >= 1

def test_real_scripts_name_every_chain(ribosome, shared, tmp_path):
    elements, raw, names, _ = ribosome
    found = classify(relative(raw.set_axis(list(elements.names), axis=1)), classes=4)
    files = sorted((shared/'empiar10076/maps').glob('*.mrc'))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        scripts = chimerax(found, elements, class_maps(found, files), tmp_path)
    lines = scripts[0].read_text().splitlines()
    opened = [Path(line.split('"')[1]).name for line in lines if line.startswith('open')]
    assert opened == ['RNA1.pdb', 'RNA2.pdb', 'RNA3.pdb', 'RNA4.pdb', 'RNA_5S.pdb', 'prots1.pdb', 'prots2.pdb', 'class_0.mrc']
    coloured = [line.split()[1] for line in lines if line.startswith('color')]
    assert len(set(coloured)) == 136 and set(coloured) == {f'#{opened.index(f + ".pdb") + 1}/{c}' for f, c in (n.rsplit('_', 1) for n in elements.names)}
    assert len(list(tmp_path.iterdir())) == 9                       # four maps, four scripts, one for all

def test_real_masks_lie_on_the_chains(ribosome):
    "The weight of an element sits where its atoms are"
    elements, _, _, _ = ribosome
    zyx = np.stack(np.unravel_index(elements.voxels, (64,)*3))
    w = elements.weights.toarray()[elements.names.index('prots1_F')]
    import gemmi
    files = {Path(f).stem: f for f in elements.files}
    atoms = np.array([list(a.pos) for c in gemmi.read_structure(files['prots1'])[0] if c.name == 'F' for r in c for a in r])
    middle = (zyx*w).sum(1)/w.sum()*6.55
    assert np.abs(middle[::-1] - atoms.mean(0)).max() < 6.55

@pytest.fixture(scope='module')
def subunit(shared):
    "A map of the whole 50S, its model, and the positions of the atoms, (x, y, z)"
    import gemmi
    here = shared/'empiar10076'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        like = Volume.load(here/'maps/vol_388.mrc')
    files = sorted((here/'atoms').glob('*.pdb'))
    return like, files, np.array([list(a.pos) for f in files for c in gemmi.read_structure(str(f))[0] for r in c for a in r])

def test_real_mask_covers_every_atom(subunit):
    "1 at the voxel of each atom of 136 chains, 0 far from all, an edge as wide as asked; it holds the density, and is a mask for `fit` and for an FSC"
    from scipy.spatial import cKDTree
    like, files, atoms = subunit
    m = model_mask(files, like, res=20., dilate=4., edge=30.)
    at = (atoms/like.apix).round().astype(int)
    assert len(atoms) > 4000 and (m.D, m.apix, m.origin) == (64, like.apix, like.origin) and m.data[tuple(at.T[::-1])].min() == 1 and m.data.min() == 0 and m.data.max() == 1
    away = cKDTree(atoms).query(np.stack(np.meshgrid(*[np.arange(64)*like.apix]*3, indexing='ij')[::-1], -1).reshape(-1, 3))[0].reshape(m.data.shape)
    off, x = .87*like.apix + 3, m.data.numpy()                              # an atom is somewhere in its voxel, and in its bead
    assert (x[away < 14 - off] == 1).all() and (x[away > 44 + off] == 0).all() and np.abs(x[np.abs(away - 29) < 1] - .5).max() < .4 and .05 < ((x > 0) & (x < 1)).mean() < .6
    assert like.data[m.data == 1].mean() > 5*like.data[m.data < .01].abs().mean()
    ps = SimpleNamespace(D=64, apix=like.apix)
    assert _focus(m, ps, dict(z='subspace', zdim=1)) is m and fsc(like, like, m)[1:20].min() > .999

def test_real_mask_and_origin(subunit, tmp_path):
    "A map that lies elsewhere says so in its header; without that, map and model do not overlap"
    like, files, _ = subunit
    m, far = model_mask(files, like), replace(like, origin=(500., 0., 0.))
    for where in (dict(like=far, origin=(0., 0., 0.)), dict(like=like, origin=like.origin)): assert torch.equal(model_mask(files, **where).data, m.data)
    for where in (dict(like=far), dict(like=like, origin=(0., -500., 0.))):
        with pytest.raises(ValueError, match='do not overlap: 136 of 136 chains.*64 px of 6.55 Å; pass the origin='): model_mask(files, **where)
    with pytest.raises(ValueError, match='do not overlap: 136 of 136'): element_masks(files, far)


# Made-up models and tables

def write_pdb(path, chains):      # {name: (a, 3)}
    rows = [(c, p) for c, xyz in chains.items() for p in xyz]
    path.write_text(''.join(f'ATOM  {i:5d}  CA  ALA {c}{i:4d}    {p[0]:8.3f}{p[1]:8.3f}{p[2]:8.3f}  1.00  0.00           C\n' for i, (c, p) in enumerate(rows)) + 'END\n')
    return path

@pytest.fixture
def two(tmp_path):
    "Two clumps of atoms, 60 Å apart, and their map"
    rng = np.random.default_rng(0)
    file = write_pdb(tmp_path/'two.pdb', {'A': rng.normal(size=(40, 3))*6 + [70, 100, 100], 'B': rng.normal(size=(40, 3))*6 + [130, 100, 100]})
    whole = Assembly.from_atoms(file, states={'AB': 'AB', 'A': 'A', 'half': {'A': 1., 'B': .5}}, centre=(96.,)*3, sigma=4.)
    return file, {s: whole.volume(s, 48, 4.) for s in whole.states}

def test_half_is_half(two):
    file, maps = two
    masks = element_masks(file, maps['AB'])
    o = occupancy({**maps, 'lifted': maps['half'] + Volume(torch.full((48,)*3, 3.), 4.)}, masks)
    o = o/o.loc['AB']
    assert np.allclose(o['A'], 1, atol=.02) and np.allclose(o['B'], [1, 0, .5, .5], atol=.02), o                # solvent of another level changes nothing
    assert np.allclose(relative(occupancy(maps, masks)), [[1, 1], [1, 0], [1, .5]], atol=.1)

def test_masks_in_another_frame(two, tmp_path):
    "The first voxel of the map may lie anywhere in the frame of the model"
    file, maps = two
    rng = np.random.default_rng(0)
    moved = write_pdb(tmp_path/'moved.pdb', {'A': rng.normal(size=(40, 3))*6 + [70 - 31, 108, 100], 'B': rng.normal(size=(40, 3))*6 + [130 - 31, 108, 100]})
    a, b = element_masks(file, maps['AB']), element_masks(moved, maps['AB'], origin=(-31., 8., 0.))
    assert np.allclose(occupancy(maps, a), occupancy(maps, b), rtol=1e-2, atol=1e-3*occupancy(maps, a).to_numpy().max())

def test_maps_of_classes_lie_on_the_model(two, tmp_path):
    "The origin of the map that the masks were made from, its own or one that was given, is in the masks and in the maps that are written"
    file, maps = two
    away = {n: replace(v, origin=(-8., 4., 0.)) for n, v in maps.items()}
    a, b = element_masks(file, away['AB']), element_masks(file, maps['AB'], origin=(-8., 4., 0.))
    assert a.origin == b.origin == (-8., 4., 0.) and np.array_equal(a.voxels, b.voxels) and element_masks(file, maps['AB']).origin == (0., 0., 0.)
    with pytest.warns(UserWarning, match='8.94 Å away.*origin=.0, 0, 0'): found = classify(relative(occupancy(maps, b)), classes=2)
    chimerax(found, b, class_maps(found, maps), tmp_path)
    for c in (0, 1):
        with mrcfile.open(tmp_path/f'class_{c}.mrc') as m: assert m.header.origin.tolist() == (-8, 4, 0)
    assert all(v.origin == (-8., 4., 0.) for v in class_maps(found, away))

def test_maps_are_read_one_by_one(two):
    "From a generator, of which one map is asked for at a time"
    file, maps = two
    asked = []
    def one():
        for n, v in maps.items(): asked.append(n); yield n, v
    masks = element_masks(file, maps['AB'])
    assert occupancy(one(), masks).equals(occupancy(maps, masks)) and asked == list(maps)

def test_a_map_that_is_no_map_is_named(two):
    "One number that is not finite would void the whole table"
    file, maps = two
    v = maps['AB']
    with pytest.raises(ValueError, match='map broken'): occupancy(maps | {'broken': replace(v, data=v.data.clone().index_fill(0, torch.tensor([3]), float('nan')))}, element_masks(file, v))

def test_the_wrong_hand_is_said(ribosome, shared):
    "Real maps, mirrored: the model still lies in density, but in less of it"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore'); maps = [Volume.load(p) for p in sorted((shared/'empiar10076/maps').glob('*.mrc'))]
    with warnings.catch_warnings():
        warnings.simplefilter('error'); occupancy(maps, ribosome[0])
    with pytest.warns(UserWarning, match='the other hand'): occupancy([v.flip() for v in maps], ribosome[0])
    for file in ribosome[0].files:                          # a part of the model fits into many places, and is left where it is
        with warnings.catch_warnings():
            warnings.simplefilter('error'); occupancy(maps, element_masks(file, maps[0]))

@pytest.mark.parametrize('hand, z, said', [(lambda v: v, -32.75, ''), (Volume.flip, 32.75, ' and turn the maps to the other hand')], ids=['moved', 'moved and mirrored'])
def test_the_wrong_place_is_said(ribosome, shared, hand, z, said):
    "Real maps, moved: the model still lies in density; done as the warning says, masks find what they found before"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore'); maps = [Volume.load(p) for p in sorted((shared/'empiar10076/maps').glob('*.mrc'))]
    away = [Volume(hand(v).data.roll((5, 0, -7), (0, 1, 2)), v.apix) for v in maps]
    with pytest.warns(UserWarning, match=f'lie 56.3 Å away.*origin=.45.85, 0, {z}.{said}'): occupancy(away, ribosome[0])
    there = element_masks(ribosome[0].files, away[0], origin=(45.85, 0., z))
    assert np.allclose(occupancy(maps, ribosome[0]), occupancy([hand(v) for v in away], there), atol=1e-4)

def test_names_are_told_apart(two):
    file, maps = two
    masks, v = element_masks(file, maps['AB']), maps['AB']
    with pytest.raises(ValueError, match="two maps are called 'a'"): occupancy([('a', v), ('b', v), ('a', v)], masks)
    found = classify(relative(occupancy(maps, masks)), classes=2)
    with pytest.raises(ValueError, match='given twice'): class_maps(found, [*list(maps.items())[:-1], next(iter(maps.items()))])
    raw = occupancy(maps, masks)
    with pytest.raises(ValueError, match="one map alone takes per='matrix'"): relative(raw.iloc[:1])
    with pytest.raises(ValueError, match='the lower one first'): relative(raw, percent=(90, 10))
    with pytest.raises(KeyError, match='no element nobody'): relative(raw, reference='nobody')

def test_errors(two, tmp_path):
    file, maps = two
    masks = element_masks(file, maps['AB'])
    with pytest.raises(ValueError, match='48 px of 2 Å, the masks are 48 px of 4 Å'): occupancy([Volume(maps['AB'].data, 2.)], masks)
    with pytest.raises(ValueError, match='2 of 2 chains .A, B'): element_masks(file, maps['AB'], origin=(0., 0., 900.))
    with pytest.raises(ValueError, match='do not overlap.*80 Å away.*origin=.0, -80, 0'): occupancy([Volume(maps['AB'].data.roll(20, 1), 4.)], masks)
    with pytest.raises(FileNotFoundError): occupancy([tmp_path/'none.mrc'], masks)
    with pytest.raises(ValueError, match='more than one is called two'): element_masks([file, file], maps['AB'])
    with pytest.raises(ValueError, match='lie in 2 places'): occupancy([maps['AB'], replace(maps['A'], origin=(60., 0., 0.))], masks)
    assert occupancy(maps['AB'].save(tmp_path/'one.mrc'), masks).equals(occupancy({0: maps['AB']}, masks).set_axis(['one']))
    with pytest.raises(ValueError, match='no element of reference'): relative(occupancy(maps, masks), reference=[])
    with pytest.raises(ValueError, match='not a number'): relative(occupancy(maps, masks)*np.nan)
    with pytest.raises(FileNotFoundError, match='no atomic model'): element_masks(tmp_path/'none.pdb', maps['AB'])
    with pytest.raises(ValueError, match='nothing comes or goes'): relative(pd.DataFrame(np.ones((3, 4))), per='matrix')
    found = classify(relative(occupancy(maps, masks)), classes=2)
    with pytest.raises(ValueError, match='masks of 1 elements, classes by 2'): chimerax(found, element_masks(write_pdb(tmp_path/'one.pdb', {'A': np.full((9, 3), 100.) + np.arange(9)[:, None]}), maps['AB']), class_maps(found, maps), tmp_path)
    with pytest.raises(ValueError, match='2 maps for a table of 3'): class_maps(found, {n: maps[n] for n in ('AB', 'A')})

def test_errors_of_what_particles_say(two, tmp_path):
    "From images to error bars: B is missing in one state, by no more than its error; of a quarter of the particles the error is twice as large"
    file, maps = two
    source = Assembly.from_atoms(file, states={'AB': 'AB', 'A': 'A'}, centre=(96.,)*3, sigma=4.)
    ps = simulate(source, n=400, D=48, apix=4., snr=.3, junk=0., out=tmp_path/'set')
    whole = (read_truth(tmp_path/'set').state == 'AB').to_numpy()
    z = whole + np.random.default_rng(0).uniform(-.4, .4, 400)
    run = fit(ps, z=z[:, None].astype(np.float32), zdim=1, epochs=1, decoder='basis', device='cpu', where='here', out=tmp_path/'run')
    found = {name: run.evidence([at], radius=r) for name, at, r in (('AB', 1., .4), ('A', 0., .4), ('few', 0., .1))}
    occ, err = occupancy_errors(found, element_masks(file, maps['AB']))
    known = occupancy(maps, element_masks(file, maps['AB']))
    assert found['AB'].n == pytest.approx(whole.sum()) and occ.shape == err.shape == (3, 2) and (err > 0).all(axis=None)
    share = occ['B']/occ['A']/(known.loc['AB', 'B']/known.loc['AB', 'A'])
    assert share['AB'] == pytest.approx(1, abs=.1) and (abs(occ['B']) < 4*err['B'])[['A', 'few']].all() and share['AB'] > 20*err.loc['AB', 'B']/occ.loc['AB', 'A']
    n = found['A'].n/found['few'].n
    assert 3 < n < 5 and (err.loc['few']/err.loc['A']).mean() == pytest.approx(n**.5, rel=.4)

def test_class_maps_are_means(two):
    file, maps = two
    found = classify(relative(occupancy(maps, element_masks(file, maps['AB']))), classes=2)
    for c, v in enumerate(class_maps(found, maps)):
        own = [m.data for m, k in zip(maps.values(), found.classes) if k == c]
        assert torch.allclose(v.data, torch.stack(own).mean(0), atol=1e-5*v.data.max())

def table(n=60, seed=0):
    "Three classes, four blocks; row 7, of the first class, lacks the fourth block, and is nearer to no other class"
    rng = np.random.default_rng(seed)
    c, b = np.arange(n)*3//n, np.repeat([0, 1, 2, 3], [8, 6, 6, 4])
    there = np.array([[1, 1, 0, 1], [1, 0, 1, 0], [0, 1, 1., 0]])[c]
    there[7, 3] = 0
    return pd.DataFrame((there[:, b] + rng.normal(size=(n, 24))*.1).clip(0, 1)), c, b

def test_exceptions_are_found_and_no_others():
    t, c, b = table()
    found = classify(t, classes=3, blocks=4)
    assert len({*zip(found.classes, c)}) == 3 and len({*zip(found.blocks, b)}) == 4
    odd = exceptions(found)
    assert odd['map'].tolist() == [7] and odd['class'].item() == found.classes[0] and odd.block.item() == found.blocks[20] and odd.occupancy.item() < .2 < .8 < odd.usual.item()
    assert not len(exceptions(classify(table()[0].drop(7), classes=3, blocks=4)))
    assert not len(exceptions(found, by=1.1))

def test_groups_by_number_and_by_height():
    t, _, _ = table()
    found = classify(t)
    high = found.map_tree[:, 2]
    assert all(len(set(classify(t, classes=k).classes)) == k for k in (1, 2, 5, 60))
    assert (classify(t, classes=float(high[-4:-2].mean())).classes == classify(t, classes=4).classes).all()
    assert found.typical.isin(t.index).all() and (found.centroids.to_numpy() >= 0).all() and list(found.by_block.index) == list(t.index)
    for k in (0, 61):
        with pytest.raises(ValueError, match='between 1 and 60'): classify(t, classes=k)

# Names of chains

def model_of(names, path, residue='GLY', atom='CA'):
    "An mmCIF file of chains side by side, twelve residues each"
    import gemmi
    model, st = gemmi.Model('1'), gemmi.Structure()
    for c, name in enumerate(names):
        chain = gemmi.Chain(name)
        for j in range(12):
            a, r = gemmi.Atom(), gemmi.Residue()
            a.name, a.element, a.pos, a.occ = atom, gemmi.Element('C'), gemmi.Position(40. + 25*c, 60. + 2*j, 60.), 1.
            r.name, r.seqid = residue, gemmi.SeqId(j + 1, ' ')
            r.add_atom(a); chain.add_residue(r)
        model.add_chain(chain)
    st.add_model(model); st.setup_entities()
    st.make_mmcif_document().write_file(str(path))
    return path

@pytest.mark.parametrize('residue', ['GLY', 'A1LX7', 'NONSENSE_9'])
def test_names_of_any_length(residue, tmp_path):
    "mmCIF has room for names of any length; gemmi's table has not: chains keep theirs, and their own atoms, in masks too"
    names = ['A', 'ribosomal_protein_uL2', 'ribosomal_protein_uL3', 'Bx12345678']
    path = model_of(names, tmp_path/'long.cif', residue)
    asm = Assembly.from_atoms(path)
    x = {n: float(asm.xyz[0, asm.block == b, 0].mean()) for b, n in enumerate(asm.blocks)}
    assert set(asm.blocks) == set(names) and len(asm.amp) == 48 and sorted(names, key=x.get) == names
    assert set(element_masks(path, Volume(torch.zeros(32, 32, 32), 5.)).names) == set(names)

def test_a_name_that_is_too_long_is_said(tmp_path):
    "An atom's: nobody has such, and we say so"
    with pytest.raises(ValueError, match=r'x\.cif has a name that is too long .*CARBON_ALPHA.*shorten it'): Assembly.from_atoms(model_of(['A'], tmp_path/'x.cif', atom='CARBON_ALPHA'))
