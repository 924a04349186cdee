"""Which process of a run this one is, from flags and from the environments of launchers."""

import http.server
import os
import threading

import pytest

from ctxseg.commands import joining
from ctxseg.errors import UserError
from ctxseg.processes import launch
from ctxseg.processes.launch import Launch, find
from ctxseg.runs import workdir

# Of the second of two nodes with four tasks each, in `srun`.
SLURM = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}


def test_one_process_without_flags_and_environment():
    assert find(None, None, None, {}) is None
    assert find(None, 1, None, SLURM) is None
    assert find(None, None, None, SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}) is None
    alone = OPEN_MPI | {
        f"OMPI_COMM_WORLD_{name}": value for name, value in {"SIZE": "1", "RANK": "0", "LOCAL_SIZE": "1"}.items()
    }
    assert find("node1:8476", None, None, alone) is None  # mpirun -n 1, as in docs/clusters/open_mpi.sh
    batch_script = {name: SLURM[name] for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")}
    assert find(None, None, None, batch_script) is None
    assert find(None, None, None, {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}) is None


def test_flags():
    assert find("node1:1234", 2, 1, {}) == Launch("node1:1234", 2, 1)
    assert find("[fe80::1]:1234", 2, 0, {}).coordinator == "[fe80::1]:1234"
    assert find("other:1", None, None, SLURM) == Launch("other:1", 8, 5, (1,))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("node1:1234", None, None), ["--process_count", "--process_id"]),
        ((None, 2, 1), ["--coordinator"]),
        (("node1", 2, 1), ["--coordinator=node1", "HOST:PORT"]),
        (("node1:70000", 2, 1), ["--coordinator=node1:70000"]),
        ((":1234", 2, 1), ["--coordinator=:1234"]),
        (("node1:1234", 2, 2), ["--process_id=2", "0 to 1"]),
        (("node1:1234", 2, -1), ["--process_id=-1"]),
        (("node1:1234", 0, 0), ["--process_count=0"]),
    ],
)
def test_wrong_flags_are_named(arguments, words):
    with pytest.raises(UserError) as error:
        find(*arguments, {})
    assert all(word in str(error.value) for word in words)


def test_slurm_gives_each_task_of_a_node_its_own_gpus():
    found = find(None, None, None, SLURM)
    assert (found.count, found.index, found.devices) == (8, 5, (1,))
    host, port = launch.check_address(found.coordinator)
    assert host == "gpu07" and launch.FIRST_PORT <= port < launch.FIRST_PORT + 4096
    eight = SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
    assert find(None, None, None, eight).devices == (2, 3)
    assert find(None, None, None, SLURM | {"CUDA_VISIBLE_DEVICES": "1"}).devices is None  # srun --gpus-per-task=1
    whole_node = {"SLURM_STEP_TASKS_PER_NODE": "1(x8)", "SLURM_LOCALID": "0"}
    assert find(None, None, None, SLURM | whole_node).devices is None


@pytest.mark.parametrize(
    "nodes, first",
    [("gpu1", "gpu1"), ("gpu1,cpu2", "gpu1"), ("gpu[3,7-9],cpu2", "gpu3"), ("rack-a-[001-002]", "rack-a-001")],
)
def test_the_first_node_of_slurm(nodes, first):
    assert find(None, None, None, SLURM | {"SLURM_STEP_NODELIST": nodes}).coordinator.startswith(f"{first}:")


def test_two_steps_of_a_job_have_different_ports():
    one, two = (find(None, None, None, SLURM | {"SLURM_STEP_ID": step}).coordinator for step in "12")
    assert one != two


def test_open_mpi():
    found = find(None, None, None, OPEN_MPI)
    assert (found.count, found.index, found.devices) == (4, 3, (1,)) and found.coordinator.startswith("10.96.0.1:")
    version_5 = {name: value for name, value in OPEN_MPI.items() if "hnp" not in name} | {
        "PMIX_NAMESPACE": "prterun-a-77@1"
    }
    with pytest.raises(UserError, match="--coordinator"):
        find(None, None, None, version_5)
    assert find("a:1", None, None, version_5).coordinator == "a:1"
    one_host = version_5 | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}
    assert find(None, None, None, one_host).coordinator.startswith("127.0.0.1:")


def test_modes_of_one_process_are_refused_only_below_srun_and_mpirun(monkeypatch):
    monkeypatch.delenv(workdir.LOCK, raising=False)
    for environment, index in ((SLURM, 5), (OPEN_MPI, 3)):
        monkeypatch.setattr(os, "environ", dict(environment))
        with pytest.raises(UserError, match=f"--mode=predict runs in one process, but this is process {index} of"):
            joining.check_alone("predict")
    tpu = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "t-0.svc,t-1.svc"}
    for environment in (tpu, SLURM | {workdir.LOCK: "run"}, SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, {}):
        monkeypatch.setattr(os, "environ", dict(environment))
        joining.check_alone("predict")


def test_kubernetes(monkeypatch):
    monkeypatch.setattr(launch.socket, "getfqdn", lambda: "train-2.pods.default.svc.cluster.local")
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}
    assert find(None, 4, None, pod) == Launch(f"train-0.pods.default.svc.cluster.local:{launch.PORT}", 4, 2)


def test_cloud_tpu_of_gke():
    found = find(None, None, None, {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "t-0.svc,t-1.svc"})
    assert found == Launch(f"t-0.svc:{launch.PORT}", 2, 1)
    assert find(None, None, None, {"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}) is None


def test_cloud_tpu_of_compute_engine(monkeypatch):
    answers = {
        "worker-network-endpoints": "unknown:unknown:10.0.0.5,unknown:unknown:10.0.0.6",
        "agent-worker-number": "1",
    }

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[self.path.rpartition("/")[2]].encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(launch, "METADATA", f"http://127.0.0.1:{server.server_port}/")
        assert find(None, None, None, {}) is None  # without libtpu, the server is not asked
        monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: name == "libtpu")
        assert find(None, None, None, {}) == Launch(f"10.0.0.5:{launch.PORT}", 2, 1)
        assert find(None, None, None, {"JAX_PLATFORMS": "cpu"}) is None
        server.shutdown()
    assert find(None, None, None, {}) is None  # no such server: not a machine of Compute Engine
