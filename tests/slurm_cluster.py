"""A real Slurm cluster on one machine, for tests: a controller `c0` and two nodes, each in a network namespace.

Every node has a host name, an address and a link of its own, which tests may cut. Processes are tracked by cgroups, as
on real clusters: it decides which processes a signal reaches. Needs root and the packages of `PACKAGES`.
"""

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge", "iproute2")
CONTROLLER, NODES = "c0", ("n1", "n2")
HOSTS = (CONTROLLER, *NODES)
SWITCH = "sw"
NETWORK = "10.77.0"
CONFIGURATION = """\
ClusterName=test
SlurmctldHost=c0
SlurmUser=root
AuthInfo=cred_expire=5
StateSaveLocation={root}/state
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdSpoolDir={root}/spool-%n
SlurmdPidFile={root}/slurmd-%n.pid
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/cgroup
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,kill_invalid_depend
NodeName=n[1-2] CPUs=4 RealMemory=4000
PartitionName=batch Nodes=ALL Default=YES PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL PriorityTier=10
"""


def missing() -> str | None:
    """Why no cluster can be made here, or None."""
    if os.geteuid() != 0:
        return "it needs root"
    if absent := [
        name for name in ("slurmctld", "slurmd", "munged", "ip", "nsenter") if not shutil.which(name)
    ]:
        return f"{', '.join(absent)} not installed (apt-get install {' '.join(PACKAGES)})"
    return None


class Cluster:
    """A running cluster; made by `cluster`."""

    def __init__(self, root: Path):
        self.root = root
        self.environment = os.environ | {"SLURM_CONF": str(root / "slurm.conf")}

    def command(self, host: str, *arguments: str) -> list[str]:
        """A command line that runs on one of the hosts."""
        inside = 'mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'
        return [
            *("nsenter", f"--net=/run/netns/{host}", "unshare", "-um"),
            *("bash", "-c", inside, "bash", str(self.root / "hosts"), host, *arguments),
        ]

    def on(self, host: str, *arguments: str, **options) -> subprocess.CompletedProcess:
        """Runs a command on a host, to its end."""
        options = {"capture_output": True, "text": True, "env": self.environment, "timeout": 400} | options
        return subprocess.run(self.command(host, *arguments), **options)

    def link(self, node: str, up: bool) -> None:
        """Cuts a node's link, or mends it."""
        _ip("-n", SWITCH, "link", "set", f"v-{node}", "up" if up else "down")

    def processes(self, host: str) -> list[int]:
        """Processes of a host."""
        return [int(line) for line in _ip("netns", "pids", host).split()]

    def states(self) -> dict[str, tuple[str, str]]:
        """State and name of every job that the controller remembers, by id."""
        done = self.on(CONTROLLER, "squeue", "--noheader", "--states=all", "--format=%i|%T|%j")
        rows = [line.split("|") for line in done.stdout.split()]
        return {job: (state, name) for job, state, name in rows}

    def wait(self, jobs, seconds: float) -> dict[str, str]:
        """Waits until jobs have ended; their states by id."""
        deadline = time.monotonic() + seconds
        while True:
            states = self.states()
            found = {job: states[job][0] for job in jobs if job in states}
            if not {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED"} & set(found.values()):
                return found
            assert time.monotonic() < deadline, f"still {states} after {seconds} s"
            time.sleep(0.5)

    def start_slurmd(self, node: str) -> None:
        """Starts a node's daemon."""
        self.on(node, "slurmd", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, capture_output=False)


@contextmanager
def cluster(root: Path):
    """Brings a cluster up and takes it down again."""
    take_down(root)
    found = Cluster(root)
    try:
        _bring_up(found)
        yield found
    finally:
        take_down(root)


def take_down(root: Path) -> None:
    """Ends every process of the namespaces and removes them; nothing happens if there are none."""
    existing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split()
    for host in (*HOSTS, SWITCH):
        if host in existing:
            for process in _ip("netns", "pids", host).split():
                subprocess.run(["kill", "-9", process], capture_output=True)
            _ip("netns", "del", host)


def _bring_up(found: Cluster) -> None:
    root = found.root
    (root / "state").mkdir(parents=True)
    subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "/run/munge"], check=True)
    if subprocess.run(["munge", "-n"], capture_output=True).returncode:
        subprocess.run(["runuser", "-u", "munge", "--", "munged", "--force"], check=True)
    _ip("netns", "add", SWITCH)
    _ip("-n", SWITCH, "link", "add", "br0", "type", "bridge")
    _ip("-n", SWITCH, "link", "set", "br0", "up")
    hosts = ["127.0.0.1 localhost"]
    for number, host in enumerate(HOSTS, start=10):
        address = f"{NETWORK}.{number}"
        hosts.append(f"{address} {host}")
        (root / f"spool-{host}").mkdir()
        _ip("netns", "add", host)
        _ip(
            "link", "add", f"v-{host}", "netns", SWITCH, "type", "veth", "peer", "name", "eth0", "netns", host
        )
        _ip("-n", SWITCH, "link", "set", f"v-{host}", "master", "br0", "up")
        _ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", host, "link", "set", "eth0", "up")
        _ip("-n", host, "link", "set", "lo", "up")
    (root / "hosts").write_text("\n".join(hosts) + "\n")
    (root / "slurm.conf").write_text(CONFIGURATION.format(root=root))
    (root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=yes\n")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "capture_output": False}
    found.on(CONTROLLER, "slurmctld", **quiet)
    for node in NODES:
        found.start_slurmd(node)
    for _ in range(200):
        idle = found.on(CONTROLLER, "sinfo", "-hNp", "batch", "-o", "%T").stdout.split()
        if idle == ["idle"] * len(NODES):
            return
        time.sleep(0.1)
    raise RuntimeError("\n".join(log.read_text()[-2000:] for log in root.glob("slurm*.log")))


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout
