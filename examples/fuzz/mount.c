/* SPDX-License-Identifier: ISC */
/*
 * mount.c: mounts /dev/vda once, looks at all that is in it, and unmounts it, in a guest whose
 * disk the fuzzer writes.
 *
 *	mount-once TYPE [OPTIONS]
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmd-fuzz.h"

enum { DEPTH = 4 };

static void look_at(const char *path, int depth)
{
	static char buffer[4096];
	char below[PATH_MAX];
	struct stat status;
	DIR *folder;
	int file;

	if (lstat(path, &status))
		return;
	if (S_ISLNK(status.st_mode) && readlink(path, buffer, sizeof(buffer)) < 0)
		return;
	if (S_ISREG(status.st_mode)) {
		file = open(path, O_RDONLY);
		if (file < 0)
			return;
		(void)!read(file, buffer, sizeof(buffer));
		close(file);
	}
	if (!S_ISDIR(status.st_mode) || depth == DEPTH)
		return;
	folder = opendir(path);
	if (!folder)
		return;
	for (struct dirent *entry; (entry = readdir(folder));) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (snprintf(below, sizeof(below), "%s/%s", path, entry->d_name) < (int)sizeof(below))
			look_at(below, depth + 1);
	}
	closedir(folder);
}

int main(int argc, char **argv)
{
	const char *options = argc > 2 ? argv[2] : NULL;

	if (argc < 2) {
		fprintf(stderr, "usage: mount-once type [options]\n");
		return 1;
	}
	/* Runs have no use for page faults of this program: they would be most of what is run. */
	if (iopl(3) || mlockall(MCL_CURRENT | MCL_FUTURE)) {
		perror("mount-once");
		return 1;
	}
	/* What the first mount of all makes is there already. */
	mount("/dev/vda", "/mnt", argv[1], MS_RDONLY, options);
	umount("/mnt");
	/* The disk has the input: this only says where runs begin. */
	vmd_fuzz_ready(argv, 1);
	if (!mount("/dev/vda", "/mnt", argv[1], MS_RDONLY, options))
		look_at("/mnt", 0);
	/* Nothing is to be unmounted: the reset does that. */
	vmd_fuzz_done();
	return 0;
}
