/*
 * A loader object that tests its host: every callback with good and bad arguments, results checked here and reported
 * over putc as `ok NAME` or `FAIL NAME got X want Y`.  Built -shared -nostdlib; the test sets EI_OSABI to FreeBSD.
 *
 * What to do is the first `do=` variable of getenv:
 *   do=all        every check, then exec; do=boot: exec at once
 *   do=segv, do=say-and-crash, do=illegal, do=loop, do=spin, do=return, do=quit, do=reboot, do=exitN, do=getc, do=deep, do=i386,
 *   do=rodata, do=relro, do=data-is-no-program, do=swap:NAME, do=swapnull, do=setreg, do=setmsr, do=setcr,
 *   do=open-passwd, do=new-program, do=kill-parent, do=close-all (system calls of its own),
 *   do=say-and-loop, do=variables, do=reboot-once (disk 0 remembers), do=chat (asks for a line, says it),
 *   do=abort (WITH_ABORT), do=nulls, do=partial, do=version, do=bench:KIND:COUNT:SIZE (p putc, r diskread, c copyin)
 * Host: disk 0 of 1 MiB (byte i of sector s is (s*7+i)&0xff), disk 1 read-only; 64 MiB of low memory; a directory
 * with `file` ("hello, loader"), `sub/`, `fifo`, and a name of 255 bytes in `sub`.
 */
#include "userboot_abi.h"

extern int64_t time(int64_t *);
extern void *memmem(const void *, size_t, const void *, size_t);
extern void abort(void);
extern void absent(void) __attribute__((weak));

#define HEAP (64u << 20)
static char heap[HEAP] __attribute__((aligned(4096)));	/* like userboot's: makes the bss large */
static struct callbacks *cb;
static void *arg;
static int failures;

#ifdef KNOWS_SWAP
const char bootprog_interp[] = "$Interpreter:lua";
#endif
static int relocated = 42;
static int *volatile relocated_pointer = &relocated;		/* R_X86_64_RELATIVE */
static const char *const words[] = { "ok ", "FAIL ", " got ", " want " };	/* the same in RELRO */
int exported = 7;						/* R_X86_64_GLOB_DAT or _64 */
int *exported_pointer = &exported;
static int initialised;

#ifdef WITH_INIT_ARRAY
__attribute__((constructor)) static void
initialise(void)
{
	initialised = 99;
}
#endif
#ifdef WITH_UNDEFINED
extern int surely_nowhere(void);
#endif

void say(const char *);						/* exported: through the PLT */
void delay(int);						/* exported, as userboot's: they show which table is used */
void exit(int);

void
delay(int usec)
{
	cb->delay(arg, usec);
}

void
exit(int code)
{
	cb->exit(arg, code);
}

void
say(const char *text)
{
	while (*text != '\0')
		cb->putc(arg, *text++);
}

static void
number(uint64_t value)
{
	char digits[17];
	int i = 16;

	digits[16] = '\0';
	do {
		digits[--i] = "0123456789abcdef"[value & 15];
		value >>= 4;
	} while (value != 0);
	say(digits + i);
}

static void
check(const char *name, uint64_t got, uint64_t want)
{
	say(words[got == want ? 0 : 1]);
	say(name);
	if (got != want) {
		failures++;
		say(words[2]);
		number(got);
		say(words[3]);
		number(want);
	}
	say("\n");
}

static size_t
length(const char *text)
{
	size_t n = 0;

	while (text[n] != '\0')
		n++;
	return (n);
}

static int
equal(const void *a, const void *b, size_t n)
{
	const char *x = a, *y = b;

	while (n-- > 0)
		if (*x++ != *y++)
			return (0);
	return (1);
}

static int
starts(const char *text, const char *with)
{
	return (equal(text, with, length(with)));
}

static void
fill(void *to, int byte, size_t n)
{
	volatile char *p = to;

	while (n-- > 0)
		*p++ = byte;
}

