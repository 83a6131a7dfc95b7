"""Occupancy of the 136 chains of the 50S in 500 maps of 128 px, from files: seconds of each step, and the memory of it all. The maps are mixtures of the real ones in ../shared/data, with noise, so that
no two files are alike.   python benchmarks/occupancy.py [maps] [px]"""
import resource, sys, tempfile, time, warnings
from pathlib import Path
import torch
from drgnbook.occupancy import class_maps, classify, element_masks, occupancy, relative, show_occupancies
from drgnbook.volume import Volume

REAL = Path(__file__).parents[2]/'shared/data/empiar10076'


def write(folder, n, D):
    "`n` maps: a real one in a finer box, with a tenth of its deviation as noise."
    warnings.simplefilter('ignore')                       # of the machine stamp
    real = [Volume.load(p) for p in sorted((REAL/'maps').glob('*.mrc'))]
    fine = [Volume(torch.nn.functional.interpolate(v.data[None, None], (D,)*3, mode='trilinear')[0, 0], v.apix*v.D/D) for v in real]
    gen = torch.Generator().manual_seed(0)
    return [Volume(v.data + torch.randn(v.data.shape, generator=gen)*v.data.std()/10, v.apix).save(folder/f'vol_{i:03d}.mrc') for i in range(n) for v in [fine[i % 8]]]

def timed(what, f, *args, **kw):
    start = time.perf_counter()
    got = f(*args, **kw)
    print(f'| {what} | {time.perf_counter() - start:.1f} s |', flush=True)
    return got


if __name__ == '__main__':
    n, D = (int(x) for x in (sys.argv[1:] + ['500', '128'][len(sys.argv) - 1:]))
    with tempfile.TemporaryDirectory() as tmp:
        maps = write(Path(tmp), n, D)
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        elements = timed('masks', element_masks, sorted((REAL/'atoms').glob('*.pdb')), Volume.load(maps[0]))
        raw = timed(f'{n} maps of {D}³, {len(elements.names)} chains', occupancy, maps, elements)
        found = timed('two trees', classify, relative(raw), 8)
        timed('heat map', lambda: show_occupancies(found).savefig(Path(tmp)/'map.png'))
        print(f'| all | {time.perf_counter() - start:.1f} s |')
        timed('mean maps of 8 classes, a second pass', class_maps, found, maps)
        print(f'peak memory {before/2**20:.2f} GiB before, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20:.2f} GiB after')
