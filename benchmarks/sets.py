"""What the two programs are compared on: sets of known truth, the same files for both, and the peer's command line."""
import json, os, subprocess, sys, tempfile, time
from dataclasses import dataclass, field, replace
from pathlib import Path
import numpy as np, torch
from drgnbook import Assembly, Volume, large_subunit, read_cryodrgn_ctf, rotvec_to_R, safe_load, simulate
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


# Sets of known truth for `proof.py`, after those of the first cryoDRGN paper (Zhong et al. 2021) and of CryoBench (Jeon et al. 2024); sources only, `simulate` does the rest.

def one_state(seed=0):
    "The large subunit with all its blocks, at rest, to be moved."
    whole = large_subunit(seed)
    return replace(whole, xyz=whole.xyz[20:21], states=('whole',), occupancy=torch.ones(1, len(whole.blocks)), proportions=torch.ones(1))


def turning():
    "Its upper half turning all the way round on its lower half: a circle."
    whole = one_state()
    upper = (whole.xyz[0, :, 1] > 0).long()
    two = replace(whole, block=upper, blocks=('lower', 'upper'), occupancy=torch.ones(1, 2))
    return two.hinge('upper', at=(0., 0., 0.), axis=(0., 1., 0.), span=(0., 360.), stations=73)


ROWS = 13       # of the square that `bending_twice` sweeps, and stations in each


def swept(coord):
    "Both angles, degrees, at a place on the path of `bending_twice`: it goes there and back again, a row higher each time."
    steps = np.linspace(-SPAN, SPAN, ROWS)
    path = np.array([(a, b) for j, b in enumerate(steps) for a in (steps if j % 2 == 0 else steps[::-1])])
    at = np.clip(np.asarray(coord, dtype=float), 0, 1)*(len(path) - 1)
    return np.stack([np.interp(at, np.arange(len(path)), path[:, i]) for i in (0, 1)], -1)


def bending_twice():
    "Its top bending about z and its bottom about x, each by ±20° on its own: two dimensions, swept by one path."
    whole = one_state()
    rest, angles = whole.xyz[0], swept(np.linspace(0, 1, ROWS**2))
    top, bottom = rest[:, 1] > 25, rest[:, 1] < -25
    turn = lambda degrees, axis: torch.tensor(rotvec_to_R(degrees[:, None]*np.array(axis))).float()
    a, b = turn(angles[:, 0], (0., 0., 1.)), turn(angles[:, 1], (1., 0., 0.))
    return replace(whole, xyz=torch.where(top[:, None], rest @ a.mT, torch.where(bottom[:, None], rest @ b.mT, rest)), span=(0., 1.))


def ten_states():
    "The ten states of the assembling subunit, all alike in number and at rest."
    whole = large_subunit()
    return replace(whole, xyz=whole.xyz[20:21], proportions=torch.full((10,), .1))


# CryoBench's recipe (Jeon et al. 2024; its programs in `cryosim`): density at 3 Å, a box of 256 px of 1.5 Å, rows of CTF parameters of a real set and an envelope of 100 Å², noise of SNR 0.01 over that box,
# and then images cropped in Fourier space to 128 px. The crop takes three quarters of the noise away.
FINE = dict(cell=3., sigma=1.1)       # beads whose power is that of atoms at 3 Å within a third up to 6 Å, by half of their number


def antibody(data, D):
    "1IGY, one of whose Fabs (chain A, and chain B up to the hinge) turns all the way round on the hinge: CryoBench's IgG-1D."
    import gemmi
    model = gemmi.read_structure(str(Path(data)/'atoms/1igy.cif'))
    light, heavy = model[0]['A'], model[0]['B']
    spot = lambda number: np.mean([a.pos.tolist() for a in heavy[str(number)][0]], axis=0)
    at, end, middle = spot(220), spot(236), np.array(model[0].calculate_center_of_mass().tolist())
    fab = [i for i, r in enumerate(heavy) if gemmi.find_tabulated_residue(r.name).is_amino_acid() and r.seqid.num <= 220]
    turns = gemmi.Chain('Fab')
    for r in (*light, *(heavy[i] for i in fab)): turns.add_residue(r)
    for i in reversed(fab): del heavy[i]
    model[0].remove_chain('A')
    model[0].add_chain(turns)
    with tempfile.TemporaryDirectory() as tmp:
        model.make_mmcif_document().write_file(f'{tmp}/two.cif')
        return Assembly.from_atoms(f'{tmp}/two.cif', centre=middle, **FINE).hinge('Fab', at=(at - middle).tolist(), axis=(end - at).tolist(), span=(0., 360.), stations=73)


def ribosembly(data, D, states=16):
    "The 50S in sixteen states, made up: its chains come one after the other, the rarest in EMPIAR-10076's four states last. CryoBench's Ribosembly has sixteen too, others."
    known = assembly_10076(Path(data)/'empiar10076', **FINE)
    order = (-known.occupancy.mean(0)).argsort(stable=True)
    first = int((known.occupancy.min(0).values > .5).sum())                                       # there in all four
    there = torch.zeros(states, len(known.blocks))
    for c, m in enumerate(np.linspace(first, len(known.blocks), states).round().astype(int)): there[c, order[:m]] = 1
    all16 = replace(known, states=tuple(f's{c:02d}' for c in range(states)), occupancy=there, proportions=torch.full((states,), 1/states))
    return all16.maps(D, 419.2/D)


@dataclass
class Set:
    source: object                                 # from the shared folder and the box, px, to what `simulate` takes
    published: str                                 # figures
    snr: float = .1                                # over the box
    truth: dict = field(default_factory=dict)      # what `Truth` needs besides
    box: float|None = None                         # Å; None: as the source has it
    recipe: bool = False                           # noise and CTF are CryoBench's

    def noise(self, D):
        "SNR of images of `D` px: of what was added at 256 px, `(D/256)²` is left."
        return self.snr*(256/D)**2 if self.recipe else self.snr

    def simulate(self, folder, data, n, D, seed):
        "What the particles are of, and they."
        source = self.source(data, D)
        more = dict(ctf=read_cryodrgn_ctf(Path(data)/'ctf/empiar10028_ctf.pkl').assign(bfactor=100.)) if self.recipe else {}
        return source, simulate(source, n=n, D=D, apix=self.box and self.box/D, snr=self.noise(D), junk=0., seed=seed, out=folder, **more)


ZHONG = 'FSC = 0.5 of the first paper (50,000 projections, D = 64), px: cryoDRGN {}, with tilt pairs {}, cryoSPARC {}; 2 is the best possible'
JEON = "CryoBench's area per image of its own set ({} images, D = 128): RECOVAR {}, cryoDRGN {}; at most 0.492"
SETS = dict(
    linear=Set(lambda data, D: bending(), ZHONG.format(2.50, 2.35, 3.60)),
    plane=Set(lambda data, D: bending_twice(), ZHONG.format(4.44, 2.93, 6.90), truth=dict(space=swept)),
    circle=Set(lambda data, D: turning(), ZHONG.format(3.86, 2.63, 4.87), truth=dict(period=360.)),
    ten=Set(lambda data, D: ten_states(), ZHONG.format(4.95, 2.58, 5.69)),
    igg=Set(antibody, JEON.format('100,000', .386, .351), snr=.01, truth=dict(period=360.), box=384., recipe=True),
    ribosembly=Set(ribosembly, JEON.format('335,240', .429, .412), snr=.01, recipe=True))


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
        return safe_load(path)

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