static void
object(void)
{
	int64_t now = 0;

	check("relocated pointer", *relocated_pointer, 42);
	check("exported symbol", *exported_pointer, 7);
	check("weak undefined symbol", (uintptr_t)absent, 0);
	check("bss is zero", heap[0] | heap[HEAP / 2] | heap[HEAP - 1], 0);
	heap[HEAP - 1] = 1;
#ifdef WITH_INIT_ARRAY
	check("initialiser ran", initialised, 99);
#else
	check("no initialiser", initialised, 0);
#endif
	check("stack alignment", (uintptr_t)__builtin_frame_address(0) & 15, 0);
	check("time", time(&now) == now && now > 1600000000, 1);
	check("time of NULL", time(NULL) >= now, 1);
	check("memmem", (char *)memmem("abcabd", 6, "abd", 3) != NULL, 1);
	check("memmem of nothing", memmem("abcabd", 6, "abe", 3) == NULL, 1);
}

static void
console(void)
{
	check("getc", cb->getc(arg), 'k');
	check("getc of 0x80", (unsigned)cb->getc(arg), (unsigned)-128);
	check("poll with input", cb->poll(arg), 1);
	check("getc last", cb->getc(arg), 'z');
	check("poll without", cb->poll(arg), 0);
	check("getc without", (unsigned)cb->getc(arg), (unsigned)-1);
	cb->putc(arg, 0x141);	/* low eight bits: A */
	say("\n");
}

