"""A million particles: seconds to read and to write RELION's and cryoSPARC's tables."""
import tempfile, time
from pathlib import Path
import numpy as np, pandas as pd
from drgnbook.io import read_metadata, write_metadata
from drgnbook.metadata import Metadata

N = 1_000_000


def timed(what, f):
    start = time.perf_counter()
    got = f()
    print(f'| {what} | {time.perf_counter() - start:.1f} s |', flush=True)
    return got


if __name__ == '__main__':
    rng = np.random.default_rng(0)
    number = {c: rng.normal(size=N)*30 for c in ('rx', 'ry', 'rz', 'tx', 'ty')} | {c: rng.uniform(8e3, 3e4, N) for c in ('dfu', 'dfv')}
    table = pd.DataFrame(dict(stack=[f'Extract/mic{i//300:05d}.mrcs' for i in range(N)], index=np.arange(N) % 300, apix=1.31, dfang=10., kV=300., cs=2.7, w=.07, phase=0., **number))
    with tempfile.TemporaryDirectory() as d:
        for end in ('star', 'cs'):
            path = Path(d)/f'p.{end}'
            timed(f'write {N:,} rows of .{end}', lambda: write_metadata(path, Metadata(table, None, path), 256))
            assert len(timed(f'read {N:,} rows of .{end}', lambda: read_metadata(path))) == N
