/* SPDX-License-Identifier: Apache-2.0
 *
 * The role "exec": one command in a container for a caller outside.
 */
#ifndef PORTOLAN_POD_SHIM_EXEC_H
#define PORTOLAN_POD_SHIM_EXEC_H

#include <sys/wait.h>

#include "pod-shim-command.h"
#include "pod-shim-terminal.h"

/* A cgroup of its own below the container's, so that a command past its time goes with all that it started. */
struct exec_group {
	int parent, killer;
	char name[40];
	char path[4200];
};

static void make_group(struct exec_group *group, const char *container)
{
	group->parent = group->killer = -1;
	if (!container)
		return;
	snprintf(group->name, sizeof(group->name), "exec-%d", (int)getpid());
	snprintf(group->path, sizeof(group->path), "%s/%s", container, group->name);
	group->parent = open_dir(container);
	if (mkdirat(group->parent, group->name, 0755) < 0 && errno != EEXIST)
		die("create cgroup \"%s\"", group->path);
	char path[4300];
	snprintf(path, sizeof(path), "%s/cgroup.kill", group->path);
	group->killer = open(path, O_WRONLY | O_CLOEXEC);
}

static int exec_wait(pid_t child, int signals, struct exec_group *group, struct terminal *terminal)
{
	/* The terminal's three come last, and are none (-1) without one. */
	struct pollfd polled[5] = { { signals, POLLIN, 0 }, { CHANNEL, POLLIN, 0 } };
	int status = 0;
	while (waitpid(child, &status, WNOHANG) != child) {
		terminal_wants(terminal, &polled[2]);
		poll(polled, 5, -1);
		terminal_pump(terminal, &polled[2]);
		/* Sizes come on the channel; anything else there is its end. */
		if (polled[1].revents && terminal_resize(terminal))
			polled[1].revents = 0;
		struct signalfd_siginfo info;
		while (read(signals, &info, sizeof(info)) == sizeof(info))
			if (info.ssi_signo != SIGCHLD)
				kill(child, info.ssi_signo);
		/* The caller closed the channel or died: the command's time is over. */
		if (polled[1].revents) {
			polled[1].fd = -1;
			if (group->killer >= 0)
				write_all(group->killer, "1", 1);
			kill(child, SIGKILL);
		}
	}
	terminal_finish(terminal);
	return status;
}

static int exec_command(void)
{
	struct request r;
	struct exec_group group;
	struct terminal terminal;
	read_request(&r);
	check_command(&r);
	int process = open_process(r.pid, r.start);
	terminal_open(&terminal, &r);
	make_group(&group, r.cgroup);
	static const int watched[] = { SIGCHLD, SIGTERM, SIGINT, 0 };
	int signals = signals_of(watched);
	signal(SIGPIPE, SIG_IGN);
	int failure[2], go[2];
	make_pipe(failure);
	make_pipe(go);
	if (setns(process, CLONE_NEWPID) < 0)
		die("enter the pid namespace of the container");
	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		report_to(failure[1]);
		close(CHANNEL);
		close(go[1]);
		setsid();
		terminal_take(&terminal);
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		if (group.parent >= 0)
			join_cgroup(group.path);
		if (setns(process, CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET) < 0)
			die("enter the namespaces of the container");
		close(process);
		run_command(&r, go[0]);
	}
	close(failure[1]);
	close(go[0]);
	close(process);
	write_all(go[1], "g", 1);
	/* The command alone holds its streams from here: their end is its end. */
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; null >= 0 && fd < 3 && !r.tty; fd++)
		dup2(null, fd);
	terminal_given(&terminal);
	struct failure f;
	bool failed = read(failure[0], &f, sizeof(f)) == sizeof(f);
	if (!failed)
		reply_ok(child, 0);
	int status = exec_wait(child, signals, &group, &terminal);
	if (group.parent >= 0)
		unlinkat(group.parent, group.name, AT_REMOVEDIR);
	if (failed) {
		reply_failure(&f);
		return 125;
	}
	int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	char text[64];
	int n = snprintf(text, sizeof(text), "exit%c%d%c%d%c", 0, code, 0, WIFSIGNALED(status) ? WTERMSIG(status) : 0, 0);
	write_all(CHANNEL, text, n + 1);
	return code;
}

#endif
