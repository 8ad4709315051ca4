// SPDX-License-Identifier: Apache-2.0
/*
 * Sends datagrams as fast as they go and prints the nanoseconds for each: flood ADDRESS PORT COUNT SOCKETS. With one
 * socket all are of one connection; with as many sockets as datagrams each begins one. Over veth a packet is delivered
 * within the call that sends it, so the time is that of the whole way. IPv4.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	struct timespec begin, end;
	struct rlimit limit = { 100000, 100000 };
	char byte[32] = { 0 };
	int count, sockets, *fds;

	if (argc != 5)
		return 2;
	setrlimit(RLIMIT_NOFILE, &limit);
	inet_pton(AF_INET, argv[1], &to.sin_addr);
	to.sin_port = htons(atoi(argv[2]));
	count = atoi(argv[3]);
	sockets = atoi(argv[4]);
	fds = calloc(sockets, sizeof(*fds));
	for (int i = 0; i < sockets; i++) {
		fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
		if (fds[i] < 0 || connect(fds[i], (void *)&to, sizeof(to))) {
			perror("socket");
			return 1;
		}
	}
	/* CPU time: others on the machine do not count. */
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
	for (int i = 0; i < count; i++)
		if (send(fds[i % sockets], byte, sizeof(byte), 0) < 0)
			; /* refused by the other end's ICMP: that is a delivery */
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
	printf("%.1f\n", ((end.tv_sec - begin.tv_sec) * 1e9 + end.tv_nsec - begin.tv_nsec) / count);
	return 0;
}
