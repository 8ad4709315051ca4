/* SPDX-License-Identifier: Apache-2.0
 *
 * What the roles share: answers, failures of a child, and the last steps before a command runs.
 */
#ifndef PORTOLAN_POD_SHIM_COMMAND_H
#define PORTOLAN_POD_SHIM_COMMAND_H

#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>

#include "pod-shim-base.h"
#include "pod-shim-request.h"

static void reply_ok(pid_t pid, uint64_t start)
{
	char text[64];
	int n = snprintf(text, sizeof(text), "ok%c%d%c%llu%c", 0, (int)pid, 0, (unsigned long long)start, 0);
	write_all(CHANNEL, text, n + 1);
}

static int open_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		die("open \"%s\"", path);
	return fd;
}

/* Failures of a child come by this pipe; the last word of a child that works is that exec closes it. */
static void make_pipe(int fds[2])
{
	if (pipe2(fds, O_CLOEXEC) < 0)
		die("create pipe");
}

static void report_to(int fd)
{
	fail_fd = fd;
	fail_is_channel = false;
}

static void become_user(struct request *r)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	if (syscall(SYS_capget, &header, data) < 0)
		die("read capabilities");
	uint64_t own = data[0].permitted | (uint64_t)data[1].permitted << 32;
	uint64_t keep = r->caps & own;
	for (int cap = 0; cap < 64; cap++)
		if (!(r->caps >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EINVAL)
			die("drop capability %d", cap);
	if (setgroups(r->group_count, r->groups) < 0)
		die("set groups");
	if (setresgid(r->gid, r->gid, r->gid) < 0)
		die("set group %d", (int)r->gid);
	/* Leaving user 0 takes all capabilities away; they are not given back, as in other runtimes. */
	if (setresuid(r->uid, r->uid, r->uid) < 0)
		die("set user %d", (int)r->uid);
	if (r->uid != 0)
		keep = 0;
	header.pid = 0;
	for (int i = 0; i < 2; i++) {
		data[i].effective = data[i].permitted = keep >> (32 * i);
		data[i].inheritable = 0;
	}
	if (syscall(SYS_capset, &header, data) < 0)
		die("set capabilities");
	if (r->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		die("set no_new_privs");
}

static __attribute__((noreturn)) void run_command(struct request *r, int go)
{
	char word;
	if (chdir(r->cwd) < 0)
		die("change to folder \"%s\"", r->cwd);
	become_user(r);
	/* Changing user has cleared it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int number = 1; number < 32; number++)
		signal(number, SIG_DFL);
	if (read(go, &word, 1) != 1)
		_exit(125);
	/* A parent that died before PR_SET_PDEATHSIG took effect has closed its end. */
	struct pollfd parent = { go, 0, 0 };
	if (poll(&parent, 1, 0) != 0)
		_exit(125);
	push(&r->args, &r->arg_count, NULL);
	push(&r->env, &r->env_count, NULL);
	umask(022);
	environ = r->env;
	execvp(r->args[0], r->args);
	die("run \"%s\"", r->args[0]);
}

static void check_command(struct request *r)
{
	need(r->arg_count ? r->args : NULL, "arg");
	if (!r->cwd)
		r->cwd = "/";
	if (!r->pid) {
		errno = EINVAL;
		die("read request: \"pid\" is missing");
	}
}

/* Signals are read from a descriptor beside the pipes. */
static int signals_of(const int *numbers)
{
	sigset_t set;
	sigemptyset(&set);
	for (; *numbers; numbers++)
		sigaddset(&set, *numbers);
	sigprocmask(SIG_BLOCK, &set, NULL);
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		die("watch signals");
	return fd;
}

#endif
