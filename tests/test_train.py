"The loss of cryoDRGN, precision, and what a run leaves on disk: what train's notebook would not show a reader."
import json, os, subprocess, sys

import numpy as np, pytest, torch
from drgnbook.forward import misfit
from drgnbook.fourier import Lattice
from drgnbook.simulate import simulate
from drgnbook.run import Run, RunError
from drgnbook.fit import fit

QUICK = dict(zdim=2, z='encoder', width=32, encoder_width=32, epochs=2, sample=.3, batch_size=64)


@pytest.fixture(scope='module')
def ps(tmp_path_factory): return simulate(n=200, D=32, snr=1., junk=0., out=tmp_path_factory.mktemp('train')/'set')


def test_unweighted_loss_is_hartley_mse():
    "Without noise weights the data term is the mean square over the full disc of Hartley coefficients, cryoDRGN's loss."
    lat, (a, b) = Lattice(32), torch.randn(2, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    def hartley(x):
        f = torch.fft.fftn(torch.fft.ifftshift(x, dim=(-2, -1)), dim=(-2, -1))
        k = torch.fft.fftfreq(32, 1/32)
        r2 = k[:, None]**2 + k**2
        return (f.real - f.imag)[:, (r2 > 0) & (r2 <= 15**2)]
    full = (hartley(a) - hartley(b)).square().mean(-1)
    assert torch.allclose(misfit(lat.take(a), lat.take(b)), full, rtol=1e-5)


@pytest.mark.parametrize('precision', ['bfloat16', 'float16'])
def test_precision(ps, tmp_path, precision):
    "Half precision in the layers learns what single precision learns."
    data = [fit(ps, precision=p, out=tmp_path/p, **QUICK).history.data.iloc[-1] for p in ('float32', precision)]
    assert np.isfinite(data).all() and abs(data[1]/data[0] - 1) < .02


def test_run_folder(ps, tmp_path):
    run = fit(ps, out=tmp_path/'run', keep_every=1, **QUICK)
    assert {p.name for p in run.checkpoints} == {'0001', '0002'} and not list((tmp_path/'run').rglob('*.tmp*'))
    assert {p.name for p in run.checkpoints[-1].iterdir()} == {'model.safetensors', 'optimiser.safetensors', 'z.npy', 'state.json'}
    again = Run.load(tmp_path/'run')
    assert np.array_equal(again.z, run.z) and torch.equal(again.volume(run.z[0]).data, run.volume(run.z[0]).data)
    assert len(again.particles) == 200 and torch.equal(again.pose.R, ps.pose.R)


def test_longer(ps, tmp_path):
    "A finished run goes on to a new total."
    run = fit(ps, out=tmp_path/'run', **QUICK).resume(epochs=3)
    assert run.history.epoch.tolist() == [1, 2, 3] and Run.load(tmp_path/'run').options['epochs'] == 3


def test_stop_between_steps(ps, tmp_path, monkeypatch):
    "Ctrl-C ends the run at the next step with a checkpoint; going on gives the bits of a run that was not stopped."
    import signal
    from drgnbook.train import Trainer
    step = Trainer.step
    def stopping(self, *batch):
        if (self.state['epoch'], self.state['step']) == (1, 1): os.kill(os.getpid(), signal.SIGINT)
        return step(self, *batch)
    whole = fit(ps, out=tmp_path/'whole', **QUICK)
    monkeypatch.setattr(Trainer, 'step', stopping)
    stopped = fit(ps, out=tmp_path/'stopped', **QUICK)
    assert [p.name for p in stopped.checkpoints] == ['0001', '0001-000002']
    monkeypatch.setattr(Trainer, 'step', step)
    stopped.resume()
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), stopped.model.state_dict().values()))
    assert stopped.history[['loss', 'data', 'kl']].equals(whole.history[['loss', 'data', 'kl']])


def test_broken_folders(ps, tmp_path):
    (tmp_path/'config.json').write_text('{"version"')
    with pytest.raises(RunError, match='cannot be read'): Run.load(tmp_path)
    (tmp_path/'config.json').write_text(json.dumps(dict(version=99)))
    with pytest.raises(RunError, match='version 99'): Run.load(tmp_path)


