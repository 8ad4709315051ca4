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
#include <grp.h>
#include <linux/capability.h>
#include <linux/if.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "pod-shim-base.h"
#include "pod-shim-log.h"
#include "pod-shim-mounts.h"
#include "pod-shim-request.h"
#include "pod-shim-terminal.h"

/* A process that leaves the cgroup cannot hold the monitor longer than this after its container ended. */
#define DRAIN_MS 1000

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

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

/* ---- what the roles share ----------------------------------------------------------------------------------- */

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

/* ---- sandbox ------------------------------------------------------------------------------------------------ */

static void loopback_up(void)
{
	struct ifreq request;
	memset(&request, 0, sizeof(request));
	strcpy(request.ifr_name, "lo");
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		die("read state of lo");
	request.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		die("set lo up");
	close(fd);
}

/* "net.ipv4.ip_unprivileged_port_start=0" written below /proc/sys of the namespaces just made. */
static void set_sysctl(char *text)
{
	char path[300] = "/proc/sys/";
	char *equals = strchr(text, '=');
	if (!equals || strstr(text, "..") || strlen(text) > 200) {
		errno = EINVAL;
		die("read request: sysctl \"%.80s\"", text);
	}
	*equals = 0;
	strcat(path, text);
	for (char *at = path + strlen("/proc/sys/"); *at; at++)
		if (*at == '.')
			*at = '/';
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, equals + 1, strlen(equals + 1)) < 0)
		die("set sysctl \"%s\" to \"%s\"", text, equals + 1);
	close(fd);
}

/* The sandbox's own tiny tree: /shm and /volumes/NAME, all tmpfs, shared by its containers; no mount of the host. */
static void sandbox_tree(struct request *r)
{
	char options[64], name[300];
	if (mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		die("make mounts private");
	if (mount("portolan", r->dir, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=755") < 0)
		die("mount \"%s\"", r->dir);
	if (chdir(r->dir) < 0 || mkdir("shm", 01777) < 0 || mkdir("volumes", 0755) < 0)
		die("make folders of the sandbox");
	snprintf(options, sizeof(options), "mode=1777,size=%llu",
		 (unsigned long long)(r->shm_bytes ? r->shm_bytes : 64ull << 20));
	if (mount("shm", "shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) < 0)
		die("mount /dev/shm of the pod");
	for (size_t i = 0; i < r->volume_count; i++) {
		char *colon = strchr(r->volumes[i], ':');
		if (colon)
			*colon = 0;
		if (!*r->volumes[i] || strchr(r->volumes[i], '/') || *r->volumes[i] == '.' || strlen(r->volumes[i]) > 253) {
			errno = EINVAL;
			die("read request: volume \"%.80s\"", r->volumes[i]);
		}
		snprintf(name, sizeof(name), "volumes/%s", r->volumes[i]);
		snprintf(options, sizeof(options), "mode=777%s%s", colon ? ",size=" : "", colon ? colon + 1 : "");
		if (mkdir(name, 0777) < 0 || mount("volume", name, "tmpfs", MS_NOSUID | MS_NODEV, options) < 0)
			die("mount volume \"%s\"", r->volumes[i]);
	}
	if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		die("change to the sandbox's root");
}

/* Pid 1 of the pod.  It handles no other signal: from inside, none can then end it (pid_namespaces(7)). */
static __attribute__((noreturn)) void reap_for_ever(void)
{
	sigset_t children;
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	sigprocmask(SIG_SETMASK, &children, NULL);
	for (;;) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		siginfo_t info;
		sigwaitinfo(&children, &info);
	}
}

static int sandbox(void)
{
	struct request r;
	read_request(&r);
	need(r.dir, "dir");
	need(r.hostname, "hostname");
	int dir = open_dir(r.dir);
	if (r.cgroup)
		join_cgroup(r.cgroup);
	if (r.netns) {
		int netns = open(r.netns, O_RDONLY | O_CLOEXEC);
		if (netns < 0 || setns(netns, CLONE_NEWNET) < 0)
			die("enter network namespace \"%s\"", r.netns);
		close(netns);
		loopback_up();
	}
	if (unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID) < 0)
		die("create namespaces");
	int failure[2], go[2];
	make_pipe(failure);
	make_pipe(go);
	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		char word;
		report_to(failure[1]);
		close(CHANNEL);
		close(go[1]);
		close(dir);
		setsid();
		for (size_t i = 0; i < r.sysctl_count; i++)
			set_sysctl(r.sysctls[i]);
		if (sethostname(r.hostname, strlen(r.hostname)) < 0)
			die("set hostname \"%s\"", r.hostname);
		sandbox_tree(&r);
		/* It only waits: user 0 without any capability. */
		r.caps = r.uid = r.gid = r.group_count = 0;
		r.no_new_privs = true;
		become_user(&r);
		prctl(PR_SET_NAME, "pod-sandbox");
		/* A parent that died before it noted our number leaves nothing behind. */
		if (read(go[0], &word, 1) != 1)
			_exit(125);
		close(go[0]);
		close(failure[1]);
		reap_for_ever();
	}
	close(failure[1]);
	close(go[0]);
	uint64_t start = start_of(child);
	char text[64];
	snprintf(text, sizeof(text), "%d %llu\n", (int)child, (unsigned long long)start);
	write_atomically(dir, "pid", text);
	write_all(go[1], "g", 1);
	struct failure f;
	if (read(failure[0], &f, sizeof(f)) == sizeof(f)) {
		reply_failure(&f);
		return 125;
	}
	reply_ok(child, start);
	return 0;
}

/* ---- container ---------------------------------------------------------------------------------------------- */

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

/* ---- exec --------------------------------------------------------------------------------------------------- */

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
