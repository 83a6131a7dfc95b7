"""Run a program and note the processor time that it had used when each of its checkpoints appeared.

    python benchmarks/watch.py FOLDER PATTERN TIMES.csv COMMAND ...
"""
import csv, os, subprocess, sys, time
from pathlib import Path
from sets import env


def cpu_seconds(pid):
    "User and system time of a process, all its threads (Linux)."
    return sum(map(int, Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[11:13]))/os.sysconf('SC_CLK_TCK')


def watch(command, folder, pattern, threads=1):
    "Rows (name, CPU seconds, wall seconds since the start) of the files that appear in `folder`; raises if the program fails."
    folder, rows, seen, start = Path(folder), [], set(), time.monotonic()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(folder.name + '.log'), 'w') as log:
        child = subprocess.Popen(command, env=env(threads), stdout=log, stderr=subprocess.STDOUT)
        while child.poll() is None:
            used = cpu_seconds(child.pid)
            for new in sorted({str(p.relative_to(folder)) for p in folder.glob(pattern)} - seen):
                seen.add(new); rows.append((new, used, time.monotonic() - start))
            time.sleep(.25)
    if child.returncode: raise RuntimeError(f'{command[0]} ended with {child.returncode}: see {log.name}')
    return rows


if __name__ == '__main__':
    folder, pattern, out, *command = sys.argv[1:]
    rows = watch(command, folder, pattern)
    with open(out, 'w', newline='') as f: csv.writer(f).writerows([('file', 'cpu', 'wall'), *rows])
