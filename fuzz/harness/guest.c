/* SPDX-License-Identifier: ISC */
/* guest.c: tlv.c in a machine of its own. */
#include "tlv.h"
#include "vmd-fuzz.h"

static uint8_t buffer[4096] = { 1 };

void tlv_bug(void)
{
	vmd_fuzz_crash(0xb06);
}

int main(void)
{
	size_t length = vmd_fuzz_ready(buffer, 64);

	tlv_parse(buffer, length);
	vmd_fuzz_done();
	return 0;
}
