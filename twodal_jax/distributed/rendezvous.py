"""Rendezvous of the processes of a group before JAX joins them, so that missing processes are named.

Where a process does not join in time, `jax.distributed` ends the others with a C++ stack trace. The primary process
therefore listens at the group's address first, until all others have sent their indices there.
"""

import json
import socket
import time

RETRY_SECONDS = 0.2
ANSWER_SECONDS = 5.0  # the primary process answers at its own deadline, which may be later than a caller's
GO = "go"


class MeetingError(Exception):
    """The processes of a group did not meet; the message names the process and the reason."""


def meet(address: str, count: int, index: int, seconds: float) -> None:
    """Returns when all processes of a group have called it; the address is free again then.

    Args:
      address: "HOST:PORT" of process 0.
      count: number of processes.
      index: of this process.
      seconds: timeout.

    Raises:
      MeetingError: a process is missing, two have the same index, or one expects a group of another size.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    if count == 1:
        return
    if index == 0:
        _gather(int(port), count, deadline, seconds)
    else:
        _join(host.strip("[]"), int(port), {"count": count, "index": index}, deadline, seconds)


def _gather(port: int, count: int, deadline: float, seconds: float) -> None:
    """Collects the requests of all other processes, then answers each with `GO`."""
    try:
        server = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=count)
    except (OSError, ValueError):
        try:
            server = socket.create_server(("", port), backlog=count)  # a machine without IPv6
        except OSError as error:
            raise MeetingError(f"The primary process cannot listen on port {port} ({error.strerror}).") from error
    joined: dict[int, socket.socket] = {}
    with server:
        while len(joined) < count - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                missing = ", ".join(str(index) for index in range(1, count) if index not in joined)
                problem = f"{len(joined) + 1} of {count} processes met at port {port} within {seconds:g} s"
                raise _refuse(joined.values(), f"{problem}; missing: {missing}.") from None
            request = _receive(connection, deadline)
            if not isinstance(request, dict) or set(request) != {"count", "index"}:
                connection.close()  # not a process of a group
                continue
            if problem := _problem(request, count, joined):
                raise _refuse([*joined.values(), connection], problem)
            joined[request["index"]] = connection
    for connection in joined.values():
        _send(connection, GO)
        connection.close()


def _problem(request: dict, count: int, joined: dict) -> str:
    if request["count"] != count:
        return f"Process {request['index']} expects {request['count']} processes, the primary one {count}."
    if request["index"] in joined or not 0 < request["index"] < count:
        return f"Two processes have the index {request['index']} of {count}."
    return ""


def _refuse(connections, problem: str) -> MeetingError:
    """Sends the problem to the other processes; returns it as an error."""
    for connection in connections:
        _send(connection, problem)
        connection.close()
    return MeetingError(problem)


def _join(host: str, port: int, request: dict, deadline: float, seconds: float) -> None:
    """Sends the request to the primary process until it answers."""
    reason = ""
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left) as connection:
                _send(connection, request)
                answer = _receive(connection, deadline + ANSWER_SECONDS)
        except OSError as error:
            answer, reason = None, f" ({error.strerror or error})"
        if answer == GO:
            return
        if isinstance(answer, str):
            raise MeetingError(answer)
        time.sleep(RETRY_SECONDS)
    raise MeetingError(f"Process {request['index']} did not meet the primary one within {seconds:g} s{reason}.")


def _send(connection: socket.socket, message) -> None:
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # the other process has ended; `_gather` reports it as missing


def _receive(connection: socket.socket, deadline: float):
    """One line of JSON; None where something else arrives, or nothing in time."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 4096:
            connection.settimeout(max(deadline - time.monotonic(), 0.01))
            part = connection.recv(4096)
            if not part:
                return None
            line += part
        return json.loads(line)
    except (OSError, ValueError):
        return None
