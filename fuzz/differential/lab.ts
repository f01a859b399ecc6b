/** Whether this runs in the lab, where KVM is real and the processor below it QEMU's. */
export const inLab = process.env.VMD_LAB !== undefined;