static void
host_files(void)
{
#ifndef OLD_TABLE
	struct freebsd_stat st;
#endif
	void *file = NULL, *dir = NULL, *other = NULL;
	char buffer[300];
	size_t resid, namelen, i;
	uint32_t fileno;
	uint8_t type;
	int error, entries = 0, longest = 0, dots = 0;

	check("open", cb->open(arg, "/file", &file), 0);
	check("open nothing", cb->open(arg, "/nothing", &other), 2);
	check("open a fifo", cb->open(arg, "/fifo", &other), 22);
	check("open outside", cb->open(arg, "/../file", &other), 93);
	check("open NULL", cb->open(arg, NULL, &other), 14);
	check("isdir of a file", cb->isdir(arg, file), 0);
#ifdef OLD_TABLE
	int mode = 0, uid = -1, gid = -1;
	uint64_t size = 0;

	check("stat", cb->stat(arg, file, &mode, &uid, &gid, &size), 0);
	check("mode", mode, 0100640);
	check("size", size, 13);
	check("uid and gid", uid >= 0 && gid >= 0, 1);
#else
	fill(&st, 0xff, sizeof(st));
	check("stat", cb->stat(arg, file, &st), 0);
	check("st_size", st.st_size, 13);
	check("st_mode", st.st_mode, 0100640);
	check("st_mtim", st.st_mtim.tv_sec, 1234567890);
	check("st_mtim.tv_nsec", st.st_mtim.tv_nsec, 0);
	check("st_ino", st.st_ino != 0, 1);
	check("st_nlink is zero", st.st_nlink, 0);
	check("st_blksize is zero", st.st_blksize, 0);
	check("st_spare is zero", st.st_spare[8] | st.st_spare[0] | st.st_filerev | st.st_atim.tv_sec, 0);
#endif
	resid = 99;
	check("read 5", cb->read(arg, file, buffer, 5, &resid), 0);
	check("read 5 resid", resid, 0);
	check("read 5 data", equal(buffer, "hello", 5), 1);
	check("read past the end", cb->read(arg, file, buffer, 100, &resid), 0);
	check("read past the end resid", resid, 92);
	check("read at the end", cb->read(arg, file, buffer, 100, &resid), 0);
	check("read at the end resid", resid, 100);
	check("seek SET", cb->seek(arg, file, 7, 0), 0);
	check("read after SET", cb->read(arg, file, heap, 6, &resid), 0);
	check("data after SET", equal(heap, "loader", 6), 1);
	check("seek CUR back", cb->seek(arg, file, (uint64_t)-6, 1), 0);
	check("read after CUR", cb->read(arg, file, buffer, 1, &resid), 0);
	check("data after CUR", buffer[0], 'l');
	check("seek END", cb->seek(arg, file, (uint64_t)-1, 2), 0);
	check("read after END", cb->read(arg, file, buffer, 1, &resid), 0);
	check("data after END", buffer[0], 'r');
	check("seek negative", cb->seek(arg, file, (uint64_t)-1, 0), 22);
	check("seek whence", cb->seek(arg, file, 0, 77), 22);
	check("readdir of a file", cb->readdir(arg, file, &fileno, &type, &namelen, buffer), 22);
	check("close", cb->close(arg, file), 0);
	check("close twice", cb->close(arg, file), 9);
	check("read closed", cb->read(arg, file, buffer, 1, &resid), 9);
#ifndef OLD_TABLE
	check("stat of nothing", cb->stat(arg, NULL, &st), 9);
	check("stat to NULL", cb->stat(arg, file, NULL), 9);
#endif

	check("open sub", cb->open(arg, "/sub", &dir), 0);
	check("isdir", cb->isdir(arg, dir), 1);
	resid = 77;
	check("read a directory", cb->read(arg, dir, buffer, 1, &resid), 22);
	check("read a directory resid", resid, 77);
	check("seek a directory", cb->seek(arg, dir, 0, 0), 22);
	for (;;) {
		fill(buffer, 0x7e, sizeof(buffer));
		namelen = 0;
		error = cb->readdir(arg, dir, &fileno, &type, &namelen, buffer);
		if (error != 0)
			break;
		entries++;
		for (i = 256; i < sizeof(buffer); i++)
			if (buffer[i] != 0x7e)
				check("readdir beyond 256 bytes", buffer[i], 0x7e);
		if (length(buffer) != namelen)
			check("namelen", namelen, length(buffer));
		if (namelen == 255)
			longest = type;
		if (buffer[0] == '.')
			dots += type;
	}
	check("readdir ends", error, 2);
	check("entries", entries, 3);
	check("d_type of the long name", longest, 8);
	check("d_type of . and ..", dots, 8);
#ifndef OLD_TABLE
	check("stat sub", cb->stat(arg, dir, &st), 0);
	check("mode of sub", st.st_mode & 0170000, 0040000);
#endif
	check("close sub", cb->close(arg, dir), 0);
	for (i = 0; i < 70; i++) {
		error = cb->open(arg, "/file", &other);
		if (error != 0)
			break;
	}
	check("too many open files", error, 24);
}

