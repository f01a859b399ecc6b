/* SPDX-License-Identifier: ISC */
/*
 * cpuid.c: what the processor says of itself.
 *
 * The offer is what this translator does and no more: no APIC, MTRR, PCID,
 * five-level paging, XSAVE, RDRAND, VMX or SVM. ARCH_CAPABILITIES says that
 * the processor has no Meltdown and none of its relatives, which is true of a
 * translator, and spares the guest a TLB flush at each system call.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "engine.h"

#define BIT(n) (1u << (n))
#define NAME "libunicorn virtual CPU"

/* RDCL_NO, SKIP_VMENTRY_L1DFL, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO,
 * SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO */
#define ARCH_CAPABILITIES 0x400000000d10e179ull

/* SSE3 PCLMUL SSSE3 CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES hypervisor */
#define LEAF_1_ECX                                                                         \
	(BIT(0) | BIT(1) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(22) | BIT(23) |      \
	 BIT(25) | BIT(31))
/* FPU DE PSE TSC MSR PAE CX8 SEP PGE CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2 */
#define LEAF_1_EDX                                                                         \
	(BIT(0) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(11) | BIT(13) | \
	 BIT(15) | BIT(16) | BIT(17) | BIT(19) | BIT(23) | BIT(24) | BIT(25) | BIT(26))
/*
 * TSC_ADJUST SMEP SMAP. Not ERMS: a byte costs here what a quadword does, and kernels would
 * clear pages bytewise. Not BMI: PDEP, PEXT, BZHI and BEXTR give wrong results.
 */
#define LEAF_7_EBX (BIT(1) | BIT(7) | BIT(20))
/* ARCH_CAPABILITIES */
#define LEAF_7_EDX BIT(29)
/* LAHF LZCNT */
#define LEAF_EXT_ECX (BIT(0) | BIT(5))
/* SYSCALL NX RDTSCP LM */
#define LEAF_EXT_EDX (BIT(11) | BIT(20) | BIT(27) | BIT(29))

#define TSC_HZ (TSC_KHZ * 1000)
#define CRYSTAL_HZ 25000000u

/* Family 6, model 26, stepping 5: Nehalem, the last one without AVX's age. */
static const struct kvm_cpuid_entry2 offer[] = {
	{ .function = 0, .eax = 0x16, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69 },
	{ .function = 1, .eax = 0x000106a5, .ebx = 0x00000800,
	  .ecx = LEAF_1_ECX, .edx = LEAF_1_EDX },
	{ .function = 2, .eax = 1 },
	{ .function = 3 },
	{ .function = 4, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX },
	{ .function = 5 },
	{ .function = 6 },
	{ .function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
	  .ebx = LEAF_7_EBX, .edx = LEAF_7_EDX },
	/*
	 * The TSC's frequency as a ratio to a 25 MHz crystal, and the base, highest
	 * and bus frequencies in MHz. Guests that read them calibrate nothing, which
	 * a host that is busy would spoil.
	 */
	{ .function = 0x15, .eax = 1, .ebx = TSC_HZ / CRYSTAL_HZ, .ecx = CRYSTAL_HZ },
	{ .function = 0x16, .eax = TSC_HZ / 1000000, .ebx = TSC_HZ / 1000000, .ecx = 100 },
	{ .function = 0x80000000, .eax = 0x80000008 },
	{ .function = 0x80000001, .ecx = LEAF_EXT_ECX, .edx = LEAF_EXT_EDX },
	{ .function = 0x80000002 },
	{ .function = 0x80000003 },
	{ .function = 0x80000004 },
	{ .function = 0x80000005 },
	{ .function = 0x80000006 },
	{ .function = 0x80000007, .edx = BIT(8) }, /* invariant TSC */
	{ .function = 0x80000008, .eax = 40 | 48 << 8 },
};

#define OFFERED (sizeof(offer) / sizeof(offer[0]))

