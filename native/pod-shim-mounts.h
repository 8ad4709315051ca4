/* SPDX-License-Identifier: Apache-2.0
 *
 * The file view of a container, made of detached mounts (open_tree, fsopen) that are attached below a new root.
 * Every target is resolved inside that root (openat2 RESOLVE_IN_ROOT), so that a symbolic link of the host or of
 * a volume cannot lead a mount outside.  Needs Linux >= 5.12 (mount_setattr).
 *
 *   <dir>/mnt          tmpfs "work", only in the container's mount namespace
 *     places-N/        top of an overlay: mount points that the host's read-only tree lacks
 *     root/            the host's "/" (or overlay of places-0 over it), then all other mounts on it
 */
#ifndef PORTOLAN_POD_SHIM_MOUNTS_H
#define PORTOLAN_POD_SHIM_MOUNTS_H

#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#include "pod-shim-request.h"

static int sys_move_mount(int from, int to)
{
	return syscall(SYS_move_mount, from, "", to, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static int sys_set_attributes(int fd, uint64_t set, bool recursive)
{
	struct mount_attr attr = { .attr_set = set };
	return syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof(attr));
}

static int sys_clone_tree(int dir, const char *path, bool recursive)
{
	return syscall(SYS_open_tree, dir, path,
		       OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? AT_RECURSIVE : 0) | (*path ? 0 : AT_EMPTY_PATH));
}

