"""A port for a server that has to be told its own: `free_port()`, or this file run by itself."""

import fcntl
import os
import random
import socket
import tempfile

# Below the ports that the kernel gives out, and beside those of Rust's tests: nobody else is given one
# before it is listened on.
PORTS = range(23_000, 26_000)
# The place of the one that was given last, to whichever process.
LAST = os.path.join(tempfile.gettempdir(), f"qudao-peers-port-{os.getuid()}")


def is_free(port):
    with socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port():
    with open(LAST, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        last = int(file.read() or random.randrange(len(PORTS)))
        for step in range(1, 1 + len(PORTS)):
            at = (last + step) % len(PORTS)
            if is_free(PORTS[at]):
                file.truncate(0)
                file.write(str(at))
                return PORTS[at]
    raise SystemExit("there is no free port")


if __name__ == "__main__":
    print(free_port())