static void
disks(void)
{
	size_t resid = 1, i;
	uint32_t sector = 0;
	int64_t media = 0;
	unsigned char small[512];
	int wrong = 0;

	check("sector size", cb->diskioctl(arg, 0, 0x40046480, &sector), 0);
	check("sector size value", sector, 512);
	check("media size", cb->diskioctl(arg, 0, 0x40086481, &media), 0);
	check("media size value", media, 1 << 20);
	check("ioctl unknown", cb->diskioctl(arg, 0, 0x1234, &media), 25);
	check("ioctl bad unit", cb->diskioctl(arg, 2, 0x40046480, &sector), 9);
	check("diskread", cb->diskread(arg, 0, 3 * 512, small, 512, &resid), 0);
	check("diskread resid", resid, 0);
	for (i = 0; i < 512; i++)
		wrong += small[i] != ((3 * 7 + i) & 0xff);
	check("diskread data on the stack", wrong, 0);
	resid = 1;
	check("diskread all", cb->diskread(arg, 0, 0, heap, 1 << 20, &resid), 0);
	check("diskread all resid", resid, 0);
	for (wrong = 0, i = 0; i < 1 << 20; i++)
		wrong += (unsigned char)heap[i] != ((i / 512 * 7 + i % 512) & 0xff);
	check("diskread all data", wrong, 0);
	check("diskread at the end", cb->diskread(arg, 0, (1 << 20) - 512, heap, 2048, &resid), 0);
	check("diskread at the end resid", resid, 1536);
	check("diskread behind", cb->diskread(arg, 0, 4 << 20, heap, 512, &resid), 0);
	check("diskread behind resid", resid, 512);
	check("diskread negative", cb->diskread(arg, 0, (uint64_t)-512, heap, 512, &resid), 22);
	check("diskread to NULL", cb->diskread(arg, 0, 0, NULL, 512, &resid), 14);
	check("diskread bad unit", cb->diskread(arg, 2, 0, heap, 512, &resid), 5);
	check("diskread unit -1", cb->diskread(arg, -1, 0, heap, 512, &resid), 5);
#ifndef OLD_TABLE
	fill(small, 0x5a, sizeof(small));
	check("diskwrite", cb->diskwrite(arg, 0, 5 * 512, small, 512, &resid), 0);
	check("diskwrite resid", resid, 0);
	check("read back", cb->diskread(arg, 0, 5 * 512, heap, 512, &resid), 0);
	check("read back data", equal(heap, small, 512), 1);
	check("diskwrite over the end", cb->diskwrite(arg, 0, (1 << 20) - 512, heap, 1024, &resid), 0);
	check("diskwrite over the end resid", resid, 512);
	check("diskwrite bad unit", cb->diskwrite(arg, 9, 0, heap, 512, &resid), 5);
	check("diskwrite read-only", cb->diskwrite(arg, 1, 0, heap, 512, &resid), 30);
	check("diskwrite huge", cb->diskwrite(arg, 0, 1 << 20, heap, (size_t)-1, &resid), 0);
	check("diskwrite huge resid", resid, (size_t)-1);
#endif
}

static void
guest_memory(void)
{
	uint64_t low = 0, high = 0, word;
	char buffer[4096];

	cb->getmem(arg, &low, &high);
	check("getmem low", low, 64 << 20);
	check("getmem high", high, 16 << 20);
	fill(buffer, 0xa5, sizeof(buffer));
	check("copyin from the stack", cb->copyin(arg, buffer, 0x1000, 4096), 0);
	fill(heap, 0x11, 8);
	check("copyin kernel virtual", cb->copyin(arg, heap, 0xffffffff80200000ull, 8), 0);
	check("copyout masked", cb->copyout(arg, 0x200000, &word, 8), 0);
	check("copyout word", word, 0x1111111111111111ull);
	fill(buffer, 0, sizeof(buffer));
	check("copyout page", cb->copyout(arg, 0x1000, buffer, 4096), 0);
	check("copyout page data", (unsigned char)buffer[0] << 8 | (unsigned char)buffer[4095], 0xa5a5);
	check("copyin last byte", cb->copyin(arg, buffer, (64 << 20) - 1, 1), 0);
	check("copyin one too far", cb->copyin(arg, buffer, (64 << 20) - 1, 2), 14);
	check("copyin in the hole", cb->copyin(arg, buffer, 0x7ffff000, 1), 14);
	check("copyin of high memory is masked", cb->copyin(arg, "H", 0x100000000ull, 1), 0);
	check("copyout of high memory is masked", cb->copyout(arg, 0, buffer, 1), 0);
	check("masked byte", buffer[0], 'H');
	check("copyin huge", cb->copyin(arg, heap, 0, (size_t)1 << 40), 14);
	check("copyin wraps", cb->copyin(arg, heap, 0x1000, (size_t)-1), 14);
	check("copyout huge", cb->copyout(arg, 0, heap, (size_t)1 << 40), 14);
	check("copyin from NULL", cb->copyin(arg, NULL, 0x1000, 8), 14);
	check("copyin of nothing", cb->copyin(arg, NULL, 0x1000, 0), 0);
}

