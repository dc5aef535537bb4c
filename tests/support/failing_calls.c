/*
 * LD_PRELOAD: the call number FAIL_AT of those below fails with FAIL_ERRNO, counted from the opening of a file whose
 * path contains FAIL_FROM.  A process and its children count on their own; FAIL_LOG is a file of two words: how many
 * calls failed, and the highest number that was reached.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static long at = -1, count;
static int number, on;
static const char *from;
static volatile long *shared;

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void)
{
	const char *log = getenv("FAIL_LOG");

	from = getenv("FAIL_FROM");
	if (log == NULL || from == NULL || getenv("FAIL_AT") == NULL || getenv("FAIL_ERRNO") == NULL)
		return;
	int fd = REAL(open)(log, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	void *map = REAL(mmap)(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	REAL(close)(fd);
	if (map == MAP_FAILED)
		return;
	shared = map;
	at = atol(getenv("FAIL_AT"));
	number = atoi(getenv("FAIL_ERRNO"));
}

static int fails(void)
{
	if (!on)
		return 0;
	long mine = count++;
	if (mine > shared[1])
		shared[1] = mine;
	if (mine != at)
		return 0;
	shared[0]++;
	errno = number;
	return 1;
}

static void opened(const char *path)
{
	if (shared != NULL && !on && strstr(path, from) != NULL)
		on = 1;
}

#define MODE(flags) \
	mode_t mode = 0; \
	if ((flags) & (O_CREAT | O_TMPFILE)) { \
		va_list rest; \
		va_start(rest, flags); \
		mode = va_arg(rest, mode_t); \
		va_end(rest); \
	}

#define OPEN(name) \
	int name(const char *path, int flags, ...) \
	{ \
		MODE(flags) \
		opened(path); \
		return fails() ? -1 : REAL(name)(path, flags, mode); \
	}
#define OPENAT(name) \
	int name(int folder, const char *path, int flags, ...) \
	{ \
		MODE(flags) \
		opened(path); \
		return fails() ? -1 : REAL(name)(folder, path, flags, mode); \
	}
#define CALL(type, name, bad, parameters, ...) \
	type name parameters \
	{ \
		return fails() ? (bad) : REAL(name)(__VA_ARGS__); \
	}

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
CALL(ssize_t, read, -1, (int fd, void *to, size_t size), fd, to, size)
CALL(ssize_t, pread, -1, (int fd, void *to, size_t size, off_t place), fd, to, size, place)
CALL(ssize_t, pread64, -1, (int fd, void *to, size_t size, off64_t place), fd, to, size, place)
CALL(ssize_t, write, -1, (int fd, const void *data, size_t size), fd, data, size)
CALL(ssize_t, pwrite, -1, (int fd, const void *data, size_t size, off_t place), fd, data, size, place)
CALL(ssize_t, pwrite64, -1, (int fd, const void *data, size_t size, off64_t place), fd, data, size, place)
CALL(ssize_t, pwritev, -1, (int fd, const struct iovec *data, int n, off_t place), fd, data, n, place)
CALL(ssize_t, pwritev64, -1, (int fd, const struct iovec *data, int n, off64_t place), fd, data, n, place)
CALL(ssize_t, pwritev2, -1, (int fd, const struct iovec *data, int n, off_t place, int flags), fd, data, n, place, flags)
CALL(ssize_t, pwritev64v2, -1, (int fd, const struct iovec *data, int n, off64_t place, int flags), fd, data, n, place,
    flags)
CALL(int, ftruncate, -1, (int fd, off_t size), fd, size)
CALL(int, ftruncate64, -1, (int fd, off64_t size), fd, size)
CALL(off_t, lseek, -1, (int fd, off_t place, int whence), fd, place, whence)
CALL(off64_t, lseek64, -1, (int fd, off64_t place, int whence), fd, place, whence)
CALL(void *, mmap, MAP_FAILED, (void *where, size_t size, int rights, int flags, int fd, off_t place), where, size, rights,
    flags, fd, place)
CALL(void *, mmap64, MAP_FAILED, (void *where, size_t size, int rights, int flags, int fd, off64_t place), where, size,
    rights, flags, fd, place)
CALL(int, fstat, -1, (int fd, struct stat *status), fd, status)
CALL(int, fstat64, -1, (int fd, struct stat64 *status), fd, status)
CALL(int, stat, -1, (const char *path, struct stat *status), path, status)
CALL(int, stat64, -1, (const char *path, struct stat64 *status), path, status)
CALL(int, lstat, -1, (const char *path, struct stat *status), path, status)
CALL(int, lstat64, -1, (const char *path, struct stat64 *status), path, status)
CALL(int, rename, -1, (const char *old, const char *new), old, new)
CALL(int, linkat, -1, (int one, const char *old, int other, const char *new, int flags), one, old, other, new, flags)
CALL(int, unlink, -1, (const char *path), path)
CALL(int, mkdir, -1, (const char *path, mode_t mode), path, mode)
CALL(int, flock, -1, (int fd, int operation), fd, operation)
CALL(int, pipe, -1, (int ends[2]), ends)
CALL(int, pipe2, -1, (int ends[2], int flags), ends, flags)
CALL(int, poll, -1, (struct pollfd *set, nfds_t n, int timeout), set, n, timeout)
CALL(pid_t, fork, -1, (void), )
