"""Which process of a run this one is: from flags, or from the environment that SLURM, Open MPI, Kubernetes or Cloud TPU sets.

The rules for the devices of a process are ours: jax.distributed gives each process of SLURM and Open MPI a single device, also to a process
that has a whole machine for itself.
"""

import dataclasses
import importlib.util
import re
import socket
import urllib.request
import zlib
from collections.abc import Mapping

from ctxseg.errors import UserError

# Where process 0 listens if the environment has no number to derive a port from.
PORT = 8476
# Ports derived from the number of a job: 4096 from this one on.
FIRST_PORT = 61440
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


@dataclasses.dataclass(frozen=True)
class Launch:
    """One process of a run.

    Attributes:
        coordinator: HOST:PORT at which process 0 listens.
        count: the number of processes, at least 2.
        index: of this process, from 0.
        devices: indices of the accelerators that this process uses; None: all that it sees.
    """

    coordinator: str
    count: int
    index: int
    devices: tuple[int, ...] | None = None


def find(
    coordinator: str | None, count: int | None, index: int | None, environment: Mapping[str, str]
) -> Launch | None:
    """The place of this process in a run of several; None if the run has one process.

    Args:
        coordinator: `--coordinator`; None: from the environment.
        count: `--process_count`; 1: this process runs alone, whatever the environment says.
        index: `--process_id`.
        environment: as `os.environ`.

    Raises:
        UserError: a flag is invalid, or neither flags nor the environment say enough.
    """
    if count is not None and count < 1:
        raise UserError(f"--process_count={count}: expected 1 or more")
    if count == 1:
        return None
    found: dict = {}
    for launcher in (_slurm, _open_mpi, _kubernetes, _cloud_tpu):
        found = found or launcher(environment)
    given = {"coordinator": coordinator, "count": count, "index": index}
    found |= {name: value for name, value in given.items() if value is not None}
    if found.get("count") == 1 or found.get("count") is None and coordinator is None and index is None:
        return None  # started as a single process
    flags = {"coordinator": "--coordinator=HOST:PORT", "count": "--process_count=N", "index": "--process_id=I"}
    missing = [flag for name, flag in flags.items() if found.get(name) is None]
    if missing:
        raise UserError(f"a run of several processes also needs {' and '.join(missing)}")
    if not 0 <= found["index"] < found["count"]:
        raise UserError(
            f"--process_id={found['index']}: expected 0 to {found['count'] - 1}, as there are {found['count']} processes"
        )
    check_address(found["coordinator"])
    return Launch(**found)


def started_together(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """The index of this process and their number, if `srun` or `mpirun` started several at once; else None.

    The machines of a TPU slice and the pods of a Job also have indices, but a user starts a command on one of them.
    """
    found = _slurm(environment) or _open_mpi(environment)
    return (found["index"], found["count"]) if found.get("count", 1) > 1 else None


def check_address(text: str) -> tuple[str, int]:
    """'HOST:PORT' → (HOST, PORT). UserError if `text` has another form."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator={text}: expected HOST:PORT, such as node1:{PORT}")
    return host, int(port)


def _slurm(environment):
    """A step of SLURM, that is a command of `srun`; a batch script or an interactive shell outside `srun` is a single process."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if not all(name in environment for name in names):
        return {}
    job, step = int(environment["SLURM_JOB_ID"]), _number(environment.get("SLURM_STEP_ID", "0"))
    host = re.sub(r"\[(\d+).*", r"\1", environment["SLURM_STEP_NODELIST"]).split(",")[0]
    count = int(environment.get("SLURM_STEP_NUM_TASKS", environment["SLURM_NTASKS"]))
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", "1"))
    sharing = max(map(int, re.findall(r"(?:^|,)(\d+)", per_node)), default=1)
    return {
        "coordinator": f"{host}:{FIRST_PORT + (16 * job + step) % 4096}",
        "count": count,
        "index": int(environment["SLURM_PROCID"]),
        "devices": _share(environment, int(environment["SLURM_LOCALID"]), sharing),
    }


def _open_mpi(environment):
    """A process of Open MPI's `mpirun`. Version 5 does not say on which host process 0 is."""
    names = [f"OMPI_COMM_WORLD_{name}" for name in ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK")]
    if not all(name in environment for name in names):
        return {}
    count, index, on_host, local = (int(environment[name]) for name in names)
    launcher = environment.get("OMPI_MCA_orte_hnp_uri", "")  # version 4: 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911
    address = re.search(r"tcp6?://\[?([^,:\]]+)", launcher)
    host = "127.0.0.1" if on_host == count else address[1] if address else None
    job = launcher.partition(".")[0] or environment.get("PMIX_NAMESPACE", "").rpartition("@")[0]
    return {
        "coordinator": f"{host}:{FIRST_PORT + zlib.crc32(job.encode()) % 4096}" if host else None,
        "count": count,
        "index": index,
        "devices": _share(environment, local, on_host),
    }


def _kubernetes(environment):
    """A pod of an indexed Job with a headless service. The number of pods is not in a pod's environment: `--process_count` gives it."""
    if "KUBERNETES_SERVICE_HOST" not in environment or "JOB_COMPLETION_INDEX" not in environment:
        return {}
    index = int(environment["JOB_COMPLETION_INDEX"])
    name, dot, domain = socket.getfqdn().partition(".")  # JOB-INDEX.SERVICE.NAMESPACE.svc.cluster.local
    return {"coordinator": f"{name.removesuffix(f'-{index}')}-0{dot}{domain}:{PORT}", "index": index}


def _cloud_tpu(environment):
    """A machine of a Cloud TPU slice: GKE sets the environment, and Compute Engine's metadata server has the same."""
    if "TPU_WORKER_ID" in environment and "TPU_WORKER_HOSTNAMES" in environment:
        hosts, index = environment["TPU_WORKER_HOSTNAMES"].split(","), environment["TPU_WORKER_ID"]
    elif importlib.util.find_spec("libtpu") and environment.get("JAX_PLATFORMS", "tpu").startswith("tpu"):
        try:
            # Entries such as unknown:unknown:10.0.0.1.
            hosts = [entry.split(":")[2] for entry in _metadata("worker-network-endpoints").split(",")]
            index = _metadata("agent-worker-number")
        except (OSError, IndexError):
            return {}
    else:
        return {}
    return {"coordinator": f"{hosts[0]}:{PORT}", "count": len(hosts), "index": int(index)}


def _metadata(name):
    request = urllib.request.Request(METADATA + name, headers={"Metadata-Flavor": "Google"})
    with urllib.request.urlopen(request, timeout=5) as response:
        return response.read().decode()


def _share(environment, local, sharing):
    """The GPUs of the `local`-th of `sharing` processes on a machine: equal parts of the visible ones; None: all of them."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    count = len(visible.split(",")) if visible else sharing
    if sharing == 1 or count < sharing:
        return None  # alone, or the launcher has bound each process to its own GPU
    each = count // sharing
    return tuple(range(local * each, (local + 1) * each))


def _number(text):
    return int(text) if text.isdecimal() else 0
