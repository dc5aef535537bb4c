/*
 * The demo's guest: a kernel in FreeBSD's boot format that says on COM1 what it was handed, and powers off.
 * FreeBSD's boot protocol: sys/amd64/amd64/locore.S, sys/kern/subr_module.c, sys/sys/linker.h.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

enum { MODINFO_END = 0, MODINFO_NAME = 1, MODINFO_TYPE = 2, MODINFO_SIZE = 4, MD_ENVP = 0x8006, MD_SMAP = 0x9001 };

__asm__(".globl btext\n"
	"btext: movq %rsp, %rdi\n"
	"leaq stack + 16384(%rip), %rsp\n"
	"call hello\n"
	"1: cli; hlt; jmp 1b\n");

/* What a module of FreeBSD says of itself (sys/sys/module.h): this one is the module kernel, version 1. */
struct mod_metadata { int version, type; const void *data; const char *name; };
enum { MDT_STRUCT_VERSION = 1, MDT_VERSION = 3 };
static const int kernel_version = 1;
static const struct mod_metadata metadata = { MDT_STRUCT_VERSION, MDT_VERSION, &kernel_version, "kernel" };
const struct mod_metadata *const metadata_set[] __attribute__((used, section("set_modmetadata_set"))) = { &metadata };
extern const struct mod_metadata *const __start_set_modmetadata_set[], *const __stop_set_modmetadata_set[];
const void *const metadata_bounds[] __attribute__((used)) = { __start_set_modmetadata_set, __stop_set_modmetadata_set };

u8 stack[16384] __attribute__((used, aligned(16)));

static void outb(u16 port, u8 v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory"); }
static void outw(u16 port, u16 v) { __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory"); }
static u8 inb(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }

static void
put(char c)
{
	if (c == '\n')
		put('\r');
	for (int spin = 0; spin < 1000000 && !(inb(0x3fd) & 0x20); spin++)
		;
	outb(0x3f8, (u8)c);
}

static void
text(const char *s)
{
	while (*s)
		put(*s++);
}

static void
number(u64 v)
{
	char digits[21];
	int n = 20;

	digits[n] = 0;
	do
		digits[--n] = (char)('0' + v % 10);
	while (v /= 10);
	text(digits + n);
}

static u64
get(const u8 *p, u32 n)
{
	u64 v = 0;

	for (u32 i = 0; i < n && i < 8; i++)
		v |= (u64)p[i] << (8 * i);
	return (v);
}

static int
same(const char *a, const char *b, int n)
{
	while (n-- > 0)
		if (*a++ != *b++)
			return (0);
	return (1);
}

void
hello(const u32 *frame)
{
	const u8 *p = (const u8 *)(u64)frame[1];
	const char *env = 0;
	u64 memory = 0;

	text("\nHello.  I am a 64-bit guest kernel.  bhyveload put these files into my memory:\n");
	for (;;) {
		u32 type = (u32)get(p, 4), size = (u32)get(p + 4, 4);
		const u8 *data = p + 8;

		if (type == MODINFO_END)
			break;
		if (type == MODINFO_NAME) {
			text("  ");
			text((const char *)data);
		} else if (type == MODINFO_TYPE) {
			text(" (");
			text((const char *)data);
			text("), ");
		} else if (type == MODINFO_SIZE) {
			number(get(data, 8));
			text(" bytes\n");
		} else if (type == MD_ENVP)
			env = (const char *)get(data, 8);
		else if (type == MD_SMAP)
			for (u32 at = 0; at + 20 <= size; at += 20)
				memory += get(data + at + 8, 8);
		p = data + ((size + 7) & ~7u);
	}
	text("I have ");
	number(memory >> 20);
	text(" MiB of memory.  My loader's scripts told me:\n");
	for (; env && *env; env++) {
		if (same(env, "demo.", 5)) {
			text("  ");
			text(env);
			put('\n');
		}
		while (*env)
			env++;
	}
	text("That is all.  Powering off.\n\n");
	for (int spin = 0; spin < 1000000 && !(inb(0x3fd) & 0x40); spin++)
		;	/* the transmitter is empty: what is left in it at the end is lost */
	outw(0x604, 0x2000);
}
