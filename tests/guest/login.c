/*
 * A guest to work in: says "login: " on COM1, then understands as much of sh(1) as bhyveload.guest types, and a few
 * commands of its own.  Its terminal is FreeBSD's: echo and CR LF until stty says otherwise.
 */
#include "probe.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

extern u8 bss_start[], bss_end[];
static char line[4096], command[65536];
static u8 file[65536];
static int echo = 1, opost = 1, status, command_size, file_size;

static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
static inline void outw(u16 port, u16 value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
static inline void outl(u16 port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
static inline u32 inl(u16 port) { u32 v; __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u16 inw(u16 port) { u16 v; __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u8 inb(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }

static void
byte(u8 c)
{
	while (!(inb(0x3fd) & 0x20))
		;
	outb(0x3f8, c);
}

static void
put(u8 c)
{
	if (c == '\n' && opost)
		byte('\r');
	byte(c);
}

static void text(const char *s) { while (*s) put((u8)*s++); }

/* As the kernel does: CR LF whatever the terminal's mode. */
static void
message(const char *s)
{
	int saved = opost;

	opost = 1;
	text(s);
	opost = saved;
}

static void
number(int n)
{
	if (n > 9)
		number(n / 10);
	put((u8)('0' + n % 10));
}

static int
starts(const char *s, const char *with)
{
	while (*with)
		if (*s++ != *with++)
			return (0);
	return (1);
}

static const char *
find(const char *s, const char *what)
{
	for (; *s; s++)
		if (starts(s, what))
			return (s);
	return (0);
}

static int
value(const char *s)
{
	int n = 0;

	while (*s >= '0' && *s <= '9')
		n = n * 10 + *s++ - '0';
	return (n);
}

static void
read_line(void)
{
	unsigned n = 0;

	for (;;) {
		u8 c;

		while (!(inb(0x3fd) & 1))
			__asm__ volatile("pause");
		c = inb(0x3f8);
		if (c == 3)
			continue;
		if (c == '\r')
			c = '\n';
		if (echo)
			put(c);
		if (c == '\n')
			break;
		if (n < sizeof(line) - 1)
			line[n++] = (char)c;
	}
	line[n] = 0;
}

/* printf's %b: octal numbers behind \0; its format: behind \, and %%.  Up to a quote. */
static int
decode(const char *s, u8 *to, int room, int format)
{
	int n = 0;

	while (*s && *s != '\'' && n < room - 1)
		if (*s == '\\') {
			s += format ? 1 : 2;
			to[n++] = (u8)((s[0] - '0') << 6 | (s[1] - '0') << 3 | (s[2] - '0'));
			s += 3;
		} else if (format && *s == '%') {
			to[n++] = '%';
			s += 2;
		} else
			to[n++] = (u8)*s++;
	to[n] = 0;
	return (n);
}

/* What stands in quotes from `s` on, the first `words` of it. */
static const char *
say_quoted(const char *s, int words)
{
	while (words-- && (s = find(s, "'"))) {
		for (s++; *s && *s != '\''; s++)
			put((u8)*s);
		s++;
	}
	return (s);
}

static unsigned
cksum(const u8 *p, int size)
{
	unsigned c = 0;

	for (int i = 0, left = size; i < size || left; i++) {
		u8 b = i < size ? p[i] : (u8)left;
		if (i >= size)
			left >>= 8;
		c ^= (unsigned)b << 24;
		for (int k = 0; k < 8; k++)
			c = c & 0x80000000u ? c << 1 ^ 0x04c11db7u : c << 1;
	}
	return (~c);
}

static void
big_number(unsigned n)
{
	if (n > 9)
		big_number(n / 10);
	put((u8)('0' + n % 10));
}

/* Virtio 0.9.5, 2.2.2: a legacy block device's registers and its queue, one request at a time. */
#define QUEUE_MAX 1024
static u8 queue[8 * 4096] __attribute__((aligned(4096)));
static struct { u32 type, reserved; u64 sector; } request;
static volatile u8 answer;
static u16 port, queue_size, used;
static u8 folder[2 << 20];
static int folder_size;

static u64 physical(const void *p) { return ((u64)p - 0xffffffff80000000ul); }

static u32
pci(u32 device, u32 offset)
{
	outl(0xcf8, 0x80000000u | device << 11 | offset);
	return (inl(0xcfc));
}

static int
disk_open(u32 device)
{
	if (pci(device, 0) != 0x10011af4u)
		return (0);
	if (port != 0)	/* the one before: the queue is not its own any more, and QEMU 11 may look into it unasked */
		outb(port + 18, 0);
	outl(0xcfc, (pci(device, 4) & 0xffff) | 5);
	port = (u16)(pci(device, 0x10) & 0xfffc);
	outb(port + 18, 0);
	outb(port + 18, 3);
	outl(port + 4, 0);
	outw(port + 14, 0);
	queue_size = inw(port + 12);
	for (unsigned i = 0; i < sizeof(queue); i++)
		queue[i] = 0;
	used = 0;
	if (queue_size > QUEUE_MAX)
		return (0);
	outl(port + 8, (u32)(physical(queue) >> 12));
	outb(port + 18, 7);
	return (1);
}

static void
describe(int n, const volatile void *p, u32 size, u16 flags)
{
	u8 *d = queue + 16 * n;

	*(u64 *)d = physical((const void *)p);
	*(u32 *)(d + 8) = size;
	*(u16 *)(d + 12) = flags;
	*(u16 *)(d + 14) = (u16)(n + 1);
}

static int
disk(int write, u64 sector, u8 *data, u32 size)
{
	volatile u16 *available = (u16 *)(queue + 16 * queue_size);
	volatile u16 *done = (u16 *)(queue + ((16 * queue_size + 6 + 2 * queue_size + 4095) & ~4095) + 2);

	request.type = (u32)write;
	request.sector = sector;
	answer = 255;
	describe(0, &request, 16, 1);
	describe(1, data, size, write ? 1 : 3);
	describe(2, &answer, 1, 2);
	available[2 + used % queue_size] = 0;
	__asm__ volatile("" : : : "memory");
	available[1] = ++used;
	__asm__ volatile("" : : : "memory");
	outw(port + 16, 0);
	while (*done != used)
		__asm__ volatile("pause");
	__asm__ volatile("" : : : "memory");	/* what the device has written is read from here on */
	return (answer == 0);
}

/* "for _d in /dev/vtbd...": the disk that shows the word; its tar stream is kept, or the one that is kept goes there. */
static void
folders(const char *c)
{
	const char *word = find(c, "grep -q ") + 8;
	int n = 0, out = find(c, "tar -cf") != 0;

	while (word[n] && word[n] != ';')
		n++;
	for (u32 device = 0; device < 256; device++) {
		static u8 first[1024];

		if (!disk_open(device) || !disk(0, 0, first, sizeof(first)))
			continue;
		for (unsigned at = 0; at + (unsigned)n <= sizeof(first); at++) {
			int i = 0;

			while (i < n && first[at + (unsigned)i] == (u8)word[i])
				i++;
			if (i < n)
				continue;
			if (out) {
				if (!disk(1, 0, folder, (u32)folder_size))
					status = 1;
				return;
			}
			folder_size = sizeof(folder);
			if (!disk(0, 0, folder, (u32)folder_size))
				status = 1;
			return;
		}
	}
	text("sh: no disk has the word\n");
	status = 1;
}

static void
run(const char *c)
{
	status = 0;
	if (starts(c, "export BHYVE_")) { /* kept as the file, then the command behind it */
		const char *end = find(c, "; ");

		for (file_size = 0; c < end; c++)
			file[file_size++] = (u8)*c;
		c = end + 2;
	}
	if (starts(c, "exit "))
		status = value(c + 5);
	else if (starts(c, "echo ")) {
		text(c + 5);
		put('\n');
	} else if (starts(c, "flood "))
		for (int i = 0, n = value(c + 6); i < n; i++)
			text("0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz\n");
	else if (starts(c, "bytes"))
		for (int i = 0; i < 256; i++)
			put((u8)i);
	else if (starts(c, "noise")) {
		text("before\n");
		message("usb0: <a device> at usbus0\n");
		message("Nov 30 10:00:00 freebsd login[700]: ROOT LOGIN (root) ON ttyu0\n");
		text("behind\n");
	} else if (starts(c, "cksum <")) {
		big_number(cksum(file, file_size));
		put(' ');
		number(file_size);
		put('\n');
	} else if (starts(c, "wc -c <")) {
		number(file_size);
		put('\n');
	} else if (starts(c, "cat ")) {
		for (int i = 0; i < file_size; i++)
			put(file[i]);
	} else if (starts(c, "chmod "))
		;
	else if (starts(c, "for _d in /dev/vtbd"))
		folders(c);
	else if (starts(c, "write-disk") || starts(c, "read-disk")) { /* a sector in front of the spare partition table */
		static u8 sector[512];
		u32 device = 0;

		while (device < 256 && !disk_open(device))
			device++;
		for (int i = 0; i < 512; i++)
			sector[i] = 'w';
		status = !disk(*c == 'w', inl(port + 20) - 64, sector, 512);
		sector[7] = '\n';
		for (int i = 0; i < 8; i++)
			put(sector[i] ? sector[i] : '0');
	} else if (starts(c, "spin"))
		for (;;)
			__asm__ volatile("pause");
	else if (starts(c, "panic")) {
		message("panic: a test of ours\ncpuid = 0\ntime = 1764496800\nKDB: stack backtrace:\n");
		message("db_trace_self_wrapper() at db_trace_self_wrapper+0x2b\nKDB: enter: panic\n[ thread pid 1 tid 1 ]\n");
		message("Stopped at      kdb_enter+0x33: movq    $0,0x1\ndb> ");
		for (;;)
			__asm__ volatile("pause");
	} else if (starts(c, "reboot")) {
		outb(0xcf9, 2);
		outb(0xcf9, 6);
		for (;;)	/* the machine takes its time */
			__asm__ volatile("pause");
	} else if (starts(c, "poweroff")) {
		outw(0x604, 0x2000);
		for (;;)
			__asm__ volatile("pause");
	} else {
		text("sh: not found\n");
		status = 127;
	}
}

static void
statement(const char *s)
{
	if (starts(s, "printf '%s%s\\n'")) {
		say_quoted(s + 15, 2);
		put('\n');
	} else if (starts(s, "printf '%s%s%s>\\n'")) {
		s = say_quoted(s + 18, 2);
		number(find(s, "$_s") ? status : value(s + 1));
		text(">\n");
	} else if (starts(s, "printf '") && find(s, "' >>"))	/* not what is left of a greeting that lost some keys */
		file_size += decode(s + 8, file + file_size, (int)sizeof(file) - file_size, 1);
	else if (starts(s, "printf \"\" >"))
		file_size = 0;
	else if (starts(s, "/bin/sh -c"))
		run(command);
	else if (starts(s, "stty -echo -opost"))
		echo = opost = 0;
	else if (starts(s, "stty echo opost"))
		echo = opost = 1;
}

static void
shell(void)
{
	for (;;) {
		read_line();
		if (find(line, "/dev/null; exit")) {
			statement(line);
			return;
		}
		if (starts(line, "_c=$_c'"))
			command_size += decode(line + 7, (u8 *)command + command_size, (int)sizeof(command) - command_size, 0);
		else if (starts(line, "_c="))
			command_size = command[0] = 0;
		else
			for (char *s = line; s;) {
				char *next = (char *)find(s, "; ");

				if (next) {
					*next = 0;
					next += 2;
				}
				statement(s);
				s = next;
			}
	}
}

void
probe(void)
{
	text("FreeBSD is a registered trademark of somebody else.\nusb0: a message\n");
	for (;;) {
		text("\nFreeBSD/amd64 (probe) (ttyu0)\n\nlogin: ");
		read_line();
		if (!starts(line, "root")) {
			text("Login incorrect\n");
			continue;
		}
		text("Welcome to FreeBSD!\n\nroot@probe:~ # ");
		read_line();
		if (starts(line, "exec /bin/sh +i -s"))
			shell();
	}
}
