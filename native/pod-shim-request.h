/* SPDX-License-Identifier: Apache-2.0
 *
 * The request: words ended by NUL, the first "portolan-pod/1", then key=value, and an empty word as the end.
 *
 *   portolan-pod/1\0 dir=/run/portolan/pods/c/1f..\0 arg=sleep\0 arg=60\0 mount=tmpfs\0 target=/tmp\0 \0
 *
 * Values never pass through argv, which every user of the machine may read. A key that is not known, one that
 * comes twice where one is meant, and a field of a mount before the first mount are refused.
 */
#ifndef PORTOLAN_POD_SHIM_REQUEST_H
#define PORTOLAN_POD_SHIM_REQUEST_H

#include "pod-shim-base.h"

enum mount_kind {
	MOUNT_LAYER, /* one mount of the host, read-only, with places made on it that it lacks */
	MOUNT_BIND, /* a file or tree of the host */
	MOUNT_SHARED, /* a tmpfs that the sandbox holds */
	MOUNT_TMPFS,
	MOUNT_PROC,
	MOUNT_SYSFS,
	MOUNT_DEV,
	MOUNT_MQUEUE,
	MOUNT_MASK, /* hide a file or folder, if there */
	MOUNT_READONLY, /* take away writing from a path, if there */
};

static const char *const mount_names[] = {
	"layer", "bind", "shared", "tmpfs", "proc", "sysfs", "dev", "mqueue", "mask", "readonly",
};

struct place {
	const char *path;
	bool file;
};

struct mount_op {
	enum mount_kind kind;
	const char *source;
	const char *target;
	const char *size;
	const char *mode;
	bool readonly;
	bool exec; /* tmpfs and binds may hold programs; proc and the like never do */
	struct place *places;
	size_t place_count;
};

struct request {
	const char *dir;
	const char *netns;
	const char *hostname;
	const char *cgroup;
	const char *shim_cgroup;
	const char *log;
	const char *cwd;
	uint64_t pid, start; /* the sandbox (role container) or the container's process (role exec) */
	uint64_t log_bytes, log_files;
	uint64_t uid, gid;
	uint64_t shm_bytes;
	uint64_t caps;
	bool no_new_privs;
	bool tty; /* exec: a terminal of the container instead of the caller's pipes */
	gid_t *groups;
	size_t group_count;
	char **args;
	size_t arg_count;
	char **env;
	size_t env_count;
	char **volumes; /* NAME, or NAME:BYTES: tmpfs that the sandbox holds */
	size_t volume_count;
	char **sysctls;
	size_t sysctl_count;
	struct mount_op *mounts;
	size_t mount_count;
};

static void once(const char **slot, char *value, const char *key)
{
	if (*slot) {
		errno = EINVAL;
		die("read request: \"%s\" comes twice", key);
	}
	*slot = value;
}

static void push(char ***list, size_t *count, char *value)
{
	*list = grow(*list, *count, sizeof(char *));
	(*list)[(*count)++] = value;
}

static struct mount_op *last_mount(struct request *r, const char *key)
{
	if (!r->mount_count) {
		errno = EINVAL;
		die("read request: \"%s\" comes before a mount", key);
	}
	return &r->mounts[r->mount_count - 1];
}

static void add_place(struct request *r, const char *key, char *path, bool file)
{
	struct mount_op *op = last_mount(r, key);
	op->places = grow(op->places, op->place_count, sizeof(struct place));
	op->places[op->place_count++] = (struct place){ path, file };
}

static void add_mount(struct request *r, const char *name)
{
	for (size_t kind = 0; kind < sizeof(mount_names) / sizeof(*mount_names); kind++) {
		if (strcmp(name, mount_names[kind]))
			continue;
		r->mounts = grow(r->mounts, r->mount_count, sizeof(struct mount_op));
		memset(&r->mounts[r->mount_count], 0, sizeof(struct mount_op));
		r->mounts[r->mount_count++].kind = kind;
		return;
	}
	errno = EINVAL;
	die("read request: unknown mount \"%.40s\"", name);
}

