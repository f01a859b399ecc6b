/* SPDX-License-Identifier: ISC */
/* fuzz.h: what fuzz.c asks of the engine that it is built into. */
#ifndef FUZZ_H
#define FUZZ_H

#include "vmm_fuzz.h"

#include <stdbool.h>

#pragma GCC visibility push(hidden)

/* As vmm_point_reset; not `all`: of the image's registers only the clock has changed. */
int fuzz_reset(struct vmm *, bool all);
/* Where guest memory lies in this process, and how much of it follows; NULL: nowhere. */
uint8_t *fuzz_memory(struct vmm *, uint64_t gpa, uint64_t *length);
/* A general register, by its number in instructions' encoding. */
void fuzz_set_register(struct vmm *, uint32_t number, uint64_t value);
/* A run begins that may take so long, by fuzz_spent's measure. */
void fuzz_begin(struct vmm *, double budget);
/* What the run has taken so far. */
double fuzz_spent(struct vmm *);

#pragma GCC visibility pop

#endif