static void
rest(int version, int ndisks)
{
	int i = 0;

#if defined(OLD_TABLE) && !defined(KNOWS_SWAP)
	check("version", version, 3);
#else
	check("version", version, 5);
#endif
	check("ndisks", ndisks, 2);
	check("arg", (uintptr_t)arg, 0);
	check("getenv 0", starts(cb->getenv(arg, 0), "boot_serial=1"), 1);
	check("getenv 1", starts(cb->getenv(arg, 1), "smbios.bios.vendor=BHYVE"), 1);
	check("getenv 2", starts(cb->getenv(arg, 2), "last=one"), 1);
	check("getenv stays", cb->getenv(arg, 2) == cb->getenv(arg, 2), 1);
	while (cb->getenv(arg, i) != NULL)
		i++;
	check("getenv ends", i, 4);
	check("getenv -1", (uintptr_t)cb->getenv(arg, -1), 0);
	delay(1000);
	delay(-5);
#ifndef OLD_TABLE
	check("vm_set_register", cb->vm_set_register(arg, 0, 0, 0xdeadbeefcafef00dull), 0);
	check("vm_set_register bad", (unsigned)cb->vm_set_register(arg, 0, 1000, 1), (unsigned)-1);
	check("vm_set_register vcpu 1", (unsigned)cb->vm_set_register(arg, 1, 0, 1), (unsigned)-1);
	check("vm_set_desc", cb->vm_set_desc(arg, 0, 30, 0x6000, 0xffffffffu, 0x93), 0);
	check("vm_set_desc bad", (unsigned)cb->vm_set_desc(arg, 0, 0, 0, 0, 0), (unsigned)-1);
#endif
}

/* A null pointer where a result belongs is an error number, not the host's end. */
static void
nulls(void)
{
	void *file = NULL, *dir = NULL;
	char buffer[300];
	size_t resid, namelen;
	uint32_t fileno;
	uint8_t type;
	uint64_t word;

	check("open to NULL", cb->open(arg, "/file", NULL), 14);
	check("open", cb->open(arg, "/file", &file), 0);
	check("open sub", cb->open(arg, "/sub", &dir), 0);
	check("close NULL", cb->close(arg, NULL), 9);
	check("isdir NULL", cb->isdir(arg, NULL), 9);
	check("read without resid", cb->read(arg, file, buffer, 5, NULL), 0);
	check("read to NULL", cb->read(arg, file, NULL, 5, &resid), 22);
	check("read NULL", cb->read(arg, NULL, buffer, 5, &resid), 9);
	check("readdir NULL", cb->readdir(arg, NULL, &fileno, &type, &namelen, buffer), 9);
	check("readdir without fileno", cb->readdir(arg, dir, NULL, &type, &namelen, buffer), 14);
	check("readdir without type", cb->readdir(arg, dir, &fileno, NULL, &namelen, buffer), 14);
	check("readdir without namelen", cb->readdir(arg, dir, &fileno, &type, NULL, buffer), 14);
	check("seek NULL", cb->seek(arg, NULL, 0, 0), 9);
	check("diskread without resid", cb->diskread(arg, 0, 0, buffer, 16, NULL), 0);
	check("ioctl to NULL", cb->diskioctl(arg, 0, 0x40046480, NULL), 14);
	check("copyout to NULL", cb->copyout(arg, 0x1000, NULL, 8), 14);
	cb->getmem(arg, NULL, &word);
	cb->getmem(arg, &word, NULL);
	cb->getmem(arg, NULL, NULL);
	check("getenv of the last int", (uintptr_t)cb->getenv(arg, 0x7fffffff), 0);
	check("getenv of the first int", (uintptr_t)cb->getenv(arg, -0x7fffffff - 1), 0);
	check("read huge", cb->read(arg, file, heap, (size_t)-1, &resid), 0);
	check("read huge resid", resid, (size_t)-1 - 8);
	check("diskread huge", cb->diskread(arg, 0, 0, heap, (size_t)-1, &resid), 0);
	check("diskread huge resid", resid, (size_t)-1 - (1 << 20));
#ifndef OLD_TABLE
	check("diskwrite without resid", cb->diskwrite(arg, 0, 0, buffer, 16, NULL), 0);
	check("diskwrite from NULL", cb->diskwrite(arg, 0, 0, NULL, 16, &resid), 14);
#endif
	say("failures ");
	number(failures);
	say("\n");
	exit(0);
}

