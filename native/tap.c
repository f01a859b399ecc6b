// SPDX-License-Identifier: ISC
/*
 * tap.c: the host's end of a guest's network interface
 * (Documentation/networking/tuntap.rst in Linux).
 */
#define _GNU_SOURCE
#include "net.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

_Static_assert(NET_CSUM == TUN_F_CSUM && NET_TSO4 == TUN_F_TSO4 && NET_TSO6 == TUN_F_TSO6,
	       "enum net_offload is the kernel's");

int vmm_tap_open(char name[NET_NAME], int64_t owner)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int header = NET_HEADER, error;
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

	_Static_assert(NET_NAME == IFNAMSIZ, "names are as long as the kernel's");
	if (fd < 0)
		return -errno;
	memcpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &header) < 0 ||
	    ioctl(fd, TUNSETOFFLOAD, 0) < 0)
		goto fail;
	if (owner >= 0 && ioctl(fd, TUNSETOWNER, (unsigned long)owner) < 0)
		goto fail;
	memcpy(name, request.ifr_name, IFNAMSIZ);
	return fd;
fail:
	error = -errno;
	close(fd);
	return error;
}

int vmm_tap_offload(int32_t fd, uint32_t offloads)
{
	return ioctl(fd, TUNSETOFFLOAD, (unsigned long)offloads) < 0 ? -errno : 0;
}
