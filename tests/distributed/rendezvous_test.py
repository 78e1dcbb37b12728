"""The rendezvous of a group's processes, here threads; and which group a process belongs to."""

import concurrent.futures
import socket
import time

import pytest
from helpers_run import free_port, place, run_python

from twodal_jax.distributed import cluster, rendezvous

NO_PRIMARY = "Process 1 did not meet the primary one within 1 s (Connection refused)."


def meet_all(members, port, seconds):
    """Calls `meet` with all (count, index) at once; returns None or the message of its error for each."""

    def meet(member):
        try:
            rendezvous.meet(f"127.0.0.1:{port}", *member, seconds)
        except rendezvous.MeetingError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(meet, members))


def test_all_processes_return_when_all_have_joined_and_the_port_is_free_again():
    port = free_port()
    for _ in range(2):
        assert meet_all([(3, 1), (3, 0), (3, 2)], port, 20) == [None] * 3
    socket.create_server(("127.0.0.1", port)).close()


def test_a_missing_process_is_named_to_all():
    first, second = meet_all([(4, 0), (4, 2)], free_port(), 2)
    assert first == second and first.startswith("2 of 4 processes met") and "missing: 1, 3." in first


def test_without_the_primary_process_the_others_raise_in_time():
    began = time.monotonic()
    assert meet_all([(2, 1)], free_port(), 1) == [NO_PRIMARY]
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "members, message",
    [
        ([(3, 0), (3, 1), (3, 1)], "Two processes have the index 1 of 3."),
        ([(2, 0), (3, 1)], "Process 1 expects 3 processes, the primary one 2."),
    ],
)
def test_equal_indices_and_different_sizes_are_errors_of_all(members, message):
    assert meet_all(members, free_port(), 20) == [message] * len(members)


def test_a_port_in_use_is_an_error():
    with socket.create_server(("", 0)) as taken:
        (message,) = meet_all([(2, 0)], taken.getsockname()[1], 1)
    assert "cannot listen on port" in message and "in use" in message


def test_other_connections_to_the_port_are_closed():
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(meet_all, [(2, 0)], port, 20)
        for content in (b"GET / HTTP/1.1\r\n\r\n", b"7\n", b""):
            for _ in range(100):
                try:
                    stranger = socket.create_connection(("127.0.0.1", port))
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            with stranger:
                stranger.sendall(content)
        assert meet_all([(2, 1)], port, 20) == [None] and first.result() == [None]


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "a[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    "value, environment, group",
    [
        ("auto", {}, None),
        ("auto", SLURM, cluster.Group()),
        ("auto", SLURM | {"SLURM_NTASKS": "1"}, None),
        ("auto", {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, None),  # in an allocation, but not started by srun
        ("auto", OPEN_MPI, cluster.Group()),
        ("auto", {"TPU_WORKER_HOSTNAMES": "a,b"}, cluster.Group()),
        ("auto", {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ("alone", SLURM, None),
        ("cluster", {}, cluster.Group()),
        ("a:1234,2,1", {}, cluster.Group("a:1234", 2, 1)),
        ("[::1]:1234,2,0", {}, cluster.Group("[::1]:1234", 2, 0)),
        ("a:1234", OPEN_MPI, cluster.Group("a:1234", 4, 3)),
    ],
)
def test_the_group_follows_from_the_config_and_the_environment(value, environment, group):
    assert cluster.group_of(value, environment) == group


@pytest.mark.parametrize("value", ["a:1234", "a,2,1", "a:x,2,1", "a:1234,2,2", "a:1234,2", ":1234,2,0", "atuo"])
def test_an_invalid_value_is_an_error_that_lists_the_valid_ones(value):
    with pytest.raises(cluster.GroupError, match="HOST:PORT,COUNT,INDEX"):
        cluster.group_of(value, {})


@pytest.mark.slow
def test_a_training_command_without_its_group_ends_in_one_message(tmp_path):
    process = run_python(
        "-m",
        "twodal_jax.main",
        f"--workdir={tmp_path / 'run'}",
        "--config=configs/demo.py",
        f"--config.distributed={place(1, free_port())}",
        "--config.run.start_seconds=1",
        timeout=200,
    )
    assert process.returncode == 1
    assert NO_PRIMARY in process.stderr
    assert "Traceback" not in process.stderr and "Check failure" not in process.stderr
