"""Run a notebook headless, say where it is, and print the `summary.json` that it leaves.

    python tools/demo.py NOTEBOOK FOLDER

The notebook writes into the folder that the environment variable DRGNBOOK_DEMO names. There it leaves summary.json:
one level, plain words to plain words, in the order to be printed, such as {"classes recovered": "4 of 4"}.
"""
import json, os, sys, time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config


class Aloud(NotebookClient):
    "A notebook client that prints each heading as it comes to it, and text as the cells print it."
    start = time.time()

    def say(self, cell, cell_index):
        heads = [s for s in cell.source.splitlines() if s.startswith('#')] if cell.cell_type == 'markdown' else []
        where = f'{time.time() - self.start:4.0f} s, cell {cell_index + 1} of {len(self.nb.cells)}'
        for s in heads: print(f'\n[{where}] {s.lstrip("# ")}', flush=True)

    def output(self, outs, msg, display_id, cell_index):
        if msg['msg_type'] == 'stream': print(msg['content']['text'], end='', flush=True)
        return super().output(outs, msg, display_id, cell_index)


def main(notebook, folder):
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ['DRGNBOOK_DEMO'] = str(folder)
    summary, executed = folder/'summary.json', folder/Path(notebook).name
    summary.unlink(missing_ok=True)  # so that an old one is never taken for this run's
    nb = nbformat.read(notebook, as_version=4)
    client = Aloud(nb, timeout=None, kernel_name='python3', resources={'metadata': {'path': str(folder)}},
                   config=Config(KernelManager=dict(transport_encryption='auto')))  # or the kernel warns
    client.on_cell_start = client.say
    try: client.execute()
    except CellExecutionError as e: sys.exit(f'\nThe notebook failed; as far as it got it is in {executed}\n{e}')
    finally: nbformat.write(nb, executed)

    print('\nWhat was found, against what is known to be in the simulated particles')
    for what, found in json.loads(summary.read_text()).items(): print(f'  {what}: {found}')
    print(f'  time: {time.time() - client.start:.0f} s\n  the executed notebook: {executed}')


if __name__ == '__main__': main(*sys.argv[1:])
