/* SPDX-License-Identifier: ISC */
/* Which lists of breakpoints vmm_debug takes, the same for both engines. */
#ifndef VMM_BREAKPOINT_H
#define VMM_BREAKPOINT_H

#include <errno.h>

#include "vmm.h"

/* As many watchpoints as DR6 has bits for. */
#define BREAKPOINT_WATCHES 4u

static inline int breakpoint_check(const struct vmm_breakpoint *list, uint32_t count,
				   uint32_t limit)
{
	if (count > limit)
		return -ENOSPC;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t length = list[i].length;

		if (list[i].kind > VMM_BREAK_ACCESS || !length || length > 8 ||
		    (length & (length - 1)) || (list[i].address & (length - 1)))
			return -EINVAL;
		if (list[i].kind == VMM_BREAK_EXECUTE && length != 1)
			return -EINVAL;
		if (list[i].kind != VMM_BREAK_EXECUTE && i >= BREAKPOINT_WATCHES)
			return -ENOSPC;
	}
	return 0;
}

#endif
