"Workers that are one, and jobs that outlive what ends them: real processes, and a real Slurm where one can be run."
import os, signal, subprocess, sys, time
from pathlib import Path

import pytest
import torch

from drgnbook.cluster import ClusterError, Job, Team, submit, team, torchrun
import slurm as own

ROOT = Path(__file__).parents[1]

MODEL = '''
import os, signal, sys, time, torch
from pathlib import Path
from torch import nn
from drgnbook.cluster import team
folder = Path(sys.argv[1])

def model_and_data():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Linear(16, 1)), torch.randn(37, 5), torch.randn(37), torch.rand(37) + .5

def message(me):
    "Gradient of the weighted mean over the whole batch, its loss, and a latent mean an image: one sum over all workers"
    model, x, y, w = model_and_data()
    i = me.mine(torch.arange(37))
    loss = (w[i]*(model(x[i])[:, 0] - y[i])**2).sum()/w.sum()
    loss.backward()
    means = torch.zeros(37)
    means[i] = x[i].mean(1)
    return me.sum_(torch.cat([*(p.grad.flatten() for p in model.parameters()), loss.detach()[None], means]))
'''

def script(folder, text):
    "A small program for workers to run"
    path = Path(folder)/'toy.py'
    path.write_text(MODEL + text)
    return path

@pytest.fixture(autouse=True)
def workers_find_us(monkeypatch): monkeypatch.setenv('PYTHONPATH', str(ROOT))

def until(true, seconds=60):
    "Wait for something to become true"
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f'not within {seconds} s'
        time.sleep(.05)
    return found

def alive(pid):
    stat = Path(f'/proc/{pid}/stat')
    try: return stat.read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError): return False

def parent(pid): return int(Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[1])


# A team

def test_alone():
    with team() as me:
        assert me == Team(0, 1, 0) and me.first
        x = torch.ones(3)
        assert me.sum_(x) is x and me.wait() is None and x.tolist() == [1, 1, 1]
        assert me.mine(torch.arange(5)).tolist() == [0, 1, 2, 3, 4] and me.device('cuda') == 'cuda'

@pytest.mark.parametrize('n, world', [(10, 3), (2, 4), (0, 2)])
def test_each_index_has_one_worker(n, world):
    parts = [Team(r, world, r).mine(torch.arange(n)) for r in range(world)]
    assert sorted(torch.cat(parts).tolist()) == list(range(n)) and max(map(len, parts)) - min(map(len, parts)) <= 1

def test_two_workers_make_the_step_of_one(tmp_path):
    toy = script(tmp_path, "with team() as me: torch.save(message(me), folder/f'{me.world}-{me.rank}.pt')")
    assert torchrun([toy, tmp_path], 2, module=None)
    subprocess.run([sys.executable, toy, tmp_path], check=True)
    one, *two = (torch.load(tmp_path/f) for f in ('1-0.pt', '2-0.pt', '2-1.pt'))
    assert torch.equal(*two) and len(one) == 16*5 + 16 + 16 + 1 + 1 + 37
    assert (one - two[0]).abs().max() < 1e-6 and one.abs().min() > 0


# torchrun

COUNT = '''
stop = []
for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, lambda *_: stop.append(1))
with team() as me:
    (folder/f'pid{me.rank}').write_text(str(os.getpid()))
    flag, step = torch.zeros(1), 0
    while not me.sum_(flag.fill_(len(stop))): step += 1; time.sleep(.01)
    time.sleep(float(sys.argv[2]))      # what saving takes
    (folder/f'steps{me.rank}').write_text(str(step))
    if me.first: print('saved', flush=True)
'''

LAUNCH = '''
import sys
from drgnbook.cluster import torchrun
print('ended by itself:', torchrun(sys.argv[1:], 2, module=None), flush=True)
'''

def pids(folder): return [int((folder/f'pid{r}').read_text() or 0) for r in range(2)] if (folder/'pid1').exists() and (folder/'pid0').exists() else []

