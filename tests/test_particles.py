"Downsampling that is killed, cryoDRGN's pickles, and caches that notice a change."
import signal, subprocess, sys
from dataclasses import replace
from pathlib import Path

import numpy as np, pytest, torch
from drgnbook.cryodrgn import write_cryodrgn, write_indices
from drgnbook.fit import fit
from drgnbook.fourier import fourier_crop
from drgnbook.landscape import show_volumes
from drgnbook.metadata import MetadataError
from drgnbook.particles import Particles
from drgnbook.simulate import simulate


@pytest.fixture
def ps(tmp_path): return simulate(n=60, D=32, snr=1., junk=0., out=tmp_path/'set')

KILLED = '''
import os, signal, sys
from drgnbook import particles
chunks, crop, done = particles.chunks, particles.fourier_crop, []
particles.chunks = lambda n, each, budget=0: chunks(n, each, 10*each)            # ten images at a time
def stop(x, d):
    done.append(1)
    if len(done) == 4: os.kill(os.getpid(), signal.SIGKILL)
    return crop(x, d)
particles.fourier_crop = stop
particles.Particles.read(sys.argv[1]).downsample(16)
'''


def test_downsample_goes_on_after_a_kill(ps, monkeypatch):
    out = ps.md.path.with_name('particles_16px.mrcs')
    died = subprocess.run([sys.executable, '-c', KILLED, str(ps.md.path)], capture_output=True)
    assert died.returncode == -signal.SIGKILL and not out.exists() and out.with_name(out.name + '.part').exists()
    from drgnbook import particles
    seen = []
    monkeypatch.setattr(particles, 'fourier_crop', lambda x, d: seen.append(len(x)) or fourier_crop(x, d))
    small = ps.downsample(16)
    assert sum(seen) == 30 and out.exists() and not out.with_name(out.name + '.part').exists()       # three chunks of ten were done
    assert torch.allclose(small.images(), fourier_crop(ps.images(), 16), atol=1e-5)


def test_selection_downsampled(ps):
    "A part of the set is another stack."
    some = ps[[5, 3, 50]]
    small = some.downsample(16, out=ps.md.path.with_name('some.mrcs'))
    assert torch.allclose(small.images(), fourier_crop(some.images(), 16), atol=1e-5)
    back = Particles.read(small.write(ps.md.path.with_name('some.star')))
    assert back.D == 16 and abs(back.apix - 2*ps.apix) < 1e-3 and torch.allclose(back.pose.t, some.pose.t, atol=1e-3)


def test_cryodrgn_pickles(ps, tmp_path):
    files = tmp_path/'poses.pkl', tmp_path/'ctf.pkl'
    write_cryodrgn(files, ps.md, 32)
    write_indices(tmp_path/'ind.npy', np.array([7, 2, 9]))
    same = Particles.read(tmp_path/'set/particles.mrcs', poses=files[0], ctf=files[1], ind=tmp_path/'ind.npy')
    assert torch.allclose(same.pose.R, ps.pose.R[[7, 2, 9]], atol=1e-5) and torch.allclose(same.pose.t, ps.pose.t[[7, 2, 9]], atol=1e-3)
    freqs = torch.rand(20, 2)*.05
    assert torch.allclose(same.ctf(freqs), ps.ctf(freqs)[[7, 2, 9]], atol=1e-3)
    write_cryodrgn(files, ps[:50].md, 32)
    with pytest.raises(MetadataError, match='50 particles.*60 images'): Particles.read(tmp_path/'set/particles.mrcs', ctf=files[1])


def test_missing_and_nan(ps, tmp_path):
    with pytest.raises(MetadataError, match='no poses'): Particles.read(tmp_path/'set/particles.mrcs').pose
    star = (tmp_path/'set/particles.star')
    text = star.read_text().splitlines()
    row = next(i for i, line in enumerate(text) if '@' in line)
    words = text[row].split()
    words[next(i for i, w in enumerate(words) if w.count('.') == 1 and float(w) > 5000)] = 'nan'
    star.write_text('\n'.join([*text[:row], ' '.join(words), *text[row + 1:]]) + '\n')
    with pytest.raises(MetadataError, match='missing|NaN|nan'): Particles.read(star)