static const struct kvm_cpuid_entry2 *find(struct vmm *vm, u32 function, u32 index)
{
	for (u32 i = 0; i < vm->cpuid_count; i++) {
		const struct kvm_cpuid_entry2 *entry = &vm->cpuid[i];

		if (entry->function == function &&
		    (!(entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || entry->index == index))
			return entry;
	}
	return NULL;
}

/*
 * A leaf beyond its range answers as the highest basic one does, except on AMD
 * (zeros): Intel SDM vol. 2, CPUID; KVM's get_out_of_range_cpuid_entry.
 */
static const struct kvm_cpuid_entry2 *out_of_range(struct vmm *vm, u32 function, u32 index)
{
	const struct kvm_cpuid_entry2 *basic = find(vm, 0, 0), *range;

	if (!basic || basic->ebx == 0x68747541 /* "Auth" */)
		return NULL;
	if (function >= 0x40000000 && function <= 0x4fffffff)
		range = find(vm, function & 0xffffff00, 0);
	else
		range = find(vm, function & 0x80000000, 0);
	if (range && function <= range->eax)
		return NULL;
	return find(vm, basic->eax, index);
}

INTERPOSED void helper_cpuid_x86_64(void *env)
{
	struct vmm *vm = current;
	u32 function = REG(env, RAX), index = REG(env, RCX);
	const struct kvm_cpuid_entry2 *entry = find(vm, function, index);

	if (!entry)
		entry = out_of_range(vm, function, index);
	REG(env, RAX) = entry ? entry->eax : 0;
	REG(env, RBX) = entry ? entry->ebx : 0;
	REG(env, RCX) = entry ? entry->ecx : 0;
	REG(env, RDX) = entry ? entry->edx : 0;
}

static u32 offered(struct vmm *vm, u32 function, int reg, u32 mask)
{
	const struct kvm_cpuid_entry2 *entry = find(vm, function, 0);

	if (!entry)
		return 0;
	switch (reg) {
	case RBX:
		return entry->ebx & mask;
	case RCX:
		return entry->ecx & mask;
	}
	return entry->edx & mask;
}

/* The translator's own switches, never more than the offer. */
static void set_features(struct vmm *vm)
{
	void *env = vm->env;

	/* Only on Intel's is there SYSENTER in long mode. */
	FIELD(env, ENV_CPUID_VENDOR, u32) = offered(vm, 0, RBX, ~0u);
	FIELD(env, ENV_CPUID_VENDOR + 4, u32) = offered(vm, 0, RDX, ~0u);
	FIELD(env, ENV_CPUID_VENDOR + 8, u32) = offered(vm, 0, RCX, ~0u);
	FEATURE(env, FEATURE_1_EDX) = offered(vm, 1, RDX, LEAF_1_EDX);
	FEATURE(env, FEATURE_1_ECX) = offered(vm, 1, RCX, LEAF_1_ECX);
	FEATURE(env, FEATURE_7_EBX) = offered(vm, 7, RBX, LEAF_7_EBX);
	FEATURE(env, FEATURE_7_ECX) = 0;
	FEATURE(env, FEATURE_7_EDX) = offered(vm, 7, RDX, LEAF_7_EDX);
	FEATURE(env, FEATURE_EXT_EDX) = offered(vm, 0x80000001, RDX, LEAF_EXT_EDX);
	FEATURE(env, FEATURE_EXT_ECX) = offered(vm, 0x80000001, RCX, LEAF_EXT_ECX);
	FEATURE(env, FEATURE_XSAVE) = 0;
	vm->arch_capabilities = FEATURE(env, FEATURE_7_EDX) ? ARCH_CAPABILITIES : 0;
}

static void fill_name(struct kvm_cpuid_entry2 *entry)
{
	char name[48] = NAME;
	u32 words[4];

	if (entry->function < 0x80000002 || entry->function > 0x80000004)
		return;
	memcpy(words, name + 16 * (entry->function - 0x80000002), 16);
	entry->eax = words[0];
	entry->ebx = words[1];
	entry->ecx = words[2];
	entry->edx = words[3];
}

int vmm_supported_cpuid(struct vmm *vm, struct kvm_cpuid_entry2 *entries, uint32_t max)
{
	(void)vm;
	if (max < OFFERED)
		return -E2BIG;
	memcpy(entries, offer, sizeof(offer));
	for (u32 i = 0; i < OFFERED; i++)
		fill_name(&entries[i]);
	return OFFERED;
}

int vmm_set_cpuid(struct vmm *vm, const struct kvm_cpuid_entry2 *entries, uint32_t count)
{
	if (count > CPUID_MAX)
		return -E2BIG;
	memcpy(vm->cpuid, entries, count * sizeof(*entries));
	vm->cpuid_count = count;
	set_features(vm);
	return 0;
}

void cpuid_open(struct vmm *vm)
{
	vm->cpuid_count = vmm_supported_cpuid(vm, vm->cpuid, CPUID_MAX);
	set_features(vm);
}
