/* SPDX-License-Identifier: Apache-2.0
 *
 * Errors, strict reading of the request, and small helpers of the pod shim.
 */
#ifndef PORTOLAN_POD_SHIM_BASE_H
#define PORTOLAN_POD_SHIM_BASE_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

/* The request comes in on this descriptor and the answer goes out on it: a socket pair made by the runner. */
#define CHANNEL 3
/* Linux limits one argument plus environment to about 2 MiB; nothing sensible is larger than this. */
#define REQUEST_MAX (1 << 20)

/* Where a failure is told to: the runner (by the channel), or the parent (by a pipe that exec closes). */
static int fail_fd = -1;
static bool fail_is_channel = false;

struct failure {
	int error;
	char step[244];
};

static void write_all(int fd, const void *data, size_t size)
{
	const char *at = data;
	while (size > 0) {
		ssize_t n = write(fd, at, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		at += n;
		size -= n;
	}
}

/* Answer: words, each ended by NUL, ended by an empty word. */
static void reply_failure(const struct failure *f)
{
	char text[300];
	int n = snprintf(text, sizeof(text), "error%c%d%c%s%c", 0, f->error, 0, f->step, 0);
	write_all(CHANNEL, text, n + 1);
}

/* Tells what failed, with errno, and ends this process. */
static __attribute__((noreturn, format(printf, 1, 2))) void die(const char *format, ...)
{
	struct failure f;
	memset(&f, 0, sizeof(f));
	f.error = errno;
	va_list args;
	va_start(args, format);
	vsnprintf(f.step, sizeof(f.step), format, args);
	va_end(args);
	if (fail_is_channel)
		reply_failure(&f);
	else if (fail_fd >= 0)
		write_all(fail_fd, &f, sizeof(f));
	_exit(125);
}

static void *grow(void *array, size_t count, size_t size)
{
	/* Doubles at powers of two. */
	if (count & (count - 1))
		return array;
	void *bigger = realloc(array, (count ? count * 2 : 1) * size);
	if (!bigger)
		die("allocate memory");
	return bigger;
}

static uint64_t number(const char *text, const char *what)
{
	uint64_t value = 0;
	if (!*text || strlen(text) > 18) {
		errno = EINVAL;
		die("read request: \"%s\" is not a number", what);
	}
	for (; *text; text++) {
		if (*text < '0' || *text > '9') {
			errno = EINVAL;
			die("read request: \"%s\" is not a number", what);
		}
		value = value * 10 + (*text - '0');
	}
	return value;
}

/* Writes a file beside its name and renames it: a reader sees all of it or nothing. */
static void write_atomically(int dir, const char *name, const char *text)
{
	char temporary[64];
	snprintf(temporary, sizeof(temporary), ".%s.new", name);
	int fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		die("create \"%s\"", name);
	write_all(fd, text, strlen(text));
	close(fd);
	if (renameat(dir, temporary, dir, name) < 0)
		die("rename \"%s\"", name);
}

/* Start of a process in clock ticks after boot, field 22 of /proc/PID/stat: with the pid it names one process. */
static uint64_t start_of(pid_t pid)
{
	char path[40], text[1024];
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return 0;
	text[n] = 0;
	/* The name in brackets may hold blanks and brackets: count from the last one. */
	char *at = strrchr(text, ')');
	for (int field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	return at ? strtoull(at + 1, NULL, 10) : 0;
}

/* A descriptor of exactly that process, or a failure when the pid belongs to another one by now. */
static int open_process(pid_t pid, uint64_t start)
{
	int fd = syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		die("open process %d", (int)pid);
	if (start_of(pid) != start) {
		errno = ESRCH;
		die("open process %d: another process has its number", (int)pid);
	}
	return fd;
}

static void join_cgroup(const char *path)
{
	char procs[4096];
	snprintf(procs, sizeof(procs), "%s/cgroup.procs", path);
	int fd = open(procs, O_WRONLY | O_CLOEXEC);
	/* "0" is the writer itself. */
	if (fd < 0 || write(fd, "0", 1) != 1)
		die("join cgroup \"%s\"", path);
	close(fd);
}

#endif
