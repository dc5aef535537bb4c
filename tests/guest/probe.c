/*
 * A guest that looks at what the loader and the hand-off gave it, and says so on COM1: one key=value a line.
 * Numbers are hexadecimal without 0x; text is escaped (%XX).  Its own memory and nothing else is written, but for
 * one word at the end of each piece of RAM in the memory map (put back afterwards).
 *
 * FreeBSD's boot protocol: sys/amd64/amd64/locore.S, sys/kern/subr_module.c, sys/sys/linker.h.
 */
#include "probe.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long word;

#define MODINFO_END 0x0000
#define MODINFO_NAME 0x0001
#define MODINFO_TYPE 0x0002
#define MODINFO_ADDR 0x0003
#define MODINFO_SIZE 0x0004
#define MODINFO_ARGS 0x0006
#define MD_SSYM 0x8003
#define MD_ESYM 0x8004
#define MD_ENVP 0x8006
#define MD_HOWTO 0x8007
#define MD_SMAP 0x9001

#ifdef __x86_64__
#define ARCH "amd64"
#define KERNBASE 0xffffffff80000000ul
#define STRIDE 8
#else
#define ARCH "i386"
#define KERNBASE 0ul
#define STRIDE 4
#endif

/* PROBE_SHORT: without firmware, and where every instruction counts (emulated KVM). */
#ifdef PROBE_SHORT
#define FULL 0
#else
#define FULL 1
#endif

#define ROUND(x, n) (((x) + (n)-1) & ~((word)(n)-1))

extern u8 bss_start[], bss_end[], data_start[], data_end[], btext[], kernel_end[];

static u32 data_pattern[16] = { 0x46726565, 0x42534421, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43 };
static u32 bss_probe[4096];
static u32 crc_table[256];

