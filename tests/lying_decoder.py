"""A decoder process that an upload has taken over: the upload's text is what it answers."""

from __future__ import annotations

import os
import socket
import sys

if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        channel.send(b'{"kind": "confined", "network": true, "files": true, "calls": true}')
        while (received := socket.recv_fds(channel, 4096, 2))[0]:
            channel.send(os.pread(received[1][0], 4096, 0).partition(b"ANSWER")[2])
            for descriptor in received[1]:
                os.close(descriptor)
