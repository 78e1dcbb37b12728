"""Processes that meet before a run, here as threads; and what is said when somebody is missing."""

import concurrent.futures
import socket
import time

import pytest
from helpers_group import free_port, place
from helpers_run import run_python

from twodal_jax.distributed import cluster, rendezvous


def meet_all(members, port, seconds):
    """[(count, index), ...] at once -> what each ended with: None, or the message of its error."""

    def meet(member):
        try:
            rendezvous.meet(f"127.0.0.1:{port}", *member, seconds)
        except rendezvous.MeetingError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(meet, members))


def test_all_go_on_when_all_have_come_and_the_port_is_free_again():
    port = free_port()
    for _ in range(2):
        assert meet_all([(3, 1), (3, 0), (3, 2)], port, 20) == [None] * 3
    socket.create_server(("127.0.0.1", port)).close()


def test_the_first_one_names_who_is_missing_and_tells_the_others():
    first, second = meet_all([(4, 0), (4, 2)], free_port(), 2)
    assert first == second and "missing: 1, 3." in first and "2 met" in first


def test_without_the_first_one_the_others_say_so_in_time():
    began = time.monotonic()
    (message,) = meet_all([(2, 1)], free_port(), 1)
    assert message == "Process 1 did not meet the first one within 1 s (Connection refused)."
    assert time.monotonic() - began < 5


def test_two_with_the_same_number_are_an_error_on_all():
    messages = meet_all([(3, 0), (3, 1), (3, 1)], free_port(), 20)
    assert messages == ["Two processes say they are number 1 of 3."] * 3


def test_different_sizes_are_an_error_on_all():
    messages = meet_all([(2, 0), (3, 1)], free_port(), 20)
    assert messages == ["Process 1 expects 3 processes, the first one 2."] * 2


def test_a_port_in_use_is_said():
    with socket.create_server(("", 0)) as taken:
        (message,) = meet_all([(2, 0)], taken.getsockname()[1], 1)
    assert "cannot listen on port" in message and "in use" in message


def test_strangers_at_the_port_are_sent_away():
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(meet_all, [(2, 0)], port, 20)
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"7\n", b""):
            for _ in range(100):
                try:
                    stranger = socket.create_connection(("127.0.0.1", port))
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            with stranger:
                stranger.sendall(words)
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
        ("auto", {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, None),  # in an allocation, not started by srun
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
def test_which_group_a_process_belongs_to(value, environment, group):
    assert cluster.group_of(value, environment) == group


@pytest.mark.parametrize("value", ["a:1234", "a,2,1", "a:x,2,1", "a:1234,2,2", "a:1234,2", ":1234,2,0", "atuo"])
def test_a_value_that_says_no_group_is_an_error_that_lists_what_can_be_said(value):
    with pytest.raises(cluster.GroupError, match="HOST:PORT,COUNT,INDEX"):
        cluster.group_of(value, {})


def test_slurm_and_open_mpi_are_detected_by_jax_too(monkeypatch):
    for name, text in SLURM.items():
        monkeypatch.setenv(name, text)
    found = cluster._detected(5)
    assert (found.address.split(":")[0], found.count, found.index, found.device_ids) == ("a1", 2, 1, [0])
    for name in SLURM:
        monkeypatch.delenv(name)
    launcher = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
    for name, text in (OPEN_MPI | launcher).items():
        monkeypatch.setenv(name, text)
    found = cluster._detected(5)
    assert found.address.startswith("10.96.0.1:")
    assert (found.count, found.index, found.device_ids) == (4, 3, [1])


@pytest.mark.slow
def test_a_training_command_whose_group_does_not_come_ends_in_one_message(tmp_path):
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
    assert "Process 1 did not meet the first one within 1 s (Connection refused)." in process.stderr
    assert "Traceback" not in process.stderr and "Check failure" not in process.stderr
