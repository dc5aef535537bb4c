/* The userboot interface, written down anew (stand/userboot/userboot.h) for the test loader and the layout table. */
#include <stddef.h>
#include <stdint.h>

struct freebsd_timespec {
	int64_t tv_sec;
	int64_t tv_nsec;
};

struct freebsd_stat { /* FreeBSD 12 and later, amd64 */
	uint64_t st_dev, st_ino, st_nlink;
	uint16_t st_mode;
	int16_t st_bsdflags;
	uint32_t st_uid, st_gid;
	int32_t st_padding1;
	uint64_t st_rdev;
	struct freebsd_timespec st_atim, st_mtim, st_ctim, st_birthtim;
	int64_t st_size, st_blocks;
	int32_t st_blksize;
	uint32_t st_flags;
	uint64_t st_gen, st_filerev;
	uint64_t st_spare[9];
};

struct callbacks {
	int (*getc)(void *);
	void (*putc)(void *, int);
	int (*poll)(void *);
	int (*open)(void *, const char *, void **);
	int (*close)(void *, void *);
	int (*isdir)(void *, void *);
	int (*read)(void *, void *, void *, size_t, size_t *);
	int (*readdir)(void *, void *, uint32_t *, uint8_t *, size_t *, char *);
	int (*seek)(void *, void *, uint64_t, int);
#ifdef OLD_TABLE	/* before 2018; the rest lies one slot lower */
	int (*stat)(void *, void *, int *, int *, int *, uint64_t *);
	int (*diskread)(void *, int, uint64_t, void *, size_t, size_t *);
#else
	int (*stat)(void *, void *, struct freebsd_stat *);
	int (*diskread)(void *, int, uint64_t, void *, size_t, size_t *);
	int (*diskwrite)(void *, int, uint64_t, void *, size_t, size_t *);
#endif
	int (*copyin)(void *, const void *, uint64_t, size_t);
	int (*copyout)(void *, uint64_t, void *, size_t);
	void (*setreg)(void *, int, uint64_t);
	void (*setmsr)(void *, int, uint64_t);
	void (*setcr)(void *, int, uint64_t);
	void (*setgdt)(void *, uint64_t, size_t);
	void (*exec)(void *, uint64_t);
	void (*delay)(void *, int);
	void (*exit)(void *, int);
	void (*getmem)(void *, uint64_t *, uint64_t *);
	int (*diskioctl)(void *, int, unsigned long, void *);
	char *(*getenv)(void *, int);
	int (*vm_set_register)(void *, int, int, uint64_t);
	int (*vm_set_desc)(void *, int, int, uint64_t, unsigned, unsigned);
	void (*swap_interpreter)(void *, const char *);
};
