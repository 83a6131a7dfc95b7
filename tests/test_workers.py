"Training with several workers and as a job: the same numbers, and a folder that stays good whatever happens."
import json, os, re, signal, subprocess, sys, time

import numpy as np, pytest, torch
from pathlib import Path
from types import SimpleNamespace
from drgnbook.cluster import ClusterError, Job, torchrun
from drgnbook.data import _fits, _reader
from drgnbook.decoder import FourierMLP
from drgnbook.fourier import Lattice
from drgnbook.metadata import write_json
from drgnbook.run import Run, RunError, pick_device
from drgnbook.simulate import simulate
from drgnbook.fit import CRYODRGN, _defaults, fit
from drgnbook.train import _room

ROOT = Path(__file__).parents[1]
QUICK = dict(zdim=2, z='encoder', pose='table', width=32, encoder_width=32, epochs=2, sample=.3, batch_size=24, device='cpu')


@pytest.fixture(scope='module')
def ps(tmp_path_factory): return simulate(n=100, D=32, snr=1., junk=0., out=tmp_path_factory.mktemp('workers')/'set')


def near(a, b, tolerance):
    "Do two runs have the same weights, z and history, but for rounding?"
    weights = zip(a.model.state_dict().values(), b.model.state_dict().values())
    return (all(torch.allclose(x, y, atol=tolerance) for x, y in weights) and np.allclose(a.z, b.z, atol=tolerance)
            and np.allclose(*(r.history[['loss', 'data', 'kl', 'lr']] for r in (a, b)), atol=tolerance))


def test_two_workers_equal_one(ps, tmp_path):
    "The last batch of an epoch (4 images) and all others, latents, history: as one worker would; and a run goes on with another number of them."
    one = fit(ps, out=tmp_path/'one', **QUICK)
    two = fit(ps, out=tmp_path/'two', devices=2, **QUICK)
    assert near(one, two, 1e-5) and two.state == 'finished, 2 epochs'
    assert near(one.resume(epochs=3), two.resume(epochs=3), 1e-5)                    # one worker goes on from two ...
    assert near(one.resume(epochs=4), two.resume(epochs=4, devices=2), 1e-5)         # ... and two from one


def test_subspace_of_two_workers(ps, tmp_path):
    "What is found in closed form is found once and read by all."
    words = {**QUICK, 'z': 'subspace', 'pose': 'given'}
    assert near(fit(ps, out=tmp_path/'one', **words), fit(ps, out=tmp_path/'two', devices=2, **words), 1e-5)


DYING = '''
import os, signal, sys
from drgnbook import cli
from drgnbook.train import Trainer
step = Trainer.step
def dying(self, *batch):
    if os.environ['RANK'] == '1' and self.state['epoch'] == 1: os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *batch)
Trainer.step = dying
cli.main(sys.argv[1:])
'''


SLOPE = """
import sys, torch
from drgnbook.cluster import team
from drgnbook.data import load_data
from drgnbook.model import Model, calibrate
from drgnbook.run import Run
from drgnbook.train import Trainer
run = Run.load(sys.argv[1], 'cpu')
data = load_data(run.particles)
with team() as me:
    trainer, batch = Trainer(run, data, calibrate(Model(run.config), data, run.particles.pose), me), torch.arange(25)
    mine = me.mine(batch)
    pairs, at = data.read(mine)
    trainer.step(batch, mine, pairs[at])
    if me.first: torch.save([p.grad for p in trainer.params], f'{sys.argv[2]}/{me.world}.pt')
"""