#ifndef OLD_TABLE
static uint64_t seed;

static uint64_t
next(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed >> 11);
}

static uint64_t
odd(void)	/* a number that is likely to be special */
{
	static const uint64_t some[] = {
	    0, 1, 2, 3, 4, 5, 7, 8, 22, 31, 32, 511, 512, 4096, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
	    0xc0000080, 0x40046480, 0x40086481, 64 << 20, (64 << 20) - 1, 1 << 20, (1 << 20) - 512, (uint64_t)1 << 63,
	    (uint64_t)-1, (uint64_t)-2, (uint64_t)-512, 0x7fffffffffffffff, 0xffffffff80200000, 0x7ffff000
	};

	return (next() % 8 == 0 ? next() * next() : some[next() % (sizeof(some) / sizeof(some[0]))]);
}

/* COUNT callbacks in any order with any arguments, pointers to memory of ours or NULL; none of them ends the run. */
static void
anything(uint64_t count)
{
	static const char *const names[] = { "/file", "/sub", "/nothing", "/..", "", "/sub/../../x", "/fifo", ".", "//" };
	void *handles[4] = { NULL, (void *)-1, (void *)1, (void *)7 };
	char local[300];
	uint64_t low, high;
	uint32_t fileno;
	uint8_t type;
	size_t n;

	while (count-- > 0) {
		void *pointer = next() % 8 == 0 ? NULL : heap + next() % 4096;
		void *handle = handles[next() % 4];
		size_t *length = next() % 8 == 0 ? NULL : &n;

		switch (next() % 20) {
		case 0: cb->putc(arg, odd()); break;
		case 1: cb->poll(arg); break;
		case 2: cb->open(arg, names[next() % 9], next() % 8 ? &handles[next() % 4] : NULL); break;
		case 3: cb->close(arg, handle); break;
		case 4: cb->isdir(arg, handle); break;
		case 5: cb->read(arg, handle, pointer, odd(), length); break;
		case 6: cb->readdir(arg, handle, &fileno, next() % 8 ? &type : NULL, length, next() % 8 ? local : NULL); break;
		case 7: cb->seek(arg, handle, odd(), odd()); break;
		case 8: cb->stat(arg, handle, pointer); break;
		case 9: cb->diskread(arg, odd(), odd(), pointer, odd(), length); break;
		case 10: cb->diskwrite(arg, odd(), odd(), pointer, odd(), length); break;
		case 11: cb->copyin(arg, pointer, odd(), odd() % (next() % 64 == 0 ? 60 << 20 : 1 << 16)); break;
		case 12: cb->copyout(arg, odd(), pointer, odd() % (next() % 64 == 0 ? 60 << 20 : 1 << 16)); break;
		case 13: cb->setreg(arg, 4, odd()); break;
		case 14: cb->setcr(arg, (int[]){ 0, 3, 4 }[next() % 3], odd()); break;
		case 15: cb->setgdt(arg, odd(), odd()); break;
		case 16: cb->getmem(arg, next() % 8 ? &low : NULL, next() % 8 ? &high : NULL); break;
		case 17: cb->diskioctl(arg, odd(), odd(), pointer); break;
		case 18: cb->getenv(arg, odd()); cb->setmsr(arg, (int)0xc0000080, odd()); break;
		case 19: cb->vm_set_register(arg, odd(), odd(), odd()); cb->vm_set_desc(arg, odd(), odd(), odd(), odd(), odd());
		}
	}
	cb->setcr(arg, 3, odd());
	cb->exec(arg, odd());
}
#endif

