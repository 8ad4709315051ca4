// SPDX-License-Identifier: Apache-2.0
/*
 * How long a TCP connection takes: connect ADDRESS PORT COUNT makes COUNT connections one after the other, each reset
 * at its end so that no port stays occupied, and prints the 10th percentile and the median in nanoseconds.
 * connect serve ADDRESS PORT accepts and closes for ever. IPv4.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in address_of(const char *host, const char *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };

	inet_pton(AF_INET, host, &address.sin_addr);
	return address;
}

static int by_value(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;

	return (x > y) - (x < y);
}

static void serve(struct sockaddr_in address)
{
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (void *)&address, sizeof(address)) || listen(fd, 4096)) {
		perror("serve");
		exit(1);
	}
	puts("ready");
	fflush(stdout);
	for (;;)
		close(accept(fd, NULL, NULL));
}

int main(int argc, char **argv)
{
	struct linger reset = { .l_onoff = 1 };
	struct sockaddr_in address;
	long *times;
	int count;

	if (argc == 4 && !strcmp(argv[1], "serve"))
		serve(address_of(argv[2], argv[3]));
	if (argc != 4)
		return 2;
	address = address_of(argv[1], argv[2]);
	count = atoi(argv[3]);
	times = calloc(count, sizeof(*times));
	for (int i = 0; i < count; i++) {
		struct timespec a, b;
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		clock_gettime(CLOCK_MONOTONIC, &a);
		if (connect(fd, (void *)&address, sizeof(address))) {
			perror("connect");
			return 1;
		}
		clock_gettime(CLOCK_MONOTONIC, &b);
		times[i] = (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec;
		close(fd);
	}
	qsort(times, count, sizeof(*times), by_value);
	printf("%ld %ld\n", times[count / 10], times[count / 2]);
	return 0;
}
