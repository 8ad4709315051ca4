/* SPDX-License-Identifier: Apache-2.0
 *
 * The CRI log: one line of output is one line of the file,
 *
 *   2016-10-06T00:17:09.669794202Z stdout F hello
 *
 * time in UTC, stream, F for a full line or P for a part of one, text.  A line longer than LINE_MAX_BYTES is cut
 * into parts, as containerd does.  A file that has reached its bound is renamed NAME.1, NAME.1 to NAME.2 and so on.
 */
#ifndef PORTOLAN_POD_SHIM_LOG_H
#define PORTOLAN_POD_SHIM_LOG_H

#include <sys/uio.h>
#include <time.h>

#include "pod-shim-base.h"

#define LINE_MAX_BYTES 16384

struct stream {
	int fd;
	const char *name;
	size_t size;
	char buffer[LINE_MAX_BYTES];
};

struct log {
	const char *path;
	int fd;
	uint64_t size, limit;
	unsigned files;
};

static void log_open(struct log *log)
{
	struct stat st;
	if (log->fd >= 0)
		close(log->fd);
	log->fd = open(log->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	log->size = log->fd >= 0 && fstat(log->fd, &st) == 0 ? st.st_size : 0;
}

static void log_rotate(struct log *log)
{
	char from[4200], to[4200];
	for (unsigned i = log->files > 1 ? log->files - 1 : 0; i > 0; i--) {
		if (i > 1)
			snprintf(from, sizeof(from), "%s.%u", log->path, i - 1);
		else
			snprintf(from, sizeof(from), "%s", log->path);
		snprintf(to, sizeof(to), "%s.%u", log->path, i);
		rename(from, to);
	}
	if (log->files <= 1)
		unlink(log->path);
	log_open(log);
}

/* One line or part.  A full disk loses the line; the container is not stopped for it. */
static void log_line(struct log *log, const char *stream, char tag, char *text, size_t size)
{
	char head[64];
	struct timespec now;
	struct tm utc;
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	size_t n = strftime(head, sizeof(head), "%Y-%m-%dT%H:%M:%S", &utc);
	n += snprintf(head + n, sizeof(head) - n, ".%09ldZ %s %c ", now.tv_nsec, stream, tag);
	if (log->limit && log->size > 0 && log->size + n + size + 1 > log->limit)
		log_rotate(log);
	struct iovec parts[3] = { { head, n }, { text, size }, { (char *)"\n", 1 } };
	ssize_t written = log->fd >= 0 ? writev(log->fd, parts, 3) : -1;
	if (written > 0)
		log->size += written;
}

/* Takes what a pipe holds; false at its end. */
static bool log_read(struct log *log, struct stream *s)
{
	ssize_t n = read(s->fd, s->buffer + s->size, LINE_MAX_BYTES - s->size);
	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	if (n == 0) {
		if (s->size)
			log_line(log, s->name, 'F', s->buffer, s->size);
		s->size = 0;
		return false;
	}
	s->size += n;
	char *at = s->buffer, *end = s->buffer + s->size;
	for (char *newline; (newline = memchr(at, '\n', end - at)); at = newline + 1)
		log_line(log, s->name, 'F', at, newline - at);
	s->size = end - at;
	memmove(s->buffer, at, s->size);
	if (s->size == LINE_MAX_BYTES) {
		log_line(log, s->name, 'P', s->buffer, s->size);
		s->size = 0;
	}
	return true;
}

#endif
