"A Slurm of one's own: a controller and two nodes on the loopback, all their files in one folder, gone at the end."
import os, shutil, signal, socket, subprocess, time
from contextlib import ExitStack, contextmanager

HERE = socket.gethostname().split('.')[0]
NODES = [HERE, HERE + '-two']      # in Slurm's order; the first is an address too: where the workers of two nodes meet
CONF = '''
ClusterName=toy
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2
ReturnToService=2
MpiDefault=none
KillWait=10
SlurmdTimeout=10
NodeName={nodes[0]} NodeAddr=127.0.0.1 NodeHostname=localhost Port={ports[1]} CPUs=4 State=UNKNOWN
NodeName={nodes[1]} NodeAddr=127.0.0.1 NodeHostname=localhost Port={ports[2]} CPUs=4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
'''

class NoSlurm(RuntimeError): "Why none can be run here"

def missing():
    "The programs of Slurm that are not installed"
    path = os.environ['PATH'] + ':/usr/sbin:/sbin'
    return [c for c in 'slurmctld slurmd sbatch srun scontrol scancel sinfo'.split() if not shutil.which(c, path=path)]

def free_ports(n):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets: s.bind(('127.0.0.1', 0))
        return [s.getsockname()[1] for s in sockets]

def say(*words): return subprocess.run(words, capture_output=True, text=True).stdout.split()

def start(folder, name, *words):
    "A daemon, in a session of its own"
    path = dict(os.environ, PATH=os.environ['PATH'] + ':/usr/sbin:/sbin')
    with open(folder/f'{name}.out', 'a') as out: return subprocess.Popen(words, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=path, start_new_session=True)

def stop(daemons, seconds=30):
    "Cancel all jobs, then end the daemons"
    say('scancel', '--user', str(os.getuid()))
    end = time.monotonic() + seconds
    while say('squeue', '-h') and time.monotonic() < end: time.sleep(.2)
    for d in daemons: d.terminate()
    for d in daemons:
        try: d.wait(seconds)
        except subprocess.TimeoutExpired: os.killpg(d.pid, signal.SIGKILL); d.wait()

@contextmanager
def slurm(folder, seconds=30):
    "Daemons that answer: {name: process}; `SLURM_CONF` leads Slurm's commands to them"
    if missing(): raise NoSlurm(f'not installed: {" ".join(missing())} (Debian: slurmctld slurmd slurm-client)')
    conf = folder/'slurm.conf'
    (folder/'state').mkdir()
    conf.write_text(CONF.format(folder=folder, ports=free_ports(3), nodes=NODES, user=subprocess.check_output(['id', '-un'], text=True).strip()))
    before, os.environ['SLURM_CONF'] = os.environ.get('SLURM_CONF'), str(conf)
    daemons = {'slurmctld': start(folder, 'slurmctld', 'slurmctld', '-D', '-f', conf)}
    daemons |= {n: start(folder, n, 'slurmd', '-D', '-N', n, '-f', conf) for n in NODES}
    try:
        end = time.monotonic() + seconds
        while say('sinfo', '-h', '-N', '-o', '%t') != ['idle', 'idle']:
            if time.monotonic() > end or any(d.poll() is not None for d in daemons.values()):
                raise NoSlurm('it does not come up:\n' + ''.join(p.read_text()[-600:] for p in sorted(folder.glob('*.out'))))
            time.sleep(.2)
        yield daemons
    finally:
        stop(daemons.values())
        if before is None: del os.environ['SLURM_CONF']
        else: os.environ['SLURM_CONF'] = before