def test_cache_is_shared_and_shielded(ps, tmp_path, monkeypatch):
    a, b = ps[:10].cache(), ps[5:20].cache()
    assert a.path == b.path and int(b.done.sum()) == 20
    monkeypatch.setenv('DRGNBOOK_CACHE', str(tmp_path/'elsewhere'))
    assert ps[:3].cache().path.parent == tmp_path/'elsewhere'
    monkeypatch.setattr('shutil.disk_usage', lambda p: type('U', (), dict(free=10))())
    with pytest.raises(OSError, match='DRGNBOOK_CACHE'): ps.cache()


def test_one_cache_for_all_who_read(ps, tmp_path):
    "A selection written elsewhere, read again, and a table in another order find the rows that are there; a cache that was thrown away is made again."
    whole = ps.cache()
    there = Particles.read(ps[[9, 3, 40]].write(tmp_path/'some.star'), root=ps.where[0])
    cache = there.cache()
    assert cache.path == whole.path and torch.equal(cache[there.rows], whole[np.array([9, 3, 40])])
    whole.path.unlink()
    assert torch.equal(there.cache()[there.rows], cache[there.rows])


def test_two_stacks_one_cache(tmp_path):
    "Rows are counted over all stacks, sorted by path, whatever order a table names them in."
    from drgnbook.metadata import Metadata, pd
    from drgnbook.stacks import write_stack
    from drgnbook.io import write_metadata
    images = np.random.default_rng(0).normal(size=(9, 16, 16)).astype('f4')
    for name, some in (('a', images[:4]), ('b', images[4:])): write_stack(tmp_path/f'{name}.mrcs', [some], len(some), 16, 4.)
    def table(rows): return pd.DataFrame([dict(stack='ab'[r > 3] + '.mrcs', index=r - 4*(r > 3), apix=4.) for r in rows])
    sets = []
    for k, rows in enumerate(([8, 0, 5, 5], range(9))):
        write_metadata(tmp_path/f'{k}.star', Metadata(table(rows)), box=16)
        sets.append(Particles.read(tmp_path/f'{k}.star'))
    some, whole = (ps.cache() for ps in sets)
    assert some.path == whole.path and torch.equal(some[np.arange(4)], whole[np.array([8, 0, 5, 5])])
    assert whole.read(np.array([7, 2]))[1].tolist() == [1, 0]


def test_foreign_stacks_are_left_alone(ps, tmp_path):
    (tmp_path/'there.mrcs').write_text('mine')
    with pytest.raises(FileExistsError, match='other pictures'): ps.downsample(16, out=tmp_path/'there.mrcs')
    assert (tmp_path/'there.mrcs').read_text() == 'mine'
    one, two = ps[:5].downsample(16), ps[5:9].downsample(16)
    assert one.stacks.paths != two.stacks.paths and torch.allclose(two.images(), fourier_crop(ps[5:9].images(), 16), atol=1e-5)


def test_small_stack_moves_along(ps, tmp_path):
    "A folder that was moved, or is reached by a link: its smaller stack is opened, not refused"
    small = ps.downsample(16)
    made = small.stacks.paths[0].stat().st_mtime_ns
    (tmp_path/'link').symlink_to(ps.md.path.parent)
    again = Particles.read(tmp_path/'link'/ps.md.path.name).downsample(16)
    assert again.stacks.paths[0].parent.name == 'link' and again.stacks.paths[0].stat().st_mtime_ns == made
    assert torch.equal(again.images(), small.images())


def test_masked_and_blank_images(ps, tmp_path):
    "Without a background white noise is assumed, with a word; a blank image becomes zeros."
    from drgnbook.particles import window
    from drgnbook.stacks import write_stack
    img = ps.images()*window(32, .5, .7)
    img[0] = 3.
    write_stack(tmp_path/'masked.mrcs', [img.numpy()], 60, 32, 4.)
    masked = Particles.read(tmp_path/'masked.mrcs')
    with pytest.warns(UserWarning, match='masked'): assert (masked.noise_power() == 1).all()
    f = masked.cache()[np.arange(3)]
    assert (f[0] == 0).all() and f[1:].abs().max() > 0


