// SPDX-License-Identifier: Apache-2.0
/*
 * When does a Service begin or cease to answer: reads lines "ADDRESS PORT open|closed", tries to connect every 100 us
 * until that holds, and prints the time of it in nanoseconds of CLOCK_MONOTONIC; "timeout" after 10 s. IPv4.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static int is_open(const struct sockaddr_in *address)
{
	struct linger reset = { .l_onoff = 1 };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	int open;

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	open = connect(fd, (void *)address, sizeof(*address)) == 0;
	close(fd);
	return open;
}

int main(void)
{
	char host[64], wanted[16];
	int port;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while (scanf("%63s %d %15s", host, &port, wanted) == 3) {
		struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
		int open = !strcmp(wanted, "open");
		long began = now(), at = began;

		inet_pton(AF_INET, host, &address.sin_addr);
		while (is_open(&address) != open && (at = now()) - began < 10000000000L)
			usleep(100);
		if (at - began < 10000000000L)
			printf("%ld\n", now());
		else
			puts("timeout");
	}
	return 0;
}
