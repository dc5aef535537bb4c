/*
 * A stand-in for FreeBSD's libvmmapi: the functions that bhyveload calls, with the signatures of 13.2 (-DOLD) or of
 * 14.0 and later.  Every call is written down; trace() gives the text.  fail_on() makes one function fail.
 *
 * For whole programs: with VMM_STANDIN=FOLDER in the environment, VMs are files there (memory as NAME.low and NAME.high,
 * mapped shared; vCPU 0 as NAME.cpu, which vm_get_register and vm_get_desc read back), every call is appended to
 * FOLDER/trace, and VMM_STANDIN_FAIL=FUNCTION:ERRNO makes one fail.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOWMEM_LIMIT (3UL << 30)
#define LAST 64

struct cpu {
	uint64_t value[LAST], base[LAST];
	uint32_t limit[LAST], access[LAST];
	char set[LAST], described[LAST];
};
struct vmctx { char name[256]; int memflags; size_t low, high; char *lowmem, *highmem; struct cpu *cpu; };
struct vcpu { struct vmctx *ctx; int id; };

static char text[65536], failing[64], existing[256];
static int failure;

const char *trace(void) { return text; }
void forget(void) { text[0] = failing[0] = existing[0] = 0; }
void exists(const char *name) { strcpy(existing, name); }
void fail_on(const char *function, int error) { strcpy(failing, function); failure = error; }

static char *folder_file(const char *name, const char *suffix)
{
	static char path[4096];

	snprintf(path, sizeof(path), "%s/%s%s", getenv("VMM_STANDIN"), name, suffix);
	return path;
}

static int whole(void) { return getenv("VMM_STANDIN") != NULL; }

static void append(const char *line)
{
	int fd = open(folder_file("trace", ""), O_WRONLY | O_CREAT | O_APPEND, 0600);

	if (fd >= 0 && write(fd, line, strlen(line)) < 0)
		abort();
	close(fd);
}

static char *map_file(const char *name, const char *suffix, size_t length)
{
	int fd = open(folder_file(name, suffix), O_RDWR | O_CREAT, 0600);
	char *place;

	if (length == 0)
		return NULL;
	if (fd < 0 || ftruncate(fd, length) < 0)
		abort();
	place = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return place;
}

static int note(const char *function, const char *format, ...)
{
	size_t start = strlen(text), used = start;
	const char *fail = getenv("VMM_STANDIN_FAIL");
	va_list list;

	used += snprintf(text + used, sizeof(text) - used, "%s", function);
	va_start(list, format);
	used += vsnprintf(text + used, sizeof(text) - used, format, list);
	va_end(list);
	snprintf(text + used, sizeof(text) - used, "\n");
	if (whole())
		append(text + start);
	if (fail != NULL && strncmp(fail, function, strlen(function)) == 0 && fail[strlen(function)] == ':') {
		errno = atoi(strchr(fail, ':') + 1);
		return -1;
	}
	if (strcmp(function, failing) == 0) {
		errno = failure;
		return -1;
	}
	return 0;
}

int vm_create(const char *name)
{
	if (note("vm_create", " %s", name))
		return -1;
	if (strcmp(name, existing) == 0 || (whole() && access(folder_file(name, ".vm"), F_OK) == 0)) {
		errno = EEXIST;
		return -1;
	}
	if (whole())
		close(open(folder_file(name, ".vm"), O_WRONLY | O_CREAT, 0600));
	strcpy(existing, name);
	return 0;
}

struct vmctx *vm_open(const char *name)
{
	struct vmctx *ctx;

	if (note("vm_open", " %s", name))
		return NULL;
	if (whole() ? access(folder_file(name, ".vm"), F_OK) != 0 : strcmp(name, existing) != 0) {
		errno = ENOENT;
		return NULL;
	}
	ctx = calloc(1, sizeof(*ctx));
	strcpy(ctx->name, name);
	ctx->cpu = whole() ? (void *)map_file(name, ".cpu", sizeof(struct cpu)) : calloc(1, sizeof(struct cpu));
	return ctx;
}

void vm_destroy(struct vmctx *ctx)
{
	note("vm_destroy", " %s", ctx->name);
	existing[0] = 0;
	if (whole()) {
		unlink(folder_file(ctx->name, ".vm"));
		unlink(folder_file(ctx->name, ".low"));
		unlink(folder_file(ctx->name, ".high"));
		unlink(folder_file(ctx->name, ".cpu"));
	}
	free(ctx);
}

void vm_close(struct vmctx *ctx) { note("vm_close", " %s", ctx->name); free(ctx); }

int vm_reinit(struct vmctx *ctx)
{
	memset(ctx->cpu, 0, sizeof(struct cpu));
	return note("vm_reinit", " %s", ctx->name);
}

void vm_set_memflags(struct vmctx *ctx, int flags) { note("vm_set_memflags", " %d", flags); ctx->memflags = flags; }
size_t vm_get_lowmem_size(struct vmctx *ctx) { return ctx->low; }
size_t vm_get_highmem_size(struct vmctx *ctx) { return ctx->high; }

/* The size of a memory that exists stays: the vmmapi.c of 13 refuses another one, that of 2025 goes by what is there. */
static int sized(const char *name, size_t *low, size_t *high)
{
	struct stat status;

	if (stat(folder_file(name, ".low"), &status) < 0)
		return 0;
#ifdef OLD
	if ((size_t)status.st_size != *low)
		return -1;
#endif
	*low = status.st_size;
	if (stat(folder_file(name, ".high"), &status) == 0)
		*high = status.st_size;
	return 0;
}