def test_dark_particles_stay_dark_on_paper(ps, tmp_path):
    "A star file read as dark and written as .cs says so itself."
    dark = Particles.read(ps.md.path, contrast='dark')
    again = Particles.read(dark.write(tmp_path/'dark.cs'), root=ps.where[0])
    assert torch.allclose(again.images([1]), -ps.images([1])) and (again.signs == -1).all()
    with pytest.raises(ValueError, match='dark'): Particles.read(tmp_path/'dark.cs', root=ps.where[0], contrast='dark')

def test_stacks_out_of_sight_are_told(ps, tmp_path, monkeypatch, recwarn):
    "What is written where its images cannot be found from says so, and how it is read; beside them, or below, it says nothing"
    monkeypatch.chdir(tmp_path)
    home = Path(ps.where[0])
    for near in (home/'some.star', home/'below/some.cs'): assert len(Particles.read(ps[:5].write(near))) == 5
    assert not recwarn
    (away := tmp_path/'away').mkdir()
    for kind in ('star', 'cs'):
        with pytest.warns(UserWarning, match=f"not found: write it into .*read it with datadir='{home}'"): path = ps[:5].write(away/f'some.{kind}')
        with pytest.raises(FileNotFoundError): Particles.read(path)
        assert torch.equal(Particles.read(path, datadir=str(home)).images([1]), ps.images([1]))

def test_an_empty_selection_is_called_so(ps):
    with pytest.raises(ValueError, match='no particles: the selection is empty'): ps[[]].apix

# Contrast

def test_dark_particles_in_a_star(ps, tmp_path, recwarn):
    "A .cs says that they are dark, a .star cannot: told what to pass, one gets the same images"
    dark = Particles.read(replace(ps, sign=-1.).write(tmp_path/'set/dark.cs'))
    assert (dark.table.sign == -1).all() and not recwarn
    with pytest.warns(UserWarning, match=r"dark\.star cannot say so: read it with contrast='dark'"): star = dark.write(tmp_path/'set/dark.star')
    assert torch.equal(Particles.read(star, contrast='dark').images([3]), dark.images([3])) and torch.equal(Particles.read(star).images([3]), -dark.images([3]))
    n = len(recwarn)
    dark.write(tmp_path/'set/again.cs'); ps.write(tmp_path/'set/white.star'); Particles.read(star, contrast='dark').write(tmp_path/'set/told.star')      # who reads it was told before
    assert len(recwarn) == n

def test_both_contrasts_in_a_star(ps, tmp_path):
    "There is no way to read such a file rightly: nothing is written"
    mixed = replace(ps, md=replace(ps.md, table=ps.table.assign(sign=[-1]*20 + [1]*40)))
    with pytest.raises(ValueError, match=r'20 of 60 particles are dark.*cannot say which: write a \.cs'): mixed.write(tmp_path/'mixed.star')
    assert not (tmp_path/'mixed.star').exists()
    assert Particles.read(mixed.write(tmp_path/'set/mixed.cs')).table.sign.tolist() == [-1]*20 + [1]*40

def test_one_image(ps):
    "Rows as a tensor of one number are one row"
    cache = ps.cache()
    assert torch.equal(cache[torch.tensor([3])], cache[np.array([2, 3])][1:])


@pytest.mark.parametrize('what, says', [(lambda ps, out: ps.downsample(16), 'no particles to downsample'), (lambda ps, out: ps.gallery(), 'no particles to show'), (lambda ps, out: ps.gallery([]), 'no particles to show'),
                                        (lambda ps, out: fit(ps, out=out, zdim=1, where='here'), 'no particles to train on'), (lambda ps, out: show_volumes([]), 'no maps to show')], ids='downsample gallery pictures fit maps'.split())
def test_empty_selection(ps, tmp_path, what, says):
    "Each says what is empty, before any file is touched"
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(ValueError, match=says): what(ps[ps.table.dfu < 0], tmp_path/'run')
    assert sorted(tmp_path.rglob('*')) == before

def test_gallery_of_few(ps):
    assert [len(ps[:n].gallery().axes) for n in (1, 9, 60)] == [8, 16, 16]
    with pytest.raises(ValueError, match='no particles to show'): ps.gallery([])