def test_two_workers_have_the_gradient_of_one(ps, tmp_path):
    "Of encoder, field and poses, on the same batch of 25 images, to 1e-6 of the largest."
    (tmp_path/'slope.py').write_text(SLOPE)
    run = fit(ps, out=tmp_path/'run', **dict(QUICK, epochs=1))
    subprocess.run([sys.executable, tmp_path/'slope.py', run.folder, tmp_path], check=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    torchrun([tmp_path/'slope.py', run.folder, tmp_path], 2, module=None)
    one, two = (torch.cat([g.flatten() for g in torch.load(tmp_path/f'{n}.pt')]) for n in (1, 2))
    assert len(one) > 10_000 and (one - two).abs().max() <= 1e-6*one.abs().max() and (one - two).norm() <= 1e-6*one.norm() > 0


def test_a_worker_dies(ps, tmp_path, monkeypatch):
    "The others end, it is said which one died, and the run goes on from the last epoch to the same end."
    (tmp_path/'dying.py').write_text(DYING)
    start = torchrun
    monkeypatch.setattr(sys.modules['drgnbook.fit'], 'torchrun', lambda words, devices: start([tmp_path/'dying.py', *words], devices, module=None))
    with pytest.raises(ClusterError, match='worker 1 was killed by SIGKILL') as died: fit(ps, out=tmp_path/'run', devices=2, **QUICK)
    run = Run.load(tmp_path/'run')
    assert run.state == f'failed in epoch 2 of 2: {died.value}' and len(run.history) == 1
    assert near(run.resume(), fit(ps, out=tmp_path/'whole', **QUICK), 1e-5)


def test_the_disk_is_full(ps, tmp_path, monkeypatch):
    "The run says so, keeps what it has, and goes on."
    train = sys.modules['drgnbook.train']
    save = train.save_checkpoint
    def full(run, model, optimiser, scaler, state, z):
        if state['epoch'] == 2: raise OSError(28, 'No space left on device')
        return save(run, model, optimiser, scaler, state, z)
    monkeypatch.setattr(train, 'save_checkpoint', full)
    with pytest.raises(RunError, match='No space left.*make room'): fit(ps, out=tmp_path/'run', **QUICK)
    monkeypatch.setattr(train, 'save_checkpoint', save)
    run = Run.load(tmp_path/'run')
    assert [p.name for p in run.checkpoints] == ['0001']
    assert near(run.resume(), fit(ps, out=tmp_path/'whole', **QUICK), 0)


def test_the_card_is_full(ps, tmp_path, monkeypatch):
    "Parts are halved, with a word, until they fit; the result is the same."
    from drgnbook.model import Model
    learn = Model.learn
    def small(self, data, *batch, most, **kw):
        if most > 2000: raise torch.cuda.OutOfMemoryError('out of memory')
        return learn(self, data, *batch, most=most, **kw)
    whole = fit(ps, out=tmp_path/'whole', **QUICK)
    monkeypatch.setattr(Model, 'learn', small)
    with pytest.warns(UserWarning, match='1,024 frequencies'): run = fit(ps, out=tmp_path/'run', **QUICK)
    assert near(run, whole, 1e-5)
    monkeypatch.setattr(Model, 'learn', lambda *a, **kw: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError('out of memory')))
    with pytest.warns(UserWarning), pytest.raises(RunError, match='the card is full even with'): fit(ps, out=tmp_path/'none', **QUICK)


def test_what_a_card_is_given(ps, monkeypatch):
    "The card with most free memory; steps, parts and images as it has room for them. No card was there when this was written: its memory is made up."
    free = [3*2**30, 11*2**30, 5*2**30]
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 3)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda **_: True)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda i: (free[torch.device(i).index if not isinstance(i, int) else i], 80*2**30))
    assert pick_device() == 'cuda:1'
    none = dict(batch_size=None, lr=None, decoder=None, precision=None, zdim=8)
    picked = lambda N, z: (lambda o: (o['batch_size'], o['decoder'], o['precision']))(_defaults(dict(none, z=z), 'cuda', N))
    assert picked(100, 'subspace') == (64, 'residual', 'bfloat16') and picked(100, 'encoder') == (8, 'field', 'bfloat16') and picked(20_000, 'encoder') == (64, 'field', 'bfloat16')
    room = lambda D, width, i: _room(SimpleNamespace(device=torch.device(f'cuda:{i}'), lattice=SimpleNamespace(D=D)), dict(depth=3, width=width))
    assert room(128, 1024, 1) > 2*room(128, 1024, 2) and room(64, 256, 1) <= 2**19 and room(128, 1024, 1)*(3*128 + 5*1024)*12 <= free[1]/2
    assert _fits(5*2**30, 'cuda:1') and not _fits(5*2**30, 'cuda:2') and not _fits(1, 'cpu')


def test_images_held_or_read(ps):
    i = torch.tensor([7, 3, 99, 3])
    seen = [pairs[at] for pairs, at in (_reader(ps.cache(), ps.rows, 'cpu', hold)(i) for hold in (True, False))]
    assert torch.equal(*seen) and seen[0].shape[0] == 4 and not torch.equal(seen[0][0], seen[0][1])


