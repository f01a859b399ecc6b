/** Whatever a guest does from a point is undone, and done again alike: random states and instructions. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { CPU_LAYOUT } from "../../src/vmm/cpu-codec.ts";
import { resetState } from "../../src/vmm/cpu.ts";
import { Engine, probe } from "../../src/vmm/engine.ts";
import { MachineImage } from "../../src/vmm/image.ts";
import { NativeError } from "../../src/vmm/native.ts";
import { RunEnd } from "../../src/vmm/point.ts";
import type { Case } from "./case.ts";
import { Generator } from "./generate.ts";
import { MEMORY_SIZE, template } from "./layout.ts";

setDefaultTimeout(300_000);
const { available, why } = probe("unicorn");
if (!available) console.log(`points of random guests skipped: ${why}`);
/** VMD_POINT_CASES=100000 for a long run by hand. */
const CASES = Number(process.env.VMD_POINT_CASES ?? 3000);
const SEED = Number(process.env.VMD_POINT_SEED ?? 1);
const HLT = 0xf4;
const TAIL = 16;

class Rig implements Disposable {
  readonly image = new MachineImage([{ base: 0, size: MEMORY_SIZE, readonly: false }]);
  readonly engine = Engine.open("unicorn", this.image, { virtual: true });
  readonly #reset: Uint8Array;

  constructor() {
    this.engine.setCpu(resetState());
    this.#reset = this.engine.cpuBytes().slice();
    new DataView(this.#reset.buffer).setUint32(CPU_LAYOUT.xsaveSize, 0, true);
  }

  /** @returns false for a state that no machine can have */
  prepare(it: Case): boolean {
    const { engine, image } = this;
    const cpu = new Uint8Array(image.cpu.buffer, image.cpu.byteOffset, CPU_LAYOUT.size);
    cpu.set(this.#reset);
    cpu.set(it.state);
    if (it.deep) cpu.set(it.fpu, CPU_LAYOUT.fpu);
    try {
      engine.loadCpu();
    } catch (error) {
      if (error instanceof NativeError) return false;
      throw error;
    }
    const { memory } = image;
    memory.write(0, template(it.mode));
    for (const { at, bytes } of it.patches) memory.write(at, bytes);
    memory.write(it.at, it.code);
    memory.fill(it.at + it.code.length, TAIL, HLT);
    return true;
  }

  /** All that a run's end shows. */
  ending(end: number): string {
    const { engine, image } = this;
    const cpu = Bun.hash(engine.cpuBytes());
    const memory = image.memory.bytes(0, MEMORY_SIZE).map((bytes) => Bun.hash(bytes));
    return `${end} ${engine.run.reason} ${engine.now()} ${cpu} ${memory}`;
  }

  [Symbol.dispose](): void {
    this.engine[Symbol.dispose]();
    this.image[Symbol.dispose]();
  }
}

test.skipIf(!available)(`${CASES} random guests go back to their points`, () => {
  using rig = new Rig();
  const generator = new Generator(SEED);
  let run = 0;
  for (let index = 0; index < CASES; index++) {
    const it = generator.make(index);
    if (!rig.prepare(it)) continue;
    using point = rig.engine.takePoint();
    point.budget = 3000;
    const endings: string[] = [];
    for (let round = 0; round < 3; round++) {
      const end = point.run(0);
      endings.push(rig.ending(end));
      if (end === RunEnd.FAILED) break;
      run++;
      point.reset();
      const difference = point.difference();
      if (difference !== undefined) throw new Error(`case ${index}: ${difference}`);
    }
    for (const ending of endings) {
      if (ending !== endings[0]) throw new Error(`case ${index}: ${endings.join("\n")}`);
    }
  }
  expect(run).toBeGreaterThan(2 * CASES);
});
