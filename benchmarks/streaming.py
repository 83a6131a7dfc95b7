"""Larger than memory: does training keep its pace when the set does not fit?

    python benchmarks/streaming.py [--n 200000] [--limit 2] [--seconds 40] [--folder FOLDER]

makes a stack of n images of 64 px (noise: the pace does not depend on what they show), transforms it, and trains twice each with all of
the machine's memory and in a control group of `limit` GB, in turns. A control group counts the system's file cache too. Needs to be root on Linux.
"""
import json, os, signal, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np
from fastcore.script import call_parse

GROUPS = Path('/sys/fs/cgroup')
WORKER = '''
import sys, resource
from pathlib import Path
import numpy as np
from drgnbook.particles import Particles
from drgnbook.fit import fit
from drgnbook.run import Run
ps = Particles.read(sys.argv[1])
fit(ps, z=np.random.default_rng(0).normal(size=(len(ps), 8)), noise=False, minutes=1e9, decoder='field', out=sys.argv[2], device='cpu')
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
'''


def make(folder, n, D=64):
    "A stack of noise with poses and CTFs, and its cache."
    from drgnbook import Metadata, Particles, R_to_rotvec, random_ctf, random_rotations, write_metadata, write_stack
    path, rng = folder/'particles.star', np.random.default_rng(0)
    if not path.exists():
        write_stack(folder/'particles.mrcs', (rng.normal(size=(1000, D, D)).astype('f4') for _ in range(n//1000)), n, D, 4.)
        table = random_ctf(n, rng).assign(stack='particles.mrcs', index=np.arange(n), apix=4., tx=0., ty=0.)
        table[['rx', 'ry', 'rz']] = R_to_rotvec(random_rotations(n))
        write_metadata(path, Metadata(table), box=D)
    start = time.perf_counter()
    Particles.read(path).cache()
    print(f'transformed {n:,} images in {time.perf_counter() - start:.0f} s', file=sys.stderr)
    return path


def group(limit):
    "A new control group of so many bytes: where to write a process's number, and where its peak is read."
    new = GROUPS/'memory'/'drgnbook' if (GROUPS/'memory').is_dir() else GROUPS/'drgnbook'
    new.mkdir(exist_ok=True)
    (new/('memory.limit_in_bytes' if new.parent.name == 'memory' else 'memory.max')).write_text(str(limit))
    return new


def pace(particles, out, seconds, limit=None):
    "Images a second after `seconds` of training, and the process's peak memory in GB."
    place = group(limit) if limit else None
    join = (lambda: (place/'cgroup.procs').write_text(str(os.getpid()))) if place else None
    with subprocess.Popen([sys.executable, '-c', WORKER, particles, out], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=join) as p:
        while not (Path(out)/'.lock').exists() and p.poll() is None: time.sleep(.05)
        begun = time.monotonic()
        while time.monotonic() - begun < seconds and p.poll() is None: time.sleep(.2)
        p.send_signal(signal.SIGTERM)
        said = p.communicate()[0].split()
    if p.returncode: raise SystemExit(f'the training ended with {p.returncode}' + (f': memory of {limit/1e9:.0f} GB was not enough' if p.returncode == -9 else ''))
    if place: place.rmdir()
    last = sorted(Path(out).glob('checkpoints/*/state.json'))[-1]
    state = json.loads(last.read_text())
    return state['step']*8/state['seconds'], int(said[-1])/1e6


@call_parse
def main(n: int = 200_000,             # images
         limit: float = 2.,            # GB
         seconds: float = 40.,         # of each training
         rounds: int = 2,              # of both
         folder: str = ''):            # kept if given
    "Train in little memory and in much, in turns."
    with tempfile.TemporaryDirectory() as tmp:
        place = Path(folder or tmp)
        place.mkdir(exist_ok=True)
        particles = make(place, n)
        found = [[pace(particles, f'{tmp}/{i}_{j}', seconds, l) for j, l in enumerate((None, int(limit*1e9)))] for i in range(rounds)]
    free, tight = np.median(found, axis=0)
    print(f'\n| {n:,} images of 64 px | images/s | peak of the process |\n|---|---|---|')
    print(f'| all memory | {free[0]:.0f} | {free[1]:.2f} GB |\n| {limit:g} GB, file cache and all | {tight[0]:.0f} | {tight[1]:.2f} GB |\n| ratio | {tight[0]/free[0]:.2f} | |')
