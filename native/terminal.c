// SPDX-License-Identifier: ISC
/* terminal.c: the mode of the terminal that a console is shown in. */
#define _GNU_SOURCE
#include "vmm.h"

#include <errno.h>
#include <string.h>
#include <termios.h>

_Static_assert(sizeof(struct termios) <= VMM_TERMINAL_SIZE, "VMM_TERMINAL_SIZE");

int vmm_terminal_raw(int32_t fd, uint8_t before[VMM_TERMINAL_SIZE])
{
	struct termios mode;

	if (tcgetattr(fd, &mode) < 0)
		return -errno;
	memcpy(before, &mode, sizeof(mode));
	/* Every key is the guest's. Lines of our own still begin at the left. */
	mode.c_iflag &= ~(tcflag_t)(BRKINT | ICRNL | INPCK | ISTRIP | IXON);
	mode.c_oflag |= ONLCR;
	mode.c_cflag |= CS8;
	mode.c_lflag &= ~(tcflag_t)(ECHO | ICANON | IEXTEN | ISIG);
	mode.c_cc[VMIN] = 1;
	mode.c_cc[VTIME] = 0;
	return tcsetattr(fd, TCSADRAIN, &mode) < 0 ? -errno : 0;
}

int vmm_terminal_restore(int32_t fd, const uint8_t before[VMM_TERMINAL_SIZE])
{
	struct termios mode;

	memcpy(&mode, before, sizeof(mode));
	return tcsetattr(fd, TCSADRAIN, &mode) < 0 ? -errno : 0;
}
