"""A host outside the cluster: tells whoever asks, by TCP or UDP on port 7000, with which address it is seen. UDP at the
addresses that are its arguments."""

import socket
import sys
import threading


def tcp():
    server = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", 7000))
    server.listen(64)
    while True:
        client, peer = server.accept()
        threading.Thread(target=serve, args=(client, peer), daemon=True).start()


def serve(client, peer):
    """An answer for each line, so that connections can be kept open and used again."""
    name = peer[0].removeprefix("::ffff:")
    with client:
        try:
            while client.recv(4096):
                client.sendall(f"{name} {peer[1]}\n".encode())
        except OSError:
            pass


def udp(address):
    """Bound to one address: an answer from another one would not be taken for one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind((address, 7000))
    while True:
        try:
            data, peer = server.recvfrom(65536)
            server.sendto(f"{peer[0]} {peer[1]}\n".encode().ljust(len(data)), peer)
        except OSError:
            pass


for each in sys.argv[1:]:
    threading.Thread(target=udp, args=(each,), daemon=True).start()
print("ready", flush=True)
tcp()
