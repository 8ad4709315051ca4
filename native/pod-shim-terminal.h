/* SPDX-License-Identifier: Apache-2.0
 *
 * A terminal between a command and the caller's pipes: a pair of the container's own devpts, so that the command
 * finds its terminal under the name that tty(1) tells.
 *
 *   caller ── stdin  ──► shim ──► master ═ slave ──► command
 *          ◄─ stdout ───      ◄──
 *          ── channel: rows and columns, two bytes each, little endian, as often as they change
 *
 * Nothing here blocks: a command that reads nothing must not keep the shim from seeing that its caller has gone.
 */
#ifndef PORTOLAN_POD_SHIM_TERMINAL_H
#define PORTOLAN_POD_SHIM_TERMINAL_H

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>

#include "pod-shim-base.h"
#include "pod-shim-request.h"

#define PUMP_BYTES 16384

/* What was read and not yet written. */
struct pump {
	char data[PUMP_BYTES];
	size_t from, to;
	bool ended;
};

struct terminal {
	int master, slave; /* -1 without a terminal */
	struct pump in, out;
	unsigned char size[4];
	size_t size_bytes;
};

static void set_nonblocking(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void terminal_open(struct terminal *t, struct request *r)
{
	char path[64];
	int locked = 0;
	memset(t, 0, sizeof(*t));
	t->master = t->slave = -1;
	if (!r->tty)
		return;
	snprintf(path, sizeof(path), "/proc/%d/root/dev/pts/ptmx", (int)r->pid);
	t->master = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (t->master < 0)
		die("open a terminal of the container");
	if (start_of(r->pid) != r->start) {
		errno = ESRCH;
		die("open a terminal of the container: its process has gone");
	}
	if (ioctl(t->master, TIOCSPTLCK, &locked) < 0)
		die("unlock the terminal");
	t->slave = ioctl(t->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (t->slave < 0 || fchown(t->slave, r->uid, r->gid) < 0)
		die("open the command's end of the terminal");
	/* Without an input of the caller's it is /dev/null, whose end is not to be told to the command. */
	struct stat input;
	t->in.ended = fstat(0, &input) < 0 || S_ISCHR(input.st_mode);
	set_nonblocking(t->master);
	set_nonblocking(0);
	set_nonblocking(1);
}

/* In the child, after setsid(). */
static void terminal_take(struct terminal *t)
{
	if (t->slave < 0)
		return;
	if (ioctl(t->slave, TIOCSCTTY, 0) < 0)
		die("take the terminal");
	if (dup2(t->slave, 0) < 0 || dup2(t->slave, 1) < 0 || dup2(t->slave, 2) < 0)
		die("set stdin, stdout and stderr");
}

/* In the parent, once the child has it. */
static void terminal_given(struct terminal *t)
{
	if (t->slave >= 0)
		close(t->slave);
	t->slave = -1;
}

static void terminal_wants(struct terminal *t, struct pollfd polled[3])
{
	for (int i = 0; i < 3; i++)
		polled[i] = (struct pollfd){ -1, 0, 0 };
	if (t->master < 0)
		return;
	/* A pipe whose other end is closed would be reported for ever: it is only polled for what is wanted of it. */
	if (!t->in.ended && t->in.from == t->in.to)
		polled[0] = (struct pollfd){ 0, POLLIN, 0 };
	if (t->out.from < t->out.to)
		polled[1] = (struct pollfd){ 1, POLLOUT, 0 };
	short master = (t->in.from < t->in.to ? POLLOUT : 0) | (t->out.from == t->out.to && !t->out.ended ? POLLIN : 0);
	if (master)
		polled[2] = (struct pollfd){ t->master, master, 0 };
}

/* Moves what can be moved now; true while there may be more to read. */
static bool pump(struct pump *p, int from, int to)
{
	if (p->from == p->to && !p->ended) {
		ssize_t n = read(from, p->data, sizeof(p->data));
		if (n > 0) {
			p->from = 0;
			p->to = n;
		} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
			/* EIO is how a master tells that nobody has the slave open. */
			p->ended = true;
		}
	}
	if (p->from < p->to) {
		ssize_t n = write(to, p->data + p->from, p->to - p->from);
		if (n > 0)
			p->from += n;
		else if (n < 0 && errno != EAGAIN && errno != EINTR)
			p->from = p->to = 0;
	}
	return p->from == p->to && !p->ended;
}

static void terminal_pump(struct terminal *t, struct pollfd polled[3])
{
	if (t->master < 0)
		return;
	if (polled[0].revents || (polled[2].revents & POLLOUT)) {
		bool before = t->in.ended;
		pump(&t->in, 0, t->master);
		/* The caller's input is over: what Control-D says on a terminal. */
		if (t->in.ended && !before && write(t->master, "\4", 1) < 0)
			t->in.ended = true;
	}
	if (polled[1].revents || (polled[2].revents & (POLLIN | POLLHUP | POLLERR)))
		pump(&t->out, t->master, 1);
}

/* Reads sizes from the channel; false when it has ended, or when there is no terminal that could have one. */
static bool terminal_resize(struct terminal *t)
{
	if (t->master < 0)
		return false;
	ssize_t n = recv(CHANNEL, t->size + t->size_bytes, sizeof(t->size) - t->size_bytes, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n == 0)
		return false;
	t->size_bytes += n;
	if (t->size_bytes == sizeof(t->size)) {
		struct winsize size = { .ws_row = t->size[0] | t->size[1] << 8, .ws_col = t->size[2] | t->size[3] << 8 };
		ioctl(t->master, TIOCSWINSZ, &size);
		t->size_bytes = 0;
	}
	return true;
}

/* The command has ended: its last words go out, if the caller takes them within a second each. */
static void terminal_finish(struct terminal *t)
{
	if (t->master < 0)
		return;
	for (;;) {
		struct pollfd polled = { 1, POLLOUT, 0 };
		if (t->out.from == t->out.to) {
			/* Whoever the command left behind may hold the terminal open: what is there now is all. */
			polled = (struct pollfd){ t->master, POLLIN, 0 };
			if (t->out.ended || poll(&polled, 1, 0) <= 0)
				break;
		} else if (poll(&polled, 1, 1000) <= 0) {
			break;
		}
		pump(&t->out, t->master, 1);
	}
	close(t->master);
	t->master = -1;
}

#endif
