// SPDX-License-Identifier: Apache-2.0
/*
 * Round trips of small UDP datagrams: pingpong ADDRESS PORT COUNT prints the 10th percentile, the median and the 99th
 * percentile in nanoseconds; pingpong serve ADDRESS PORT answers for ever; pingpong tcp ADDRESS PORT COUNT does the
 * same over one TCP connection, to a server that echoes. IPv4.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

static int by_value(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;

	return (x > y) - (x < y);
}

static int opened(int type, const char *host, const char *port, int serve)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	int fd = socket(AF_INET, type, 0), one = 1;

	inet_pton(AF_INET, host, &address.sin_addr);
	if ((serve ? bind : connect)(fd, (void *)&address, sizeof(address))) {
		perror(serve ? "bind" : "connect");
		exit(1);
	}
	if (type == SOCK_STREAM)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

int main(int argc, char **argv)
{
	struct timeval limit = { .tv_sec = 1 };
	char byte[64] = { 0 };
	long *times;
	int count, fd, tcp;

	if (argc == 4 && !strcmp(argv[1], "serve")) {
		struct sockaddr_in peer;
		socklen_t size = sizeof(peer);

		fd = opened(SOCK_DGRAM, argv[2], argv[3], 1);
		puts("ready");
		fflush(stdout);
		for (;;) {
			long got = recvfrom(fd, byte, sizeof(byte), 0, (void *)&peer, &size);

			if (got >= 0)
				sendto(fd, byte, got, 0, (void *)&peer, size);
		}
	}
	tcp = argc == 5 && !strcmp(argv[1], "tcp");
	if (argc != 4 + tcp)
		return 2;
	argv += tcp;
	fd = opened(tcp ? SOCK_STREAM : SOCK_DGRAM, argv[1], argv[2], 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	count = atoi(argv[3]);
	times = calloc(count, sizeof(*times));
	for (int i = 0; i < count; i++) {
		struct timespec a, b;

		clock_gettime(CLOCK_MONOTONIC, &a);
		if (send(fd, byte, sizeof(byte), 0) < 0 || recv(fd, byte, sizeof(byte), 0) < 0) {
			perror("ping-pong");
			return 1;
		}
		clock_gettime(CLOCK_MONOTONIC, &b);
		times[i] = (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec;
	}
	qsort(times, count, sizeof(*times), by_value);
	printf("%ld %ld %ld\n", times[count / 10], times[count / 2], times[count / 100 * 99]);
	return 0;
}