static void
boot(void)
{
	cb->setreg(arg, 4, 0x1000);
	cb->setmsr(arg, (int)0xc0000080, 0x500);
	cb->setcr(arg, 4, 0x2020);
	cb->setcr(arg, 3, 0x2000);
	cb->setcr(arg, 0, 0x80000021);
	cb->setgdt(arg, 0x5000, 24);
	cb->exec(arg, 0xffffffff80200120ull);
	say("exec returned\n");
}

#ifndef OLD_TABLE
static void
reboot_once(void)
{
	unsigned char sector[512];
	size_t resid;

	cb->diskread(arg, 0, 0, sector, sizeof(sector), &resid);
	if (sector[0] == 0) {
		sector[0] = 1;
		cb->diskwrite(arg, 0, 0, sector, sizeof(sector), &resid);
		say("again\n");
		exit(2);
	}
	say("now\n");
	boot();
}
#endif

/* What a hostile object would do: ask the kernel by itself. */
static long
system_call(long number, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = -1;
	register long r9 __asm__("r9") = 0;
	long result;

	__asm__ volatile ("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
	    : "rcx", "r11", "memory");
	return (result);
}

static void
chat(int ndisks)
{
	int key;

	unsigned char sector[512] = { 'k' };
	size_t resid;

	say("OK ");
	while ((key = cb->getc(arg)) != '\r' && key != '\n')
		if (key != -1)
			cb->putc(arg, key);
	say("\r\n");
#ifndef OLD_TABLE
	if (ndisks > 0)	/* as nextboot does */
		cb->diskwrite(arg, 0, 0, sector, sizeof(sector), &resid);
#else
	(void)sector, (void)resid, (void)ndisks;
#endif
	boot();
}

static int
deep(int left)
{
	volatile char frame[16384];

	frame[0] = left;
	return (left == 0 ? cb->poll(arg) : deep(left - 1) + frame[0] * 0);
}

static uint64_t
decimal(const char **text)
{
	uint64_t value = 0;

	while (**text >= '0' && **text <= '9')
		value = value * 10 + *(*text)++ - '0';
	if (**text == ':')
		(*text)++;
	return (value);
}

static void
bench(const char *what)
{
	char kind = *what;
	uint64_t count, size, i;
	size_t resid;

	what += 2;
	count = decimal(&what);
	size = decimal(&what);
	for (i = 0; i < count; i++) {
		if (kind == 'p')
			cb->putc(arg, 'x');
		else if (kind == 'r')
			cb->diskread(arg, 0, i * size & ((1 << 20) - 1), heap, size, &resid);
		else if (kind == 'c')
			cb->copyin(arg, heap, 0x200000 + (i * size & ((16 << 20) - 1)), size);
	}
	cb->exit(arg, 0);
}

