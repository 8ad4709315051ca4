/* SPDX-License-Identifier: Apache-2.0
 *
 * The role "container": one container in the namespaces of a sandbox, and its monitor outside.
 */
#ifndef PORTOLAN_POD_SHIM_CONTAINER_H
#define PORTOLAN_POD_SHIM_CONTAINER_H

#include <sys/file.h>
#include <sys/wait.h>

#include "pod-shim-command.h"
#include "pod-shim-log.h"
#include "pod-shim-mounts.h"

/* A process that leaves the cgroup cannot hold the monitor longer than this after its container ended. */
#define DRAIN_MS 1000

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void monitor(struct request *r, pid_t child, int dir, int signals, struct stream *streams, int killer)
{
	struct log log = { .path = r->log, .fd = -1, .limit = r->log_bytes, .files = r->log_files };
	struct pollfd polled[3] = { { streams[0].fd, POLLIN, 0 }, { streams[1].fd, POLLIN, 0 }, { signals, POLLIN, 0 } };
	int status = 0;
	bool ended = false;
	uint64_t finished = 0;
	log_open(&log);
	while (!ended || polled[0].fd >= 0 || polled[1].fd >= 0) {
		int ready = poll(polled, 3, ended ? DRAIN_MS : -1);
		if (ready == 0)
			break;
		for (int i = 0; i < 2; i++)
			if (polled[i].fd >= 0 && polled[i].revents && !log_read(&log, &streams[i]))
				polled[i].fd = -1;
		struct signalfd_siginfo info;
		while (read(signals, &info, sizeof(info)) == sizeof(info)) {
			if (info.ssi_signo == SIGUSR1)
				log_open(&log);
			else if (info.ssi_signo != SIGCHLD && !ended)
				kill(child, info.ssi_signo);
		}
		if (!ended && waitpid(child, &status, WNOHANG) == child) {
			ended = true;
			finished = now_ns();
			/* What the container started and left goes with it: its name space of processes is the pod's. */
			if (killer >= 0)
				write_all(killer, "1", 1);
		}
	}
	char text[80];
	int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	snprintf(text, sizeof(text), "%d %d %llu\n", code, WIFSIGNALED(status) ? WTERMSIG(status) : 0,
		 (unsigned long long)finished);
	write_atomically(dir, "exit", text);
}

static __attribute__((noreturn)) void container_child(struct request *r, int sandbox, int go, int out, int err)
{
	setsid();
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (r->cgroup)
		join_cgroup(r->cgroup);
	if (setns(sandbox, CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET) < 0)
		die("enter the namespaces of the sandbox");
	/* After the network namespace: sysfs shows the one of the process that mounts it. */
	build_view(r, sandbox);
	close(sandbox);
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
		die("set stdin, stdout and stderr");
	run_command(r, go);
}

static int container(void)
{
	struct request r;
	read_request(&r);
	need(r.dir, "dir");
	need(r.log, "log");
	check_command(&r);
	int dir = open_dir(r.dir);
	/* Held while this monitor lives: a runner that was restarted in the middle cannot start it a second time. */
	if (flock(dir, LOCK_EX | LOCK_NB) < 0)
		die("lock \"%s\"", r.dir);
	int sandbox = open_process(r.pid, r.start);
	int killer = -1;
	if (r.shim_cgroup)
		join_cgroup(r.shim_cgroup);
	if (r.cgroup) {
		char path[4096];
		snprintf(path, sizeof(path), "%s/cgroup.kill", r.cgroup);
		killer = open(path, O_WRONLY | O_CLOEXEC);
	}
	/* Only children go there; this process stays in the host's. */
	if (setns(sandbox, CLONE_NEWPID) < 0)
		die("enter the pid namespace of the sandbox");
	static const int watched[] = { SIGCHLD, SIGTERM, SIGINT, SIGUSR1, 0 };
	int signals = signals_of(watched);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	int failure[2], go[2], out[2], err[2];
	make_pipe(failure);
	make_pipe(go);
	make_pipe(out);
	make_pipe(err);
	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		report_to(failure[1]);
		close(CHANNEL);
		close(go[1]);
		close(out[0]);
		close(err[0]);
		close(dir);
		container_child(&r, sandbox, go[0], out[1], err[1]);
	}
	close(failure[1]);
	close(go[0]);
	close(out[1]);
	close(err[1]);
	close(sandbox);
	uint64_t start = start_of(child);
	char text[160];
	snprintf(text, sizeof(text), "%d %llu %d %llu %llu\n", (int)child, (unsigned long long)start, (int)getpid(),
		 (unsigned long long)start_of(getpid()), (unsigned long long)now_ns());
	write_atomically(dir, "pid", text);
	write_all(go[1], "g", 1);
	struct failure f;
	if (read(failure[0], &f, sizeof(f)) == sizeof(f)) {
		waitpid(child, NULL, 0);
		unlinkat(dir, "pid", 0);
		reply_failure(&f);
		return 125;
	}
	close(failure[0]);
	close(go[1]);
	reply_ok(child, start);
	close(CHANNEL);
	prctl(PR_SET_NAME, "pod-monitor");
	static struct stream streams[2];
	streams[0].fd = out[0];
	streams[0].name = "stdout";
	streams[1].fd = err[0];
	streams[1].name = "stderr";
	fail_is_channel = false;
	monitor(&r, child, dir, signals, streams, killer);
	return 0;
}

#endif
