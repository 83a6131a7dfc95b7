"""How long does `from drgnbook import *` take beside `import torch`? Best of five, interleaved."""
import subprocess, sys, time

LINES = ('import torch', 'from drgnbook import *')


def seconds(line):
    start = time.perf_counter()
    subprocess.run([sys.executable, '-c', line], check=True)
    return time.perf_counter() - start


if __name__ == '__main__':
    runs = [[seconds(line) for line in LINES] for _ in range(5)]
    torch, ours = (min(column) for column in zip(*runs))
    for line, s in zip(LINES, (torch, ours)): print(f'| `{line}` | {s:.2f} s |')
    print(f'| ratio | {ours/torch:.2f} |')
