// SPDX-License-Identifier: Apache-2.0
/*
 * The CNI plugin: it carries one call to the node agent and its answer back, and knows nothing else. A runtime
 * executes it for every verb, so it has no C library, no allocation and no parsing; it starts in well under 1 ms.
 *
 *   to the agent     NAME=value NUL NAME=value NUL ... NUL  stdin ...            then half close
 *                    (the CNI_* variables)             (empty string ends them)
 *   from the agent   exit status (u8), length (u32, little-endian), stdout (length bytes)
 *
 * An answer that stops short is no answer: then, as when nobody listens, the shim itself says "try again later"
 * (code 11), for STATUS "not available" (code 50), and VERSION it answers alone. It prints nothing before it has
 * the whole answer, so a runtime never sees half a JSON text.
 */
#include "syscall.h"

#if defined(__x86_64__)
enum { NR_RT_SIGACTION = 13 };
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call shim\n");
#else
enum { NR_RT_SIGACTION = 134 };
__asm__(".globl _start\n_start: mov x0, sp\n bl shim\n");
#endif

/* Every function for size: what counts is how little the kernel has to map. */
#pragma clang attribute push(__attribute__((minsize)), apply_to = function)

enum { AF_UNIX = 1, SOCK_STREAM = 1, SOCK_CLOEXEC = 02000000, SHUT_WR = 1, SIGPIPE = 13, SIG_IGN = 1, EINTR = 4 };
enum { STDIN = 0, STDOUT = 1 };
enum { PATH_BYTES = 108, HEADER_BYTES = 5, MOST_ANSWER_BYTES = 1 << 20 };

/*
 * Where the agent listens, as struct sockaddr_un. The installer finds the marker in this file and writes the path
 * of its agent over the 108 bytes behind `family`; volatile, so that the compiler does not believe the default.
 */
static volatile struct {
	char marker[16];
	unsigned short family;
	char path[PATH_BYTES];
} agent __attribute__((section(".data"), used, aligned(2))) = {
	"PORTOLAN-SOCKET", AF_UNIX, "/run/portolan/cni.sock",
};

static char out[16384];
static unsigned long filled;
static unsigned char answer[HEADER_BYTES + MOST_ANSWER_BYTES];

static __attribute__((noinline)) long call3(long nr, long a, long b, long c)
{
	return raw_syscall(nr, a, b, c, 0, 0, 0);
}

static __attribute__((noreturn)) void leave(int status)
{
	for (;;)
		call3(NR_EXIT, status, 0, 0);
}

/* read(2) that a signal cannot end. */
static long take(int fd, void *to, unsigned long most)
{
	long got;

	do
		got = call3(NR_READ, fd, (long)to, (long)most);
	while (got == -EINTR);
	return got;
}

/* Writes all of it; 0, or -1 when the other side is gone. */
static int give(int fd, const void *from, unsigned long count)
{
	const char *at = from;

	while (count > 0) {
		long sent = call3(NR_WRITE, fd, (long)at, (long)count);

		if (sent == -EINTR)
			continue;
		if (sent <= 0)
			return -1;
		at += sent;
		count -= (unsigned long)sent;
	}
	return 0;
}

static unsigned long length(const char *text)
{
	unsigned long count = 0;

	while (text[count])
		count++;
	return count;
}

static int starts(const char *text, const char *with)
{
	while (*with)
		if (*text++ != *with++)
			return 0;
	return 1;
}

static void say(const char *text)
{
	give(STDOUT, text, length(text));
}

/* What the plugin answers when the agent does not. The verb may be absent; that is the agent's to complain about. */
static __attribute__((noreturn)) void without_agent(const char *verb)
{
	if (starts(verb, "VERSION")) {
		say("{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n");
		leave(0);
	}
	say("{\"cniVersion\":\"1.0.0\",\"code\":");
	say(starts(verb, "STATUS") ? "50" : "11");
	say(",\"msg\":\"the network agent of this node does not answer\",\"details\":\"no answer on ");
	say((const char *)agent.path);
	say(": start it with \\\"portolan agent\\\", or look into its log\"}\n");
	leave(1);
}

static int flush(int fd)
{
	int failed = give(fd, out, filled);

	filled = 0;
	return failed;
}

static int put(int fd, const char *from, unsigned long count)
{
	for (unsigned long i = 0; i < count; i++) {
		if (filled == sizeof(out) && flush(fd))
			return -1;
		out[filled++] = from[i];
	}
	return 0;
}

/* Sends the CNI_* variables and stdin. */
static int ask(int fd, char **variable)
{
	long got;

	for (; *variable; variable++)
		if (starts(*variable, "CNI_") && put(fd, *variable, length(*variable) + 1))
			return -1;
	if (put(fd, "", 1))
		return -1;
	while (filled < sizeof(out) && (got = take(STDIN, out + filled, sizeof(out) - filled)) > 0) {
		filled += (unsigned long)got;
		if (filled == sizeof(out) && flush(fd))
			return -1;
	}
	return flush(fd);
}

__attribute__((used, noreturn)) void shim(unsigned long *stack)
{
	/* struct kernel_sigaction: handler, flags, restorer, mask */
	static const unsigned long ignore[4] = { SIG_IGN, 0, 0, 0 };
	char **environment = (char **)(stack + 1 + stack[0] + 1);
	const char *verb = "";
	unsigned long have = 0, want;
	long fd, got;

	for (char **variable = environment; *variable; variable++)
		if (starts(*variable, "CNI_COMMAND="))
			verb = *variable + sizeof("CNI_COMMAND=") - 1;
	raw_syscall(NR_RT_SIGACTION, SIGPIPE, (long)ignore, 0, 8, 0, 0);
	fd = call3(NR_SOCKET, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || call3(NR_CONNECT, fd, (long)&agent.family, sizeof(agent.family) + PATH_BYTES) < 0)
		without_agent(verb);

	/* An agent that refuses early (too much input) answers and closes: read its answer even if sending failed. */
	ask((int)fd, environment);
	call3(NR_SHUTDOWN, fd, SHUT_WR, 0);
	while (have < sizeof(answer) && (got = take((int)fd, answer + have, sizeof(answer) - have)) > 0)
		have += (unsigned long)got;
	want = (unsigned long)answer[1] | (unsigned long)answer[2] << 8 | (unsigned long)answer[3] << 16 |
	       (unsigned long)answer[4] << 24;
	if (have < HEADER_BYTES || have - HEADER_BYTES != want)
		without_agent(verb);
	if (give(STDOUT, answer + HEADER_BYTES, want))
		leave(answer[0] ? answer[0] : 1);
	leave(answer[0]);
}

#pragma clang attribute pop