static int open_in(int root, const char *path, int flags)
{
	struct open_how how = { .flags = flags | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	return syscall(SYS_openat2, root, path, &how, sizeof(how));
}

/* Opens a path below root, making what is missing where the file system allows it. */
static int open_or_make(int root, const char *path, bool file)
{
	int fd = open_in(root, path, O_PATH);
	if (fd >= 0 || errno != ENOENT)
		return fd;
	char copy[4096];
	if (strlen(path) >= sizeof(copy)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(copy, path);
	int parent = open_in(root, "/", O_PATH | O_DIRECTORY);
	for (char *at = copy; parent >= 0;) {
		while (*at == '/')
			at++;
		if (!*at)
			return parent;
		char *slash = strchr(at, '/');
		if (slash)
			*slash = 0;
		int made = 0;
		int next = open_in(root, copy, O_PATH);
		if (next < 0 && errno == ENOENT) {
			if (slash || !file)
				made = mkdirat(parent, at, 0755);
			else {
				int created = openat(parent, at, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
				made = created < 0 ? -1 : close(created);
			}
			if (made == 0)
				next = open_in(root, copy, O_PATH);
		}
		int error = errno;
		close(parent);
		errno = error;
		if (next < 0)
			return -1;
		parent = next;
		if (!slash)
			return parent;
		*slash = '/';
		at = slash + 1;
	}
	return parent;
}

static void set_option(int fs, const char *key, const char *value, const char *what)
{
	if (value && syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, key, value, 0) < 0)
		die("set %s=%.80s of %s", key, value, what);
}

static int open_fs(const char *type)
{
	int fs = syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
	if (fs < 0)
		die("open file system %s", type);
	return fs;
}

/* A detached mount of a configured file system. */
static int finish_fs(int fs, const char *what, uint64_t attributes)
{
	if (syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		die("create %s", what);
	int mount = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes);
	if (mount < 0)
		die("mount %s", what);
	close(fs);
	return mount;
}

static int new_tmpfs(const char *size, const char *mode, uint64_t attributes)
{
	int fs = open_fs("tmpfs");
	set_option(fs, "size", size, "tmpfs");
	set_option(fs, "mode", mode, "tmpfs");
	return finish_fs(fs, "tmpfs", attributes);
}

static void attach(int root, int mount, const char *target, bool file)
{
	int at = open_or_make(root, target, file);
	if (at < 0)
		die("find mount point \"%s\"", target);
	if (sys_move_mount(mount, at) < 0)
		die("attach \"%s\"", target);
	close(at);
	close(mount);
}

/* Builds the upper folder of a layer: the missing places, and above them folders like those of the host. */
static void make_places(int top, const struct mount_op *op)
{
	size_t prefix = strcmp(op->source, "/") ? strlen(op->source) : 0;
	for (size_t i = 0; i < op->place_count; i++) {
		const char *path = op->places[i].path;
		if (strncmp(path, op->source, prefix) || path[prefix] != '/') {
			errno = EINVAL;
			die("make \"%s\": it does not lie on \"%s\"", path, op->source);
		}
		char copy[4096];
		if (strlen(path) >= sizeof(copy)) {
			errno = ENAMETOOLONG;
			die("make \"%s\"", path);
		}
		strcpy(copy, path);
		int parent = dup(top);
		for (char *at = copy + prefix + 1;;) {
			char *slash = strchr(at, '/');
			if (slash)
				*slash = 0;
			struct stat old;
			bool known = lstat(copy, &old) == 0 && S_ISDIR(old.st_mode);
			if (slash || !op->places[i].file) {
				if (mkdirat(parent, at, 0755) < 0 && errno != EEXIST)
					die("make \"%s\"", copy);
				if (known) {
					fchownat(parent, at, old.st_uid, old.st_gid, 0);
					fchmodat(parent, at, old.st_mode & 07777, 0);
				}
			} else {
				int made = openat(parent, at, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
				if (made < 0)
					die("make \"%s\"", copy);
				close(made);
			}
			if (!slash)
				break;
			int next = openat(parent, at, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			if (next < 0)
				die("open \"%s\"", copy);
			close(parent);
			parent = next;
			*slash = '/';
			at = slash + 1;
		}
		close(parent);
	}
}

/* A detached read-only mount of one mount of the host. */
static int layer(int work, size_t index, const struct mount_op *op)
{
	uint64_t attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV;
	if (!op->place_count) {
		int tree = sys_clone_tree(AT_FDCWD, op->source, false);
		if (tree < 0 || sys_set_attributes(tree, attributes, false) < 0)
			die("clone \"%s\"", op->source);
		return tree;
	}
	char name[32], lower[64];
	snprintf(name, sizeof(name), "places-%zu", index);
	struct stat host;
	if (stat(op->source, &host) < 0 || mkdirat(work, name, 0755) < 0)
		die("make places on \"%s\"", op->source);
	int top = openat(work, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int below = open(op->source, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (top < 0 || below < 0)
		die("open \"%s\"", op->source);
	fchmod(top, host.st_mode & 07777);
	make_places(top, op);
	/* No upper folder: the result cannot be written by anybody. Descriptors need no escaping of ':' and ','. */
	snprintf(lower, sizeof(lower), "/proc/self/fd/%d:/proc/self/fd/%d", top, below);
	int fs = open_fs("overlay");
	set_option(fs, "lowerdir", lower, "overlay");
	int mount = finish_fs(fs, "overlay", attributes);
	close(top);
	close(below);
	return mount;
}

static void make_dev(int root)
{
	static const struct {
		const char *name;
		int major, minor;
	} nodes[] = { { "null", 1, 3 },	  { "zero", 1, 5 },    { "full", 1, 7 },
		      { "random", 1, 8 }, { "urandom", 1, 9 }, { "tty", 5, 0 } };
	static const char *const links[][2] = { { "/proc/self/fd", "fd" },
						{ "/proc/self/fd/0", "stdin" },
						{ "/proc/self/fd/1", "stdout" },
						{ "/proc/self/fd/2", "stderr" },
						{ "pts/ptmx", "ptmx" } };
	int dev = new_tmpfs("65536", "755", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	for (size_t i = 0; i < sizeof(nodes) / sizeof(*nodes); i++)
		if (mknodat(dev, nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)) < 0 ||
		    fchmodat(dev, nodes[i].name, 0666, 0) < 0)
			die("make /dev/%s", nodes[i].name);
	for (size_t i = 0; i < sizeof(links) / sizeof(*links); i++)
		if (symlinkat(links[i][0], dev, links[i][1]) < 0)
			die("make /dev/%s", links[i][1]);
	if (mkdirat(dev, "pts", 0755) < 0 || mkdirat(dev, "shm", 01777) < 0 || mkdirat(dev, "mqueue", 0755) < 0)
		die("make /dev folders");
	attach(root, dev, "/dev", false);
	int fs = open_fs("devpts");
	set_option(fs, "ptmxmode", "0666", "devpts");
	set_option(fs, "mode", "0620", "devpts");
	attach(root, finish_fs(fs, "devpts", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), "/dev/pts", false);
}

static void hide(int root, const char *target)
{
	struct stat st;
	int at = open_in(root, target, O_PATH);
	if (at < 0)
		return;
	if (fstat(at, &st) < 0)
		die("look at \"%s\"", target);
	int cover;
	if (S_ISDIR(st.st_mode))
		cover = new_tmpfs("4096", "755", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	else {
		int null = open_in(root, "/dev/null", O_PATH);
		cover = null < 0 ? -1 : sys_clone_tree(null, "", false);
		close(null);
	}
	if (cover < 0 || sys_move_mount(cover, at) < 0)
		die("hide \"%s\"", target);
	close(cover);
	close(at);
}

static void take_writing(int root, const char *target)
{
	int at = open_in(root, target, O_PATH);
	if (at < 0)
		return;
	int tree = sys_clone_tree(at, "", true);
	if (tree < 0 || sys_set_attributes(tree, MOUNT_ATTR_RDONLY, true) < 0 || sys_move_mount(tree, at) < 0)
		die("make \"%s\" read-only", target);
	close(tree);
	close(at);
}

static int bind_source(const struct mount_op *op, bool *file)
{
	struct stat st;
	int tree = sys_clone_tree(AT_FDCWD, op->source, true);
	if (tree < 0 || fstat(tree, &st) < 0)
		die("open \"%s\"", op->source);
	*file = !S_ISDIR(st.st_mode);
	return tree;
}

/* Trees of the sandbox's mount namespace must be cloned there: a mount of another namespace is refused here. */
static void clone_shared(struct request *r, int sandbox, int *trees)
{
	bool any = false;
	for (size_t i = 0; i < r->mount_count; i++)
		any = any || r->mounts[i].kind == MOUNT_SHARED;
	if (!any)
		return;
	int own = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (own < 0 || setns(sandbox, CLONE_NEWNS) < 0)
		die("enter mount namespace of the sandbox");
	for (size_t i = 0; i < r->mount_count; i++)
		if (r->mounts[i].kind == MOUNT_SHARED) {
			trees[i] = sys_clone_tree(AT_FDCWD, r->mounts[i].source, true);
			if (trees[i] < 0)
				die("open \"%s\" of the sandbox", r->mounts[i].source);
		}
	if (setns(own, CLONE_NEWNS) < 0)
		die("return from the sandbox's mount namespace");
	close(own);
}

static void apply_mount(int root, int work, size_t index, const struct mount_op *op, int shared)
{
	const uint64_t plain = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
	const uint64_t inert = plain | MOUNT_ATTR_NOEXEC;
	bool file = false;
	int tree;
	switch (op->kind) {
	case MOUNT_LAYER:
		attach(root, layer(work, index, op), op->target, false);
		break;
	case MOUNT_SHARED:
	case MOUNT_BIND:
		tree = op->kind == MOUNT_BIND ? bind_source(op, &file) : shared;
		if (sys_set_attributes(tree, plain | (op->readonly ? MOUNT_ATTR_RDONLY : 0), true) < 0)
			die("set attributes of \"%s\"", op->target);
		attach(root, tree, op->target, file);
		break;
	case MOUNT_TMPFS:
		attach(root, new_tmpfs(op->size, op->mode, plain), op->target, false);
		break;
	case MOUNT_PROC:
		attach(root, finish_fs(open_fs("proc"), "proc", inert), op->target, false);
		break;
	case MOUNT_SYSFS:
		attach(root, finish_fs(open_fs("sysfs"), "sysfs", inert | (op->readonly ? MOUNT_ATTR_RDONLY : 0)), op->target,
		       false);
		break;
	case MOUNT_DEV:
		make_dev(root);
		break;
	case MOUNT_MQUEUE:
		attach(root, finish_fs(open_fs("mqueue"), "mqueue", inert), op->target, false);
		break;
	case MOUNT_MASK:
		hide(root, op->target);
		break;
	case MOUNT_READONLY:
		take_writing(root, op->target);
		break;
	}
}

/* Runs in the child: a mount namespace of its own whose root is what the request lists. */
static void build_view(struct request *r, int sandbox)
{
	char work_path[4096];
	int *shared = calloc(r->mount_count + 1, sizeof(int));
	if (!shared)
		die("allocate memory");
	if (!r->mount_count || r->mounts[0].kind != MOUNT_LAYER || strcmp(r->mounts[0].source, "/")) {
		errno = EINVAL;
		die("read request: the first mount must be the layer \"/\"");
	}
	clone_shared(r, sandbox, shared);
	if (unshare(CLONE_NEWNS) < 0)
		die("create mount namespace");
	if (mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		die("make mounts private");
	snprintf(work_path, sizeof(work_path), "%s/mnt", r->dir);
	if (mount("portolan", work_path, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=700") < 0)
		die("mount \"%s\"", work_path);
	int work = open(work_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (work < 0 || mkdirat(work, "root", 0755) < 0)
		die("make the new root");
	int base = openat(work, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int first = layer(work, 0, &r->mounts[0]);
	if (base < 0 || sys_move_mount(first, base) < 0)
		die("attach the new root");
	close(base);
	close(first);
	int root = openat(work, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		die("open the new root");
	for (size_t i = 1; i < r->mount_count; i++) {
		need(r->mounts[i].target, "target");
		apply_mount(root, work, i, &r->mounts[i], shared[i]);
	}
	if (fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		die("change to the new root");
	close(root);
	close(work);
	free(shared);
}

#endif
