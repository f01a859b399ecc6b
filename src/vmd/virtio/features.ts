/** Feature bits that belong to no single device: virtio 1.2, chapter 6. Bit 32 and up: see HighFeature. */
export const Feature = {
  INDIRECT_DESC: 2 ** 28,
  EVENT_IDX: 2 ** 29,
} as const;

/** Of the upper 32 bits. */
export const HighFeature = {
  VERSION_1: 2 ** 0,
} as const;