static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
static inline void outw(u16 port, u16 value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
static inline void outl(u16 port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
static inline u8 inb(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u16 inw(u16 port) { u16 v; __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u32 inl(u16 port) { u32 v; __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port)); return v; }

/* A host that is busy may not listen for a second; what is sent meanwhile would be lost. */
static const int PATIENCE = 100000000;

static void
put(char c)
{
	for (int spin = 0; spin < PATIENCE && !(inb(0x3fd) & 0x20); spin++)
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
hex(u64 v)
{
	char digits[17];
	int n = 16;

	digits[n] = 0;
	do
		digits[--n] = "0123456789abcdef"[v & 15];
	while (v >>= 4);
	text(digits + n);
}

static void
escaped(const u8 *p, word n)
{
	for (word i = 0; i < n; i++)
		if (p[i] > 0x20 && p[i] < 0x7f && p[i] != '%')
			put((char)p[i]);
		else {
			put('%');
			put("0123456789abcdef"[p[i] >> 4]);
			put("0123456789abcdef"[p[i] & 15]);
		}
}

static void
line(const char *key, u64 v)
{
	text(key);
	put('=');
	hex(v);
	put('\n');
}

/* prefix.NUMBER.key= */
static void
numbered(const char *prefix, u32 n, const char *key)
{
	text(prefix);
	put('.');
	hex(n);
	if (*key) {
		put('.');
		text(key);
	}
	put('=');
}

static void
numbered_line(const char *prefix, u32 n, const char *key, u64 v)
{
	numbered(prefix, n, key);
	hex(v);
	put('\n');
}

static word
length(const u8 *s)
{
	word n = 0;

	while (n < (1 << 20) && s[n])
		n++;
	return (n);
}

static int
same(const u8 *a, const char *b, word n)
{
	for (word i = 0; i < n; i++)
		if (a[i] != (u8)b[i])
			return (0);
	return (1);
}

static u32
crc(const volatile u8 *p, word n)
{
	u32 c = ~0u;

	while (n--)
		c = crc_table[(c ^ *p++) & 0xff] ^ (c >> 8);
	return (~c);
}

static void
crc_setup(void)
{
	for (u32 i = 0; i < 256; i++) {
		u32 c = i;
		for (int k = 0; k < 8; k++)
			c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
		crc_table[i] = c;
	}
}

static u64
get(const u8 *p, word n)
{
	u64 v = 0;

	for (word i = 0; i < n && i < 8; i++)
		v |= (u64)p[i] << (8 * i);
	return (v);
}

#ifdef __x86_64__
/* The loader maps the first GiB only, again and again: the firmware's tables may lie above it. */
#define GIBS 8
static u64 pml4[512] __attribute__((aligned(4096)));
static u64 pdpt[512] __attribute__((aligned(4096)));
static u64 pdpt_high[512] __attribute__((aligned(4096)));
static u64 pd[GIBS][512] __attribute__((aligned(4096)));

static word
physical(const void *p)
{
	return ((word)p - KERNBASE);
}

static void
map_memory(void)
{
	for (word i = 0; i < GIBS * 512; i++)
		pd[i / 512][i % 512] = i << 21 | 0x83;
	for (word i = 0; i < GIBS; i++)
		pdpt[i] = physical(pd[i]) | 3;
	pdpt_high[510] = physical(pd[0]) | 3;
	pdpt_high[511] = physical(pd[1]) | 3;
	pml4[0] = physical(pdpt) | 3;
	pml4[511] = physical(pdpt_high) | 3;
	__asm__ volatile("mov %0, %%cr3" : : "r"(physical(pml4)) : "memory");
}
#define REACH ((u64)GIBS << 30)
#else
static void map_memory(void) {}
#define REACH (1ull << 32)
#endif

static u8 *
at(u64 address)
{
	return ((u8 *)(word)address);
}

static void
registers(void)
{
	line("rip", entry.rip);
	line("rsp", entry.rsp);
	line("rflags", entry.rflags);
	line("cr0", entry.cr0);
	line("cr3", entry.cr3);
	line("cr4", entry.cr4);
	line("efer", entry.efer & 0xffffffff);
	line("rax", entry.rax);
	line("rbx", entry.rbx);
	line("rcx", entry.rcx);
	line("rdx", entry.rdx);
	line("rsi", entry.rsi);
	line("rdi", entry.rdi);
	line("rbp", entry.rbp);
	line("r8", entry.r8);
	line("r9", entry.r9);
	line("r10", entry.r10);
	line("r11", entry.r11);
	line("r12", entry.r12);
	line("r13", entry.r13);
	line("r14", entry.r14);
	line("r15", entry.r15);
	line("cs", entry.cs);
	line("ds", entry.ds);
	line("es", entry.es);
	line("fs", entry.fs);
	line("gs", entry.gs);
	line("ss", entry.ss);
	line("tr", entry.tr);
	line("ldtr", entry.ldtr);
	line("gdtr.base", get(entry.gdtr_base, sizeof(word)));
	line("gdtr.limit", entry.gdtr_limit);
}

static void
own_image(void)
{
	u32 dirty = 0;

	for (u8 *p = bss_start; p < bss_end; p++)
		dirty += *p != 0;
	line("bss.size", (u64)(bss_end - bss_start));
	line("bss.dirty", dirty);
	crc_setup();
	line("data.crc", crc((u8 *)data_pattern, sizeof(data_pattern)));
	line("text.crc", crc(btext, 64));
	line("kernel.end", (word)kernel_end - KERNBASE);
#ifdef PAD_BYTES
	extern u8 padding[];
	line("padding.crc", crc(padding, PAD_BYTES));
#endif
	bss_probe[0] = 1;
}

/* Base memory as the loader left it: page 0 is the firmware's. */
static void
low_memory(void)
{
	static u8 copy[0x5000];

	for (u32 i = 0; i < sizeof(copy); i++) {
		copy[i] = at(0x1000)[i];
#ifdef __x86_64__
		if (i >= 0x1000 && i < 0x4000 && i % 8 == 0)
			copy[i] &= (u8)~0x60; /* the processor's own: accessed, dirty */
#endif
	}
	line("low.crc", crc(copy, sizeof(copy)));
	line("low.rest.crc", crc(at(0x6000), 0x9f000 - 0x6000));
}

struct ram {
	u64 base, length;
};
static struct ram ram[16];
static u32 rams;
static u64 envp;
static char file_type[32];

static void
memory_map(const u8 *p, u32 size)
{
	for (u32 i = 0; i < size / 20; i++, p += 20) {
		u64 base = get(p, 8), len = get(p + 8, 8);

		numbered("smap", i, "");
		hex(base);
		put(',');
		hex(len);
		put(',');
		hex(get(p + 16, 4));
		put('\n');
		if (get(p + 16, 4) == 1 && rams < 16)
			ram[rams++] = (struct ram){ base, len };
	}
}

/* The last word of every piece of RAM is there and is RAM. */
static void
memory_ends(void)
{
	for (u32 i = 0; i < rams; i++) {
		u64 end = ram[i].base + ram[i].length;
		volatile u32 *p;
		u32 old;
		int good;

		if (ram[i].length < 8 || end > REACH) {
			numbered_line("ram", i, "skipped", 1);
			continue;
		}
		p = (volatile u32 *)(void *)at((end - 8) & ~7ull);
		old = *p;
		*p = 0x5aa5c33c;
		good = *p == 0x5aa5c33c;
		*p = ~0x5aa5c33cu;
		good &= *p == ~0x5aa5c33cu;
		*p = old;
		numbered_line("ram", i, "good", (u64)good);
	}
}

static void
metadata(word modulep)
{
	const u8 *p = at(modulep);
	u32 file = 0, record = 0;
	u64 addr = 0;

	line("modulep", modulep);
	if (modulep == 0)
		return;
	for (; record < 1000; record++) {
		u32 type = (u32)get(p, 4), size = (u32)get(p + 4, 4);
		const u8 *data = p + 8;
		u64 value = size <= 8 ? get(data, size) : 0;

		if (type == MODINFO_END) {
			line("metadata.length", (word)(data - at(modulep)));
			break;
		}
		if (size > (16 << 20)) {
			line("metadata.broken", (word)(p - at(0)));
			break;
		}
		if (type == MODINFO_NAME)
			file += record != 0;
		numbered_line("md", record, "type", type);
		numbered_line("md", record, "size", size);
		numbered_line("md", record, "crc", crc(data, size));
		switch (type) {
		case MODINFO_NAME:
		case MODINFO_TYPE:
		case MODINFO_ARGS:
			numbered("md", record, "text");
			escaped(data, size ? size - 1 : 0);
			put('\n');
			if (type == MODINFO_TYPE)
				for (u32 i = 0; i < sizeof(file_type); i++)
					file_type[i] = i < size ? (char)data[i] : 0;
			break;
		case MD_SMAP:
			memory_map(data, size);
			break;
		case MD_ENVP:
			envp = value;
			break;
		case MD_HOWTO:
			line("howto", value);
			break;
		case MD_SSYM:
			/* length word, table, length word, table */
			line("ssym", value);
			line("symtab.size", get(at(value), sizeof(word)));
			break;
		case MODINFO_ADDR:
			addr = value;
			break;
		case MODINFO_SIZE:
			numbered_line("file", file, "addr", addr);
			numbered_line("file", file, "size", value);
			if (!same((u8 *)file_type, "elf kernel", 11)) /* our own image has changed by now */
				numbered_line("file", file, "crc", crc(at(addr), value));
			break;
		}
		if (size <= 8)
			numbered_line("md", record, "value", value);
		p = data + ROUND(size, STRIDE);
	}
	line("metadata.records", record);
	line("files", file + 1);
}

static const char *
environment(void)
{
	const char *end = "poweroff";
	u32 n = 0;

	line("envp", envp);
	if (envp)
		for (const u8 *p = at(envp); *p && n < 1000; n++) {
			word len = length(p);

			numbered("env", n, "");
			escaped(p, len);
			put('\n');
			if (len > 10 && same(p, "probe.end=", 10))
				end = (const char *)p + 10;
			p += len + 1;
		}
	line("env.count", n);
	return (end);
}

static int
inside_ram(u64 address, u64 size)
{
	for (u32 i = 0; i < rams; i++)
		if (address < ram[i].base + ram[i].length && address + size > ram[i].base)
			return (1);
	return (0);
}

static const u8 *
find_rsdp(u64 from, u64 to)
{
	for (; from + 20 <= to; from += 16) {
		const u8 *p = at(from);
		u8 sum = 0;

		if (*(const volatile u32 *)(const void *)p != 0x20445352 || !same(p, "RSD PTR ", 8)) /* "RSD " */
			continue;
		for (int i = 0; i < 20; i++)
			sum = (u8)(sum + p[i]);
		if (sum == 0)
			return (p);
	}
	return (0);
}

static u32 processors;

/* MADT: the enabled local APICs and the first I/O APIC. */
static void
madt(const u8 *table, u32 size)
{
	u64 ioapic = 0;

	for (u32 i = 44; i + 8 <= size && table[i + 1] >= 2; i += table[i + 1]) {
		if (table[i] == 0 && (get(table + i + 4, 4) & 1))
			processors++;
		if (table[i] == 1 && ioapic == 0)
			ioapic = get(table + i + 4, 4);
	}
	line("madt.processors", processors);
	line("madt.lapic", get(table + 36, 4));
	line("madt.ioapic", ioapic);
	if (ioapic) {
		*(volatile u32 *)(void *)at(ioapic) = 1;
		line("ioapic.version", *(volatile u32 *)(void *)at(ioapic + 16));
	}
	line("lapic.version", *(volatile u32 *)(void *)at(get(table + 36, 4) + 0x30));
}

static void
acpi(void)
{
	u64 ebda = (u64) * (volatile u16 *)(void *)at(0x40e) << 4;
	const u8 *rsdp = 0, *table;
	u64 address;
	u32 entries, width = 4, n;
	int wrong = 0;

	if (ebda >= 0x80000 && ebda < 0xa0000)
		rsdp = find_rsdp(ebda, ebda + 1024);
	if (!rsdp)
		rsdp = find_rsdp(0xe0000, 0x100000);
	line("acpi.rsdp", (word)rsdp);
	if (!rsdp)
		return;
	line("acpi.revision", rsdp[15]);
	address = get(rsdp + 16, 4);
	if (rsdp[15] >= 2 && get(rsdp + 24, 8)) {
		address = get(rsdp + 24, 8);
		width = 8;
	}
	line("acpi.root", address);
	table = at(address);
	wrong |= inside_ram(address, 36);
	entries = ((u32)get(table + 4, 4) - 36) / width;
	line("acpi.tables", entries);
	for (n = 0; n < entries && n < 32; n++) {
		u64 where = get(table + 36 + n * width, width);
		u32 size = (u32)get(at(where) + 4, 4);
		u8 sum = 0;

		numbered("acpi", n, "");
		escaped(at(where), 4);
		put(',');
		hex(where);
		put(',');
		hex(size);
		for (u32 i = 0; i < size && i < 65536; i++)
			sum = (u8)(sum + at(where)[i]);
		text(sum ? ",bad\n" : ",good\n");
		if (same(at(where), "APIC", 4) && size < 65536)
			madt(at(where), size);
		if (same(at(where), "FACP", 4)) {
			u64 dsdt = get(at(where) + 40, 4), facs = get(at(where) + 36, 4);
			u32 length_of_dsdt = (u32)get(at(dsdt) + 4, 4);

			for (sum = 0, size = 0; size < length_of_dsdt && size < 1 << 20; size++)
				sum = (u8)(sum + at(dsdt)[size]);
			line("acpi.dsdt.good", same(at(dsdt), "DSDT", 4) && sum == 0);
			line("acpi.facs.good", same(at(facs), "FACS", 4));
			line("acpi.sci", get(at(where) + 46, 2));
			line("acpi.pm_timer", get(at(where) + 76, 4));
			wrong |= inside_ram(dsdt, length_of_dsdt) | inside_ram(facs, 64);
		}
		wrong |= inside_ram(where, size);
	}
	line("acpi.inside_ram", (u64)wrong);
}

static u32
pci(u32 function, u32 reg)
{
	outl(0xcf8, 0x80000000u | function << 8 | reg);
	return (inl(0xcfc));
}

/* Bus 0: device.function, vendor, device, class, six BARs. */
static void
devices(void)
{
	u32 n = 0;

	for (u32 function = 0; function < 256; function++) {
		u32 id = pci(function, 0);

		if (id != 0xffffffff) {
			numbered("pci", n++, "");
			hex(function >> 3);
			put('.');
			hex(function & 7);
			put(',');
			hex(id & 0xffff);
			put(',');
			hex(id >> 16);
			put(',');
			hex(pci(function, 8) >> 8);
			for (u32 bar = 0x10; bar < 0x28; bar += 4) {
				put(',');
				hex(pci(function, bar));
			}
			put('\n');
			if ((id & 0xffff) == 0x1af4)
				numbered_line("pci", n - 1, "irq", pci(function, 0x3c) & 0xff);
		}
		if (!(function & 7) && (id == 0xffffffff || !(pci(function, 12) & 0x800000)))
			function |= 7; /* not a multi-function device */
	}
	line("pci.count", n);
}

static void
wait(u32 loops)
{
	for (volatile u32 i = 0; i < loops; i++)
		;
}

static u32
pit(void)
{
	u32 low;

	outb(0x43, 0); /* latch counter 0 */
	low = inb(0x40);
	return (low | (u32)inb(0x40) << 8);
}

/* What FreeBSD drives first: the 8254, both 8259s, the clock, the HPET. */
static void
timers(void)
{
	u32 before, after, second;

	outb(0x43, 0x34); /* counter 0, rate generator, as i8254_init sets it */
	outb(0x40, 0xff);
	outb(0x40, 0xff);
	before = pit();
	wait(200000);
	after = pit();
	line("pit.counts", before != after);
	outb(0x21, 0xfb);
	outb(0xa1, 0xff);
	line("pic.masks", (u64)inb(0x21) << 8 | inb(0xa1));
	outb(0x70, 0x0b);
	second = inb(0x71);
	line("rtc.24h", second >> 1 & 1);
	line("hpet.vendor", *(volatile u32 *)(void *)at(0xfed00000) >> 16);
}

#ifdef __x86_64__
/* Start the other processors as FreeBSD does: INIT, then SIPI to a page of base memory, in real mode. */
#define TRAMPOLINE 0x8000ul
static void
start_processors(void)
{
	/* lock incb %cs:0x800; 1: cli; hlt; jmp 1b */
	static const u8 code[] = { 0x2e, 0xf0, 0xfe, 0x06, 0x00, 0x08, 0xfa, 0xf4, 0xeb, 0xfc };
	volatile u8 *page = at(TRAMPOLINE);
	volatile u32 *icr = (volatile u32 *)(void *)at(0xfee00300);
	volatile u8 *count = page + 0x800;

	if (processors > 1) {
		for (u32 i = 0; i < sizeof(code); i++)
			page[i] = code[i];
		*count = 0;
		*icr = 0xc4500; /* all but self, INIT, level, assert */
		wait(1000000);
		*icr = 0xc4600 | TRAMPOLINE >> 12;
		for (u32 i = 0; i < 2000 && *count + 1u < processors; i++)
			wait(100000);
		line("ap.started", *count);
	}
}
#else
static void start_processors(void) {}

static void
bootinfo(word *frame)
{
	const u8 *bi = at(frame[6]);

	line("frame.return", frame[0]);
	line("frame.howto", frame[1]);
	line("frame.bootdev", frame[2]);
	line("frame.3", frame[3]);
	line("frame.4", frame[4]);
	line("frame.5", frame[5]);
	line("bootinfo", frame[6]);
	line("bi.version", get(bi, 4));
	line("bi.kernelname", get(bi + 4, 4));
	text("bi.kernel=");
	escaped(at(get(bi + 4, 4)), length(at(get(bi + 4, 4))));
	put('\n');
	line("bi.size", get(bi + 48, 4));
	line("bi.memsizes_valid", bi[52]);
	line("bi.basemem", get(bi + 56, 4));
	line("bi.extmem", get(bi + 60, 4));
	line("bi.symtab", get(bi + 64, 4));
	line("bi.esymtab", get(bi + 68, 4));
	line("bi.kernend", get(bi + 72, 4));
	line("bi.envp", get(bi + 76, 4));
	line("bi.modulep", get(bi + 80, 4));
	for (u32 i = 0; i < 4; i++)
		numbered_line("gdt", i, "", get(at(get(entry.gdtr_base, 4)) + 8 * i, 8));
}
#endif

static void
finish(const char *end)
{
	static struct {
		u16 limit;
		word base;
	} __attribute__((packed)) no_idt;

	text("end=");
	text(end);
	text("\nprobe=end\n");
	for (int spin = 0; spin < PATIENCE && !(inb(0x3fd) & 0x40); spin++)
		;	/* the transmitter is empty: what is left in it at the end is lost */
	if (same((const u8 *)end, "reboot", 7)) {
		outb(0xcf9, 2);
		outb(0xcf9, 6);
		outb(0x64, 0xfe);
	} else if (same((const u8 *)end, "triple", 7))
		__asm__ volatile("lidt %0; ud2" : : "m"(no_idt));
	else if (same((const u8 *)end, "poweroff", 9))
		outw(0x604, 0x2000);
	else if (same((const u8 *)end, "button", 7)) {
		outw(0x604, 1); /* PM1_CNT: SCI_EN, as ACPI's owner */
		outw(0x602, 0x100); /* PM1_EN: the power button */
		text("listening\n");
		while (!(inw(0x600) & 0x100))
			__asm__ volatile("pause");
		text("pressed\n");
		outw(0x604, 0x2001);
	} else if (same((const u8 *)end, "spin", 5))
		for (;;)
			__asm__ volatile("pause");
	for (;;)
		__asm__ volatile("cli; hlt");
}

void
probe(void)
{
	const char *end;
	word modulep, kernend;

	text("probe=" ARCH "\n");
	own_image();
	registers();
#ifdef __x86_64__
	u32 *frame = (u32 *)(void *)at(entry.rsp);
	line("frame.return", frame[0]);
	modulep = frame[1];
	kernend = frame[2];
#else
	word *frame = (word *)(void *)at(entry.rsp);
	bootinfo(frame);
	modulep = frame[7];
	kernend = frame[8];
#endif
	line("kernend", kernend);
	if (FULL)
		low_memory();
	map_memory();
	metadata(modulep);
	end = environment();
	memory_ends();
	if (FULL) {
		acpi();
		devices();
		timers();
		start_processors();
	}
	finish(end);
}
