/**
 * The chips of the classic PC: what the board itself holds, one chip a file, named after the chip.
 *
 * A chip knows its registers, guest memory if it reads any, the clock, and what its effects leave
 * through: interrupt lines, a backend, a callback. What must not enter: other chips, engines,
 * descriptors, files and sockets of the host, the time of day, and any state that doesn't lie in
 * declared registers. Who wires the chips to one another is the machine; virtio has its own room.
 */
export { DebugPort } from "./debugport.ts";
export { FwCfg, FwCfgRegisters, type FwCfgFile, type FwCfgOptions } from "./fw-cfg.ts";
export { I8253, I8253Registers, type I8253Options } from "./i8253.ts";
export { I8259, I8259Registers } from "./i8259.ts";
export { ISA_DEBUG_EXIT, IsaDebugExit } from "./isa-debug-exit.ts";
export { Mc146818, Mc146818Registers, type BootDevice, type NvramOptions } from "./mc146818.ts";
export { Ns8250, Ns8250Registers } from "./ns8250.ts";
export { HOST_BRIDGE, Pci, PciRegisters } from "./pci.ts";
export {
  type BarChange,
  type BarDefinition,
  type CapabilityDefinition,
  type PciDefinition,
  PciFunction,
  PciFunctionRegisters,
  type PciFunctionRegisterSet,
} from "./pci-function.ts";
export { Port61, Port61Registers } from "./port61.ts";
export { Reset, ResetRegisters } from "./reset.ts";
