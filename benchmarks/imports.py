"""How long does `from drgnbook import *` take beside `import torch`? Best of five, interleaved, byte code written as on any machine."""
import os, subprocess, sys, time

LINES = ('import torch', 'from drgnbook import *')
ENV = {k: v for k, v in os.environ.items() if k != 'PYTHONDONTWRITEBYTECODE'}


def seconds(line):
    start = time.perf_counter()
    subprocess.run([sys.executable, '-c', line], check=True, env=ENV)
    return time.perf_counter() - start


if __name__ == '__main__':
    seconds(LINES[1])
    runs = [[seconds(line) for line in LINES] for _ in range(5)]
    torch, ours = (min(column) for column in zip(*runs))
    for line, s in zip(LINES, (torch, ours)): print(f'| `{line}` | {s:.2f} s |')
    print(f'| ratio | {ours/torch:.2f} |')
