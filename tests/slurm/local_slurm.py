"""A real SLURM on this machine, while it is needed: controller, nodes, munge.

  python tests/slurm/local_slurm.py         # prints what to export, and runs until Ctrl-C

Needs Debian's packages `slurm-wlm` and `munge`. Everything it writes is in a folder of its own, the
ports are free ones, and nothing of the machine's own configuration is read or changed. Root is not
needed. There are no cgroups, no accounting database and no limits on memory.
"""

import argparse
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
TOOLS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
# torch.distributed finds the first rank by its node's name. One of several must not have this name:
# SLURM would take each of them for it.
ONE_NODE = "localhost"

SLURM_CONF = """\
ClusterName=mobilellm
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits until its credential has expired: two minutes by default, 5 s at least.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={controller_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
# Containers have no cgroups that they may change: processes are tracked by their parents.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
# The machine of the tests has fewer cores than the node claims.
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
MinJobAge=300
ReturnToService=2
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
NODE = (
    "NodeName={name} NodeHostname={name} NodeAddr=127.0.0.{number} Port={port} CPUs={cpus} Boards=1"
    " SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN"
)


def what_is_missing() -> str | None:
    """Why SLURM cannot run on this machine; None if it can."""
    missing = [name for name in (*DAEMONS, *TOOLS) if _program(name) is None]
    if not missing:
        return None
    return f"no {', '.join(missing)}: apt-get install slurm-wlm munge"


@contextmanager
def local_slurm(folder: Path, *, cpus: int = 2, nodes: int = 1) -> Iterator[dict[str, str]]:
    """Start it in `folder`, and end it and its jobs.

    Args:
        folder: with a short path: munge's socket may have 107 characters.
        cpus: of each node; there may be more than the machine has.
        nodes: a daemon each; of several the names do not resolve, so jobs must set MASTER_ADDR.

    Yields:
        What to add to the environment.

    Raises:
        RuntimeError: a daemon ended, with what it had to say.
    """
    names = [ONE_NODE] if nodes == 1 else [f"node{number + 1}" for number in range(nodes)]
    _write_configuration(folder, cpus, names)
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        daemons.append(_start(folder, "munged", *_munge_arguments(folder)))
        _wait((folder / "munge.socket").exists, daemons, folder)
        daemons.append(_start(folder, "slurmctld", "-D", "-i", "-f", environment["SLURM_CONF"]))
        daemons += [
            _start(folder, "slurmd", "-D", "-N", name, "-f", environment["SLURM_CONF"])
            for name in names
        ]
        ready = ("sinfo", "--noheader", "--Node", "--partition=main", "--format=%t")
        _wait(lambda: _ask(environment, *ready).split() == ["idle"] * nodes, daemons, folder)
        yield environment
    finally:
        _ask(environment, "scancel", "--user", getpass.getuser())
        _ask(environment, "scancel", "--signal=KILL", "--user", getpass.getuser())
        end = time.monotonic() + 15
        while _ask(environment, "squeue", "-h").strip() and time.monotonic() < end:
            time.sleep(0.2)
        for daemon in reversed(daemons):
            _end(daemon)


def _write_configuration(folder: Path, cpus: int, names: list[str]) -> None:
    (folder / "state").mkdir(parents=True, exist_ok=True)
    controller_port, *ports = _free_ports(1 + len(names))
    host = socket.gethostname().partition(".")[0]
    nodes = [
        # Debian's SLURM requires a host for each node, though each slurmd serves a given node.
        NODE.format(name=name, number=number, port=port, cpus=cpus)
        for number, (name, port) in enumerate(zip(names, ports, strict=True), start=1)
    ]
    text = SLURM_CONF.format(
        folder=folder, host=host, user=getpass.getuser(), controller_port=controller_port,
        nodes="\n".join(nodes),
    )  # fmt: skip
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="utf-8")
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)


def _munge_arguments(folder: Path) -> list[str]:
    # --force: a folder below /tmp is not as private as munge requires.
    return [
        "--foreground", "--force", f"--socket={folder}/munge.socket",
        f"--key-file={folder}/munge.key", f"--pid-file={folder}/munged.pid",
        f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munged.log",
        "--num-threads=2",
    ]  # fmt: skip


def _start(folder: Path, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
    with (folder / f"{name}.out").open("ab") as out:
        return subprocess.Popen(
            [str(_program(name)), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def _wait(
    is_ready: Callable[[], bool], daemons: "list[subprocess.Popen[bytes]]", folder: Path
) -> None:
    end = time.monotonic() + 60
    while not is_ready():
        ended = [str(daemon.args) for daemon in daemons if daemon.poll() is not None]
        if ended or time.monotonic() > end:
            logs = "\n".join(
                f"{path.name}:\n{path.read_text(errors='replace', encoding='utf-8')[-1500:]}"
                for path in sorted([*folder.glob("*.out"), *folder.glob("*.log")])
            )
            raise RuntimeError(f"SLURM did not start; ended: {ended}\n{logs}")
        time.sleep(0.1)


def _end(daemon: "subprocess.Popen[bytes]") -> None:
    daemon.terminate()
    try:
        daemon.wait(timeout=15)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _ask(environment: dict[str, str], *command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=20,
            env=os.environ | environment,
            encoding="utf-8",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def _program(name: str) -> str | None:
    """Daemons are not on everybody's PATH."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def main() -> None:
    """Start it for a shell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1, help="of each node")
    parser.add_argument("--nodes", type=int, default=1)
    arguments = parser.parse_args()
    if reason := what_is_missing():
        sys.exit(f"error: {reason}")
    # As Ctrl-C, so that no daemon is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as name,
        local_slurm(Path(name), cpus=arguments.cpus, nodes=arguments.nodes) as environment,
    ):
        lines = [f"export {key}={value}" for key, value in environment.items()]
        sys.stdout.write("\n".join([*lines, "# Ctrl-C ends it", ""]))
        sys.stdout.flush()
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
