/*
 * The copies that FreeBSD's loader in a C host makes of a kernel, and nothing else of it: no disk's format, no scripts,
 * no metadata.  What any such loader costs at the least.
 *
 *   userboot_copies KERNEL FOLDER     FOLDER: where guest memory is, an unnamed file of 256 MiB
 *
 * 128 KiB are read at once into a cache of 16 MiB (stand/common/bcache.c, usr.sbin/bhyveload/bhyveload.c:cb_diskread),
 * from there a block of 32 KiB goes into the file system's buffer (stand/libsa/ufs.c:buf_read_file), 4 KiB of that onto
 * the stack (stand/userboot/userboot/copy.c:userboot_readin), and those into mapped guest memory (bhyveload.c:cb_copyin).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { READ = 128 << 10, CACHE = 16 << 20, BLOCK = 32 << 10, PIECE = 4 << 10 };
static const size_t MEMORY = (size_t)256 << 20;

/* memcpy(3), by an address that the compiler does not know: it must not make one copy of two. */
static void *(*volatile copy)(void *, const void *, size_t) = memcpy;

int
main(int argc, char **argv)
{
	int kernel = argc == 3 ? open(argv[1], O_RDONLY) : -1;
	int memory = argc == 3 ? open(argv[2], O_TMPFILE | O_RDWR, 0600) : -1;
	if (kernel < 0 || memory < 0 || ftruncate(memory, MEMORY))
		return 1;
	char *guest = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	char *cache = malloc(CACHE), *block = malloc(BLOCK), piece[PIECE];
	if (guest == MAP_FAILED || !cache || !block)
		return 1;

	size_t at = 0;
	for (ssize_t got; (got = pread(kernel, cache + at % CACHE, READ, at)) > 0; at += got) {
		if (at + READ > MEMORY)
			return 1;
		for (ssize_t in = 0; in < got; in += BLOCK) {
			copy(block, cache + at % CACHE + in, BLOCK);
			for (size_t part = 0; part < BLOCK; part += PIECE) {
				copy(piece, block + part, PIECE);
				copy(guest + at + in + part, piece, PIECE);
			}
		}
	}
	return 0;
}
