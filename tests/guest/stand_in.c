/* Stands where qemu-system-x86_64 is looked for: says on the guest's console what it can do, then ends. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static FILE *out;

static void try_open(const char *what, const char *path, int flags)
{
	int fd = open(path, flags, 0600);

	fprintf(out, "%s=%s\n", what, fd < 0 ? strerror(errno) : "open");
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct capabilities[2];
	struct rlimit core;
	char *secret = getenv("STAND_IN_SECRET"), *folder = getenv("STAND_IN_FOLDER");
	char path[4096], target[4096];
	int fd, number, child, status = 0;

	for (number = 1; number < argc; number++)
		if (sscanf(argv[number], "socket,id=console,fd=%d", &fd) == 1)
			out = fdopen(fd, "w");
	if (out == NULL)
		return 3;
	try_open("secret", secret, O_RDONLY);
	try_open("secret.write", secret, O_WRONLY);
	try_open("passwd", "/etc/passwd", O_RDONLY);
	try_open("root", "/", O_RDONLY | O_DIRECTORY);
	snprintf(path, sizeof(path), "%s/new", folder);
	try_open("create", path, O_CREAT | O_WRONLY);
	for (number = 1; number < argc; number++)
		if (strstr(argv[number], "file.filename=") != NULL && strchr(strstr(argv[number], "file.filename="), '/'))
			fprintf(out, "disk=%s\n", strstr(argv[number], "file.filename=") + 14);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	fprintf(out, "socket=%s\n", fd < 0 ? strerror(errno) : "open");
	fflush(out);
	child = fork();
	if (child == 0) {
		execl("/bin/true", "true", (char *)NULL);
		_exit(errno);
	}
	waitpid(child, &status, 0);
	fprintf(out, "exec=%s\n", WEXITSTATUS(status) ? strerror(WEXITSTATUS(status)) : "ran");
	getrlimit(RLIMIT_CORE, &core);
	fprintf(out, "core=%ld\n", (long)core.rlim_max);
	fprintf(out, "privileges=%d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	fprintf(out, "user=%d,%d\n", (int)geteuid(), (int)getegid());
	if (syscall(SYS_capget, &header, capabilities) == 0)
		fprintf(out, "capabilities=%x,%x\n", capabilities[1].effective | capabilities[1].permitted,
		    capabilities[0].effective | capabilities[0].permitted);
	for (fd = 0; fd < 256; fd++) {
		ssize_t length;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		length = readlink(path, target, sizeof(target) - 1);
		if (length > 0) {
			target[length] = 0;
			fprintf(out, "fd.%d=%s\n", fd, target);
		}
	}
	fflush(out);
	return 0;
}
