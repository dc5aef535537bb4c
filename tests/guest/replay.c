/*
 * A loader object that leaves a guest which was recorded before: host0:/memory is copied to guest address 0 on,
 * host0:/calls is a list of { kind, number, value, size } of 8 bytes each: the register callbacks.
 */
#include "userboot_abi.h"

enum { SETREG, SETMSR, SETCR, SETGDT, EXEC };
struct call {
	uint64_t kind, number, value, size;
};
static unsigned char buffer[1 << 16];
static char heap[64 << 20];

void
loader_main(struct callbacks *cb, void *arg, int version, int ndisks)
{
	struct call *call = (struct call *)(void *)buffer;
	uint64_t to = 0;
	size_t resid;
	void *file;

	heap[0] = version + ndisks;
	if (cb->open(arg, "/memory", &file) != 0)
		cb->exit(arg, 21);
	do {
		if (cb->read(arg, file, buffer, sizeof(buffer), &resid) != 0)
			cb->exit(arg, 22);
		if (cb->copyin(arg, buffer, to, sizeof(buffer) - resid) != 0)
			cb->exit(arg, 23);
		to += sizeof(buffer) - resid;
	} while (resid != sizeof(buffer));
	if (cb->open(arg, "/calls", &file) != 0)
		cb->exit(arg, 24);
	cb->read(arg, file, buffer, sizeof(buffer), &resid);
	for (; call < (struct call *)(void *)(buffer + sizeof(buffer) - resid); call++)
		switch (call->kind) {
		case SETREG:
			cb->setreg(arg, (int)call->number, call->value);
			break;
		case SETMSR:
			cb->setmsr(arg, (int)call->number, call->value);
			break;
		case SETCR:
			cb->setcr(arg, (int)call->number, call->value);
			break;
		case SETGDT:
			cb->setgdt(arg, call->value, call->size);
			break;
		case EXEC:
			cb->exec(arg, call->value);
		}
	cb->exit(arg, 25);
}
