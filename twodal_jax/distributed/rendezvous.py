"""How the processes of a group meet before JAX joins them: who is missing is said, not died of.

`jax.distributed` ends the process, with a C++ stack trace, when others do not come in time. So the first
process listens at the group's address before it does, until all others have told their numbers there.
"""

import json
import socket
import time

RETRY_SECONDS = 0.2
ANSWER_SECONDS = 5.0  # the first one answers when its own time is up, which may be after ours
GO = "go"


class MeetingError(Exception):
    """The processes of a group did not meet; the message says which and why."""


def meet(address: str, count: int, index: int, seconds: float) -> None:
    """Returns when all processes of a group have called it; the address is free again then.

    Args:
      address: "HOST:PORT" of process 0. count: of all processes. index: of this one.
      seconds: how long to wait.

    Raises:
      MeetingError: somebody did not come, came twice, or thinks the group is of another size.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    if count == 1:
        return
    if index == 0:
        _gather(int(port), count, deadline, seconds)
    else:
        _report(host.strip("[]"), int(port), {"count": count, "index": index}, deadline, seconds)


def _gather(port: int, count: int, deadline: float, seconds: float) -> None:
    """Process 0: waits for the others' hellos, then lets all of them go on."""
    try:
        server = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=count)
    except (OSError, ValueError):
        try:
            server = socket.create_server(("", port), backlog=count)  # a machine without IPv6
        except OSError as error:
            raise MeetingError(f"The first process cannot listen on port {port} ({error.strerror}).") from error
    came: dict[int, socket.socket] = {}
    with server:
        while len(came) < count - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                missing = sorted(set(range(1, count)) - set(came))
                raise _refuse(
                    came.values(),
                    f"Of {count} processes, {len(came) + 1} met at port {port} within {seconds:g} s;"
                    f" missing: {', '.join(map(str, missing))}.",
                ) from None
            hello = _received(connection, deadline)
            if not isinstance(hello, dict) or set(hello) != {"count", "index"}:
                connection.close()  # somebody else's
                continue
            problem = _problem(hello, count, came)
            if problem:
                raise _refuse([*came.values(), connection], problem)
            came[hello["index"]] = connection
    for connection in came.values():
        _send(connection, GO)
        connection.close()


def _problem(hello: dict, count: int, came: dict) -> str:
    if hello["count"] != count:
        return f"Process {hello['index']} expects {hello['count']} processes, the first one {count}."
    if hello["index"] in came or not 0 < hello["index"] < count:
        return f"Two processes say they are number {hello['index']} of {count}."
    return ""


def _refuse(connections, problem: str) -> MeetingError:
    """Tells the others as well."""
    for connection in connections:
        _send(connection, problem)
        connection.close()
    return MeetingError(problem)


def _report(host: str, port: int, hello: dict, deadline: float, seconds: float) -> None:
    """Every other process: tells its number, until it is answered."""
    reason = ""
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left) as connection:
                _send(connection, hello)
                answer = _received(connection, deadline + ANSWER_SECONDS)
        except OSError as error:
            answer, reason = None, error.strerror or str(error)
        if answer == GO:
            return
        if isinstance(answer, str):
            raise MeetingError(answer)
        time.sleep(RETRY_SECONDS)
    why = f" ({reason})" if reason else ""
    raise MeetingError(f"Process {hello['index']} did not meet the first one within {seconds:g} s{why}.")


def _send(connection: socket.socket, message) -> None:
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # it has left; who is missing is found out elsewhere


def _received(connection: socket.socket, deadline: float):
    """One line of JSON; None if something else comes, or nothing in time."""
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
