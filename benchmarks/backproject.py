"""Backprojection beside `cryodrgn backproject_voxel`: the same files, each program from its start to its end, in turn.

    sh benchmarks/peer_env.sh .peer
    python benchmarks/backproject.py [--peer .peer/bin/python] [--D 128] [--n 2000] [--repeats 3] [--whole 100000]

`ours` includes reading and transforming the stack (an empty cache), poses and CTFs, half-maps, FSC and the map; so does the peer's. Images a second: those of n images, whole program; and what one more image costs, from a fifth of the set and all of it. `--whole`: afterwards ours alone, of so many images in one go; 9 GB of scratch for 100,000.
"""
import re, resource, statistics, sys, tempfile
from dataclasses import replace
from pathlib import Path
import torch
from fastcore.script import call_parse
from drgnbook import Particles, Volume, fsc, ft, large_subunit, radius, resolution, shell_mean, simulate, sphere_mask
from sets import Peer, child, machine

OURS = '''
import sys, time
from drgnbook import Particles, reconstruct
start = time.perf_counter()
ps = Particles.read(sys.argv[1])[:int(sys.argv[2])]
ps.cache(); cached = time.perf_counter()
rec = reconstruct(ps)
rec.volume.save(sys.argv[3]); rec.mean.save(sys.argv[4])
print('took', cached - start, time.perf_counter() - start)
'''


def make(folder, n, D, snr, seed):
    "One state of the large subunit, no junk."
    whole = large_subunit()
    one = replace(whole, xyz=whole.xyz[20:21], states=('whole',), occupancy=torch.ones(1, len(whole.blocks)), proportions=torch.ones(1))
    return simulate(one, n=n, D=D, snr=snr, junk=0., seed=seed, out=folder)


def white(v):
    "A map whose shells all have the same power: a mask mixes shells, and which of them are heard is a matter of the filter that a map has gone through."
    shell = radius(v.D).round().long().clamp(max=v.D//2)
    gain = 1/shell_mean(ft(v.data, 3).abs().square().flatten(), shell.flatten(), v.D//2 + 1).sqrt().clamp(min=1e-20)
    return v.filter(lambda k: gain[k.round().long().clamp(max=v.D//2)])


def score(v, truth, tight):
    "Mean FSC with the truth over all shells, in the whole box, a ball and a tight mask, as it is and white; pixels at FSC = 0.5 in the whole box."
    curves = [*(fsc(v, truth, m) for m in (None, sphere_mask(truth.D), tight)), fsc(white(v), white(truth), tight)]
    return [truth.D/resolution(curves[0]), *(float(c[1:].mean()) for c in curves)]


def in_one_go(folder, n, D, snr, seed, threads):
    "Ours alone, of n images."
    ps = Particles.read(folder/'whole/particles.star') if (folder/'whole/particles.star').exists() else make(folder/'whole', n, D, snr, seed)
    used = child([sys.executable, '-c', OURS, folder/'whole/particles.star', n, folder/'whole.mrc', folder/'unfiltered.mrc'], threads)
    cache, took = map(float, used.output.split('took')[1].split())
    truth = Volume.load(next((folder/'whole/truth').glob('*.mrc')))
    return f'{len(ps):,} images in one go: {used.seconds:.0f} s, of which {cache:.0f} into the cache; {used.memory:.2f} GB at the peak; px at FSC = 0.5: {score(Volume.load(folder/"whole.mrc"), truth, None)[0]:.3f}'


@call_parse
def main(peer: str = '.peer/bin/python', D: int = 128, n: int = 2000, snr: float = .05, repeats: int = 3, threads: int = 2, seed: int = 0,
         whole: int = 0,      # images of ours alone, in one go
         tmp: str = ''):      # scratch folder; the system's if not given
    "Time both, compare both with the truth."
    head = machine()
    with tempfile.TemporaryDirectory(dir=tmp or None) as folder:
        folder, them = Path(folder), Peer(peer)
        ps = make(folder/'set', n, D, snr, seed)
        them.parse(folder/'set')
        def cpu():
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return used.ru_utime + used.ru_stime
        def both(f, m):
            before = cpu()
            return (*f(m), cpu() - before)
        def theirs(m):
            used = child(them.command('backproject_voxel', folder/'set/particles.mrcs', '--poses', folder/'set/poses.pkl', '--ctf', folder/'set/ctf.pkl', '--first', m, '-o', folder/'peer'), threads)
            return used.seconds, float(re.search(r'images in ([\d.]+)s', used.output)[1]), used.memory
        def ours(m):
            used = child([sys.executable, '-c', OURS, folder/'set/particles.star', m, folder/'ours.mrc', folder/'unfiltered.mrc'], threads)
            cache, took = map(float, used.output.split('took')[1].split())
            return used.seconds, took, used.memory, cache
        few, rows = n//5, []
        for _ in range(repeats): rows.append((both(ours, few), both(theirs, few), both(ours, n), both(theirs, n)))
        med = lambda j, k: statistics.median(r[j][k] for r in rows)
        us, them_ = ((med(j + 2, 0), n/med(j + 2, 0), (n - few)/(med(j + 2, 0) - med(j, 0)), med(j + 2, 2), med(j + 2, -1), (med(j + 2, -1) - med(j, -1))/(n - few)*1e3) for j in (0, 1))
        truth = Volume.load(next((folder/'set/truth').glob('*.mrc')))
        tight = truth.mask(dilate=5*ps.apix, edge=5*ps.apix)
        maps = {'drgnbook': Volume.load(folder/'ours.mrc'), 'drgnbook, mean of the unfiltered half-maps': Volume.load(folder/'unfiltered.mrc'), 'cryodrgn': replace(Volume.load(folder/'peer/backproject.mrc'), apix=ps.apix)}
        print(f'{head}; {them.version()}; {threads} threads, seed {seed}, D = {D}, {n} images, SNR {snr}, median of {repeats} interleaved runs\n')
        print('| | seconds | images/s | images/s of those beyond a fifth | peak GB | CPU seconds | CPU ms of one more image |\n|---|---|---|---|---|---|---|')
        print(f'| drgnbook reconstruct | {us[0]:.1f} | {us[1]:.0f} | {us[2]:.0f} | {us[3]:.2f} | {us[4]:.1f} | {us[5]:.2f} |\n| cryodrgn backproject_voxel | {them_[0]:.1f} | {them_[1]:.0f} | {them_[2]:.0f} | {them_[3]:.2f} | {them_[4]:.1f} | {them_[5]:.2f} |\n| ratio | {them_[0]/us[0]:.1f} | {us[1]/them_[1]:.1f} | {us[2]/them_[2]:.1f} | | {them_[4]/us[4]:.1f} | {them_[5]/us[5]:.1f} |')
        ratio = sorted(t[0]/u[0] for _, _, u, t in rows)
        print(f'\nRatio of the {repeats} pairs: {ratio[0]:.1f} to {ratio[-1]:.1f}. Of our seconds {med(2, 3):.1f} go into the cache. 100,000 images, by these figures (an estimate): {us[0] + (1e5 - n)/us[2]:.0f} s; cryodrgn {them_[0] + (1e5 - n)/them_[2]:.0f} s.\n')
        print('| against the truth | px at FSC = 0.5 | mean FSC, whole box | in a ball | in a tight mask | there, all shells of one power |\n|---|---|---|---|---|---|')
        for name, v in maps.items(): print(f'| {name} | ' + ' | '.join(f'{x:.3f}' for x in score(v, truth, tight)) + ' |')
        if whole: print('\n' + in_one_go(folder, whole, D, snr, seed, threads))