def test_cryodrgn_in_a_word(ps, tmp_path):
    "All coefficients, an encoder of all of them, a field alone, no weights, no envelope."
    run = fit(ps, zdim=2, out=tmp_path/'run', device='cpu', **dict(CRYODRGN, width=16, encoder_width=16, epochs=1))
    o, n = run.options, len(Lattice(32, 1.))
    assert (o['z'], o['sample'], o['noise'], o['lr'], o['batch_size'], run.config['m']) == ('encoder', 1., False, 1e-4, 16, n)
    assert isinstance(run.model.decoder, FourierMLP) and bool((run.model.decoder.envelope == 1).all())


def test_as_a_job(ps, tmp_path):
    "submitit's local executor: `fit` returns at once, the folder tells the rest, a second start is refused, the end is the same."
    run = fit(ps, out=tmp_path/'run', cluster='local', gpus=0, **QUICK)
    assert run.job.id and run.state.split(',')[0] in ('starting', 'preparing', 'training', 'finished')
    run.wait()
    assert run.job.wait(120, every=.5) == 'done', run.job.why
    assert near(run, fit(ps, out=tmp_path/'whole', **QUICK), 0) and run.state == 'finished, 2 epochs'


def test_a_job_that_is_lost(ps, tmp_path):
    "Killed, it could not say so; the run does, and goes on here."
    run = fit(ps, out=tmp_path/'run', cluster='local', gpus=0, **dict(QUICK, epochs=500))
    while not run.checkpoints: assert run.training or run.queued, run.job.why; time.sleep(.05)
    family = [int(run.job.id)]
    for pid in family: family += map(int, subprocess.run(['pgrep', '-P', str(pid)], capture_output=True, text=True).stdout.split())
    for pid in reversed(family): os.kill(pid, signal.SIGKILL)
    with pytest.raises(RunError, match=r'job \d+ ended without a word(.|\n)*resume'): run.wait()
    assert re.fullmatch(r'stopped in epoch \d+ of 500: job \d+ ended without a word:?', run.state)
    epochs = len(run.history) + 1
    assert run.resume(epochs=epochs).state == f'finished, {epochs} epochs' and run.job is None


def test_a_job_that_waits(ps, tmp_path, monkeypatch):
    "In a queue, and taken out of it, before anything has begun."
    run, says, asked = fit(ps, out=tmp_path/'run', **QUICK), ['waiting'], []
    for name in ('live.json', 'history.csv'): (run.folder/name).unlink()
    write_json(run.folder/'job.json', dict(id='7', cluster='slurm', ended=''))
    monkeypatch.setattr('drgnbook.cluster._slurm_state', lambda id: says[-1])
    monkeypatch.setattr('drgnbook.run._job_state', lambda job, now: job.state)
    monkeypatch.setattr(Job, 'cancel', lambda job: (asked.append(job.id), says.append('cancelled')))
    assert run.state == 'waiting, job 7' and 'waiting, job 7' in repr(run)
    with pytest.raises(RunError, match=r'job 7: run.wait\(\) for it, or run.stop'): run.resume()
    assert run.stop().state == 'not begun, 2 epochs: job 7 was cancelled' and asked == ['7']
    for state, words in [('out of time', 'ran out of time'), ('node failed', 'lost its machine')]:
        says.append(state)
        with pytest.raises(RunError, match=f'job 7 {words}'): run.wait()


def test_end_is_a_request(ps, tmp_path):
    "SIGTERM, as a cluster sends it, ends a run between two steps with a checkpoint; it goes on to the same bits."
    words = {**QUICK, 'epochs': 200}
    code = f'from drgnbook.particles import Particles\nfrom drgnbook.fit import fit\nfit(Particles.read({str(ps.md.path)!r}), out={str(tmp_path/"run")!r}, **{words!r})'
    p = subprocess.Popen([sys.executable, '-c', code])
    end = time.monotonic() + 60
    while not list((tmp_path/'run').glob('checkpoints/*')) and time.monotonic() < end: time.sleep(.05)
    p.send_signal(signal.SIGTERM)
    assert p.wait(60) == 0
    run = Run.load(tmp_path/'run')
    state = json.loads((run.checkpoints[-1]/'state.json').read_text())
    assert 0 < state['epoch'] < 200 and run.state.startswith('stopped')
    epochs = state['epoch'] + 2
    assert near(run.resume(epochs=epochs), fit(ps, out=tmp_path/'whole', **QUICK).resume(epochs=epochs), 1.)      # another schedule of lr: the same order, other numbers