static void parse_field(struct request *r, char *key, char *value)
{
	if (!strcmp(key, "arg"))
		push(&r->args, &r->arg_count, value);
	else if (!strcmp(key, "env"))
		push(&r->env, &r->env_count, value);
	else if (!strcmp(key, "volume"))
		push(&r->volumes, &r->volume_count, value);
	else if (!strcmp(key, "sysctl"))
		push(&r->sysctls, &r->sysctl_count, value);
	else if (!strcmp(key, "group")) {
		r->groups = grow(r->groups, r->group_count, sizeof(gid_t));
		r->groups[r->group_count++] = number(value, key);
	} else if (!strcmp(key, "dir"))
		once(&r->dir, value, key);
	else if (!strcmp(key, "netns"))
		once(&r->netns, value, key);
	else if (!strcmp(key, "hostname"))
		once(&r->hostname, value, key);
	else if (!strcmp(key, "cgroup"))
		once(&r->cgroup, value, key);
	else if (!strcmp(key, "shim-cgroup"))
		once(&r->shim_cgroup, value, key);
	else if (!strcmp(key, "log"))
		once(&r->log, value, key);
	else if (!strcmp(key, "cwd"))
		once(&r->cwd, value, key);
	else if (!strcmp(key, "pid"))
		r->pid = number(value, key);
	else if (!strcmp(key, "start"))
		r->start = number(value, key);
	else if (!strcmp(key, "log-bytes"))
		r->log_bytes = number(value, key);
	else if (!strcmp(key, "log-files"))
		r->log_files = number(value, key);
	else if (!strcmp(key, "uid"))
		r->uid = number(value, key);
	else if (!strcmp(key, "gid"))
		r->gid = number(value, key);
	else if (!strcmp(key, "shm-bytes"))
		r->shm_bytes = number(value, key);
	else if (!strcmp(key, "caps"))
		r->caps = number(value, key);
	else if (!strcmp(key, "no-new-privs"))
		r->no_new_privs = number(value, key) != 0;
	else if (!strcmp(key, "tty"))
		r->tty = number(value, key) != 0;
	else if (!strcmp(key, "mount"))
		add_mount(r, value);
	else if (!strcmp(key, "source"))
		once(&last_mount(r, key)->source, value, key);
	else if (!strcmp(key, "target"))
		once(&last_mount(r, key)->target, value, key);
	else if (!strcmp(key, "size"))
		once(&last_mount(r, key)->size, value, key);
	else if (!strcmp(key, "mode"))
		once(&last_mount(r, key)->mode, value, key);
	else if (!strcmp(key, "readonly"))
		last_mount(r, key)->readonly = number(value, key) != 0;
	else if (!strcmp(key, "place-folder"))
		add_place(r, key, value, false);
	else if (!strcmp(key, "place-file"))
		add_place(r, key, value, true);
	else {
		errno = EINVAL;
		die("read request: unknown key \"%.40s\"", key);
	}
}

/* Reads and parses; the buffer stays allocated, every value points into it. */
static void read_request(struct request *r)
{
	memset(r, 0, sizeof(*r));
	size_t size = 0, room = 16384;
	char *buffer = malloc(room);
	if (!buffer)
		die("allocate memory");
	for (;;) {
		if (size == room) {
			if (room >= REQUEST_MAX) {
				errno = E2BIG;
				die("read request");
			}
			room *= 2;
			buffer = realloc(buffer, room);
			if (!buffer)
				die("allocate memory");
		}
		ssize_t n = read(CHANNEL, buffer + size, room - size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			errno = EPROTO;
			die("read request: it ends early");
		}
		size += n;
		if (size >= 2 && !buffer[size - 1] && !buffer[size - 2])
			break;
	}
	char *end = buffer + size - 1, *at = buffer;
	if (strcmp(at, "portolan-pod/1")) {
		errno = EPROTO;
		die("read request: it is of another version");
	}
	for (char *next = at + strlen(at) + 1; next < end;) {
		at = next;
		next += strlen(next) + 1;
		char *equals = strchr(at, '=');
		if (!equals) {
			errno = EPROTO;
			die("read request: a word without \"=\"");
		}
		*equals = 0;
		parse_field(r, at, equals + 1);
	}
}

static void need(const void *value, const char *key)
{
	if (value)
		return;
	errno = EINVAL;
	die("read request: \"%s\" is missing", key);
}

#endif
