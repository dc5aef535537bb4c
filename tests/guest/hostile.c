/*
 * A loader object that attacks its host with instructions of its own: raw system calls past the callbacks.
 *
 * The first `do=` variable of getenv says what; a result is reported over putc as `result N`.
 *   do=call:NR:A:B:C:D     syscall instruction; a number, or @ for a page of its own, or P for the string "/etc/passwd"
 *   do=int80:NR:A          the 32-bit entry of the same kernel
 *   do=jump-data           execute bytes in its own data
 *   do=poke                write to an address it was never given
 */
#include "userboot_abi.h"

static struct callbacks *cb;
static void *arg;
static unsigned char page[8192] __attribute__((aligned(4096))) = { 0xc3 };
static const char passwd[] = "/etc/passwd";

static void
say(const char *text)
{
	while (*text != '\0')
		cb->putc(arg, *text++);
}

static void
result(long value)
{
	char digits[24];
	int i = 23, negative = value < 0;
	unsigned long left = negative ? -(unsigned long)value : (unsigned long)value;

	digits[i] = '\0';
	do
		digits[--i] = '0' + left % 10;
	while ((left /= 10) != 0);
	if (negative)
		digits[--i] = '-';
	say("result ");
	say(digits + i);
	say("\n");
}

static long
call(long number, long a, long b, long c, long d)
{
	long value;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = 0;
	register long r9 __asm__("r9") = 0;

	__asm__ volatile("syscall" : "=a"(value) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
	    : "rcx", "r11", "memory");
	return (value);
}

static long
int80(long number, long a)
{
	long value;

	__asm__ volatile("int $0x80" : "=a"(value) : "a"(number), "b"(a) : "memory");
	return (value);
}

static const char *
next(const char *text, long *value)
{
	int negative = 0;

	*value = 0;
	if (*text == '\0')
		return (text);
	if (*text == '@') {
		*value = (long)page;
		text++;
	} else if (*text == 'P') {
		*value = (long)passwd;
		text++;
	} else {
		if (*text == '-') {
			negative = 1;
			text++;
		}
		while (*text >= '0' && *text <= '9')
			*value = *value * 10 + *text++ - '0';
	}
	if (negative)
		*value = -*value;
	return (*text == ':' ? text + 1 : text);
}

static int
starts(const char *text, const char *with)
{
	while (*with != '\0')
		if (*text++ != *with++)
			return (0);
	return (1);
}

void
loader_main(struct callbacks *callbacks, void *argument, int version, int ndisks)
{
	const char *what;
	long n[5];
	int i;

	(void)version;
	(void)ndisks;
	cb = callbacks;
	arg = argument;
	for (i = 0; (what = cb->getenv(arg, i)) != NULL; i++)
		if (starts(what, "do="))
			break;
	if (what == NULL)
		cb->exit(arg, 9);
	what += 3;
	say("hostile\n");
	if (starts(what, "call:") || starts(what, "int80:")) {
		const char *at = what + (what[0] == 'c' ? 5 : 6);

		for (i = 0; i < 5; i++)
			at = next(at, &n[i]);
		result(what[0] == 'c' ? call(n[0], n[1], n[2], n[3], n[4]) : int80(n[0], n[1]));
	} else if (starts(what, "jump-data")) {
		((void (*)(void))(void *)page)();
		say("result 0\n");
	} else if (starts(what, "poke"))
		*(volatile long *)0x123456789000 = 1;
	cb->exit(arg, 0);
}
