/** The registers that every virtio device has: its transport's, and where its queues stand. */
import {
  declareRegisters,
  u16,
  u32,
  u8,
  type RegisterLayout,
  type Registers,
} from "../../vmm/registers.ts";

/** No device here has more queues. */
export const QUEUES_MAX = 8;

const declaration = {
  /** Device status, § 2.1. */
  status: u8(0),
  isr: u8(0),
  configGeneration: u8(0),
  deviceFeatureSelect: u32(0),
  driverFeatureSelect: u32(0),
  /** Low and high half of what the driver accepted. */
  driverFeatures: u32.array(2),
  queueSelect: u16(0),
  /** Descriptors; the driver may make it smaller. */
  queueSize: u16.array(QUEUES_MAX),
  queueEnable: u8.array(QUEUES_MAX),
  /** Guest-physical addresses: low half, high half of each queue. */
  descriptors: u32.array(2 * QUEUES_MAX),
  available: u32.array(2 * QUEUES_MAX),
  used: u32.array(2 * QUEUES_MAX),
  /** Of the available ring: the next entry that the device takes. */
  nextAvailable: u16.array(QUEUES_MAX),
  /** Of the used ring: the next entry that it fills. */
  nextUsed: u16.array(QUEUES_MAX),
  /** `nextUsed` when the driver was last told. */
  notifiedUsed: u16.array(QUEUES_MAX),
  /** The driver broke a rule: nothing is taken from the queue until a reset. */
  queueBroken: u8.array(QUEUES_MAX),
};

export const VirtioRegisters: RegisterLayout<typeof declaration> = declareRegisters(
  "virtio",
  declaration,
);

export type VirtioRegisterSet = Registers<typeof declaration>;
