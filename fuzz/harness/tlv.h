/* SPDX-License-Identifier: ISC */
#ifndef TLV_H
#define TLV_H

#include <stddef.h>
#include <stdint.h>

/* Reads records of type (1 byte), length (1 byte) and value into a table. Returns how many,
 * or -1 for a record that won't do. */
int tlv_parse(const uint8_t *input, size_t length);

/* Where the planted bug leads. */
void tlv_bug(void);

#endif
