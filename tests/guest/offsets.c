/* Prints `structure member offset size` for what src/bhyveload/userboot/abi.py declares. */
#include <stdio.h>

#include "userboot_abi.h"

#define C(m) printf("callbacks %s %zu %zu\n", #m, offsetof(struct callbacks, m), sizeof(((struct callbacks *)0)->m))
#define S(m) printf("stat %s %zu %zu\n", #m, offsetof(struct freebsd_stat, m), sizeof(((struct freebsd_stat *)0)->m))

int
main(void)
{
	C(getc); C(putc); C(poll); C(open); C(close); C(isdir); C(read); C(readdir); C(seek); C(stat);
	C(diskread);
#ifndef OLD_TABLE
	C(diskwrite);
#endif
	C(copyin); C(copyout); C(setreg); C(setmsr); C(setcr); C(setgdt); C(exec);
	C(delay); C(exit); C(getmem); C(diskioctl); C(getenv); C(vm_set_register); C(vm_set_desc); C(swap_interpreter);
	S(st_dev); S(st_ino); S(st_nlink); S(st_mode); S(st_bsdflags); S(st_uid); S(st_gid); S(st_padding1); S(st_rdev);
	S(st_atim); S(st_mtim); S(st_ctim); S(st_birthtim); S(st_size); S(st_blocks); S(st_blksize); S(st_flags);
	S(st_gen); S(st_filerev); S(st_spare);
	printf("callbacks - 0 %zu\nstat - 0 %zu\n", sizeof(struct callbacks), sizeof(struct freebsd_stat));
	return (0);
}
