"""How soon is the result as good? Latent coordinate and maps against the truth, by processor time: drgnbook and cryoDRGN.

    python benchmarks/quality.py all [--peer .peer/bin/python] [--data ../shared/data] [--out bench_quality]

Two sets of 2,000 images, D = 64: one continuous motion at SNR 0.1, and four states of EMPIAR-10076. cryoDRGN's `train_vae` runs with its
defaults but for the width (256×3, zdim 8, 20 epochs); drgnbook's `fit` with its defaults and with an encoder, each of
them also with batches of 64 (8 is the default; the rate grows with the root). Each has one thread; time is
what the processor spent, from the program's start, loading and checkpoints included. What is done is kept in --out: a call goes on from
there. `train`, `score` and `plot` are the parts of `all`. An hour and a half on one core, nearly all of it cryoDRGN's.
`leads`: which part of the way sooner is whose, on the first set, all with an encoder, in about as much time each (ten minutes).
"""
import os, shutil, subprocess, time
from pathlib import Path
import numpy as np, pandas as pd
from fastcore.script import call_parse
from drgnbook import Particles, Run, Volume, gmm, kmeans, read_truth, reconstruct
from peer import flags, ours
from sets import SPAN, Peer, assembling_set, bending, env, linear_set, machine

HERE, ZDIM, EPOCHS = Path(__file__).parent, 8, 20
WHO = dict(peer='cryodrgn train_vae, 20 epochs', fit='drgnbook fit, defaults', fit64='drgnbook fit, batches of 64', encoder="drgnbook fit, z='encoder'", encoder64="drgnbook fit, z='encoder', batches of 64")
LARGE = '--batch_size', '64'
SETS = dict(linear='one motion', assembling='four states')
LEADS = {'all coefficients, lr 1e-4 (cryoDRGN\'s)': dict(sample=1, lr=1e-4, epochs=2), 'all coefficients, lr 5e-4': dict(sample=1, lr=5e-4, epochs=2),
         'a quarter of them, lr 5e-4': dict(sample=.25, lr=5e-4, epochs=7), 'a tenth of them, lr 5e-4': dict(sample=.1, lr=5e-4, epochs=14),
         'a tenth, lr 5e-4, a band that grows over half of the epochs': dict(sample=.1, lr=5e-4, epochs=14, grow=7)}


def cpu_seconds(pid):
    "User and system time of a process, all its threads (Linux)."
    return sum(map(int, Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[11:13]))/os.sysconf('SC_CLK_TCK')


def watch(command, folder, pattern, times, threads=1):
    "Run a program; note in a table (file, CPU seconds, wall seconds) when its checkpoints appear in `folder`. It is `times` when all are in, `times.part` before."
    part, seen, start = times.with_name(times.name + '.part'), set(), time.monotonic()
    with open(folder.with_name(folder.name + '.log'), 'w') as log, open(part, 'w', buffering=1) as table:
        table.write('file,cpu,wall\n')
        child = subprocess.Popen(command, env=env(threads, folder.with_name(folder.name + '.cache')), stdout=log, stderr=subprocess.STDOUT)
        while True:
            running = child.poll() is None
            used = cpu_seconds(child.pid) if running else used
            for name in sorted({str(p.relative_to(folder)) for p in folder.glob(pattern)} - seen):
                table.write(f'{name},{used:.2f},{time.monotonic() - start:.2f}\n')
                seen.add(name)
            if not running: break
            time.sleep(.1)
    if child.returncode: raise RuntimeError(f'{" ".join(command[:4])} ... ended with {child.returncode}: see {log.name}')
    part.rename(times)


def noted(who, name, root):
    "The table of a run's checkpoints, that of a run under way if it has none yet; None if there is no run."
    return next((p for p in (root/name/f'{who}.csv', root/name/f'{who}.csv.part') if p.exists()), None)


def make(name, folder, data, peer):
    "The particle set, in the words of both programs."
    ps = linear_set(folder) if name == 'linear' else assembling_set(folder, data)
    peer.parse(folder)
    return ps


