/* SPDX-License-Identifier: ISC */
/*
 * fuzz.c: a fuzzer's run, from the point until something is to be decided outside. Both
 * engines use it, each library with a copy of its own.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

/* Host's bytes into guest memory; what lies nowhere is dropped. */
static void store(struct vmm *vmm, uint64_t gpa, const uint8_t *from, uint64_t length)
{
	while (length) {
		uint64_t part;
		uint8_t *to = fuzz_memory(vmm, gpa, &part);

		if (!to)
			return;
		if (part > length)
			part = length;
		memcpy(to, from, part);
		vmm_written(vmm, gpa, part);
		gpa += part;
		from += part;
		length -= part;
	}
}

static void insert(struct vmm *vmm, const struct vmm_fuzz *fuzz)
{
	const uint8_t *from = (const uint8_t *)(uintptr_t)fuzz->input;
	uint64_t left = fuzz->length, length = fuzz->length;

	for (uint32_t i = 0; left && i < fuzz->segments && i < VMM_FUZZ_SEGMENTS; i++) {
		uint64_t part = fuzz->segment[i].length < left ? fuzz->segment[i].length : left;

		store(vmm, fuzz->segment[i].gpa, from, part);
		from += part;
		left -= part;
	}
	if (fuzz->length_size == 4 || fuzz->length_size == 8)
		store(vmm, fuzz->length_gpa, (const uint8_t *)&length, fuzz->length_size);
	if (fuzz->length_register >= 0 && fuzz->length_register < 16)
		fuzz_set_register(vmm, (uint32_t)fuzz->length_register, length);
}

static int begin(struct vmm *vmm, struct vmm_fuzz *fuzz)
{
	char why[128];
	int pages = fuzz_reset(vmm, !(fuzz->flags & VMM_FUZZ_LIGHT));

	if (pages < 0)
		return pages;
	fuzz->pages = (uint32_t)pages;
	fuzz->check = fuzz->flags & VMM_FUZZ_CHECK && vmm_point_check(vmm, why, sizeof(why));
	vmm_coverage_begin(vmm);
	insert(vmm, fuzz);
	fuzz_begin(vmm, fuzz->budget);
	return 0;
}

/* What an exit is to a fuzzer. */
static enum vmm_fuzz_reason classify(struct vmm *vmm, struct vmm_fuzz *fuzz)
{
	const struct kvm_run *run = vmm_run_page(vmm);

	fuzz->value = 0;
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		if (run->io.direction != KVM_EXIT_IO_OUT || run->io.port != fuzz->port ||
		    run->io.size > 4)
			return VMM_FUZZ_EXIT;
		memcpy(&fuzz->value, (const uint8_t *)run + run->io.data_offset, run->io.size);
		return VMM_FUZZ_PORT;
	case KVM_EXIT_DEBUG:
		fuzz->value = run->debug.arch.pc;
		return VMM_FUZZ_STOP;
	case KVM_EXIT_INTR:
		return fuzz->spent >= fuzz->budget ? VMM_FUZZ_BUDGET : VMM_FUZZ_EXIT;
	case KVM_EXIT_SHUTDOWN:
		return VMM_FUZZ_SHUTDOWN;
	case KVM_EXIT_INTERNAL_ERROR:
	case KVM_EXIT_FAIL_ENTRY:
		return VMM_FUZZ_FAILED;
	}
	return VMM_FUZZ_EXIT;
}

int vmm_fuzz_run(struct vmm *vmm, struct vmm_fuzz *fuzz)
{
	int error = 0;

	if (fuzz->flags & VMM_FUZZ_BEGIN) {
		vmm_coverage_begin(vmm);
		fuzz_begin(vmm, fuzz->budget);
		return 0;
	}
	if (fuzz->flags & VMM_FUZZ_SPENT) {
		fuzz->spent = fuzz_spent(vmm);
		return 0;
	}
	if (!(fuzz->flags & VMM_FUZZ_CONTINUE))
		error = begin(vmm, fuzz);
	if (!error)
		error = vmm_run(vmm);
	if (error)
		return error;
	fuzz->spent = fuzz_spent(vmm);
	fuzz->reason = classify(vmm, fuzz);
	return 0;
}