int vm_setup_memory(struct vmctx *ctx, size_t len, int style)
{
	size_t limit = whole() ? LOWMEM_LIMIT : 1 << 20;	/* else instead of 3 GiB */

	if (note("vm_setup_memory", " %zu %d", len, style))
		return -1;
	ctx->low = len > limit ? limit : len;
	ctx->high = len - ctx->low;
	if (style != 1) {
		abort();	/* VM_MMAP_ALL */
	} else if (!whole()) {
		ctx->lowmem = calloc(1, ctx->low);
		ctx->highmem = calloc(1, ctx->high);
	} else {
		if (len == 0 || len % 4096 != 0 || sized(ctx->name, &ctx->low, &ctx->high) < 0) {
			errno = EINVAL;
			return -1;
		}
		ctx->lowmem = map_file(ctx->name, ".low", ctx->low);
		ctx->highmem = map_file(ctx->name, ".high", ctx->high);
	}
	return 0;
}

void *vm_map_gpa(struct vmctx *ctx, uint64_t gpa, size_t len)
{
	uint64_t high = 4UL << 30;

	if (note("vm_map_gpa", " %#lx %zu", (unsigned long)gpa, len))
		return NULL;
	if (gpa < ctx->low && len <= ctx->low && gpa + len <= ctx->low)
		return ctx->lowmem + gpa;
	if (gpa >= high && gpa < high + ctx->high && len <= ctx->high && gpa + len <= high + ctx->high)
		return ctx->highmem + (gpa - high);
	return NULL;
}

#ifdef OLD
#define VCPU struct vmctx *ctx, int vcpu
#define ID vcpu
#define CTX ctx
#define CPU (vcpu == 0 ? ctx->cpu : NULL)
#else
#define VCPU struct vcpu *vcpu
#define ID vcpu->id
#define CTX vcpu->ctx
#define CPU (vcpu->id == 0 ? vcpu->ctx->cpu : NULL)
struct vcpu *vm_vcpu_open(struct vmctx *ctx, int id)
{
	struct vcpu *vcpu = malloc(sizeof(*vcpu));

	vcpu->ctx = ctx;
	vcpu->id = id;
	return note("vm_vcpu_open", " %d", id) ? NULL : vcpu;
}
void vm_vcpu_close(struct vcpu *vcpu) { note("vm_vcpu_close", " %d", vcpu->id); free(vcpu); }
#endif

int vm_set_register(VCPU, int reg, uint64_t value)
{
	if (note("vm_set_register", " %s %d %d %#lx", CTX->name, ID, reg, (unsigned long)value))
		return -1;
	CPU->value[reg] = value;
	CPU->set[reg] = 1;
	return 0;
}

int vm_set_desc(VCPU, int reg, uint64_t base, uint32_t limit, uint32_t access)
{
	if (note("vm_set_desc", " %s %d %d %#lx %#x %#x", CTX->name, ID, reg, (unsigned long)base, limit, access))
		return -1;
	CPU->base[reg] = base;
	CPU->limit[reg] = limit;
	CPU->access[reg] = access;
	CPU->described[reg] = 1;
	return 0;
}

/* ENOENT, which vmm(4) does not say: nobody has set it. */
int vm_get_register(VCPU, int reg, uint64_t *value)
{
	*value = CPU->value[reg];
	errno = ENOENT;
	return CPU->set[reg] ? 0 : -1;
}

int vm_get_desc(VCPU, int reg, uint64_t *base, uint32_t *limit, uint32_t *access)
{
	*base = CPU->base[reg];
	*limit = CPU->limit[reg];
	*access = CPU->access[reg];
	errno = ENOENT;
	return CPU->described[reg] ? 0 : -1;
}

int vm_get_capability(VCPU, int cap, int *value)
{
	*value = 0;
	return note("vm_get_capability", " %s %d %d", CTX->name, ID, cap);
}

int vm_set_capability(VCPU, int cap, int value)
{
	return note("vm_set_capability", " %s %d %d %d", CTX->name, ID, cap, value);
}