def train(who, name, root, peer):
    "Run one of the programs on one of the sets, and note when each checkpoint came."
    folder, out, times = root/name/'set', root/name/who, root/name/f'{who}.csv'
    if times.exists(): return
    for old in (out, out.with_name(who + '.cache')): shutil.rmtree(old, ignore_errors=True)
    fit = ours('fit', folder/'particles.star', '--out', out, '--zdim', ZDIM, '--device', 'cpu')
    encoder = [*fit, '--z', 'encoder', '--epochs', str(EPOCHS)]
    if who == 'peer': return watch(peer.train(folder, out, EPOCHS, ZDIM, 256), out, 'z.*.pkl', times)
    watch(dict(fit=fit, encoder=encoder, fit64=[*fit, *LARGE], encoder64=[*encoder, *LARGE])[who], out, 'checkpoints/????/state.json', times)


def checkpoints(who, name, root, peer):
    "For each checkpoint: its epoch, CPU seconds, latents, and a function from rows of z to maps."
    out, times = root/name/who, pd.read_csv(noted(who, name, root))
    apix = Particles.read(root/name/'set'/'particles.star').apix
    for file, cpu in zip(times.file, times.cpu):
        if who == 'peer':
            epoch = file.split('.')[1]
            yield int(epoch), cpu, peer.latents(out/file), lambda z: peer.volumes(out, f'weights.{epoch}.pkl', z, root/name/'maps'/epoch, apix)
        else:
            run = Run.load(out, 'cpu').at(int(Path(file).parent.name))
            yield run.upto, cpu, run.z, run.volumes


def auc(maps, true): return float(np.mean([v.fsc(t)[1:].mean() for v, t in zip(maps, true)]))


def score_linear(z, volumes, truth, true):
    "r² of the coordinate by linear regression on z; mean FSC of seven maps, each at the mean z of the fifty particles nearest to its coordinate."
    X, y = np.column_stack([z, np.ones(len(z))]), truth.coord.to_numpy()
    r2 = 1 - np.var(y - X @ np.linalg.lstsq(X, y, rcond=None)[0])/np.var(y)
    middle = [z[np.argsort(np.abs(y - c))[:50]].mean(0) for c in true]
    return dict(latent=r2, auc=auc(volumes(np.array(middle)), true.values()))


def score_assembling(z, volumes, truth, true):
    "Adjusted Rand index of a Gaussian mixture and of k-means, k = 4; mean FSC of four maps, each at the mean z of its state's particles."
    from sklearn.metrics import adjusted_rand_score
    ari = {name: adjusted_rand_score(truth.state, labels) for name, labels in (('latent', gmm(z, 4)[0]), ('kmeans', kmeans(z, 4)[0]))}
    return dict(ari, auc=auc(volumes(np.array([z[truth.state == s].mean(0) for s in true])), true.values()))


def truths(name, folder, ps):
    "The true maps, by coordinate or by state, on the scale of nothing: FSC has none."
    if name == 'linear': return {c: bending().volume('whole', ps.D, ps.apix, c) for c in np.linspace(-.9*SPAN, .9*SPAN, 7)}
    return {p.stem: Volume.load(p) for p in sorted((folder/'truth').glob('*.mrc'))}


def score(who, name, root, peer):
    "A row for each checkpoint of a run, kept beside it when the run is at its end."
    kept, folder, rows = root/name/f'{who}.scores.csv', root/name/'set', []
    if kept.exists(): return pd.read_csv(kept)
    ps, truth = Particles.read(folder/'particles.star'), read_truth(folder)
    true = truths(name, folder, ps)
    scored = dict(linear=score_linear, assembling=score_assembling)[name]
    if who == 'consensus': rows = [dict(epoch=0, cpu=0., auc=auc([reconstruct(ps).volume]*len(true), true.values()))]
    else:
        for epoch, cpu, z, volumes in checkpoints(who, name, root, peer):
            rows.append(dict(epoch=epoch, cpu=cpu, **scored(z, volumes, truth, true)))
            print(name, who, {k: round(float(x), 3) for k, x in rows[-1].items()}, flush=True)
    table = pd.DataFrame(rows).assign(set=name, who=who)
    if who == 'consensus' or (root/name/f'{who}.csv').exists(): table.to_csv(kept, index=False)
    return table


