// SPDX-License-Identifier: Apache-2.0
/*
 * Measures TCP connects as a pod would make them: inside a network namespace and a cgroup, so that whatever
 * acts on that pod's traffic (socket hooks, tc programs, netfilter, the overlay) acts on the probe too.
 *
 *   probe [--netns PATH] [--cgroup FOLDER] [--timeout-ms N] [--tries N] ADDRESS PORT [ADDRESS PORT]...
 *
 * One line a target: ADDRESS PORT (ok MICROSECONDS | ERRNAME MICROSECONDS), the best of the tries that worked.
 * Exit status 0 when all targets answered, 1 when one did not, 2 on wrong usage.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int usage(const char *why)
{
	fprintf(stderr, "probe: %s\nusage: probe [--netns PATH] [--cgroup FOLDER] [--timeout-ms N] [--tries N] ADDRESS PORT...\n",
		why);
	return 2;
}

static long now_us(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000L + at.tv_nsec / 1000;
}

static int enter_netns(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int failed = fd < 0 || setns(fd, CLONE_NEWNET) < 0;

	if (fd >= 0)
		close(fd);
	return failed ? -errno : 0;
}

static int enter_cgroup(const char *folder)
{
	char path[4096], pid[16];
	int fd, length;
	ssize_t written;

	if ((size_t)snprintf(path, sizeof(path), "%s/cgroup.procs", folder) >= sizeof(path))
		return -ENAMETOOLONG;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	length = snprintf(pid, sizeof(pid), "%d\n", getpid());
	written = write(fd, pid, length);
	close(fd);
	return written == length ? 0 : -errno;
}

/* Connects once; returns 0 or a positive errno, and the time it took in microseconds. */
static int connect_once(const struct sockaddr_storage *to, socklen_t length, int timeout_ms, long *us)
{
	int fd = socket(to->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct pollfd wait = { .fd = fd, .events = POLLOUT };
	int error = 0;
	socklen_t size = sizeof(error);
	long begun = now_us();

	if (fd < 0)
		return errno;
	if (connect(fd, (const struct sockaddr *)to, length) < 0) {
		if (errno != EINPROGRESS)
			error = errno;
		else if (poll(&wait, 1, timeout_ms) == 0)
			error = ETIMEDOUT;
		else
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
	}
	*us = now_us() - begun;
	close(fd);
	return error;
}

static int parse_target(const char *address, const char *port, struct sockaddr_storage *to, socklen_t *length)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)to;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)to;
	char *end;
	long number = strtol(port, &end, 10);

	if (*end || number < 1 || number > 65535)
		return -1;
	memset(to, 0, sizeof(*to));
	if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(number);
		*length = sizeof(*v4);
		return 0;
	}
	if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(number);
		*length = sizeof(*v6);
		return 0;
	}
	return -1;
}

int main(int argc, char **argv)
{
	int timeout_ms = 1000, tries = 3, failures = 0, at = 1;

	for (; at + 1 < argc && strncmp(argv[at], "--", 2) == 0; at += 2) {
		int error = 0;

		if (strcmp(argv[at], "--netns") == 0)
			error = enter_netns(argv[at + 1]);
		else if (strcmp(argv[at], "--cgroup") == 0)
			error = enter_cgroup(argv[at + 1]);
		else if (strcmp(argv[at], "--timeout-ms") == 0)
			timeout_ms = atoi(argv[at + 1]);
		else if (strcmp(argv[at], "--tries") == 0)
			tries = atoi(argv[at + 1]);
		else
			return usage(argv[at]);
		if (error) {
			fprintf(stderr, "probe: cannot enter %s \"%s\": %s\n", argv[at] + 2, argv[at + 1], strerror(-error));
			return 2;
		}
	}
	if (at >= argc || (argc - at) % 2 || timeout_ms < 1 || tries < 1)
		return usage("targets are pairs of ADDRESS PORT");
	for (; at < argc; at += 2) {
		struct sockaddr_storage to;
		socklen_t length;
		long best = -1, us = 0;
		int error = 0;

		if (parse_target(argv[at], argv[at + 1], &to, &length))
			return usage("a target is an IPv4 or IPv6 address and a port");
		for (int i = 0; i < tries; i++) {
			error = connect_once(&to, length, timeout_ms, &us);
			if (!error && (best < 0 || us < best))
				best = us;
			if (error == ETIMEDOUT)
				break;
		}
		if (best >= 0)
			printf("%s %s ok %ld\n", argv[at], argv[at + 1], best);
		else
			printf("%s %s %s %ld\n", argv[at], argv[at + 1], strerrorname_np(error), us);
		fflush(stdout);
		failures += best < 0;
	}
	return failures ? 1 : 0;
}