void
loader_main(struct callbacks *callbacks, void *argument, int version, int ndisks)
{
	const char *todo = "";
	int i;

	cb = callbacks;
	arg = argument;
	for (i = 0; (todo = cb->getenv(arg, i)) != NULL; i++)
		if (starts(todo, "do="))
			break;
	if (todo == NULL)
		return;
	todo += 3;
#ifdef DO	/* what this build does, whatever the variables say */
	todo = DO;
#endif
	if (starts(todo, "all")) {
		object();
		console();
		host_files();
		disks();
		guest_memory();
		rest(version, ndisks);
		say("failures ");
		number(failures);
		say("\n");
		boot();
	} else if (starts(todo, "nulls"))
		nulls();
#ifndef OLD_TABLE
	else if (starts(todo, "anything:")) {
		todo += 9;
		seed = decimal(&todo) * 0x9e3779b97f4a7c15ull | 1;
		anything(decimal(&todo));
	}
#endif
	else if (starts(todo, "wait-and-reboot")) {
		say("again\n");
		delay(100000);
		exit(2);
	} else if (starts(todo, "chat"))
		chat(ndisks);
	else if (starts(todo, "open-passwd"))
		exit(system_call(2, (long)"/etc/passwd", 0, 0, 0) < 0 ? 50 : 51);
	else if (starts(todo, "new-program"))	/* mmap of a page to write and execute */
		exit(system_call(9, 0, 4096, 7, 0x22) < 0 ? 50 : 51);
	else if (starts(todo, "close-all")) {	/* the report's pipe, too */
		for (i = 0; i < 64; i++)
			system_call(3, i, 0, 0, 0);
		for (;;)
			;
	} else if (starts(todo, "kill-parent"))
		exit(system_call(62, system_call(110, 0, 0, 0, 0), 15, 0, 0) < 0 ? 50 : 51);
	else if (starts(todo, "partial")) {
		say("no newline");
		delay(1000000000);
	} else if (starts(todo, "boot"))
		boot();
	else if (starts(todo, "i386")) {
		cb->setreg(arg, 4, 0xabcd00001fdcull);
		cb->setgdt(arg, 0x3000, 31);
		cb->exec(arg, 0x200100);
	} else if (starts(todo, "segv"))
		*(volatile int *)8 = 1;
	else if (starts(todo, "say-and-crash")) {
		say("about to crash\n");
		*(volatile int *)8 = 1;
	} else if (starts(todo, "rodata"))
		*(volatile char *)words[0] = 1;
	else if (starts(todo, "relro"))
		((const char *volatile *)words)[0] = NULL;
	else if (starts(todo, "data-is-no-program"))
		((void (*)(void))(void *)heap)();
	else if (starts(todo, "illegal"))
		__builtin_trap();
	else if (starts(todo, "say-and-loop")) {
		say("about to loop\n");
		for (;;)
			;
	} else if (starts(todo, "variables")) {
		for (i = 0; cb->getenv(arg, i) != NULL; i++) {
			say(cb->getenv(arg, i));
			say("\n");
		}
		exit(0);
	} else if (starts(todo, "loop"))
		for (;;)
			;
	else if (starts(todo, "spin"))
		for (;;)
			cb->poll(arg);
	else if (starts(todo, "getc:for ever"))
		for (;;)
			cb->getc(arg);
	else if (starts(todo, "getc"))
		while (cb->getc(arg) == -1)
			;
	else if (starts(todo, "quit"))
		exit(1);
#ifndef OLD_TABLE
	else if (starts(todo, "reboot-once"))
		reboot_once();
#endif
	else if (starts(todo, "reboot"))
		exit(2);
	else if (starts(todo, "exit"))
		exit(todo[4] - '0');
#ifdef WITH_ABORT
	else if (starts(todo, "abort"))
		abort();
#endif
	else if (starts(todo, "swap:"))
		cb->swap_interpreter(arg, todo + 5);
	else if (starts(todo, "swapnull"))
		cb->swap_interpreter(arg, NULL);
	else if (starts(todo, "setreg"))
		cb->setreg(arg, 5, 1);
	else if (starts(todo, "setmsr"))
		cb->setmsr(arg, 0x10, 1);
	else if (starts(todo, "setcr"))
		cb->setcr(arg, 8, 1);
	else if (starts(todo, "deep")) {
		deep(63);	/* 1 MiB */
		cb->exit(arg, 0);
	} else if (starts(todo, "version")) {
		number(version);
		say(version < 5 && cb->swap_interpreter != NULL ? " swap" : " none");
		say(version < 4 && cb->vm_set_register != NULL ? " set" : " none");
		cb->exit(arg, 0);
	} else if (starts(todo, "bench:"))
		bench(todo + 6);
#ifdef WITH_UNDEFINED
	surely_nowhere();
#endif
}
