// SPDX-License-Identifier: ISC
// Guest memory: slots and their dirty pages.
#include "engine.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

int memory_set_slot(struct vmm *vmm, uint32_t index, bool log)
{
	const struct vmm_slot *slot = &vmm->slot[index];
	struct kvm_userspace_memory_region region = {
		.slot = index,
		.guest_phys_addr = slot->gpa,
		.memory_size = slot->size,
		.userspace_addr = slot->host,
	};

	if (slot->flags & VMM_SLOT_READONLY)
		region.flags |= KVM_MEM_READONLY;
	else if (log)
		region.flags |= KVM_MEM_LOG_DIRTY_PAGES;
	return ioctl(vmm->machine, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
}

int vmm_dirty(struct vmm *vmm, uint32_t slot, uint8_t *bitmap, size_t size)
{
	if (slot >= vmm->slots || vmm->slot[slot].flags & VMM_SLOT_READONLY)
		return -EINVAL;

	uint64_t pages = vmm->slot[slot].size / VMM_PAGE;

	if (vmm->point)
		return -EBUSY;
	if (size < (pages + 63) / 64 * 8)
		return -ENOSPC;
	if (!(vmm->logging & 1u << slot)) {
		int error = memory_set_slot(vmm, slot, true);

		if (error)
			return error;
		vmm->logging |= 1u << slot;
		memset(bitmap, 0, size);
		for (uint64_t page = 0; page < pages; page++)
			bitmap[page / 8] |= (uint8_t)(1u << page % 8);
		return (int)pages;
	}

	struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = bitmap };
	int dirty = 0;

	if (ioctl(vmm->machine, KVM_GET_DIRTY_LOG, &log) < 0)
		return -errno;
	for (size_t i = 0; i < (pages + 7) / 8; i++)
		dirty += __builtin_popcount(bitmap[i]);
	return dirty;
}

int vmm_dirty_end(struct vmm *vmm)
{
	if (vmm->point)
		return -EBUSY;
	for (uint32_t slot = 0; slot < vmm->slots; slot++) {
		if (!(vmm->logging & 1u << slot))
			continue;

		int error = memory_set_slot(vmm, slot, false);

		if (error)
			return error;
		vmm->logging &= ~(1u << slot);
	}
	return 0;
}

// KVM tells nobody what a guest reads.
int vmm_touched_begin(struct vmm *vmm)
{
	(void)vmm;
	return -ENOTSUP;
}

int vmm_touched(struct vmm *vmm, uint32_t slot, uint8_t *bitmap, size_t size)
{
	(void)vmm, (void)slot, (void)bitmap, (void)size;
	return -ENOTSUP;
}

void vmm_touched_end(struct vmm *vmm)
{
	(void)vmm;
}

int vmm_written(struct vmm *vmm, uint64_t gpa, uint64_t length)
{
	// KVM caches no translation of guest code; the write went to the same pages.
	if (vmm->point)
		point_written(vmm, gpa, length);
	return 0;
}
