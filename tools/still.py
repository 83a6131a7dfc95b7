"""Of what a widget has left in a notebook keep the picture: no state, no live view, which only its own kernel could fill.

    python tools/still.py NOTEBOOK ...
"""
import json, sys
from pathlib import Path

LIVE = 'application/vnd.jupyter.widget-view+json'

def still(path):
    nb = json.loads(Path(path).read_text())
    nb['metadata'].pop('widgets', None)
    outputs = [o for c in nb['cells'] for o in c.get('outputs', [])]
    for o in outputs: 'image/png' in o.get('data', {}) and o['data'].pop(LIVE, None)
    for c in nb['cells']:
        if 'outputs' in c: c['outputs'] = [o for o in c['outputs'] if set(o.get('data', {'text': 1})) - {LIVE, 'text/plain'} or LIVE not in o.get('data', {})]      # a widget without a picture leaves nothing
    Path(path).write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n')

if __name__ == '__main__':
    for p in sys.argv[1:]: still(p)
