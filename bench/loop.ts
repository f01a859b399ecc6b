/**
 * The guest of the exit figures: a Multiboot kernel of a few instructions that accesses a device
 * over and over. QEMU's -kernel boots the same bytes.
 *
 * ```
 * again:  mov ecx, count
 *         mov edx, port; mov edi, address
 * 1:      out dx, al                      or mov [edi], al
 *         dec ecx; jnz 1b
 *         out 0xf4, al                    isa-debug-exit: ends QEMU; ours is told to go on
 *         jmp again
 * ```
 */
import { Engine, type EngineName } from "../src/vmm/engine.ts";
import { MachineImage } from "../src/vmm/image.ts";
import { loadKernel } from "../src/vmd/boot/index.ts";
import { ClassicMachine, memoryRanges } from "../src/vmd/machine.ts";
import { Vcpu } from "../src/vmd/vcpu.ts";
import { cpuTime } from "./lib.ts";

/** COM1's scratch register: a device on either side whose write does next to nothing. */
export const SCRATCH_PORT = 0x3ff;
/** The local APIC's page, which the classic machine answers with nothing. */
export const MMIO_ADDRESS = 0xfee00000;

const BASE = 0x100000;
const HEADER = { magic: 0x1badb002, flags: 0x10000, size: 32 };
const MOV_ECX = [0xb9];
const MOV_EDX = [0xba];
const MOV_EDI = [0xbf];
const OUT_DX_AL = [0xee];
const OUT_F4_AL = [0xe6, 0xf4];
const MOV_EDI_AL = [0x88, 0x07];
const DEC_ECX = [0x49];
const JNZ = [0x75];
const JMP = [0xe9];
const MEMORY = 16 * 2 ** 20;

const word = (value: number) => [
  value & 255,
  (value >> 8) & 255,
  (value >> 16) & 255,
  value >>> 24,
];

/** The kernel file. @param access "out" or "mmio". */
export function loopKernel(access: "out" | "mmio", count: number): Uint8Array {
  const instruction = access === "out" ? OUT_DX_AL : MOV_EDI_AL;
  const code = [
    MOV_ECX.concat(word(count)),
    MOV_EDX.concat(word(SCRATCH_PORT)),
    MOV_EDI.concat(word(MMIO_ADDRESS)),
    instruction,
    DEC_ECX.concat(JNZ, 256 - (instruction.length + DEC_ECX.length + 2)),
    OUT_F4_AL,
  ].flat();
  code.push(...JMP, ...word(-(code.length + 5)));
  const { magic, flags, size } = HEADER;
  const checksum = -(magic + flags);
  const addresses = [BASE, BASE, 0, 0, BASE + size];
  return Uint8Array.from([magic, flags, checksum, ...addresses].flatMap(word).concat(code));
}

/** The loop on one of our engines, in the classic machine. Its times are the thread's CPU time. */
export class Loop implements Disposable {
  readonly engine: Engine;
  readonly #image: MachineImage;
  readonly #vcpu: Vcpu;
  readonly #count: number;

  constructor(engine: EngineName, access: "out" | "mmio", count: number) {
    this.#count = count;
    this.#image = new MachineImage(memoryRanges(MEMORY, undefined));
    this.engine = Engine.open(engine, this.#image);
    const machine = new ClassicMachine(this.#image, this.engine, {
      memory: MEMORY,
      epoch: 0,
      debugExit: true,
      output: () => {},
      debug: () => {},
    });
    machine.reset();
    const { memory, e820 } = machine;
    const kernel = loopKernel(access, count);
    const { cpu } = loadKernel({ name: "loop", kernel, memory, e820, format: "multiboot" });
    this.engine.setCpu(cpu);
    this.#vcpu = new Vcpu(this.engine, machine);
  }

  /** Runs the loop once through the vCPU loop and the devices. @returns ns per access. */
  run(): number {
    const start = cpuTime();
    const stop = this.#vcpu.run();
    const took = cpuTime() - start;
    if (stop.kind !== "exit") throw new Error(`the loop ended by ${JSON.stringify(stop)}`);
    return took / this.#count;
  }

  /** The same by other means, which say whether the guest came to its end. */
  runBy(loop: () => boolean): number {
    const start = cpuTime();
    const ended = loop();
    const took = cpuTime() - start;
    if (!ended) throw new Error("the loop in C met an exit that it doesn't know");
    return took / this.#count;
  }

  [Symbol.dispose](): void {
    this.engine[Symbol.dispose]();
    this.#image[Symbol.dispose]();
  }
}
