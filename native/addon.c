// SPDX-License-Identifier: Apache-2.0
/*
 * The Node addon: system calls and nothing else. It needs no C library, no header of Node's and no node-gyp, so
 * one `clang -nostdlib -shared` builds it for either CPU and the result loads in every Node with N-API 8.
 *
 *   call(nr, ...six)              raw system call; the result is the value or -errno
 *   callInNetns(nsFd, nr, ...six) the same with this thread inside another network namespace
 *   address(buffer)               where a buffer's bytes are, as bigint
 *   view(address, length)         an ArrayBuffer over memory that the kernel mapped
 *   pollStart(fd, events, callback) / pollStop(handle) / pollUnref(handle)
 *                                 a foreign descriptor on Node's event loop (events: 1 readable, 2 writable)
 *   trimMalloc()                  glibc's malloc_trim: 1 when it gave pages back, -ENOSYS where there is none (musl)
 *
 * Arguments are numbers, bigints, or buffers; a buffer stands for the address of its first byte and must stay
 * referenced by the caller for as long as the kernel may use that address.
 */
#include "syscall.h"

typedef unsigned long size;
typedef struct napi_env_ *napi_env;
typedef struct napi_value_ *napi_value;
typedef struct napi_info_ *napi_info;
typedef struct napi_ref_ *napi_ref;
typedef struct napi_scope_ *napi_scope;
typedef struct napi_async_ *napi_async;
typedef napi_value (*napi_function)(napi_env, napi_info);

/* enum napi_valuetype, js_native_api_types.h */
enum { NAPI_NUMBER = 3, NAPI_OBJECT = 6, NAPI_BIGINT = 9 };

/* js_native_api.h and node_api.h, N-API version 8 */
extern int napi_get_cb_info(napi_env, napi_info, size *, napi_value *, napi_value *, void **);
extern int napi_typeof(napi_env, napi_value, int *);
extern int napi_get_value_int64(napi_env, napi_value, long long *);
extern int napi_get_value_bigint_uint64(napi_env, napi_value, unsigned long long *, unsigned char *);
extern int napi_is_typedarray(napi_env, napi_value, unsigned char *);
extern int napi_get_typedarray_info(napi_env, napi_value, int *, size *, void **, napi_value *, size *);
extern int napi_is_arraybuffer(napi_env, napi_value, unsigned char *);
extern int napi_get_arraybuffer_info(napi_env, napi_value, void **, size *);
extern int napi_is_dataview(napi_env, napi_value, unsigned char *);
extern int napi_get_dataview_info(napi_env, napi_value, size *, void **, napi_value *, size *);
extern int napi_create_int64(napi_env, long long, napi_value *);
extern int napi_create_bigint_uint64(napi_env, unsigned long long, napi_value *);
extern int napi_create_external_arraybuffer(napi_env, void *, size, void *, void *, napi_value *);
extern int napi_create_function(napi_env, const char *, size, napi_function, void *, napi_value *);
extern int napi_set_named_property(napi_env, napi_value, const char *, napi_value);
extern int napi_create_reference(napi_env, napi_value, unsigned, napi_ref *);
extern int napi_delete_reference(napi_env, napi_ref);
extern int napi_get_reference_value(napi_env, napi_ref, napi_value *);
extern int napi_open_handle_scope(napi_env, napi_scope *);
extern int napi_close_handle_scope(napi_env, napi_scope);
extern int napi_get_global(napi_env, napi_value *);
extern int napi_make_callback(napi_env, napi_async, napi_value, napi_value, size, napi_value *, napi_value *);
extern int napi_async_init(napi_env, napi_value, napi_value, napi_async *);
extern int napi_async_destroy(napi_env, napi_async);
extern int napi_create_string_utf8(napi_env, const char *, size, napi_value *);
extern int napi_create_external(napi_env, void *, void *, void *, napi_value *);
extern int napi_get_value_external(napi_env, napi_value, void **);
extern int napi_get_uv_event_loop(napi_env, void **);
extern int napi_throw_error(napi_env, const char *, const char *);
extern int napi_add_env_cleanup_hook(napi_env, void (*)(void *), void *);
extern int napi_remove_env_cleanup_hook(napi_env, void (*)(void *), void *);

/* uv.h; UV_POLL is number 8 of uv_handle_type */
enum { UV_POLL = 8 };
extern int uv_poll_init(void *, void *, int);
extern int uv_poll_start(void *, int, void (*)(void *, int, int));
extern int uv_poll_stop(void *);
extern void uv_close(void *, void (*)(void *));
extern void uv_unref(void *);
extern size uv_handle_size(int);
extern void *uv_handle_get_data(void *);
extern void uv_handle_set_data(void *, void *);

