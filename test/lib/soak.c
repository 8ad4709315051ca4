// SPDX-License-Identifier: Apache-2.0
/*
 * Many connections at once, each of which knows what it lost.
 *
 *   soak serve PORT                            echoes TCP and UDP, both families
 *   soak load SECONDS KIND ADDRESS PORT COUNT  COUNT sockets that talk for so long, or until SIGTERM; prints JSON
 *
 * KIND is tcp, udp, or udp-connected. A socket sends 64 bytes that nobody else sends, waits for their echo, pauses, and
 * goes on for a while; then another takes its place. Every eighth stays for ever. What may not happen is counted by
 * name: a connection refused or timed out, reset or closed by the other side, an echo that is wrong or does not come.
 * A datagram may be lost, and is sent again twice, as by every program that uses them; how often is told.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SIZE 64
#define PATIENCE_MS 5000 /* for a connection and for an echo over TCP, which sends again by itself */
#define UDP_PATIENCE_MS 1000
#define SLOW_MS 900 /* a SYN or a segment was lost: TCP sends again after a second */

enum state { IDLE, CONNECTING, PAUSING, WAITING };

struct slot {
	enum state state;
	int fd;
	long deadline; /* ms: of what it waits for, or the end of its pause */
	long since, until;
	unsigned got, number, tries;
	int again; /* something was sent more than once over this socket */
	char sent[SIZE], back[SIZE];
};

static volatile sig_atomic_t over;
static struct sockaddr_storage to;
static socklen_t to_size;
static int type, connected, ep;
static long opened, echoed, moved, repeated, slow, slowest, began, slow_at[16];
static struct failure {
	char name[48];
	long count;
} failures[32];

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000L + t.tv_nsec / 1000000;
}

static void count(const char *what, int error)
{
	char name[48];

	snprintf(name, sizeof(name), "%s%s%s", what, error ? " " : "", error ? strerrorname_np(error) : "");
	for (int i = 0; i < 32; i++) {
		if (failures[i].count && strcmp(failures[i].name, name))
			continue;
		memcpy(failures[i].name, name, sizeof(name));
		failures[i].count++;
		return;
	}
}

static void parse(const char *host, const char *port)
{
	struct sockaddr_in *four = (void *)&to;
	struct sockaddr_in6 *six = (void *)&to;

	if (strchr(host, ':')) {
		six->sin6_family = AF_INET6;
		six->sin6_port = htons(atoi(port));
		inet_pton(AF_INET6, host, &six->sin6_addr);
		to_size = sizeof(*six);
	} else {
		four->sin_family = AF_INET;
		four->sin_port = htons(atoi(port));
		inet_pton(AF_INET, host, &four->sin_addr);
		to_size = sizeof(*four);
	}
}

static void watch(struct slot *s, unsigned events, int how)
{
	struct epoll_event e = { .events = events, .data.ptr = s };

	epoll_ctl(ep, how, s->fd, &e);
}

/* Away, and the next one at once. One in two goes by a reset, which keeps ports free. */
static void end(struct slot *s)
{
	struct linger reset = { .l_onoff = 1 };

	if (type == SOCK_STREAM && rand() % 2)
		setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(s->fd);
	s->state = IDLE;
}

static void failed(struct slot *s, const char *what, int error)
{
	/* The kernel ends datagram sockets whose backend has gone, by design: a new one finds another. */
	if (type == SOCK_DGRAM && connected && (error == ECONNABORTED || error == EDESTADDRREQ))
		moved++;
	else
		count(what, error);
	end(s);
}

static void begin(struct slot *s)
{
	long now = now_ms();
	int kind = s->number % 8;

	s->fd = socket(to.ss_family, type | SOCK_NONBLOCK, 0);
	s->again = 0;
	s->since = now;
	s->until = kind == 0 ? 1L << 60 : now + (kind < 4 ? 100 + rand() % 400 : 500 + rand() % 4000);
	opened++;
	if (connected && connect(s->fd, (void *)&to, to_size) && errno != EINPROGRESS) {
		failed(s, "connect", errno);
		return;
	}
	s->state = type == SOCK_STREAM ? CONNECTING : PAUSING;
	s->deadline = type == SOCK_STREAM ? now + PATIENCE_MS : now;
	watch(s, type == SOCK_STREAM ? EPOLLOUT : EPOLLIN, EPOLL_CTL_ADD);
}

static void say(struct slot *s)
{
	long now = now_ms(), sent;

	sent = connected ? send(s->fd, s->sent, SIZE, MSG_NOSIGNAL) :
			   sendto(s->fd, s->sent, SIZE, 0, (void *)&to, to_size);
	if (sent != SIZE) {
		failed(s, "send", errno);
		return;
	}
	s->got = 0;
	s->since = now;
	s->state = WAITING;
	s->deadline = now + (type == SOCK_STREAM ? PATIENCE_MS : UDP_PATIENCE_MS);
}

static void talk(struct slot *s)
{
	if (now_ms() > s->until) {
		end(s);
		return;
	}
	for (int i = 0; i < SIZE; i++)
		s->sent[i] = rand();
	s->tries = 0;
	say(s);
}

static void took(long ms)
{
	if (ms > SLOW_MS) {
		if (slow < 16)
			slow_at[slow] = now_ms() - began;
		slow++;
	}
	if (ms > slowest)
		slowest = ms;
}

