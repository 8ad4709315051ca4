/* SPDX-License-Identifier: Apache-2.0
 *
 * The process beside each pod and container of the process runner.  It does what must outlive the agent and what
 * one process cannot do to itself from TypeScript: namespaces, the file view, the log.  It decides nothing.
 *
 *   pod-shim sandbox ID    makes pid, mount, uts and ipc namespaces in a given network namespace; its child stays
 *                          as pid 1 of the pod and reaps.  Files in dir: pid ("PID START").
 *   pod-shim container ID  starts one container in the namespaces of a sandbox and stays outside as its monitor.
 *                          Files in dir: pid ("PID START MONITOR MONITOR-START NANOSECONDS"), exit ("CODE SIGNAL
 *                          NANOSECONDS").  SIGTERM and SIGINT go on to the container, SIGUSR1 opens the log again.
 *   pod-shim exec ID       runs one command in a container with the caller's stdin, stdout and stderr, or with a
 *                          terminal of the container between it and the caller's stdin and stdout.
 *
 * Request and answer travel on descriptor 3, see pod-shim-request.h.  Answers: "ok" PID START, "error" ERRNO STEP,
 * and for exec at its end "exit" CODE SIGNAL.
 *
 * If the monitor dies, its container gets SIGKILL (PR_SET_PDEATHSIG): nobody would read its output or note its
 * end.  If pid 1 of the sandbox dies, the kernel kills everything in the pod.
 */
#define _GNU_SOURCE
#include "pod-shim-command.h"
#include "pod-shim-container.h"
#include "pod-shim-exec.h"
#include "pod-shim-sandbox.h"

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} roles[] = { { "sandbox", sandbox }, { "container", container }, { "exec", exec_command } };
	fail_is_channel = true;
	fcntl(CHANNEL, F_SETFD, FD_CLOEXEC);
	syscall(SYS_close_range, CHANNEL + 1, ~0u, 0);
	umask(0);
	for (size_t i = 0; argc >= 2 && i < sizeof(roles) / sizeof(*roles); i++)
		if (!strcmp(argv[1], roles[i].name))
			return roles[i].run();
	static const char usage[] = "usage: pod-shim sandbox|container|exec ID   (request on descriptor 3)\n";
	write_all(2, usage, sizeof(usage) - 1);
	return 2;
}
