"""Sends an echo (RFC 792, RFC 4443) every few milliseconds until SIGINT, then waits for what is on its way.

    pinger.py ADDRESS INTERVAL_SECONDS

Prints {"sent": N, "lost": N}. ping(8) does not wait when it is told to stop, and calls the last ones lost that a busy
machine has not answered yet. Needs a raw socket.
"""
import json, os, select, signal, socket, struct, sys, time

PATIENCE_S = 3
address, interval = sys.argv[1], float(sys.argv[2])
six = ':' in address
REQUEST, REPLY = (128, 129) if six else (8, 0)
name = os.getpid() & 0xffff
sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP)
sock.setblocking(False)
stopped = False


def stop(*_):
    global stopped
    stopped = True


def checksum(data):
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
sent, waiting = 0, set()
due = time.monotonic()
end = None
while True:
    now = time.monotonic()
    if stopped and end is None:
        end = now + PATIENCE_S
    if end is not None and (not waiting or now >= end):
        break
    if end is None and now >= due:
        head = struct.pack('!BBHHH', REQUEST, 0, 0, name, sent & 0xffff)
        # The kernel sums ICMPv6 itself.
        packet = head + struct.pack('!Q', sent)
        if not six:
            packet = packet[:2] + struct.pack('!H', checksum(packet)) + packet[4:]
        waiting.add(sent)
        try:
            sock.sendto(packet, (address, 0))
        except OSError:
            pass  # no route just now: lost, as on the way
        sent += 1
        due = max(due + interval, now)
    select.select([sock], [], [], max(0, (due if end is None else end) - time.monotonic()))
    try:
        while True:
            data, (sender, *_) = sock.recvfrom(2048)
            body = data if six else data[(data[0] & 15) * 4:]
            if len(body) >= 16 and body[0] == REPLY and struct.unpack('!H', body[4:6])[0] == name:
                waiting.discard(struct.unpack('!Q', body[8:16])[0])
    except OSError:
        pass  # nothing more just now
print(json.dumps({'sent': sent, 'lost': len(waiting)}))
