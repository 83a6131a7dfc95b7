"""How long does `from drgnbook import *` take beside `import torch`, and `drgnbook --help` by itself? Best of five, interleaved, byte code written as on any machine."""
import os, subprocess, sys, time

LINES = ('import torch', 'from drgnbook import *', 'from drgnbook.cli import main; main(["--help"])')      # the last is what the console script runs
ENV = {k: v for k, v in os.environ.items() if k != 'PYTHONDONTWRITEBYTECODE'}


def seconds(line):
    start = time.perf_counter()
    subprocess.run([sys.executable, '-c', line], check=True, env=ENV, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == '__main__':
    seconds(LINES[1])
    runs = [[seconds(line) for line in LINES] for _ in range(5)]
    torch, ours, shell = (min(column) for column in zip(*runs))
    for line, s in zip((*LINES[:2], 'drgnbook --help'), (torch, ours, shell)): print(f'| `{line}` | {s:.2f} s |')
    print(f'| ratio of the first two | {ours/torch:.2f} |')
