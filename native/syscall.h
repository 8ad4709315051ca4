/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One raw system call for x86_64 and arm64, without a C library: the result is the value or -errno.
 * Calling conventions: syscall(2), section "Architecture calling conventions".
 */
#ifndef PORTOLAN_SYSCALL_H
#define PORTOLAN_SYSCALL_H

#if defined(__x86_64__)

enum {
	NR_READ = 0, NR_WRITE = 1, NR_CLOSE = 3, NR_GETPID = 39, NR_SOCKET = 41, NR_CONNECT = 42,
	NR_SHUTDOWN = 48, NR_EXIT = 60, NR_KILL = 62, NR_OPENAT = 257, NR_SETNS = 308,
};

static inline long raw_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

#elif defined(__aarch64__)

enum {
	NR_READ = 63, NR_WRITE = 64, NR_CLOSE = 57, NR_GETPID = 172, NR_SOCKET = 198, NR_CONNECT = 203,
	NR_SHUTDOWN = 210, NR_EXIT = 93, NR_KILL = 129, NR_OPENAT = 56, NR_SETNS = 268,
};

static inline long raw_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
}

#else
#error "Portolan builds for x86_64 and arm64"
#endif

#endif