static void hear(struct slot *s)
{
	struct sockaddr_storage from = { 0 };
	socklen_t size = sizeof(from);
	long n = recvfrom(s->fd, s->back + s->got, SIZE - s->got, 0, (void *)&from, &size);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		failed(s, n ? "receive" : "closed by the server", n ? errno : 0);
		return;
	}
	/* The second answer to what was sent twice. */
	if (type == SOCK_DGRAM && s->again && n == SIZE && (s->state != WAITING || memcmp(s->sent, s->back, SIZE)))
		return;
	if (s->state != WAITING) {
		failed(s, "an answer to nothing", 0);
		return;
	}
	if (!connected && (from.ss_family != to.ss_family || memcmp(&from, &to, to.ss_family == AF_INET ? 8 : 24))) {
		char host[INET6_ADDRSTRLEN] = "?", name[48];

		/* The port lies at the same place in both families. */
		inet_ntop(from.ss_family,
			  from.ss_family == AF_INET ? (void *)&((struct sockaddr_in *)&from)->sin_addr :
						      (void *)&((struct sockaddr_in6 *)&from)->sin6_addr,
			  host, sizeof(host));
		snprintf(name, sizeof(name), "an answer from %s %d", host, ntohs(((struct sockaddr_in *)&from)->sin_port));
		failed(s, name, 0);
		return;
	}
	s->got += n;
	if (s->got < SIZE)
		return;
	if (memcmp(s->sent, s->back, SIZE)) {
		failed(s, "a wrong echo", 0);
		return;
	}
	echoed++;
	took(now_ms() - s->since);
	s->state = PAUSING;
	s->deadline = now_ms() + 50 + rand() % 400;
}

static void ready(struct slot *s)
{
	int error = 0, one = 1;
	socklen_t size = sizeof(error);

	if (s->state != CONNECTING) {
		hear(s);
		return;
	}
	getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size);
	if (error) {
		failed(s, "connect", error);
		return;
	}
	took(now_ms() - s->since);
	setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	watch(s, EPOLLIN, EPOLL_CTL_MOD);
	talk(s);
}

static void stop(int signal)
{
	(void)signal;
	over = 1;
}

static int load(int seconds, int slots)
{
	struct slot *all = calloc(slots, sizeof(*all));
	long finish = now_ms() + seconds * 1000L, lost = 0;
	struct epoll_event events[64];

	began = now_ms();
	/* Not all in one moment. */
	for (int i = 0; i < slots; i++) {
		all[i].deadline = now_ms() + rand() % 1000;
		all[i].number = i;
	}
	while (!over && now_ms() < finish) {
		int n = epoll_wait(ep, events, 64, 5);

		for (int i = 0; i < n; i++)
			ready(events[i].data.ptr);
		for (int i = 0; i < slots; i++) {
			struct slot *s = &all[i];
			long now = now_ms();

			if (now < s->deadline)
				continue;
			if (s->state == IDLE)
				begin(s);
			else if (s->state == PAUSING)
				talk(s);
			else if (s->state == CONNECTING)
				failed(s, "connect", ETIMEDOUT);
			else if (type == SOCK_DGRAM && s->tries++ < 2) {
				repeated++;
				s->again = 1;
				say(s);
			} else
				failed(s, "no echo", 0);
		}
	}
	printf("{\"opened\":%ld,\"echoed\":%ld,\"moved\":%ld,\"repeated\":%ld,\"slow\":%ld,\"slowestMs\":%ld,\"failed\":{", opened, echoed,
	       moved, repeated, slow, slowest);
	for (int i = 0; i < 32 && failures[i].count; i++, lost++)
		printf("%s\"%s\":%ld", lost ? "," : "", failures[i].name, failures[i].count);
	printf("},\"slowAtMs\":[");
	for (int i = 0; i < 16 && i < slow; i++)
		printf("%s%ld", i ? "," : "", slow_at[i]);
	printf("]}\n");
	return 0;
}

/* Echoes what comes; a client that is gone is forgotten. */
static int serve(const char *port)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(atoi(port)) };
	int tcp = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
	int udp = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0), one = 1;
	struct epoll_event e = { .events = EPOLLIN }, events[64];

	setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(tcp, (void *)&any, sizeof(any)) || listen(tcp, 4096) || bind(udp, (void *)&any, sizeof(any))) {
		perror("serve");
		return 1;
	}
	e.data.fd = tcp;
	epoll_ctl(ep, EPOLL_CTL_ADD, tcp, &e);
	e.data.fd = udp;
	epoll_ctl(ep, EPOLL_CTL_ADD, udp, &e);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int n = epoll_wait(ep, events, 64, -1);

		for (int i = 0; i < n; i++) {
			char data[2048];
			struct sockaddr_in6 peer;
			socklen_t size = sizeof(peer);
			int fd = events[i].data.fd;
			long got;

			if (fd == tcp) {
				while ((e.data.fd = accept4(tcp, NULL, NULL, SOCK_NONBLOCK)) >= 0)
					epoll_ctl(ep, EPOLL_CTL_ADD, e.data.fd, &e);
			} else if (fd == udp) {
				while ((got = recvfrom(udp, data, sizeof(data), 0, (void *)&peer, &size)) >= 0) {
					sendto(udp, data, got, 0, (void *)&peer, size);
					size = sizeof(peer);
				}
			} else {
				got = read(fd, data, sizeof(data));
				if (got > 0)
					send(fd, data, got, MSG_NOSIGNAL);
				else if (got == 0 || errno != EAGAIN)
					close(fd);
			}
		}
	}
}

int main(int argc, char **argv)
{
	struct rlimit many = { 8192, 8192 };

	setrlimit(RLIMIT_NOFILE, &many);
	signal(SIGTERM, stop);
	srand(getpid());
	ep = epoll_create1(0);
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(argv[2]);
	if (argc != 7 || strcmp(argv[1], "load"))
		return 2;
	type = strcmp(argv[3], "tcp") ? SOCK_DGRAM : SOCK_STREAM;
	connected = strcmp(argv[3], "udp");
	parse(argv[4], argv[5]);
	return load(atoi(argv[2]), atoi(argv[6]));
}
