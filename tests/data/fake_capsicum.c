/*
 * A stand-in for calls of FreeBSD's libc: cap_enter(2), cap_rights_limit(2), cap_ioctls_limit(2), cap_getmode(2),
 * catopen(3), procctl(2), sysctl(3) of kern.proc.pid.  What was asked for is kept; fail_on() makes one fail.
 *
 * For whole programs (LD_PRELOAD): it is appended to the file CAPSICUM_STANDIN; CAPSICUM_STANDIN_FAIL=FUNCTION makes one
 * fail with ENOSYS.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef struct { uint64_t cr_rights[2]; } cap_rights_t;	/* sys/sys/_types/cap_rights.h */

static char text[4096], failing[64];
static int failure;

const char *trace(void) { return text; }
void forget(void) { text[0] = failing[0] = 0; }
void fail_on(const char *function, int error) { strcpy(failing, function); failure = error; }

static int result(const char *function)
{
	const char *fail = getenv("CAPSICUM_STANDIN_FAIL");

	if (fail != NULL && strcmp(function, fail) == 0) {
		errno = ENOSYS;
		return -1;
	}
	if (strcmp(function, failing) != 0)
		return 0;
	errno = failure;
	return -1;
}

static int note(const char *function, const char *format, ...)
{
	size_t start = strlen(text), used = start;
	const char *path = getenv("CAPSICUM_STANDIN");
	va_list list;
	int fd;

	used += snprintf(text + used, sizeof(text) - used, "%s", function);
	va_start(list, format);
	used += vsnprintf(text + used, sizeof(text) - used, format, list);
	va_end(list);
	snprintf(text + used, sizeof(text) - used, "\n");
	if (path != NULL) {
		fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
		if (fd >= 0 && write(fd, text + start, strlen(text + start)) < 0)
			abort();
		close(fd);
		text[0] = 0;
	}
	return result(function);
}

int cap_rights_limit(int fd, const cap_rights_t *rights)
{
	/* CAPVER 0, index bits as cap_rights_is_valid(3) wants them */
	if (rights->cr_rights[0] >> 57 != 1 || rights->cr_rights[1] >> 57 != 2) {
		errno = EINVAL;
		return -1;
	}
	return note("cap_rights_limit", " %d %#lx %#lx", fd, (unsigned long)rights->cr_rights[0] & ((1UL << 57) - 1),
	    (unsigned long)rights->cr_rights[1] & ((1UL << 57) - 1));
}

int cap_ioctls_limit(int fd, const unsigned long *commands, size_t count)
{
	return note("cap_ioctls_limit", " %d %zu %#lx %#lx %#lx", fd, count, commands[0], commands[1], commands[2]);
}

int cap_enter(void) { return note("cap_enter", ""); }

int cap_getmode(unsigned int *mode)
{
	*mode = 0;
	return result("cap_getmode");
}

void *catopen(const char *name, int flag)
{
	note("catopen", " %s %d", name, flag);
	return (void *)-1;
}

int procctl(int type, int64_t id, int command, void *data)
{
	return note("procctl", " %d %ld %d %d", type, (long)id, command, *(int *)data);
}

/* Of struct kinfo_proc (sys/sys/user.h, amd64): ki_structsize, ki_pid, ki_size. */
int sysctl(const int *name, unsigned int length, void *old, size_t *size, const void *new, size_t new_size)
{
	FILE *statm = fopen("/proc/self/statm", "r");
	unsigned long pages = 0;
	const int asked[] = { 1, 14, 1, getpid() };

	if (statm == NULL || fscanf(statm, "%lu", &pages) != 1)
		abort();
	fclose(statm);
	if (length != 4 || memcmp(name, asked, sizeof(asked)) != 0 || *size < 1088 || new != NULL || new_size != 0) {
		errno = EINVAL;
		return -1;
	}
	*size = 1088;
	memset(old, 0, 1088);
	*(int *)old = 1088;
	*(int *)((char *)old + 72) = getpid();
	*(uint64_t *)((char *)old + 256) = pages * sysconf(_SC_PAGESIZE);
	return result("sysctl");
}
