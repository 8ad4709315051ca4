/* SPDX-License-Identifier: Apache-2.0
 *
 * The role "sandbox": namespaces of a pod, its own small tree of files, and its pid 1.
 */
#ifndef PORTOLAN_POD_SHIM_SANDBOX_H
#define PORTOLAN_POD_SHIM_SANDBOX_H

#include <linux/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "pod-shim-command.h"

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

#endif
