/* SPDX-License-Identifier: ISC */
#ifndef SANDBOX_H
#define SANDBOX_H

#include <stdbool.h>
#include <stdint.h>

/* Descriptors that a confined process may have: a VM's consoles are some of them. */
#define SANDBOX_DESCRIPTORS 1024

/* The directory of VMM_PROFILE_SHARE and VMM_PROFILE_FUZZER. */
struct sandbox_tree {
	int root;
	bool writable;
};
extern struct sandbox_tree sandbox_tree;

/* Refuses, in every thread from now on, the system calls that a profile
 * (enum vmm_profile) does without. 0 or an errno. */
int sandbox_filter(uint32_t profile);

#endif