@pytest.mark.parametrize('sig, to', [(signal.SIGINT, 'launcher'), (signal.SIGTERM, 'launcher'), (signal.SIGTERM, 'worker')])
def test_a_signal_stops_all_at_one_step(tmp_path, sig, to):
    "Also to one worker alone; saving may take its time; and Slurm's warning of the end is not for them"
    toy, launch = script(tmp_path, COUNT), tmp_path/'launch.py'
    launch.write_text(LAUNCH)
    with subprocess.Popen([sys.executable, launch, toy, tmp_path, '1'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        workers = until(lambda: all(pids(tmp_path)) and pids(tmp_path))
        for pid in [parent(workers[0]), *workers]: os.kill(pid, signal.SIGUSR2)
        os.kill(p.pid if to == 'launcher' else workers[1], sig)
        try: said = p.communicate(timeout=60)[0]
        finally: p.kill()                # else a failure would wait for it
    steps = {(tmp_path/f'steps{r}').read_text() for r in range(2)}
    assert p.returncode == 0 and said == f'saved\nended by itself: {to == "worker"}\n' and len(steps) == 1
    assert not any(map(alive, workers))

@pytest.mark.parametrize('end, words', [('raise OSError(28, "No space left on device")', r'worker 1 ended with exit code 1:\n(.*\n)*.*No space left on device'),
                                        ('os.kill(os.getpid(), 9)', r'worker 1 was killed by SIGKILL \(out of memory\?\):\n  my last words')])
def test_a_worker_that_dies(tmp_path, end, words):
    "Its last words are the error; its fellows do not wait for it"
    toy = script(tmp_path, f'''
with team() as me:
    (folder/f'pid{{me.rank}}').write_text(str(os.getpid()))
    if me.rank == 1:
        print('my last words', file=sys.stderr, flush=True)
        {end}
    me.wait()''')
    with pytest.raises(ClusterError, match=words): torchrun([toy, tmp_path], 2, module=None)
    assert not any(map(alive, pids(tmp_path)))

def test_a_command_that_is_not_there(tmp_path):
    with pytest.raises(ClusterError, match="(?s)worker 0 ended with exit code 1.*No module named nowhere"): torchrun([], 1, module='nowhere')

@pytest.mark.skipif(not Path('/proc/net/tcp').exists(), reason='reads /proc/net/tcp')
def test_no_open_door(tmp_path):
    "Workers on one machine, and the torchrun above them, listen on the loopback only"
    toy = script(tmp_path, '''
def doors(pid):
    "The addresses at which a process listens"
    ours = {os.readlink(f) for f in Path(f'/proc/{pid}/fd').iterdir() if f.is_symlink()}
    sockets = [l.split() for f in ('tcp', 'tcp6') for l in open(f'/proc/net/{f}')]
    return [s[1] for s in sockets if s[3] == '0A' and f'socket:[{s[9]}]' in ours]
with team() as me:
    me.wait()
    (folder/f'doors{me.rank}').write_text(' '.join([*doors(os.getpid()), *doors(os.getppid())]))''')
    torchrun([toy, tmp_path], 2, module=None)
    found = [a for r in range(2) for a in (tmp_path/f'doors{r}').read_text().split()]
    assert found and all(a.startswith('0100007F:') or a.startswith('0'*24 + '01000000:') for a in found), found


# Jobs

WORK = '''
stop = []
for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, lambda *_: stop.append(1))
to, saved = int(sys.argv[2]), folder/'count'
with team() as me:
    count, flag = int(saved.read_text()) if saved.exists() else 0, torch.zeros(1)
    me.wait()
    if me.first:
        with open(folder/'starts', 'a') as f: f.write(f'{count} {os.getpid()}\\n')
    while count < to and not me.sum_(flag.fill_(len(stop))): count += 1; time.sleep(.05)
    if me.first:
        saved.write_text(str(count))
        print('saved at', count, 'of', to, 'by', me.world, flush=True)
'''

def starts(folder):
    "Where the count began at each start, and by which process"
    path = folder/'starts'
    return [tuple(map(int, l.split())) for l in path.read_text().splitlines()] if path.exists() else []

def aim(folder, to): (folder/'toy.py').write_text((folder/'toy.py').read_text().replace('int(sys.argv[2])', str(to)))

def family(pids):
    "Processes and all that they have started"
    return [p for pid in pids for p in [*family(map(int, own.say('pgrep', '-P', str(pid)))), pid]]

def job_of(folder, to, cluster='local', **kwargs):
    "A job of two workers on the CPU that count, and save when told to stop"
    return submit([script(folder, WORK), folder, to], folder, cluster, **dict(dict(gpus=0, workers=2, module=None), **kwargs))

def test_a_local_job(tmp_path):
    job = job_of(tmp_path, 10)
    assert job == Job.load(tmp_path) and job.wait(60, every=.1) == 'done' and 'saved at 10 of 10 by 2' in job.log and job.why == f'job {job.id} is done'
    assert Job.load(tmp_path).state == 'done'

def test_a_local_job_that_fails(tmp_path):
    "Seen from another process, too"
    toy = script(tmp_path, "raise OSError(28, 'No space left on device')")
    job = submit([toy, tmp_path], tmp_path, 'local', gpus=0, module=None)
    assert job.wait(60, every=.1) == 'failed' and 'No space left on device' in job.why and 'worker 0' in job.why
    code = f'from drgnbook.cluster import Job; job = Job.load({str(tmp_path)!r}); print(job.state, job.why)'
    assert 'No space left on device' in subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout

def test_a_local_job_cancelled(tmp_path):
    "By another process than the one that submitted it; it saves first, and a second job goes on from there"
    job = job_of(tmp_path, 10**6)
    until(lambda: starts(tmp_path))
    assert job.state == 'running'
    with pytest.raises(ClusterError, match='is running: wait for it'): job_of(tmp_path, 5)
    subprocess.run([sys.executable, '-c', f'from drgnbook.cluster import Job; Job.load({str(tmp_path)!r}).cancel()'], check=True)
    assert job.wait(60, every=.1) == 'cancelled' and job.why == f'job {job.id} was cancelled'
    count = int((tmp_path/'count').read_text())
    assert job_of(tmp_path, count + 3).wait(60, every=.1) == 'done' and [c for c, _ in starts(tmp_path)] == [0, count]

def test_a_local_job_out_of_time(tmp_path):
    "The warning goes to the task above the workers: they save, and are started again"
    job = job_of(tmp_path, 10**6)
    until(lambda: starts(tmp_path))
    os.kill(int(own.say('pgrep', '-P', job.id)[0]), signal.SIGUSR2)
    count = int(until(lambda: (tmp_path/'count').exists() and (tmp_path/'count').read_text()))
    aim(tmp_path, count + 3)
    assert job.wait(60, every=.1) == 'done' and [c for c, _ in starts(tmp_path)] == [0, count]

def test_a_local_job_killed(tmp_path):
    "Without a word: the job says so"
    job = job_of(tmp_path, 10**6)
    worker = until(lambda: starts(tmp_path))[0][1]
    parents = [worker]
    while parents[-1] != int(job.id): parents.append(parent(parents[-1]))
    for pid in reversed(parents): os.kill(pid, signal.SIGKILL)
    assert job.wait(60, every=.1) == 'lost' and 'ended without a word' in job.why

def test_no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(ClusterError, match='slurm did not take the job.*srun'): submit(['resume', 'run1'], tmp_path)
    with pytest.raises(FileNotFoundError, match='no job.json'): Job.load(tmp_path)


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    try:
        with own.slurm(tmp_path_factory.mktemp('slurm')) as daemons: yield daemons
    except own.NoSlurm as e: pytest.skip(f'no Slurm: {e}')

@pytest.mark.slow
class TestSlurm:
    def test_done(self, cluster, tmp_path):
        job = job_of(tmp_path, 20, 'slurm')
        assert job.state in ('waiting', 'running') and job.wait(60, every=.2) == 'done'
        assert 'saved at 20 of 20 by 2' in job.log and Job.load(tmp_path).state == 'done'

    def test_two_nodes(self, cluster, tmp_path):
        job = job_of(tmp_path, 20, 'slurm', nodes=2)
        assert job.wait(60, every=.2) == 'done' and 'saved at 20 of 20 by 4' in job.log, job.why

    def test_fit(self, cluster, tmp_path):
        "The call of a notebook: two machines train one run, which a monitor follows; ended from outside, it says so, and goes on here"
        from drgnbook import fit, monitor, simulate
        ps = simulate(n=100, D=32, snr=1., junk=0., out=tmp_path/'set')
        run = fit(ps, zdim=2, width=32, epochs=2000, out=tmp_path/'run', device='cpu', cluster='slurm', nodes=2, gpus=0)
        assert run.state.split(',')[0] in ('waiting', 'starting', 'preparing', 'training')
        until(lambda: run.checkpoints and run.training, 120)
        seen = monitor(run)
        until(lambda: seen.live.get('state') == 'training' and seen.live['done'])
        assert run.live['workers'] == 2
        subprocess.run(['scancel', run.job.id], check=True)
        run.wait()
        epochs = len(run.history) + 1
        assert run.state.startswith(f'stopped in epoch {epochs} of 2000'), run.state
        assert run.resume(epochs=epochs, where='here').state == f'finished, {epochs} epochs'

    def test_a_worker_dies(self, cluster, tmp_path):
        "On the second node: the first does not wait for it"
        toy = script(tmp_path, """
with team() as me:
    if me.rank == 1: raise OSError(28, 'No space left on device')
    me.wait()""")
        job = submit([toy, tmp_path], tmp_path, nodes=2, gpus=0, module=None)
        assert job.wait(60, every=.2) == 'failed' and 'No space left on device' in job.why and 'worker 1 ended with exit code 1' in job.why

    def test_cancelled(self, cluster, tmp_path):
        "By scancel; the workers save first"
        job = job_of(tmp_path, 10**6, 'slurm')
        until(lambda: starts(tmp_path))
        assert job.state == 'running'
        subprocess.run(['scancel', job.id], check=True)
        assert job.wait(60, every=.2) == 'cancelled'
        assert int(until(lambda: (tmp_path/'count').exists() and (tmp_path/'count').read_text())) > 0

    def test_out_of_time(self, cluster, tmp_path):
        "Before its minute is over it saves, queues again, and goes on from there; on two nodes"
        job = job_of(tmp_path, 10**6, 'slurm', nodes=2, workers=1, hours=1/60, signal_delay_s=20)
        count = int(until(lambda: (tmp_path/'count').exists() and (tmp_path/'count').read_text(), 120))
        aim(tmp_path, count + 5)
        assert count > 0 and job.wait(240, every=.5) == 'done', job.why
        assert [c for c, _ in starts(tmp_path)] == [0, count] and int((tmp_path/'count').read_text()) == count + 5 and 'Requeued' in job.log

    def test_node_lost(self, cluster, tmp_path):
        "A machine that goes dark: Slurm starts the job again on the other, and it goes on from what is saved"
        job = job_of(tmp_path, 10**6, 'slurm')
        until(lambda: starts(tmp_path))
        node = next(w[9:] for w in own.say('scontrol', 'show', 'job', '-o', job.id) if w.startswith('NodeList='))
        steps = [int(p) for p in own.say('pgrep', '-f', rf'^slurmstepd: \[{job.id}\.')]
        assert len(steps) == 2      # the batch script's and srun's
        for pid in [cluster[node].pid, *family(steps)]: os.kill(pid, signal.SIGKILL)
        aim(tmp_path, 5)
        assert job.wait(300, every=.5) == 'done', job.why
        assert [c for c, _ in starts(tmp_path)] == [0, 0] and 'saved at 5 of 5' in job.log
        assert next(w[9:] for w in own.say('scontrol', 'show', 'job', '-o', job.id) if w.startswith('NodeList=')) != node
