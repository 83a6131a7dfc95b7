"""What the two programs are compared on: sets of known truth, the same files for both, and the peer's command line."""
import json, os, pickle, subprocess, sys, tempfile, time
from dataclasses import dataclass, replace
from pathlib import Path
import numpy as np, torch
from drgnbook import Volume, large_subunit, read_cryodrgn_ctf, simulate
from empiar10076 import assembly_10076

SPAN = 20.      # degrees


def bending():
    "The large subunit in one state, its upper half bending by ±20° about the middle: one continuous motion that half of the mass takes part in."
    whole = large_subunit()
    upper = (whole.xyz[0, :, 1] > 0).long()
    one = replace(whole, xyz=whole.xyz[20:21], block=upper, blocks=('lower', 'upper'), states=('whole',), occupancy=torch.ones(1, 2), proportions=torch.ones(1))
    return one.hinge('upper', at=(0., 0., 0.), axis=(0., 0., 1.), span=(-SPAN, SPAN))


def linear_set(folder, n=2000, D=64, snr=.1, seed=0):
    "Particles of the bending subunit, coordinates uniform over ±20°; no junk."
    return simulate(bending(), n=n, D=D, snr=snr, junk=0., seed=seed, out=folder)


def assembling_set(folder, data, n=2000, seed=0):
    "Particles of EMPIAR-10076's four major states, as in empiar10076.py."
    data = Path(data)
    source, ctf = assembly_10076(data/'empiar10076').maps(64, 6.55), read_cryodrgn_ctf(data/'ctf/empiar10028_ctf.pkl')
    return simulate(source, n=n, D=64, apix=6.55, snr=.63, within=105., ctf=ctf, junk=0., seed=seed, out=folder)


def env(threads, cache=None):
    "The environment of a child that may use so many threads; `cache`: the folder where ours keeps transformed images."
    mine = dict(os.environ, **{f'{lib}_NUM_THREADS': str(threads) for lib in ('OMP', 'MKL', 'OPENBLAS')}, TQDM_DISABLE='1', PYTHONWARNINGS='ignore')
    return dict(mine, DRGNBOOK_CACHE=str(cache)) if cache else mine


@dataclass
class Used:
    seconds: float      # on the wall
    memory: float       # at its peak, GB
    output: str


# A small process starts the program: Linux counts the memory of who starts one as its own.
START = '''
import json, os, subprocess, sys, time
start = time.perf_counter()
p = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(p.pid, 0)
open(sys.argv[1], 'w').write(json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - start, usage.ru_maxrss]))
'''


def child(command, threads):
    "Run a program to its end; what it needed. Nothing is left of earlier runs: ours has an empty cache."
    command = [str(w) for w in command]
    with tempfile.TemporaryDirectory() as tmp, open(f'{tmp}/out', 'w+') as out:
        subprocess.run([sys.executable, '-S', '-c', START, f'{tmp}/used', *command], env=env(threads, f'{tmp}/cache'), stdout=out, stderr=subprocess.STDOUT)
        out.seek(0)
        text = out.read()
        if not Path(f'{tmp}/used').exists(): raise RuntimeError(f'{" ".join(command)}\ncould not be started:\n{text}')
        code, seconds, memory = json.loads(Path(f'{tmp}/used').read_text())
    if code: raise RuntimeError(f'{" ".join(command)}\nended with {code}:\n{text[-3000:]}')
    return Used(seconds, memory*(1 if sys.platform == 'darwin' else 1024)/1e9, text)


class Peer:
    "The installed cryoDRGN, run as a program; `python` is its environment's."
    def __init__(self, python):
        self.python = Path(python).absolute()
        if not self.python.with_name('cryodrgn').exists(): raise SystemExit(f'no cryodrgn beside {python}: make it with `sh benchmarks/peer_env.sh FOLDER`, then give --peer FOLDER/bin/python')

    def command(self, *words): return [str(self.python.with_name('cryodrgn')), *map(str, words)]

    def run(self, *words, threads=1): return child(self.command(*words), threads).output

    def version(self): return self.run('--version').strip()

    def parse(self, folder):
        "Poses and CTFs of `particles.star` by the peer's own parsers: `poses.pkl` and `ctf.pkl` beside it."
        folder = Path(folder)
        for what in ('pose', 'ctf'):
            out = folder/dict(pose='poses.pkl', ctf='ctf.pkl')[what]
            if not out.exists(): self.run(f'parse_{what}_star', folder/'particles.star', '-o', out)
        return folder

    def train(self, folder, out, epochs, zdim=8, width=256, batch=None, checkpoint=1):
        "The command line of `train_vae`; what is not named here is its default (white particles are what it expects)."
        return self.command('train_vae', folder/'particles.mrcs', '--poses', folder/'poses.pkl', '--ctf', folder/'ctf.pkl', '--zdim', zdim, '-n', epochs, '-o', out,
                            '--enc-dim', width, '--dec-dim', width, '--checkpoint', checkpoint, '--seed', 0, '--no-amp', '--no-analysis', *(['--batch-size', batch] if batch else []))

    def latents(self, path):
        "The mean z in one of its `z.N.pkl` files (two arrays, one pickle after the other; the first counts)."
        with open(path, 'rb') as f: return pickle.load(f)

    def volumes(self, run, weights, z, out, apix, threads=1, D=None):
        "Maps by its `eval_vol` at the rows of z."
        out = Path(out); out.mkdir(parents=True, exist_ok=True)
        np.savetxt(out/'z.txt', z)
        self.run('eval_vol', run/weights, '-c', run/'config.yaml', '--zfile', out/'z.txt', '-o', out, '--Apix', apix, *(['-d', D] if D else []), threads=threads)
        return [Volume.load(p) for p in sorted(out.glob('vol_*.mrc'))]


def machine():
    "Processor, cores, memory, commit, date: where figures come from."
    import platform
    cpu = next((line.split(':')[1].strip() for line in Path('/proc/cpuinfo').read_text().splitlines() if line.startswith('model name')), platform.processor()) if Path('/proc/cpuinfo').exists() else platform.processor()
    here = Path(__file__).parent
    git = lambda *words: subprocess.run(['git', '-C', str(here), *words], capture_output=True, text=True).stdout.strip()
    commit = git('rev-parse', '--short', 'HEAD') + (' with changes' if git('status', '--porcelain', '--', ':/drgnbook', ':/benchmarks') else '')
    load = f', load {os.getloadavg()[0]:.1f} at the start'
    return f'{cpu}, {os.cpu_count()} cores{load}; Python {platform.python_version()}, PyTorch {torch.__version__}; commit {commit}; {time.strftime("%Y-%m-%d")}'