extern void *calloc(size, size);
extern void free(void *);
/* malloc.h of glibc; absent elsewhere */
extern int malloc_trim(size) __attribute__((weak));

#define CLONE_NEWNET 0x40000000
#define O_CLOEXEC 02000000
#define AT_FDCWD -100
#define SIGABRT 6
#define ENOSYS 38
#define AUTO_LENGTH ((size)-1)

static napi_value throw(napi_env env, const char *message)
{
	napi_throw_error(env, "ERR_PORTOLAN_ADDON", message);
	return 0;
}

/* What an argument means to the kernel: a number as it is, a buffer as the address of its bytes. */
static long as_word(napi_env env, napi_value value, unsigned char *ok)
{
	int type = 0;
	unsigned char is = 0;
	void *data = 0;
	size length;

	*ok = 1;
	napi_typeof(env, value, &type);
	if (type == NAPI_NUMBER) {
		long long number = 0;

		napi_get_value_int64(env, value, &number);
		return number;
	}
	if (type == NAPI_BIGINT) {
		unsigned long long number = 0;

		napi_get_value_bigint_uint64(env, value, &number, &is);
		return (long)number;
	}
	if (type == NAPI_OBJECT) {
		napi_is_typedarray(env, value, &is);
		if (is) {
			napi_get_typedarray_info(env, value, 0, 0, &data, 0, 0);
			return (long)data;
		}
		napi_is_dataview(env, value, &is);
		if (is) {
			napi_get_dataview_info(env, value, 0, &data, 0, 0);
			return (long)data;
		}
		napi_is_arraybuffer(env, value, &is);
		if (is) {
			napi_get_arraybuffer_info(env, value, &data, &length);
			return (long)data;
		}
	}
	*ok = 0;
	return 0;
}

enum { MOST_ARGUMENTS = 8 };

/* Reads up to `most` arguments as machine words, the rest as 0; false when one is of no usable type. */
static int words(napi_env env, napi_info info, long *word, size most)
{
	napi_value argument[MOST_ARGUMENTS];
	size count = most;
	unsigned char ok;

	for (size i = 0; i < most; i++)
		word[i] = 0;
	napi_get_cb_info(env, info, &count, argument, 0, 0);
	if (count > most)
		count = most;
	for (size i = 0; i < count; i++) {
		word[i] = as_word(env, argument[i], &ok);
		if (!ok)
			return 0;
	}
	return 1;
}

static napi_value result_of(napi_env env, long result)
{
	napi_value value = 0;

	napi_create_int64(env, result, &value);
	return value;
}

static napi_value call(napi_env env, napi_info info)
{
	long w[7];

	if (!words(env, info, w, 7))
		return throw(env, "call: arguments are numbers, bigints or buffers");
	return result_of(env, raw_syscall(w[0], w[1], w[2], w[3], w[4], w[5], w[6]));
}

/*
 * setns moves this thread alone, and no JavaScript runs between the two moves, so the main thread may do it. A
 * thread that could not come home would do all later work in the wrong namespace: rather none.
 */
static napi_value call_in_netns(napi_env env, napi_info info)
{
	static const char own_path[] = "/proc/thread-self/ns/net";
	long w[8], own, result;

	if (!words(env, info, w, 8))
		return throw(env, "callInNetns: arguments are numbers, bigints or buffers");
	own = raw_syscall(NR_OPENAT, AT_FDCWD, (long)own_path, O_CLOEXEC, 0, 0, 0);
	if (own < 0)
		return result_of(env, own);
	result = raw_syscall(NR_SETNS, w[0], CLONE_NEWNET, 0, 0, 0, 0);
	if (result == 0) {
		result = raw_syscall(w[1], w[2], w[3], w[4], w[5], w[6], w[7]);
		if (raw_syscall(NR_SETNS, own, CLONE_NEWNET, 0, 0, 0, 0))
			raw_syscall(NR_KILL, raw_syscall(NR_GETPID, 0, 0, 0, 0, 0, 0), SIGABRT, 0, 0, 0, 0);
	}
	raw_syscall(NR_CLOSE, own, 0, 0, 0, 0, 0);
	return result_of(env, result);
}

static napi_value address(napi_env env, napi_info info)
{
	napi_value value = 0;
	long w[1];

	if (!words(env, info, w, 1))
		return throw(env, "address: the argument is a buffer");
	napi_create_bigint_uint64(env, (unsigned long long)w[0], &value);
	return value;
}

static napi_value view(napi_env env, napi_info info)
{
	napi_value value = 0;
	long w[2];

	if (!words(env, info, w, 2) || w[0] == 0)
		return throw(env, "view: arguments are an address and a length");
	if (napi_create_external_arraybuffer(env, (void *)w[0], (size)w[1], 0, 0, &value))
		return throw(env, "view: this Node refuses external array buffers");
	return value;
}

