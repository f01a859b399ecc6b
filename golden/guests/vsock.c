// SPDX-License-Identifier: ISC
/*
 * vsock.c: in a guest, joins standard input and output to a stream socket of AF_VSOCK.
 *
 *	vsock connect PORT	to the host
 *	vsock listen PORT	with one client
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void copy(int from, int to)
{
	static char buffer[1 << 16];
	ssize_t length;

	while ((length = read(from, buffer, sizeof(buffer))) > 0) {
		for (ssize_t done = 0; done < length;) {
			ssize_t written = write(to, buffer + done, (size_t)(length - done));

			if (written < 0)
				fail("vsock: write");
			done += written;
		}
	}
	if (length < 0)
		fail("vsock: read");
}

int main(int argc, char **argv)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (argc != 3)
		return 2;
	address.svm_port = (unsigned)strtoul(argv[2], NULL, 10);
	if (fd < 0)
		fail("vsock: socket");
	if (strcmp(argv[1], "connect") == 0) {
		address.svm_cid = VMADDR_CID_HOST;
		if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
			fail("vsock: connect");
	} else {
		address.svm_cid = VMADDR_CID_ANY;
		if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 5) < 0)
			fail("vsock: listen");
		fprintf(stderr, "listening at %s\n", argv[2]);
		fd = accept(fd, NULL, NULL);
		if (fd < 0)
			fail("vsock: accept");
	}

	pid_t child = fork();

	if (child == 0) {
		copy(fd, 1);
		return 0;
	}
	copy(0, fd);
	shutdown(fd, SHUT_WR);

	int status = 1;

	waitpid(child, &status, 0);
	return status != 0;
}