def test_nothing_is_left_of_what_cannot_start(ps, tmp_path):
    for words in (dict(z='tabel'), dict(pose='tabel'), dict(precision='float8'), dict(zdim=-1), dict(encoding='none of them')):
        with pytest.raises(ValueError): fit(ps, out=tmp_path/'run', **{**QUICK, **words})
    assert not (tmp_path/'run').exists()


def test_from_another_folder(ps, tmp_path, monkeypatch):
    "A run finds its particles, and the cache that others made of them, wherever it is opened."
    import shutil
    shutil.copytree(ps.md.path.parent, tmp_path/'set', ignore=shutil.ignore_patterns('.drgnbook'))
    monkeypatch.chdir(tmp_path/'set')
    from drgnbook.particles import Particles
    fit(Particles.read('particles.star', datadir='.')[10:90], out='run', **QUICK)
    monkeypatch.chdir(tmp_path)
    again = Run.load('set/run')
    assert torch.equal(again.particles.images([0]), ps.images([10])) and again.resume(epochs=3).history.epoch.tolist() == [1, 2, 3]
    assert len(list(tmp_path.rglob('*.f16'))) == 1


def test_beyond_what_was_learnt(ps, tmp_path):
    "A larger box than the training's has finer voxels and nothing new in them."
    from drgnbook.fourier import ft
    v = fit(ps, out=tmp_path/'run', **QUICK).volume(np.zeros(2), D=64)
    f = ft(v.data, 3).abs()
    assert v.apix == ps.apix/2 and f[0, 0, 17:].max() < 1e-4*f[0, 0, 1:15].max()


def test_no_differences(tmp_path):
    "Noise has no subspace, and that is said."
    from drgnbook.data import load_data
    from drgnbook.subspace import subspace
    noise = simulate(n=50, D=32, snr=1e-12, junk=0., out=tmp_path/'noise')
    with pytest.raises(ValueError, match='between 1 and'): subspace(load_data(noise), noise.pose, 50)


def test_a_stop_in_the_first_epoch_leaves_z(ps, tmp_path, monkeypatch):
    import signal
    from drgnbook.train import Trainer
    step = Trainer.step
    def stopping(self, *batch):
        if self.state['step'] == 1: os.kill(os.getpid(), signal.SIGINT)
        return step(self, *batch)
    monkeypatch.setattr(Trainer, 'step', stopping)
    run = fit(ps, out=tmp_path/'run', **{**QUICK, 'z': 'subspace'})
    assert run.checkpoints[-1].name == '0000-000002' and (np.abs(run.z).sum(1) > 0).all()


@pytest.mark.slow
def test_compiled(ps, tmp_path, unchecked):
    "torch.compile gives the same training, to rounding."
    plain, compiled = (fit(ps, compile=c, out=tmp_path/str(c), **QUICK) for c in (False, True))
    assert np.allclose(plain.history[['loss', 'data', 'kl']], compiled.history[['loss', 'data', 'kl']], rtol=1e-4) and np.allclose(plain.z, compiled.z, atol=1e-3)


@pytest.mark.parametrize('name', ['lr', 'batch_size'])
def test_zero_is_not_a_default(ps, tmp_path, name):
    "What was given is checked, not replaced."
    with pytest.raises(ValueError, match=f'{name} must be positive, found 0'): fit(ps, out=tmp_path/'run', **{**QUICK, name: 0})


def test_script_that_ends(ps, tmp_path):
    "A script that ends while a thread trains, two cores at once, ends well: the training is stopped, and what was learnt is kept."
    script = f"""
import time
from drgnbook import Particles, fit
run = fit(Particles.read({str(ps.md.path)!r}), epochs=500, zdim=2, z='encoder', where='thread', device='cpu', out={str(tmp_path/'run')!r})
while not len(run.history): time.sleep(.05)"""
    subprocess.run([sys.executable, '-c', script], check=True, env=os.environ | dict(OMP_NUM_THREADS='2'))
    run = Run.load(tmp_path/'run')
    assert run.state.startswith('stopped in epoch') and run.checkpoints
