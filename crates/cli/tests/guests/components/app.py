import encodings.idna  # getaddrinfo needs it at run time
import socket
import sys
import time

from wit_world import exports


def work(depth):
    if depth > 0:
        return work(depth - 1)
    if sys.argv[1] == "loop":
        while True:
            pass
    if sys.argv[1] == "sleep":
        time.sleep(1000)
    raise RuntimeError("failed")


class Run(exports.Run):
    def run(self) -> None:
        print("python", sys.argv[1], flush=True)
        if sys.argv[1] == "return":
            return
        if sys.argv[1] == "exit":
            raise SystemExit(3)
        if sys.argv[1] == "connect":
            with socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=10) as peer:
                print(peer.recv(100).decode())
            return
        work(20)
