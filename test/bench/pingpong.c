// SPDX-License-Identifier: Apache-2.0
/*
 * Round trips of small UDP datagrams: pingpong ADDRESS PORT COUNT prints the 10th percentile, the median and the 99th
 * percentile in nanoseconds; pingpong serve ADDRESS PORT answers for ever. IPv4.
 */
#include <arpa/inet.h>
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

static int udp(const char *host, const char *port, int serve)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	inet_pton(AF_INET, host, &address.sin_addr);
	if ((serve ? bind : connect)(fd, (void *)&address, sizeof(address))) {
		perror(serve ? "bind" : "connect");
		exit(1);
	}
	return fd;
}

int main(int argc, char **argv)
{
	struct timeval limit = { .tv_sec = 1 };
	char byte[64] = { 0 };
	long *times;
	int count, fd;

	if (argc == 4 && !strcmp(argv[1], "serve")) {
		struct sockaddr_in peer;
		socklen_t size = sizeof(peer);

		fd = udp(argv[2], argv[3], 1);
		puts("ready");
		fflush(stdout);
		for (;;) {
			long got = recvfrom(fd, byte, sizeof(byte), 0, (void *)&peer, &size);

			if (got >= 0)
				sendto(fd, byte, got, 0, (void *)&peer, size);
		}
	}
	if (argc != 4)
		return 2;
	fd = udp(argv[1], argv[2], 0);
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
