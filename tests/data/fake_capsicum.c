/*
 * A stand-in for the three calls of FreeBSD's libc: cap_enter(2), cap_rights_limit(2), cap_getmode(2).  What was asked
 * for is kept; fail_on() makes one fail.
 */
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
	if (strcmp(function, failing) != 0)
		return 0;
	errno = failure;
	return -1;
}

int cap_rights_limit(int fd, const cap_rights_t *rights)
{
	size_t used = strlen(text);

	/* CAPVER 0, index bits as cap_rights_is_valid(3) wants them */
	if (rights->cr_rights[0] >> 57 != 1 || rights->cr_rights[1] >> 57 != 2) {
		errno = EINVAL;
		return -1;
	}
	snprintf(text + used, sizeof(text) - used, "cap_rights_limit %d %#lx %#lx\n", fd,
	    (unsigned long)rights->cr_rights[0] & ((1UL << 57) - 1), (unsigned long)rights->cr_rights[1] & ((1UL << 57) - 1));
	return result("cap_rights_limit");
}

int cap_enter(void)
{
	strcat(text, "cap_enter\n");
	return result("cap_enter");
}
