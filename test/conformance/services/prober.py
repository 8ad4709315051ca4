"""A process at one place of the network: serves, connects and sends as the test asks, a line of JSON each way."""
import errno, json, os, socket, struct, sys, threading, time

NAME = sys.argv[1]
held = {}
listening = {}


def family(host):
    return socket.AF_INET6 if ':' in host else socket.AF_INET


def show(address):
    return ('[%s]:%d' if ':' in address[0] else '%s:%d') % (address[0], address[1])


def serve(host, port, name=None):
    """TCP: says its name and the client, then echoes. UDP: answers its name, the client and the size."""
    name = name or NAME
    tcp = socket.socket(family(host), socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    udp = socket.socket(family(host), socket.SOCK_DGRAM)
    if family(host) == socket.AF_INET6:
        for each in (tcp, udp):
            each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    tcp.bind((host, port))
    tcp.listen(512)
    udp.bind((host, port))
    listening[(host, port)] = (tcp, udp)

    def datagrams():
        while True:
            try:
                data, client = udp.recvfrom(65535)
                if client is None:  # shut down
                    return
                udp.sendto(('%s %s %d' % (name, show(client), len(data))).encode(), client)
            except OSError as error:
                if error.errno == errno.EBADF:
                    return

    def one(connection, client):
        try:
            connection.sendall(('%s %s\n' % (name, show(client))).encode())
            while True:
                data = connection.recv(65536)
                if not data:
                    break
                connection.sendall(data)
        except OSError:
            pass
        connection.close()

    def connections():
        while True:
            try:
                connection, client = tcp.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection, client), daemon=True).start()

    for each in (datagrams, connections):
        threading.Thread(target=each, daemon=True).start()


def unserve(host, port):
    for each in listening.pop((host, port)):
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        each.close()


def opened(request):
    """A socket as the request wants it, connected unless it is for free datagrams."""
    kind, host, port = request['kind'], request['host'], request['port']
    stream = kind == 'tcp'
    mapped = request.get('mapped')
    s = socket.socket(socket.AF_INET6 if mapped else family(host), socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
    s.settimeout(request.get('timeout', 5))
    if request.get('bind') or request.get('source'):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((request.get('source', ''), request.get('bind', 0)))
    target = ('::ffff:' + host if mapped else host, port)
    if kind != 'udp':
        try:
            s.connect(target)
        except socket.timeout:
            raise socket.timeout('from ' + show(s.getsockname()))
    return s, target


def exchange(request):
    start = time.time()
    out = {'result': 'ok'}
    try:
        s, target = opened(request)
        with s:
            size = request.get('size', 4)
            if request['kind'] == 'tcp':
                reader = s.makefile('rb')
                words = reader.readline().decode().split()
                if not words:
                    raise ConnectionResetError(errno.ECONNRESET, 'closed')
                out['peer'] = show(s.getpeername())
                if size > 4:
                    data = os.urandom(size)
                    threading.Thread(target=lambda: s.sendall(data), daemon=True).start()
                    if reader.read(size) != data:
                        out['result'] = 'corrupt'
            else:
                data = b'x' * size
                if request['kind'] == 'udp' or request.get('named'):
                    s.sendto(data, target)
                else:
                    s.send(data)
                out['local'] = show(s.getsockname())
                got, peer = s.recvfrom(65535)
                words = got.decode().split()
                out['peer'] = show(peer)
                if int(words[2]) != size:
                    out['result'] = 'short'
            out['server'], out['client'] = words[0], words[1]
            out['local'] = show(s.getsockname())
    except socket.timeout as error:
        out['result'] = 'timeout'
        out.setdefault('local', str(error))
    except OSError as error:
        out['result'] = errno.errorcode.get(error.errno, str(error))
    out['ms'] = (time.time() - start) * 1000
    return out


def survey(request):
    """One socket asks all of them before it reads any answer: who served, by who answered."""
    targets = request['targets']
    out = {}
    with socket.socket(family(targets[0][0]), socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        for host, port in targets:
            s.sendto(b'x', (host, port))
        try:
            for _ in targets:
                data, peer = s.recvfrom(99)
                out[show(peer)] = data.decode().split()[0]
        except socket.timeout:
            pass
    return out


def say(request):
    """One line, or datagram, and its answer over a socket that is held."""
    entry = held[request['handle']]
    s = entry['socket']
    s.settimeout(request.get('timeout', 5))
    try:
        if entry['kind'] == 'tcp':
            s.sendall((request['text'] + '\n').encode())
            return {'text': entry['reader'].readline().decode().strip()}
        if entry['kind'] == 'udp':
            s.sendto(request['text'].encode(), entry['target'])
        else:
            s.send(request['text'].encode())
        words = s.recv(65535).decode().split()
        return {'text': words[0], 'client': words[1]}
    except socket.timeout:
        return {'text': 'timeout'}
    except OSError as error:
        return {'text': errno.errorcode.get(error.errno, str(error))}


def hold(request):
    try:
        s, target = opened(request)
    except socket.timeout:
        return {'text': 'timeout'}
    except OSError as error:
        return {'text': errno.errorcode.get(error.errno, str(error))}
    entry = {'socket': s, 'kind': request['kind'], 'target': target}
    held[request['handle']] = entry
    if request['kind'] != 'tcp':
        return {'text': ''}
    entry['reader'] = s.makefile('rb')
    words = entry['reader'].readline().decode().split()
    return {'text': words[0], 'client': words[1], 'local': show(s.getsockname())} if words else {'text': 'closed'}


def inject(request):
    """A TCP segment of a connection that this place serves, with a sequence number far off (IPv4)."""
    source, target = socket.inet_aton(request['source']), socket.inet_aton(request['target'])
    segment = struct.pack('!HHIIBBHHH', request['sport'], request['dport'], 0x12345678, 0x87654321, 5 << 4, 0x10, 512, 0, 0)
    data = source + target + struct.pack('!BBH', 0, 6, len(segment)) + segment
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    segment = segment[:16] + struct.pack('!H', ~total & 0xFFFF) + segment[18:]
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    raw.bind((request['source'], 0))
    raw.sendto(segment, (request['target'], 0))
    raw.close()


def answer(request):
    what = request['do']
    if what == 'serve':
        serve(request['host'], request['port'], request.get('name'))
        return {}
    if what == 'unserve':
        unserve(request['host'], request['port'])
        return {}
    if what == 'exchange':
        pause = request.get('pause', 0)
        seen = []
        for _ in range(request.get('times', 1)):
            seen.append(exchange(request))
            if pause:
                time.sleep(pause)
        return {'seen': seen}
    if what == 'survey':
        return {'answers': survey(request)}
    if what == 'hold':
        return hold(request)
    if what == 'inject':
        inject(request)
        return {}
    if what == 'say':
        return say(request)
    if what == 'let-go':
        held.pop(request['handle'])['socket'].close()
        return {}
    return {'error': 'unknown request ' + what}


lock = threading.Lock()


def handle(request):
    try:
        out = answer(request)
    except Exception as error:
        out = {'error': repr(error)}
    out['id'] = request['id']
    with lock:
        print(json.dumps(out), flush=True)


print(json.dumps({'id': 0}), flush=True)
for line in sys.stdin:
    threading.Thread(target=handle, args=(json.loads(line),), daemon=True).start()
os._exit(0)