static napi_value trim_malloc(napi_env env, napi_info info)
{
	(void)info;
	return result_of(env, malloc_trim ? malloc_trim(0) : -ENOSYS);
}

struct poll {
	napi_env env;
	napi_ref callback;
	napi_async context;
	void *handle;
	int closing;
};

static void poll_event(void *handle, int status, int events)
{
	struct poll *poll = uv_handle_get_data(handle);
	napi_value callback, global, argument[2], ignored;
	napi_scope scope;

	napi_open_handle_scope(poll->env, &scope);
	napi_get_reference_value(poll->env, poll->callback, &callback);
	napi_get_global(poll->env, &global);
	napi_create_int64(poll->env, status, &argument[0]);
	napi_create_int64(poll->env, events, &argument[1]);
	napi_make_callback(poll->env, poll->context, global, callback, 2, argument, &ignored);
	napi_close_handle_scope(poll->env, scope);
}

static void poll_closed(void *handle)
{
	struct poll *poll = uv_handle_get_data(handle);

	free(handle);
	free(poll);
}

static void poll_close(void *data)
{
	struct poll *poll = data;

	if (poll->closing)
		return;
	poll->closing = 1;
	uv_poll_stop(poll->handle);
	napi_delete_reference(poll->env, poll->callback);
	napi_async_destroy(poll->env, poll->context);
	uv_close(poll->handle, poll_closed);
}

static napi_value poll_start(napi_env env, napi_info info)
{
	napi_value argument[3], name, external;
	size count = 3;
	unsigned char ok;
	struct poll *poll;
	void *loop;
	long fd, events;

	napi_get_cb_info(env, info, &count, argument, 0, 0);
	if (count != 3)
		return throw(env, "pollStart: arguments are fd, events, callback");
	fd = as_word(env, argument[0], &ok);
	events = as_word(env, argument[1], &ok);
	poll = calloc(1, sizeof(*poll));
	if (!poll)
		return throw(env, "pollStart: out of memory");
	poll->handle = calloc(1, uv_handle_size(UV_POLL));
	poll->env = env;
	napi_get_uv_event_loop(env, &loop);
	if (!poll->handle || uv_poll_init(loop, poll->handle, (int)fd)) {
		free(poll->handle);
		free(poll);
		return throw(env, "pollStart: this descriptor cannot be polled");
	}
	uv_handle_set_data(poll->handle, poll);
	napi_create_reference(env, argument[2], 1, &poll->callback);
	napi_create_string_utf8(env, "portolan:poll", AUTO_LENGTH, &name);
	napi_async_init(env, 0, name, &poll->context);
	uv_poll_start(poll->handle, (int)events, poll_event);
	napi_add_env_cleanup_hook(env, poll_close, poll);
	napi_create_external(env, poll, 0, 0, &external);
	return external;
}

static struct poll *poll_argument(napi_env env, napi_info info)
{
	napi_value argument;
	size count = 1;
	void *poll = 0;

	napi_get_cb_info(env, info, &count, &argument, 0, 0);
	napi_get_value_external(env, argument, &poll);
	return poll;
}

static napi_value poll_stop(napi_env env, napi_info info)
{
	struct poll *poll = poll_argument(env, info);

	if (!poll)
		return throw(env, "pollStop: the argument is a handle of pollStart");
	napi_remove_env_cleanup_hook(env, poll_close, poll);
	poll_close(poll);
	return 0;
}

static napi_value poll_unref(napi_env env, napi_info info)
{
	struct poll *poll = poll_argument(env, info);

	if (!poll)
		return throw(env, "pollUnref: the argument is a handle of pollStart");
	uv_unref(poll->handle);
	return 0;
}

static void define(napi_env env, napi_value exports, const char *name, napi_function function)
{
	napi_value value;

	napi_create_function(env, name, AUTO_LENGTH, function, 0, &value);
	napi_set_named_property(env, exports, name, value);
}

__attribute__((visibility("default"))) int node_api_module_get_api_version_v1(void)
{
	return 8;
}

__attribute__((visibility("default"))) napi_value napi_register_module_v1(napi_env env, napi_value exports)
{
	define(env, exports, "call", call);
	define(env, exports, "callInNetns", call_in_netns);
	define(env, exports, "address", address);
	define(env, exports, "view", view);
	define(env, exports, "pollStart", poll_start);
	define(env, exports, "pollStop", poll_stop);
	define(env, exports, "pollUnref", poll_unref);
	define(env, exports, "trimMalloc", trim_malloc);
	return exports;
}