def plot(table, path):
    "Quality against time: a row a set, a column a measure."
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(2, 2, figsize=(8, 6), dpi=80, layout='constrained', sharex=True)
    for row, name in zip(axes, SETS):
        mine = table[table.set == name]
        words = dict(latent='r² of the coordinate' if name == 'linear' else 'adjusted Rand index', auc='mean FSC of the maps')
        for ax, what in zip(row, words):
            for who, colour in zip(WHO, ('#D55E00', '#0072B2', '#56B4E9', '#009E73', '#CC79A7')):
                got = mine[mine.who == who]
                ax.plot(got.cpu, got[what], 'o-', ms=3, color=colour, label=WHO[who])
                if who == 'peer' and len(got): ax.axhline(got[what].iloc[-1], color=colour, lw=.8, ls='--')
            if what == 'auc': ax.axhline(mine[mine.who == 'consensus'].auc.mean(), color='grey', lw=.8, ls=':', label='consensus')
            ax.set(xscale='log', title=f'{SETS[name]}: {words[what]}', xlabel='processor seconds, one thread' if name == list(SETS)[-1] else '')
            ax.grid(alpha=.3)
    fig.legend(*axes[0, 1].get_legend_handles_labels(), loc='outside lower center', ncols=2, fontsize=8)
    fig.savefig(path)


def sooner(table):
    "cryodrgn's last values, and when ours were first as good in both measures."
    lines = ['| | last epoch\'s latent | maps | processor s | as good as cryodrgn\'s last after | sooner |', '|---|---|---|---|---|---|']
    for name in SETS:
        mine = table[table.set == name]
        peer = mine[mine.who == 'peer']
        for who in WHO:
            got = mine[mine.who == who]
            if not len(got): continue
            last, line = got.iloc[-1], '| | |'
            if who != 'peer' and len(peer):
                good = got[(got.latent >= peer.latent.iloc[-1]) & (got.auc >= peer.auc.iloc[-1])]
                line = f'| {good.cpu.iloc[0]:.0f} s | {peer.cpu.iloc[-1]/good.cpu.iloc[0]:.1f} × |' if len(good) else '| not reached | |'
            lines.append(f'| {SETS[name]}: {WHO[who]} | {last.latent:.3f} | {last.auc:.3f} | {last.cpu:.0f} {line}')
        lines.append(f'| {SETS[name]}: consensus of all particles | | {mine[mine.who == "consensus"].auc.mean():.3f} | | | |')
    return lines


def leads(root, peer):
    "Rows of a table: a training each, its last latents and maps, its processor time."
    folder = root/'linear/set'
    ps = make('linear', folder, None, peer)
    truth, true = read_truth(folder), truths('linear', folder, ps)
    for n, (name, options) in enumerate(LEADS.items()):
        out, times = root/'linear'/f'lead{n}', root/'linear'/f'lead{n}.csv'
        if not times.exists():
            shutil.rmtree(out, ignore_errors=True)
            watch(ours('fit', folder/'particles.star', '--out', out, *flags(zdim=ZDIM, device='cpu', z='encoder', **options)), out, 'checkpoints/????/state.json', times)
        run = Run.load(out, 'cpu')
        got = score_linear(run.z, run.volumes, truth, true)
        yield f'| {name} | {options["epochs"]} | {pd.read_csv(times).cpu.iloc[-1]:.0f} | {got["latent"]:.3f} | {got["auc"]:.3f} |'


@call_parse
def main(what: str,                             # train, score, plot, all, or leads
         peer: str = '.peer/bin/python',        # of the environment that peer_env.sh made
         data: str = '../shared/data',          # the shared folder
         out: str = 'bench_quality',            # where sets and runs are kept
         who: str = ','.join(WHO),              # whom to train
         on: str = 'linear,assembling'):        # on which sets
    "Train, score, plot; the table comes last."
    root, p, table = Path(out).absolute(), Peer(peer), HERE/'quality.csv'
    about = f'{machine()}; {p.version()}; 1 thread, seed 0'
    if what == 'leads': return print('\n'.join(['', about, '', '| | epochs | processor s | latent | maps |', '|---|---|---|---|---|', *leads(root, p)]))
    if what in ('train', 'all'):
        for name in on.split(','):
            make(name, root/name/'set', data, p)
            for w in who.split(','): train(w, name, root, p)
    if what in ('score', 'all'):
        have = [(w, name) for name in SETS for w in (*WHO, 'consensus') if noted(w, name, root) or w == 'consensus' and (root/name).exists()]
        pd.concat([score(w, name, root, p) for w, name in have])['set who epoch cpu latent kmeans auc'.split()].round(4).to_csv(table, index=False)
    if what in ('score', 'plot', 'all'):
        plot(pd.read_csv(table), HERE/'quality.png')
        print('\n'.join(['', about, '', *sooner(pd.read_csv(table))]))
